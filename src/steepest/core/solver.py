"""Solvers: an initial state, a step, and one way to run them all.

A solver is a frozen dataclass of hyper-parameters with two methods::

    @dataclass(frozen=True)
    class Landweber(Solver[SmoothProblem, State]):
        step_size: float = 1e-2

        needs = frozenset({"value", "gradient"})
        ranges = {"step_size": Real(low=0.0, low_open=True)}

        def init(self, problem, start, generator):
            return State(point=start, value=problem.value(start))

        def step(self, problem, state):
            point = add_scaled(state.point, -self.step_size, problem.gradient(state.point))
            return State(point=point, value=problem.value(point))

    result = Landweber().run(problem, start, budget=Budget(steps=1000, seconds=60), checkpoint="run.pt")

:meth:`Solver.run` does everything else, once for all solvers.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch

from steepest.core.budget import Budget
from steepest.core.problem import Problem
from steepest.core.ranges import Range, check_settings
from steepest.core.result import Result
from steepest.core.run import Report, Run
from steepest.core.stopping import Measures, Tolerance
from steepest.core.tree import Point

__all__ = ["Solver", "State"]


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a solver carries from one step to the next; solvers with more to carry subclass it.

    A state is a value: ``step`` makes a new one and leaves the old one and its tensors as they are (a run that diverges
    returns the one before). Only the generator moves on. For checkpoints, a state is made of tensors, generators,
    numbers, strings and ``None`` in nested dataclasses, dicts, lists and tuples, and its class is defined at the top of
    a module.

    Attributes:
        point: the iterate.
        value: the objective at ``point``, ``None`` where the method does not know it.
        stationarity: zero at a solution; ``None`` where the method does not know it.
        feasibility: the violation of the constraints at ``point``; ``None`` where there is none to measure.
        generator: the source of randomness; ``None`` for deterministic methods.
    """

    point: Point
    value: torch.Tensor | float | None = None
    stationarity: torch.Tensor | float | None = None
    feasibility: torch.Tensor | float | None = None
    generator: torch.Generator | None = None


P = TypeVar("P", bound=Problem)
S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Solver(ABC, Generic[P, S]):
    """The base of all solvers: hyper-parameters as fields, ``init`` and ``step`` as methods.

    Class attributes:
        needs: names of the oracles that the problem must offer.
        ranges: the allowed range of each hyper-parameter, checked at construction.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    ranges: ClassVar[Mapping[str, Range]] = {}

    def __post_init__(self) -> None:
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        unknown = sorted(set(self.ranges) - set(settings))
        if unknown:  # a misspelled range would check nothing
            raise TypeError(f"{type(self).__name__}: ranges are declared for {unknown}, which are no fields")
        check_settings(type(self).__name__, settings, self.ranges)

    @abstractmethod
    def init(self, problem: P, start: Point, generator: torch.Generator) -> S:
        """The state before the first step.

        Args:
            problem: what to solve; it offers at least :attr:`needs`.
            start: the starting point, a copy that the solver may keep.
            generator: for methods that draw random numbers; they keep it in the state.
        """

    @abstractmethod
    def step(self, problem: P, state: S) -> S:
        """The state after one more iteration.

        Raises:
            Stalled: no further progress is possible; the run ends with the state before.
        """

    def solution(self, problem: P, state: S) -> Any:
        """The answer at a state: its point, unless a method returns something else, such as an average."""
        return state.point

    def measure(self, problem: P, state: S) -> Measures:
        """Value, stationarity and feasibility at a state: what the state says of itself.

        A solver that measures more than it needs overrides this; its oracle calls and its time are not counted.
        """
        return Measures.of(state.value, state.stationarity, state.feasibility)

    def run(
        self,
        problem: P,
        start: Point,
        *,
        budget: Budget | str,
        tolerance: Tolerance | float | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: Budget | str = "10s",
        resume: Literal["auto", "never", "must"] = "auto",
        callbacks: Iterable[Callable[[Report], Any]] = (),
        progress: bool | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        record_every: int = 1,
        divergence: float | None = 1e6,
    ) -> Result[S]:
        """Iterate from ``start`` until the tolerance is met or the budget is used up.

        Steps run under ``torch.no_grad()``; oracles that differentiate switch gradients on themselves.

        Args:
            problem: what to solve.
            start: a tensor, or nested dicts, lists and tuples of tensors; it is copied, never changed.
            budget: the limits, such as ``Budget(steps=1000, seconds=60)``, ``"30s"`` or ``"500steps"``. They hold for
                the run as a whole, over all resumptions. Where they are reached before the first step, the result holds
                the initial state.
            tolerance: when the run has converged: a bound on the stationarity, or a
                :class:`~steepest.core.stopping.Tolerance`. ``None`` runs until the budget ends.
            checkpoint: a file to save the run in, atomically: at the start, every ``checkpoint_every``, and at the
                end. One file serves one run.
            checkpoint_every: time or steps between checkpoints: ``"10s"``, ``"100steps"``.
            resume: what to do with an existing checkpoint: ``"auto"`` continues it, ``"must"`` also demands that there
                is one, ``"never"`` starts afresh and overwrites it. A continued run does exactly, bit for bit, what the
                undisturbed one would have done (on the same machine and versions). It is refused where the solver,
                its hyper-parameters, the problem (see :meth:`~steepest.core.problem.Problem.fingerprint`), the
                starting point or the seed differ.
            callbacks: each is called after every step with a :class:`~steepest.core.run.Report`; one that returns a
                true value ends the run.
            progress: a bar on standard error; ``None`` shows it on a terminal only.
            seed: the seed of a new generator on the device of ``start``; default 0.
            generator: used instead of a new one; give either this or ``seed``. On resumption its state is set to the
                saved one.
            record_every: steps between records in the trace; the first and the last state are always recorded.
            divergence: the run has diverged when the value or a number of the iterate is not finite, or when the value
                exceeds ``first + divergence * max(1, |first|)``, with ``first`` the value at the start. ``None``
                lifts the second condition. The last state before is returned.

        Raises:
            MissingOracle: the problem does not offer what the solver needs.
            TypeError, ValueError: an argument is out of its range, or the value at the start is not finite.
            CheckpointError: the checkpoint is corrupt or of another run.
            FileNotFoundError: ``resume="must"`` and there is no checkpoint.
        """
        run = Run(
            self,
            problem,
            start,
            budget=budget,
            tolerance=tolerance,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
            callbacks=callbacks,
            progress=progress,
            seed=seed,
            generator=generator,
            record_every=record_every,
            divergence=divergence,
        )
        return run()
