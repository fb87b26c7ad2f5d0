"""TrAct against plain training on handwritten digits: a convolutional network and a vision transformer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from steepest.arena.task import Task
from steepest.arena.tasks.common import accuracy, draw_classes
from steepest.catalogue import card
from steepest.train.parametrize import tract

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, mean, part_of_budget, parts, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas
from .handwriting import IMAGE_SIDES, digit_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The network and optimizer of each comparison.
PAIRS = tuple((network, method) for network in ("convolutional", "transformer") for method in ("sgd", "adam"))
#: Parts of plain training's steps that TrAct gets.
SHORTER = (0.5, 0.75)
#: The part at which TrAct must have caught up with all of plain training, and in how many comparisons.
CAUGHT_UP, OFTEN = 0.75, 2


@dataclass(frozen=True)
class _Scale:
    convolutional: int  # steps of plain training
    transformer: int
    seeds: int
    rates: int
    images: str
    batch: int
    width: int


_SCALES = {
    Size.SMOKE: _Scale(8, 8, 1, 1, "digits", 16, 4),
    Size.LAPTOP: _Scale(160, 300, 5, 4, "mnist10k", 50, 12),
    Size.FULL: _Scale(20_000, 40_000, 5, 6, "mnist", 128, 64),
}


class _Transformer(nn.Module):
    """A vision transformer: a linear layer of the pixels of each patch, and the mean over tokens at the end."""

    def __init__(self, side: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch**2, width)
        self.positions = nn.Parameter(0.02 * nn.init.normal_(self.embed.weight.new_empty((side // patch) ** 2, width)))
        layer: Any = partial(
            nn.TransformerEncoderLayer, width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.Sequential(layer(), layer())
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = functional.unfold(images, self.patch, stride=self.patch).mT
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.positions)).mean(1))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        convolution: Any = partial(nn.Conv2d, width, width, 3, padding=1, bias=False)
        self.path = nn.Sequential(convolution(), nn.BatchNorm2d(width), nn.ReLU(), convolution(), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.path(x))


def _model(network: str, ours: bool, side: int, width: int) -> nn.Module:
    if network == "transformer":
        model: nn.Module = _Transformer(side, side // 4, 4 * (width // 2))
        first: Any = model.embed
    else:
        first = nn.Conv2d(1, width, 3, padding=1, bias=False)
        model = nn.Sequential(
            first,
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            _Residual(2 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        )
    if ours:
        tract(first)
    return model


def _task(network: str, ours: bool, scale: _Scale) -> Task:
    side = 14 if scale.images == "mnist10k" and network == "convolutional" else IMAGE_SIDES[scale.images]
    return Task(
        name=f"tract-{network}-{'tract' if ours else 'plain'}-{scale.images}",
        title=f"Handwritten digits, {network} network",
        model=partial(_model, network, ours, side, scale.width),
        data=partial(digit_images, scale.images, side),
        loss=functional.cross_entropy,
        sample=draw_classes,
        metric=accuracy,
        metric_name="accuracy",
        higher_is_better=True,
        batch_size=scale.batch,
        evaluations=5,
        eval_batch_size=500,
    )


def _sides(scale: _Scale) -> dict[str, Side]:
    """The same learning rates with and without TrAct, in steps of about 3."""
    order = (2, 1, 3, 0, 4, 5)[: scale.rates]  # the middle first, for the sizes that try few
    momentum = {"momentum": 0.9, "nesterov": False}
    sgd = grid(lr=sorted((0.01, 0.03, 0.1, 0.3, 1.0, 3.0)[k] for k in order))
    adam = grid(lr=sorted((1e-3, 3e-3, 1e-2, 3e-2, 0.1, 3e-4)[k] for k in order))
    return {
        f"{name}{method.upper() if method == 'sgd' else 'Adam'}": Side(
            f"{name}{method}", method, sgd if method == "sgd" else adam, momentum if method == "sgd" else {}
        )
        for method in ("sgd", "adam")
        for name in ("plain ", "TrAct ")
    }


def measure(context: Context) -> Measured:
    """Each network and optimizer: tuned and trained plainly, and with TrAct for all and for fewer of the steps."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"errors": {}, "settings": {}, "landscape": {}}
    sides = _sides(scale)
    edges = 0
    for network, method in PAIRS:
        steps = int(getattr(scale, network))
        label = "SGD" if method == "sgd" else "Adam"
        errors: dict[str, list[float | None]] = {}
        for name in ("plain", "TrAct"):
            task, side = _task(network, name == "TrAct", scale), sides[f"{name} {label}"]
            tuned = tune(context, task, side, steps)
            edges += tuned.at_edge
            series["settings"][f"{network}, {side.name}"] = dict(tuned.settings)
            series["landscape"][f"{network}, {name} {label}"] = [
                [s["lr"], None if v is None else 100 * (1 - v)] for s, v in zip(side.grid, tuned.scores, strict=True)
            ]
            for part in (1.0,) if name == "plain" else (*SHORTER, 1.0):
                runs = repeat(context, task, side, tuned.settings, seeds, max(1, round(part * steps)))
                errors[f"{name} {part:g}"] = [
                    None if r.test_metric is None else 100 * (1 - r.test_metric) for r in runs
                ]
        series["errors"][f"{network} {method}"] = errors
        means = [mean(errors[f"TrAct {part:g}"]) for part in (*SHORTER, 1.0)]
        plain = mean(errors["plain 1"])
        figures |= {f"{network}_{method}_error_plain": plain, f"{network}_{method}_error_tract": means[-1]}
        figures[f"{network}_{method}_part_of_steps"] = part_of_budget(plain, (*SHORTER, 1.0), means)
        gap = difference(errors["TrAct 1"], errors["plain 1"])
        key = f"{network}_{method}_difference"
        figures |= gap.figures(key) if gap else {key: None, f"{key}_low": None, f"{key}_high": None}
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": scale.rates,
        "steps of the convolutional network": scale.convolutional,
        "steps of the transformer": scale.transformer,
        "images per batch": scale.batch,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Four comparisons of test errors: two networks, each with SGD and with Adam.

1. After equally many steps TrAct's error is lower in at least one (the paired difference's interval lies below 0).
2. It is higher in none (no interval lies above 0).
3. In at least {OFTEN} of them TrAct needs at most {CAUGHT_UP:.0%} of the steps for plain training's mean error at \
the end.

- **reproduced**: all three. **partly**: 1 alone or with one of the others, or 2 and 3.
- **not reproduced**: neither of these.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    names = [f"{network}_{method}" for network, method in PAIRS]
    needed = [figures[f"{name}_{end}"] for name in names for end in ("difference_low", "part_of_steps")]
    if any(value is None for value in needed):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    lower = sum(figures[f"{name}_difference_high"] < 0 for name in names)
    higher = sum(figures[f"{name}_difference_low"] > 0 for name in names)
    sooner = sum(figures[f"{name}_part_of_steps"] <= CAUGHT_UP for name in names)
    said = "; ".join(_sentence(figures, network, method) for network, method in PAIRS)
    holds = [lower >= 1, higher == 0, sooner >= OFTEN]
    said = parts(holds, f"Test errors: {said}.")
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if holds[0] or (holds[1] and holds[2]):
        return Judgement(Verdict.PARTLY, said)
    return Judgement(Verdict.NOT_REPRODUCED, said)


def _sentence(figures: Mapping[str, Any], network: str, method: str) -> str:
    name = f"{network}_{method}"
    plain, part = figures[f"{name}_error_plain"], figures[f"{name}_part_of_steps"]
    gap, low, high = (figures[f"{name}_difference{end}"] for end in ("", "_low", "_high"))
    return (
        f"{network} network with {'SGD' if method == 'sgd' else 'Adam'}: {plain:.2f} % plain, {gap:+.2f} "
        f"({low:+.2f} to {high:+.2f}) with TrAct, which needs {_told(part)} of the steps"
    )


def _told(part: float) -> str:
    """A part of the steps in words: the ends of what was tried are ends."""
    if part <= SHORTER[0]:
        return f"{SHORTER[0]:.0%} or less"
    return "200 % or more" if part >= 2 else f"{part:.0%}"


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """For each comparison, TrAct's test error over its steps against plain training's."""
    figure, axes = canvas(rows=2, height=2.9)
    for panel, (network, method) in zip(axes, PAIRS, strict=True):
        errors = series["errors"][f"{network} {method}"]
        places = [100 * part for part in (*SHORTER, 1.0)]
        columns = [errors[f"TrAct {part:g}"] for part in (*SHORTER, 1.0)]
        seeds = range(len(columns[0]))
        for k in seeds:
            runs = [(x, column[k]) for x, column in zip(places, columns, strict=True) if column[k] is not None]
            if runs:
                panel.plot(*zip(*runs, strict=True), color=COLOURS[0], marker=MARKERS[0], linewidth=0.7, alpha=0.4)
        plain = [value for value in errors["plain 1"] if value is not None]
        panel.plot([100] * len(plain), plain, MARKERS[1], color=COLOURS[1], alpha=0.4)
        if (level := figures[f"{network}_{method}_error_plain"]) is not None:
            panel.axhline(level, color=COLOURS[1], linestyle="--", label="plain, all steps: mean")
        means = [mean(column) for column in columns]
        if None not in means:
            panel.plot(places, means, color=COLOURS[0], marker=MARKERS[0], label="TrAct: mean")
        panel.set_xticks(places)
        panel.set_xlabel("steps (% of plain training's)")
        panel.set_ylabel("test error (%)")
        panel.set_title(f"{network.capitalize()}, {'SGD' if method == 'sgd' else 'Adam'}", color=INK)
    axes[0].legend(fontsize=8)
    return figure


CLAIM = Claim(
    method="tract",
    title="TrAct",
    statement=card("tract").claim,
    paper=card("tract").papers[0],
    test="""\
Handwritten digits, by a convolutional network with batch norms and a residual block, and by a vision transformer of
four by four patches whose first layer is linear; with SGD (momentum 0.9) and with Adam. Each is trained plainly and
with TrAct (damping 0.1) on its first layer, over the same learning rates in steps of about 3, tuned for each side on
the validation split. (The paper takes for TrAct the rates that are best for plain training.) With fresh seeds and the
same schedule, plain training then gets all the steps, and TrAct all, three quarters and half of them. The paper's
images are natural ones in colour, its networks a hundred times as large, and its runs of 100 epochs and more.

Adam's learning rates were moved up by one step once, for both sides alike, because winners of a first run, whose
verdict was "not reproduced", lay at their upper edge.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, 8 steps on scikit-learn's digits; seconds; always inconclusive",
        Size.LAPTOP: "4,000 of MNIST's 10,000 test images to train on (found as `steepest.data.mnist10k` says; the "
        "convolutional network sees 14 x 14 pixels), 11 and 13 thousand parameters, 4 learning rates and 5 seeds per "
        "side; minutes",
        Size.FULL: "MNIST, 400 thousand parameters, 6 learning rates and 5 seeds per side; hours on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
