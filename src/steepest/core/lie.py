r"""Preconditioners that live in Lie groups, fitted to pairs of vectors by multiplicative updates.

A preconditioner :math:`P = Q^\top Q` is fitted to pairs :math:`(v, h)` by minimizing
:math:`\mathbb E[h^\top P h + v^\top P^{-1} v]` over :math:`Q` in a group. With :math:`v \sim \mathcal N(0, I)` and
:math:`h = Hv` the minimum is :math:`P = |H|^{-1}`; with :math:`h` independent of :math:`v` (a gradient) it is
:math:`P = (\mathbb E\, hh^\top)^{-1/2}`. A step is :math:`Q \leftarrow Q - \frac{\mu}{L} E\, Q` where :math:`E` is the
projection of :math:`aa^\top - bb^\top` onto the group's algebra, :math:`a = Qh`, :math:`b = Q^{-\top} v`, and :math:`L`
a running estimate of the criterion's curvature, so that :math:`\mu < 1` has no unit and :math:`Q` stays in the
connected part of the group. Everything here is a pure function; ``*_map`` is :math:`Qh`, ``*_pull`` is
:math:`Q^{-\top}v`, ``*_apply`` is :math:`Pg` and ``*_fit`` is one step.

Three groups: Kronecker products of triangular matrices (diagonal for large dimensions), low rank plus diagonal, and
"X": a diagonal plus an anti-diagonal.

Sources: Li (2015), Preconditioned Stochastic Gradient Descent, arXiv 1512.04202; Li (2024), Stochastic Hessian Fittings
with Lie Groups, arXiv 2402.11858; Pooladzandi, Li (2024), Curvature-Informed SGD via General Purpose Lie-Group
Preconditioners, arXiv 2402.04553.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .orthogonal import fast_dtype

__all__ = [
    "initial_scale",
    "kron_apply",
    "kron_fit",
    "kron_map",
    "kron_pull",
    "kron_shape",
    "kron_start",
    "largest_eigenvalue",
    "lra_apply",
    "lra_fit",
    "lra_map",
    "lra_pull",
    "xmat_apply",
    "xmat_fit",
    "xmat_map",
    "xmat_pull",
]

#: Dense factors of at least this size are multiplied in bfloat16 where that is asked for; below, casting costs more.
FAST_FROM = 128


def initial_scale(h: Tensor, v: Tensor | None = None) -> Tensor:
    r"""The multiple of the identity to begin with: :math:`Q = (\overline{v^2})^{1/4} (\overline{h^4})^{-1/8}`.

    The fourth moment errs on the side of a small preconditioner. Without ``v`` its mean square counts as 1, its mean.
    One where ``h`` is zero.
    """
    largest = h.abs().amax()
    unit = torch.where(largest > 0, largest, 1.0)  # h^4 itself would underflow in float32
    quartic = (h / unit).square().square().mean()
    scale = torch.where(quartic > 0, quartic, 1.0).pow(-0.125) * unit.rsqrt()
    return scale if v is None else scale * v.square().mean().pow(0.25)


def largest_eigenvalue(a: Tensor, iterations: int = 4) -> Tensor:
    """A lower bound of the largest eigenvalue of a positive semidefinite matrix, by power iteration from a row.

    It begins with the row of the largest norm, so that it does not start orthogonal to what it looks for.
    """
    peak = a.diagonal().amax()
    unit = torch.where(peak > 0, peak, 1.0)
    a = a / unit
    x = a.index_select(0, a.square().sum(1).argmax().reshape(1)).reshape(-1)
    for _ in range(iterations):
        x = a @ (x / _size(x))
    bound: Tensor = unit * torch.linalg.vector_norm(x)
    return bound


def _size(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x)
    return size.clamp_min(torch.finfo(x.dtype).tiny)


def _bounded(old: Tensor, seen: Tensor, beta: float) -> Tensor:
    """The running curvature: at least what is seen now, and falling slowly."""
    return torch.maximum(beta * old + (1 - beta) * seen, seen)


def _rate(step: float, curvature: Tensor) -> Tensor:
    return step / torch.where(curvature > 0, curvature, 1.0)


# ------------------------------------------------------------------------------------------------ Kronecker products


def kron_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The dimensions that have a factor: those of more than one entry (one dimension of one entry if there is none)."""
    return tuple(n for n in shape if n > 1) or (1,)


def kron_start(like: Tensor, scale: float, max_size: int, max_skew: float) -> list[Tensor]:
    """The factors of ``scale`` times the identity; a vector stands for a diagonal factor.

    A dimension of size n gets a triangular factor where ``n <= max_size`` and ``n^2 <= max_skew * elements``, that is,
    where the factor is at most ``max_skew`` times as large as the tensor, else a diagonal one.
    """
    shape = kron_shape(like.shape)
    each = scale ** (1 / len(shape))
    factors = []
    for n in shape:
        if 1 < n <= max_size and n * n <= max_skew * like.numel():
            factors.append(each * torch.eye(n, dtype=like.dtype, device=like.device))
        else:
            factors.append(torch.full((n,), each, dtype=like.dtype, device=like.device))
    return factors


def kron_map(factors: Sequence[Tensor], h: Tensor) -> Tensor:
    """:math:`Qh`, for ``h`` of shape :func:`kron_shape`."""
    for dim, q in enumerate(factors):
        h = _along(h, q, dim)
    return h


def kron_pull(factors: Sequence[Tensor], v: Tensor) -> Tensor:
    r""":math:`Q^{-\top}v`."""
    for dim, q in enumerate(factors):
        if q.dim() == 1:
            v = _along(v, 1 / q, dim)
        elif dim == v.dim() - 1:
            flat = v.reshape(-1, v.shape[-1])
            v = torch.linalg.solve_triangular(q, flat, upper=True, left=False).reshape(v.shape)
        else:
            columns = v.movedim(dim, 0)
            solved = torch.linalg.solve_triangular(q.mT, columns.reshape(len(q), -1), upper=False)
            v = solved.reshape(columns.shape).movedim(0, dim)
    return v


def kron_apply(factors: Sequence[Tensor], g: Tensor, fast: bool = False) -> Tensor:
    """:math:`Pg` by matrix products alone; ``fast``: those of large factors in bfloat16 where the device has them.

    Rounding an entry of a factor relative to itself does no harm to what a diagonal scaling makes ill-conditioned, only
    to condition numbers beyond some hundreds that remain after the best scaling.
    """
    t = g
    for dim, q in enumerate(factors):
        if q.dim() == 2:
            own = fast_dtype(q) if fast and len(q) >= FAST_FROM else g.dtype
            q, t = q.to(own), t.to(own)
            t = _along(t, q.mT @ q, dim)  # symmetric, and smaller than the tensor
    for dim, q in enumerate(factors):
        if q.dim() == 1:
            t = _along(t, q * q, dim)  # in the dtype of q
    return t.to(g.dtype)


def kron_fit(
    factors: Sequence[Tensor], curvature: Tensor, v: Tensor, h: Tensor, *, step: float, beta: float
) -> tuple[list[Tensor], Tensor]:
    r"""One step: :math:`Q_i \leftarrow Q_i - \frac{\mu}{L_i} \operatorname{triu}(A_i A_i^\top - B_i B_i^\top) Q_i`.

    :math:`A_i, B_i` are :math:`Qh` and :math:`Q^{-\top}v` unfolded along dimension :math:`i`, and :math:`L_i` follows
    :math:`\|A_i A_i^\top + B_i B_i^\top\|`. The factors come back with equal largest entries, which changes neither
    :math:`P` nor any later step and keeps them in the range of their dtype.

    Args:
        factors: upper triangular matrices and vectors.
        curvature: :math:`L`, of shape (dimensions,); zero at first.
        v, h: the pair, of shape :func:`kron_shape`.
        step: :math:`\mu` in (0, 1).
        beta: decay of :math:`L`; 0 takes the present pair's alone.
    """
    a, b = kron_map(factors, h), kron_pull(factors, v)
    fitted, bounds = [], []
    for dim, q in enumerate(factors):
        left, right = _gram(a, dim, q.dim()), _gram(b, dim, q.dim())
        seen = (left + right).amax() if q.dim() == 1 else largest_eigenvalue(left + right)
        bounds.append(_bounded(curvature[dim], seen, beta))
        error = _rate(step, bounds[-1]) * (left - right)
        fitted.append(q - (error * q if q.dim() == 1 else error.triu() @ q))
    return _balanced(fitted), torch.stack(bounds)


def _along(t: Tensor, q: Tensor, dim: int) -> Tensor:
    """A matrix (or a diagonal, as a vector) applied along one dimension."""
    if q.dim() == 1:
        return t * q.reshape(-1, *[1] * (t.dim() - 1 - dim))
    if dim == t.dim() - 1:
        return t @ q.mT
    if t.dim() == 2:  # as a product of matrices, which may be faster than a batch of one
        return q @ t
    return (q @ t.reshape(-1, len(q), math.prod(t.shape[dim + 1 :]))).reshape(t.shape)


def _gram(t: Tensor, dim: int, order: int) -> Tensor:
    """The Gram matrix of the unfolding along ``dim``, or its diagonal."""
    rows = t.movedim(dim, 0).reshape(t.shape[dim], -1)
    return rows.square().sum(1) if order == 1 else rows @ rows.mT


def _balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    if len(factors) == 1:
        return list(factors)
    logs = torch.stack([q.abs().amax().clamp_min(torch.finfo(q.dtype).tiny).log() for q in factors])
    scales = (logs.mean() - logs).exp()
    return [q * scales[k] for k, q in enumerate(factors)]


# ------------------------------------------------------------------------------------------------ low rank, diagonal


def lra_map(left: Tensor, right: Tensor, diagonal: Tensor, h: Tensor) -> Tensor:
    r""":math:`Qh` for :math:`Q = (I + UV^\top) \operatorname{diag}(s)`: ``left`` U and ``right`` V are (d, r)."""
    h = diagonal * h
    return h + left @ (right.mT @ h)


def lra_pull(left: Tensor, right: Tensor, diagonal: Tensor, v: Tensor) -> Tensor:
    r""":math:`Q^{-\top}v`, by one r x r system."""
    v = v / diagonal
    return v - right @ _solve(_core(left, right).mT, left.mT @ v)


def lra_apply(left: Tensor, right: Tensor, diagonal: Tensor, g: Tensor) -> Tensor:
    """:math:`Pg`."""
    g = lra_map(left, right, diagonal, g)
    return diagonal * (g + right @ (left.mT @ g))


def lra_fit(
    left: Tensor,
    right: Tensor,
    diagonal: Tensor,
    curvature: Tensor,
    v: Tensor,
    h: Tensor,
    *,
    step: float,
    beta: float,
    side: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""One step on the diagonal and on U (``side=0``) or V (``side=1``), which must not be moved together.

    .. math::
        s &\leftarrow s - \tfrac{\mu}{L_s} (h \cdot Ph - v \cdot P^{-1}v) \cdot s \\
        U &\leftarrow U - \tfrac{\mu}{L_U} (aa^\top - bb^\top) V (I + V^\top U) \quad\text{or}\quad
        V \leftarrow V - \tfrac{\mu}{L_V} (I + VU^\top) (aa^\top - bb^\top) U

    First U and V are brought to equal norms, which changes :math:`UV^\top` by rounding alone.

    Args:
        left, right, diagonal: U and V of shape (d, r), s of shape (d,).
        curvature: :math:`(L_s, L_U, L_V)`, zero at first.
        v, h: the pair, of shape (d,).
        step, beta: as for :func:`kron_fit`.
        side: which of U and V is moved.
    """
    rank = left.shape[1]
    if rank:
        balance = (_size(left) / _size(right)).sqrt()
        left, right = left / balance, right * balance
    a, b = lra_map(left, right, diagonal, h), lra_pull(left, right, diagonal, v)
    ph = diagonal * (a + right @ (left.mT @ a))
    pv = (b - left @ _solve(_core(left, right), right.mT @ b)) / diagonal
    along, against = h * ph, v * pv
    bound = _bounded(curvature[0], along.abs().amax() + against.abs().amax(), beta)
    diagonal = diagonal - _rate(step, bound) * (along - against) * diagonal
    bounds = [bound, curvature[1], curvature[2]]
    if rank:
        moved, other = (left, right) if side == 0 else (right, left)
        pa, pb = other.mT @ a, other.mT @ b
        qa, qb = other @ pa, other @ pb
        norm = torch.linalg.vector_norm
        bounds[1 + side] = _bounded(curvature[1 + side], norm(a) * norm(qa) + norm(b) * norm(qb), beta)
        if side == 0:
            core = _core(left, right)
            change = torch.outer(a, pa @ core) - torch.outer(b, pb @ core)
        else:
            change = torch.outer(a + moved @ pa, pa) - torch.outer(b + moved @ pb, pb)
        moved = moved - _rate(step, bounds[1 + side]) * change
        left, right = (moved, other) if side == 0 else (other, moved)
    return left, right, diagonal, torch.stack(bounds)


def _core(left: Tensor, right: Tensor) -> Tensor:
    return torch.eye(left.shape[1], dtype=left.dtype, device=left.device) + right.mT @ left


def _solve(matrix: Tensor, vector: Tensor) -> Tensor:
    # Unchecked: the group has no singular members, and what is not finite shall propagate.
    solution: Tensor = torch.linalg.solve_ex(matrix, vector)[0] if len(vector) else vector
    return solution


# ------------------------------------------------------------------------------------------------ X-shaped


def xmat_map(diagonal: Tensor, anti: Tensor, h: Tensor) -> Tensor:
    r""":math:`Qh` for :math:`Q = \operatorname{diag}(a) + \operatorname{antidiag}(b)`."""
    return torch.addcmul(diagonal * h, anti, h.flip(0))


def xmat_pull(diagonal: Tensor, anti: Tensor, v: Tensor) -> Tensor:
    r""":math:`Q^{-\top}v`."""
    flipped, anti_flipped = diagonal.flip(0), anti.flip(0)
    return (flipped * v - anti_flipped * v.flip(0)) / (diagonal * flipped - anti * anti_flipped)


def xmat_apply(diagonal: Tensor, anti: Tensor, g: Tensor) -> Tensor:
    """:math:`Pg`."""
    g = xmat_map(diagonal, anti, g)
    return torch.addcmul((anti * g).flip(0), diagonal, g)


def xmat_fit(
    diagonal: Tensor, anti: Tensor, curvature: Tensor, v: Tensor, h: Tensor, *, step: float, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One step; :math:`aa^\top - bb^\top` is projected by keeping its diagonal and anti-diagonal.

    Args:
        diagonal, anti: of shape (d,); the middle of ``anti`` is zero where d is odd, as the diagonal has that entry.
        curvature: :math:`L` as a tensor of one entry, which follows the largest entry of :math:`a^2 + b^2`.
        v, h: the pair, of shape (d,).
        step, beta: as for :func:`kron_fit`; Q is sure to stay in the group for steps up to 1/2 only.
    """
    a, b = xmat_map(diagonal, anti, h), xmat_pull(diagonal, anti, v)
    curvature = _bounded(curvature, (a.square() + b.square()).amax(), beta)
    rate = _rate(step, curvature)
    straight, across = a.square() - b.square(), a * a.flip(0) - b * b.flip(0)
    if len(a) % 2:
        across = across * (torch.arange(len(a), device=a.device) != len(a) // 2)
    return (
        diagonal - rate * (straight * diagonal + across * anti.flip(0)),
        anti - rate * (straight * anti + across * diagonal.flip(0)),
        curvature,
    )
