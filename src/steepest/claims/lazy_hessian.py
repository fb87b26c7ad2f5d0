"""Lazy Hessians: what a phase of m steps per Hessian saves, in gradients and in the unit of the paper."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steepest import data
from steepest.catalogue import card
from steepest.core.budget import Budget
from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import SquaredL2
from steepest.core.solver import Solver
from steepest.core.stopping import Tolerance
from steepest.solve.convex import LBFGS, GradientDescent, LazyNewton, LinearModel, Newton

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The gap to the least value at which a run is done.
GAP = 1e-8
#: Of the four problems, on how many a part of the rule must hold.
MANY = 3
#: By what factor m = d must be cheaper than m = 1.
FACTOR = 3.0
#: Phases, as shares of the dimension; m = 1 besides.
SHARES = (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 8.0)
#: No run costs more than this many times d gradients.
LIMIT = 30


@dataclass(frozen=True)
class _Scale:
    starts: int
    rows: int  # samples of each problem, at most
    classes: int  # of digits


_SCALES = {
    Size.SMOKE: _Scale(1, 40, 2),
    Size.LAPTOP: _Scale(4, 600, 4),
    Size.FULL: _Scale(20, 10_000, 10),
}


def _problems(scale: _Scale) -> dict[str, tuple[SmoothProblem, int]]:
    """The four problems with their dimensions."""
    found: dict[str, tuple[SmoothProblem, int]] = {}
    cancer = data.breast_cancer(validation=0.0, test=0.0, dtype=torch.float64).train
    rows = cancer.inputs[: scale.rows]
    target = 2.0 * cancer.targets[: scale.rows].double() - 1
    found["breast cancer"] = (LinearModel(rows, target, "logistic", SquaredL2(1e-4)).as_smooth(), rows.shape[1])

    digits = data.digits(validation=0.0, test=0.0, dtype=torch.float64).train
    kept = (digits.targets < scale.classes).nonzero()[: scale.rows, 0]
    images, labels = digits.inputs[kept].flatten(1).double(), digits.targets[kept]

    def softmax(x: Tensor) -> Tensor:
        scores = images @ x.reshape(images.shape[1], scale.classes)
        return torch.nn.functional.cross_entropy(scores, labels) + 5e-5 * x.square().sum()

    found["digits"] = (SmoothProblem(softmax), images.shape[1] * scale.classes)

    generator = torch.Generator().manual_seed(0)
    d = min(200, scale.rows // 3)
    design = torch.randn(scale.rows, d, dtype=torch.float64, generator=generator)
    design *= torch.logspace(0, -1, d, dtype=torch.float64)
    noise = torch.randn(scale.rows, dtype=torch.float64, generator=generator)
    sign = torch.sign(design @ torch.randn(d, dtype=torch.float64, generator=generator) + noise)
    found["synthetic"] = (LinearModel(design, sign, "logistic", SquaredL2(1e-4)).as_smooth(), d)

    d = min(100, scale.rows // 3)
    planes = 2 * torch.rand(2 * d, d, dtype=torch.float64, generator=generator) - 1
    shift = torch.randn(2 * d, dtype=torch.float64, generator=generator)
    planes = planes - torch.softmax(-shift / 0.5, 0) @ planes  # then 0 is the minimizer

    def soft_maximum(x: Tensor) -> Tensor:
        return 0.5 * torch.logsumexp((planes @ x - shift) / 0.5, 0)

    found["soft maximum"] = (SmoothProblem(soft_maximum), d)
    return found


def cost(solver: Solver[Any, Any], problem: SmoothProblem, start: Tensor, least: float) -> tuple[float, bool]:
    """What a run costs until its value is within ``GAP`` of the least, in gradients; and whether it gets there.

    A Hessian counts as ``d`` gradients. A run that does not get there within ``LIMIT * d`` counts as that.
    """
    d = len(start)
    limit = LIMIT * d

    def spent(calls: Mapping[str, int]) -> int:
        return calls.get("gradient", 0) + d * calls.get("hessian", 0)

    result = solver.run(
        problem,
        start,
        budget=Budget(calls={"gradient": limit, "hessian": LIMIT}),
        tolerance=Tolerance(value=least + GAP),
        callbacks=[lambda report: spent(report.calls) >= limit],
        progress=False,
    )
    arrived = result.success and spent(result.calls) <= limit
    return float(spent(result.calls) if arrived else limit), arrived


def _phases(d: int) -> dict[str, int]:
    """Names and lengths of phases, ascending."""
    return {"1": 1, **{_name(share): max(2, round(share * d)) for share in SHARES}}


def _name(share: float) -> str:
    return "d" if share == 1 else (f"{share:g}d" if share > 1 else f"d/{round(1 / share)}")


def measure(context: Context) -> Measured:
    """Every phase length and both baselines, on every problem from every start."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.starts)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {}
    for name, (problem, d) in _problems(scale).items():
        label = name.replace(" ", "_")
        best = Newton().run(problem, torch.zeros(d, dtype=torch.float64), budget="200steps", progress=False)
        assert best.value is not None
        solvers: dict[str, Callable[[], Solver[Any, Any]]] = {
            f"m = {phase}": lambda m=m: LazyNewton(every=m)  # type: ignore[misc]
            for phase, m in _phases(d).items()
        }
        solvers["L-BFGS"] = LBFGS
        solvers["gradient descent"] = lambda: GradientDescent(step_size=16.0)
        costs: dict[str, list[float]] = {}
        failed = 0
        for number, seed in enumerate(seeds, 1):
            context.say(f"{name}: start {number} of {len(seeds)}")
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(d, dtype=torch.float64, generator=generator) / math.sqrt(d)
            for who, make in solvers.items():
                found, arrived = cost(make(), problem, start, best.value)
                costs.setdefault(who, []).append(found)
                failed += who in ("m = 1", "m = d") and not arrived
        ratio = [a / b for a, b in zip(costs["m = 1"], costs["m = d"], strict=True)]
        descent = [a / b for a, b in zip(costs["gradient descent"], costs["m = d"], strict=True)]
        figures |= interval(ratio).figures(f"saving_{label}")
        figures |= interval(descent).figures(f"saving_over_gradients_{label}")
        means = {who: sum(found) / len(found) for who, found in costs.items()}
        sweep = [means[f"m = {phase}"] for phase in _phases(d)]
        figures[f"cheapest_place_{label}"] = sweep.index(min(sweep))
        figures[f"best_saving_{label}"] = sweep[0] / min(sweep)
        figures[f"failed_{label}"] = failed
        figures[f"dimension_{label}"] = d
        series[name] = {"costs": costs, "phases": _phases(d), "d": d}
    budgets: dict[str, float | int | str] = {
        "gradients per run, a Hessian counting as d, in units of d": LIMIT,
        "gap to the least value": GAP,
        "starts": len(seeds),
    }
    return Measured(figures, series, seeds, budgets)


_NAMES = ("breast_cancer", "digits", "synthetic", "soft_maximum")

RULE = f"""\
Cost is gradients plus d times Hessians until the value is within {GAP:g} of the least.

1. m = d is at least {FACTOR:g} times cheaper than m = 1: the lower end of the 95 % interval of the ratio, over starts,
   on {MANY} of the four problems.
2. The cheapest phase length is neither the shortest (1) nor the longest ({_name(SHARES[-1])}), on {MANY} of the four.
3. m = d is cheaper than gradient descent with a line search: the lower end of the interval of the ratio is above 1, on
   {MANY} of the four.

- **reproduced**: all three.
- **partly**: not all, but m = d is cheaper than m = 1 (the lower end of the interval above 1) on {MANY} of the four.
- **not reproduced**: it is not.
- **inconclusive**: fewer than {ENOUGH} starts; or, on two problems or more, a run with m = 1 or m = d \
does not arrive."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    if sum(figures[f"failed_{name}"] > 0 for name in _NAMES) >= 2:
        return Judgement(Verdict.INCONCLUSIVE, "On two problems or more, a run does not arrive.")
    saving = [figures[f"saving_{name}_low"] for name in _NAMES]
    holds = [
        sum(low >= FACTOR for low in saving) >= MANY,
        sum(0 < figures[f"cheapest_place_{name}"] < len(SHARES) for name in _NAMES) >= MANY,
        sum(figures[f"saving_over_gradients_{name}_low"] > 1 for name in _NAMES) >= MANY,
    ]
    told = ", ".join(f"{figures[f'saving_{name}']:.1f}" for name in _NAMES)
    best = ", ".join(f"{figures[f'best_saving_{name}']:.1f}" for name in _NAMES)
    said = (
        f"With m = d the cost is {told} times less than with m = 1 on the four problems, with the best m {best} times."
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, parts(holds, said))
    if sum(low > 1 for low in saving) >= MANY:
        return Judgement(Verdict.PARTLY, parts(holds, said))
    return Judgement(Verdict.NOT_REPRODUCED, parts(holds, said))


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Cost over the length of a phase, on each problem."""
    figure, axes = canvas(columns=2, rows=2)
    short = {"L-BFGS": "L-BFGS", "gradient descent": "gradients"}
    for panel, (name, found) in zip(axes, series.items(), strict=True):
        lengths = list(found["phases"].values())
        costs = [found["costs"][f"m = {phase}"] for phase in found["phases"]]
        unit = found["d"]
        means = [sum(each) / len(each) / unit for each in costs]
        panel.plot(lengths, means, color=COLOURS[0], marker=MARKERS[0], label="lazy Newton")
        for length, each in zip(lengths, costs, strict=True):
            panel.plot([length] * len(each), [c / unit for c in each], MARKERS[0], color=COLOURS[0], alpha=0.3)
        for index, who in enumerate(("L-BFGS", "gradient descent"), 1):
            each = found["costs"][who]
            level = sum(each) / len(each) / unit
            capped = " (stopped)" if level >= LIMIT else ""
            panel.axhline(level, color=COLOURS[index], linestyle="--", label=f"{short[who]}{capped}")
        panel.axvline(unit, color="#9aa1ab", linewidth=1, linestyle=":")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("steps per Hessian, m (dotted: d)")
        panel.set_ylabel("cost / d")
        panel.set_title(f"{name[0].upper()}{name[1:]}, d = {unit}")
        panel.set_ylim(0.2, 200)
        panel.legend(fontsize=8, loc="upper center", ncols=3, columnspacing=1.0)
    return figure


CLAIM = Claim(
    method="lazy-hessian",
    title="Lazy Newton",
    statement=card("lazy-hessian").claim,
    paper=card("lazy-hessian").papers[0],
    test="""\
Four convex problems: logistic regression on breast cancer data and on synthetic features with scales from 1 to 0.1, a
softmax regression of digits, each with a small l2 penalty, and a soft maximum of planes with the minimizer 0. From
random starts, the cubic method with its adapted constant runs with one Hessian in m steps, for m from 1 to 8 d; m = 1
is the adaptive cubic Newton method. All lengths of phases have the same rule for the constant, begin with the same one,
and are not tuned. The cost is that of the paper's analysis: a gradient counts one, a Hessian d, and linear algebra
nothing; a trial of the constant that is rejected costs its gradient. L-BFGS and gradient descent with Armijo's search
are shown beside; gradient descent has a part in the verdict.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one start, small problems; seconds; always inconclusive",
        Size.LAPTOP: "4 starts, up to 600 samples, four classes of digits (d from 30 to 256); minutes",
        Size.FULL: "20 starts, up to 10,000 samples, ten classes of digits (d up to 640); an hour on one core",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
