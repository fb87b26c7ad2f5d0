"""Adversarial fine-tuning with slow start and fast decay, against adversarial training and other schedules."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from steepest import data
from steepest.catalogue import card
from steepest.optim.schedules import SlowStartFastDecay
from steepest.train.convexnet import pgd

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Interval, difference, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "SIDES", "fit", "splits"]

#: The largest change of a pixel; pixels lie in [0, 1].
RADIUS = 0.15
#: Steps of the attack in training, each a quarter of the radius.
ATTACK_STEPS = 7
#: How many points of accuracy count as none.
MARGIN = 1.0
#: The part of the cost of adversarial training that fine-tuning may have, natural training included.
SHARE = 0.2
OURS, SCRATCH, SHORT = "slow start, fast decay", "scratch, all epochs", "scratch, equal cost"
#: Told and not judged: fine-tuning at the cost of the long training from scratch.
LONG = "slow start, fast decay, long"
SCHEDULES = ("constant", "cosine", "step decay")
_LOSS = partial(functional.cross_entropy, reduction="none")
_BATCH = 64
_LOOKS = 12  # at the robust accuracy, along a run


@dataclass(frozen=True)
class _Side:
    schedule: str
    trained: bool  # whether it starts from the naturally trained network
    epochs: str  # the attribute of the scale


#: Name -> how it trains. From scratch, step decay is the usual schedule, and cosine loses less of a short run.
SIDES = {
    OURS: _Side(OURS, True, "tuning"),
    **{name: _Side(name, True, "tuning") for name in SCHEDULES},
    LONG: _Side(OURS, True, "long"),
    SHORT: _Side("cosine", False, "equal"),
    SCRATCH: _Side("step decay", False, "adversarial"),
}


@dataclass(frozen=True)
class _Scale:
    images: str
    seeds: int
    rates: tuple[float, ...]
    natural: int  # epochs, of one gradient per batch
    tuning: int  # epochs, of one gradient per batch and one per step of the attack, as the others below
    adversarial: int
    restarts: int

    @property
    def long(self) -> int:
        """Epochs of fine-tuning that, with natural training, cost what those from scratch do, rounded down."""
        return max(1, self.adversarial - math.ceil(self.natural / (ATTACK_STEPS + 1)))

    @property
    def equal(self) -> int:
        """Epochs from scratch at the cost of natural training and fine-tuning, rounded up."""
        return self.tuning + math.ceil(self.natural / (ATTACK_STEPS + 1))


_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_SCALES = {
    Size.SMOKE: _Scale("digits", 1, (0.1,), 2, 1, 3, 1),
    Size.LAPTOP: _Scale("digits", 10, _RATES, 40, 10, 100, 3),
    Size.FULL: _Scale("mnist", 10, _RATES, 40, 10, 100, 5),
}

Split = tuple[Tensor, Tensor]


@cache
def splits(name: str) -> tuple[Split, Split, Split]:
    """Images ``(n, 1, s, s)`` with pixels in [0, 1] and their classes: train, validation, test."""
    if name == "digits":
        found, white = data.digits(validation=0.2, test=0.4, standardize=False), 16
    else:
        found, white = data.mnist(standardize=False), 255
    pixels = int(math.sqrt(found.train.inputs[0].numel()))
    train, validation, test = (
        (split.inputs.reshape(-1, 1, pixels, pixels).float() / white, split.targets)
        for split in (found.train, found.validation, found.test)
    )
    return train, validation, test


def _network(images: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if images == "digits":
            layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
            return nn.Sequential(nn.Flatten(), *layers)
        return nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Linear(1024, 10),
        )  # fmt: skip


def _schedule(name: str, optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    if name == OURS:
        return SlowStartFastDecay(optimizer, steps)
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, steps)
    places = [] if name == "constant" else [steps // 2, 3 * steps // 4]
    return lr_scheduler.MultiStepLR(optimizer, places, gamma=0.1)


def fit(
    model: nn.Module,
    split: Split,
    schedule: str,
    rate: float,
    epochs: int,
    seed: int,
    *,
    attacked: bool,
    look: Callable[[int], None] | None = None,
) -> None:
    """Train in place by SGD with momentum, on clean images or on attacked ones.

    Args:
        schedule: :data:`OURS` or one of :data:`SCHEDULES`.
        seed: of the batches and of the attack's starts.
        look: is called :data:`_LOOKS` times with the number of steps taken.
    """
    x, y = split
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    steps = epochs * math.ceil(len(y) / _BATCH)
    scheduler = _schedule(schedule, optimizer, steps)
    wanted = {int(k) for k in np.linspace(0, steps, _LOOKS)} if look else set()
    taken = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=draw).to(y.device).split(_BATCH):
            if look and taken in wanted:
                look(taken)
            batch = x[rows]
            if attacked:
                batch = pgd(
                    model, batch, y[rows], RADIUS, loss=_LOSS, steps=ATTACK_STEPS, step_size=RADIUS / 4, restarts=1,
                    clip=(0, 1), generator=draw, keep="last",
                )  # fmt: skip
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), y[rows]).backward()
            optimizer.step()
            scheduler.step()
            taken += 1
    if look:
        look(taken)


def _accuracy(model: nn.Module, split: Split, steps: int = 0, restarts: int = 1, seed: int = 0) -> float:
    """Percent of the images that are right, attacked with so many steps (0: not at all)."""
    x, y = split
    if steps:
        draw = torch.Generator().manual_seed(seed)
        x = pgd(
            model, x, y, RADIUS, loss=_LOSS, steps=steps, restarts=restarts, clip=(0, 1), generator=draw
        )  # fmt: skip
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


def _best(rates: tuple[float, ...], scores: list[float]) -> tuple[float, int]:
    """The learning rate of the best score, and 1 if it is the smallest or largest of several."""
    rate = rates[int(np.argmax(scores))]
    return rate, int(len(rates) > 1 and rate in (min(rates), max(rates)))


def _key(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


class _Experiment:
    """Networks of one size."""

    def __init__(self, context: Context) -> None:
        self.scale = _SCALES[context.size]
        self.device = context.device
        moved = [(x.to(self.device), y.to(self.device)) for x, y in splits(self.scale.images)]
        self.train, self.validation, self.test = moved
        self.batches = math.ceil(len(self.train[1]) / _BATCH)

    def natural(self, rate: float, seed: int) -> nn.Module:
        """Trained on clean images with the cosine schedule."""
        model = _network(self.scale.images, seed).to(self.device)
        fit(model, self.train, "cosine", rate, self.scale.natural, seed, attacked=False)
        return model

    def robust(
        self, side: _Side, rate: float, seed: int, trained: nn.Module, watch: bool = False
    ) -> tuple[nn.Module, list[list[float]]]:
        """A side's network, and pairs of cost and robust accuracy along its run if it is watched."""
        model = _network(self.scale.images, seed).to(self.device)
        if side.trained:
            model.load_state_dict(trained.state_dict())
        points: list[list[float]] = []

        def look(taken: int) -> None:
            points.append([self.cost(side, taken), _accuracy(model, self.test, 10)])

        epochs = getattr(self.scale, side.epochs)
        fit(model, self.train, side.schedule, rate, epochs, seed, attacked=True, look=look if watch else None)
        return model, points

    def cost(self, side: _Side, steps: int | None = None) -> int:
        """Gradients of a mini-batch after so many steps, or in all; natural training included."""
        steps = self.batches * getattr(self.scale, side.epochs) if steps is None else steps
        return steps * (ATTACK_STEPS + 1) + (self.batches * self.scale.natural if side.trained else 0)


def measure(context: Context) -> Measured:
    """Tune natural training and every side, then train all of them with fresh seeds."""
    run, seeds, rates = _Experiment(context), context.seeds(_SCALES[context.size].seeds), _SCALES[context.size].rates
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"tuning": {}, "rates": {}, "clean": {}, "robust": {}, "curves": {}}

    def tried(name: str, score: Callable[[float], float]) -> float:
        scores = []
        for rate in rates:
            context.say(f"tuning {name}, learning rate {rate:g}")
            scores.append(score(rate))
        best, edge = _best(rates, scores)
        series["tuning"][name] = [[rate, value] for rate, value in zip(rates, scores, strict=True)]
        series["rates"][name] = best
        figures["winners_at_edge_of_grid"] = int(figures.get("winners_at_edge_of_grid") or 0) + edge
        return best

    seed = context.tuning_seed
    rate = tried("natural", lambda r: _accuracy(run.natural(r, seed), run.validation))
    trained = run.natural(rate, seed)
    for name, side in SIDES.items():

        def score(r: float, side: _Side = side) -> float:
            return _accuracy(run.robust(side, r, seed, trained)[0], run.validation, 20, 1, seed)

        tried(name, score)

    for name in ("natural", *SIDES):
        series["clean"][name], series["robust"][name] = [], []
    for name in (OURS, LONG, SHORT, SCRATCH):
        series["curves"][name] = []
    for number, seed in enumerate(seeds, 1):
        context.say(f"training: seed {number} of {len(seeds)}")
        trained = run.natural(series["rates"]["natural"], seed)
        models = {"natural": trained}
        for name, side in SIDES.items():
            watched = name in series["curves"]
            models[name], points = run.robust(side, series["rates"][name], seed, trained, watched)
            if watched:
                series["curves"][name].append(points)
        for name, model in models.items():
            series["clean"][name].append(_accuracy(model, run.test))
            series["robust"][name].append(_accuracy(model, run.test, 50, run.scale.restarts, seed))

    for name in ("natural", *SIDES):
        figures |= interval(series["clean"][name]).figures(f"clean_{_key(name)}")
        figures |= interval(series["robust"][name]).figures(f"robust_{_key(name)}")
    for name in SIDES:
        if name != OURS:
            for kind in ("clean", "robust"):
                gap = difference(series[kind][OURS], series[kind][name])
                assert isinstance(gap, Interval)
                figures |= gap.figures(f"{kind}_less_{_key(name)}")
    for kind in ("clean", "robust"):
        gap = difference(series[kind][LONG], series[kind][SCRATCH])
        assert isinstance(gap, Interval)
        figures |= gap.figures(f"{kind}_long_less_{_key(SCRATCH)}")
    figures["gradients_of_fine_tuning"] = run.cost(SIDES[OURS])
    figures["gradients_of_scratch"] = run.cost(SIDES[SCRATCH])
    figures["part_of_the_cost"] = run.cost(SIDES[OURS]) / run.cost(SIDES[SCRATCH])
    scale = run.scale
    budgets: dict[str, float | int | str] = {
        "learning rates that each side chooses from": ", ".join(f"{r:g}" for r in rates),
        "training images": len(run.train[1]),
        "batch": _BATCH,
        "epochs of natural training": scale.natural,
        "epochs of fine-tuning": scale.tuning,
        "epochs of long fine-tuning": scale.long,
        "epochs from scratch": scale.adversarial,
        "epochs from scratch at equal cost": scale.equal,
        "radius, of pixels in [0, 1]": RADIUS,
        "PGD steps in training": ATTACK_STEPS,
        "PGD steps and restarts in scoring": f"50 x {scale.restarts}",
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Robust accuracy is the percentage of test images that PGD (50 steps, with restarts) leaves right. Intervals are of
paired differences, the fine-tuned network's accuracy less that of a rival.

1. As robust as adversarial training from scratch: the interval lies above {-MARGIN:g} points, at no more than
   {SHARE:.0%} of its gradients, those of natural training included.
2. As accurate on clean images: the same of clean accuracy.
3. The start pays, not only the small budget: more robust than training from scratch at equal cost (the interval lies
   above 0).
4. The schedule pays: more robust than fine-tuning for as many epochs with a constant learning rate, with a cosine and
   with step decay (all three intervals lie above 0).

- **reproduced**: all four. **partly**: part 1, but not all. **not reproduced**: part 1 does not hold.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])

    def above(key: str, least: float = 0.0) -> bool:
        low = figures[f"{key}_low"]
        return low is not None and low > least

    def told(key: str) -> str:
        return f"{figures[key]:+.1f} ({figures[f'{key}_low']:+.1f} to {figures[f'{key}_high']:+.1f})"

    scratch, short = _key(SCRATCH), _key(SHORT)
    others = [_key(name) for name in SCHEDULES]
    holds = [
        above(f"robust_less_{scratch}", -MARGIN) and figures["part_of_the_cost"] <= SHARE,
        above(f"clean_less_{scratch}", -MARGIN),
        above(f"robust_less_{short}"),
        all(above(f"robust_less_{name}") for name in others),
    ]
    gaps = [told(f"robust_less_{name}") for name in others]
    said = parts(
        holds,
        f"At {figures['part_of_the_cost']:.0%} of the gradients of adversarial training from scratch, fine-tuning "
        f"differs from it by {told(f'robust_less_{scratch}')} points of robust accuracy and "
        f"{told(f'clean_less_{scratch}')} of clean accuracy; from training from scratch at equal cost by "
        f"{told(f'robust_less_{short}')} points of robust accuracy; from fine-tuning with a constant learning rate, a "
        f"cosine and step decay by {gaps[0]}, {gaps[1]} and {gaps[2]}.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Accuracies of every side and seed, and robust accuracy over the cost."""
    figure, (scores, curves) = canvas(height=3.9)
    names = ["natural", *SIDES]
    for row, name in enumerate(names):
        for kind, offset, colour in (("clean", -0.16, COLOURS[1]), ("robust", 0.16, COLOURS[0])):
            values = series[kind][name]
            scores.plot(values, [row + offset] * len(values), "o", color=colour, alpha=0.3, markersize=3.5)
            label = None if row else {"clean": "clean", "robust": "under PGD"}[kind]
            scores.plot(
                np.mean(values), row + offset, "|", color=colour, markersize=11, markeredgewidth=2.5, label=label
            )
    labels = {"natural": "natural only", OURS: "tuned, slow start", LONG: "tuned, slow start, long"}
    labels |= {name: f"tuned, {name}" for name in SCHEDULES}
    scores.set_yticks(range(len(names)), [labels.get(name, name) for name in names])
    scores.set_ylim(len(names) - 0.5, -0.5)
    scores.set_xlabel("test accuracy (%)")
    scores.set_title("Every seed, and means")
    scores.legend(loc="best")
    for index, (name, runs) in enumerate(series["curves"].items()):
        points = np.asarray(runs)
        cost, value = points[0, :, 0] / 1000, points[:, :, 1]
        style = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4}
        curves.plot(cost, value.mean(0), label=labels.get(name, name), **style)
        curves.fill_between(cost, value.min(0), value.max(0), color=COLOURS[index], alpha=0.15, linewidth=0)
    curves.set_xlabel("thousands of mini-batch gradients")
    curves.set_ylabel("accuracy under PGD, 10 steps (%)")
    curves.set_title("Accuracy over cost (bands: all seeds)")
    curves.legend(loc="lower right")
    return figure


CLAIM = Claim(
    method="slow-start-fast-decay",
    title="Slow start, fast decay",
    statement=card("slow-start-fast-decay").claim,
    paper=card("slow-start-fast-decay").papers[0],
    test=f"""\
A perceptron with two hidden layers of 128 units learns scikit-learn's digits (pixels in [0, 1]; 40 % of the images are
for the test) by SGD with momentum 0.9 and weight decay 5e-4. Every pixel may be changed by at most {RADIUS:g}.

Networks that 40 epochs trained on clean images are fine-tuned for 10 epochs on images attacked by PGD ({ATTACK_STEPS}
steps from a random start, each a quarter of the radius): with this schedule (a tenth of the steps rise, from a tenth of
the peak; the rest falls to a hundredth) or with another one, constant, cosine, or divided by 10 after half and three
quarters of the steps. The rivals train on attacked images from the start: for 100 epochs with step decay, as is usual,
and, with a cosine, for as many epochs as cost what natural training and fine-tuning cost together. Cost is counted in
gradients of a mini-batch: one for a clean step, {ATTACK_STEPS + 1} for an attacked one.

Natural training and every side choose a peak from the same learning rates with one seed, by accuracy on validation
images (clean for natural training, else under 20 steps of PGD). Last iterates are scored; no side picks its best epoch.
Before the rule was tried, training from scratch with one learning rate was seen on the tuning seed and validation
images, at this radius and at 0.1: this one is neither harmless nor hopeless.

The paper's networks are convolutional, its data CIFAR and ImageNet; the numbers of its schedule are not known here,
only its shape. Ten epochs are 120 steps here, and thousands there.

Fine-tuning for as long as costs what the 100 epochs from scratch do was added after a first run, whose verdict was the
same, to see how much of the difference is that of too few steps; it is measured and not judged.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, 3 epochs from scratch, one seed; seconds; always inconclusive",
        Size.LAPTOP: "1797 images of 8 x 8 pixels, 100 epochs from scratch, 6 learning rates and 10 seeds per side; "
        "a few minutes",
        Size.FULL: "70,000 images of MNIST, a convolutional network, 6 learning rates and 10 seeds per side; for a GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
