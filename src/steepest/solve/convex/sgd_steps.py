"""Step sizes of stochastic gradient methods, and averages of their iterates, as values that a method is composed of."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steepest.core.ranges import Integer, Range, Real, check_settings

__all__ = [
    "Average",
    "Constant",
    "Decreasing",
    "PolyakStep",
    "PolynomialAverage",
    "PowerDecay",
    "StepAverage",
    "StepRule",
    "Switching",
    "UniformAverage",
]

_POSITIVE = Real(low=0.0, low_open=True)


@dataclass(frozen=True)
class _Checked:
    ranges: ClassVar[Mapping[str, Range]] = {}

    def __post_init__(self) -> None:
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        check_settings(type(self).__name__, settings, self.ranges)


@dataclass(frozen=True)
class StepRule(_Checked, ABC):
    """The step size of iteration ``k = 0, 1, ...``.

    Class attributes:
        looks: whether the rule looks at the batch: its value and its gradient.
    """

    looks: ClassVar[bool] = False

    @abstractmethod
    def size(self, k: int) -> float:
        """The step size of iteration ``k``; for a rule that looks at the batch, the largest it can give."""

    def size_at(self, k: int, value: Tensor, squared_norm: Tensor, indices: Tensor) -> float | Tensor:
        """The step size of iteration ``k`` on a batch.

        Args:
            k: the iteration.
            value: the mean of ``f_i`` over the batch.
            squared_norm: the squared norm of its gradient.
            indices: the batch.
        """
        return self.size(k)


@dataclass(frozen=True)
class Constant(StepRule):
    """``step_size`` in every iteration, > 0."""

    step_size: float

    ranges = {"step_size": _POSITIVE}

    def size(self, k: int) -> float:
        return self.step_size


@dataclass(frozen=True)
class Decreasing(StepRule):
    """``numerator / (offset + k)``, both > 0: for strongly convex functions (numerator > 1 / modulus)."""

    numerator: float
    offset: float

    ranges = {"numerator": _POSITIVE, "offset": _POSITIVE}

    def size(self, k: int) -> float:
        return self.numerator / (self.offset + k)


@dataclass(frozen=True)
class PowerDecay(StepRule):
    """``step_size / (k + 1)**power``; 1/2 for convex functions, between 1/2 and 1 for Polyak and Ruppert's average."""

    step_size: float
    power: float = 0.5

    ranges = {"step_size": _POSITIVE, "power": Real(low=0.0, high=1.0)}

    def size(self, k: int) -> float:
        return self.step_size / (k + 1) ** self.power


@dataclass(frozen=True)
class Switching(StepRule):
    """``1 / (2 L)`` up to iteration ``4 ceil(L / m)``, then ``(2 k + 1) / ((k + 1)^2 m)``.

    Args:
        smoothness: ``L``, the expected smoothness of the batches (for single samples, of the roughest sample), > 0.
        strong_convexity: ``m``, > 0.
    """

    smoothness: float
    strong_convexity: float

    ranges = {"smoothness": _POSITIVE, "strong_convexity": _POSITIVE}

    @property
    def switch(self) -> int:
        """The last iteration with a constant step."""
        return 4 * math.ceil(self.smoothness / self.strong_convexity)

    def size(self, k: int) -> float:
        if k <= self.switch:
            return 0.5 / self.smoothness
        return (2 * k + 1) / ((k + 1) ** 2 * self.strong_convexity)


@dataclass(frozen=True)
class PolyakStep(StepRule):
    r"""The stochastic Polyak step, for functions whose least values ``f_i^*`` (or lower bounds of them) are known::

        min{ (f_B(x) - f_B^*) / (scale |grad f_B(x)|^2), cap }

    with means over the batch ``B``.

    Args:
        cap: the largest step size, > 0.
        scale: >= 1/2, which is the default: the one for strongly convex functions (1 for convex ones).
        optima: ``f_i^*``, one number for all (default 0, the least value of most losses) or a tensor of one each.
    """

    cap: float
    scale: float = 0.5
    optima: float | Tensor = 0.0

    looks = True
    ranges = {"cap": _POSITIVE, "scale": Real(low=0.5)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.optima, Tensor):
            Real().check("PolyakStep: optima", self.optima)
        elif self.optima.dim() != 1:
            raise ValueError(f"PolyakStep: optima must be a number or a 1-dim tensor, got {list(self.optima.shape)}")

    def size(self, k: int) -> float:
        return self.cap

    def size_at(self, k: int, value: Tensor, squared_norm: Tensor, indices: Tensor) -> Tensor:
        least = self.optima[indices].mean() if isinstance(self.optima, Tensor) else self.optima
        # Where the gradient is zero there is nothing to step along, whatever the size.
        tiny = squared_norm.new_tensor(1e-300 if squared_norm.dtype.itemsize == 8 else 1e-38)
        return ((value - least).clamp_min(0) / (self.scale * squared_norm.maximum(tiny))).clamp_max(self.cap)


@dataclass(frozen=True)
class Average(_Checked, ABC):
    """A weighted mean of the iterates at which gradients were taken."""

    @abstractmethod
    def weight(self, k: int, step_size: float) -> float:
        """The weight, >= 0, of the iterate at which step ``k`` of that size begins."""


@dataclass(frozen=True)
class UniformAverage(Average):
    """Equal weights from iteration ``start`` on, >= 0: 0 (default) is Polyak and Ruppert's average, else a tail."""

    start: int = 0

    ranges = {"start": Integer(low=0)}

    def weight(self, k: int, step_size: float) -> float:
        return float(k >= self.start)


@dataclass(frozen=True)
class StepAverage(Average):
    """Weights ``t_k (1 - 2 t_k L)`` for step sizes ``t_k < 1 / (2 L)``, ``L`` = ``smoothness`` >= 0 (default 0)."""

    smoothness: float = 0.0

    ranges = {"smoothness": Real(low=0.0)}

    def weight(self, k: int, step_size: float) -> float:
        return step_size * max(0.0, 1 - 2 * step_size * self.smoothness)


@dataclass(frozen=True)
class PolynomialAverage(Average):
    """Weights ``(k + 1)**power``, ``power`` >= 0 (default 1)."""

    power: float = 1.0

    ranges = {"power": Real(low=0.0)}

    def weight(self, k: int, step_size: float) -> float:
        return float((k + 1) ** self.power)
