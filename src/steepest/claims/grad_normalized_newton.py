"""Gradient-normalized Newton: how near approximate Hessians come to the exact one, and how far ahead of gradients."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steepest import data
from steepest.catalogue import card
from steepest.core.problem import SmoothProblem
from steepest.core.stopping import Tolerance
from steepest.solve.convex import GradientNormalizedNewton, Newton
from steepest.solve.convex.curvatures import Curvature, ExactHessian, Fisher, GaussNewton, Supplied

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "fast_gradient"]

#: The gap to the least value, relative to that at the start, at which a run is done.
GAP = 1e-8
#: At most so many times the steps of the exact Hessian count as near.
NEAR = 2.0
#: Steps of a Newton-like method, and gradients of the accelerated one, at most.
STEPS, GRADIENTS = 500, 5_000
#: In a linear rate, the second half of the decades takes at most this many times the steps of the first.
STRAIGHT = 2.0


@dataclass(frozen=True)
class _Scale:
    seeds: int
    rows: int
    columns: int
    images: int
    classes: int


_SCALES = {
    Size.SMOKE: _Scale(1, 30, 10, 40, 2),
    Size.LAPTOP: _Scale(5, 500, 100, 400, 4),
    Size.FULL: _Scale(20, 2000, 500, 1797, 10),
}


@dataclass(frozen=True)
class _Instance:
    problem: SmoothProblem
    start: Tensor
    approximation: Curvature
    least: float | None = None  # where it is known


def soft_maximum(scale: _Scale, mu: float, generator: torch.Generator) -> _Instance:
    """``mu log sum exp((a_i . x - b_i) / mu)`` with uniform rows, shifted so that 0 is the minimizer."""
    rows = 2 * torch.rand(scale.rows, scale.columns, dtype=torch.float64, generator=generator) - 1
    b = 2 * torch.rand(scale.rows, dtype=torch.float64, generator=generator) - 1
    rows = rows - torch.softmax(-b / mu, 0) @ rows
    problem = SmoothProblem(lambda x: mu * torch.logsumexp((rows @ x - b) / mu, 0))
    approximation = GaussNewton(lambda x: rows @ x - b, lambda u: torch.softmax(u / mu, 0) / mu)
    least = float(problem.value(torch.zeros(scale.columns, dtype=torch.float64)))
    return _Instance(problem, torch.ones(scale.columns, dtype=torch.float64), approximation, least)


def softmax_regression(scale: _Scale, generator: torch.Generator) -> _Instance:
    """Digits; the approximation leaves out what couples the classes."""
    digits = data.digits(validation=0.0, test=0.0, dtype=torch.float64).train
    kept = (digits.targets < scale.classes).nonzero()[:, 0]
    kept = kept[torch.randperm(len(kept), generator=generator)[: scale.images]]
    images, labels = digits.inputs[kept].flatten(1), digits.targets[kept]
    d, k, ridge = images.shape[1], scale.classes, 1e-4

    def loss(x: Tensor) -> Tensor:
        scores = images @ x.reshape(d, k)
        return torch.nn.functional.cross_entropy(scores, labels) + 0.5 * ridge * x.square().sum()

    def blocks(x: Tensor) -> Tensor:
        weight = torch.softmax(images @ x.reshape(d, k), 1) / len(images)
        matrix = x.new_zeros(d, k, d, k)
        for index in range(k):
            matrix[:, index, :, index] = images.mT @ (weight[:, index, None] * images)
        return matrix.reshape(d * k, d * k) + ridge * torch.eye(d * k, dtype=x.dtype)

    return _Instance(SmoothProblem(loss), torch.zeros(d * k, dtype=torch.float64), Supplied(blocks))


def fourth_power(scale: _Scale, generator: torch.Generator) -> _Instance:
    """``|A x - b|^4 / 4`` with a solution, of which the approximation knows a term of rank one."""
    size = scale.columns
    rows = torch.randn(size, size, dtype=torch.float64, generator=generator) / size**0.5 + 2 * torch.eye(size)
    b = rows @ torch.randn(size, dtype=torch.float64, generator=generator)
    problem = SmoothProblem(lambda x: (rows @ x - b).square().sum().square() / 4)
    return _Instance(problem, torch.zeros(size, dtype=torch.float64), Fisher(4.0), 0.0)


_PROBLEMS: dict[str, Callable[[_Scale, torch.Generator], _Instance]] = {
    "soft maximum, mu 1": lambda scale, generator: soft_maximum(scale, 1.0, generator),
    "soft maximum, mu 0.1": lambda scale, generator: soft_maximum(scale, 0.1, generator),
    "soft maximum, mu 0.05": lambda scale, generator: soft_maximum(scale, 0.05, generator),
    "softmax regression": softmax_regression,
    "fourth power": fourth_power,
}
_LABELS = {name: name.replace(", mu ", "_mu_").replace(".", "").replace(" ", "_") for name in _PROBLEMS}


def fast_gradient(problem: SmoothProblem, start: Tensor, target: float) -> tuple[list[float], float]:
    """Nesterov's accelerated gradient method with backtracking and restarts: its values, and its seconds of CPU.

    The constant is doubled until the quadratic bound holds and lowered by a tenth after each step; momentum begins anew
    whenever it points uphill (O'Donoghue and Candes, 2015).
    """
    begun = time.process_time()
    x = y = start
    lipschitz, momentum = 1.0, 1.0
    values = [float(problem.value(x))]
    gradients = 0
    while values[-1] > target and gradients < GRADIENTS:
        value, g = problem.value_and_gradient(y)
        gradients += 1
        square = float(g @ g)
        for _ in range(100):
            following = y - g / lipschitz
            here = float(problem.value(following))
            if here <= float(value) - 0.5 * square / lipschitz + 1e-15 * abs(here):
                break
            lipschitz *= 2
        if float(g @ (following - x)) > 0:
            momentum, y = 1.0, following
        else:
            grown = 0.5 * (1 + (1 + 4 * momentum**2) ** 0.5)
            y, momentum = following + (momentum - 1) / grown * (following - x), grown
        x = following
        values.append(here)
        lipschitz *= 0.9
    return values, time.process_time() - begun


def newton(instance: _Instance, curvature: Curvature, target: float) -> tuple[list[float], float, bool]:
    """Values of a run to the target, its seconds of CPU, and whether it arrives."""
    begun = time.process_time()
    result = GradientNormalizedNewton(curvature).run(
        instance.problem, instance.start, budget=f"{STEPS}steps", tolerance=Tolerance(value=target), progress=False
    )
    values = [float(value) for value in result.trace.value if value is not None]
    return values, time.process_time() - begun, result.success


def straightness(gaps: list[float]) -> float:
    """Steps that the second half of the decades of the gap took, over those of the first; 1 for a linear rate."""
    middle = (gaps[0] * gaps[-1]) ** 0.5
    half = next(k for k, gap in enumerate(gaps) if gap <= middle)
    return (len(gaps) - 1 - half) / max(half, 1)


def _thinned(curve: list[float]) -> tuple[list[int], list[float]]:
    """A curve over its steps, counted from 1, with at most some 300 points."""
    every = max(1, len(curve) // 300)
    places = sorted({*range(0, len(curve), every), len(curve) - 1})
    return [place + 1 for place in places], [curve[place] for place in places]


def measure(context: Context) -> Measured:
    """Exact and approximate Hessians and the accelerated gradient method on every problem, one instance per seed."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {}
    for name, make in _PROBLEMS.items():
        label = _LABELS[name]
        ratio, saved, straight, missed = [], [], [], 0
        curves: dict[str, list[list[float]]] = {"exact": [], "approximate": [], "accelerated gradient": []}
        for number, seed in enumerate(seeds, 1):
            context.say(f"{name}: instance {number} of {len(seeds)}")
            instance = make(scale, torch.Generator().manual_seed(seed))
            least = instance.least
            if least is None:
                best = Newton().run(instance.problem, instance.start, budget="300steps", progress=False)
                assert best.value is not None
                least = best.value
            begin = float(instance.problem.value(instance.start)) - least
            target = least + GAP * begin
            exact, _, one = newton(instance, ExactHessian(), target)
            found, seconds, two = newton(instance, instance.approximation, target)
            descent, others = fast_gradient(instance.problem, instance.start, target)
            missed += not (one and two)
            ratio.append((len(found) - 1) / max(len(exact) - 1, 1))
            saved.append(others / seconds)
            straight.append(straightness([value - least for value in found if value > least]))
            for who, values in zip(curves, (exact, found, descent), strict=True):
                curves[who].append([max((value - least) / begin, 1e-16) for value in values])
        figures |= interval(ratio).figures(f"steps_over_exact_{label}")
        figures |= interval(saved).figures(f"time_of_gradients_over_ours_{label}")
        figures |= interval(straight).figures(f"late_over_early_steps_{label}")
        figures[f"missed_{label}"] = missed
        series[name] = {who: [_thinned(curve) for curve in each] for who, each in curves.items()}
        for who, each in curves.items():
            figures[f"steps_{who.replace(' ', '_')}_{label}"] = sum(len(c) - 1 for c in each) / len(each)
    budgets: dict[str, float | int | str] = {
        "steps of Newton-like methods, at most": STEPS,
        "gradients of the accelerated method, at most": GRADIENTS,
        "gap over that at the start": GAP,
        "instances": len(seeds),
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
A run ends at {GAP:g} of the gap at the start. Five problems: three soft maxima, softmax regression, a fourth power.

1. With the approximate Hessian every run arrives, at a linear rate or better: the second half of the decades takes at
   most {STRAIGHT:g} times the steps of the first (upper end of the 95 % interval), on all five problems.
2. It takes at most {NEAR:g} times the steps of the exact Hessian (upper end), on four of the five.
3. It takes less CPU time than an accelerated gradient method with line search (lower end of the ratio above 1), on four
   of the five.

- **reproduced**: all three. **partly**: part 1 and one of the others.
- **not reproduced**: part 1 fails, or both others.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    labels = _LABELS.values()
    holds = [
        all(figures[f"missed_{k}"] == 0 and figures[f"late_over_early_steps_{k}_high"] <= STRAIGHT for k in labels),
        sum(figures[f"steps_over_exact_{k}_high"] <= NEAR for k in labels) >= 4,
        sum(figures[f"time_of_gradients_over_ours_{k}_low"] > 1 for k in labels) >= 4,
    ]
    steps = ", ".join(f"{figures[f'steps_over_exact_{k}']:.1f}" for k in labels)
    saved = ", ".join(f"{figures[f'time_of_gradients_over_ours_{k}']:.1f}" for k in labels)
    said = f"It takes {steps} times the steps of the exact Hessian; gradients take {saved} times its time."
    if all(holds):
        return Judgement(Verdict.REPRODUCED, parts(holds, said))
    return Judgement(Verdict.PARTLY if holds[0] and any(holds[1:]) else Verdict.NOT_REPRODUCED, parts(holds, said))


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The gap over steps, on each problem."""
    figure, axes = canvas(columns=2, rows=3)
    colours = {"approximate": COLOURS[0], "exact": COLOURS[1], "accelerated gradient": COLOURS[2]}
    for panel, (name, curves) in zip(axes, series.items(), strict=False):
        for who, each in curves.items():
            for index, (places, values) in enumerate(each):
                label = who if index == 0 else None
                panel.plot(places, values, color=colours[who], alpha=0.7, linewidth=1.2, label=label)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_ylim(1e-9, 3)
        panel.set_xlabel("steps + 1")
        panel.set_ylabel("gap / gap at the start")
        panel.set_title(name[0].upper() + name[1:])
    axes[0].legend(fontsize=8)
    bars = axes[5]
    for place, label in enumerate(_LABELS.values()):
        value = figures[f"time_of_gradients_over_ours_{label}"]
        low, high = (figures[f"time_of_gradients_over_ours_{label}_{end}"] for end in ("low", "high"))
        bars.plot([place], [value], "o", color=COLOURS[0])
        if low is not None:
            bars.plot([place, place], [low, high], color=COLOURS[0])
    bars.axhline(1, color=COLOURS[2], linewidth=1)
    bars.set_yscale("log")
    bars.set_xticks(range(5), ["mu 1", "mu 0.1", "mu 0.05", "softmax", "4th power"], fontsize=8)
    bars.set_ylabel("time of gradients / ours")
    bars.set_title("Time to the gap")
    return figure


CLAIM = Claim(
    method="grad-normalized-newton",
    title="Gradient-normalized Newton",
    statement=card("grad-normalized-newton").claim,
    paper=card("grad-normalized-newton").papers[0],
    test="""\
Soft maxima (log-sum-exp) of random planes at three temperatures with the weighted Gauss-Newton matrix, softmax
regression of digits with the matrix that leaves out what couples the classes, and a fourth power of a norm with the
Fisher term of rank one; a new instance per seed. The same method runs with these and with the exact Hessian, from the
first radius 1, nothing tuned; an accelerated gradient method with backtracking and restarts runs beside. Steps are
counted, and CPU time, of which the exact Hessian's has no part in the verdict since it is differentiated column by
column here.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one instance, small; seconds; always inconclusive",
        Size.LAPTOP: "5 instances, 500 planes of 100 variables, 400 digits of four classes; minutes",
        Size.FULL: "20 instances, 2,000 planes of 500 variables, all digits; an hour",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
