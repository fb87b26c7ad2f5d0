"""What the experiments share: equal grids, paired seeds, intervals.

Every side of a comparison gets the same number of settings to choose from, is tuned on the validation split with one
seed, and is scored on the test split with fresh seeds. Seeds fix initial parameters and batches for all sides alike, so
that differences are taken pair by pair.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from steepest.arena.results import CurvePoint
from steepest.arena.statistics import bootstrap_interval
from steepest.arena.task import Task
from steepest.arena.train import Outcome, train
from steepest.catalogue import card as find_card
from steepest.core.card import MethodCard

from .claim import Context
from .evidence import Judgement, Verdict

__all__ = [
    "ENOUGH",
    "WIDENED",
    "Interval",
    "Side",
    "Tuned",
    "difference",
    "grid",
    "interval",
    "mean",
    "part_of_budget",
    "parts",
    "percent",
    "remembered",
    "repeat",
    "too_few",
    "tune",
    "watched",
]

#: With fewer scored seeds than this, no claim that rests on training is decided.
ENOUGH = 3
#: What the pages tell of how the ranges of learning rates came about.
WIDENED = (
    "The ranges of learning rates were widened once, for all sides alike, because winners of a first run lay at their "
    "edges."
)


def grid(**choices: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """All combinations of the values given per setting."""
    return tuple(dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a method and the settings that it may choose from.

    Args:
        name: as figures and legends call it.
        method: the card's name.
        grid: the settings.
        fixed: settings that all of ``grid`` share, over the card's own.
    """

    name: str
    method: str
    grid: Sequence[Mapping[str, Any]]
    fixed: Mapping[str, Any]

    def card(self) -> MethodCard:
        """The card; nothing of it is searched here."""
        found = find_card(self.method)
        return replace(found, settings={**found.settings, **self.fixed})


@dataclass(frozen=True)
class Tuned:
    """What tuning found: the settings, their validation score, and the score of every setting tried."""

    settings: Mapping[str, Any]
    score: float | None
    scores: Sequence[float | None]
    at_edge: bool  # whether the winner's learning rate is the smallest or largest of the grid


def tune(context: Context, task: Task, side: Side, steps: int) -> Tuned:
    """The setting of the grid that scores best on the validation split after ``steps`` steps.

    Raises:
        DataNotFound: the task's data are missing.
        RuntimeError: no setting came through; the message has the reasons.
    """
    task.splits()  # inside a run, missing data would look like a failure of the method
    scores: list[float | None] = []
    reasons = []
    for number, settings in enumerate(side.grid, 1):
        context.say(f"tuning {side.name}: {number} of {len(side.grid)}")
        ended = train(task, side.card(), settings, seed=context.tuning_seed, steps=steps, device=context.device)
        scores.append(ended.metric if ended.status == "complete" else None)
        reasons.append(ended.reason)
    sign = 1.0 if task.higher_is_better else -1.0
    best = max(range(len(scores)), key=lambda k: -math.inf if scores[k] is None else sign * scores[k])
    if scores[best] is None:
        raise RuntimeError(f"no setting of {side.name} trains {task.name}: {'; '.join(sorted(set(map(str, reasons))))}")
    rates = [s["lr"] for s in side.grid if "lr" in s]
    chosen = side.grid[best]
    at_edge = len(set(rates)) > 1 and chosen["lr"] in (min(rates), max(rates))
    return Tuned(chosen, scores[best], scores, at_edge)


def repeat(
    context: Context, task: Task, side: Side, settings: Mapping[str, Any], seeds: Sequence[int], steps: int
) -> list[Outcome]:
    """One run per seed with these settings, scored on the test split."""
    found = []
    for number, seed in enumerate(seeds, 1):
        context.say(f"training {side.name}: {number} of {len(seeds)}")
        found.append(train(task, side.card(), settings, seed=seed, steps=steps, device=context.device, test=True))
    return found


def remembered(task: Task) -> tuple[Task, list[nn.Module]]:
    """A task that remembers its latest model, and the list that will hold it: in training, and still after it."""
    held: list[nn.Module] = []

    def build() -> nn.Module:
        held[:] = [task.model()]
        return held[0]

    return replace(task, model=build), held


def watched(task: Task, look: Callable[[nn.Module, int], None]) -> tuple[Task, Callable[[int, CurvePoint], None]]:
    """A task that remembers the model in training, and the ``watch`` argument for :func:`train` that looks at it.

    Args:
        look: called as ``look(model, step)`` after every evaluation but the last.
    """
    task, held = remembered(task)

    def watch(number: int, point: CurvePoint) -> None:
        look(held[0], point.step)

    return task, watch


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % bootstrap interval; the ends are ``None`` for fewer than two values."""

    mean: float
    low: float | None
    high: float | None

    def figures(self, name: str) -> dict[str, float | None]:
        """As entries of the figures: ``name``, ``name_low``, ``name_high``."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


def interval(values: Sequence[float]) -> Interval:
    """The mean of the values and its interval."""
    ends = bootstrap_interval(values)
    return Interval(float(np.mean(values)), *(ends if ends is not None else (None, None)))


def difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Interval | None:
    """The paired difference ``ours - theirs``; ``None`` if a run of either side has no score."""
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs or any(a is None or b is None for a, b in pairs):
        return None
    return interval([float(a) - float(b) for a, b in pairs if a is not None and b is not None])


def percent(name: str, ours: Sequence[float | None], theirs: Sequence[float | None]) -> dict[str, float | None]:
    """Figures of the paired differences ``ours - theirs`` in per cent of theirs; ``None`` if a run has no score."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if not pairs or len(pairs) < len(ours):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return interval([100 * (a / b - 1) for a, b in pairs]).figures(name)


def part_of_budget(target: float | None, parts: Sequence[float], losses: Sequence[float | None]) -> float | None:
    """The part of the budget at which losses meet the target, by interpolation in the logarithm of the budget.

    The smallest part stands for itself and less; where the largest misses the target, the line is drawn on to at most
    twice that part.

    Args:
        target: the loss to be met; ``None`` gives ``None``.
        parts: of the budget, ascending, the last one 1.
        losses: of runs with those parts of the budget; ``None`` among them gives ``None``.
    """
    if target is None or any(v is None for v in losses):
        return None
    known = np.minimum.accumulate([float(v) for v in losses if v is not None])
    places = np.log2(parts)
    if target < known[-1]:
        slope = (known[-2] - known[-1]) / (places[-1] - places[-2])
        beyond = (known[-1] - target) / slope if slope > 0 else math.inf
        return float(2 ** min(1.0, beyond))
    return float(2 ** np.interp(-target, -known, places))


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, or ``None`` if a value is missing."""
    return (
        None
        if not values or any(v is None for v in values)
        else float(np.mean([float(v) for v in values if v is not None]))
    )


def too_few(seeds: int) -> Judgement:
    """The judgement of an experiment with fewer than :data:`ENOUGH` seeds."""
    counted = "one seed is" if seeds == 1 else f"{seeds} seeds are"
    return Judgement(Verdict.INCONCLUSIVE, f"{counted.capitalize()} too few to decide; {ENOUGH} are needed.")


def parts(holds: Sequence[bool], said: str) -> str:
    """A sentence with, in front, which numbered parts of the rule hold and which do not."""

    def listed(wanted: bool) -> str:
        numbers = [str(number) for number, held in enumerate(holds, 1) if held is wanted]
        together = " and ".join(filter(None, (", ".join(numbers[:-1]), *numbers[-1:])))
        return f"{'Part' if len(numbers) == 1 else 'Parts'} {together}" if numbers else ""

    yes, no = listed(True), listed(False)
    plural = "s" if yes.startswith("Part ") else ""
    told = [f"{yes} hold{plural}"] if yes else []
    told += [f"{no} do{'es' if no.startswith('Part ') else ''} not hold"] if no else []
    return f"{'; '.join([told[0], *(t[0].lower() + t[1:] for t in told[1:])])}. {said}"
