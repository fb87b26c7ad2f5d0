"""Drop-Muon against Muon: processor time to a training accuracy, and which of the skipped work the gain comes from."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from steepest import data
from steepest.arena.task import Data, Task
from steepest.arena.tasks.common import accuracy, examples
from steepest.arena.train import evaluate
from steepest.catalogue import card

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, interval, mean, parts, too_few
from .figure import COLOURS, INK, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The speed-up that counts as reproduced; the paper has up to 1.4.
SPEED_UP = 1.2
#: The training accuracy to be reached.
TARGET = 0.99


@dataclass(frozen=True)
class _Scale:
    steps: int  # at most
    seeds: int
    rates: int
    batch: int
    every: int  # steps between looks at the accuracy
    channels: tuple[int, ...]
    width: int
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(4, 1, 1, 64, 2, (4, 8, 8), 16),
    Size.LAPTOP: _Scale(100, 5, 5, 256, 1, (16, 32, 64), 128),
    Size.FULL: _Scale(2000, 5, 6, 8192, 4, (64, 128, 256), 1024, full=True),
}

_NAMES = ("Drop-Muon", "Drop-Muon, p1 = 0.5", "Muon")
_KEYS = dict(zip(_NAMES, ("drop_muon", "drop_muon_half", "muon"), strict=True))
_NETWORKS = ("convolutional", "perceptron")


def _sides(scale: _Scale) -> tuple[Side, ...]:
    """The same learning rates for all, in steps of about 3; the head and the biases have AdamW at one rate."""
    order = (2, 3, 1, 4, 0, 5)[: scale.rates]
    rates = grid(lr=sorted((3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1e-3)[k] for k in order))
    shared = {"nesterov": False, "adamw_lr": 3e-3}
    fixed = (
        ("drop-muon", {**shared, "probabilities": None}),
        ("drop-muon", {**shared, "probabilities": 0.5}),
        ("muon", shared),
    )
    return tuple(Side(name, method, rates, own) for name, (method, own) in zip(_NAMES, fixed, strict=True))


def _convolutional(channels: Sequence[int], side: int) -> nn.Module:
    first, second, third = channels
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(second, third, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(third * (side // 4) ** 2, 10),
    )


def _perceptron(width: int, inputs: int) -> nn.Module:
    parts: list[nn.Module] = [nn.Linear(inputs, width), nn.ReLU()]
    for _ in range(5):
        parts += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def _data(full: bool) -> Data:
    splits = examples(data.mnist() if full else data.digits(validation=0.0, test=0.3))
    return Data(*(split._replace(inputs=split.inputs.flatten(1)) for split in splits))


def _task(network: str, scale: _Scale) -> Task:
    side = 28 if scale.full else 8
    model: Callable[[], nn.Module] = (
        partial(_convolutional, scale.channels, side)
        if network == "convolutional"
        else partial(_perceptron, scale.width, side * side)
    )
    return Task(
        name=f"drop-muon-{network}",
        title=f"Handwritten digits, {network} network",
        model=model,
        data=partial(_data, scale.full),
        loss=functional.cross_entropy,
        metric=accuracy,
        metric_name="accuracy",
        higher_is_better=True,
        batch_size=scale.batch,
    )


# ------------------------------------------------------------------------------------------------ runs and their bills


@dataclass
class _Run:
    """One training run: the first updated layer of each step, and the steps at which the accuracy was seen."""

    firsts: list[int] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)  # step, training accuracy
    reached: int | None = None  # the step after which the target was seen
    test: float | None = None  # accuracy then, or at the end


@dataclass
class _Prices:
    """What the parts of a step cost in seconds, by the first updated layer; medians, so that pauses do not count."""

    forward: list[float] = field(default_factory=list)
    backward: dict[int, list[float]] = field(default_factory=dict)
    update: dict[int, list[float]] = field(default_factory=dict)

    def note(self, first: int, forward: float, backward: float, update: float) -> None:
        self.forward.append(forward)
        self.backward.setdefault(first, []).append(backward)
        self.update.setdefault(first, []).append(update)

    def bill(
        self, firsts: Sequence[int], backward_of: "_Prices | None" = None, update_of: "_Prices | None" = None
    ) -> list[float]:
        """Seconds after each step; backward passes or updates may be charged at another side's price for all layers."""
        forward = median(self.forward)
        backward = {f: median(self.backward[f]) for f in set(firsts)}
        update = {f: median(self.update[f]) for f in set(firsts)}
        if backward_of is not None:
            backward = dict.fromkeys(backward, median(backward_of.backward[0]))
        if update_of is not None:
            update = dict.fromkeys(update, median(update_of.update[0]))
        total, found = 0.0, []
        for first in firsts:
            total += forward + backward[first] + update[first]
            found.append(total)
        return found


def _clock(device: str) -> float:
    """Processor time, which other programs do not lengthen; on a GPU the wall's, after all work is done."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _train(context: Context, task: Task, side: Side, rate: float, seed: int, scale: _Scale, prices: _Prices) -> _Run:
    """Train until the whole training set is classified well enough, at a constant learning rate."""
    device = context.device
    train, _, test = ([t.to(device) for t in split] for split in task.splits())
    model = task.build(seed).to(device)
    own = {"seed": seed} if side.method == "drop-muon" else {}
    optimizer = side.card().build(model, lr=rate, **own)
    source = torch.Generator().manual_seed(seed)
    inputs, targets = train
    run = _Run()
    order = torch.empty(0, dtype=torch.long)
    for step in range(1, scale.steps + 1):
        if len(order) < scale.batch:
            order = torch.randperm(len(targets), generator=source)
        rows, order = order[: scale.batch].to(device), order[scale.batch :]
        x, y = inputs[rows], targets[rows]
        first = getattr(optimizer, "first", 0)
        begun = _clock(device)
        loss = task.loss(model(x), y)
        passed = _clock(device)
        optimizer.zero_grad()
        loss.backward()
        back = _clock(device)
        optimizer.step()
        prices.note(first, passed - begun, back - passed, _clock(device) - back)
        run.firsts.append(first)
        if step % scale.every == 0 or step == scale.steps:
            seen, value = evaluate(task, model, task.splits().train._replace(inputs=inputs, targets=targets))
            run.curve.append((step, seen if value == value else 0.0))
            if seen >= TARGET:
                run.reached = step
                break
            if value != value:
                break
    run.test = evaluate(task, model, task.splits().test._replace(inputs=test[0], targets=test[1]))[0]
    return run


def _tune(context: Context, task: Task, side: Side, scale: _Scale) -> tuple[float, bool, list[list[float | None]]]:
    """The learning rate that needs the least time to the target with the tuning seed, else the most accurate."""
    prices, runs = _Prices(), []
    for number, settings in enumerate(side.grid, 1):
        context.say(f"{task.title}, tuning {side.name}: {number} of {len(side.grid)}")
        runs.append(_train(context, task, side, settings["lr"], context.tuning_seed, scale, prices))
    rates = [s["lr"] for s in side.grid]
    seconds = [prices.bill(r.firsts)[-1] if r.reached else None for r in runs]
    known = [s if s is not None else 1e9 - r.curve[-1][1] for s, r in zip(seconds, runs, strict=True)]
    best = min(range(len(rates)), key=known.__getitem__)
    at_edge = len(rates) > 1 and rates[best] in (min(rates), max(rates))
    return rates[best], at_edge, [[rate, s] for rate, s in zip(rates, seconds, strict=True)]


def measure(context: Context) -> Measured:
    """On both networks: tune all sides alike, train with fresh seeds, and bill every step at its median price."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    sides = _sides(scale)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {}
    edges = 0
    for network in _NETWORKS:
        task = _task(network, scale)
        task.splits()
        runs: dict[str, list[_Run]] = {}
        prices: dict[str, _Prices] = {name: _Prices() for name in _NAMES}
        shown: dict[str, Any] = {"curves": {}, "rates": {}, "tuning": {}, "prices": {}}
        for side in sides:
            rate, at_edge, tuning = _tune(context, task, side, scale)
            edges += at_edge
            shown["rates"][side.name], shown["tuning"][side.name] = rate, tuning
            context.say(f"{task.title}, training {side.name}")
            runs[side.name] = [_train(context, task, side, rate, s, scale, prices[side.name]) for s in seeds]
        figures |= _compare(network, runs, prices)
        for name, own in prices.items():
            shown["curves"][name] = [_curve(r, own) for r in runs[name]]
            shown["prices"][name] = {
                str(f): [median(own.forward), median(own.backward[f]), median(own.update[f])]
                for f in sorted(own.backward)
            }
        series[network] = shown
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side and network": len(sides[0].grid),
        "steps per run, at most": scale.steps,
        "batch size": scale.batch,
        "training accuracy to reach": TARGET,
    }
    return Measured(figures, series, seeds, budgets)


def _curve(run: _Run, prices: _Prices) -> list[list[float]]:
    seconds = prices.bill(run.firsts)
    return [[seconds[step - 1], seen] for step, seen in run.curve]


def _compare(
    network: str, runs: Mapping[str, list[_Run]], prices: Mapping[str, _Prices]
) -> dict[str, float | int | None]:
    """Seconds and steps to the target, the speed-up, and what it would be with one kind of skipped work alone."""
    figures: dict[str, float | int | None] = {}
    full = prices["Muon"]
    theirs = [full.bill(r.firsts)[-1] if r.reached else None for r in runs["Muon"]]
    for name, own in prices.items():
        key = f"{network}_{_KEYS[name]}"
        figures[f"{key}_steps"] = mean([r.reached for r in runs[name]])
        figures[f"{key}_seconds"] = mean([own.bill(r.firsts)[-1] if r.reached else None for r in runs[name]])
        figures[f"{key}_test_accuracy"] = mean([r.test for r in runs[name]])
        if name == "Muon":
            continue
        charged: dict[str, dict[str, _Prices]] = {
            "speed_up": {},
            "speed_up_by_backward": {"update_of": full},
            "speed_up_by_update": {"backward_of": full},
        }
        for what, other in charged.items():
            ours = [own.bill(r.firsts, **other)[-1] if r.reached else None for r in runs[name]]
            label = f"{key}_{what}"
            if None in ours or None in theirs:
                figures |= {label: None, f"{label}_low": None, f"{label}_high": None}
            else:
                figures |= interval([b / a for a, b in zip(ours, theirs, strict=True)]).figures(label)  # type: ignore[operator]
        points = difference([r.test for r in runs[name]], [r.test for r in runs["Muon"]])
        if points is not None:
            figures |= {k: v if v is None else 100 * v for k, v in points.figures(f"{key}_test_points").items()}
    return figures


_SPEED = "convolutional_drop_muon_speed_up"

RULE = f"""\
The speed-up is the time that Muon needs to a training accuracy of {TARGET:.0%} over that of Drop-Muon with equal
probabilities, on the convolutional network, paired by seed.

1. Drop-Muon is faster: the interval of the speed-up lies above 1.
2. Its mean is at least {SPEED_UP:g}.
3. The skipped backward pass alone makes it faster: with updates charged at Muon's price, as if nothing were saved
   there, the interval still lies above 1.

- **reproduced**: all three. **partly**: 1, but not both of the others.
- **not reproduced**: the interval ends below {SPEED_UP:g}, and 1 does not hold.
- **inconclusive**: fewer than {ENOUGH} seeds, a run that does not reach the accuracy, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    ends = ("", "_low", "_high")
    total, backward, update = (
        [figures.get(f"{_SPEED}{part}{e}") for e in ends] for part in ("", "_by_backward", "_by_update")
    )
    if None in total or None in backward or None in update:
        return Judgement(Verdict.INCONCLUSIVE, "A run did not reach the training accuracy.")
    ours, theirs = (figures[f"convolutional_{n}_steps"] for n in ("drop_muon", "muon"))
    points = figures["convolutional_drop_muon_test_points"]
    said = (
        f"Drop-Muon is {total[0]:.2f} times as fast as Muon ({total[1]:.2f} to {total[2]:.2f}) on the convolutional "
        f"network, in {ours:.1f} steps against {theirs:.1f}. With the skipped backward pass alone the factor is "
        f"{backward[0]:.2f} ({backward[1]:.2f} to {backward[2]:.2f}), with the skipped orthogonalization alone "
        f"{update[0]:.2f} ({update[1]:.2f} to {update[2]:.2f}). Its test accuracy differs by {points:+.2f} points."
    )
    perceptron = figures.get("perceptron_drop_muon_speed_up")
    if perceptron is not None:
        said += f" On the perceptron the factor is {perceptron:.2f}."
    faster, enough, alone = total[1] > 1, total[0] >= SPEED_UP, backward[1] > 1
    said = parts([faster, enough, alone], said)
    if faster:
        return Judgement(Verdict.REPRODUCED if enough and alone else Verdict.PARTLY, said)
    return Judgement(Verdict.NOT_REPRODUCED if total[2] < SPEED_UP else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Training error over processor time on both networks, and the speed-up by kind of skipped work."""
    figure, axes = canvas(columns=3)
    for panel, network in zip(axes[:2], _NETWORKS, strict=True):
        for index, name in enumerate(_NAMES):
            for number, curve in enumerate(series[network]["curves"][name]):
                error = [max(100 * (1 - seen), 0.05) for _, seen in curve]
                label = name.replace("p1 = 0.5", "p₁ = 0.5") if number == 0 else None
                panel.plot([s for s, _ in curve], error, color=COLOURS[index], alpha=0.6, linewidth=1.3, label=label)
        panel.axhline(100 * (1 - TARGET), color=INK, linestyle="--", linewidth=1)
        panel.set_yscale("log")
        panel.set_xlabel("seconds of processor time")
        panel.set_title(f"{network.capitalize()} network")
    axes[0].set_ylabel("training error (%)")
    axes[0].legend(fontsize=8)
    bars = (("", "all"), ("_by_backward", "backward\nonly"), ("_by_update", "update\nonly"))
    last = axes[2]
    for index, network in enumerate(_NETWORKS):
        for place, (part, _) in enumerate(bars):
            label = f"{network}_drop_muon_speed_up{part}"
            value, low, high = (figures.get(label + e) for e in ("", "_low", "_high"))
            if value is None:
                continue
            around = None if low is None or high is None else [[value - low], [high - value]]
            last.errorbar(
                [place + 0.16 * index - 0.08],
                [value],
                around,
                color=COLOURS[3 + index],
                marker=MARKERS[3 + index],
                linestyle="none",
                capsize=4,
                label=network if place == 0 else None,
            )
    last.axhline(1, color=INK, linewidth=1)
    last.axhline(SPEED_UP, color=INK, linewidth=1, linestyle=":")
    last.set_xticks(range(len(bars)), [name for _, name in bars])
    last.set_xlim(-0.5, len(bars) - 0.5)
    last.set_ylabel("Muon's time over Drop-Muon's")
    last.set_title("Speed-up by skipped work")
    last.margins(y=0.32)
    if last.get_legend_handles_labels()[0]:
        last.legend(fontsize=8, loc="upper right")
    return figure


CLAIM = Claim(
    method="drop-muon",
    title="Drop-Muon",
    statement=card("drop-muon").claim,
    paper=card("drop-muon").papers[0],
    test="""\
Two networks learn handwritten digits in large batches, as in the paper without regularization and at a constant
learning rate: one of three convolutions and a head, and a perceptron of six hidden layers and a head. Muon, Drop-Muon
with equal probabilities for all cuts, and Drop-Muon that updates all layers in half of its steps are tuned over the
same learning rates (0.003 to 0.3 at laptop size) for the least time to the training accuracy, and run again with fresh
seeds. Time is processor time. Forward pass, backward pass and update are timed apart in every step, and each is billed
at its median over all steps with the same cut, so that what else a machine does plays no part. Charging one of them at
Muon's price tells how much of the gain comes from the backward pass that stops early and how much from matrices that
need no orthogonalization. The perceptron has no part in the verdict.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 4 steps; seconds; always inconclusive",
        Size.LAPTOP: "1,258 digits of 8 x 8 pixels in batches of 256; channels 16, 32, 64, and width 128; 5 settings "
        "and 5 seeds per side and network; minutes",
        Size.FULL: "MNIST in batches of 8,192; channels 64, 128, 256, and width 1,024; 6 settings and 5 seeds per side "
        "and network; an hour on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
