"""Exact Gauss-Newton against SGD and Adam on a regression and a classification: test error, and iterations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from steepest import data
from steepest.arena.task import Data, Examples, Task
from steepest.arena.tasks.common import accuracy, examples
from steepest.catalogue import card

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The part of the iterations with which EGN must still keep up with Adam.
FEWER = 4
_TASKS = {"diabetes": 1, "digits": 10}  # and their outputs: gradients per iteration of EGN


@dataclass(frozen=True)
class _Scale:
    iterations: int
    seeds: int
    rates: int  # of SGD and Adam; EGN tries half as many, each with two dampings
    width: int = 32
    batch: int = 32
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(8, 1, 2, width=8, batch=8),
    Size.LAPTOP: _Scale(120, 8, 8),
    Size.FULL: _Scale(5000, 10, 14, width=64, batch=128, full=True),
}


def _diabetes() -> Data:
    found = data.diabetes(validation=0.25, test=0.25)
    centre, spread = found.train.targets.float().mean(), found.train.targets.float().std()
    splits = (found.train, found.validation, found.test)
    return Data(*(Examples(s.inputs, ((s.targets.float() - centre) / spread)[:, None]) for s in splits))


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum(1).mean()


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    return 100 * (1 - accuracy(outputs, targets))


def _network(inputs: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


def task(name: str, scale: _Scale) -> Task:
    """Scored by half the squared error of the standardized target, or by the error rate in per cent."""
    if name == "diabetes":
        return Task(
            name="diabetes-perceptron",
            title="Diabetes, perceptron",
            model=partial(_network, 10, scale.width, 1),
            data=_diabetes,
            loss=_squared,
            metric_name="half squared error",
            batch_size=scale.batch,
        )
    return Task(
        name="digits-perceptron",
        title="Digits, perceptron",
        model=partial(_network, 784 if scale.full else 64, scale.width, 10),
        data=lambda: examples(data.mnist() if scale.full else data.digits(validation=0.2, test=0.5)),
        loss=functional.cross_entropy,
        metric=_error,
        metric_name="error rate (%)",
        batch_size=scale.batch,
    )


def _sides(scale: _Scale) -> tuple[Side, ...]:
    rates = [float(f"{10 ** (-k / 3):.2g}") for k in range(scale.rates)]
    half = [float(f"{10 ** (-k / 2):.2g}") for k in range(scale.rates // 2)]
    return (
        Side("EGN", "egn", grid(lr=half, damping=(0.1, 1.0)), {}),
        Side("SGD", "sgd", grid(lr=rates), {"momentum": 0.9, "nesterov": False}),
        Side("Adam", "adam", grid(lr=[r / 10 for r in rates]), {}),
    )


def measure(context: Context) -> Measured:
    """Tune every side on every task; train with fresh seeds; and EGN with a part of the iterations."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"scores": {}, "curves": {}, "settings": {}}
    edges = 0
    for name, outputs in _TASKS.items():
        own = task(name, scale)
        scores: dict[str, list[float | None]] = {}
        series["curves"][name], series["settings"][name] = {}, {}
        for side in _sides(scale):
            per = outputs if side.method == "egn" else 1
            tuned = tune(context, own, side, scale.iterations * per)
            edges += tuned.at_edge
            series["settings"][name][side.name] = dict(tuned.settings)
            runs = repeat(context, own, side, tuned.settings, seeds, scale.iterations * per)
            scores[side.name] = [run.test_metric for run in runs]
            series["curves"][name][side.name] = [
                [[p.step / per, p.validation_metric] for p in run.curve if p.validation_metric is not None]
                for run in runs
            ]
            figures[f"{name}_seconds_{side.name.lower()}"] = sum(run.seconds for run in runs) / len(runs)
            if side.method == "egn":
                fewer = scale.iterations // FEWER * per
                few = repeat(context, own, replace(side, name="EGN, fewer"), tuned.settings, seeds, fewer)
                scores["EGN, fewer"] = [run.test_metric for run in few]
        series["scores"][name] = scores
        for side_name, values in scores.items():
            figures[f"{name}_{side_name.lower().replace(', ', '_')}"] = mean(values)
        for figure, ours, theirs in (
            ("egn_less_sgd", "EGN", "SGD"),
            ("egn_less_adam", "EGN", "Adam"),
            ("egn_fewer_less_adam", "EGN, fewer", "Adam"),
        ):
            gap = difference(scores[ours], scores[theirs])
            figures |= gap.figures(f"{name}_{figure}") if gap else dict.fromkeys(_ends(f"{name}_{figure}"))
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(_sides(scale)[0].grid),
        "iterations per run": scale.iterations,
        "iterations of EGN, fewer": scale.iterations // FEWER,
        "examples per batch": scale.batch,
    }
    return Measured(figures, series, seeds, budgets)


def _ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


RULE = f"""\
Iterations are mini-batches. A side is worse than another where the 95 % interval of the paired difference of the test
error (half the squared error, or the error rate) lies above 0.

1. On both tasks EGN is worse neither than SGD nor than Adam, after equally many iterations.
2. On both tasks EGN is not worse with a quarter of the iterations than Adam with all of them.

- **reproduced**: both. **partly**: one of them. **not reproduced**: neither.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    kinds = ("egn_less_sgd", "egn_less_adam", "egn_fewer_less_adam")
    lows = {(name, kind): figures.get(f"{name}_{kind}_low") for name in _TASKS for kind in kinds}
    if any(low is None for low in lows.values()):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    equal = all(lows[name, kind] <= 0 for name in _TASKS for kind in kinds[:2])
    fewer = all(lows[name, kinds[2]] <= 0 for name in _TASKS)
    told = [
        f"{name}: EGN {figures[f'{name}_egn']:.3g}, with a quarter of the iterations "
        f"{figures[f'{name}_egn_fewer']:.3g}, SGD {figures[f'{name}_sgd']:.3g}, Adam {figures[f'{name}_adam']:.3g}, in "
        + ", ".join(f"{figures[f'{name}_seconds_{side}']:.2g}" for side in ("egn", "sgd", "adam"))
        + " s of training (EGN, SGD, Adam)"
        for name in _TASKS
    ]
    said = parts([equal, fewer], f"Mean test errors on {'; on '.join(told)}.")
    if equal and fewer:
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if equal or fewer else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Validation over iterations, and the test errors."""
    figure, axes = canvas(rows=2)
    labels = {"diabetes": "half squared error", "digits": "error rate (%)"}
    for place, name in enumerate(_TASKS):
        curves, scores = axes[2 * place], axes[2 * place + 1]
        for index, (side, runs) in enumerate(series["curves"][name].items()):
            steps = [p[0] for p in runs[0]]
            middle = [sum(run[k][1] for run in runs) / len(runs) for k in range(len(steps))]
            curves.plot(steps, middle, color=COLOURS[index], label=side)
            for run in runs:
                curves.plot(*zip(*run, strict=True), color=COLOURS[index], linewidth=0.6, alpha=0.3)
        curves.set_yscale("log")
        curves.set_xlabel("iteration")
        curves.set_ylabel(labels[name])
        curves.set_title(f"{name.capitalize()}: validation (lines: means)")
        curves.legend()
        order = ("EGN", "EGN, fewer", "SGD", "Adam")
        colours = (0, 0, 1, 2)
        for at, (side, index) in enumerate(zip(order, colours, strict=True)):
            values = [v for v in series["scores"][name][side] if v is not None]
            scores.plot([at] * len(values), values, MARKERS[index], color=COLOURS[index], alpha=0.5)
            if values:
                scores.hlines(sum(values) / len(values), at - 0.2, at + 0.2, color=COLOURS[index], linewidth=2)
        scores.set_xticks(range(len(order)), ["EGN", f"EGN,\n1/{FEWER} of the\niterations", "SGD", "Adam"])
        scores.set_xlim(-0.5, len(order) - 0.5)
        scores.set_ylabel(labels[name])
        scores.set_title(f"{name.capitalize()}: test (bars: means)")
    return figure


CLAIM = Claim(
    method="egn",
    title="Exact Gauss-Newton",
    statement=card("egn").claim,
    paper=card("egn").papers[0],
    test="""\
Perceptrons with two hidden layers on a regression (diabetes, 442 rows) and a classification (handwritten digits, half
of them for the test). EGN chooses among four step sizes and two dampings, SGD with momentum and Adam among as many
learning rates, all by the validation split; schedules are the same (warm-up, cosine). Fresh seeds are scored on the
test split after equally many mini-batches, and EGN also after a quarter of them, with the settings tuned for all. The
seconds of training are told and not judged: an iteration of EGN takes a gradient for every output and solves a system.
The paper's data are larger (housing, superconductors, diamonds, reviews), and it also has control tasks.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "8 iterations, two settings and one seed per side; seconds; always inconclusive",
        Size.LAPTOP: "120 iterations, 8 settings and 8 seeds per side; minutes",
        Size.FULL: "5,000 iterations, 14 settings and 10 seeds per side, MNIST in place of digits; days on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
