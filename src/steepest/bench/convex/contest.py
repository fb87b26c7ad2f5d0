"""One problem, several solvers, equal accuracy: how the convex benchmarks measure.

Every solver has its own stopping rule. So for each the loosest of its tolerances whose answer is accurate enough, by
one judge for all, is found first; then all run in turns with theirs, and medians count.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

__all__ = ["TOLERANCES", "ConvexBenchmark", "Outcome", "Promise", "Side", "contest"]

#: What is tried, from loose to tight.
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)


@dataclass(frozen=True)
class Side:
    """A solver with its settings.

    Args:
        name: what the table calls it.
        package: whose it is; ``"steepest"`` for ours.
        solve: from a tolerance, in its own meaning, to what the judge of the contest takes.
        tolerances: to try, from loose to tight.
    """

    name: str
    package: str
    solve: Callable[[float], Any]
    tolerances: Sequence[float] = TOLERANCES


@dataclass(frozen=True)
class Outcome:
    """A line of the table; ``note`` says why there are no seconds, ``spent`` how many its last try took in vain."""

    section: str
    problem: str
    target: str
    name: str
    package: str
    seconds: float | None = None
    reached: float | None = None
    of_best_peer: float | None = None
    note: str = ""
    spent: float | None = None


@dataclass(frozen=True)
class Promise:
    """Something promised, with what came out; ``met`` is None where it could not be measured."""

    text: str
    figure: str
    met: bool | None


@dataclass(frozen=True)
class ConvexBenchmark:
    """All that was measured, and on what."""

    outcomes: list[Outcome]
    promises: list[Promise]
    tables: dict[str, list[dict[str, Any]]]
    threads: int
    rounds: int
    processor: str
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return asdict(self)


def contest(
    section: str,
    problem: str,
    target: float,
    unit: str,
    judge: Callable[[Any], float],
    sides: Sequence[Side],
    *,
    rounds: int = 3,
    patience: float = 20.0,
) -> list[Outcome]:
    """Measure all sides on one problem.

    Args:
        section: the part of the benchmark.
        problem: the problem and its data in words.
        target: the accuracy that each has to reach, in the judge's measure.
        unit: what the judge measures, in words.
        judge: the accuracy of an answer; smaller is better.
        sides: the solvers.
        rounds: timed runs of each; the median counts.
        patience: seconds that a run may take before tighter tolerances are given up.
    """
    wanted = f"{unit} <= {target:g}"
    ready: list[tuple[Side, float, float]] = []
    outcomes: list[Outcome] = []
    with torch.no_grad():
        for side in sides:
            reached, note, spent = float("inf"), "", None
            with contextlib.suppress(Exception):  # it is seen below; many peers compile in their first call
                side.solve(side.tolerances[0])
            for tolerance in side.tolerances:
                try:
                    begun = time.perf_counter()
                    reached = judge(side.solve(tolerance))
                    seconds = time.perf_counter() - begun
                except Exception as error:  # a peer that cannot solve a problem is a result too
                    note = f"failed: {type(error).__name__}: {error}"
                    break
                if reached <= target:
                    ready.append((side, tolerance, reached))
                    break
                if seconds > patience:
                    note, spent = f"reached {reached:.1e} in {seconds:.0f} s; given up", seconds
                    break
            else:
                note = f"reached {reached:.1e} at its tightest tolerance"
            if note:
                outcomes.append(Outcome(section, problem, wanted, side.name, side.package, note=note, spent=spent))
        taken: dict[str, list[float]] = {side.name: [] for side, _, _ in ready}
        for _ in range(rounds):
            for side, tolerance, _ in ready:
                begun = time.perf_counter()
                side.solve(tolerance)
                taken[side.name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    peers = [medians[side.name] for side, _, _ in ready if side.package != "steepest"]
    best = min(peers, default=None)
    for side, _, reached in ready:
        seconds = medians[side.name]
        ratio = None if best is None else seconds / best
        outcomes.append(Outcome(section, problem, wanted, side.name, side.package, seconds, reached, ratio))
    return sorted(outcomes, key=lambda o: (o.seconds is None, o.seconds))


def best_of_ours(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The fastest of ours in a contest."""
    ours = [o for o in outcomes if o.package == "steepest" and o.seconds is not None]
    return min(ours, key=lambda o: o.seconds or 0.0, default=None)


def promise_ratio(text: str, limit: float, outcomes: Sequence[Outcome]) -> Promise:
    """A promise that our best takes at most ``limit`` times the best peer's time, in every contest of ``outcomes``."""
    by_problem: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_problem.setdefault(f"{outcome.problem}, {outcome.target}", []).append(outcome)
    ratios: dict[str, float] = {}
    for problem, rows in by_problem.items():
        ours = best_of_ours(rows)
        if ours is not None and ours.of_best_peer is not None:
            ratios[problem] = ours.of_best_peer
        elif ours is not None and all(r.spent is not None for r in rows if r.package != "steepest"):
            # Whoever was given up needs longer than that: the ratio is at most this.
            spent = [r.spent for r in rows if r.spent is not None]
            if spent and ours.seconds is not None:
                ratios[problem] = ours.seconds / min(spent)
        elif ours is None and any(r.seconds is not None for r in rows):
            ratios[problem] = float("inf")
    if not ratios:
        return Promise(text, "no peer to compare with", None)
    worst = max(ratios, key=lambda problem: ratios[problem])
    low, high = min(ratios.values()), ratios[worst]
    return Promise(text, f"{low:.2f} to {high:.2f} (most: {worst})", high <= limit)
