"""Random projections from few numbers to many: the matrix products alone, without the matrix where possible."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.core.hadamard import walsh_hadamard
from steepest.core.random import generator

__all__ = ["DenseProjection", "FastfoodProjection", "Kind", "Projection", "SparseProjection", "project"]

Kind = Literal["dense", "sparse", "fastfood"]


class Projection(nn.Module):
    """A fixed linear map from ``(columns,)`` to ``(rows,)``; its numbers are buffers that are not saved."""

    def keep(self, **buffers: Tensor) -> None:
        """Register the numbers."""
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)


class DenseProjection(Projection):
    """A matrix as it stands."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.keep(matrix=matrix)

    def forward(self, z: Tensor) -> Tensor:
        """P z."""
        return self.matrix @ z


class SparseProjection(Projection):
    """As many entries in every column, each in a part of the rows of its own, of random sign."""

    places: Tensor
    values: Tensor

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, source: torch.Generator) -> None:
        super().__init__()
        count = max(1, round(math.sqrt(rows)))
        bounds = torch.arange(count + 1) * rows // count
        drawn = torch.rand(columns, count, generator=source, dtype=torch.float64)
        places = bounds[:-1] + (drawn * bounds.diff()).long()
        signs = 2 * torch.randint(0, 2, (columns, count), generator=source) - 1
        self.keep(places=places.flatten(), values=signs.to(dtype) / math.sqrt(count))
        self.rows = rows

    def forward(self, z: Tensor) -> Tensor:
        """P z."""
        return z.new_zeros(self.rows).index_add(0, self.places, (self.values * z[:, None]).flatten())


class FastfoodProjection(Projection):
    """The first rows of ``H G Pi H B``, with columns of norm one on average over the rows that are cut off."""

    signs: Tensor
    order: Tensor
    gains: Tensor

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, source: torch.Generator) -> None:
        super().__init__()
        size = 1 << (max(rows, columns) - 1).bit_length()
        gains = torch.randn(size, generator=source).to(dtype)
        self.keep(
            signs=(2 * torch.randint(0, 2, (columns,), generator=source) - 1).to(dtype),
            order=torch.randperm(size, generator=source),
            gains=gains / (math.sqrt(rows) * torch.linalg.vector_norm(gains)),
        )
        self.rows = rows

    def forward(self, z: Tensor) -> Tensor:
        """P z."""
        padded = functional.pad(self.signs * z, (0, len(self.order) - len(z)))
        mixed = self.gains * walsh_hadamard(padded).index_select(0, self.order)
        return walsh_hadamard(mixed)[: self.rows]


def project(kind: Kind | Tensor, rows: int, columns: int, dtype: torch.dtype, keys: tuple[int, ...]) -> Projection:
    """The projection of a kind; equal keys give equal ones on every device."""
    if isinstance(kind, Tensor):
        return DenseProjection(kind.to(dtype))
    source = generator(torch.device("cpu"), "subspace", kind, *keys)
    if kind == "sparse":
        return SparseProjection(rows, columns, dtype, source)
    if kind == "fastfood":
        return FastfoodProjection(rows, columns, dtype, source)
    matrix = torch.randn(rows, columns, generator=source).to(dtype)
    return DenseProjection(matrix / torch.linalg.vector_norm(matrix, dim=0))
