"""The data of the convex benchmarks."""

import torch
from torch import Tensor

from ...data import DataNotFound, libsvm

__all__ = ["gaussian", "w8a"]


def gaussian(rows: int, columns: int, support: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian features and a sparse linear target with noise, in float64."""
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    truth = torch.randn(columns, dtype=torch.float64, generator=generator)
    truth[support:] = 0
    return design, design @ truth + noise * torch.randn(rows, dtype=torch.float64, generator=generator)


def w8a() -> tuple[Tensor, Tensor] | None:
    """All of w8a, in the CSR layout, with labels -1 and 1; None where it cannot be had."""
    try:
        train = libsvm("w8a", validation=0.0, test=0.0, dense=False, dtype=torch.float64).train
    except DataNotFound:
        return None
    return train.inputs, train.targets.double() * 2 - 1
