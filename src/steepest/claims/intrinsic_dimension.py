"""How few dimensions of a random subspace suffice: for handwritten digits, and with and without pre-training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import data
from steepest.catalogue import card
from steepest.train.parametrize import Subspace

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "crossing"]

#: The part of the accuracy of full training that is to be reached.
PART = 0.9
#: What the earlier paper finds for this network on MNIST, and the factor by which a dimension may differ from it.
PUBLISHED, FACTOR = 750, 1.5
#: By how much pre-training must divide the dimension.
TIMES = 2.0
#: Learning rates of Adam in the subspace, where steps are short by the root of d, and for all parameters.
RATES = {"subspace": (0.03, 0.1, 0.3, 1.0), "full": (3e-4, 1e-3, 3e-3, 0.01)}
_STARTS = {"scratch": "from scratch", "pretrained": "pre-trained"}


@dataclass(frozen=True)
class _Scale:
    images: str
    seeds: int
    tuned: int  # learning rates
    hidden: int  # units of either hidden layer, for the published dimension
    dimensions: tuple[int, ...]
    steps: int
    batch: int
    widths: tuple[int, ...]  # of the networks that are fine-tuned
    small: tuple[int, ...]  # dimensions for these
    labels: int  # images of the new classes
    tuning: int  # steps of fine-tuning
    training: int  # steps of pre-training


_SCALES = {
    Size.SMOKE: _Scale("digits", 1, 1, 8, (8, 32), 5, 16, (6, 8), (8, 32), 50, 5, 5),
    Size.LAPTOP: _Scale(
        "mnist10k", 5, 4, 200, (188, 375, 750, 1500), 400, 64, (50, 100, 200), (25, 60, 150, 400, 1000), 500, 150, 400
    ),
    Size.FULL: _Scale(
        "mnist", 10, 4, 200, (94, 188, 375, 500, 625, 750, 875, 1000, 1500, 3000), 20_000, 64, (50, 100, 200, 400, 800),
        (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), 1000, 5000, 20_000,
    ),
}  # fmt: skip


class Split(NamedTuple):
    """Images as rows, and their classes."""

    x: Tensor
    y: Tensor

    def of(self, first: int) -> "Split":
        """The five classes from ``first`` on, counted from zero."""
        rows = (self.y >= first) & (self.y < first + 5)
        return Split(self.x[rows], self.y[rows] - first)


def _fit(module: nn.Module, train: Split, rate: float, steps: int, batch: int, seed: int) -> nn.Module:
    """Adam with a rate that falls linearly to zero."""
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=rate)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        rows = torch.randint(len(train.y), (batch,), generator=draw).to(train.y.device)
        optimizer.zero_grad()
        functional.cross_entropy(module(train.x[rows]), train.y[rows]).backward()
        optimizer.step()
    return module


def _accuracy(module: nn.Module, split: Split) -> float:
    with torch.no_grad():
        return float((module(split.x).argmax(-1) == split.y).double().mean())


def crossing(dimensions: Sequence[int], scores: Sequence[float], target: float) -> float | None:
    """Where the scores meet the target, by interpolation over the logarithm of the dimension.

    Scores are taken not to fall. The smallest dimension stands for itself and less; ``None`` where none suffices.
    """
    best = np.maximum.accumulate(scores)
    if best[-1] < target:
        return None
    above = int(np.argmax(best >= target))
    if above == 0:
        return float(dimensions[0])
    low, high = best[above - 1], best[above]
    part = (target - low) / (high - low)
    return float(dimensions[above - 1] * (dimensions[above] / dimensions[above - 1]) ** part)


class _Search:
    """Accuracies of full training and of subspaces, with learning rates tuned for each by one seed."""

    def __init__(self, context: Context, scale: _Scale, splits: Sequence[Split], steps: int, batch: int) -> None:
        self.context, self.scale, self.steps, self.batch = context, scale, steps, batch
        self.train, self.validation, self.test = splits
        self.edges = 0
        self.rates: list[float] = []

    def accuracies(self, build: Callable[[int], nn.Module], dimension: int | None) -> list[float]:
        """Seed by seed on the test images, with the rate that is best on the validation images."""

        def run(seed: int, rate: float) -> nn.Module:
            module = build(seed)
            if dimension is not None:
                module = Subspace(module, dimension, "sparse", seed=seed)
            return _fit(module, self.train, rate, self.steps, self.batch, seed)

        grid = RATES["full" if dimension is None else "subspace"][: self.scale.tuned]
        seed = self.context.tuning_seed
        found = [_accuracy(run(seed, rate), self.validation) for rate in grid]
        best = int(np.argmax(found))
        self.rates.append(grid[best])
        self.edges += len(grid) > 1 and best in (0, len(grid) - 1)
        seeds = self.context.seeds(self.scale.seeds)
        return [_accuracy(run(seed, grid[best]), self.test) for seed in seeds]

    def run(self, build: Callable[[int], nn.Module], dimensions: Sequence[int], name: str) -> dict[str, Any]:
        """The accuracies of all dimensions and of full training, and where they meet the target, seed by seed."""
        self.context.say(f"{name}: all parameters")
        full = self.accuracies(build, None)
        curves = []
        for dimension in dimensions:
            self.context.say(f"{name}: {dimension} dimensions")
            curves.append(self.accuracies(build, dimension))
        found = [
            crossing(dimensions, [curve[k] for curve in curves], PART * accuracy) for k, accuracy in enumerate(full)
        ]
        rates = self.rates[-len(dimensions) - 1 :]  # that of all parameters comes first
        return {"dimensions": list(dimensions), "full": full, "curves": curves, "found": found, "rates": rates}


def _network(inputs: int, hidden: int, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))
        )


def _started(inputs: int, width: int, trained: Mapping[int, nn.Module], device: str, seed: int) -> nn.Module:
    """A network for the new classes: pre-trained but for its output layer where there is one of that seed."""
    made = _network(inputs, width, 5, seed).to(device)
    if seed in trained:
        body = {name: value for name, value in trained[seed].state_dict().items() if not name.startswith("4.")}
        made.load_state_dict({**made.state_dict(), **body})
    return made


def measure(context: Context) -> Measured:
    """The dimension of the published network; then of networks of three widths, pre-trained and not."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    images = {"digits": data.digits, "mnist10k": data.mnist10k, "mnist": data.mnist}[scale.images]()
    splits = [
        Split(part.inputs.flatten(1).to(context.device), part.targets.to(context.device))
        for part in (images.train, images.validation, images.test)
    ]
    inputs = splits[0].x.shape[1]
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    search = _Search(context, scale, splits, scale.steps, scale.batch)
    wide = search.run(
        lambda seed: _network(inputs, scale.hidden, 10, seed).to(context.device), scale.dimensions, "ten classes"
    )
    figures |= _mean("dimension_ten_classes", wide["found"])
    figures["accuracy_ten_classes"] = float(np.mean(wide["full"]))
    series: dict[str, Any] = {"ten classes": wide, "transfer": {}, "widths": list(scale.widths)}
    # Pre-training on the digits 0 to 4, all of them; the task is 5 to 9, with few labels.
    source, rest = splits[0].of(0), [split.of(5) for split in splits]
    few = Split(rest[0].x[: scale.labels], rest[0].y[: scale.labels])
    tuner = _Search(context, scale, [few, *rest[1:]], scale.tuning, min(50, len(few.y)))
    found: dict[str, list[list[float | None]]] = {start: [] for start in _STARTS}
    for width in scale.widths:
        trained: dict[int, nn.Module] = {}
        for seed in (context.tuning_seed, *seeds):
            context.say(f"width {width}: pre-training")
            body = _network(inputs, width, 5, seed).to(context.device)
            trained[seed] = _fit(body, source, 1e-3, scale.training, scale.batch, seed)

        for start, name in _STARTS.items():
            build = partial(_started, inputs, width, trained if start == "pretrained" else {}, context.device)
            ran = tuner.run(build, scale.small, f"width {width}, {name}")
            series["transfer"].setdefault(start, []).append(ran)
            found[start].append(ran["found"])
            figures |= _mean(f"dimension_{start}_{width}", ran["found"])
    figures |= _ratios(found, len(seeds))
    figures["winners_at_edge_of_grid"] = search.edges + tuner.edges
    budgets = {
        "learning rates per dimension": scale.tuned,
        "steps per run on ten classes": scale.steps,
        "steps per run of fine-tuning": scale.tuning,
        "images of the new classes": len(few.y),
    }
    return Measured(figures, series, seeds, budgets)


def _mean(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """The geometric mean and its interval."""
    if any(v is None for v in values):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    logs = interval([math.log(v) for v in values if v is not None]).figures(name)
    return {key: None if v is None else math.exp(v) for key, v in logs.items()}


def _ratios(found: Mapping[str, Sequence[Sequence[float | None]]], seeds: int) -> dict[str, float | None]:
    """Seed by seed: what pre-training divides the dimension by, over all widths; and what the width does to it."""
    scratch, pretrained = found["scratch"], found["pretrained"]

    def divided(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a / b

    shrunk: list[float | None] = []
    for k in range(seeds):
        each = [divided(a[k], b[k]) for a, b in zip(scratch, pretrained, strict=True)]
        known = [math.log(v) for v in each if v is not None]
        shrunk.append(math.exp(sum(known) / len(known)) if len(known) == len(each) else None)
    grown = [divided(pretrained[-1][k], pretrained[0][k]) for k in range(seeds)]
    return _mean("times_fewer_pretrained", shrunk) | _mean("widest_over_narrowest_pretrained", grown)


RULE = f"""\
The dimension is where the test accuracy meets {PART:.0%} of that of training all parameters, by interpolation between
the dimensions tried, seed by seed; means are geometric.

1. For a network with two hidden layers of 200 units on ten classes it is {PUBLISHED}, up to a factor of {FACTOR:g}.
2. Pre-training on other classes divides it by {TIMES:g} or more on average over widths and seeds, and the lower end of
   the interval is above 1.
3. The dimension of pre-trained networks does not grow with the width: its ratio between the widest and the narrowest is
   1 or less on average, or the interval has 1 within it.

- **reproduced**: all three. **partly**: 1 or 2.
- **not reproduced**: neither 1 nor 2.
- **inconclusive**: fewer than {ENOUGH} seeds, or no dimension tried suffices somewhere."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    names = ("dimension_ten_classes", "times_fewer_pretrained", "widest_over_narrowest_pretrained")
    if any(figures.get(f"{name}_high") is None for name in names):
        return Judgement(Verdict.INCONCLUSIVE, "In some runs no dimension that was tried suffices.")
    (dimension, *around), (times, low, high), (growth, *between) = (
        [figures[f"{name}{end}"] for end in ("", "_low", "_high")] for name in names
    )
    holds = [
        PUBLISHED / FACTOR <= dimension <= PUBLISHED * FACTOR,
        times >= TIMES and low > 1,
        growth <= 1 or between[0] <= 1,
    ]
    said = parts(
        holds,
        f"On ten classes {dimension:.0f} dimensions ({around[0]:.0f} to {around[1]:.0f}) suffice for {PART:.0%} of the "
        f"accuracy of full training, {100 * figures['accuracy_ten_classes']:.1f} %. Pre-training divides the dimension "
        f"by {times:.1f} ({low:.1f} to {high:.1f}). Pre-trained, the widest network needs {growth:.2f} times "
        f"({between[0]:.2f} to {between[1]:.2f}) what the narrowest does.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or holds[1] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Accuracy over the dimension on ten classes; with and without pre-training; and the dimensions found."""
    figure, axes = canvas(rows=2)
    _curve(axes[0], series["ten classes"], 0, "subspace")
    axes[0].axvline(PUBLISHED, color="#9aa1ab", linewidth=1, linestyle=":", label=f"published: {PUBLISHED}")
    axes[0].set_title("Ten classes, 200 units per layer")
    axes[0].legend(fontsize=8)
    panel = axes[3]
    for index, (start, name) in enumerate(_STARTS.items()):
        runs = series["transfer"][start]
        for place, run in enumerate(runs):
            first, last = place == 0, place == len(runs) - 1
            if first or last:
                _curve(axes[1 if first else 2], run, index, name)
        means, widths = [], []
        for width, run in zip(series["widths"], runs, strict=True):
            known = [v for v in run["found"] if v is not None]
            panel.plot([width] * len(known), known, MARKERS[index], color=COLOURS[index], alpha=0.4, markersize=4)
            if known:
                means.append(float(np.exp(np.mean(np.log(known)))))
                widths.append(width)
        panel.plot(widths, means, color=COLOURS[index], marker=MARKERS[index], label=name)
    for place, which in ((1, 0), (2, -1)):
        axes[place].set_title(f"New classes, width {series['widths'][which]}")
        axes[place].legend(fontsize=8)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(series["widths"], [str(w) for w in series["widths"]])
    low, high = panel.get_ylim()
    panel.set_yticks([v for v in (10, 20, 50, 100, 150, 200, 300, 400, 600, 1000) if low <= v <= high])
    panel.yaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()
    panel.set_xlabel("width")
    panel.set_ylabel("dimension for 90 %")
    panel.set_title("Dimension over the width")
    panel.legend(fontsize=8)
    return figure


def _curve(panel: Any, run: Mapping[str, Any], index: int, label: str) -> None:
    """Accuracies over the dimension, all seeds and their mean, and the target."""
    values, x = 100 * np.array(run["curves"]), run["dimensions"]
    panel.plot(x, values.mean(1), color=COLOURS[index], marker=MARKERS[index], label=label)
    panel.fill_between(x, values.min(1), values.max(1), color=COLOURS[index], alpha=0.15, linewidth=0)
    target = 100 * PART * float(np.mean(run["full"]))
    panel.axhline(target, color=COLOURS[index], linewidth=1, linestyle="--", label=f"{PART:.0%} of full training")
    panel.set_xscale("log")
    panel.set_xticks(x, [str(d) for d in x])
    panel.minorticks_off()
    panel.set_xlabel("dimension of the subspace")
    panel.set_ylabel("test accuracy (%)")


CLAIM = Claim(
    method="intrinsic-dimension",
    title="Intrinsic dimension",
    statement=card("intrinsic-dimension").claim,
    paper=card("intrinsic-dimension").papers[0],
    test=f"""\
Two experiments with networks of two hidden layers, Adam with a rate that falls to zero, and sparse random projections;
of every dimension the learning rate is chosen out of {len(RATES["subspace"])} by the validation accuracy with a seed of
its own, and training of all parameters has as many to choose from. First the network and the task of the earlier paper
(Li et al., 2018): ten handwritten digits, 200 units per layer, where {PUBLISHED} dimensions are reported. Then
fine-tuning: networks of three widths are trained on the digits 0 to 4, get a new random output layer and learn 5 to 9
from few images; the same networks without pre-training learn the same. The papers' language models are out of reach
here; this tests whether the same holds on a small scale.

{WIDENED}
With the first ranges part 1 alone held, and pre-training divided the dimension by 1.2. The dimensions of fine-tuning
were moved up once, too, for all networks alike: two runs without pre-training did not reach the target with the largest
of a first choice, and none came near it with the smallest.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "8 x 8 digits, 8 units, 5 steps, one seed; seconds; always inconclusive",
        Size.LAPTOP: "10,000 images of MNIST, of which 7000 train; 400 steps on ten classes, 150 of fine-tuning on 500 "
        "images; widths of 50, 100 and 200; 5 seeds; minutes",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says), 20,000 steps, widths of 50 to 800, 10 seeds; days",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
