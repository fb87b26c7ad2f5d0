"""Forward gradients: do guesses from local losses come close to backpropagation, where random ones do not?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest.catalogue import card
from steepest.data.dataset import Dataset
from steepest.train.local import ForwardGradient, LocalLosses

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, grid, mean, parts, too_few
from .figure import COLOURS, MARKERS, canvas
from .local_runs import best_of, images, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Points of accuracy by which local guesses must be ahead of random ones.
AHEAD = 1.0
#: Points that backpropagation may be ahead of local guesses.
CLOSE = 5.0
#: How many times the cosine of random guesses that of local ones must be, in every hidden block.
ALIGNED = 5.0
CLASSES = 10
MOMENTUM = 0.9
SIDES = {
    "local_guess": "local guess",
    "backprop": "backpropagation",
    "local_only": "local gradients alone",
    "random_guess": "random guess",
}


@dataclass(frozen=True)
class _Scale:
    seeds: int
    data: Callable[[], Dataset]
    side: int  # pixels
    channels: int
    epochs: int
    batch: int
    rates: tuple[float, ...]
    every: int  # steps between two looks at the cosines


def _digits() -> Dataset:
    return images("digits", 8, validation=0.2, test=0.5)


_SCALES = {
    Size.SMOKE: _Scale(1, _digits, 8, 2, 1, 128, (0.03,), 2),
    Size.LAPTOP: _Scale(5, _digits, 8, 8, 30, 32, (0.001, 0.003, 0.01, 0.03, 0.1), 25),
    Size.FULL: _Scale(5, partial(images, "mnist", 28), 28, 32, 50, 128, (0.001, 0.003, 0.01, 0.03, 0.1), 500),
}
#: Random guesses have a gradient's variance many times over, and need smaller rates.
_SMALLER = 0.1


def _network(scale: _Scale) -> tuple[list[nn.Module], list[nn.Module]]:
    """Three convolutional blocks and a linear one; the heads of the first three."""
    width, half = scale.channels, (scale.side + 1) // 2
    places = ((half + 1) // 2) ** 2
    blocks: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(2 * width * places, CLASSES)),
    ]

    def head(channels: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, CLASSES))

    return blocks, [head(width), head(2 * width), head(2 * width)]


def _cosines(model: nn.Module, local: LocalLosses, inputs: Tensor, targets: Tensor, seed: int) -> list[list[float]]:
    """For local and for random guesses, the cosine of the true gradient and the estimate in each hidden block."""
    hidden = local.blocks[:-1]
    own = [list(block.parameters()) for block in hidden]
    truth = torch.autograd.grad(cross_entropy(model(inputs), targets), [p for part in own for p in part])
    true = dict(zip([p for part in own for p in part], truth, strict=True))
    kept = {p: p.grad for p in [*model.parameters(), *local.heads.parameters()]}
    found = []
    for estimator in (
        ForwardGradient(model, cross_entropy, local),
        ForwardGradient(model, cross_entropy, groups=local.blocks, seed=seed),
    ):
        for p in kept:
            p.grad = None
        estimator.estimate(inputs, targets)
        row = []
        for part in own:
            a = torch.cat([true[p].flatten() for p in part])
            b = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in part])
            scale = float(a.norm() * b.norm())
            row.append(float(a @ b) / scale if scale > 0 else 0.0)
        found.append(row)
    for p, g in kept.items():
        p.grad = g
    return found


def _make(
    side: str, scale: _Scale, settings: Mapping[str, Any], seed: int, looks: list[list[list[float]]] | None = None
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Any]]:
    blocks, heads = _network(scale)
    model = nn.Sequential(*blocks)
    local = LocalLosses(blocks, heads, cross_entropy)
    optimizer = torch.optim.SGD([*model.parameters(), *local.heads.parameters()], lr=settings["lr"], momentum=MOMENTUM)
    guess: Any = local if side == "local_guess" else "gaussian"
    estimator = ForwardGradient(model, cross_entropy, guess, groups=blocks, seed=seed)
    last = list(blocks[-1].parameters())
    count = 0

    def step(inputs: Tensor, targets: Tensor) -> None:
        nonlocal count
        if looks is not None and count % scale.every == 0:
            looks.append(_cosines(model, local, inputs, targets, count))
        count += 1
        optimizer.zero_grad()
        if side == "backprop":
            cross_entropy(model(inputs), targets).backward()
        elif side == "local_only":
            local.backward(inputs, targets)
        else:
            estimator.estimate(inputs, targets)
        if side == "random_guess":  # the last block has its true gradient on all sides
            with torch.no_grad():
                features = nn.Sequential(*blocks[:-1])(inputs)
            loss = cross_entropy(blocks[-1](features), targets)
            for p, g in zip(last, torch.autograd.grad(loss, last), strict=True):
                p.grad = g
        optimizer.step()

    return model, step


def _rates(side: str, scale: _Scale) -> tuple[float, ...]:
    return tuple(_SMALLER * rate if side == "random_guess" else rate for rate in scale.rates)


def measure(context: Context) -> Measured:
    """All sides, and the cosines along the training by local guesses."""
    scale = _SCALES[context.size]
    dataset = scale.data()
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"accuracy": {}, "tuning": {}, "settings": {}, "cosines": [], "every": scale.every}
    edges = 0
    for side, said in SIDES.items():

        def run(settings: Mapping[str, Any], seed: int, looks: Any = None, side: str = side) -> Any:
            make = partial(_make, side, scale, looks=looks)
            return train(make, settings, dataset, scale.epochs, scale.batch, seed)

        options = grid(lr=_rates(side, scale))
        chosen, scores, edge = best_of(
            context, said, options, lambda s, run=run: run(s, context.tuning_seed).validation
        )
        edges += edge
        context.say(f"training {said}")
        found = []
        for seed in seeds:
            looks: list[list[list[float]]] = []
            found.append(run(chosen, seed, looks if side == "local_guess" else None).test)
            if side == "local_guess":
                series["cosines"].append(looks)
        series["accuracy"][side] = found
        series["tuning"][side] = [[s["lr"], v] for s, v in zip(options, scores, strict=True)]
        series["settings"][side] = dict(chosen)
        figures[f"accuracy_{side}"] = mean(found)
    ours = series["accuracy"]["local_guess"]
    for side in ("backprop", "local_only", "random_guess"):
        gap = difference(ours, series["accuracy"][side])
        assert gap is not None
        figures |= gap.figures(f"points_over_{side}")
    cosines = np.array(series["cosines"])  # seeds, looks, local or random, blocks
    for block in range(cosines.shape[-1]):
        figures[f"cosine_local_{block + 1}"] = float(cosines[:, :, 0, block].mean())
        # A random direction has either sign; the estimate turns it towards the gradient.
        figures[f"cosine_random_{block + 1}"] = float(cosines[:, :, 1, block].mean())
    with torch.random.fork_rng(devices=[]):
        blocks, _ = _network(scale)
    figures["parameters"] = sum(p.numel() for block in blocks for p in block.parameters())
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(scale.rates),
        "epochs per run": scale.epochs,
        "images per batch": scale.batch,
        "training images": len(dataset.train),
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Points are of test accuracy in per cent, intervals 95 % over seeds. "Ours" are forward gradients along
the local guesses.

1. Ours are {AHEAD:g} point or more ahead of random guesses (lower end of the interval).
2. In each of the three hidden blocks their mean cosine with the true gradient is {ALIGNED:g} times or more that of
   random guesses.
3. Backpropagation is at most {CLOSE:g} points ahead of ours (lower end of the interval).
4. Ours are not behind training by the local gradients alone (the interval does not lie below 0).

- **reproduced**: all four. **partly**: 1, or both 2 and 3.
- **not reproduced**: neither.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    pairs = [(figures[f"cosine_local_{k}"], figures[f"cosine_random_{k}"]) for k in (1, 2, 3)]
    holds = [
        figures["points_over_random_guess_low"] >= AHEAD,
        all(local >= ALIGNED * max(random, 0.0) and local > 0 for local, random in pairs),
        figures["points_over_backprop_low"] >= -CLOSE,
        figures["points_over_local_only_high"] >= 0,
    ]

    def points(side: str) -> str:
        middle, low, high = (figures[f"points_over_{side}{end}"] for end in ("", "_low", "_high"))
        return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"

    cosines = ", ".join(f"{local:.2f} and {random:.2f}" for local, random in pairs)
    said = parts(
        holds,
        f"With local guesses the accuracy differs from that with random ones by {points('random_guess')} points, from "
        f"backpropagation's by {points('backprop')}, and from that of local gradients alone by "
        f"{points('local_only')}. The cosines of local and random guesses in the three blocks are {cosines}.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or (holds[1] and holds[2]) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test accuracy, what tuning saw, and the cosines over the training."""
    figure, axes = canvas(columns=3, height=3.4)
    scored, tuned, cosines = axes
    for index, (side, said) in enumerate(SIDES.items()):
        values = series["accuracy"][side]
        spread = [index + 0.06 * (k - (len(values) - 1) / 2) for k in range(len(values))]
        scored.plot(spread, values, MARKERS[index], color=COLOURS[index], alpha=0.8)
        tuned.plot(*zip(*series["tuning"][side], strict=True), color=COLOURS[index], marker=MARKERS[index], label=said)
    scored.set_xticks(range(len(SIDES)), ["local\nguess", "back-\nprop.", "local\nalone", "random\nguess"])
    scored.set_xlim(-0.6, len(SIDES) - 0.4)
    scored.set_ylabel("test accuracy (%)")
    scored.set_title("Fresh seeds")
    tuned.set_xscale("log")
    tuned.set_xlabel("learning rate")
    tuned.set_ylabel("validation accuracy (%)")
    tuned.set_title("Tuning")
    figure.legend(*tuned.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    means = np.array(series["cosines"]).mean(0)
    steps = [series["every"] * k for k in range(len(means))]
    for block in range(means.shape[-1]):
        style = ("-", "--", ":")[block % 3]
        cosines.plot(steps, means[:, 0, block], style, color=COLOURS[0], label=f"local, block {block + 1}")
        cosines.plot(steps, means[:, 1, block], style, color=COLOURS[3], label=f"random, block {block + 1}")
    cosines.set_xlabel("step")
    cosines.set_ylabel("cosine with the gradient")
    cosines.set_ylim(min(-0.05, float(np.min(means)) - 0.05), 1.35)
    cosines.set_title("Direction of the estimates")
    cosines.legend(fontsize=7, ncols=2, loc="upper center")
    return figure


CLAIM = Claim(
    method="forward-gradient",
    title=card("forward-gradient").title,
    statement=card("forward-gradient").claim,
    paper=card("forward-gradient").papers[0],
    test="""\
A network of three convolutional blocks and a linear one learns handwritten digits, from few images, so that there is
room for a difference. Estimates are of the gradient of the network's own loss, with one directional derivative per
block: along the gradient of a local loss, which the block gets through an auxiliary head (projected, the heads trained
besides), or along a Gaussian direction (unbiased). The last block has its true gradient on all sides, as in the paper.
Further sides are backpropagation, and the local gradients by themselves. All use SGD with a momentum of 0.9 and
are tuned over as many learning rates in steps of about 3, ten times smaller for random guesses. The paper projects
sample by sample, here it is by batch and block. Cosines with the true gradient are taken along the training by local
guesses.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "two channels, one epoch, one seed; seconds; always inconclusive",
        Size.LAPTOP: "540 images of 8 x 8 pixels, 30 epochs, 5 learning rates and 5 seeds per side; minutes",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says), 32 channels, 50 epochs; hours on one GPU. The paper "
        "has a ResNet-18 on CIFAR-10",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
