"""Ghost batch norms, and the recipe for large batches that they belong to, on handwritten digits."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn import functional

from steepest.arena.task import Task
from steepest.arena.tasks.common import accuracy, draw_classes
from steepest.catalogue import card
from steepest.train.parametrize import ghost_batch_norm

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, Tuned, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import IMAGE_SIDES, digit_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]


@dataclass(frozen=True)
class _Scale:
    small: int  # examples per small batch, and per ghost batch
    times: int  # how many times as large the large batch is
    steps: int  # of small batches
    seeds: int
    rates: int
    images: str
    width: int
    layers: int


_SCALES = {
    Size.SMOKE: _Scale(8, 4, 8, 1, 1, "digits", 8, 2),
    Size.LAPTOP: _Scale(32, 8, 640, 5, 5, "mnist10k", 96, 3),
    Size.FULL: _Scale(128, 32, 20_000, 5, 6, "mnist", 512, 5),
}
#: What is trained: the bar's label, whether batches are large, ghost norms in use, the updates as many as with small
#: batches, and the learning rate: that of small batches, its multiple by the root, or tuned for the side itself.
RUNS = {
    "small": ("small batches", False, False, True, "small"),
    "large": ("large batches", True, False, False, "small"),
    "root": ("+ rate by the root", True, False, False, "root"),
    "ghost": ("+ ghost norms", True, True, False, "root"),
    "long": ("rate, as many updates", True, False, True, "root"),
    "recipe": ("+ ghost norms", True, True, True, "root"),
    "large_tuned": ("large, tuned rate", True, False, False, "large"),
    "ghost_tuned": ("+ ghost norms, tuned", True, True, False, "ghost"),
}
#: The differences of the rule: the first less the second.
GAPS = (("large", "small"), ("root", "large"), ("ghost", "root"), ("recipe", "small"), ("recipe", "long"))
_TUNED = ("ghost_tuned", "large_tuned")


def _model(scale: _Scale, inputs: int, ghosts: bool) -> nn.Module:
    widths = [inputs, *[scale.width] * scale.layers]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(scale.width, 10))
    return ghost_batch_norm(model, scale.small) if ghosts else model


def _task(scale: _Scale, large: bool, ghosts: bool) -> Task:
    side = 14 if scale.images == "mnist10k" else IMAGE_SIDES[scale.images]
    return Task(
        name=f"{'large' if large else 'small'}-batches{'-ghosts' if ghosts else ''}-{scale.images}",
        title="Handwritten digits, perceptron with batch norms",
        model=partial(_model, scale, side**2, ghosts),
        data=partial(digit_images, scale.images, side),
        loss=functional.cross_entropy,
        sample=draw_classes,
        metric=accuracy,
        metric_name="accuracy",
        higher_is_better=True,
        batch_size=scale.small * (scale.times if large else 1),
        evaluations=5,
    )


def _sides(scale: _Scale) -> dict[str, Side]:
    """The same learning rates for all that are tuned, in steps of about 3."""
    order = (2, 3, 1, 4, 0, 5)[: scale.rates]  # the middle first, for the sizes that try few
    rates = grid(lr=sorted((0.01, 0.03, 0.1, 0.3, 1.0, 3.0)[k] for k in order))
    fixed = {"momentum": 0.9, "nesterov": False, "weight_decay": 1e-4}
    return {name: Side(name, "sgd", rates, fixed) for name in ("small", "large", "ghost")}


def measure(context: Context) -> Measured:
    """Tune small batches, large ones, and large ones with ghost norms; then all runs of the table."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    fewer = max(1, scale.steps // scale.times)
    sides = _sides(scale)
    tuned: dict[str, Tuned] = {}
    for name, side in sides.items():
        task = _task(scale, large=name != "small", ghosts=name == "ghost")
        tuned[name] = tune(context, task, side, scale.steps if name == "small" else fewer)
    rates = {name: float(found.settings["lr"]) for name, found in tuned.items()}
    rates["root"] = scale.times**0.5 * rates["small"]
    errors: dict[str, list[float | None]] = {}
    for name, (_, large, ghosts, updates, rate) in RUNS.items():
        side = Side(name, "sgd", ({"lr": rates[rate]},), sides["small"].fixed)
        task = _task(scale, large, ghosts)
        runs = repeat(context, task, side, {"lr": rates[rate]}, seeds, scale.steps if updates else fewer)
        errors[name] = [None if run.test_metric is None else 100 * (1 - run.test_metric) for run in runs]
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    figures |= {f"error_{name}": mean(values) for name, values in errors.items()}
    for ours, theirs in (*GAPS, _TUNED):
        gap = difference(errors[ours], errors[theirs])
        key = f"{ours}_less_{theirs}"
        figures |= gap.figures(key) if gap else {key: None, f"{key}_low": None, f"{key}_high": None}
    figures["winners_at_edge_of_grid"] = sum(found.at_edge for found in tuned.values())
    series = {
        "errors": errors,
        "settings": {name: dict(found.settings) for name, found in tuned.items()},
        "landscape": {
            name: [
                [s["lr"], None if v is None else 100 * (1 - v)]
                for s, v in zip(sides[name].grid, found.scores, strict=True)
            ]
            for name, found in tuned.items()
        },
    }
    budgets = {
        "settings tried per side": scale.rates,
        "examples per small batch": scale.small,
        "examples per large batch": scale.small * scale.times,
        "updates of small batches": scale.steps,
        "updates of large batches in as many epochs": fewer,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Test errors; "lower" and "higher" mean that the interval of the paired difference lies below or above 0.

1. In as many epochs and with the same learning rate, large batches have a higher error than small ones.
2. It is lower with the learning rate multiplied by the root of the ratio of batch sizes.
3. With that rate it is lower still with ghost batch norms than with plain ones.
4. With that rate, ghost batch norms and as many updates as small batches get, the error is not higher than theirs.
5. In that, too, it is lower with ghost batch norms than with plain ones.

- **reproduced**: 1, 2, 4, and one of 3 and 5. **partly**: 1 and 4, or one of 3 and 5.
- **not reproduced**: neither of these.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    ends = {gap: [figures[f"{gap[0]}_less_{gap[1]}{end}"] for end in ("_low", "_high")] for gap in (*GAPS, _TUNED)}
    if any(value is None for pair in ends.values() for value in pair):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    holds = [
        ends["large", "small"][0] > 0,
        ends["root", "large"][1] < 0,
        ends["ghost", "root"][1] < 0,
        ends["recipe", "small"][0] <= 0,
        ends["recipe", "long"][1] < 0,
    ]
    tuned = [figures[f"ghost_tuned_less_large_tuned{end}"] for end in ("", "_low", "_high")]
    means = {name: figures[f"error_{name}"] for name in RUNS}
    said = (
        f"Mean test errors: small batches {means['small']:.2f} %, large ones {means['large']:.2f} %, with the rate "
        f"raised {means['root']:.2f} %, with ghost norms besides {means['ghost']:.2f} %; with that rate and as many "
        f"updates as small batches {means['long']:.2f} % with plain and {means['recipe']:.2f} % with ghost norms. With "
        f"rates tuned for each, ghost norms change the error of large batches by {tuned[0]:+.2f} ({tuned[1]:+.2f} to "
        f"{tuned[2]:+.2f})."
    )
    said = parts(holds, said)
    ghosts = holds[2] or holds[4]
    if holds[0] and holds[1] and holds[3] and ghosts:
        return Judgement(Verdict.REPRODUCED, said)
    if ghosts or (holds[0] and holds[3]):
        return Judgement(Verdict.PARTLY, said)
    return Judgement(Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test errors of all runs, and what tuning saw."""
    figure, (table, tuning) = canvas(height=3.8)
    names = list(RUNS)[::-1]
    for place, name in enumerate(names):
        index = 0 if RUNS[name][2] else 1
        values = [v for v in series["errors"][name] if v is not None]
        table.plot(values, [place] * len(values), MARKERS[index], color=COLOURS[index], alpha=0.4)
        if (level := figures[f"error_{name}"]) is not None:
            table.plot([level], [place], "|", color=COLOURS[index], markersize=16, markeredgewidth=2.5)
    table.set_yticks(range(len(names)), [RUNS[name][0] for name in names])
    table.set_xlabel("test error (%)")
    table.set_title("Seeds and means (orange: ghost norms)")
    for index, name in ((1, "small"), (2, "large"), (0, "ghost")):
        known = [p for p in series["landscape"][name] if p[1] is not None]
        label = {"small": "small", "large": "large", "ghost": "large, ghost norms"}[name]
        if known:
            tuning.plot(*zip(*known, strict=True), color=COLOURS[index], marker=MARKERS[index], label=label)
    tuning.set_xscale("log")
    tuning.set_xlabel("learning rate")
    tuning.set_ylabel("validation error (%)")
    tuning.set_title("Tuning, equal epochs")
    tuning.legend(fontsize=8)
    return figure


CLAIM = Claim(
    method="ghost-batch-norm",
    title="Ghost batch normalization",
    statement=card("ghost-batch-norm").claim,
    paper=card("ghost-batch-norm").papers[0],
    test="""\
A perceptron with batch norms learns handwritten digits by SGD with momentum 0.9 and weight decay 1e-4, from small
batches whose learning rate is tuned, and from large ones in as many epochs: with the same rate; with the rate
multiplied by the root of the ratio; with ghost norms besides (as many examples per ghost batch as in a small batch).
With the raised rate it is then given as many updates as with small batches, with plain and with ghost norms. Large
batches with both kinds of norm are also tuned over the same learning rates in steps of about 3. All have the same
schedule, a short warm-up and a cosine; the paper drops the rate in steps, and clips the norm of gradients to 5.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, 8 updates on scikit-learn's digits; seconds; always inconclusive",
        Size.LAPTOP: "4,000 of MNIST's 10,000 test images to train on (found as `steepest.data.mnist10k` says; 14 x 14 "
        "pixels), 3 hidden layers of 96, batches of 32 and 256, 5 learning rates and 5 seeds; minutes",
        Size.FULL: "MNIST, 5 hidden layers of 512, batches of 128 and 4096, 6 learning rates and 5 seeds; hours on one "
        "GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
