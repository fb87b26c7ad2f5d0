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
from .experiment import ENOUGH, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
#: The learning rates at which the author's script compares them under noise.
_PRINTED = {"Ano": 1e-4, "Adam": 1e-3, "Lion": 1e-4}


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    noise: tuple[float, ...]  # the first is none
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(20, 1, 1, (0.0, 0.05, 0.2)),
    Size.LAPTOP: _Scale(400, 8, 7, (0.0, 0.05, 0.2)),
    Size.FULL: _Scale(40_000, 5, 7, (0.0, 0.01, 0.05, 0.1, 0.2), full=True),
}


def _sides(rates: int) -> tuple[Side, ...]:
    order = (3, 2, 4, 1, 5, 0, 6)[:rates]
    choices = grid(lr=sorted(_RATES[k] for k in order))
    return tuple(Side(name, name.lower(), choices, {}) for name in _PRINTED)


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
    """For every amount of noise: tune all sides, train with fresh seeds; then at the paper's rates."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {
        "noise": list(scale.noise),
        "landscape": {},
        "accuracy": {},
        "printed": {},
        "settings": {},
    }
    gaps: dict[float, list[float | None]] = {}
    edges = 0
    for noise in scale.noise:
        task = noisy(scale.full, noise)
        tuned_accuracy, printed_accuracy = {}, {}
        for side in _sides(scale.rates):
            label = f"{side.name}, noise {noise:g}"
            tuned = tune(context, task, replace(side, name=label), scale.steps)
            edges += tuned.at_edge
            series["settings"][label] = dict(tuned.settings)
            series["landscape"].setdefault(side.name, {})[f"{noise:g}"] = [
                [s["lr"], None if v is None else 100 * v] for s, v in zip(side.grid, tuned.scores, strict=True)
            ]
            for accuracy, settings in (
                (tuned_accuracy, tuned.settings),
                (printed_accuracy, {"lr": _PRINTED[side.name]}),
            ):
                if accuracy is printed_accuracy and settings == tuned.settings:
                    accuracy[side.name] = tuned_accuracy[side.name]
                    continue
                found = repeat(context, task, replace(side, name=label), settings, seeds, scale.steps)
                accuracy[side.name] = [None if r.test_metric is None else 100 * r.test_metric for r in found]
            series["accuracy"].setdefault(side.name, {})[f"{noise:g}"] = tuned_accuracy[side.name]
            series["printed"].setdefault(side.name, {})[f"{noise:g}"] = printed_accuracy[side.name]
            figures[f"accuracy_{side.name.lower()}_{_key(noise)}"] = mean(tuned_accuracy[side.name])
            figures[f"accuracy_{side.name.lower()}_at_printed_rate_{_key(noise)}"] = mean(printed_accuracy[side.name])
        for rival in ("Adam", "Lion"):
            name = f"points_over_{rival.lower()}_{_key(noise)}"
            gain = difference(tuned_accuracy["Ano"], tuned_accuracy[rival])
            figures |= gain.figures(name) if gain else {name: None}
        name = f"points_over_adam_at_printed_rates_{_key(noise)}"
        gain = difference(printed_accuracy["Ano"], printed_accuracy["Adam"])
        figures |= gain.figures(name) if gain else {name: None}
        gaps[noise] = [
            None if a is None or b is None else a - b
            for a, b in zip(tuned_accuracy["Ano"], tuned_accuracy["Adam"], strict=True)
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
    printed = [figures.get(f"points_over_adam_at_printed_rates_{_key(0.2)}{end}") for end in _ENDS]
    if None not in printed:
        said += (
            " At the learning rates of the author's script, 1e-4 and 1e-3, which were not tuned for noise, the "
            "difference with 0.2 is {:+.2f} ({:+.2f} to {:+.2f}).".format(*printed)
        )
    said = parts(holds, said)
    verdicts = (Verdict.NOT_REPRODUCED, Verdict.PARTLY, Verdict.REPRODUCED)
    return Judgement(verdicts[sum(holds)], said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The landscape of learning rates for each amount of noise; accuracy over noise, tuned and not."""
    shown = [n for n in series["noise"] if n in (0.0, 0.05, 0.2)]
    figure, axes = canvas(columns=3, rows=2, height=2.9)
    for index, name in enumerate(_PRINTED):
        look = {"color": COLOURS[index], "marker": MARKERS[index], "label": name}
        for panel, noise in zip(axes[:3], shown, strict=True):
            known = [p for p in series["landscape"][name][f"{noise:g}"] if p[1] is not None]
            panel.plot(*zip(*known, strict=True), **look)
            panel.axvline(_PRINTED[name], color=COLOURS[index], linewidth=1, linestyle=":")
        for panel, which in ((axes[3], "accuracy"), (axes[4], "printed")):
            means = [mean(series[which][name][f"{n:g}"]) for n in series["noise"]]
            panel.plot(range(len(means)), [float("nan") if m is None else m for m in means], **look)
    for panel, noise in zip(axes[:3], shown, strict=True):
        panel.set_xscale("log")
        panel.set_xlabel("learning rate (dotted: the script's)")
        panel.set_title(f"Tuning, noise {noise:g}" if noise else "Tuning, no noise")
    axes[0].set_ylabel("validation accuracy (%)")
    ticks = [f"{n:g}" for n in series["noise"]]
    for panel, title in ((axes[3], "Tuned for each noise"), (axes[4], "At the script's rates")):
        panel.set_xticks(range(len(ticks)), ticks)
        panel.set_xlabel("standard deviation of the noise")
        panel.set_title(title)
    axes[3].set_ylabel("test accuracy (%)")
    axes[0].legend()
    low = min(panel.get_ylim()[0] for panel in axes[3:5])
    for panel in axes[3:5]:
        panel.set_ylim(low, 100)
    for k, which in enumerate(("accuracy", "printed")):
        for place, noise in enumerate(ticks):
            pairs = zip(series[which]["Ano"][noise], series[which]["Adam"][noise], strict=True)
            gaps = [a - b for a, b in pairs if a is not None and b is not None]
            at = place + 0.24 * (k - 0.5)
            label = ("tuned", "script's rates")[k] if place == 0 else None
            axes[5].plot([at] * len(gaps), gaps, MARKERS[3 * k], color=COLOURS[3 * k], alpha=0.4, label=label)
            if gaps:
                axes[5].plot([at - 0.1, at + 0.1], [sum(gaps) / len(gaps)] * 2, color=COLOURS[3 * k], linewidth=2.5)
    axes[5].axhline(0, color=COLOURS[1], linewidth=1)
    axes[5].set_xticks(range(len(ticks)), ticks)
    axes[5].set_xlabel("standard deviation of the noise")
    axes[5].set_ylabel("points")
    axes[5].set_title("Ano less Adam, each seed")
    axes[5].legend()
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
are scored on the test split; the same seeds bring the same noise to all. The author's script compares at fixed rates,
1e-4 for Ano and Lion and 1e-3 for Adam, whatever the noise; these runs are shown beside, without a part in the verdict.
In place of CIFAR-10 there are digits, and the schedule is the library's (warm-up, then cosine).""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, 20 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits (539 training images), 3 amounts of noise, 7 learning rates and 8 seeds "
        "per side, 400 steps; minutes",
        Size.FULL: "MNIST's training images (found as `steepest.data.mnist` says), 5 amounts of noise, 7 learning "
        "rates and 5 seeds per side, 40,000 steps of 64; a day on a GPU (the paper trains on CIFAR-10, "
        "which needs its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
