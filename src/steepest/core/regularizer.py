"""Regularizers: functions whose proximal step is cheap."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.core import prox
from steepest.core.ranges import Real

__all__ = ["L1", "Regularizer", "SquaredL2", "Zero"]


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

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient of a smooth ``g``, by PyTorch unless a class knows better; so are :meth:`hvp` and
        :meth:`hessian`.

        Raises:
            NotImplementedError: ``g`` is not smooth.
        """
        self._check_smooth()
        slope: Tensor = torch.func.grad(self.value)(x)
        return slope

    def hvp(self, x: Tensor, direction: Tensor) -> Tensor:
        """The Hessian of a smooth ``g`` at ``x`` times ``direction``."""
        self._check_smooth()
        product: Tensor = torch.func.jvp(self.gradient, (x,), (direction,))[1]
        return product

    def hessian(self, x: Tensor) -> Tensor:
        """The Hessian of a smooth ``g``, ``(d, d)`` over the ``d`` numbers of ``x``."""
        self._check_smooth()
        matrix: Tensor = torch.func.hessian(lambda flat: self.value(flat.reshape(x.shape)))(x.reshape(-1))
        return 0.5 * (matrix + matrix.mT)

    def _check_smooth(self) -> None:
        if not self.smooth:
            raise NotImplementedError(f"{type(self).__name__} is not smooth")

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
class SquaredL2(Regularizer):
    r""":math:`\tfrac{\lambda}{2} \|x\|_2^2`.

    Args:
        weight: :math:`\lambda \ge 0`.
    """

    weight: float
    smooth = True

    def __post_init__(self) -> None:
        Real(low=0.0).check("weight", self.weight)

    def value(self, x: Tensor) -> Tensor:
        return 0.5 * self.weight * x.square().sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x / (1 + step * self.weight)

    def gradient(self, x: Tensor) -> Tensor:
        return self.weight * x

    def hvp(self, x: Tensor, direction: Tensor) -> Tensor:
        return self.weight * direction

    def hessian(self, x: Tensor) -> Tensor:
        return self.weight * torch.eye(x.numel(), dtype=x.dtype, device=x.device)

    def conjugate(self, y: Tensor) -> Tensor:
        if self.weight == 0:
            return Zero().conjugate(y)
        return y.square().sum() / (2 * self.weight)

    def dual_scale(self, y: Tensor) -> Tensor:
        return Zero().dual_scale(y) if self.weight == 0 else y.new_ones(())


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
