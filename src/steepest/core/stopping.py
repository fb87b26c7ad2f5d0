"""When a run has arrived, when it has left the rails, and how far it is."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from steepest.core import tree
from steepest.core.ranges import Real
from steepest.core.tree import Point

__all__ = ["Measures", "Stalled", "Tolerance", "divergence"]


class Measures(NamedTuple):
    """Where an iterate stands; ``None`` for what the solver does not measure.

    Attributes:
        value: the objective.
        stationarity: zero at a solution: the norm of the gradient, a duality gap, the length of a fixed-point step.
        feasibility: the violation of the constraints, zero where they hold.
    """

    value: float | None = None
    stationarity: float | None = None
    feasibility: float | None = None

    @classmethod
    def of(cls, value: Any = None, stationarity: Any = None, feasibility: Any = None) -> "Measures":
        """Measures from numbers or tensors with one element."""
        return cls(*(None if item is None else float(item) for item in (value, stationarity, feasibility)))


class Stalled(Exception):
    """Raised by a solver's ``step`` that cannot go on, such as a line search without progress; it ends the run."""


_LIMIT = Real(low=0.0, optional=True)


@dataclass(frozen=True)
class Tolerance:
    """A run has converged when everything that is stated here holds.

    Args:
        stationarity: the largest allowed stationarity, >= 0.
        feasibility: the largest allowed violation, >= 0. By default the same number as ``stationarity``, where the
            solver measures feasibility at all.
        value: the objective is at most this number (a target known beforehand).

    Raises:
        ValueError: a limit is negative or not finite, or neither ``stationarity`` nor ``value`` is given.
    """

    stationarity: float | None = None
    feasibility: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        _LIMIT.check("Tolerance: stationarity", self.stationarity)
        _LIMIT.check("Tolerance: feasibility", self.feasibility)
        Real(optional=True).check("Tolerance: value", self.value)
        if self.stationarity is None and self.value is None:
            raise ValueError("Tolerance: stationarity or value is needed")

    @classmethod
    def of(cls, tolerance: "Tolerance | float | None") -> "Tolerance | None":
        """A tolerance as it is, or from a number that limits the stationarity."""
        if tolerance is None or isinstance(tolerance, Tolerance):
            return tolerance
        return cls(stationarity=tolerance)

    def check_measured(self, measures: Measures, by: str) -> None:
        """Refuse to wait for something that is never measured.

        Raises:
            ValueError: the solver does not measure what is limited here.
        """
        for name in ("stationarity", "feasibility", "value"):
            if getattr(self, name) is not None and getattr(measures, name) is None:
                raise ValueError(f"{by} does not measure {name}, so tolerance={self} can never be met")

    def met(self, measures: Measures) -> str | None:
        """What holds, in words, or ``None`` while something does not."""
        feasibility = self.feasibility
        if feasibility is None and measures.feasibility is not None:
            feasibility = self.stationarity
        reasons = []
        for name, limit in (("stationarity", self.stationarity), ("feasibility", feasibility), ("value", self.value)):
            if limit is None:
                continue
            measured = getattr(measures, name)
            if measured is None or not measured <= limit:
                return None
            reasons.append(f"{name} {measured:.6g} <= {limit:g}")
        return ", ".join(reasons)


def divergence(measures: Measures, point: Point, first_value: float | None, factor: float | None) -> str | None:
    """Whether an iterate is lost, in words, or ``None``.

    It is lost when the value or any number of the point is NaN or infinite, or when the value exceeds
    ``first + factor * max(1, |first|)``, where ``first`` is the value at the start.

    Args:
        measures: what was measured at the point.
        point: the iterate.
        first_value: the value at the start, if one was measured.
        factor: the allowed multiple; ``None`` for no limit.
    """
    if measures.value is not None and not math.isfinite(measures.value):
        return f"the value became {measures.value}"
    if not tree.is_finite(point):
        return "the iterate is not finite"
    if measures.value is not None and first_value is not None and factor is not None:
        limit = first_value + factor * max(1.0, abs(first_value))
        if measures.value > limit:
            return f"the value {measures.value:.6g} exceeds {limit:.6g} (it began at {first_value:.6g})"
    return None
