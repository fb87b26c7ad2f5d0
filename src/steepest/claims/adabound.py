"""AdaBound against SGD with momentum, Adam and AMSGrad on handwritten digits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steepest.arena.train import Outcome, train
from steepest.catalogue import card

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Points of accuracy below SGD that still count as no gap.
MARGIN = 0.5
#: Training loss at the early point, against Adam's.
EARLY = 1.1
#: The early point: this part of the budget.
BEGINNING = 0.1


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    choices: int  # settings per side
    robustness: int  # seeds per point of the map; 0 leaves it out
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(40, 1, 2, 0),
    Size.LAPTOP: _Scale(400, 8, 8, 2),
    Size.FULL: _Scale(50_000, 5, 8, 3, full=True),
}
_MAP = grid(lr=(1e-4, 1e-3, 1e-2, 1e-1), final_lr=(1e-3, 1e-2, 1e-1, 1.0))


def _sides(choices: int) -> tuple[Side, ...]:
    def some(settings: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        middle = (len(settings) - choices) // 2
        return settings[middle : middle + choices]

    adaptive = grid(lr=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1))
    return (
        Side("AdaBound", "adabound", some(grid(final_lr=(0.1, 1.0), lr=(3e-4, 1e-3, 3e-3, 1e-2))), {}),
        Side(
            "SGD",
            "sgd",
            some(grid(lr=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0))),
            {"momentum": 0.9, "nesterov": False},
        ),
        Side("Adam", "adam", some(adaptive), {}),
        Side("AMSGrad", "adam", some(adaptive), {"amsgrad": True}),
    )


def _early(run: Outcome, steps: int) -> float | None:
    """The mean training loss over the evaluation interval that ends at the early point."""
    return next((p.train_loss for p in run.curve if p.step >= BEGINNING * steps), None)


def measure(context: Context) -> Measured:
    """Tune all four, train with fresh seeds; then AdaBound over a wide range of settings."""
    scale = _SCALES[context.size]
    task = handwriting("perceptron", full=scale.full, batch=128 if scale.full else 32)
    seeds = context.seeds(scale.seeds)
    sides = _sides(scale.choices)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"accuracy": {}, "curves": {}, "rates": {}, "settings": {}, "map": []}
    accuracy: dict[str, list[float | None]] = {}
    early: dict[str, float | None] = {}
    edges = 0
    for side in sides:
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        runs = repeat(context, task, side, tuned.settings, seeds, scale.steps)
        accuracy[side.name] = [None if r.test_metric is None else 100 * r.test_metric for r in runs]
        early[side.name] = mean([_early(r, scale.steps) for r in runs])
        figures[f"accuracy_{side.name.lower()}"] = mean(accuracy[side.name])
        figures[f"early_train_loss_{side.name.lower()}"] = early[side.name]
        series["accuracy"][side.name] = accuracy[side.name]
        series["settings"][side.name] = dict(tuned.settings)
        series["rates"][side.name] = [
            [s["lr"], None if v is None else 100 * v] for s, v in zip(side.grid, tuned.scores, strict=True)
        ]
        series["curves"][side.name] = [[[p.step, p.train_loss] for p in r.curve[1:]] for r in runs]
    for rival in ("SGD", "Adam", "AMSGrad"):
        name = f"points_over_{rival.lower()}"
        found = difference(accuracy["AdaBound"], accuracy[rival])
        figures |= found.figures(name) if found else {name: None}
    both = early["AdaBound"], early["Adam"]
    figures["early_train_loss_over_adams"] = None if both[0] is None or not both[1] else both[0] / both[1]
    figures["winners_at_edge_of_grid"] = edges
    if scale.robustness:
        spread = []
        for settings in _MAP:
            context.say(f"AdaBound over its settings: {settings}")
            validated = [
                train(task, sides[0].card(), settings, seed=seed, steps=scale.steps, device=context.device).metric
                for seed in seeds[: scale.robustness]
            ]
            value = mean(validated)
            spread.append(0.0 if value is None else 100 * value)
            series["map"].append([settings["lr"], settings["final_lr"], None if value is None else 100 * value])
        figures["map_lowest_accuracy"] = min(spread)
        figures["map_highest_accuracy"] = max(spread)
    budgets = {
        "settings tried per side": scale.choices,
        "steps per run": scale.steps,
        "batch size": task.batch_size,
        "settings of the robustness map": len(_MAP) if scale.robustness else 0,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Differences of test accuracy are in points, paired by seed; each of three parts may hold, be refuted, or stay open:

1. no gap to SGD: AdaBound's accuracy less tuned SGD's. Holds if its interval lies above -{MARGIN:g}, refuted if below.
2. better than adaptive methods: AdaBound's accuracy less Adam's, and less AMSGrad's. Holds if both intervals lie above
   0, refuted if either lies below.
3. as fast as Adam early: mean training loss just before {100 * BEGINNING:g} % of the budget, over Adam's. Holds if at
   most {EARLY:g}, else refuted.

- **reproduced**: all three hold. **partly**: at least one holds and at most one is refuted.
- **not reproduced**: two or more are refuted, or one is refuted and none holds.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or no part holds or is refuted."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    sgd, adam, amsgrad = (
        [figures.get(f"points_over_{name}{end}") for end in ("", "_low", "_high")]
        for name in ("sgd", "adam", "amsgrad")
    )
    early = figures["early_train_loss_over_adams"]
    if None in (*sgd, *adam, *amsgrad, early):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    holds = [sgd[1] >= -MARGIN, adam[1] > 0 and amsgrad[1] > 0, early <= EARLY]
    refuted = [sgd[2] < -MARGIN, adam[2] < 0 or amsgrad[2] < 0, early > EARLY]
    said = "AdaBound's test accuracy differs by {:+.2f} points ({:+.2f} to {:+.2f}) from tuned SGD's, ".format(*sgd)
    said += "by {:+.2f} ({:+.2f} to {:+.2f}) from tuned Adam's and ".format(*adam)
    said += "by {:+.2f} ({:+.2f} to {:+.2f}) from tuned AMSGrad's; ".format(*amsgrad)
    said += f"its early training loss is {early:.2f} times Adam's."
    if "map_lowest_accuracy" in figures:
        said += (
            f" Over 16 settings from lr 1e-4 to 0.1 and final_lr 1e-3 to 1 its validation accuracy lies between "
            f"{figures['map_lowest_accuracy']:.1f} % and {figures['map_highest_accuracy']:.1f} %."
        )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if sum(refuted) >= 2 or (any(refuted) and not any(holds)):
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.PARTLY if any(holds) else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Accuracy by seed, training loss, the landscape of learning rates, and AdaBound's map."""
    figure, (accuracy, curves, rates, heat) = canvas(rows=2)
    names = list(series["accuracy"])
    for index, name in enumerate(names):
        colour, marker = COLOURS[index], MARKERS[index]
        values = [v for v in series["accuracy"][name] if v is not None]
        accuracy.plot([index] * len(values), values, marker, color=colour, alpha=0.4)
        if values:
            accuracy.plot([index - 0.25, index + 0.25], [sum(values) / len(values)] * 2, color=colour, linewidth=2.5)
        runs = series["curves"][name]
        steps = [p[0] for p in runs[0]]
        means = [sum(run[k][1] for run in runs) / len(runs) for k in range(min(map(len, runs)))]
        curves.plot(steps[: len(means)], means, color=colour, label=name)
        if name != "AdaBound":
            known = [p for p in series["rates"][name] if p[1] is not None]
            rates.plot(*zip(*known, strict=True), color=colour, marker=marker, label=name)
    accuracy.set_xticks(range(len(names)), names)
    accuracy.set_ylabel("test accuracy (%)")
    accuracy.set_title("After tuning: each seed, and the mean")
    curves.set_yscale("log")
    curves.set_xlabel("step")
    curves.set_ylabel("training loss")
    curves.set_title("Training loss of the tuned settings")
    curves.legend()
    for final in sorted({p[1] for p in series["map"]}):
        known = [(p[0], p[2]) for p in series["map"] if p[1] == final and p[2] is not None]
        rates.plot(
            *zip(*known, strict=True),
            color=COLOURS[0],
            alpha=0.6,
            linewidth=1.2,
            label="AdaBound" if final == 0.1 else None,
        )
    rates.set_xscale("log")
    rates.set_xlabel("learning rate")
    rates.set_ylabel("validation accuracy (%)")
    rates.set_title("Sensitivity (AdaBound: a line per final_lr)")
    rates.legend()
    _heat(heat, series["map"])
    return figure


def _heat(axes: Any, points: list[list[Any]]) -> None:
    axes.grid(False)
    axes.set_title("AdaBound: validation accuracy (%)")
    if not points:
        axes.text(0.5, 0.5, "not run at this size", ha="center", va="center", transform=axes.transAxes)
        return
    rates, finals = (sorted({p[k] for p in points}) for k in (0, 1))
    table = {(p[0], p[1]): p[2] for p in points}
    values = [[table[r, f] or 0.0 for r in rates] for f in finals]
    axes.imshow(values, origin="lower", aspect="auto", cmap="cividis")
    low, high = min(map(min, values)), max(map(max, values))
    for row, line in enumerate(values):
        for column, v in enumerate(line):
            dark = high > low and (v - low) / (high - low) > 0.55
            axes.text(column, row, f"{v:.1f}", ha="center", va="center", color="black" if dark else "white", fontsize=9)
    axes.set_xticks(range(len(rates)), [f"{r:g}" for r in rates])
    axes.set_yticks(range(len(finals)), [f"{f:g}" for f in finals])
    axes.set_xlabel("lr")
    axes.set_ylabel("final_lr")


CLAIM = Claim(
    method="adabound",
    title="AdaBound",
    statement=card("adabound").claim,
    paper=card("adabound").papers[0],
    test="""\
A perceptron with two hidden layers classifies handwritten digits. AdaBound, SGD with momentum 0.9, Adam and AMSGrad
each get the same number of settings (learning rates; for AdaBound four times two values of `lr` and `final_lr`), tuned
on a validation split; the winners are trained again with fresh seeds under the same schedule (warm-up, then cosine) and
scored on the test split. AdaBound is then run over four decades of `lr` and of `final_lr`. """
    + WIDENED
    + " Part 2 was made stricter then: before, AdaBound had to beat only one of the two, the better on validation.",
    rule=RULE,
    sizes={
        Size.SMOKE: "two settings, one seed, 40 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits (539 training images), 8 settings and 8 seeds per side, 400 steps; minutes",
        Size.FULL: "MNIST's 60,000 training images as in the paper (found as `steepest.data.mnist` says), 8 settings "
        "and 5 seeds per side, 50,000 steps of 128; a day on 8 cores (the paper also trains on "
        "CIFAR-10 and Penn Treebank)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
