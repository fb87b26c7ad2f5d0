"""SMB against SGD and Adam on handwritten digits: how much the learning rate matters, and the loss for equal work."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest import data
from steepest.catalogue import card
from steepest.optim import SMB

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: A learning rate is good if its log10 loss is within ``GOOD`` of the best one; a side is not worse within ``MARGIN``.
GOOD, MARGIN = 0.5, 0.1
#: Percentage points of test accuracy that still count as equal.
POINTS = 1.0
#: The range over which SMB must be robust.
LOW, HIGH = 0.1, 2.0
_RATES = {
    "SMB": (0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0),
    "SGD": (0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0),
    "Adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1),
}
#: A forward pass, in units of a forward and a backward pass: a backward pass takes two forward ones.
FORWARD = 1 / 3
#: Losses below this are as good as zero.
_FLOOR = 1e-6


@dataclass(frozen=True)
class _Scale:
    images: str
    work: int  # in gradients: a forward and a backward pass
    seeds: int
    rates: int
    hidden: tuple[int, int]


_SCALES = {
    Size.SMOKE: _Scale("digits", 12, 1, 1, (16, 16)),
    Size.LAPTOP: _Scale("digits", 450, 5, 7, (128, 64)),
    Size.FULL: _Scale("mnist", 20_000, 5, 7, (512, 256)),
}


@cache
def _images(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    found = data.digits(validation=0.0, test=0.3) if name == "digits" else data.mnist()
    return (found.train.inputs.flatten(1), found.train.targets), (found.test.inputs.flatten(1), found.test.targets)


@dataclass(frozen=True)
class _Run:
    loss: float  # of the training data, at the end
    accuracy: float  # of the test data, in per cent
    curve: list[tuple[float, float]]
    corrected: float  # the part of the steps


def run(name: str, rate: float, scale: _Scale, seed: int) -> _Run:
    """Train a perceptron with a constant learning rate until the work is spent."""
    (inputs, targets), (held, labels) = _images(scale.images)
    torch.manual_seed(seed)
    a, b = scale.hidden
    model = nn.Sequential(nn.Linear(inputs.shape[1], a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, 10))
    kinds: dict[str, Any] = {"SMB": SMB, "SGD": torch.optim.SGD, "Adam": torch.optim.Adam}
    optimizer = kinds[name](model.parameters(), lr=rate)
    size, work, steps = min(128, len(targets) // 2), 0.0, 0
    curve: list[tuple[float, float]] = []

    def whole() -> float:
        with torch.no_grad():
            value = float(cross_entropy(model(inputs), targets))
        return value if math.isfinite(value) else math.inf

    while work < scale.work:
        for rows in torch.randperm(len(targets))[: len(targets) // size * size].split(size):

            def closure(rows: Tensor = rows) -> Tensor:
                return cross_entropy(model(inputs[rows]), targets[rows])

            if name == "SMB":
                before = optimizer.corrections
                optimizer.step(closure)
                work += 1 + FORWARD + (1 - FORWARD) * (optimizer.corrections - before)
            else:
                optimizer.zero_grad()
                closure().backward()
                optimizer.step()
                work += 1
            steps += 1
            if work >= scale.work * (len(curve) + 1) / 20:
                curve.append((work, min(whole(), 1e6)))
            if work >= scale.work:
                break
    with torch.no_grad():
        accuracy = 100 * float((model(held).argmax(1) == labels).float().mean())
    corrected = optimizer.corrections / steps if name == "SMB" else 0.0
    return _Run(curve[-1][1], accuracy, curve, corrected)


def _log(loss: float) -> float:
    return math.log10(max(loss, _FLOOR))


def measure(context: Context) -> Measured:
    """Every learning rate with every seed; the best one of a method is that of the tuning seed."""
    scale = _SCALES[context.size]
    with torch.random.fork_rng(devices=[]):
        return _measure(context, scale)


def _measure(context: Context, scale: _Scale) -> Measured:
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"landscape": {}, "curves": {}, "rates": {}, "corrected": {}}
    logs: dict[str, list[float]] = {}
    points: dict[str, list[float]] = {}
    edges = 0
    for name, rates in _RATES.items():
        rates = rates[: scale.rates]
        context.say(f"tuning {name}")
        tuned = {rate: run(name, rate, scale, context.tuning_seed).loss for rate in rates}
        chosen = min(rates, key=lambda rate: tuned[rate])
        edges += len(rates) > 1 and chosen in (rates[0], rates[-1])
        context.say(f"training {name}")
        runs = {rate: [run(name, rate, scale, seed) for seed in seeds] for rate in rates}
        landscape = {rate: float(np.mean([_log(r.loss) for r in found])) for rate, found in runs.items()}
        lowest = min(landscape.values())
        good = [rate for rate, value in landscape.items() if value <= lowest + GOOD]
        plain = name.lower()
        figures[f"good_learning_rates_{plain}"] = len(good)
        if name != "Adam":
            within = [v for rate, v in landscape.items() if LOW <= rate <= HIGH]
            figures[f"decades_over_the_range_{plain}"] = max(within, default=lowest) - lowest
        logs[name] = [_log(r.loss) for r in runs[chosen]]
        points[name] = [r.accuracy for r in runs[chosen]]
        figures[f"log10_loss_{plain}"] = float(np.mean(logs[name]))
        figures[f"accuracy_{plain}"] = float(np.mean(points[name]))
        series["landscape"][name] = [[rate, 10**value] for rate, value in landscape.items()]
        series["curves"][name] = [r.curve for r in runs[chosen]]
        series["rates"][name] = chosen
        if name == "SMB":
            series["corrected"] = [[rate, float(np.mean([r.corrected for r in found]))] for rate, found in runs.items()]
            figures["percent_corrected_smb"] = 100 * float(np.mean([r.corrected for r in runs[chosen]]))
    for rival in ("SGD", "Adam"):
        gaps = [a - b for a, b in zip(logs["SMB"], logs[rival], strict=True)]
        figures |= interval(gaps).figures(f"log10_loss_over_{rival.lower()}")
        gaps = [a - b for a, b in zip(points["SMB"], points[rival], strict=True)]
        figures |= interval(gaps).figures(f"points_over_{rival.lower()}")
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "work per run, in forward and backward passes": scale.work,
        "learning rates tried per side": min(scale.rates, 7),
        "batch size": 128,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Losses are those of all training images after equal work: a step of SGD or Adam is one forward and one backward pass; an
accepted step of SMB has a forward pass more, a corrected one a backward pass besides. A backward pass counts for two
forward ones. Learning rates are constant. The rate of a method is the best one of another seed.

1. SMB's mean log10 loss at every rate from {LOW:g} to {HIGH:g} is within {GOOD:g} of its best over all rates.
2. SGD's is not.
3. With the rate of each, SMB's loss is not worse than SGD's (the interval of the paired log10 ratio lies below
   {MARGIN:g}).
4. It is not worse than Adam's.
5. Its test accuracy is not worse than SGD's by more than {POINTS:g} point (the interval lies above -{POINTS:g}).

- **reproduced**: all. **partly**: 1, or both of 3 and 5. **not reproduced**: neither of those.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    own, other = figures["decades_over_the_range_smb"], figures["decades_over_the_range_sgd"]
    holds = [
        own <= GOOD,
        other > GOOD,
        figures["log10_loss_over_sgd_high"] < MARGIN,
        figures["log10_loss_over_adam_high"] < MARGIN,
        figures["points_over_sgd_low"] > -POINTS,
    ]

    def told(name: str, unit: str = "") -> str:
        middle, low, high = (figures[f"{name}{end}"] for end in ("", "_low", "_high"))
        return f"{middle:+.2f}{unit} ({low:+.2f} to {high:+.2f})"

    said = parts(
        holds,
        f"Over rates from {LOW:g} to {HIGH:g} the loss of SMB is within {own:.2f} decades of its best, that of SGD "
        f"within {other:.2f}; {figures['good_learning_rates_smb']} and {figures['good_learning_rates_sgd']} of the 7 "
        f"rates are good. For equal work its log10 loss differs by {told('log10_loss_over_sgd')} from SGD's and by "
        f"{told('log10_loss_over_adam')} from Adam's, its accuracy by {told('points_over_sgd')} points from SGD's; "
        f"{figures['percent_corrected_smb']:.0f} % of its steps were corrected.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or (holds[2] and holds[4]) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The loss over the learning rate, and over the work at the best one."""
    figure, (left, right) = canvas()
    for index, (name, landscape) in enumerate(series["landscape"].items()):
        left.plot(*zip(*landscape, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name)
        for number, curve in enumerate(series["curves"][name]):
            label = f"{name}, lr {series['rates'][name]:g}" if number == 0 else None
            right.plot(*zip(*curve, strict=True), color=COLOURS[index], linewidth=1, alpha=0.7, label=label)
    left.axvspan(LOW, HIGH, color="#e3e6ea", zorder=0)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("learning rate")
    left.set_ylabel("training loss")
    left.set_title("How much the learning rate matters")
    left.legend()
    right.set_yscale("log")
    right.set_xlabel("work (forward and backward passes)")
    right.set_ylabel("training loss")
    right.set_title("With the best learning rate")
    right.legend()
    return figure


CLAIM = Claim(
    method="smb",
    title="SMB",
    statement=card("smb").claim,
    paper=card("smb").papers[0],
    test="""\
A perceptron with two hidden layers (128 and 64 units, ReLU) learns scikit-learn's handwritten digits in batches of 128.
SMB and SGD without momentum choose among the same seven constant learning rates from 0.03 to 5, Adam among seven from
1e-4 to 0.1, by the training loss of a seed that is not scored; and all rates are run with all seeds, to see how much
they matter. Work is counted in passes, not seconds, which depend on the machine. The paper trains on MNIST, CIFAR-10
and CIFAR-100, and has SLS among the rivals.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one rate, one seed, a dozen steps; seconds; always inconclusive",
        Size.LAPTOP: "1,797 images, work of 450 gradients, 7 rates and 5 seeds per side; minutes",
        Size.FULL: "MNIST and hidden layers of 512 and 256, work of 20,000 gradients; hours",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
