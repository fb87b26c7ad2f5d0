"""Data-efficient augmentation against random subsets, the largest losses, and augmenting everything or nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import data
from steepest.catalogue import card
from steepest.train.generalize import SubsetAugmentation

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, interval, mean, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The parts that are augmented.
FRACTIONS = (0.1, 0.3)
#: The part of the gain of augmenting everything that counts as most of it.
SHARE = 0.5
#: Epochs between two choices of a subset.
_EVERY = 5
_RATES = (0.03, 0.1, 0.01)
_WAYS = ("coreset", "random", "largest loss", "coreset, unweighted")
#: Name -> way of choosing and the part that is chosen.
_NAMES: dict[str, tuple[str, float]] = {
    "none": ("none", 0.0),
    **{f"{way} {fraction:.0%}": (way, fraction) for fraction in FRACTIONS for way in _WAYS},
    "full": ("full", 1.0),
}


@dataclass(frozen=True)
class _Scale:
    images: str
    seeds: int
    rates: int
    examples: int
    epochs: int
    width: int


_SCALES = {
    Size.SMOKE: _Scale("digits", 1, 1, 100, 2, 16),
    Size.LAPTOP: _Scale("mnist10k", 10, 3, 1000, 40, 64),
    Size.FULL: _Scale("mnist", 10, 3, 50_000, 200, 512),
}


@cache
def _digits(name: str) -> list[tuple[Tensor, Tensor]]:
    """Standardized images ``(n, 1, s, s)`` of at most 14 x 14 pixels and their classes: train, validation, test."""
    loaders: dict[str, Callable[..., data.Dataset]] = {
        "digits": data.digits,
        "mnist10k": data.mnist10k,
        "mnist": data.mnist,
    }
    found = loaders[name]()
    side = 8 if name == "digits" else 28
    pieces = []
    for split in (found.train, found.validation, found.test):
        images = split.inputs.reshape(-1, 1, side, side)
        pieces.append((functional.avg_pool2d(images, 2) if side == 28 else images, split.targets))
    return pieces


def augment(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image turned by up to 20 degrees, scaled by up to a fifth, shifted by up to a tenth, and with noise."""

    def uniform(most: float) -> Tensor:
        return most * (2 * torch.rand(len(images), generator=draw) - 1)

    angle, scale = uniform(np.pi / 9), 1 + uniform(0.2)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    moves = torch.stack([cos, -sin, uniform(0.2), sin, cos, uniform(0.2)], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(moves.to(images), list(images.shape), align_corners=False)
    edge = images.amin()  # outside the image is background, not the mean grey
    turned = functional.grid_sample(images - edge, grid, align_corners=False) + edge
    return turned + 0.1 * torch.randn(turned.shape, generator=draw).to(images)


def _choose(way: str, fraction: float, model: nn.Module, x: Tensor, y: Tensor, draw: torch.Generator) -> Any:
    """Indices of what is augmented, and the weights of the copies."""
    count = round(fraction * len(y))
    if way.startswith("coreset"):
        subset = SubsetAugmentation(fraction).select(model, [(x, y)])
        return subset.indices, subset.weights if way == "coreset" else torch.ones_like(subset.weights)
    if way == "random":
        chosen = torch.randperm(len(y), generator=draw)[:count].to(y.device)
    elif way == "largest loss":
        with torch.no_grad():
            chosen = functional.cross_entropy(model(x), y, reduction="none").topk(count).indices
    else:
        chosen = torch.arange(count, device=y.device)
    return chosen, torch.ones(count, device=y.device)


def fit(context: Context, scale: _Scale, name: str, rate: float, seed: int) -> tuple[float, float, float]:
    """Train one side; the accuracies on validation and test, and the seconds of computing that training took."""
    way, fraction = _NAMES[name]
    (images, classes), validation, test = _digits(scale.images)
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(classes), generator=draw)[: scale.examples]
    x, y = images[rows].to(context.device), classes[rows].to(context.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pixels, width = images[0].numel(), scale.width
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        ).to(context.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, scale.epochs)
    begun = time.process_time()
    for epoch in range(scale.epochs):
        if epoch % _EVERY == 0:
            chosen, own = _choose(way, fraction, model, x, y, draw)
        copies = augment(x[chosen], draw) if len(chosen) else x[:0]
        inputs, targets = torch.cat([x, copies]), torch.cat([y, y[chosen]])
        weights = torch.cat([torch.ones_like(y, dtype=own.dtype), own])
        for batch in torch.randperm(len(targets), generator=draw).to(y.device).split(50):
            losses = functional.cross_entropy(model(inputs[batch]), targets[batch], reduction="none")
            optimizer.zero_grad()
            (losses * weights[batch]).mean().backward()
            optimizer.step()
        schedule.step()
    seconds = time.process_time() - begun
    with torch.no_grad():
        scores = [
            float((model(a.to(context.device)).argmax(1).cpu() == b).float().mean()) for a, b in (validation, test)
        ]
    return scores[0], scores[1], seconds


def _key(name: str) -> str:
    return name.replace(",", "").replace(" ", "_").replace("%", "")


def measure(context: Context) -> Measured:
    """Tune every side's learning rate, then train it with fresh seeds and fresh training images."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    rates = _RATES[: scale.rates]
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"tuning": {}, "test": {}, "seconds": {}, "rates": {}}
    edges = 0
    for name in _NAMES:
        found = []
        for rate in rates:
            context.say(f"tuning {name}, learning rate {rate:g}")
            found.append(fit(context, scale, name, rate, context.tuning_seed)[0])
        best = rates[max(range(len(rates)), key=lambda k: found[k])]
        edges += len(rates) > 1 and best in (min(rates), max(rates))
        series["tuning"][name] = [[rate, score] for rate, score in zip(rates, found, strict=True)]
        series["rates"][name] = best
        runs = []
        for number, seed in enumerate(seeds, 1):
            context.say(f"training {name}: {number} of {len(seeds)}")
            runs.append(fit(context, scale, name, best, seed))
        series["test"][name] = [100 * run[1] for run in runs]
        series["seconds"][name] = [run[2] for run in runs]
        figures |= interval(series["test"][name]).figures(f"accuracy_{_key(name)}")
    for fraction in FRACTIONS:
        ours = f"coreset {fraction:.0%}"
        for other in ("random", "largest loss"):
            gap = difference(series["test"][ours], series["test"][f"{other} {fraction:.0%}"])
            key = f"{_key(ours)}_less_{_key(other)}"
            figures |= gap.figures(key) if gap else {key: None}
        gap = difference(
            series["test"][f"coreset, unweighted {fraction:.0%}"], series["test"][f"random {fraction:.0%}"]
        )
        key = f"coreset_unweighted_{100 * fraction:.0f}_less_random"
        figures |= gap.figures(key) if gap else {key: None}
        for way in ("coreset", "random"):
            own = f"{way} {fraction:.0%}"
            gains = [float(np.mean(series["test"][n])) - float(np.mean(series["test"]["none"])) for n in (own, "full")]
            figures[f"share_of_gain_{_key(own)}"] = gains[0] / gains[1] if gains[1] > 0 else None
        figures[f"time_of_{_key(ours)}_over_full"] = (mean(series["seconds"][ours]) or 0.0) / max(
            mean(series["seconds"]["full"]) or 0.0, 1e-9
        )
    figures |= interval([a - b for a, b in zip(series["test"]["full"], series["test"]["none"], strict=True)]).figures(
        "full_less_none"
    )
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "learning rates tried per side": len(rates),
        "training images": scale.examples,
        "epochs": scale.epochs,
        "epochs between two choices": _EVERY,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Intervals are of paired differences in test accuracy.

1. With a tenth augmented, the subset is better than a random one: the interval lies above 0.
2. So it is with three tenths.
3. With a tenth, it is better than the examples of the largest loss.
4. With three tenths it gains at least {SHARE:.0%} of what augmenting everything gains over augmenting nothing (whose
   interval lies above 0), in less time, that of choosing included.

- **reproduced**: all four. **partly**: 1 or 2, but not all. **not reproduced**: neither 1 nor 2.
- **inconclusive**: fewer than {ENOUGH} seeds, or augmenting everything does not help."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    share = figures["share_of_gain_coreset_30"]
    if share is None or figures["full_less_none_low"] <= 0:
        return Judgement(
            Verdict.INCONCLUSIVE,
            f"Augmenting everything changes the accuracy by {figures['full_less_none']:+.2f} points: there is no gain "
            "to share.",
        )

    def above(key: str) -> bool:
        low = figures[f"{key}_low"]
        return low is not None and low > 0

    holds = [
        above("coreset_10_less_random"),
        above("coreset_30_less_random"),
        above("coreset_10_less_largest_loss"),
        share >= SHARE and figures["time_of_coreset_30_over_full"] < 1,
    ]

    def told(key: str) -> str:
        return f"{figures[key]:+.2f} points ({figures[f'{key}_low']:+.2f} to {figures[f'{key}_high']:+.2f})"

    said = parts(
        holds,
        f"Test accuracy: nothing augmented {figures['accuracy_none']:.1f} %, everything {figures['accuracy_full']:.1f} "
        f"%. The subset against a random one: {told('coreset_10_less_random')} with a tenth, "
        f"{told('coreset_30_less_random')} with three tenths; against the largest losses, with a tenth: "
        f"{told('coreset_10_less_largest_loss')}. With three tenths it has {share:.0%} of the gain (a random one "
        f"{figures['share_of_gain_random_30']:.0%}) in {figures['time_of_coreset_30_over_full']:.0%} of the time. "
        f"Without weights, which is not judged, the subset against a random one: "
        f"{told('coreset_unweighted_10_less_random')} with a tenth, {told('coreset_unweighted_30_less_random')} with "
        f"three tenths.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or holds[1] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Accuracy over the part that is augmented, and over time."""
    figure, (over_part, over_time) = canvas()
    for index, way in enumerate(_WAYS):
        names = ["none", *(f"{way} {fraction:.0%}" for fraction in FRACTIONS), "full"]
        places = [0.0, *(100 * fraction for fraction in FRACTIONS), 100.0]
        means = [figures[f"accuracy_{_key(n)}"] for n in names]
        style = {"color": COLOURS[index], "marker": MARKERS[index], "label": way}
        over_part.plot(places, means, **style)
        spread = [
            [
                abs(
                    figures[f"accuracy_{_key(n)}"]
                    - (figures[f"accuracy_{_key(n)}_{end}"] or figures[f"accuracy_{_key(n)}"])
                )
                for n in names
            ]
            for end in ("low", "high")
        ]
        over_part.errorbar(places, means, yerr=spread, color=COLOURS[index], fmt="none", capsize=3, linewidth=1)
        over_time.plot([mean(series["seconds"][n]) for n in names], means, **style)
    for axes, label in ((over_part, "examples augmented (%)"), (over_time, "computing time of a run (s)")):
        axes.set_xlabel(label)
        axes.set_ylabel("test accuracy (%)")
    over_part.set_title("Means and 95 % intervals")
    over_part.legend()
    over_time.set_title("The same over time, choosing included")
    return figure


CLAIM = Claim(
    method="data-efficient-augmentation",
    title="Data-efficient augmentation",
    statement=card("data-efficient-augmentation").claim,
    paper=card("data-efficient-augmentation").papers[0],
    test="""\
A perceptron with two hidden layers learns handwritten digits of 14 x 14 pixels from few images, by SGD with momentum
and a cosine schedule. An epoch holds all training images and augmented copies (turned, scaled, shifted, with noise;
fresh in every epoch) of none of them, of all, or of a tenth or three tenths: of the subset that covers the gradients,
with its weights; of a random one; or of the examples with the largest loss. All three are chosen anew every 5 epochs.
Sides train for equally many epochs, so that more copies mean more steps, as in the paper. Every side has as many
learning rates, judged on validation images; every seed has its own training images. The paper's data are CIFAR-10 and
others, its networks convolutional.

The subset with all weights at one was added after a first run whose verdict was the same; it is measured and not
judged. It is what the authors' code does, unless it is told otherwise, where copies are added to all data.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, 100 of scikit-learn's digits; seconds; always inconclusive",
        Size.LAPTOP: "1000 of 10,000 images of MNIST, 40 epochs, 3 learning rates and 10 seeds per side; minutes",
        Size.FULL: "50,000 images of MNIST, 512 units a layer, 200 epochs, 3 learning rates and 10 seeds per side; for "
        "a GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
