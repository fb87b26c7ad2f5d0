"""SeparableForm regularizers: what coordinate methods have to know of them beyond the prox."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core import regularizer as known
from steepest.core.regularizer import Regularizer

__all__ = ["SeparableForm"]


@dataclass(frozen=True)
class SeparableForm:
    r"""A regularizer that is a sum over coordinates, or over groups of them::

        g(x) = sum_i l1_i |x_i| + ridge/2 |x|^2  +  [low <= x <= high]                  (groups is None)
        g(x) = sum_b weight_b |x_b| + ridge/2 |x|^2                                     (x_b: the b-th group)

    Attributes:
        l1: the weight of each absolute value, ``(d,)``.
        ridge: the weight of the squared norm.
        low, high: the bounds of each coordinate, ``(d,)``.
        groups: the number of the group of each coordinate, ``(d,)``; ``None`` where each stands for itself.
        weight: the weight of the norm of each group; ``None`` where there are none.
    """

    l1: Tensor
    ridge: float
    low: Tensor
    high: Tensor
    groups: Tensor | None = None
    weight: Tensor | None = None

    @classmethod
    def of(cls, regularizer: Regularizer, like: Tensor) -> "SeparableForm":
        """That of a regularizer of points such as ``like``.

        Raises:
            TypeError: the regularizer is not separable, or not known to be.
        """
        for kind, read in _KNOWN.items():
            if type(regularizer) is kind:
                return read(regularizer, like)
        names = sorted(kind.__name__ for kind in _KNOWN)
        raise TypeError(f"regularizer must be separable, one of {names}; got {regularizer!r}")

    def take(self, indices: Tensor) -> "SeparableForm":
        """The same on some coordinates; of a group either all or none."""
        groups = weight = None
        if self.groups is not None and self.weight is not None:
            found, groups = torch.unique(self.groups[indices], return_inverse=True)
            weight = self.weight[found]
        return SeparableForm(self.l1[indices], self.ridge, self.low[indices], self.high[indices], groups, weight)

    def norms(self, x: Tensor) -> Tensor:
        """The norm of each group."""
        assert self.groups is not None
        assert self.weight is not None
        return torch.zeros_like(self.weight).index_add(0, self.groups, x.square()).sqrt()

    def members(self, number: int) -> Tensor:
        """The coordinates of a group."""
        assert self.groups is not None
        return (self.groups == number).nonzero()[:, 0]

    def by_block(self, terms: Tensor) -> Tensor:
        """The sums over groups of one number per coordinate; without groups, the numbers."""
        if self.groups is None or self.weight is None:
            return terms
        return torch.zeros_like(self.weight).index_add(0, self.groups, terms)

    def terms(self, x: Tensor) -> Tensor:
        """The part of ``g(x)`` of each block, at a point within the bounds."""
        ridge = self.by_block(0.5 * self.ridge * x.square())
        return ridge + (self.l1 * x.abs() if self.weight is None else self.weight * self.norms(x))

    def slope_between(self, x: Tensor, y: Tensor) -> Tensor:
        """A vector ``s`` with ``g_b(y) - g_b(x) = s_b . (y - x)_b`` in every block, free of cancellation."""
        if self.groups is None or self.weight is None:
            weight, length = self.l1, x.abs() + y.abs()
        else:
            weight, length = self.weight[self.groups], (self.norms(x) + self.norms(y))[self.groups]
        middle = 0.5 * (x + y)
        return 2 * weight * middle / length.clamp_min(torch.finfo(x.dtype).tiny) + self.ridge * middle

    def value(self, x: Tensor) -> Tensor:
        """``g(x)`` at a point within the bounds."""
        return self.terms(x).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """The prox with one step, or one step for each coordinate (of a group: equal ones)."""
        if self.groups is None:
            z = torch.sign(x) * (x.abs() - step * self.l1).clamp_min(0) / (1 + step * self.ridge)
            return torch.clamp(z, self.low, self.high)
        assert self.weight is not None
        norms = self.norms(x).clamp_min(torch.finfo(x.dtype).tiny)[self.groups]
        return x * (1 - step * self.weight[self.groups] / norms).clamp_min(0) / (1 + step * self.ridge)

    def has_dual(self) -> bool:
        """Whether the conjugate is finite near 0, so that scaling makes a dual point feasible."""
        if self.ridge > 0:
            return True
        if self.weight is not None:
            return bool((self.weight > 0).all())
        return bool(((self.l1 > 0) | (torch.isfinite(self.low) & torch.isfinite(self.high))).all())

    def violation(self, x: Tensor, gradient: Tensor) -> Tensor:
        """How far each coordinate (each group) is from optimal: the distance of ``-gradient`` to the subdifferential
        of ``g``, which is the steepest slope down; zero everywhere at a minimizer."""
        gradient = gradient + self.ridge * x
        if self.groups is None:
            right, left = one_sided(self, x, gradient)
            return torch.maximum((-right).clamp_min(0), left.clamp_min(0))
        assert self.weight is not None
        norms = self.norms(x)
        unit = x / norms.clamp_min(torch.finfo(x.dtype).tiny)[self.groups]
        inside = self.norms(gradient + self.weight[self.groups] * unit)
        return torch.where(norms > 0, inside, (self.norms(gradient) - self.weight).clamp_min(0))


def one_sided(g: SeparableForm, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of ``f + g`` to the right and from the left in each coordinate, where ``gradient`` is that of
    the smooth part; 0 where the bounds forbid to go there."""
    right = gradient + torch.where(x >= 0, g.l1, -g.l1)
    left = gradient + torch.where(x > 0, g.l1, -g.l1)
    return torch.where(x < g.high, right, 0.0), torch.where(x > g.low, left, 0.0)


def _form(
    like: Tensor,
    l1: float | Tensor = 0.0,
    ridge: float | Tensor = 0.0,
    low: float | Tensor = -math.inf,
    high: float | Tensor = math.inf,
) -> SeparableForm:
    def full(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(like.shape)

    return SeparableForm(full(l1), _number(ridge), full(low), full(high))


def _number(weight: float | Tensor) -> float:
    if isinstance(weight, Tensor) and weight.numel() != 1:
        raise TypeError(f"the weight of a squared norm must be one number for coordinate methods, got {weight!r}")
    return float(weight)


def _group_form(regularizer: Any, like: Tensor) -> SeparableForm:
    count = len(regularizer.groups.norms(like))
    numbers = torch.arange(count, dtype=like.dtype, device=like.device)
    labels = regularizer.groups.spread(numbers + 2, like)  # it gives 1 to entries in no group
    alone = (labels == 1).nonzero()[:, 0]
    labels = labels.long() - 2
    labels[alone] = count + torch.arange(len(alone), device=like.device)
    weight = torch.as_tensor(regularizer.weight, dtype=like.dtype, device=like.device).expand(count)
    plain = _form(like)
    return SeparableForm(
        plain.l1, 0.0, plain.low, plain.high, labels, torch.cat([weight, weight.new_zeros(len(alone))])
    )


_KNOWN: dict[type[Regularizer], Callable[..., SeparableForm]] = {
    known.Zero: lambda g, like: _form(like),
    known.L1: lambda g, like: _form(like, l1=g.weight),
    known.SquaredL2: lambda g, like: _form(like, ridge=g.weight),
    known.ElasticNet: lambda g, like: _form(like, l1=g.l1_weight, ridge=g.l2_weight),
    known.Box: lambda g, like: _form(like, low=g.low, high=g.high),
    known.Nonnegative: lambda g, like: _form(like, low=0.0),
    known.GroupL2: _group_form,
}
