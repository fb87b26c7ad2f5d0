"""Shampoo against Adam on a deep autoencoder: steps and processor time to Adam's final loss, at several intervals."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest.catalogue import card

from .autoencoder import autoencoder
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, grid, interval, mean, parts, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Steps between two computations of the roots.
INTERVALS = (1, 10, 50)
#: Shampoo must need at most this part of Adam's steps.
PART = 0.75
#: Shampoo's budgets, as parts of Adam's; each is a run of its own with a full schedule.
_BUDGETS = (0.125, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(16, 1, 1),
    Size.LAPTOP: _Scale(400, 4, 5),
    Size.FULL: _Scale(20_000, 5, 7, full=True),
}


def _sides(scale: _Scale) -> tuple[Side, ...]:
    """Adam, and Shampoo at each interval: as many learning rates for each, in steps of about 3."""
    order = (2, 1, 3, 0, 4, 5, 6)[: scale.rates]  # the usual ones first, for the sizes that try few
    adam = sorted((3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-4, 1e-1)[k] for k in order)
    ours = sorted((1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-4, 3e-1)[k] for k in order)
    return (
        Side("Adam", "adam", grid(lr=adam), {}),
        *(Side(_name(n), "shampoo", grid(lr=ours), {"precondition_every": n, "start": 10}) for n in INTERVALS),
    )


def _name(every: int) -> str:
    return f"Shampoo, every {every}"


def measure(context: Context) -> Measured:
    """Tune every side at the full budget; then Shampoo at shorter budgets, each with a schedule of its own."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    task = autoencoder(full=scale.full, batch=128 if scale.full else 32)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    losses: dict[str, dict[str, list[float | None]]] = {}
    series: dict[str, Any] = {"budgets": list(_BUDGETS), "loss": losses, "settings": {}, "landscape": {}, "time": {}}
    edges = 0
    target: list[float | None] = []
    base = 0.0
    for side in _sides(scale):
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][side.name] = dict(tuned.settings)
        series["landscape"][side.name] = [[s["lr"], v] for s, v in zip(side.grid, tuned.scores, strict=True)]
        losses[side.name] = {}
        spent = count = 0.0
        for budget in _BUDGETS if side.method == "shampoo" else (1.0,):
            steps = max(1, round(budget * scale.steps))
            began = time.process_time()
            runs = repeat(context, task, side, tuned.settings, seeds, steps)
            spent += time.process_time() - began
            count += steps * len(seeds)
            losses[side.name][str(budget)] = [run.test_loss for run in runs]
        cost = 1000 * spent / count
        key = side.name.lower().replace(", ", "_").replace(" ", "_")
        figures[f"milliseconds_per_step_{key}"] = cost
        figures[f"loss_{key}"] = mean(losses[side.name]["1.0"])
        if side.method != "shampoo":
            target, base = losses[side.name]["1.0"], cost
            continue
        found = [budget_for(goal, [losses[side.name][str(b)][k] for b in _BUDGETS]) for k, goal in enumerate(target)]
        series["time"][side.name] = cost / base
        for name, factor in (("steps", 1.0), ("time", cost / base)):
            known = [factor * v for v in found if v is not None]
            whole = len(known) == len(found)
            figures |= (
                interval(known).figures(f"{name}_{key}") if whole else {f"{name}_{key}{end}": None for end in _ENDS}
            )
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": scale.rates,
        "steps of Adam": scale.steps,
        "steps of Shampoo": ", ".join(str(max(1, round(b * scale.steps))) for b in _BUDGETS),
        "batch size": task.batch_size,
    }
    return Measured(figures, series, seeds, budgets)


def budget_for(goal: float | None, losses: Sequence[float | None]) -> float | None:
    """The part of the budget at which the loss is ``goal``, by interpolation between :data:`_BUDGETS`.

    The smallest budget if that is enough already, and 2 where the largest is not.
    """
    if goal is None or any(v is None for v in losses):
        return None
    falling = np.minimum.accumulate([float(v) for v in losses if v is not None])
    if falling[-1] > goal:
        return 2.0
    # np.interp wants rising abscissae; a tie has no slope and counts as the smaller budget.
    return float(2 ** np.interp(-goal, -falling, np.log2(_BUDGETS)))


_ENDS = ("", "_low", "_high")

RULE = f"""\
A ratio of steps is the part of Adam's steps with which Shampoo reaches Adam's final test loss, paired by seed: by
interpolation between runs at {", ".join(f"{b:g}" for b in _BUDGETS)} of Adam's budget, and 2 where the last is not
enough. A ratio of time is that times the ratio of processor time per step (gradients and evaluations included).

1. With roots every 10 steps, the interval of the ratio of steps lies at or below {PART:g}.
2. With roots every 50 steps, at least half of the steps that roots every 10 save are saved.
3. With roots every 10 or every 50 steps, the interval of the ratio of time lies below 1.

- **reproduced**: all three. **partly**: 1, but not 2 or not 3.
- **not reproduced**: with roots every 10 steps the interval of the ratio of steps lies above {PART:g}.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    steps = {n: [figures.get(f"steps_shampoo_every_{n}{end}") for end in _ENDS] for n in INTERVALS}
    spent = {n: [figures.get(f"time_shampoo_every_{n}{end}") for end in _ENDS] for n in INTERVALS}
    if any(None in values for values in (*steps.values(), *spent.values())):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    fewer = steps[10][2] <= PART
    kept = steps[10][0] < 1 and 1 - steps[50][0] >= 0.5 * (1 - steps[10][0])
    faster = min(spent[10][2], spent[50][2]) < 1
    said = "; ".join(
        f"every {n}: {steps[n][0]:.2f} ({steps[n][1]:.2f} to {steps[n][2]:.2f}) of the steps, {spent[n][0]:.2f} "
        f"({spent[n][1]:.2f} to {spent[n][2]:.2f}) of the time"
        for n in INTERVALS
    )
    said = parts([fewer, kept, faster], f"To Adam's final loss Shampoo takes, with roots {said}.")
    if fewer:
        return Judgement(Verdict.REPRODUCED if kept and faster else Verdict.PARTLY, said)
    return Judgement(Verdict.NOT_REPRODUCED if steps[10][1] > PART else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test loss over the budget in steps, and in processor time."""
    figure, (left, right) = canvas()
    (goal, *_) = series["loss"]["Adam"].values()
    known = [v for v in goal if v is not None]
    for axes, unit in ((left, "steps"), (right, "time")):
        if known:
            axes.axhline(float(np.mean(known)), color=INK, linewidth=1, linestyle="--")
            axes.plot([1.0], [float(np.mean(known))], MARKERS[3], color=INK, label="Adam", markersize=7)
        for index, every in enumerate(INTERVALS):
            name = _name(every)
            scale = series["time"][name] if unit == "time" else 1.0
            points = [(scale * b, v) for b in series["budgets"] for v in series["loss"][name][str(b)] if v is not None]
            if points:
                axes.plot(*zip(*points, strict=True), MARKERS[index], color=COLOURS[index], alpha=0.3, markersize=3.5)
            means = [(scale * b, mean(series["loss"][name][str(b)])) for b in series["budgets"]]
            line = [p for p in means if p[1] is not None]
            if line:
                axes.plot(*zip(*line, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name)
        axes.set_xscale("log", base=2)
        ticks = (*_BUDGETS, *((2.0, 4.0, 8.0) if unit == "time" else ()))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"{'steps' if unit == 'steps' else 'processor time'}, as part of Adam's")
    left.set_ylabel("test loss (squared error of a pixel)")
    left.set_title("Loss after so many steps")
    right.set_title("Loss after so much time")
    left.legend()
    return figure


CLAIM = Claim(
    method="shampoo",
    title="Shampoo",
    statement=card("shampoo").claim,
    paper=card("shampoo").papers[0],
    test="""\
A deep autoencoder of handwritten digits is trained with Adam and with Shampoo (AdaGrad's step length, first roots at
step 10, then every 1, 10 or 50 steps). Each of the four is tuned over equally many learning rates at the full budget.
With fresh seeds, Shampoo is then trained with shorter budgets, each with its own warm-up and cosine, to find with how
many steps it reaches the test loss that Adam has after all of its own. Time is processor time on one thread; on so
small a network it consists of the calls more than of the arithmetic.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 16 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits, 9 thousand parameters, 400 steps, 5 settings and 4 seeds per side; "
        "minutes",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says), 438 thousand parameters, 20,000 steps of 128, "
        "7 settings and 5 seeds per side; days on a CPU (the paper's own runs, Transformers on WMT'14, need its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
