"""The bounds of Bubeck's monograph, one run each: never exceeded, and of the right order."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from steepest import data
from steepest.catalogue import card
from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import L1, Regularizer
from steepest.core.solver import Solver
from steepest.core.tree import Point
from steepest.solve.convex import (
    FISTA,
    CompositeProblem,
    FrankWolfe,
    GradientMethod,
    LinearModel,
    MirrorDescent,
    MirrorProx,
    Nesterov,
    ProximalGradient,
    SaddleProblem,
    SubgradientMethod,
)
from steepest.solve.convex.frank_wolfe_steps import OpenLoop
from steepest.solve.convex.geometry import Entropy
from steepest.solve.convex.step_rules import ConstantStep
from steepest.solve.convex.subgradient_method import DecreasingSteps

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: How much flatter than the theory's order a fitted slope may be.
SLACK = 0.15
#: A gap over its bound may exceed 1 by rounding only.
ROUNDING = 1e-9
_POWERS = {
    "gradient, smooth": -1.0,
    "Nesterov, smooth": -2.0,
    "proximal gradient, lasso": -1.0,
    "FISTA, lasso": -2.0,
    "Frank-Wolfe, simplex": -1.0,
    "subgradient, game": -0.5,
    "mirror descent, game": -0.5,
    "mirror prox, game": -1.0,
}
_LINEAR = ("gradient, strongly convex", "Nesterov, strongly convex")


@dataclass(frozen=True)
class _Scale:
    seeds: int
    steps: int
    wide: int  # dimension in which entropy and Euclid are compared


_SCALES = {
    Size.SMOKE: _Scale(1, 60, 200),
    Size.LAPTOP: _Scale(5, 1000, 10_000),
    Size.FULL: _Scale(30, 20_000, 100_000),
}


class _Run(NamedTuple):
    """One method on one problem: what to run, the least value, and the bound after k steps."""

    solver: Solver[Any, Any]
    problem: Any
    start: Point
    least: float
    bound: Callable[[int], float]


@dataclass(frozen=True)
class Simplex(Regularizer):
    """The indicator of the probability simplex, to rounding."""

    def value(self, x: Tensor) -> Tensor:
        return x.new_zeros(()).where((x >= -1e-9).all() & ((x.sum() - 1).abs() <= 1e-9), float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        ordered = x.sort(descending=True).values
        level = (ordered.cumsum(0) - 1) / torch.arange(1, len(x) + 1, dtype=x.dtype)
        return (x - level[int((ordered > level).sum()) - 1]).clamp_min(0)

    def lmo(self, direction: Tensor) -> Tensor:
        vertex = torch.zeros_like(direction)
        vertex[direction.argmin()] = 1
        return vertex


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _quadratic(spectrum: Tensor, generator: torch.Generator) -> tuple[SmoothProblem, Tensor]:
    basis = torch.linalg.qr(_random(generator, len(spectrum), len(spectrum))).Q
    matrix, center = basis @ torch.diag(spectrum) @ basis.T, _random(generator, len(spectrum))
    return SmoothProblem(lambda x: 0.5 * (x - center) @ (matrix @ (x - center))), center


def smooth(steps: int, generator: torch.Generator) -> dict[str, _Run]:
    """A quadratic with eigenvalues ``1/j^2``: convex, and for these numbers of steps as good as not strongly so."""
    problem, center = _quadratic(1 / torch.arange(1, 201, dtype=torch.float64) ** 2, generator)
    start = torch.zeros_like(center)
    radius = float(center.square().sum())
    return {
        "gradient, smooth": _Run(GradientMethod(ConstantStep(1.0)), problem, start, 0.0, lambda k: 2 * radius / k),
        "Nesterov, smooth": _Run(Nesterov(1.0), problem, start, 0.0, lambda k: 2 * radius / (k + 1) ** 2),
    }


def strong(steps: int, generator: torch.Generator) -> dict[str, _Run]:
    """A quadratic with the condition 200."""
    condition = 200.0
    problem, center = _quadratic(torch.logspace(0, math.log10(condition), 100, dtype=torch.float64), generator)
    start, radius = torch.zeros_like(center), float(center.square().sum())
    return {
        "gradient, strongly convex": _Run(
            GradientMethod(ConstantStep(2 / (1 + condition))),
            problem,
            start,
            0.0,
            lambda k: condition / 2 * math.exp(-4 * k / (condition + 1)) * radius,
        ),
        "Nesterov, strongly convex": _Run(
            Nesterov(1 / condition, strong_convexity=1.0),
            problem,
            start,
            0.0,
            lambda k: (1 + condition) / 2 * math.exp(-k / math.sqrt(condition)) * radius,
        ),
    }


def lasso(steps: int, generator: torch.Generator) -> dict[str, _Run]:
    """A lasso on a bootstrap sample of the breast cancer data, columns as they come: standardized, correlated."""
    split = data.breast_cancer(dtype=torch.float64).train
    rows = torch.randint(len(split.inputs), (len(split.inputs),), generator=generator)
    design, target = split.inputs[rows], 2.0 * split.targets[rows].double() - 1
    plain = LinearModel(design, target)
    start = torch.zeros(design.shape[1], dtype=torch.float64)
    largest = float(plain.smooth_gradient(start).abs().max())
    problem = LinearModel(design, target, "squared", L1(1e-3 * largest))
    lipschitz = float(problem.lipschitz or math.nan)
    solved = FISTA(restart="gradient", grow=1.1).run(problem, start, budget="20000steps", tolerance=1e-13)
    least, radius = float(solved.value or 0.0), float(solved.solution.square().sum())
    return {
        "proximal gradient, lasso": _Run(
            ProximalGradient(1 / lipschitz), problem, start, least, lambda k: lipschitz * radius / (2 * k)
        ),
        "FISTA, lasso": _Run(
            FISTA(1 / lipschitz), problem, start, least, lambda k: 2 * lipschitz * radius / (k + 1) ** 2
        ),
    }


def simplex(steps: int, generator: torch.Generator) -> dict[str, _Run]:
    """The distance to a point of a face of the simplex."""
    center = torch.rand(50, dtype=torch.float64, generator=generator)
    target = Simplex().prox(center / center.sum() * 1.5, 1.0)
    problem = CompositeProblem(lambda x: 0.5 * (x - target).square().sum(), Simplex())
    start = torch.eye(50, dtype=torch.float64)[0]
    return {"Frank-Wolfe, simplex": _Run(FrankWolfe(OpenLoop()), problem, start, 0.0, lambda k: 4.0 / (k + 2))}


def game(steps: int, generator: torch.Generator) -> dict[str, _Run]:
    """A matrix game with entries in [-1, 1], its value by linear programming."""
    rows, columns = 40, 30
    matrix = 2 * torch.rand(rows, columns, dtype=torch.float64, generator=generator) - 1
    task = linprog(
        np.r_[np.zeros(rows), 1.0],
        A_ub=np.c_[matrix.T.numpy(), -np.ones(columns)],
        b_ub=np.zeros(columns),
        A_eq=np.r_[np.ones(rows), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
    )
    x, y = (torch.full((n,), 1 / n, dtype=torch.float64) for n in (rows, columns))
    problem = CompositeProblem(lambda x: (matrix.T @ x).max(), Simplex())
    saddle = SaddleProblem(lambda x, y: x @ matrix @ y, (Simplex(), Simplex()))
    slope, largest = float(matrix.norm(dim=0).max()), float(matrix.abs().max())
    radius, entropy = math.sqrt(1 - 1 / rows), math.log(rows)
    both = math.log(rows) + math.log(columns)
    # Steps of a fixed size have their rate at the end of the run only; sizes that fall have it all the way.
    sums = np.cumsum(1 / np.sqrt(np.arange(1, steps + 1)))
    squares = np.cumsum(1 / np.arange(1, steps + 1))
    euclid, mirror = radius / slope, math.sqrt(2 * entropy) / largest
    return {
        "subgradient, game": _Run(
            SubgradientMethod(DecreasingSteps(euclid)),
            problem,
            x,
            float(task.fun),
            lambda k: float((radius**2 + slope**2 * euclid**2 * squares[k - 1]) / (2 * euclid * sums[k - 1])),
        ),
        "mirror descent, game": _Run(
            MirrorDescent(Entropy(), mirror),
            problem,
            x,
            float(task.fun),
            lambda k: float((entropy + largest**2 * mirror**2 * squares[k - 1] / 2) / (mirror * sums[k - 1])),
        ),
        "mirror prox, game": _Run(
            MirrorProx(1 / largest, Entropy()), saddle, (x, y), 0.0, lambda k: both * largest / k
        ),
    }


def follow(run: _Run, steps: int) -> tuple[list[float], list[float]]:
    """The gap (mirror prox: the gap of the game) and its bound after every step."""
    result = run.solver.run(run.problem, run.start, budget=f"{steps}steps", divergence=None)
    found = result.trace.stationarity if result.trace.value[0] is None else result.trace.value
    gaps = [max(0.0, float(value or 0.0) - run.least) for value in found[1:]]
    return gaps, [run.bound(k) for k in range(1, len(gaps) + 1)]


def slope(gaps: list[float], linear: bool) -> float:
    """Of the logarithm of the gap, over the logarithm of the steps (or the steps), in its second half.

    Only the lowest gap so far counts, and nothing below rounding.
    """
    lowest = np.minimum.accumulate(gaps)
    steps = np.arange(1, len(gaps) + 1)
    keep = (lowest > 1e-12 * lowest[0]) & (steps >= (len(gaps) / 10 if linear else math.sqrt(len(gaps))))
    if keep.sum() < 3:
        return -99.0  # at the end within a few steps
    return float(np.polyfit(steps[keep] if linear else np.log(steps[keep]), np.log(lowest[keep]), 1)[0])


def advantage(size: int, steps: int, generator: torch.Generator) -> float:
    """The gap of the projected subgradient method over that of entropic mirror descent, in a high dimension.

    Both take the constant step size of their theory; the function has slopes of 1 in every coordinate.
    """
    corner = torch.zeros(size, dtype=torch.float64)
    corner[int(torch.randint(size, (1,), generator=generator))] = 1
    problem = CompositeProblem(lambda x: (x - corner).abs().sum(), Simplex())
    start = torch.full((size,), 1 / size, dtype=torch.float64)
    sides = (
        SubgradientMethod(DecreasingSteps(1 / math.sqrt(size * steps), 0.0)),
        MirrorDescent(Entropy(), math.sqrt(2 * math.log(size) / steps), power=0.0),
    )
    euclid, entropy = (
        float(side.run(problem, start, budget=f"{steps}steps", record_every=steps).value or 0.0) for side in sides
    )
    return max(euclid, 1e-12) / max(entropy, 1e-12)  # a method may hit the corner


def _short(name: str) -> str:
    return name.lower().replace(", ", "_").replace(" ", "_").replace("-", "_")


def measure(context: Context) -> Measured:
    """All runs, seed by seed."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    ratios: dict[str, list[float]] = {}
    slopes: dict[str, list[float]] = {}
    advantages: list[float] = []
    series: dict[str, Any] = {"curves": {}}
    for seed in seeds:
        for family in (smooth, strong, lasso, simplex, game):
            for name, run in family(scale.steps, torch.Generator().manual_seed(seed)).items():
                context.say(f"{name}, seed {seed}")
                gaps, bounds = follow(run, scale.steps)
                ratios.setdefault(name, []).append(max(g / b for g, b in zip(gaps, bounds, strict=True) if b > 1e-12))
                slopes.setdefault(name, []).append(slope(gaps, name in _LINEAR))
                if seed == seeds[0]:
                    keep = np.unique(np.geomspace(1, len(gaps), 80).astype(int)) - 1
                    series["curves"][name] = {
                        "step": [int(k) + 1 for k in keep],
                        "gap": [gaps[k] for k in keep],
                        "bound": [bounds[k] for k in keep],
                    }
        context.say(f"high dimension, seed {seed}")
        advantages.append(advantage(scale.wide, min(scale.steps, 200), torch.Generator().manual_seed(seed)))
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    rates = dict(zip(_LINEAR, (-4 / 201, -1 / math.sqrt(200)), strict=True))
    over = []
    for name, found in ratios.items():
        figures[f"largest_gap_over_bound_{_short(name)}"] = max(found)
        steepness = float(np.mean(slopes[name]))
        figures[f"slope_{_short(name)}"] = steepness
        # Linear rates are compared by their quotient, powers by their difference.
        over.append(1 - steepness / rates[name] if name in rates else steepness - _POWERS[name])
    figures["largest_gap_over_bound"] = max(max(found) for found in ratios.values())
    figures["flattest_slope_over_theory"] = max(over)
    figures |= interval(np.log10(advantages).tolist()).figures("log10_subgradient_over_entropy_gap")
    budgets = {"steps of every run": scale.steps, "dimension of the comparison": scale.wide}
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Three parts, over ten pairs of method and problem and all seeds:

1. the gap never exceeds its bound, after any number of steps (by more than {ROUNDING:g} of it);
2. the mean fitted slope of the gap is not flatter than the theory's order by more than {SLACK:g} (for linear rates, by
   more than {SLACK:g} of the rate);
3. in a high dimension entropic mirror descent has the smaller gap after equally many steps than the projected
   subgradient method: the mean of log10 of the ratio is above 0 by its 95 % interval.

- **reproduced**: all three. **partly**: part 1, but not both of the others. **not reproduced**: part 1 fails.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    low = figures["log10_subgradient_over_entropy_gap_low"]
    holds = [
        figures["largest_gap_over_bound"] <= 1 + ROUNDING,
        figures["flattest_slope_over_theory"] <= SLACK,
        low is not None and low > 0,
    ]
    said = (
        f"The gap reaches at most {figures['largest_gap_over_bound']:.3g} of its bound; the flattest slope is "
        f"{figures['flattest_slope_over_theory']:+.2f} off the theory's order; the subgradient method's gap is "
        f"{10 ** figures['log10_subgradient_over_entropy_gap']:.3g} times that of entropic mirror descent."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Gaps with their bounds, dashed, by kind of rate."""
    figure, axes = canvas(rows=2)
    kinds = {
        "Smooth functions: 1/k and 1/k^2": list(_POWERS)[:4],
        "Strongly convex: linear": list(_LINEAR),
        "Sets and saddle points: 1/k": ["Frank-Wolfe, simplex", "mirror prox, game"],
        "Functions with kinks: 1/sqrt(k)": ["subgradient, game", "mirror descent, game"],
    }
    for place, (title, names) in zip(axes, kinds.items(), strict=True):
        for index, name in enumerate(names):
            curve = series["curves"][name]
            shown = [k for k, gap in enumerate(curve["gap"]) if gap > 1e-13]
            steps = [curve["step"][k] for k in shown]
            place.plot(steps, [curve["gap"][k] for k in shown], color=COLOURS[index], label=name)
            place.plot(curve["step"], curve["bound"], "--", color=COLOURS[index], linewidth=1)
        place.set_yscale("log")
        if names[0] not in _LINEAR:
            place.set_xscale("log")
        else:
            place.set_ylim(1e-13, None)
        place.set_xlabel("step")
        place.set_ylabel("gap (dashed: bound)")
        place.set_title(title)
        place.legend()
    return figure


CLAIM = Claim(
    method="nesterov",
    title="Nesterov's accelerated gradient",
    statement=card("nesterov").claim,
    paper=card("nesterov").papers[1],
    test="""\
Every method runs with the step size of its theorem in Bubeck's monograph on a problem that meets its assumptions, and
the gap to the least value is compared with the bound after every step: random quadratics, a lasso on bootstrap samples
of the breast cancer data, the simplex, and matrix games. Least values come from closed forms, from linear programming
and, for the lasso, from a duality gap below 1e-13. The methods with steps that fall as 1/sqrt(k) are held to the bound
with the sums of their step sizes, of which the monograph's 1/sqrt(k) is the case of one size. Slopes are fitted to the
lowest gap so far, over the second half of the logarithm of the steps. A bound limits the level and not the slope: a gap
far below its bound may fall more slowly for a while, and counts against the claim here.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one seed and 60 steps; seconds; always inconclusive",
        Size.LAPTOP: "5 seeds and 1000 steps; a minute or two",
        Size.FULL: "30 seeds and 20,000 steps; hours on one core",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
