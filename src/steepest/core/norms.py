r"""Convex functions of a tensor, their subgradients and what their conjugates impose.

Each function acts on one tensor. For a norm, a subgradient at :math:`x` is a maximizer of :math:`\langle s, x\rangle`
over the unit ball of the dual norm, so these are (up to sign) also the linear minimization oracles of the dual balls.
At zero the subgradient returned is zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .orthogonal import polar

__all__ = ["KAPPAS", "dual_norm", "subgradient", "value"]


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1) if x.dim() > 1 else x.reshape(1, -1)


def _unit(x: Tensor, norm: Tensor) -> Tensor:
    """``x / norm`` and 0 where the norm is 0."""
    return x / torch.where(norm > 0, norm, 1.0)


def _normalize_rows(x: Tensor) -> Tensor:
    # Scaled by the largest entry first: squares of tiny or huge gradients leave the range of the dtype otherwise.
    scaled = _unit(x, x.abs().amax(1, keepdim=True))
    return _unit(scaled, (scaled * scaled).sum(1, keepdim=True).sqrt())


def _matrix(x: Tensor) -> Tensor:
    """Matrices (or stacks of them) as they are, vectors as one row."""
    return x if x.dim() > 1 else x.reshape(1, -1)


def _lp(x: Tensor, p: float) -> Tensor:
    size = x.abs()
    # Scaled by the largest entry first: |x|^(p-1) of tiny gradients underflows otherwise.
    scaled = _unit(size, size.amax())
    norm = (scaled**p).sum() ** (1 / p)
    return x.sign() * _unit(scaled, norm) ** (p - 1) * (size > 0)


def _top_k(x: Tensor, k: int) -> Tensor:
    flat = x.reshape(-1)
    index = flat.abs().topk(min(k, flat.numel())).indices
    mask = torch.zeros_like(flat).index_fill(0, index, 1.0)
    return (mask * flat.sign()).reshape(x.shape)


KAPPAS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "l1": (lambda x, **_: x.abs().sum(), lambda x, **_: x.sign()),
    "l2": (
        lambda x, **_: torch.linalg.vector_norm(x),
        lambda x, **_: _normalize_rows(x.reshape(1, -1)).reshape(x.shape),
    ),
    "lp": (lambda x, *, p, **_: (x.abs() ** p).sum() ** (1 / p), lambda x, *, p, **_: _lp(x, p)),
    "rows": (
        lambda x, **_: torch.linalg.vector_norm(_rows(x), dim=1).sum(),
        lambda x, **_: _normalize_rows(_rows(x)).reshape(x.shape),
    ),
    "dead-zone": (
        lambda x, *, epsilon, **_: torch.relu(x.abs() - epsilon).sum(),
        lambda x, *, epsilon, **_: x.sign() * (x.abs() > epsilon),
    ),
    "huber": (
        lambda x, *, epsilon, **_: torch.where(x.abs() <= epsilon, x * x / (2 * epsilon), x.abs() - epsilon / 2).sum(),
        lambda x, *, epsilon, **_: torch.where(x.abs() <= epsilon, x / epsilon, x.sign()),
    ),
    "top-k": (
        lambda x, *, k, **_: x.abs().reshape(-1).topk(min(k, x.numel())).values.sum(),
        lambda x, *, k, **_: _top_k(x, k),
    ),
    "nuclear": (
        lambda x, **_: torch.linalg.svdvals(_matrix(x)).sum(),
        lambda x, **_: polar(_matrix(x)).reshape(x.shape),
    ),
    "ridge": (lambda x, **_: 0.5 * (x * x).sum(), lambda x, **_: x),
}


def value(name: str, x: Tensor, *, p: float = 2.0, epsilon: float = 1e-3, k: int = 1) -> Tensor:
    """The function ``name`` (a key of :data:`KAPPAS`; :class:`~steepest.optim.LionK` lists them) at ``x``: 0-dim."""
    return KAPPAS[name][0](x, p=p, epsilon=epsilon, k=k)


def subgradient(name: str, x: Tensor, *, p: float = 2.0, epsilon: float = 1e-3, k: int = 1) -> Tensor:
    """A subgradient of the function ``name`` at ``x``, of its shape; zero at zero."""
    return KAPPAS[name][1](x, p=p, epsilon=epsilon, k=k)


def dual_norm(name: str, x: Tensor, *, p: float = 2.0, k: int = 1) -> Tensor:
    """The norm in which weight decay bounds the iterates, for those functions that are norms."""
    size = x.abs()
    if name in ("l1", "dead-zone", "huber"):
        return size.max()
    if name in ("l2", "lp"):
        q = 2.0 if name == "l2" else torch.inf if p == 1 else p / (p - 1)
        norm: Tensor = torch.linalg.vector_norm(x, ord=q)
        return norm
    if name == "rows":
        norm = torch.linalg.vector_norm(_rows(x), dim=1).max()
        return norm
    if name == "top-k":
        return torch.maximum(size.max(), size.sum() / k)
    if name == "nuclear":
        norm = torch.linalg.matrix_norm(_matrix(x), ord=2)
        return norm
    raise ValueError(f"{name!r} is not a norm and bounds nothing")
