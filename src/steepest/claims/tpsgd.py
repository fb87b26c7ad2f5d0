"""Target projection: is it within 5 % of backpropagation on shallow networks, and ahead of what needs no feedback?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest.catalogue import card
from steepest.core.memory import peak_graph_size
from steepest.data.dataset import Dataset
from steepest.train.local import RecurrentBlock, TargetProjection

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, grid, mean, parts, too_few
from .figure import COLOURS, MARKERS, canvas
from .local_runs import best_of, images, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Points of percentage that backpropagation may be ahead.
WITHIN = 5.0
#: Of the networks, on how many target projection must be ahead of each of the others.
MANY = 3
CLASSES = 10
MOMENTUM = 0.9
NETWORKS = {
    "one": "perceptron, 1 hidden layer",
    "two": "perceptron, 2 hidden layers",
    "cnn": "convolutional",
    "rnn": "recurrent, rows in turn",
}
SIDES = {
    "tpsgd": "target projection",
    "backprop": "backpropagation",
    "drtp": "random target as error (DRTP)",
    "last": "last layer alone",
}
#: Further sides on the recurrent network: the target at the last time alone, which the paper does not rule out.
UNJUDGED = {
    "tpsgd_last": "target projection, last time",
    "tpsgd_last_through": "target projection, last time, errors through time",
}


@dataclass(frozen=True)
class _Scale:
    seeds: int
    data: Callable[[], Dataset]
    side: int  # pixels
    width: int
    channels: int
    epochs: int
    batch: int
    rates: tuple[float, ...]

    @property
    def rival_rates(self) -> tuple[float, ...]:
        """Twice as many, between and around: target projection chooses its loss, too."""
        return tuple(sorted({*self.rates, *(2.25 * rate for rate in self.rates)}))


_SCALES = {
    Size.SMOKE: _Scale(1, partial(images, "digits", 8), 8, 16, 2, 1, 128, (0.02,)),
    Size.LAPTOP: _Scale(5, partial(images, "mnist10k", 14), 14, 100, 8, 6, 128, (0.002, 0.01, 0.05, 0.25)),
    Size.FULL: _Scale(10, partial(images, "mnist", 28), 28, 500, 32, 50, 128, (0.0004, 0.002, 0.01, 0.05, 0.25)),
}


class _Last(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[:, -1]


def _blocks(network: str, scale: _Scale, truncate: bool, last: bool) -> nn.ModuleList:
    side, width, channels = scale.side, scale.width, scale.channels
    if network == "rnn":
        first = nn.Sequential(nn.Flatten(1, 2))  # one channel: rows in turn
        cell = RecurrentBlock(nn.RNNCell(side, width), last=last, truncate=truncate)
        end = nn.Linear(width, CLASSES)
        return nn.ModuleList([first, cell, end if last else nn.Sequential(_Last(), end)])
    if network == "cnn":
        half = (side + 1) // 2
        places = ((half + 1) // 2) ** 2
        return nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.Tanh()),
                nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.Tanh()),
                nn.Sequential(nn.Flatten(), nn.Linear(2 * channels * places, CLASSES)),
            ]
        )
    sizes = [side * side, width, *([width] if network == "two" else [])]
    hidden = [nn.Sequential(nn.Flatten(), nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(sizes)]
    return nn.ModuleList([*hidden, nn.Linear(sizes[-1], CLASSES)])


def _make(
    network: str, side: str, scale: _Scale, settings: Mapping[str, Any], seed: int
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Any]]:
    blocks = _blocks(network, scale, side not in ("backprop", "tpsgd_last_through"), side in UNJUDGED)
    model = nn.Sequential(*blocks)
    sgd = partial(torch.optim.SGD, lr=settings["lr"], momentum=MOMENTUM)
    if side == "backprop":
        optimizer = sgd(model.parameters())

        def step(inputs: Tensor, targets: Tensor) -> None:
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()

        return model, step
    local = (lambda y, t: t * y) if side == "drtp" else settings.get("loss", "l2")
    trainer = TargetProjection(blocks, CLASSES, sgd, local_loss=local, seed=seed)
    return model, partial(trainer.step, layers=[-1] if side == "last" else None)


def _grid(side: str, scale: _Scale) -> Sequence[Mapping[str, Any]]:
    if side.startswith("tpsgd"):
        return grid(lr=scale.rates, loss=("l2", "l1"))
    return grid(lr=scale.rival_rates)


def measure(context: Context) -> Measured:
    """All sides on all networks."""
    scale = _SCALES[context.size]
    dataset = scale.data()
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"accuracy": {}, "tuning": {}, "settings": {}}
    edges = 0
    rows = (dataset.train.inputs[: scale.batch], dataset.train.targets[: scale.batch])
    for network, said in NETWORKS.items():
        series["accuracy"][network], series["tuning"][network], series["settings"][network] = {}, {}, {}
        for side, called in {**SIDES, **(UNJUDGED if network == "rnn" else {})}.items():
            make = partial(_make, network, side, scale)

            def run(settings: Mapping[str, Any], seed: int, make: Any = make) -> Any:
                return train(make, settings, dataset, scale.epochs, scale.batch, seed)

            options = _grid(side, scale)
            chosen, scores, edge = best_of(
                context, f"{said}, {called}", options, lambda s, run=run: run(s, context.tuning_seed).validation
            )
            edges += edge and side in SIDES
            context.say(f"training {said}, {called}")
            series["accuracy"][network][side] = [run(chosen, seed).test for seed in seeds]
            series["tuning"][network][side] = [[s["lr"], v] for s, v in zip(options, scores, strict=True)]
            series["settings"][network][side] = dict(chosen)
            figures[f"accuracy_{network}_{side}"] = mean(series["accuracy"][network][side])
            with torch.random.fork_rng(devices=[]):
                figures[f"kept_{network}_{side}"] = peak_graph_size(partial(make(chosen, 0)[1], *rows))
        ours = series["accuracy"][network]["tpsgd"]
        for side in ("backprop", "drtp", "last"):
            gap = difference(ours, series["accuracy"][network][side])
            assert gap is not None
            figures |= gap.figures(f"points_over_{side}_{network}")
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(_grid("tpsgd", scale)),
        "epochs per run": scale.epochs,
        "images per batch": scale.batch,
        "training images": len(dataset.train),
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Points are of test accuracy in per cent, intervals 95 % over seeds. On a perceptron with one hidden layer, one with two,
a convolutional and a recurrent network:

1. target projection is at most {WITHIN:g} points behind backpropagation on all four (lower end of the interval);
2. it is ahead of training the last layer alone on {MANY} or more (the interval lies above 0);
3. it is ahead of direct random target projection on {MANY} or more (the interval lies above 0).

- **reproduced**: all three. **partly**: 1, or both 2 and 3.
- **not reproduced**: neither.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    holds = [
        all(figures[f"points_over_backprop_{network}_low"] >= -WITHIN for network in NETWORKS),
        *(
            sum(figures[f"points_over_{side}_{network}_low"] > 0 for network in NETWORKS) >= MANY
            for side in ("last", "drtp")
        ),
    ]

    def listed(side: str) -> str:
        return ", ".join(
            f"{figures[f'points_over_{side}_{network}']:+.1f} ({figures[f'points_over_{side}_{network}_low']:+.1f} to "
            f"{figures[f'points_over_{side}_{network}_high']:+.1f})"
            for network in NETWORKS
        )

    said = parts(
        holds,
        f"On the networks in the order of the rule, target projection's accuracy differs from backpropagation's by "
        f"{listed('backprop')} points, from that of the last layer alone by {listed('last')}, and from that of direct "
        f"random target projection by {listed('drtp')}. On the recurrent network it reaches "
        f"{figures['accuracy_rnn_tpsgd']:.0f} %; with the target at the last time alone, which is not judged, "
        f"{figures['accuracy_rnn_tpsgd_last']:.0f} %, and {figures['accuracy_rnn_tpsgd_last_through']:.0f} % where the "
        f"layer's own error passes through time.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or (holds[1] and holds[2]) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test accuracy, and what tuning saw, on every network."""
    figure, axes = canvas(columns=4, rows=2, height=3.0)
    for column, (network, said) in enumerate(NETWORKS.items()):
        found = series["accuracy"][network]
        place = axes[column]
        for index, side in enumerate(SIDES):
            values = found[side]
            spread = [index + 0.06 * (k - (len(values) - 1) / 2) for k in range(len(values))]
            place.plot(spread, values, MARKERS[index], color=COLOURS[index], alpha=0.8, markersize=4)
        place.set_xticks(range(len(SIDES)), ["target\nproj.", "back-\nprop.", "DRTP", "last\nlayer"], fontsize=7.5)
        place.set_xlim(-0.6, len(SIDES) - 0.4)
        place.set_title(said, fontsize=8.5)
        below = axes[4 + column]
        for index, (side, name) in enumerate(SIDES.items()):
            points = series["tuning"][network][side]
            rates = sorted({rate for rate, _ in points})
            best = [max(v for r, v in points if r == rate) for rate in rates]
            below.plot(rates, best, color=COLOURS[index], marker=MARKERS[index], markersize=3.5, label=name)
        below.set_xscale("log")
        below.set_xlabel("learning rate")
    axes[0].set_ylabel("test accuracy (%)")
    axes[4].set_ylabel("validation accuracy (%)")
    figure.legend(*axes[4].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


CLAIM = Claim(
    method="tpsgd",
    title=card("tpsgd").title,
    statement=card("tpsgd").claim,
    paper=card("tpsgd").papers[0],
    test="""\
Handwritten digits on four shallow networks with tanh units. Target projection trains every layer with its own SGD on
the distance to a projected label; backpropagation trains all of them (through time, for the recurrent network). The two
other sides need no feedback either: direct random target projection takes the projected label itself as the error of
each hidden layer, and the last side leaves the hidden layers as they were drawn. All use SGD with a momentum of 0.9,
one learning rate for all layers, the same initial weights and batches. Target projection chooses among half as many
learning rates as the others, with either local loss, so that all have equally many settings. The paper
leaves open how convolutions and recurrent states get their targets: here every entry of a feature map has its own, and
all times share one. With the target at the last time alone the recurrent network is trained, too, and with errors that
pass through time within the layer; both were added after a first run whose verdict was the same, and are not judged.
Figures tell, too, how many numbers automatic differentiation holds at most in a step ("kept").""",
    rule=RULE,
    sizes={
        Size.SMOKE: "digits of 8 x 8 pixels, one epoch, one seed; seconds; always inconclusive",
        Size.LAPTOP: "7,000 digits of MNIST's test images at 14 x 14 pixels, 100 hidden units, 6 epochs, 8 settings "
        "and 5 seeds per side; minutes",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says), 500 hidden units, 50 epochs, 10 settings and 10 "
        "seeds per side; hours on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
