"""Normalized gradient descent against gradient descent on the logistic loss: steps until two classes are separated."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steepest import data
from steepest.catalogue import card
from steepest.solve.convex import LinearModel, NormalizedGradientDescent

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The paper's table on its worst case with 1000 samples: step size -> steps.
TABLE = {100.0: 2, 10.0: 2, 1.0: 16, 0.1: 157}
#: The paper's count there for gradient descent with step size 100.
PLAIN = 308
#: Slopes of log steps over log samples: at most for the one, at least for the other.
FLAT, PROPORTIONAL = 0.1, 0.9
#: Step sizes that both sides choose from.
STEP_SIZES = (1.0, 10.0, 100.0, 1000.0)
_SIDES = ("normalized", "plain")


@dataclass(frozen=True)
class _Scale:
    images: str
    seeds: int
    few: int  # samples of the rare class
    many: int  # samples of the other, and of both where they are balanced
    limit: int  # steps
    samples: tuple[int, ...]  # of the worst case


_SCALES = {
    Size.SMOKE: _Scale("digits", 1, 5, 60, 2000, (10, 100, 1000)),
    Size.LAPTOP: _Scale("mnist10k", 10, 20, 700, 5000, (10, 100, 1000, 10_000)),
    Size.FULL: _Scale("mnist", 45, 50, 5000, 100_000, (10, 100, 1000, 10_000, 100_000)),
}


def worst(samples: int) -> LinearModel:
    """The paper's worst case: one sample against all others."""
    design = torch.tensor([[-0.5, -1.0]], dtype=torch.float64).repeat(samples, 1)
    target = -torch.ones(samples, dtype=torch.float64)
    design[0, 0], target[0] = 0.5, 1.0
    return LinearModel(design, target, "logistic")


def normalized(problem: LinearModel, step_size: float, limit: int) -> int | None:
    """Steps until all margins are positive; ``None`` where ``limit`` does not suffice."""
    start = torch.zeros_like(problem.design[0])
    solver = NormalizedGradientDescent(step_size)
    result = solver.run(problem, start, budget=f"{limit}steps", tolerance=0.0, record_every=limit)
    return result.steps if result.success else None


def plain(problem: LinearModel, step_size: float, limit: int) -> tuple[int | None, list[float]]:
    """Gradient descent on the mean logistic loss: as :func:`normalized`, and the loss before every step."""
    x = torch.zeros_like(problem.design[0])
    losses: list[float] = []
    for step in range(limit + 1):
        prediction = problem.predict(x)
        if bool((problem.target * prediction > 0).all()):
            return step, losses
        losses.append(float(problem.smooth_value_at(prediction)))
        x = x - step_size * problem.smooth_value_and_gradient_at(prediction)[1]
    return None, losses


def _count_plain(problem: LinearModel, step_size: float, limit: int) -> int | None:
    return plain(problem, step_size, limit)[0]


@cache
def _images(name: str) -> tuple[Tensor, Tensor]:
    """All training images as rows of numbers from 0 to 1, and their classes."""
    loaders = {"digits": data.digits, "mnist10k": data.mnist10k, "mnist": data.mnist}
    split = loaders[name](standardize=False).train
    rows = split.inputs.reshape(len(split.inputs), -1)
    return rows / rows.max(), split.targets


def draw_classes(images: str, seed: int, few: int, many: int) -> tuple[LinearModel, tuple[int, int]]:
    """``few`` images of one random class against ``many`` of another."""
    rows, labels = _images(images)
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randperm(10, generator=generator)[:2].tolist()
    chosen = []
    for label, count in ((first, few), (second, many)):
        own = torch.nonzero(labels == label)[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=generator)[:count]])
    target = torch.cat([torch.ones(len(chosen[0])), -torch.ones(len(chosen[1]))])
    return LinearModel(rows[torch.cat(chosen)].float(), target, "logistic"), (first, second)


def _slope(samples: tuple[int, ...], steps: list[int]) -> float:
    return round(float(np.polyfit(np.log(samples), np.log(steps), 1)[0]), 6) + 0.0  # no "-0"


def measure(context: Context) -> Measured:
    """The table, the growth with the samples, and images."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"samples": list(scale.samples), "growth": {}, "steps": {}, "losses": {}}

    context.say("the worst case")
    found = {size: normalized(worst(1000), size, 10_000) for size in TABLE}
    figures |= {f"worst_case_steps_normalized_{size:g}".replace(".", ""): steps for size, steps in found.items()}
    figures["worst_case_steps_plain_100"] = plain(worst(1000), 100.0, 10_000)[0]
    figures["worst_case_counts_unlike_the_papers"] = sum(found[size] != steps for size, steps in TABLE.items()) + (
        figures["worst_case_steps_plain_100"] != PLAIN
    )
    for side in _SIDES:
        context.say(f"growth with the samples, {side}")
        steps = [
            (normalized(worst(n), 100.0, 10 * n) if side == "normalized" else plain(worst(n), 100.0, 10 * n)[0])
            or 10 * n
            for n in scale.samples
        ]
        series["growth"][side] = steps
        figures[f"growth_exponent_{side}"] = _slope(scale.samples, steps)

    for kind, few in (("imbalanced", scale.few), ("balanced", scale.many)):
        rates: dict[str, float] = {}
        tuning, _ = draw_classes(scale.images, context.tuning_seed, few, scale.many)
        for side in _SIDES:
            context.say(f"{kind} images, tuning {side}")
            run = normalized if side == "normalized" else _count_plain
            tried = {size: run(tuning, size, scale.limit) for size in STEP_SIZES}
            rates[side] = min(STEP_SIZES, key=lambda size: tried[size] or math.inf)
            figures[f"{kind}_step_size_{side}"] = rates[side]
        series["steps"][kind] = {side: [] for side in _SIDES}
        missed = 0
        for seed in seeds:
            problem, _ = draw_classes(scale.images, seed, few, scale.many)
            for side in _SIDES:
                context.say(f"{kind} images, seed {seed}, {side}")
                run = normalized if side == "normalized" else _count_plain
                needed = run(problem, rates[side], scale.limit)
                missed += needed is None
                series["steps"][kind][side].append(scale.limit if needed is None else needed)
        ours, theirs = (np.array(series["steps"][kind][side], dtype=float) for side in _SIDES)
        figures |= interval(np.log10(theirs / ours).tolist()).figures(f"{kind}_log10_plain_over_normalized_steps")
        figures[f"{kind}_median_steps_normalized"] = float(np.median(ours))
        figures[f"{kind}_median_steps_plain"] = float(np.median(theirs))
        figures[f"{kind}_runs_that_met_the_limit"] = missed

    context.say("short and long steps")
    ratios, highs = [], []
    for seed in seeds:
        problem, _ = draw_classes(scale.images, seed, scale.many, scale.many)
        ends = {size: plain(problem, size, scale.limit) for size in (1.0, 100.0)}
        short, long = (ends[size][0] or scale.limit for size in (1.0, 100.0))
        ratios.append(math.log10(short / long))
        highs.append(math.log10(max(ends[100.0][1]) / max(ends[1.0][1])))
        if seed == seeds[0]:
            series["losses"] = {f"{size:g}": _thin(losses) for size, (_, losses) in ends.items()}
    figures |= interval(ratios).figures("log10_steps_at_1_over_100")
    figures |= interval(highs).figures("log10_highest_loss_at_100_over_1")
    budgets = {
        "step sizes that each side chooses from": ", ".join(f"{size:g}" for size in STEP_SIZES),
        "images": f"{scale.few} against {scale.many}, and {scale.many} against {scale.many}, of {scale.images}",
        "steps at most": scale.limit,
    }
    return Measured(figures, series, seeds, budgets)


def _thin(losses: list[float]) -> dict[str, list[float]]:
    keep = np.unique(np.geomspace(1, len(losses), 150).astype(int)) - 1
    return {"step": [int(k) for k in keep], "loss": [losses[k] for k in keep]}


RULE = f"""\
Four parts; a solution is reached when all margins are positive, and steps of one gradient are counted:

1. on the paper's worst case with 1000 samples, all five counts equal the paper's (normalized, step sizes 100, 10, 1,
   0.1: 2, 2, 16, 157; gradient descent, 100: {PLAIN});
2. with the number of samples n there, steps grow at most as n^{FLAT:g} for the normalized method and at least as
   n^{PROPORTIONAL:g} for gradient descent, both with step size 100;
3. on images of two digits, one of them rare, the normalized method needs fewer steps: the mean of log10 of the ratio
   over random draws is above 0 by its 95 % interval, each side with the step size that is best on another draw;
4. on balanced images gradient descent needs fewer steps with step size 100 than with 1, though its highest loss is
   higher: both by their 95 % intervals.

- **reproduced**: all four. **partly**: parts 1 and 2, but not both of 3 and 4. **not reproduced**: part 1 or 2 fails.
- **inconclusive**: fewer than {ENOUGH} seeds.

That gradient descent may be the better one on balanced data is the paper's own finding; it is measured, and not
judged."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])

    def above(name: str) -> bool:
        low = figures[f"{name}_low"]
        return low is not None and low > 0

    holds = [
        figures["worst_case_counts_unlike_the_papers"] == 0,
        figures["growth_exponent_normalized"] <= FLAT and figures["growth_exponent_plain"] >= PROPORTIONAL,
        above("imbalanced_log10_plain_over_normalized_steps"),
        above("log10_steps_at_1_over_100") and above("log10_highest_loss_at_100_over_1"),
    ]
    unlike = figures["worst_case_counts_unlike_the_papers"]
    times = {
        name: 10 ** figures[name]
        for name in (
            "imbalanced_log10_plain_over_normalized_steps",
            "balanced_log10_plain_over_normalized_steps",
            "log10_steps_at_1_over_100",
            "log10_highest_loss_at_100_over_1",
        )
    }
    rare, balanced, short, higher = times.values()
    said = (
        f"On the worst case {5 - unlike} of the paper's 5 counts come out, and steps grow as "
        f"n^{figures['growth_exponent_normalized']:.2g} against n^{figures['growth_exponent_plain']:.2f}; gradient "
        f"descent needs {rare:.2g} times the steps on imbalanced images and {balanced:.2g} times on balanced ones; "
        f"step size 1 needs {short:.2g} times the steps of 100, whose highest loss is {higher:.2g} times that of 1."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] and holds[1] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Steps over samples, steps on images, and the loss at two step sizes."""
    figure, (growth, images, losses) = canvas(columns=3)
    names = {"normalized": "normalized", "plain": "gradient descent"}
    for index, side in enumerate(_SIDES):
        growth.plot(
            series["samples"],
            series["growth"][side],
            color=COLOURS[index],
            marker=MARKERS[index],
            label=names[side],
        )
    growth.set_xscale("log")
    growth.set_yscale("log")
    growth.set_xlabel("samples")
    growth.set_ylabel("steps to separate")
    growth.set_title("Worst case, step size 100")
    growth.legend()

    for place, kind in enumerate(("imbalanced", "balanced")):
        for index, side in enumerate(_SIDES):
            steps = series["steps"][kind][side]
            middle = place + 0.3 * (index - 0.5)
            offsets = np.linspace(-0.06, 0.06, len(steps)) if len(steps) > 1 else [0.0]
            images.plot([middle + o for o in offsets], steps, MARKERS[index], color=COLOURS[index], alpha=0.5)
            images.hlines(float(np.median(steps)), middle - 0.12, middle + 0.12, color=COLOURS[index], linewidth=2)
    images.set_xticks([0, 1], ["one class rare", "balanced"])
    images.set_xlim(-0.5, 1.5)
    images.set_yscale("log")
    images.set_ylabel("steps to separate")
    images.set_title("Two digits (bars: medians)")

    for index, (size, found) in enumerate(series["losses"].items(), 1):
        steps = [k + 1 for k in found["step"]]
        losses.plot(steps, found["loss"], color=COLOURS[index], label=f"step size {size}")
        losses.plot(steps[-1:], found["loss"][-1:], MARKERS[index], color=COLOURS[index])
    losses.set_xscale("log")
    losses.set_yscale("log")
    losses.set_xlabel("step, until separation")
    losses.set_ylabel("logistic loss")
    losses.set_title("Gradient descent, balanced")
    losses.legend()
    return figure


CLAIM = Claim(
    method="normalized-lr-gd",
    title="Normalized gradient descent for logistic regression",
    statement=card("normalized-lr-gd").claim,
    paper=card("normalized-lr-gd").papers[0],
    test="""\
The paper's worst case (one sample against all others) is run with its step sizes, and with growing numbers of samples.
Then random pairs of classes of handwritten digits are separated, some images of one class against many of the other,
and equally many of both; pixels lie between 0 and 1, there is no intercept, and all runs start at 0. Both methods
choose among the same four step sizes on a draw that is not scored. Runs that meet the limit of steps count as that
many. The paper's images are those of FashionMNIST.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one draw of scikit-learn's digits; seconds; always inconclusive",
        Size.LAPTOP: "10 draws of 10,000 images of MNIST; a minute or two",
        Size.FULL: "45 draws of the 70,000 images of MNIST, 5000 of a class; hours on one core",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
