"""Ano against Adam and Lion under gradient noise, all tuned anew for every amount of noise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steepest.arena.task import Task
from steepest.catalogue import card

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_NAMES = ("Ano", "Adam", "Lion")


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    noise: tuple[float, ...]  # the first is none
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(20, 1, 1, (0.0, 0.05, 0.2)),
    Size.LAPTOP: _Scale(300, 6, 7, (0.0, 0.05, 0.2)),
    Size.FULL: _Scale(40_000, 5, 7, (0.0, 0.01, 0.05, 0.1, 0.2), full=True),
}


def _sides(rates: int) -> tuple[Side, ...]:
    order = (3, 2, 4, 1, 5, 0, 6)[:rates]
    choices = grid(lr=sorted(_RATES[k] for k in order))
    return tuple(Side(name, name.lower(), choices, {}) for name in _NAMES)


def noisy(full: bool, noise: float) -> Task:
    """Handwritten digits with ``N(0, noise^2)`` added to every coordinate of every gradient.

    The noise comes from torch's global random state, which a run seeds: methods with one seed meet the same noise.
    """
    task = handwriting("convolutional", full=full, batch=64 if full else 32)
    return replace(task, name=f"{task.name}-noise-{noise:g}", model=partial(_network, full, noise), _cache={})


def _network(full: bool, noise: float) -> nn.Module:
    """The paper's: two convolutions, a hidden layer with dropout, no normalization."""
    width, side, hidden = (32, 14, 128) if full else (8, 4, 32)
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, hidden),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(hidden, 10),
    )

    def disturbed(g: Tensor) -> Tensor:
        return g + noise * torch.randn_like(g)

    if noise:
        for p in model.parameters():
            p.register_hook(disturbed)
    return model


def measure(context: Context) -> Measured:
    """For every amount of noise: tune all sides, then train with fresh seeds."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"noise": list(scale.noise), "landscape": {}, "accuracy": {}, "rates": {}}
    gaps: dict[float, list[float | None]] = {}
    edges = 0
    for noise in scale.noise:
        task = noisy(scale.full, noise)
        accuracy: dict[str, list[float | None]] = {}
        for side in _sides(scale.rates):
            told = replace(side, name=f"{side.name}, noise {noise:g}")
            tuned = tune(context, task, told, scale.steps)
            edges += tuned.at_edge
            found = repeat(context, task, told, tuned.settings, seeds, scale.steps)
            accuracy[side.name] = [None if r.test_metric is None else 100 * r.test_metric for r in found]
            figures[f"accuracy_{side.name.lower()}_{_key(noise)}"] = mean(accuracy[side.name])
            series["rates"].setdefault(side.name, []).append(tuned.settings["lr"])
            series["accuracy"].setdefault(side.name, {})[f"{noise:g}"] = accuracy[side.name]
            series["landscape"].setdefault(side.name, {})[f"{noise:g}"] = [
                [s["lr"], None if v is None else 100 * v] for s, v in zip(side.grid, tuned.scores, strict=True)
            ]
        for rival in ("Adam", "Lion"):
            name = f"points_over_{rival.lower()}_{_key(noise)}"
            gain = difference(accuracy["Ano"], accuracy[rival])
            figures |= gain.figures(name) if gain else {name: None}
        gaps[noise] = [
            None if a is None or b is None else a - b for a, b in zip(accuracy["Ano"], accuracy["Adam"], strict=True)
        ]
    growth = difference(gaps[scale.noise[-1]], gaps[scale.noise[0]])
    figures |= growth.figures("growth_of_points_over_adam") if growth else {"growth_of_points_over_adam": None}
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "learning rates tried per side and noise": scale.rates,
        "standard deviations of the noise": ", ".join(f"{n:g}" for n in scale.noise),
        "steps per run": scale.steps,
        "batch size": task.batch_size,
    }
    return Measured(figures, series, seeds, budgets)


def _key(noise: float) -> str:
    return f"noise_{noise:g}".replace(".", "")


_ENDS = ("", "_low", "_high")

RULE = f"""\
Differences of test accuracy are in points, paired by seed; every side's learning rate is tuned for every amount of
noise.

1. With noise of 0.05 and of 0.2, the interval of Ano's accuracy less Adam's lies above 0.
2. The difference at noise 0.2 is larger than without noise: the interval of their paired difference lies above 0.

- **reproduced**: both. **partly**: one of them. **not reproduced**: neither.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    gains = {
        noise: [figures.get(f"points_over_adam_{_key(noise)}{end}") for end in _ENDS] for noise in (0.0, 0.05, 0.2)
    }
    growth = [figures.get(f"growth_of_points_over_adam{end}") for end in _ENDS]
    if any(None in found for found in (*gains.values(), growth)):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    holds = [gains[0.05][1] > 0 and gains[0.2][1] > 0, growth[1] > 0]
    said = (
        "Tuned Ano's test accuracy less tuned Adam's is {:+.2f} points ({:+.2f} to {:+.2f}) without noise, ".format(
            *gains[0.0]
        )
        + "{:+.2f} ({:+.2f} to {:+.2f}) with noise 0.05 and ".format(*gains[0.05])
        + "{:+.2f} ({:+.2f} to {:+.2f}) with 0.2; it grows by ".format(*gains[0.2])
        + "{:+.2f} ({:+.2f} to {:+.2f}).".format(*growth)
    )
    said = parts(holds, said)
    verdicts = (Verdict.NOT_REPRODUCED, Verdict.PARTLY, Verdict.REPRODUCED)
    return Judgement(verdicts[sum(holds)], said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The landscape of learning rates for each amount of noise; accuracy, difference and best rate over noise."""
    ticks = [f"{n:g}" for n in series["noise"]]
    shown = [n for n in ticks if n in ("0", "0.05", "0.2")]
    figure, axes = canvas(columns=3, rows=2, height=2.9)
    for index, name in enumerate(_NAMES):
        look = {"color": COLOURS[index], "marker": MARKERS[index], "label": name}
        for panel, noise in zip(axes[:3], shown, strict=True):
            known = [p for p in series["landscape"][name][noise] if p[1] is not None]
            panel.plot(*zip(*known, strict=True), **look)
        means = [mean(series["accuracy"][name][noise]) for noise in ticks]
        axes[3].plot(range(len(ticks)), [float("nan") if m is None else m for m in means], **look)
        axes[5].plot(range(len(ticks)), series["rates"][name], **look)
    for panel, noise in zip(axes[:3], shown, strict=True):
        panel.set_xscale("log")
        panel.set_ylim(0, 102)
        panel.set_xlabel("learning rate")
        panel.set_title("Tuning, no noise" if noise == "0" else f"Tuning, noise {noise}")
    axes[0].set_ylabel("validation accuracy (%)")
    axes[0].legend(loc="lower center")
    for place, noise in enumerate(ticks):
        pairs = zip(series["accuracy"]["Ano"][noise], series["accuracy"]["Adam"][noise], strict=True)
        gaps = [a - b for a, b in pairs if a is not None and b is not None]
        axes[4].plot([place] * len(gaps), gaps, MARKERS[0], color=COLOURS[0], alpha=0.4)
        if gaps:
            axes[4].plot([place - 0.2, place + 0.2], [sum(gaps) / len(gaps)] * 2, color=COLOURS[0], linewidth=2.5)
    axes[4].axhline(0, color=COLOURS[1], linewidth=1)
    axes[5].set_yscale("log")
    for panel, title, label in (
        (axes[3], "Tuned: test accuracy", "test accuracy (%)"),
        (axes[4], "Tuned: Ano less Adam, by seed", "points"),
        (axes[5], "The tuned learning rate", "learning rate"),
    ):
        panel.set_xticks(range(len(ticks)), ticks)
        panel.set_xlabel("standard deviation of the noise")
        panel.set_ylabel(label)
        panel.set_title(title)
    return figure


CLAIM = Claim(
    method="ano",
    title="Ano",
    statement=card("ano").claim,
    paper=card("ano").papers[0],
    test="""\
A network as in the paper's experiment (two convolutions, a hidden layer with dropout, no normalization) classifies
handwritten digits, with independent normal noise added to every coordinate of every gradient. For every amount of
noise, the learning rates of Ano, Adam and Lion are tuned over the same values on a validation split, and fresh seeds
are scored on the test split; the same seeds bring the same noise to all. The author's script compares at fixed
rates, 1e-4 for Ano and Lion and 1e-3 for Adam, whatever the noise. In place of CIFAR-10 there are digits, and the
schedule is the library's (warm-up, then cosine). """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, 20 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits (539 training images), 3 amounts of noise, 7 learning rates and 6 seeds "
        "per side, 300 steps; minutes",
        Size.FULL: "MNIST's training images (found as `steepest.data.mnist` says), 5 amounts of noise, 7 learning "
        "rates and 5 seeds per side, 40,000 steps of 64; a day on a GPU (the paper trains on CIFAR-10, "
        "which needs its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
