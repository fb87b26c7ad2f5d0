"""Directional sharpness of SGD's and Adam's steps, and what clipping a few coordinates does to it and to training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from steepest.analyze import directional_sharpness
from steepest.arena.task import Task
from steepest.arena.train import factor
from steepest.catalogue import card
from steepest.optim import CoordinateClip, Lion

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "along"]

#: How many times sharper SGD's steps must be, and at what part of the points.
TIMES, PART = 5.0, 0.8
#: Points of percentage by which that part must be smaller on the convolutional network.
CONTRAST = 20.0
_EVERY = 25

#: The directions compared: each optimizer with a learning rate of 1, fed with the same gradients.
DIRECTIONS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
    "SGD clip": lambda p: CoordinateClip(torch.optim.SGD(p, lr=1.0, momentum=0.9), 0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=1.0),
    "Adam clip": lambda p: CoordinateClip(torch.optim.Adam(p, lr=1.0), 0.5),
    "Lion": lambda p: Lion(p, lr=1.0),
}


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    points: int  # of each trajectory at which sharpness is measured, every 25 steps
    width: int = 32
    layers: int = 2
    context: int = 32
    batch: int = 16
    windows: int = 128
    corpus: int = 2_000_000
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(10, 1, 1, 1, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale(500, 5, 7, 16),
    Size.FULL: _Scale(
        20_000, 5, 9, 200, width=256, layers=6, context=256, batch=64, windows=512, corpus=5_000_000, full=True
    ),
}


class _Shadow:
    """An optimizer that follows somebody else's points, for the updates it would make there."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer], params: Sequence[Tensor]) -> None:
        self.params = [nn.Parameter(torch.zeros_like(p, dtype=torch.float64)) for p in params]
        self.optimizer = make(self.params)

    def update(self, params: Sequence[Tensor]) -> list[Tensor]:
        before = []
        for own, p in zip(self.params, params, strict=True):
            own.data.copy_(p.data)
            own.grad = None if p.grad is None else p.grad.double()
            before.append(own.detach().clone())
        self.optimizer.step()
        return [old - own.detach() for old, own in zip(before, self.params, strict=True)]


def along(task: Task, method: str, rate: float, seed: int, points: int, device: str) -> dict[str, list[float]]:
    """Sharpness of every direction at points of one trajectory, on one fixed batch of training examples.

    Args:
        method: whose trajectory: ``"SGD"`` or ``"Adam"``.
        rate: its learning rate at the top of the usual schedule.
        points: how many, every 25 steps.
    """
    training = type(task.splits().train)(*(t.to(device) for t in task.splits().train))

    def batch(size: int, generator: torch.Generator) -> Any:
        if task.draw is not None:
            return task.draw(training, size, generator)
        rows = torch.randint(len(training.targets), (size,), generator=generator).to(device)
        return training.inputs[rows], training.targets[rows]

    model = task.build(seed).to(device).train()
    params = list(model.parameters())
    optimizer = DIRECTIONS[method](params)
    shadows = {name: _Shadow(make, params) for name, make in DIRECTIONS.items()}
    fixed = batch(128, torch.Generator().manual_seed(seed + 1))
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {name: [] for name in DIRECTIONS}
    steps = points * _EVERY
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = rate * factor((step - 1) / steps, step / steps)
        inputs, targets = batch(task.batch_size, draw)
        optimizer.zero_grad()
        task.loss(model(inputs), targets).backward()
        updates = {name: shadow.update(params) for name, shadow in shadows.items()}
        if step % _EVERY == 0:
            values = directional_sharpness(lambda: task.loss(model(fixed[0]), fixed[1]), params, list(updates.values()))
            for name, value in zip(updates, values, strict=True):
                found[name].append(value)
        optimizer.step()
    return found


def _part(above: Sequence[float], below: Sequence[float]) -> float:
    """The part of the points at which the first is positive and more than ``TIMES`` the second."""
    return float(np.mean([a > 0 and a > TIMES * b for a, b in zip(above, below, strict=True)]))


def _sides(scale: _Scale) -> tuple[Side, ...]:
    """Learning rates in steps of about 3, around each side's usual ones."""
    order = (3, 2, 4, 1, 5, 0, 6, 7, 8)[: scale.rates]
    momentum = {"momentum": 0.9}
    return (
        Side("SGD clip", "coordinate-clip", _grid(0.03, order), {**momentum, "fraction": 0.1}),
        Side("SGD", "sgd", _grid(0.01, order), {**momentum, "nesterov": False}),
        Side("Adam", "adam", _grid(3e-4, order), {}),
    )


def _grid(first: float, order: Sequence[int]) -> tuple[dict[str, Any], ...]:
    return grid(lr=sorted(float(f"{first * 10 ** (k / 2):.2g}") for k in order))


def measure(context: Context) -> Measured:
    """Tune and train on the transformer; then sharpness along SGD's and Adam's trajectories there and on digits."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    task = characters(
        batch=scale.batch,
        width=scale.width,
        layers=scale.layers,
        context=scale.context,
        windows=scale.windows,
        corpus=scale.corpus,
    )
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {
        "sharpness": {},
        "landscape": {},
        "loss": {},
        "curves": {},
        "settings": {},
        "every": _EVERY,
    }
    sides = _sides(scale)
    edges = 0
    for side in sides:
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        runs = repeat(context, task, side, tuned.settings, seeds, scale.steps)
        series["settings"][side.name] = dict(tuned.settings)
        series["landscape"][side.name] = [[s["lr"], v] for s, v in zip(side.grid, tuned.scores, strict=True)]
        series["loss"][side.name] = [run.test_loss for run in runs]
        series["curves"][side.name] = [
            [[p.step, p.validation_metric] for p in run.curve if p.validation_metric is not None] for run in runs
        ]
        figures[f"loss_{side.name.lower().replace(' ', '_')}"] = mean(series["loss"][side.name])
    for name, theirs in (("loss_clip_less_sgd", "SGD"), ("loss_clip_less_adam", "Adam")):
        gap = difference(series["loss"]["SGD clip"], series["loss"][theirs])
        figures |= gap.figures(name) if gap else {name: None}
    figures["winners_at_edge_of_grid"] = edges
    contrast = handwriting("convolutional", full=scale.full)
    for where, of, rates in (
        ("transformer", task, {name: series["settings"][name]["lr"] for name in ("SGD", "Adam")}),
        ("convolutional", contrast, {"SGD": 0.03, "Adam": 1e-3}),
    ):
        pooled: dict[str, list[float]] = {name: [] for name in DIRECTIONS}
        for method, rate in rates.items():
            context.say(f"sharpness on the {where} network along {method}")
            found = along(of, method, rate, context.tuning_seed, scale.points, context.device)
            series["sharpness"][f"{where} {method}"] = found
            for name, values in found.items():
                pooled[name] += values
        for name, values in pooled.items():
            figures[f"{where}_median_sharpness_{name.lower().replace(' ', '_')}"] = float(np.median(values))
        figures[f"{where}_percent_sgd_over_adam"] = 100 * _part(pooled["SGD"], pooled["Adam"])
        figures[f"{where}_percent_sgd_over_clip"] = 100 * _part(pooled["SGD"], pooled["SGD clip"])
    budgets = {
        "settings tried per side": len(sides[0].grid),
        "steps per run": scale.steps,
        "windows per batch": scale.batch,
        "points of sharpness per network": 2 * scale.points,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
A point counts where SGD's directional sharpness is positive and more than {TIMES:g} times the other's.

1. On the transformer SGD's steps are sharper than Adam's by that factor at {PART:.0%} or more of the points.
2. There, too, they are sharper than those of SGD with a tenth of the coordinates clipped, at {PART:.0%} or more.
3. After equal tuning, the transformer's test loss is lower with the clip than with SGD (the interval of the paired
   difference lies below 0).
4. On the convolutional network the part of the points in 1 is smaller, by {CONTRAST:g} points of percentage or more.

- **reproduced**: all four. **partly**: 3, or both 1 and 2.
- **not reproduced**: neither, or the interval of 3 lies above 0.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    gap, low, high = (figures.get(f"loss_clip_less_sgd{end}") for end in ("", "_low", "_high"))
    if gap is None or low is None or high is None or figures.get("loss_adam") is None:
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    adam, clip = figures["transformer_percent_sgd_over_adam"], figures["transformer_percent_sgd_over_clip"]
    other = figures["convolutional_percent_sgd_over_adam"]
    sharper, flatter = adam >= 100 * PART, clip >= 100 * PART
    faster, contrast = high < 0, adam - other >= CONTRAST
    names = ("sgd", "sgd_clip", "adam")
    medians = ", ".join(f"{figures[f'transformer_median_sharpness_{name}']:.3g}" for name in names)
    said = (
        f"SGD's steps are more than {TIMES:g} times sharper than Adam's at {adam:.0f} % of the points on the "
        f"transformer and at {other:.0f} % on the convolutional network, and than clipped SGD's at {clip:.0f} % "
        f"(medians of SGD, clipped SGD and Adam on the transformer: {medians}). Clipped SGD's test loss differs from "
        f"SGD's by {gap:+.3f} nats ({low:+.3f} to {high:+.3f}); the means are SGD {figures['loss_sgd']:.3f}, clipped "
        f"{figures['loss_sgd_clip']:.3f}, Adam {figures['loss_adam']:.3f}."
    )
    said = parts([sharper, flatter, faster, contrast], said)
    if sharper and flatter and faster and contrast:
        return Judgement(Verdict.REPRODUCED, said)
    if low > 0 or not (faster or (sharper and flatter)):
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.PARTLY, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Sharpness along SGD's and Adam's trajectories on both networks; tuning and training on the transformer."""
    figure, axes = canvas(rows=3, height=2.9)
    places = {
        "transformer SGD": "Transformer, along SGD",
        "transformer Adam": "Transformer, along Adam",
        "convolutional SGD": "Convolutional, along SGD",
        "convolutional Adam": "Convolutional, along Adam",
    }
    colours = {"SGD clip": 0, "SGD": 1, "Adam": 2, "Adam clip": 3, "Lion": 4}
    for panel, (key, title) in zip(axes, places.items(), strict=False):
        for name, values in series["sharpness"][key].items():
            steps = [series["every"] * (k + 1) for k in range(len(values))]
            shown = [v if v > 0 else np.nan for v in values]  # a logarithmic axis has no place for curvature below zero
            index = colours[name]
            panel.plot(steps, shown, color=COLOURS[index], marker=MARKERS[index], markersize=3, linewidth=1, label=name)
        panel.set_yscale("log")
        panel.set_ylabel("sharpness of the step")
        panel.set_xlabel("step")
        panel.set_title(title)
    axes[0].legend(fontsize=7.5, ncols=2)
    tuning, training = axes[4:6]
    for name, index in ((n, colours[n]) for n in series["loss"]):
        known = [p for p in series["landscape"][name] if p[1] is not None]
        tuning.plot(*zip(*known, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name)
        for curve in series["curves"][name]:
            training.plot(*zip(*curve, strict=True), color=COLOURS[index], linewidth=1, alpha=0.6)
    lowest = min((p[1] for found in series["landscape"].values() for p in found if p[1] is not None), default=0.0)
    tuning.set_ylim(lowest - 0.1, lowest + 1.2)  # a rate that is far too large would flatten all others
    tuning.set_xscale("log")
    tuning.set_xlabel("learning rate")
    tuning.set_ylabel("validation loss (nats)")
    tuning.set_title("Transformer: tuning")
    tuning.legend(fontsize=7.5)
    training.set_xlabel("step")
    training.set_ylabel("validation loss (nats)")
    training.set_title("Transformer: fresh seeds")
    return figure


CLAIM = Claim(
    method="coordinate-clip",
    title="Coordinate clipping",
    statement=card("coordinate-clip").claim,
    paper=card("coordinate-clip").papers[0],
    test="""\
The directional sharpness of a step u is its curvature <u, H u> / |u|^2, with the Hessian H of the loss on a fixed batch
of training examples. A small decoder-only transformer learns to predict the characters of Python's standard library. At
points along a trajectory of SGD and one of Adam, all optimizers are fed the same gradients, and the sharpness of the
steps that they would take is compared: SGD with momentum, the same with a tenth of the coordinates of the gradient
clipped, Adam, Adam with half of them clipped, and Lion. The same is done on a convolutional network for digits (with
batch norms, in training mode), where the paper finds no such gap. Then SGD, clipped SGD and Adam are each tuned over as
many learning rates in steps of about 3 (those of Adam 100 times smaller than those of clipped SGD, those of SGD 3
times), and trained with fresh seeds under the same schedule.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, a transformer of width 16; seconds; always inconclusive",
        Size.LAPTOP: "33 thousand parameters, 500 steps, 7 learning rates and 5 seeds per side, sharpness at 32 points "
        "per network; minutes",
        Size.FULL: "5 million parameters, 20,000 steps, 9 learning rates and 5 seeds per side, sharpness at 400 points "
        "per network, MNIST (found as `steepest.data.mnist` says) for the contrast; days on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
