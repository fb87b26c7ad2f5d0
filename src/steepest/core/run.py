"""The loop behind :meth:`steepest.core.solver.Solver.run`."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from steepest.core import checkpoint as files
from steepest.core import tree
from steepest.core.budget import Budget
from steepest.core.fingerprint import fingerprint
from steepest.core.oracle import OracleCounts, counting, uncounted
from steepest.core.problem import Problem
from steepest.core.progress import ProgressBar
from steepest.core.ranges import Integer, OneOf, Real
from steepest.core.result import Reason, Result
from steepest.core.stopping import Measures, Stalled, Tolerance, divergence
from steepest.core.trace import Trace
from steepest.core.tree import Point

__all__ = ["Report", "Run"]


class _Solver(Protocol):
    @property
    def needs(self) -> Any: ...
    def init(self, problem: Any, start: Any, generator: torch.Generator) -> Any: ...
    def step(self, problem: Any, state: Any) -> Any: ...
    def solution(self, problem: Any, state: Any) -> Any: ...
    def measure(self, problem: Any, state: Any) -> Measures: ...


@dataclass(frozen=True)
class Report:
    """What a callback sees after a step.

    Attributes:
        step: steps done.
        seconds: time spent in ``init`` and ``step``.
        state: the new state.
        measures: value, stationarity and feasibility at it.
        calls: oracle calls so far, by name.
    """

    step: int
    seconds: float
    state: Any
    measures: Measures
    calls: Mapping[str, int]


class Run:
    """One run of a solver; the arguments are those of :meth:`steepest.core.solver.Solver.run`."""

    def __init__(
        self,
        solver: _Solver,
        problem: Problem,
        start: Point,
        *,
        budget: Budget | str,
        tolerance: Tolerance | float | None,
        checkpoint: str | Path | None,
        checkpoint_every: Budget | str,
        resume: str,
        callbacks: Iterable[Callable[[Report], Any]],
        progress: bool | None,
        seed: int | None,
        generator: torch.Generator | None,
        record_every: int,
        divergence: float | None,
    ) -> None:
        name = type(solver).__name__
        if not isinstance(problem, Problem):
            raise TypeError(f"problem must be a Problem, such as SmoothProblem(function), got {problem!r}")
        problem.require(solver.needs, by=name)
        problem.check_start(start)
        OneOf(("auto", "never", "must")).check("resume", resume)
        Integer(low=1).check("record_every", record_every)
        Real(low=0.0, low_open=True, optional=True).check("divergence", divergence)
        if resume == "must" and checkpoint is None:
            raise ValueError("resume='must' needs a checkpoint file")
        self.solver, self.problem, self.name = solver, problem, name
        self.start: Point = tree.tree_map(lambda leaf: leaf.detach().clone(), start)
        self.device = tree.leaves(self.start)[0].device
        self.budget = Budget.of(budget)
        self.tolerance = Tolerance.of(tolerance)
        self.path = None if checkpoint is None else Path(checkpoint)
        self.save_every = Budget.of(checkpoint_every)
        if self.save_every.calls:
            raise ValueError(f"checkpoint_every must be a time or a number of steps, got {checkpoint_every!r}")
        self.resume = resume
        self.callbacks = tuple(callbacks)
        self.progress = progress
        self.generator = _generator(seed, generator, self.device)
        self.record_every = record_every
        self.divergence = divergence
        self.counts = OracleCounts()
        self.trace = Trace()
        self.steps = 0
        self.seconds = 0.0

    def __call__(self) -> Result[Any]:
        """Run to the end."""
        identity = self._identity() if self.path is not None else {}
        state, ended = self._begin(identity)
        measures = self._measure(state)
        if self.tolerance is not None:
            self.tolerance.check_measured(measures, self.name)
        first = self.trace.value[0]
        saved_steps, saved_at = self.steps, time.monotonic()
        calls, stop = self.counts.snapshot(), False
        with ProgressBar(self.name, self.progress) as bar:
            while ended is None:
                bar.update(self.budget.fraction(self.steps, self.seconds, calls), self.steps, measures)
                ended = self._over(measures, calls, stop)
                if ended is not None:
                    break
                try:
                    with self._method():
                        following = self.solver.step(self.problem, state)
                except Stalled as event:
                    ended = (Reason.STALLED, str(event))
                    break
                reached = self._measure(following)
                fault = divergence(reached, following.point, first, self.divergence)
                if fault is not None:
                    ended = (Reason.DIVERGED, f"{fault} in step {self.steps + 1}; the state before is returned")
                    break
                state, measures = following, reached
                self.steps += 1
                calls = self.counts.snapshot()
                if self.steps % self.record_every == 0:
                    self.trace.append(self.steps, self.seconds, measures, calls)
                report = Report(self.steps, self.seconds, state, measures, calls)
                for callback in self.callbacks:  # every one is called, also after one that asks to stop
                    stop = bool(callback(report)) or stop
                if self.path is not None:
                    passed = time.monotonic() - saved_at
                    if self.save_every.reached(self.steps - saved_steps, passed, {}):
                        self._save(identity, state, None)
                        saved_steps, saved_at = self.steps, time.monotonic()
        reason, message = ended
        if self.trace.step[-1] != self.steps:
            self.trace.append(self.steps, self.seconds, measures, self.counts.snapshot())
        if self.path is not None:
            self._save(identity, state, ended)
        return Result(
            solution=self.solver.solution(self.problem, state),
            state=state,
            trace=self.trace,
            reason=reason,
            message=message,
            steps=self.steps,
            seconds=self.seconds,
            calls=self.counts.snapshot(),
            measures=measures,
        )

    def _begin(self, identity: Mapping[str, Any]) -> tuple[Any, tuple[Reason, str] | None]:
        if self.path is not None and self.resume != "never":
            if self.path.exists():
                return self._restore(self.path, identity)
            if self.resume == "must":
                raise FileNotFoundError(f"resume='must', but there is no checkpoint {str(self.path)!r}")
        with self._method():
            state = self.solver.init(self.problem, self.start, self.generator)
        measures = self._measure(state)
        fault = divergence(measures, state.point, None, None)
        if fault is not None:
            raise ValueError(f"{self.name} cannot begin at this start: {fault}")
        self.trace.append(0, self.seconds, measures, self.counts.snapshot())
        if self.path is not None:
            self._save(identity, state, None)
        return state, None

    def _over(self, measures: Measures, calls: Mapping[str, int], stop: bool) -> tuple[Reason, str] | None:
        met = None if self.tolerance is None else self.tolerance.met(measures)
        if met is not None:
            return Reason.CONVERGED, met
        if stop:
            return Reason.STOPPED, "a callback asked to stop"
        used_up = self.budget.reached(self.steps, self.seconds, calls)
        return None if used_up is None else (Reason.BUDGET, used_up)

    @contextmanager
    def _method(self) -> Iterator[None]:
        """The method itself is timed and its oracle calls are counted; nothing else is."""
        begun = time.perf_counter()
        try:
            with counting(self.counts), torch.no_grad():
                yield
        finally:
            if self.device.type != "cpu":
                torch.accelerator.synchronize(self.device)
            self.seconds += time.perf_counter() - begun

    def _measure(self, state: Any) -> Measures:
        with uncounted(), torch.no_grad():
            return self.solver.measure(self.problem, state)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued, in the order in which it is compared."""
        solver: Any = self.solver
        settings = {
            field.name: _setting(getattr(solver, field.name))
            for field in dataclasses.fields(solver)  # each in words where that is exact, else as a digest
        }
        return {
            "solver": f"{type(solver).__module__}:{type(solver).__qualname__}",
            "settings": settings,
            "start": tree.describe(self.start),
            "values of start": fingerprint(self.start),
            "problem": self.problem.fingerprint(),
            "seed": self.generator.initial_seed(),
        }

    def _save(self, identity: Mapping[str, Any], state: Any, ended: tuple[Reason, str] | None) -> None:
        assert self.path is not None
        generators = [self.generator]
        content = {
            "identity": dict(identity),
            "state": files.encode(state, generators),
            "generators": [(str(generator.device), generator.get_state()) for generator in generators],
            "steps": self.steps,
            "seconds": self.seconds,
            "calls": self.counts.snapshot(),
            "trace": self.trace.pack(),
            "ended": None if ended is None else (ended[0].value, ended[1]),
            "versions": _versions(),
        }
        files.save(self.path, content)

    def _restore(self, path: Path, identity: Mapping[str, Any]) -> tuple[Any, tuple[Reason, str] | None]:
        content = files.load(path)
        for name, ours in identity.items():
            theirs = content["identity"].get(name)
            if theirs != ours:
                written = "" if content["versions"] == _versions() else f" (it was written under {content['versions']})"
                raise files.CheckpointError(
                    f"checkpoint {str(path)!r} is of another run{written}: its {_difference(name, theirs, ours)}. "
                    "Name another file, delete this one, or pass resume='never' to overwrite it"
                )
        generators = [self.generator]
        generators += [torch.Generator(device=device) for device, _ in content["generators"][1:]]
        for generator, (_, saved) in zip(generators, content["generators"], strict=True):
            generator.set_state(saved)
        state = files.decode(content["state"], generators)
        self.steps, self.seconds = content["steps"], content["seconds"]
        self.counts = OracleCounts(content["calls"])
        self.trace = Trace.unpack(content["trace"])
        ended = None
        if content["ended"] is not None:
            ended = (Reason(content["ended"][0]), content["ended"][1])
            if len(self.trace) > 1 and self.trace.step[-1] % self.record_every:
                self.trace.drop_last()  # recorded only because it was the last; the run may go on from here
        # A run that diverged or stalled would do so again; one that met a limit may find the limit moved.
        return state, ended if ended is not None and ended[0] in (Reason.DIVERGED, Reason.STALLED) else None


def _generator(seed: int | None, generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    if generator is None:
        Integer(low=0, optional=True).check("seed", seed)
        return torch.Generator(device=device).manual_seed(0 if seed is None else seed)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r} of type {type(generator).__name__}")
    if seed is not None:
        raise ValueError(f"give either seed or generator, got seed={seed!r} and a generator")
    return generator


def _versions() -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor}, torch {torch.__version__}"


def _setting(value: Any) -> str:
    if isinstance(value, float):
        value = float(value)  # numpy's float64 is a float that prints otherwise
    exact = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if exact else f"{type(value).__name__} {fingerprint(value)}"


def _difference(name: str, theirs: Any, ours: Any) -> str:
    if name == "settings" and isinstance(theirs, dict):
        changed = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        parts = [f"{key} is {theirs.get(key)}, here it is {ours.get(key)}" for key in changed]
        return f"hyper-parameters differ ({'; '.join(parts)})"
    if name in ("problem", "values of start"):
        return "problem differs (in its class, data or functions)" if name == "problem" else "starting point differs"
    return f"{name} is {theirs}, here it is {ours}"
