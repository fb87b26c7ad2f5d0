r"""Inverse p-th roots of symmetric positive semidefinite matrices: exactly, and by matrix products alone.

For :math:`A = V \operatorname{diag}(w) V^\top` both compute

.. math:: (A + \varepsilon \lambda_{\max} I)^{-1/p} = V \operatorname{diag}(w_i + \varepsilon \max_j w_j)^{-1/p} V^\top

The ridge is relative, so that the root of :math:`cA` is :math:`c^{-1/p}` times the root of :math:`A`. A zero matrix
gives zero: no direction has been seen, so none is preferred. A matrix with a NaN or an infinity gives NaN.
"""

import functools

import torch
from torch import Tensor

from .orthogonal import polar_express_coefficients

__all__ = ["inverse_root", "inverse_root_by_products"]

#: Singular values are iterated until they are this close to one.
_CLOSE = {torch.float32: 1e-7, torch.float64: 1e-15}
#: No float32 product tells eigenvalues apart that are smaller than this share of the largest.
_SMALLEST_RIDGE = {torch.float32: 1e-7, torch.float64: 1e-15}
_MARGIN = 1.02


def inverse_root(a: Tensor, p: float, eps: float = 0.0, dtype: torch.dtype = torch.float64) -> Tensor:
    r"""The inverse p-th root by an eigenvalue decomposition.

    Eigenvalues are clamped at zero, where rounding leaves those of a rank-deficient matrix on either side of it.
    Without a ridge, directions with eigenvalues of at most the machine precision of ``a`` times its size times the
    largest are left out: the root of the pseudo-inverse.

    Accuracy: relative to the root of the smallest eigenvalue, about the machine precision of ``dtype`` times
    :math:`\lambda_{\max} / (\lambda_{\min} + \varepsilon\lambda_{\max})`. That is why it decomposes in float64 by
    default, also for float32 matrices: in float32, eigenvalues below a millionth of the largest are noise.

    Args:
        a: symmetric positive semidefinite matrices ``(..., n, n)``; the lower triangle is read.
        p: the order of the root, positive.
        eps: the ridge relative to the largest eigenvalue, :math:`\ge 0`.
        dtype: in which to decompose.

    Returns:
        Symmetric matrices like ``a``.
    """
    finite = torch.isfinite(a).all(-1, keepdim=True).all(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(finite, a, 0.0).to(dtype))
    values = values.clamp_min(0)
    largest = values[..., -1:]
    tolerance = 0.0 if eps else a.shape[-1] * torch.finfo(a.dtype).eps
    keep = values + eps * largest > tolerance * largest
    powers = torch.where(keep, torch.where(keep, values + eps * largest, 1.0) ** (-1.0 / p), 0.0)
    root: Tensor = (vectors * powers.unsqueeze(-2)) @ vectors.mT
    return torch.where(finite, root.to(a.dtype), torch.nan)


def inverse_root_by_products(a: Tensor, p: int, eps: float = 1e-6) -> Tensor:
    r"""The inverse p-th root by coupled iterations of matrix products, for devices that decompose slowly.

    With the matrix scaled to :math:`\|A\| \le 1`, :math:`Y_0 = A`, :math:`Z_0 = I` and odd polynomials
    :math:`x (a + bx^2 + cx^4)` that drive :math:`(0, 1]` to one (see :mod:`~steepest.core.orthogonal`),

    .. math:: T = Z Y, \quad Y \leftarrow Y (aI + bT + cT^2), \quad Z \leftarrow (aI + bT + cT^2) Z

    lead to :math:`Y = A^{1/2}` and :math:`Z = A^{-1/2}`. The inverse fourth root is the inverse square root of
    :math:`A^{1/2}`, whose condition number is the root of that of :math:`A`; and so on.

    The number of polynomials follows from ``eps``, not from the matrices, so nothing waits for the device. At
    ``eps=1e-6`` and n = 128 an inverse fourth root takes 54 products, which on two CPU cores is two to three times
    slower than the decomposition in float64.

    Accuracy, Frobenius norm relative to the root's, whatever the condition number: in float32 ``2e-2`` at ``eps=1e-6``
    and ``3e-4`` at ``1e-4`` (a decomposition in float32: ``4e-2`` and ``1e-3``); in float64 ``1e-6``. Power iteration
    finds the largest eigenvalue; in a cluster it ends about a percent below it, and so does the ridge.

    Args:
        a: symmetric positive semidefinite matrices ``(..., n, n)``, float32 or float64.
        p: the order of the root: a power of two from 2 on.
        eps: the ridge relative to the largest eigenvalue; at least the precision of the dtype.

    Raises:
        ValueError: ``p`` is no such power, or ``eps`` is below the precision.
    """
    if p < 2 or p & (p - 1):
        raise ValueError(f"p must be a power of two from 2 on, got {p!r}; use inverse_root for others")
    if not eps >= _SMALLEST_RIDGE[a.dtype]:
        raise ValueError(f"eps must be at least {_SMALLEST_RIDGE[a.dtype]:g} for {a.dtype}, got {eps!r}")
    size = a.shape[-1]
    # By the trace first, between the largest eigenvalue and n times it: squares can neither overflow nor vanish.
    trace = a.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    nonzero = trace != 0
    y = a / torch.where(nonzero, trace, 1.0)
    fourth = y @ y
    fourth = fourth @ fourth
    y = y + eps * _largest_eigenvalue(y, fourth) * torch.eye(size, dtype=a.dtype, device=a.device)
    # ||A^4||_F^(1/4) is between the largest eigenvalue and n^(1/8) times it; the margin holds the ridge and rounding.
    bound = _MARGIN * torch.linalg.matrix_norm(fourth, keepdim=True) ** 0.25
    bound = torch.where(nonzero, bound, 1.0)
    y = y / bound
    lower = (eps / (_MARGIN * size**0.125)) ** 0.5
    order = p
    while order > 1:
        root, z = _square_roots(y, lower)
        y, lower, order = root, lower**0.5, order // 2
    return torch.where(nonzero, z * (torch.where(nonzero, trace, 1.0) * bound) ** (-1.0 / p), 0.0)


def _largest_eigenvalue(a: Tensor, fourth: Tensor) -> Tensor:
    """By power iteration with the fourth power, from the squared norms of the columns.

    At most about a percent too small after what amounts to 80 steps, which makes the ridge as much smaller.
    """
    vector = a.square().sum(-1, keepdim=True)
    for _ in range(20):
        vector = fourth @ vector
        length = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
        vector = vector / torch.where(length > 0, length, 1.0)
    return (vector * (a @ vector)).sum(-2, keepdim=True)


@functools.cache
def _polynomials(lower: float, close: float) -> tuple[tuple[float, float, float], ...]:
    """As many polynomials as take ``[lower, 1]`` to within ``close`` of one."""
    for steps in range(1, 40):
        found = polar_express_coefficients(lower, steps)
        low = lower
        for a, b, c in found:
            low = a * low + b * low**3 + c * low**5
        if 1 - low <= close:
            break
    return found


def _square_roots(y: Tensor, lower: float) -> tuple[Tensor, Tensor]:
    """``(Y^(1/2), Y^(-1/2))`` of matrices with eigenvalues in ``[lower^2, 1]``."""
    z = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device).expand_as(y)
    for index, (a, b, c) in enumerate(_polynomials(lower, _CLOSE[y.dtype])):
        t = z @ y if index else y
        factor = b * t + c * (t @ t)
        y, z = a * y + y @ factor, a * z + factor @ z
    return y, z
