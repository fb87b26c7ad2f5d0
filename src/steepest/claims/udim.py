"""UDIM against SAM and plain training, on digits as no training image shows them."""

import math
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
from steepest.train.generalize import UDIM

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, grid, interval, mean, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

_NAMES = ("UDIM", "SAM", "plain")
_BATCH = 50


@dataclass(frozen=True)
class _Scale:
    images: str
    seeds: int
    settings: int
    examples: int
    steps: int
    width: int


_SCALES = {
    Size.SMOKE: _Scale("digits", 1, 1, 200, 10, 4),
    Size.LAPTOP: _Scale("mnist10k", 5, 6, 2000, 400, 8),
    Size.FULL: _Scale("mnist", 10, 6, 50_000, 20_000, 32),
}


def settings(name: str, count: int) -> list[dict[str, Any]]:
    """As many for every side, those that its authors use among them."""
    if name == "UDIM":
        ways = ({"step_size": 1.0}, {"step_size": 3.0}, {"step_size": 10.0, "perturbation": "style"})
        found = [{"lr": 1e-3, "rho": 0.05, "penalty": penalty, **way} for penalty in (1.0, 30.0) for way in ways]
    elif name == "SAM":
        found = [dict(s) for s in grid(lr=(1e-3, 3e-3), rho=(0.05, 0.1, 0.2))]
    else:
        found = [dict(s) for s in grid(lr=(1e-3, 3e-3, 3e-4), weight_decay=(0.0, 1e-2))]
    return found[:count]


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


def domains(images: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """The images as they are never seen in training."""
    noise = torch.randn(images.shape, generator=draw)
    edge = images.amin()  # the background

    def turned(degrees: float) -> Tensor:
        angle = math.radians(degrees)
        move = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
        where = functional.affine_grid(move.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        return functional.grid_sample(images - edge, where, align_corners=False) + edge

    return {
        "noise": images + noise,
        "blur": functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1),
        "low contrast": 0.3 * images,
        "bright": images + 1.5,
        "inverted": -images,
        "turned": turned(40.0),
    }


def network(width: int, side: int) -> tuple[nn.Module, nn.Linear]:
    """Two convolutions and a hidden layer; a linear head."""
    body = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (side // 4) ** 2, 4 * width),
        nn.ReLU(),
    )
    return body, nn.Linear(4 * width, 10)


def fit(context: Context, scale: _Scale, name: str, chosen: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Train on the source alone; accuracies on its validation images, and on test images of every domain."""
    (images, classes), validation, test = _digits(scale.images)
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(classes), generator=draw)[: scale.examples]
    x, y = images[rows].to(context.device), classes[rows].to(context.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, head = network(scale.width, images.shape[-1])
    body, head = body.to(context.device), head.to(context.device)
    own = {key: value for key, value in chosen.items() if key not in ("lr", "weight_decay")}
    optimizer = torch.optim.AdamW(
        [*body.parameters(), *head.parameters()], lr=chosen["lr"], weight_decay=chosen.get("weight_decay", 1e-4)
    )
    method = UDIM(body, head, optimizer, warmup=scale.steps // 5, **({"penalty": 0.0} | own))
    for _ in range(scale.steps):
        batch = torch.randint(len(y), (_BATCH,), generator=draw).to(context.device)
        if name == "plain":
            optimizer.zero_grad()
            functional.cross_entropy(head(body(x[batch])), y[batch]).backward()
            optimizer.step()
        else:
            method.step(x[batch], y[batch])
    scored = {
        "validation": validation[0],
        "source": test[0],
        **domains(test[0], draw),
        **{f"validation {key}": value for key, value in domains(validation[0], draw).items()},
    }
    with torch.no_grad():
        return {
            key: float(
                (head(body(a.to(context.device))).argmax(1).cpu() == (validation if "validation" in key else test)[1])
                .float()
                .mean()
            )
            for key, a in scored.items()
        }


def measure(context: Context) -> Measured:
    """Tune every side on the source, then train it with fresh seeds and fresh training images."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"mean": {}, "domains": {}, "settings": {}}
    for name in _NAMES:
        tried = settings(name, scale.settings)
        found = []
        for number, chosen in enumerate(tried, 1):
            context.say(f"tuning {name}: {number} of {len(tried)}")
            found.append(fit(context, scale, name, chosen, context.tuning_seed))
        best = max(range(len(tried)), key=lambda k: found[k]["validation"])
        series["settings"][name] = tried[best]
        there = [[v for key, v in f.items() if key.startswith("validation ")] for f in found]
        key = name.lower()
        figures[f"validation_accuracy_there_if_chosen_there_{key}"] = 100 * max(float(np.mean(v)) for v in there)
        runs = []
        for number, seed in enumerate(seeds, 1):
            context.say(f"training {name}: {number} of {len(seeds)}")
            runs.append(fit(context, scale, name, tried[best], seed))
        names = [k for k in runs[0] if "validation" not in k and k != "source"]
        series["mean"][name] = [100 * float(np.mean([run[k] for k in names])) for run in runs]
        series["domains"][name] = {k: [100 * run[k] for run in runs] for k in ("source", *names)}
        figures |= interval(series["mean"][name]).figures(f"accuracy_elsewhere_{key}")
        figures[f"accuracy_source_{key}"] = mean(series["domains"][name]["source"])
    for theirs in ("SAM", "plain"):
        gap = difference(series["mean"]["UDIM"], series["mean"][theirs])
        figures |= gap.figures(f"udim_less_{theirs.lower()}") if gap else {f"udim_less_{theirs.lower()}": None}
    budgets = {
        "settings tried per side": scale.settings,
        "training images": scale.examples,
        "steps": scale.steps,
        "images per batch": _BATCH,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
The score is the mean accuracy over six domains that are not seen in training; intervals are of paired differences.

1. UDIM is better than SAM: the interval lies above 0.
2. UDIM is better than plain training.
3. UDIM is not worse than SAM: the interval does not lie below 0.

- **reproduced**: 1 and 2. **partly**: 2 and 3, but not 1; or 1, but not 2. **not reproduced**: otherwise.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    if figures["udim_less_sam_low"] is None or figures["udim_less_plain_low"] is None:
        return Judgement(Verdict.INCONCLUSIVE, "There is no interval.")
    better, useful = figures["udim_less_sam_low"] > 0, figures["udim_less_plain_low"] > 0
    level = figures["udim_less_sam_high"] >= 0

    def told(key: str) -> str:
        return f"{figures[key]:+.2f} points ({figures[f'{key}_low']:+.2f} to {figures[f'{key}_high']:+.2f})"

    said = parts(
        [better, useful, level],
        "Mean accuracy elsewhere: "
        + ", ".join(f"{name} {figures[f'accuracy_elsewhere_{name.lower()}']:.1f} %" for name in _NAMES)
        + f". UDIM less SAM: {told('udim_less_sam')}; less plain training: {told('udim_less_plain')}.",
    )
    if better and useful:
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if better or (useful and level) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The mean over domains per seed, and each domain."""
    figure, (whole, each) = canvas()
    for index, name in enumerate(_NAMES):
        values = series["mean"][name]
        spots = index + (np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1))
        whole.plot(spots, values, MARKERS[index], color=COLOURS[index], alpha=0.8)
        whole.hlines(float(np.mean(values)), index - 0.2, index + 0.2, color=COLOURS[index], linewidth=2)
        places = list(series["domains"][name])
        each.plot(
            [float(np.mean(series["domains"][name][k])) for k in places],
            np.arange(len(places)) + 0.18 * (index - 1),
            MARKERS[index],
            color=COLOURS[index],
            label=name,
        )
    whole.set_xticks(range(len(_NAMES)), _NAMES)
    whole.set_xlim(-0.5, len(_NAMES) - 0.5)
    whole.set_ylabel("accuracy (%)")
    whole.set_title("Mean over unseen domains (bars: means)")
    each.set_yticks(range(len(places)), places)
    each.invert_yaxis()
    each.set_xlim(0, 100)
    each.set_xlabel("accuracy (%)")
    each.set_title("Each domain (means over seeds)")
    each.legend(loc="upper left")
    return figure


CLAIM = Claim(
    method="udim",
    title="UDIM",
    statement=card("udim").claim,
    paper=card("udim").papers[0],
    test="""\
A small convolutional network learns handwritten digits of 14 x 14 pixels from one source domain: the images as they
are. It is scored on test images of six domains that it never sees: with noise, blurred, with little contrast, bright,
inverted, and turned by 40 degrees. UDIM, SAM and plain training (all over AdamW, for equally many steps, although one
of UDIM costs several of the others') choose among as many settings by the accuracy on validation images of the
*source*: UDIM among perturbations of pixels and of style and two weights of its penalty, SAM among radii and learning
rates, plain training among learning rates and decays. Every seed has its own training images. The paper's data are
CIFAR-10 with corruptions, and photographs and paintings; its networks are pre-trained.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 200 of scikit-learn's digits; seconds; always inconclusive",
        Size.LAPTOP: "2000 of 10,000 images of MNIST, 400 steps, 6 settings and 5 seeds per side; minutes",
        Size.FULL: "50,000 images of MNIST, four times the width, 20,000 steps, 6 settings and 10 seeds per side; for "
        "a GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
