r"""Proximal operators as plain functions of tensors.

Each solves :math:`\arg\min_z t\,g(z) + \tfrac12 \|z - x\|^2` for one function :math:`g`; ``scale`` is the factor
:math:`t` (step size times weight).
"""

import torch
from torch import Tensor

__all__ = ["group_l2", "l1"]


def l1(x: Tensor, scale: float | Tensor) -> Tensor:
    """Soft thresholding: the prox of ``scale * |x|_1``. ``scale`` may be a tensor that broadcasts against ``x``."""
    return torch.sign(x) * (x.abs() - scale).clamp_min(0)


def group_l2(x: Tensor, scale: float | Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Block soft thresholding: the prox of ``scale`` times the sum of Euclidean norms over ``dim``."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x * (1 - scale / norm.clamp_min(torch.finfo(x.dtype).tiny)).clamp_min(0)
