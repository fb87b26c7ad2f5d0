"""AdaHessian against SGD, Adam and AdamW on handwritten digits: accuracy, and how much the learning rate matters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steepest.catalogue import card

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Points of test accuracy that still count as equal.
MARGIN = 0.5
#: A learning rate is good if its validation accuracy is within so many points of the method's best.
GOOD = 2.0
_RIVALS = ("SGD", "Adam", "AdamW")


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(8, 1, 1),
    Size.LAPTOP: _Scale(300, 6, 9),
    Size.FULL: _Scale(30_000, 5, 9, full=True),
}


def _sides(scale: _Scale) -> tuple[Side, ...]:
    """Nine learning rates each in steps of about 3, around what is usual for the method, and no weight decay."""

    def rates(middle: float) -> list[float]:
        factors = (1.0, 0.3, 3.0, 0.1, 10.0, 0.03, 30.0, 0.01, 100.0)[: scale.rates]
        return sorted(middle * f for f in factors)

    return (
        Side("AdaHessian", "adahessian", grid(lr=rates(0.1)), {}),
        Side("SGD", "sgd", grid(lr=rates(0.03)), {}),
        Side("Adam", "adam", grid(lr=rates(3e-3)), {}),
        Side("AdamW", "adamw", grid(lr=rates(3e-3)), {"weight_decay": 0.05}),
    )


def measure(context: Context) -> Measured:
    """Tune all for the same steps; score the winners with fresh seeds, AdaHessian also at equal evaluations."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    task = handwriting("convolutional", full=scale.full)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"accuracy": {}, "landscape": {}, "settings": {}}
    scores: dict[str, list[float | None]] = {}
    edges = 0
    for side in _sides(scale):
        # An estimate of curvature counts as one more gradient evaluation, so AdaHessian's steps take two.
        evaluations = scale.steps * (2 if side.name == "AdaHessian" else 1)
        tuned = tune(context, task, side, evaluations)
        edges += tuned.at_edge
        scores[side.name] = _points(repeat(context, task, side, tuned.settings, seeds, evaluations))
        found = [(s["lr"], v) for s, v in zip(side.grid, tuned.scores, strict=True) if v is not None]
        best = max(v for _, v in found)
        good = [r for r, v in found if v >= best - GOOD / 100]
        figures[f"good_learning_rates_{side.name.lower()}"] = len(good)
        figures[f"accuracy_{side.name.lower()}"] = mean(scores[side.name])
        series["landscape"][side.name] = found
        series["settings"][side.name] = dict(tuned.settings)
        if side.name == "AdaHessian":
            half = _points(repeat(context, task, side, tuned.settings, seeds, scale.steps))
            scores["AdaHessian, equal evaluations"] = half
            figures["accuracy_adahessian_equal_evaluations"] = mean(half)
    for name in _RIVALS:
        for key, label in (("AdaHessian", "steps"), ("AdaHessian, equal evaluations", "evaluations")):
            gap = difference(scores[key], scores[name])
            entry = f"points_over_{name.lower()}_equal_{label}"
            figures |= gap.figures(entry) if gap else {entry: None}
    figures["winners_at_edge_of_grid"] = edges
    series["accuracy"] = scores
    return Measured(
        figures,
        series,
        seeds,
        {"settings tried per side": scale.rates, "steps per run": scale.steps, "batch size": task.batch_size},
    )


def _points(runs: Any) -> list[float | None]:
    return [None if run.test_metric is None else 100 * run.test_metric for run in runs]


RULE = f"""\
All differences are in points of test accuracy at equally many steps, paired by seed.

1. AdaHessian is not worse than SGD and AdamW by more than {MARGIN:g} points (both intervals lie above -{MARGIN:g}).
2. It is better than Adam (the interval lies above 0).
3. At least as many of the nine learning rates are good (within {GOOD:g} points of the method's own best on the
   validation split) as for each rival.

- **reproduced**: all. **partly**: 1, or both of 2 and 3.
- **not reproduced**: neither of those.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    gaps = {
        name: [figures.get(f"points_over_{name.lower()}_equal_steps{end}") for end in ("", "_low", "_high")]
        for name in _RIVALS
    }
    if any(None in gap for gap in gaps.values()):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    own = figures["good_learning_rates_adahessian"]
    rivals = {name: figures[f"good_learning_rates_{name.lower()}"] for name in _RIVALS}
    as_good = all(gaps[name][1] > -MARGIN for name in ("SGD", "AdamW"))
    better, robust = gaps["Adam"][1] > 0, all(own >= count for count in rivals.values())
    said = (
        "At equally many steps AdaHessian's test accuracy differs by "
        + ", ".join(f"{g[0]:+.2f} points ({g[1]:+.2f} to {g[2]:+.2f}) from {n}'s" for n, g in gaps.items())
        + f"; {own} of its learning rates are good, of the rivals' "
        + ", ".join(f"{count} ({name})" for name, count in rivals.items())
        + f". At equally many gradient evaluations it is "
        f"{figures['points_over_adamw_equal_evaluations']:+.2f} points from AdamW's."
    )
    said = parts([as_good, better, robust], said)
    if as_good and better and robust:
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if as_good or (better and robust) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test accuracy of every run, and validation accuracy over the learning rate."""
    figure, (left, right) = canvas()
    names = list(series["accuracy"])
    methods = list(series["landscape"])
    for place, name in enumerate(names):
        colour = COLOURS[methods.index(name.partition(",")[0])]
        known = [v for v in series["accuracy"][name] if v is not None]
        left.plot([place] * len(known), known, "o", color=colour, alpha=0.4, markersize=5)
        if known:
            left.plot([place - 0.2, place + 0.2], [sum(known) / len(known)] * 2, color=colour, linewidth=2)
    left.set_xticks(range(len(names)), [n.replace(", ", ",\n") for n in names], fontsize=8)
    left.set_ylabel("test accuracy (%)")
    left.set_title("With the best learning rate")
    for index, (name, points) in enumerate(series["landscape"].items()):
        rates, values = zip(*points, strict=True)
        middle = sorted(rates)[len(rates) // 2]
        shown = [100 * v for v in values]
        right.plot([r / middle for r in rates], shown, color=COLOURS[index], marker=MARKERS[index], label=name)
    right.axvline(1.0, color=INK, linestyle=":", linewidth=1)
    right.set_xscale("log")
    right.set_xlabel("learning rate, relative to the middle of the grid")
    right.set_ylabel("validation accuracy (%)")
    right.set_title("How much the learning rate matters")
    right.legend()
    return figure


CLAIM = Claim(
    method="adahessian",
    title="AdaHessian",
    statement=card("adahessian").claim,
    paper=card("adahessian").papers[0],
    test="""\
A small convolutional network with batch norms learns scikit-learn's handwritten digits (half of them are for the
test). AdaHessian, SGD with Nesterov momentum 0.9, Adam and AdamW choose among nine learning rates each, in steps of
about 3 over four orders of magnitude, by their validation accuracy after the same number of steps; the winners are
trained again with fresh seeds. An AdaHessian step takes two gradient evaluations; its accuracy after half the steps,
with the same learning rate, is reported too.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 8 steps; seconds; always inconclusive",
        Size.LAPTOP: "1,797 images, 300 steps of 32; 9 settings and 6 seeds per side; minutes",
        Size.FULL: "MNIST and a network of four times the width, 30,000 steps; 9 settings and 5 seeds per side; hours "
        "on one GPU (the authors' own runs, ResNets on CIFAR-10 and ImageNet, need those data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
