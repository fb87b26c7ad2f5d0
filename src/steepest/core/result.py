"""What a run hands back."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from steepest.core.stopping import Measures
from steepest.core.trace import Trace

__all__ = ["Reason", "Result"]

S = TypeVar("S")


class Reason(StrEnum):
    """Why a run ended."""

    CONVERGED = "converged"  #: the tolerance is met
    BUDGET = "budget"  #: a limit of the budget is reached
    DIVERGED = "diverged"  #: the next iterate is not finite, or its value is far above the first
    STALLED = "stalled"  #: the solver says that it can make no more progress
    STOPPED = "stopped"  #: a callback asked to stop


@dataclass(frozen=True)
class Result(Generic[S]):
    """The outcome of :meth:`steepest.core.solver.Solver.run`.

    Attributes:
        solution: the solver's answer at ``state``; after a divergence, that of the last finite iterate.
        state: the last state that was accepted; the run can go on from it.
        trace: the history, with the last state always recorded.
        reason: why the run ended.
        message: the same in a sentence, with numbers.
        steps: the number of steps done.
        seconds: time spent in ``init`` and ``step``.
        calls: oracle calls by name.
        measures: value, stationarity and feasibility at ``state``.
        method: which solver ran and why, where it was chosen by :func:`steepest.minimize`; else empty.
    """

    solution: Any
    state: S
    trace: Trace
    reason: Reason
    message: str
    steps: int
    seconds: float
    calls: dict[str, int]
    measures: Measures
    method: str = ""

    @property
    def success(self) -> bool:
        """Whether the tolerance was met. A run without a tolerance has nothing to succeed at: look at ``reason``."""
        return self.reason is Reason.CONVERGED

    @property
    def value(self) -> float | None:
        """The objective at the solution."""
        return self.measures.value

    @property
    def stationarity(self) -> float | None:
        """The stationarity at the solution."""
        return self.measures.stationarity

    @property
    def feasibility(self) -> float | None:
        """The violation of the constraints at the solution."""
        return self.measures.feasibility

    def __repr__(self) -> str:
        return f"Result({self.reason} after {self.steps} steps, value {self.value}: {self.message})"
