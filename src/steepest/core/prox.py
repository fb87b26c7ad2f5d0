r"""Proximal operators and projections as plain functions of tensors.

Each solves :math:`\arg\min_z t\,g(z) + \tfrac12 \|z - x\|^2` for one function :math:`g`; ``scale`` is the factor
:math:`t` (step size times weight), a number >= 0 or a 0-dim tensor. A projection is the prox of the indicator of a set
and has no factor. All are differentiable almost everywhere, by ``x`` and by the numbers that are tensors. ``dim`` is
the dimension whose slices are vectors of their own; ``None`` takes the tensor as one vector.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from steepest.core.envelope import group_sparse_envelope
from steepest.core.groups import Groups
from steepest.core.variation import total_variation

__all__ = [
    "affine",
    "box",
    "elastic_net",
    "group_l2",
    "group_sparse_envelope",
    "groups_l2",
    "halfspace",
    "l1",
    "l1_ball",
    "l2_ball",
    "linf_ball",
    "nonnegative",
    "nuclear",
    "nuclear_ball",
    "simplex",
    "sparse_group",
    "squared_l2",
    "total_variation",
]


def l1(x: Tensor, scale: float | Tensor) -> Tensor:
    """Soft thresholding: the prox of ``scale * |x|_1``. ``scale`` may be a tensor that broadcasts against ``x``."""
    _check("scale", scale)
    return torch.sign(x) * (x.abs() - scale).clamp_min(0)


def group_l2(x: Tensor, scale: float | Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Block soft thresholding: the prox of ``scale`` times the sum of Euclidean norms over ``dim``."""
    _check("scale", scale)
    return x * _shrink(torch.linalg.vector_norm(x, dim=dim, keepdim=True), scale)


def groups_l2(x: Tensor, scale: float | Tensor, groups: Groups) -> Tensor:
    """The prox of the sum of ``scale`` times the Euclidean norm of each group; ``scale`` may be one per group."""
    _check("scale", scale)
    return x * groups.spread(_shrink(groups.norms(x), scale), x)


def sparse_group(x: Tensor, l1_scale: float | Tensor, group_scale: float | Tensor, groups: Groups) -> Tensor:
    """The prox of ``l1_scale * |x|_1`` plus that of :func:`groups_l2`: first one, then the other (Friedman, Hastie and
    Tibshirani 2010)."""
    return groups_l2(l1(x, l1_scale), group_scale, groups)


def elastic_net(x: Tensor, l1_scale: float | Tensor, l2_scale: float | Tensor) -> Tensor:
    """The prox of ``l1_scale * |x|_1 + l2_scale * |x|^2 / 2``."""
    return squared_l2(l1(x, l1_scale), l2_scale)


def squared_l2(x: Tensor, scale: float | Tensor) -> Tensor:
    """Shrinkage: the prox of ``scale * |x|^2 / 2``."""
    _check("scale", scale)
    return x / (1 + scale)


def nuclear(x: Tensor, scale: float | Tensor) -> Tensor:
    """Soft thresholding of the singular values of matrices ``(..., m, n)``: the prox of ``scale`` times their sum.

    Its derivative (once) is exact where singular values coincide or vanish, where that of an SVD is not finite.
    """
    _check("scale", scale)
    _matrices(x)
    threshold = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    result: Tensor = _SingularThreshold.apply(x, threshold.expand(x.shape[:-2]))
    return result


def nonnegative(x: Tensor) -> Tensor:
    """The projection onto the vectors without negative entries."""
    return x.clamp_min(0)


def box(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """The projection onto ``low <= x <= high``; bounds broadcast against ``x`` and may be infinite."""
    return torch.minimum(torch.maximum(x, _like(low, x)), _like(high, x))


def simplex(x: Tensor, total: float | Tensor = 1.0, dim: int | None = -1) -> Tensor:
    """The projection onto the vectors without negative entries whose sum is ``total``, by sorting.

    Source: M. Held, P. Wolfe and H. Crowder (1974), "Validation of subgradient optimization", Mathematical Programming
    6, 62-88.
    """
    _check("total", total)
    if dim is None:
        return simplex(x.reshape(-1), total).reshape(x.shape)
    return (x - _level(x, total, dim)).clamp_min(0)


def l1_ball(x: Tensor, radius: float | Tensor = 1.0, dim: int | None = None) -> Tensor:
    """The projection onto ``|x|_1 <= radius``: soft thresholding at the level that the simplex gives."""
    _check("radius", radius)
    if dim is None:
        return l1_ball(x.reshape(-1), radius, -1).reshape(x.shape)
    size = x.abs()
    outside = size.sum(dim, keepdim=True) > radius
    level = torch.where(outside, _level(size, radius, dim), 0.0)
    return torch.where(outside, torch.sign(x) * (size - level).clamp_min(0), x)


def l2_ball(x: Tensor, radius: float | Tensor = 1.0, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """The projection onto ``|x|_2 <= radius``."""
    _check("radius", radius)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    outside = norm > radius
    return x * torch.where(outside, radius / torch.where(outside, norm, 1.0), 1.0)


def linf_ball(x: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """The projection onto ``|x|_inf <= radius``."""
    _check("radius", radius)
    return box(x, -_like(radius, x), radius)


def affine(x: Tensor, matrix: Tensor, offset: Tensor, inverse: Tensor | None = None) -> Tensor:
    """The projection of the vectors ``(..., n)`` onto ``matrix @ x == offset``; with inconsistent equations, onto
    their least-squares solutions.

    Args:
        x: the points.
        matrix: ``(m, n)``, of any rank.
        offset: ``(m,)``.
        inverse: the pseudo-inverse of ``matrix``, where it is known.
    """
    inverse = torch.linalg.pinv(matrix) if inverse is None else inverse
    return x - (x @ matrix.mT - offset) @ inverse.mT


def halfspace(x: Tensor, normal: Tensor, offset: float | Tensor) -> Tensor:
    """The projection onto ``<normal, x> <= offset``, for a ``normal`` of the shape of ``x`` that is not zero."""
    excess = ((normal * x).sum() - offset).clamp_min(0)
    return x - (excess / normal.square().sum()) * normal


def nuclear_ball(x: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """The projection of matrices ``(..., m, n)`` onto those whose singular values have a sum of at most ``radius``."""
    _check("radius", radius)
    _matrices(x)
    values = torch.linalg.svdvals(x)
    outside = values.sum(-1) > radius
    level = torch.where(outside, _level(values, radius, -1)[..., 0], 0.0)
    result: Tensor = _SingularThreshold.apply(x, level)
    return torch.where(outside[..., None, None], result, x)


def _check(name: str, value: float | Tensor) -> None:
    # A tensor is not looked at: on an accelerator that would wait for it.
    if not isinstance(value, Tensor) and not value >= 0:
        raise ValueError(f"{name} must be a number >= 0, got {value!r}")


def _matrices(x: Tensor) -> None:
    if x.dim() < 2:
        raise ValueError(f"a matrix is needed, got a tensor with {x.dim()} dimensions")


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def _shrink(norm: Tensor, scale: float | Tensor) -> Tensor:
    """``max(0, 1 - scale / norm)``, whose derivative is finite at zero."""
    scale = _like(scale, norm)
    above = norm > scale
    return torch.where(above, 1 - torch.where(above, scale, 0.0) / torch.where(above, norm, 1.0), (scale == 0).to(norm))


def _level(x: Tensor, total: float | Tensor, dim: int) -> Tensor:
    """The number ``l``, for each slice along ``dim``, with ``sum max(0, x - l) == total``."""
    falling = x.movedim(dim, -1).sort(-1, descending=True).values
    count = torch.arange(1, falling.shape[-1] + 1, dtype=x.dtype, device=x.device)
    levels: Tensor = (falling.cumsum(-1) - _like(total, x)) / count
    active = (falling > levels).sum(-1, keepdim=True).clamp_min(1)  # none is above with a total of zero
    return levels.gather(-1, active - 1).movedim(-1, dim)


class _SingularThreshold(torch.autograd.Function):
    """Soft thresholding of singular values, with the derivative of a spectral function.

    With ``H`` the change of ``X = U S V'`` and ``P = U'HV``, the change of ``U f(S) V'`` has the symmetric part of
    ``P`` times ``(f_i - f_j) / (s_i - s_j)``, the skew part times ``(f_i + f_j) / (s_i + s_j)``, and what is outside of
    both bases times ``f_i / s_i``. With ``f(s) = max(0, s - t)`` none of them is unbounded. The map is its own adjoint.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        ctx.save_for_backward(u, s, vh, threshold)
        result: Tensor = (u * (s - threshold[..., None]).clamp_min(0)[..., None, :]) @ vh
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        u, s, vh, threshold = ctx.saved_tensors
        t = threshold[..., None]
        f, active = (s - t).clamp_min(0), s > t
        p = u.mT @ g @ vh.mT
        row, column = (..., slice(None), None), (..., None, slice(None))
        both, one = active[row] & active[column], active[row] ^ active[column]
        rise, run = f[row] - f[column], s[row] - s[column]
        symmetric = torch.where(one, rise / torch.where(one, run, 1.0), both.to(s.dtype))
        total, zero = s[row] + s[column], (t == 0).to(s.dtype)
        positive = total > 0
        skew = torch.where(positive, (f[row] + f[column]) / torch.where(positive, total, 1.0), zero[..., None])
        middle = 0.5 * (symmetric * (p + p.mT) + skew * (p - p.mT))
        ratio = torch.where(s > 0, f / torch.where(s > 0, s, 1.0), zero)
        left = (g @ vh.mT - u @ p) * ratio[column]  # what leaves the left basis
        right = ratio[row] * (u.mT @ g - p @ vh)
        by_x = u @ middle @ vh + left @ vh + u @ right
        by_t = -(torch.diagonal(p, dim1=-2, dim2=-1) * active).sum(-1)
        return by_x, by_t
