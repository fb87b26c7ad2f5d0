"""Regularizers: functions whose proximal step is cheap."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steepest.core import prox
from steepest.core.ranges import Real

__all__ = [
    "L1",
    "Box",
    "ElasticNet",
    "GroupL2",
    "Groups",
    "Nonnegative",
    "Regularizer",
    "SquaredL2",
    "Zero",
]


@dataclass(frozen=True)
class Regularizer(ABC):
    r"""A function :math:`g` of one tensor, with values in :math:`(-\infty, \infty]`, whose prox is cheap.

    The indicator of a set is one: zero on the set, infinite outside; its prox is the projection.

    Class attributes:
        convex: whether :math:`g` is convex.
        smooth: whether :math:`g` is differentiable (then PyTorch differentiates :meth:`value`).
    """

    convex: ClassVar[bool] = True
    smooth: ClassVar[bool] = False

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """``g(x)``, a 0-dim tensor; infinite outside the domain."""

    @abstractmethod
    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        r""":math:`\arg\min_z g(z) + \|z - x\|^2 / (2 t)` with :math:`t` the ``step``."""

    def conjugate(self, y: Tensor) -> Tensor:
        r""":math:`g^*(y) = \sup_x \langle x, y \rangle - g(x)`, a 0-dim tensor; infinite outside its domain.

        Raises:
            NotImplementedError: no closed form is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no conjugate in closed form")

    def dual_scale(self, y: Tensor) -> Tensor:
        r"""The largest :math:`s \in [0, 1]` with :math:`s\,y` in the domain of :math:`g^*`, a 0-dim tensor.

        It makes a feasible dual point of any, which a duality gap needs.

        Raises:
            NotImplementedError: no closed form is known.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot scale a dual point into its domain")

    def lmo(self, direction: Tensor) -> Tensor:
        r"""A minimizer of :math:`\langle d, x \rangle` over the domain of :math:`g`, where that is a bounded set.

        Raises:
            NotImplementedError: the domain is not bounded.
        """
        raise NotImplementedError(f"{type(self).__name__} is not the indicator of a bounded set")

    def offers(self, name: str) -> bool:
        """Whether ``name`` (``"conjugate"``, ``"dual_scale"``, ``"lmo"``) is implemented."""
        return getattr(type(self), name) is not getattr(Regularizer, name)


@dataclass(frozen=True)
class Zero(Regularizer):
    """The zero function."""

    smooth = True

    def value(self, x: Tensor) -> Tensor:
        return x.new_zeros(())

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x

    def conjugate(self, y: Tensor) -> Tensor:
        return y.new_zeros(()).where((y == 0).all(), float("inf"))

    def dual_scale(self, y: Tensor) -> Tensor:
        return (y == 0).all().to(y.dtype)


@dataclass(frozen=True)
class L1(Regularizer):
    r""":math:`\lambda \|x\|_1`.

    Args:
        weight: :math:`\lambda \ge 0`.
    """

    weight: float

    def __post_init__(self) -> None:
        Real(low=0.0).check("weight", self.weight)

    def value(self, x: Tensor) -> Tensor:
        return self.weight * x.abs().sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.l1(x, step * self.weight)

    def conjugate(self, y: Tensor) -> Tensor:
        return y.new_zeros(()).where((y.abs() <= self.weight).all(), float("inf"))

    def dual_scale(self, y: Tensor) -> Tensor:
        return (self.weight / y.abs().max()).clamp_max(1.0)


@dataclass(frozen=True)
class SquaredL2(Regularizer):
    r""":math:`\tfrac12 \lambda \|x\|^2`."""

    weight: float
    smooth = True

    def __post_init__(self) -> None:
        Real(low=0.0).check("weight", self.weight)

    def value(self, x: Tensor) -> Tensor:
        return 0.5 * self.weight * x.square().sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x / (1 + step * self.weight)

    def conjugate(self, y: Tensor) -> Tensor:
        if self.weight == 0:
            return y.new_zeros(()).where((y == 0).all(), float("inf"))
        return 0.5 * y.square().sum() / self.weight

    def dual_scale(self, y: Tensor) -> Tensor:
        return y.new_ones(()) if self.weight > 0 else (y == 0).all().to(y.dtype)


@dataclass(frozen=True)
class ElasticNet(Regularizer):
    r""":math:`\lambda_1 \|x\|_1 + \tfrac12 \lambda_2 \|x\|^2`."""

    l1_weight: float
    l2_weight: float

    def __post_init__(self) -> None:
        Real(low=0.0).check("l1_weight", self.l1_weight)
        Real(low=0.0).check("l2_weight", self.l2_weight)

    def value(self, x: Tensor) -> Tensor:
        return self.l1_weight * x.abs().sum() + 0.5 * self.l2_weight * x.square().sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.l1(x, step * self.l1_weight) / (1 + step * self.l2_weight)

    def conjugate(self, y: Tensor) -> Tensor:
        rest = (y.abs() - self.l1_weight).clamp_min(0)
        if self.l2_weight == 0:
            return y.new_zeros(()).where((rest == 0).all(), float("inf"))
        return 0.5 * rest.square().sum() / self.l2_weight

    def dual_scale(self, y: Tensor) -> Tensor:
        return y.new_ones(()) if self.l2_weight > 0 else (self.l1_weight / y.abs().max()).clamp_max(1.0)


@dataclass(frozen=True)
class Box(Regularizer):
    """Zero where ``low <= x <= high``, else infinite."""

    low: float
    high: float

    def value(self, x: Tensor) -> Tensor:
        return x.new_zeros(()).where(((x >= self.low) & (x <= self.high)).all(), float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def conjugate(self, y: Tensor) -> Tensor:
        return torch.maximum(self.low * y, self.high * y).sum()

    def dual_scale(self, y: Tensor) -> Tensor:
        return y.new_ones(())


@dataclass(frozen=True)
class Nonnegative(Regularizer):
    """Zero where ``x >= 0``, else infinite."""

    def value(self, x: Tensor) -> Tensor:
        return x.new_zeros(()).where((x >= 0).all(), float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x.clamp_min(0)

    def conjugate(self, y: Tensor) -> Tensor:
        return y.new_zeros(()).where((y <= 0).all(), float("inf"))

    def dual_scale(self, y: Tensor) -> Tensor:
        return (y <= 0).all().to(y.dtype)


class Groups:
    """Disjoint lists of indices, or (an integer) consecutive groups of that size."""

    def __init__(self, groups: Sequence[Sequence[int]] | int) -> None:
        self.groups = groups

    def _labels(self, x: Tensor) -> tuple[Tensor, int]:
        if isinstance(self.groups, int):
            return torch.arange(len(x), device=x.device) // self.groups, len(x) // self.groups
        labels = torch.full((len(x),), -1, dtype=torch.long, device=x.device)
        for number, group in enumerate(self.groups):
            labels[torch.as_tensor(group, device=x.device)] = number
        return labels, len(self.groups)

    def norms(self, x: Tensor) -> Tensor:
        """The norm of each group."""
        labels, count = self._labels(x)
        inside = labels >= 0
        return x.new_zeros(count).index_add(0, labels[inside], x[inside].square()).sqrt()

    def spread(self, factors: Tensor, x: Tensor) -> Tensor:
        """The factor of each entry's group; 1 for entries in none."""
        labels, _ = self._labels(x)
        return torch.where(labels >= 0, factors[labels.clamp_min(0)], 1.0)


@dataclass(frozen=True)
class GroupL2(Regularizer):
    r""":math:`\sum_j \lambda_j \|x_j\|` over groups."""

    weight: float | Tensor
    groups: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", Groups(self.groups))

    def value(self, x: Tensor) -> Tensor:
        norms: Tensor = self.groups.norms(x)
        return (self.weight * norms).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        norms: Tensor = self.groups.norms(x)
        factors = (1 - step * self.weight / norms.clamp_min(torch.finfo(x.dtype).tiny)).clamp_min(0)
        spread: Tensor = self.groups.spread(factors, x)
        return x * spread

    def conjugate(self, y: Tensor) -> Tensor:
        return y.new_zeros(()).where((self.groups.norms(y) <= self.weight).all(), float("inf"))

    def dual_scale(self, y: Tensor) -> Tensor:
        norms: Tensor = self.groups.norms(y)
        return (self.weight / norms).min().clamp_max(1.0)
