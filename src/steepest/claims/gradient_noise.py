"""Gradient noise on a network of 20 hidden layers, from poor and from good initial values."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import data
from steepest.catalogue import card
from steepest.core.transform import Transform
from steepest.optim import GradientNoise

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "Stack"]

#: Accuracy in per cent: what a network of zeros must reach with noise, and may at most reach without.
LEARNT, CHANCE = 90.0, 20.0
#: Points that noise may cost with a good initialization.
HARM = 1.0
_HIDDEN, _WIDTH, _BATCH = 20, 50, 50
_RATES = (0.1, 0.01)
#: Initial values and clip of the gradient's norm, as in the paper's tables.
CONDITIONS: dict[str, tuple[str, float]] = {
    "simple": ("simple", math.inf),
    "zero_clip": ("zero", 10.0),
    "he_clip": ("he", 10.0),
}
_NAMES = {"simple": "simple", "zero_clip": "zeros,\nclip 10", "he_clip": "He,\nclip 10"}
#: The deviation with which a layer of ReLU units keeps the size of its input (He): what noise must build up from zeros.
NEEDED = math.sqrt(2 / _WIDTH)


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    full: bool = False


_SCALES = {Size.SMOKE: _Scale(5, 1), Size.LAPTOP: _Scale(4000, 5), Size.FULL: _Scale(12_000, 20, full=True)}


class Stack(nn.Module):
    """Networks with equal shapes and different seeds, trained side by side: (seeds, batch, inputs) to logits.

    Args:
        initial: ``"simple"`` (weights of deviation 0.1), ``"he"``, or ``"zero"``.
        seeds: one network each.
        inputs: features.
    """

    def __init__(self, initial: str, seeds: Sequence[int], inputs: int) -> None:
        super().__init__()
        sizes = [inputs, *[_WIDTH] * _HIDDEN, 10]
        layers = []
        for fan, out in itertools.pairwise(sizes):
            deviation = {"simple": 0.1, "he": math.sqrt(2 / fan), "zero": 0.0}[initial]
            layers.append((fan, out, deviation))
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights = nn.ParameterList(
            torch.stack([d * torch.randn(fan, out, generator=draw) for draw in draws]) for fan, out, d in layers
        )
        self.biases = nn.ParameterList(torch.zeros(len(seeds), 1, out) for _, out, _ in layers)

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = x if index == last else torch.relu(x)
        return x


class _ClipEach(Transform):
    """Clips the norm of each network of a stack by itself, as :class:`~steepest.optim.NormClip` does for one."""

    def __init__(self, base: torch.optim.Optimizer, bound: float) -> None:
        super().__init__(base)
        self.bound = bound

    def transform(self, entries: Any) -> list[Tensor] | None:
        if math.isinf(self.bound):
            return None
        squares = sum(entry.gradient.square().sum((1, 2)) for entry in entries)
        factor = (self.bound / (squares.sqrt() + 1e-6)).clamp(max=1.0)[:, None, None]
        return [entry.gradient * factor for entry in entries]


def train(
    split: Any, initial: str, bound: float, eta: float, rate: float, seeds: Sequence[int], steps: int, device: str
) -> tuple[list[float], list[float]]:
    """Test accuracies in per cent, one per seed, and the mean training loss over the run."""
    x, y = split.train.inputs.flatten(1).to(device), split.train.targets.to(device)
    model = Stack(initial, seeds, x.shape[1]).to(device)
    noise = GradientNoise(torch.optim.SGD(model.parameters(), lr=rate), eta=eta, seed=seeds[0])
    optimizer = _ClipEach(noise, bound)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    losses = []
    for step in range(steps):
        rows = torch.stack([torch.randint(len(y), (_BATCH,), generator=draw) for draw in draws]).to(device)
        optimizer.zero_grad()
        logits = model(x[rows])
        # The sum over networks of their mean losses: each gets the gradient of its own.
        loss = functional.cross_entropy(logits.flatten(0, 1), y[rows].flatten(), reduction="sum") / _BATCH
        loss.backward()
        optimizer.step()
        if step % max(1, steps // 50) == 0:
            losses.append(float(loss.detach()) / len(seeds))
    held = split.test.inputs.flatten(1).to(device)
    with torch.no_grad():
        right = model(held.expand(len(seeds), *held.shape)).argmax(2) == split.test.targets.to(device)
    return (100 * right.double().mean(1)).tolist(), losses


def measure(context: Context) -> Measured:
    """Every condition with and without noise, at both learning rates, with the same seeds."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    split = data.mnist() if scale.full else data.digits(validation=0.1, test=0.3)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    accuracy: dict[str, dict[str, list[float]]] = {}
    curves: dict[str, dict[str, list[float]]] = {}
    for name, (initial, bound) in CONDITIONS.items():
        found: dict[str, list[float]] = {"without": [], "with": []}
        for label, eta in (("without", 0.0), ("with", 0.01)):
            for rate in _RATES:
                context.say(f"{name.replace('_', ', ')}, {label} noise, learning rate {rate:g}")
                scores, losses = train(split, initial, bound, eta, rate, seeds, scale.steps, context.device)
                found[label] += scores
                if rate == _RATES[0]:
                    finite = [v if math.isfinite(v) else 99.0 for v in losses]
                    curves.setdefault(name, {})[label] = finite
            figures[f"{name}_best_{label}"] = max(found[label])
            figures[f"{name}_average_{label}"] = sum(found[label]) / len(found[label])
        gain = difference(found["with"], found["without"])
        assert gain is not None
        figures |= gain.figures(f"{name}_gain")
        accuracy[name] = found
    # Without a gradient SGD adds up lr times the noise: a random walk of this deviation.
    total = sum((1 + t) ** -0.55 for t in range(scale.steps))
    figures["deviation_of_weights_by_noise_alone"] = _RATES[0] * math.sqrt(0.01 * total)
    budgets = {
        "runs per condition": len(seeds) * len(_RATES),
        "learning rates": "0.1, 0.01",
        "steps per run": scale.steps,
        "batch size": _BATCH,
    }
    return Measured(figures, {"accuracy": accuracy, "loss": curves}, seeds, budgets)


RULE = f"""\
Test accuracies over all seeds and both learning rates; differences are paired.

1. From zeros (clip 10), the best run with noise reaches {LEARNT:g} % or more, and none without noise exceeds
   {CHANCE:g} %.
2. From the simple initialization without a clip, noise raises the average accuracy (the interval of the paired
   difference lies above 0) and the best accuracy.
3. With He's initialization (clip 10), noise does no harm: the mean difference is not below -{HARM:g} point.

- **reproduced**: all three. **partly**: 1 or 2.
- **not reproduced**: neither 1 nor 2.
- **inconclusive**: fewer than {ENOUGH} seeds; or the runs are too short to tell: from zeros and from the simple
  initialization no run of either side exceeds {CHANCE:g} %."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    zeros = figures["zero_clip_best_with"] >= LEARNT and figures["zero_clip_best_without"] <= CHANCE
    simple = figures["simple_gain_low"] > 0 and figures["simple_best_with"] > figures["simple_best_without"]
    harmless = figures["he_clip_gain"] >= -HARM

    def told(name: str) -> str:
        one, two = (
            f"{figures[f'{name}_best_{k}']:.1f}/{figures[f'{name}_average_{k}']:.1f}" for k in ("without", "with")
        )
        return f"{one} % without noise, {two} % with"

    said = (
        f"Best and average accuracy: from zeros {told('zero_clip')}; simple initialization {told('simple')} (average "
        f"difference {figures['simple_gain']:+.1f} points, {figures['simple_gain_low']:+.1f} to "
        f"{figures['simple_gain_high']:+.1f}); He {told('he_clip')}. At the larger rate, the noise alone moves weights "
        f"by {figures['deviation_of_weights_by_noise_alone']:.3f} (standard deviation) within the run, where layers "
        f"of this width need about {NEEDED:g}."
    )
    if all(figures[f"{c}_best_{k}"] <= CHANCE for c in ("simple", "zero_clip") for k in ("without", "with")):
        short = "From the poor initial values nothing is learnt on either side: the runs are too short to tell. "
        return Judgement(Verdict.INCONCLUSIVE, short + said)
    said = parts([zeros, simple, harmless], said)
    if zeros and simple and harmless:
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if zeros or simple else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Accuracies of all runs, and the training loss at the larger learning rate."""
    figure, (left, right) = canvas()
    for place, name in enumerate(CONDITIONS):
        for index, label in ((1, "without"), (0, "with")):
            at = place + (0.17 if label == "with" else -0.17)
            scores = series["accuracy"][name][label]
            spread = [at + 0.09 * (k / max(1, len(scores) - 1) - 0.5) for k in range(len(scores))]
            left.plot(spread, scores, MARKERS[index], color=COLOURS[index], alpha=0.45, markersize=4)
            mean = figures[f"{name}_average_{label}"]
            known = f"{label} noise" if place == 0 else None
            left.plot([at - 0.13, at + 0.13], [mean, mean], color=COLOURS[index], linewidth=2.5, label=known)
    left.set_xticks(range(len(CONDITIONS)), [_NAMES[name] for name in CONDITIONS])
    left.set_ylim(0, 102)
    left.set_ylabel("test accuracy (%)")
    left.set_title("All runs, and their average")
    left.legend(loc="center left")
    for index, name in ((2, "zero_clip"), (3, "simple"), (4, "he_clip")):
        for label, style in (("without", ":"), ("with", "-")):
            curve = series["loss"][name][label]
            x = [k / max(1, len(curve)) for k in range(len(curve))]
            right.plot(x, curve, style, color=COLOURS[index], label=f"{_NAMES[name].split(',')[0]}, {label} noise")
    right.set_ylim(bottom=0, top=3.2)
    right.set_xlabel("part of the run")
    right.set_ylabel("training loss (nats)")
    right.set_title("Learning rate 0.1, mean over seeds")
    right.legend(fontsize=7.5)
    return figure


CLAIM = Claim(
    method="gradient-noise",
    title="Gradient noise",
    statement=card("gradient-noise").claim,
    paper=card("gradient-noise").papers[0],
    test="""\
The paper's network of 20 hidden layers with 50 ReLU units classifies handwritten digits, trained by SGD without
momentum on batches of 50, with and without the noise (variance 0.01 at first, exponent 0.55), from the paper's initial
values: simple (normal with deviation 0.1), zeros, and He's. As in the paper nothing is tuned: the runs are those of two
learning rates, 0.1 and 0.01, held constant, and of several seeds, and their best and average accuracies are compared.
Clipping the gradient's norm at 10, as the paper does, comes before the noise. (From the simple initialization the norm
never reaches 10, so that its run with the clip is left out.) From zeros all gradients but that of the
last bias are exactly zero, so that without noise nothing can be learnt: that part tests whether noise alone gets such a
network going. At laptop size the runs are shorter than the paper's: the clause on runs that are too short was added
after a first run at that size, which it decided.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one seed, 5 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits (1,078 training images), 5 seeds and 2 learning rates per condition, 4,000 "
        "steps; minutes",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says), 20 seeds and 2 learning rates per condition as in the "
        "paper, 12,000 steps; an hour on a GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
