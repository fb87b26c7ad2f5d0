"""diffGrad against Adam, and against Adam at half the learning rate: on the paper's toy functions and on digits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steepest.catalogue import card
from steepest.optim import DiffGrad

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Values of the toy functions that differ by less are the same; also how near to the minimum counts as there.
SAME = 0.02
#: Points by which the share of successful starts must differ.
SHARE = 2.0
#: The paper's setting of the toy runs.
_RATE, _BETAS, _START, _STEPS = 0.1, (0.95, 0.999), -1.0, 300


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    starts: int  # per toy function
    toy_rates: int
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(20, 1, 1, 5, 2),
    Size.LAPTOP: _Scale(200, 6, 7, 61, 13),
    Size.FULL: _Scale(30_000, 5, 8, 401, 41, full=True),
}


def _f1(x: Tensor) -> Tensor:
    return torch.where(x <= 0, (x + 0.3) ** 2, (x - 0.2) ** 2 + 0.05)


def _f2(x: Tensor) -> Tensor:
    return torch.where(x <= -0.9, -40 * x - 35.15, x**3 + x * torch.sin(8 * x) + 0.85)


def _f3(x: Tensor) -> Tensor:
    size = x.abs()  # even in x
    return torch.where(size > 0.5, x**2, torch.where(size > 0.4, 0.75 - size, 7 * size / 8))


TOYS: dict[str, Callable[[Tensor], Tensor]] = {"F1": _f1, "F2": _f2, "F3": _f3}


def values(x: Tensor) -> Tensor:
    """The toy functions, one per row of ``x`` (shape (3, starts)): their values, of the same shape."""
    return torch.stack([f(row) for f, row in zip(TOYS.values(), x, strict=True)])


def descend(method: str, rate: float, starts: Tensor) -> Tensor:
    """Where :data:`_STEPS` steps lead on all functions from many starts; the rules act on each coordinate by itself.

    Args:
        starts: shape (starts,).

    Returns:
        The paths, shape (steps + 1, 3, starts).
    """
    x = starts.repeat(len(TOYS), 1).requires_grad_()
    make = DiffGrad if method == "diffGrad" else torch.optim.Adam
    optimizer = make([x], lr=rate, betas=_BETAS)
    path = [x.detach().clone()]
    for _ in range(_STEPS):
        optimizer.zero_grad()
        values(x).sum().backward()
        optimizer.step()
        path.append(x.detach().clone())
    return torch.stack(path)


def _toys(context: Context, scale: _Scale) -> tuple[dict[str, float | int | None], dict[str, Any]]:
    """The paper's runs, then the share of starts in [-1.5, 1.5] that end in the global minimum, over the rate."""
    figures: dict[str, float | int | None] = {}
    series: dict[str, Any] = {"functions": {}, "ends": {}, "rates": [], "share": {}}
    context.say("toy functions at the paper's setting")
    line = torch.linspace(-1.5, 1.5, 151, dtype=torch.float64)
    for name, row in zip(TOYS, values(line.repeat(len(TOYS), 1)), strict=True):
        series["functions"][name] = [line.tolist(), row.tolist()]
        series["ends"][name] = {}
    for label, method, rate in (
        ("adam", "Adam", _RATE),
        ("adam_at_half_the_rate", "Adam", _RATE / 2),
        ("diffgrad", "diffGrad", _RATE),
    ):
        x = descend(method, rate, torch.tensor([_START], dtype=torch.float64))[-1]
        for name, end, value in zip(TOYS, x, values(x), strict=True):
            figures[f"{name}_end_{label}"] = float(value[0])
            series["ends"][name][label] = float(end[0])
    change = [float(figures[f"{name}_end_diffgrad"] or 0) - float(figures[f"{name}_end_adam"] or 0) for name in TOYS]
    figures["functions_where_diffgrad_ends_lower_less_higher"] = sum(c < -SAME for c in change) - sum(
        c > SAME for c in change
    )
    rates = [float(r) for r in np.geomspace(0.01, 1.0, scale.toy_rates)]
    series["rates"] = rates
    starts = torch.linspace(-1.5, 1.5, scale.starts, dtype=torch.float64)
    lowest = values(torch.linspace(-1.5, 1.5, 60_001, dtype=torch.float64).repeat(len(TOYS), 1)).min(1).values
    for method in ("Adam", "diffGrad"):
        shares = []
        for rate in rates:
            context.say(f"toy functions, {method} at {rate:.3g}")
            # The rate is not lowered, so the iterates may still swing: the best of the last twenty counts.
            last = torch.stack([values(x) for x in descend(method, rate, starts)[-20:]]).min(0).values
            shares.append(100 * float((last <= lowest[:, None] + SAME).double().mean()))
        series["share"][method] = shares
        figures[f"best_share_of_starts_{method.lower()}"] = max(shares)
        figures[f"mean_share_of_starts_{method.lower()}"] = float(np.mean(shares))
    return figures, series


def measure(context: Context) -> Measured:
    """Toy functions, then a network on digits: tuned, and at the default rate as in the paper."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    toy_figures, series = _toys(context, scale)
    figures |= toy_figures
    task = handwriting("convolutional", full=scale.full, batch=128 if scale.full else 32)
    order = (2, 3, 1, 4, 0, 5, 6, 7)[: scale.rates]
    rates = sorted((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-5)[k] for k in order)
    sides = (Side("diffGrad", "diffgrad", grid(lr=rates), {}), Side("Adam", "adam", grid(lr=rates), {}))
    accuracy: dict[str, list[float | None]] = {}
    series |= {"landscape": {}, "accuracy": accuracy, "settings": {}}
    edges = 0
    for side in sides:
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][side.name] = dict(tuned.settings)
        series["landscape"][side.name] = [
            [s["lr"], None if v is None else 100 * v] for s, v in zip(side.grid, tuned.scores, strict=True)
        ]
        runs = {side.name: tuned.settings, f"{side.name} 1e-3": {"lr": 1e-3}}
        if side.name == "Adam":
            runs["Adam 5e-4"] = {"lr": 5e-4}
        for name, settings in runs.items():
            found = repeat(context, task, side, settings, seeds, scale.steps)
            accuracy[name] = [None if r.test_metric is None else 100 * r.test_metric for r in found]
    for name, ours, theirs in (
        ("points_over_adam_tuned", "diffGrad", "Adam"),
        ("points_over_adam_at_default", "diffGrad 1e-3", "Adam 1e-3"),
        ("points_over_adam_at_half_the_default", "diffGrad 1e-3", "Adam 5e-4"),
    ):
        gain = difference(accuracy[ours], accuracy[theirs])
        figures |= gain.figures(name) if gain else {name: None}
    for name, values in accuracy.items():
        figures[f"accuracy_{name.lower().replace(' ', '_')}"] = mean(values)
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(rates),
        "steps per run": scale.steps,
        "batch size": task.batch_size,
        "starts per toy function": scale.starts,
        "steps on toy functions": _STEPS,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
1. At the paper's setting of the toy runs, diffGrad ends lower than Adam (by {SAME:g} or more) on at least two more of
   the three functions than it ends higher.
2. Beyond the control: over many learning rates and starts, the best share of starts from which diffGrad reaches
   the global minimum exceeds Adam's best by {SHARE:g} points or more. Adam's curve holds the control, Adam at half
   the rate.
3. After equal tuning of the learning rate, the network's test accuracy is higher than with Adam (the interval of the
   paired difference lies above 0).

- **reproduced**: all three. **partly**: 1 or 3.
- **not reproduced**: neither 1 nor 3, or the interval of 3 lies below 0 and 2 fails.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


_ENDS = ("", "_low", "_high")


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    gain = [figures.get(f"points_over_adam_tuned{end}") for end in _ENDS]
    if None in gain or any(figures.get(f"points_over_adam_at_{n}") is None for n in ("default", "half_the_default")):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    ours, theirs = figures["best_share_of_starts_diffgrad"], figures["best_share_of_starts_adam"]
    printed = figures["functions_where_diffgrad_ends_lower_less_higher"] >= 2
    beyond = ours >= theirs + SHARE
    better, worse = gain[1] > 0, gain[2] < 0
    ends = "; ".join(
        f"{name}: {figures[f'{name}_end_adam']:.3f}, {figures[f'{name}_end_diffgrad']:.3f}, "
        f"{figures[f'{name}_end_adam_at_half_the_rate']:.3f}"
        for name in TOYS
    )
    plain, half = (
        "{:+.2f} ({:+.2f} to {:+.2f})".format(*(figures[f"points_over_adam_at_{name}{end}"] for end in _ENDS))
        for name in ("default", "half_the_default")
    )
    said = (
        f"At the paper's setting Adam, diffGrad, and Adam at half the rate end at these values: {ends}. Over all "
        f"rates, diffGrad reaches the global minimum from at best {ours:.0f} % of the starts, Adam from {theirs:.0f} "
        f"%. On digits tuned diffGrad's test accuracy differs from tuned Adam's by {gain[0]:+.2f} points "
        f"({gain[1]:+.2f} to {gain[2]:+.2f}); at the rate 1e-3 by {plain} from Adam's at 1e-3, and by {half} from "
        "Adam's at 5e-4."
    )
    said = parts([printed, beyond, better], said)
    if printed and beyond and better:
        return Judgement(Verdict.REPRODUCED, said)
    if (worse and not beyond) or not (printed or better):
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.PARTLY, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The toy runs, the share of starts over the rate, and the network's landscape and accuracy."""
    figure, axes = canvas(columns=3, rows=2, height=2.9)
    looks = {
        "adam": ("Adam", 1),
        "adam_at_half_the_rate": ("Adam, half the rate", 2),
        "diffgrad": ("diffGrad", 0),
    }
    for place, (name, (x, y)) in enumerate(series["functions"].items()):
        panel = axes[place]
        panel.plot(x, y, color="#9aa3ad", linewidth=1.4)
        for key, (label, index) in looks.items():
            end = series["ends"][name][key]
            value = figures[f"{name}_end_{key}"]
            panel.plot(end, value, MARKERS[index], color=COLOURS[index], label=label, markersize=9, alpha=0.85)
        panel.set_xlim(-1.1, 1.1)
        panel.set_ylim(-0.15, 1.6)
        panel.set_xlabel("x")
        panel.set_title(f"{name}: where {_STEPS} steps end")
    axes[0].legend()
    for name, index in (("diffGrad", 0), ("Adam", 1)):
        axes[3].plot(series["rates"], series["share"][name], color=COLOURS[index], marker=MARKERS[index], label=name)
        known = [p for p in series["landscape"][name] if p[1] is not None]
        axes[4].plot(*zip(*known, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name)
    axes[3].set_ylabel("starts that find the minimum (%)")
    axes[3].set_title("Toy functions, all rates")
    axes[4].set_ylabel("validation accuracy (%)")
    axes[4].set_title("Digits: tuning")
    for panel in axes[3:5]:
        panel.set_xscale("log")
        panel.set_xlabel("learning rate")
        panel.legend()
    names = {"diffGrad": "diffGrad\ntuned", "Adam": "Adam\ntuned", "diffGrad 1e-3": "diffGrad\n1e-3"}
    names |= {"Adam 1e-3": "Adam\n1e-3", "Adam 5e-4": "Adam\n5e-4"}
    for place, name in enumerate(names):
        index = 0 if name.startswith("diff") else 1
        found = [v for v in series["accuracy"][name] if v is not None]
        axes[5].plot([place] * len(found), found, MARKERS[index], color=COLOURS[index], alpha=0.4)
        if found:
            axes[5].plot([place - 0.3, place + 0.3], [float(np.mean(found))] * 2, color=COLOURS[index], linewidth=2.5)
    axes[5].set_xticks(range(len(names)), list(names.values()), fontsize=7.5)
    axes[5].set_ylabel("test accuracy (%)")
    axes[5].set_title("Digits: fresh seeds")
    return figure


CLAIM = Claim(
    method="diffgrad",
    title="diffGrad",
    statement=card("diffgrad").claim,
    paper=card("diffgrad").papers[0],
    test="""\
Where gradients change little, diffGrad is Adam at half the learning rate, so that is the control. On the paper's three
toy functions (start -1, rate 0.1, betas 0.95 and 0.999, 300 steps) the ends of Adam, Adam at half the rate and diffGrad
are compared, then the share of starts in [-1.5, 1.5] that reach the global minimum, over learning rates from 0.01 to 1.
A convolutional network classifies handwritten digits with diffGrad and Adam: tuned over the same learning rates on a
validation split, and at the default rate as in the paper, each with the same fresh seeds and schedule. """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, 20 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits (539 training images), 7 learning rates and 6 seeds per side, 200 steps; "
        "minutes",
        Size.FULL: "MNIST's 60,000 training images (found as `steepest.data.mnist` says), 8 learning rates and 5 seeds "
        "per side, 30,000 steps of 128; hours on a GPU (the paper trains ResNet-50 on CIFAR-10, which needs its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
