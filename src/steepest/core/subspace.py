"""Parts of a matrix that a method keeps its state of: random columns or entries, and leading singular vectors."""

import torch
from torch import Tensor

from .random import generator

__all__ = ["down", "drawn", "leading", "rest", "share", "up"]


def share(size: int, density: float) -> int:
    """How many of ``size`` things are kept: the nearest number, but at least one unless the density is 0."""
    return min(size, max(1, round(size * density))) if density else 0


def drawn(size: int, count: int, like: Tensor, seed: int, period: int) -> Tensor:
    """Which of ``size`` columns (or entries) of a matrix are kept in a period.

    Drawn on the CPU from the keys and the matrix's shape, so that every device and process has the same.
    """
    source = generator(torch.device("cpu"), seed, period, *like.shape[-2:])
    return torch.randperm(size, generator=source)[:count].to(like.device)


# Singular vectors are those of the shorter side: right ones as rows where a matrix has no fewer rows than columns, else
# left ones as columns. Matrices may be stacked.


def leading(g: Tensor, rank: int) -> Tensor:
    """The leading singular vectors of the shorter side: ``(rank, columns)`` or ``(rows, rank)``."""
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    found: Tensor = vh[..., :rank, :] if _is_tall(g) else u[..., :rank]
    return found


def down(g: Tensor, basis: Tensor) -> Tensor:
    """The coordinates of a matrix: ``(rows, rank)`` or ``(rank, columns)``."""
    return g @ basis.mT if _is_tall(g) else basis.mT @ g


def up(low: Tensor, basis: Tensor) -> Tensor:
    """The matrix with these coordinates; the transpose of :func:`down`."""
    return low @ basis if low.shape[-1] == basis.shape[-2] else basis @ low


def rest(g: Tensor, low: Tensor, basis: Tensor) -> Tensor:
    """What the singular vectors leave of a matrix with the coordinates ``low``; 0 where that is its rounding error.

    A sign would make whole steps of rounding errors.
    """
    left = g - up(low, basis)
    size = torch.linalg.vector_norm(g, dim=-1 if _is_tall(g) else -2).amax(-1)[..., None, None]
    return torch.where(left.abs() <= 16 * torch.finfo(g.dtype).eps * size, torch.zeros_like(left), left)


def _is_tall(g: Tensor) -> bool:
    return g.shape[-2] >= g.shape[-1]
