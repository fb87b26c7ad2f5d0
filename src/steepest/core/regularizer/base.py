"""What a regularizer is, and the one that is zero."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steepest.core.ranges import Real

__all__ = ["Regularizer", "Zero", "check_weight", "indicator", "scale_into", "slack"]


@dataclass(frozen=True)
class Regularizer(ABC):
    r"""A function :math:`g` of one tensor, with values in :math:`(-\infty, \infty]`, most often with a cheap prox.

    The indicator of a set is one: zero on the set, infinite outside; its prox is the projection. A point counts as
    inside of a set (or of the domain of a conjugate) up to rounding: see :func:`slack`.

    Weights and bounds may be 0-dim tensors that require gradients; values and proxes can then be differentiated by
    them.

    Class attributes:
        convex: whether :math:`g` is convex.
        smooth: whether :math:`g` is differentiable (then :meth:`gradient` gives its gradient).
    """

    convex: ClassVar[bool] = True
    smooth: ClassVar[bool] = False

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """``g(x)``, a 0-dim tensor; infinite outside the domain."""

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        r""":math:`\arg\min_z g(z) + \|z - x\|^2 / (2 t)` with :math:`t` the ``step``, > 0.

        Raises:
            NotImplementedError: no cheap way is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cheap prox")

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient of a smooth one, by PyTorch unless a closed form is known; so are :meth:`hvp` and
        :meth:`hessian`.

        Raises:
            NotImplementedError: it is not smooth.
        """
        self._check_smooth()
        slope: Tensor = torch.func.grad(self.value)(x)
        return slope

    def hvp(self, x: Tensor, direction: Tensor) -> Tensor:
        """The Hessian of a smooth one at ``x`` times ``direction``."""
        self._check_smooth()
        product: Tensor = torch.func.jvp(self.gradient, (x,), (direction,))[1]
        return product

    def hessian(self, x: Tensor) -> Tensor:
        """The Hessian of a smooth one, ``(d, d)`` over the ``d`` numbers of ``x``."""
        self._check_smooth()
        matrix: Tensor = torch.func.hessian(lambda flat: self.value(flat.reshape(x.shape)))(x.reshape(-1))
        return 0.5 * (matrix + matrix.mT)

    def _check_smooth(self) -> None:
        if not self.smooth:
            raise NotImplementedError(f"{type(self).__name__} is not differentiable")

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
        """Whether ``name`` (``"prox"``, ``"conjugate"``, ``"dual_scale"``, ``"lmo"``) is implemented."""
        return getattr(type(self), name) is not getattr(Regularizer, name)

    def _real(self, name: str, allowed: Real) -> None:
        allowed.check(f"{type(self).__name__}: {name}", getattr(self, name))


@dataclass(frozen=True)
class Zero(Regularizer):
    """The zero function."""

    smooth = True

    def value(self, x: Tensor) -> Tensor:
        return x.new_zeros(())

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x

    def conjugate(self, y: Tensor) -> Tensor:
        return indicator((y == 0).all(), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        return (y == 0).all().to(y.dtype)


def slack(x: Tensor) -> float:
    """How far beyond a bound, relative to it, still counts as inside: the machine precision to the power 3/4 (about
    2e-12 in float64, 6e-6 in float32). Sums round."""
    power: float = torch.finfo(x.dtype).eps ** 0.75
    return power


def indicator(inside: Tensor, like: Tensor) -> Tensor:
    """0 where a 0-dim condition is met, else infinite, in the dtype of ``like``."""
    return like.new_zeros(()).where(inside, math.inf)


def scale_into(bound: Any, size: Tensor) -> Tensor:
    """The largest ``s`` in [0, 1] with ``s * size <= bound`` everywhere; 1 for a size of zero."""
    positive = size > 0
    ratio = torch.where(positive, bound / torch.where(positive, size, 1.0), 1.0)
    return ratio.min().clamp(0.0, 1.0) if ratio.numel() else ratio.new_ones(())


def check_weight(name: str, value: Any, *, positive: bool = False) -> None:
    """Check a weight: a number, or a tensor of several.

    Raises:
        TypeError, ValueError: one of them is negative, not finite or no number (or zero, where ``positive``).
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        low = value.detach() > 0 if positive else value.detach() >= 0
        if not bool((low & torch.isfinite(value.detach())).all()):
            raise ValueError(f"{name} must hold finite numbers {'> 0' if positive else '>= 0'}, got {value!r}")
        return
    Real(low=0.0, low_open=positive).check(name, value)
