"""PSGD: is the inverse Hessian found where BFGS breaks down, and does it shorten the way to the minimum?"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steepest.catalogue import card
from steepest.optim import PSGD

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Standard deviations of what is added to every entry of a product with a Hessian of eigenvalues from 1 to 10.
NOISES = (0.0, 0.01, 0.1)
#: A problem is solved when this part of the start's excess over the minimum is left.
TARGET = 1e-6
#: Gradients that a product with the Hessian costs.
PRODUCT = 2
_PROBLEMS, _RIVALS = ("rosenbrock", "logistic"), ("adam", "sgd", "lbfgs")
_NAMES = {"psgd": "PSGD", "adam": "Adam", "sgd": "SGD with momentum", "lbfgs": "L-BFGS"}
#: Learning rates: equally many for all; those of first-order methods suit each problem's curvature.
_RATES: dict[tuple[str, str], tuple[float, ...]] = {
    ("rosenbrock", "psgd"): (0.03, 0.1, 0.3, 0.5, 1.0, 1.5, 3.0),
    ("rosenbrock", "adam"): (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    ("rosenbrock", "sgd"): (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    ("rosenbrock", "lbfgs"): (0.03, 0.1, 0.3, 0.5, 1.0, 1.5, 3.0),
    ("logistic", "psgd"): (0.03, 0.1, 0.3, 0.5, 1.0, 1.5, 3.0),
    ("logistic", "adam"): (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    ("logistic", "sgd"): (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    ("logistic", "lbfgs"): (0.03, 0.1, 0.3, 0.5, 1.0, 1.5, 3.0),
}


@dataclass(frozen=True)
class _Scale:
    seeds: int
    pairs: int
    dimension: int
    steps: int
    rates: int


_SCALES = {
    Size.SMOKE: _Scale(1, 60, 6, 40, 2),
    Size.LAPTOP: _Scale(5, 2500, 10, 1500, 7),
    Size.FULL: _Scale(20, 50_000, 50, 50_000, 7),
}


# ------------------------------------------------------------------------------------------------ estimation


def estimates(noise: float, dimension: int, pairs: int, seed: int) -> dict[str, list[float]]:
    """The error of P along a run of noisy pairs, root mean square of P H - I, for PSGD and BFGS; 100 points each."""
    source = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(dimension, dimension, generator=source, dtype=torch.float64))[0]
    hessian = (q * torch.logspace(0, 1, dimension, dtype=torch.float64)) @ q.T
    identity = torch.eye(dimension, dtype=torch.float64)
    point = torch.nn.Parameter(torch.zeros(dimension, dtype=torch.float64))
    opt = PSGD([point], curvature="hessian", max_skew=dimension, seed=seed)
    bfgs = identity.clone()
    curves: dict[str, list[float]] = {"psgd": [], "bfgs": []}
    keep = set(np.unique(np.linspace(1, pairs, 100).astype(int)).tolist())
    for count in range(1, pairs + 1):
        (v,) = opt.probes()
        h = hessian @ v + noise * torch.randn(dimension, generator=source, dtype=torch.float64)
        opt.observe([v], [h])
        if float(v @ h) > 0:  # BFGS's condition
            left = identity - torch.outer(v, h) / (v @ h)
            bfgs = left @ bfgs @ left.T + torch.outer(v, v) / (v @ h)
        if count in keep:
            factor = opt.state[point]["factor0"]
            for name, p in (("psgd", factor.T @ factor), ("bfgs", bfgs)):
                error = torch.linalg.matrix_norm(p @ hessian - identity) / math.sqrt(dimension)
                curves[name].append(float(error.nan_to_num(1e30, 1e30).clamp(1e-15, 1e30)))
    return curves


# ------------------------------------------------------------------------------------------------ minimization

Problem = tuple[Callable[[Tensor], Tensor], Tensor, float]


def rosenbrock(seed: int) -> Problem:
    """Function, random start in the square of half-width 2, least value."""
    source = torch.Generator().manual_seed(seed)
    start = 4 * torch.rand(2, generator=source, dtype=torch.float64) - 2
    return lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, start, 0.0


def logistic(seed: int) -> Problem:
    """Logistic regression, 500 examples of 20 features whose scales go from 1 to 30; least value by Newton's method."""
    source = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(20, 20, generator=source, dtype=torch.float64))[0]
    features = torch.randn(500, 20, generator=source, dtype=torch.float64)
    features = features * torch.logspace(0, math.log10(30), 20, dtype=torch.float64) @ mix / 30**0.5
    truth = 0.3 * torch.randn(20, generator=source, dtype=torch.float64)
    labels = (torch.rand(500, generator=source, dtype=torch.float64) < torch.sigmoid(features @ truth)).double()

    def value(x: Tensor) -> Tensor:
        logits = features @ x
        return (torch.nn.functional.softplus(logits) - labels * logits).mean() + 5e-5 * x.square().sum()

    x = torch.zeros(20, dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(features @ x)
        slope = features.T @ (p - labels) / 500 + 1e-4 * x
        hessian = (features.T * (p * (1 - p))) @ features / 500 + 1e-4 * torch.eye(20, dtype=torch.float64)
        x = x - torch.linalg.solve(hessian, slope) * min(1.0, 5 / float(slope.norm() + 1e-30))
    return value, torch.zeros(20, dtype=torch.float64), float(value(x))


MAKERS: dict[str, Callable[[int], Problem]] = {"rosenbrock": rosenbrock, "logistic": logistic}


@dataclass(frozen=True)
class Run:
    """How a run went: gradients and products with the Hessian counted as gradients, and what was left per gradient."""

    steps: int
    gradients: int
    seconds: float
    curve: Sequence[float]
    solved: bool


def minimize(problem: Problem, method: str, rate: float, steps: int) -> Run:
    """Descend until :data:`TARGET` is reached or the steps are used up (for L-BFGS: evaluations)."""
    function, start, least = problem
    x = torch.nn.Parameter(start.clone())
    excess = float(function(start)) - least
    curve: list[float] = []
    begun = time.perf_counter()

    def result(solved: bool) -> Run:
        each = 1 + PRODUCT if method == "psgd" else 1
        count = len(curve) if solved else steps
        return Run(count, each * count, time.perf_counter() - begun, curve, solved)

    class Done(Exception):
        pass

    def evaluate() -> Tensor:
        loss = function(x)
        left = (float(loss.detach()) - least) / excess
        curve.append(min(left, 1e6) if math.isfinite(left) else 1e6)
        if curve[-1] <= TARGET or len(curve) >= steps or not math.isfinite(left):
            raise Done
        return loss

    def closure() -> Tensor:
        opt.zero_grad()
        loss = evaluate()
        loss.backward()
        return loss

    opt: Any
    if method == "psgd":
        opt = PSGD(
            [x], lr=rate, precond_lr=0.5, curvature="hessian", max_skew=1e9, clip_rms=1.0, clip_value=None
        )  # precond_lr and the momentum of 0.9 as in the authors' demonstration on Rosenbrock's function
    elif method == "adam":
        opt = torch.optim.Adam([x], lr=rate)
    elif method == "sgd":
        opt = torch.optim.SGD([x], lr=rate, momentum=0.9)
    else:
        opt = torch.optim.LBFGS([x], lr=rate, max_iter=steps, line_search_fn="strong_wolfe")
    try:
        for _ in range(steps):
            if method == "psgd":
                (gradient,) = torch.autograd.grad(evaluate(), [x], create_graph=True)
                probes = opt.probes()
                opt.observe(probes, torch.autograd.grad([gradient], [x], probes))
                x.grad = gradient.detach()
                opt.step()
            else:
                opt.step(closure)
    except Done:
        pass
    return result(bool(curve) and curve[-1] <= TARGET)


def tune(context: Context, name: str, method: str, scale: _Scale) -> tuple[float, bool]:
    """The rate with the fewest steps on the tuning seed's problem, and whether it is the least or largest tried.

    Those are tried from the middle outwards, none for longer than the best so far.
    """
    every = _RATES[name, method]
    order = sorted(range(len(every)), key=lambda k: abs(k - len(every) // 2))[: scale.rates]
    problem, best, limit, last = MAKERS[name](context.tuning_seed), every[order[0]], scale.steps, math.inf
    for number, k in enumerate(order, 1):
        context.say(f"{name}, tuning {_NAMES[method]}: {number} of {len(order)}")
        run = minimize(problem, method, every[k], limit)
        end = run.curve[-1]
        if (run.solved and run.steps < limit) or (limit == scale.steps and end < last and not run.solved):
            best, last = every[k], end
            limit = run.steps if run.solved else limit
    return best, best in (every[0], every[-1])


def measure(context: Context) -> Measured:
    """Estimation under noise, then two minimizations."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"errors": {}, "curves": {}, "rates": {}, "pairs": scale.pairs}
    for noise in NOISES:
        context.say(f"estimation, noise {noise:g}")
        found = [estimates(noise, scale.dimension, scale.pairs, seed) for seed in seeds]
        series["errors"][f"{noise:g}"] = {m: [f[m] for f in found] for m in ("psgd", "bfgs")}
        ends = {m: [float(np.mean(f[m][-10:])) for f in found] for m in ("psgd", "bfgs")}
        for m, values in ends.items():
            figures[f"error_{m}_noise_{noise:g}"] = float(np.median(values))
        ratios = [math.log10(a / b) for a, b in zip(ends["psgd"], ends["bfgs"], strict=True)]
        figures |= interval(ratios).figures(f"log10_error_ratio_noise_{noise:g}")

    edges = 0
    for name in _PROBLEMS:
        runs: dict[str, list[Run]] = {}
        for method in ("psgd", *_RIVALS):
            rate, at_edge = tune(context, name, method, scale)
            edges += at_edge
            context.say(f"{name}, {_NAMES[method]} at {rate:g}")
            runs[method] = [minimize(MAKERS[name](seed), method, rate, scale.steps) for seed in seeds]
            series["rates"][f"{name}_{method}"] = rate
            for what in ("steps", "seconds", "gradients"):
                figures[f"{what}_{name}_{method}"] = float(np.median([getattr(r, what) for r in runs[method]]))
            figures[f"solved_{name}_{method}"] = float(np.mean([r.solved for r in runs[method]]))
        series["curves"][name] = {m: [_thinned(r.curve) for r in found] for m, found in runs.items()}
        for rival in _RIVALS:
            for what in ("steps", "seconds", "gradients"):
                ratios = [
                    math.log10(getattr(a, what) / getattr(b, what))
                    for a, b in zip(runs["psgd"], runs[rival], strict=True)
                ]
                figures |= interval(ratios).figures(f"log10_{what}_ratio_{name}_{rival}")
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "pairs per estimation": scale.pairs,
        "dimension of the estimation": scale.dimension,
        "learning rates tried per method and problem": scale.rates,
        "steps or evaluations at most per minimization": scale.steps,
    }
    return Measured(figures, series, seeds, budgets)


def _thinned(curve: Sequence[float]) -> list[list[float]]:
    keep = np.unique(np.linspace(0, len(curve) - 1, 80).astype(int))
    return [[int(k) + 1 for k in keep], [float(max(curve[k], 1e-12)) for k in keep]]


RULE = f"""\
A ratio is PSGD's figure over the rival's, seed by seed, as a logarithm; it is smaller where the 95 % interval of its
mean lies below 0. Runs that do not reach {TARGET:g} of their start's excess count with all the steps they had.

1. With noise {" and ".join(f"{n:g}" for n in NOISES[1:])}, the error of P at the end (root mean square of P H - I,
   last tenth of the pairs) is smaller than BFGS's.
2. On both problems PSGD takes fewer steps to the target than Adam and than SGD with momentum.
3. The same in seconds.
4. On both problems it takes fewer gradients than L-BFGS, a product with the Hessian counted as {PRODUCT}.

- **reproduced**: all four. **partly**: part 1 or part 2, not all four. **not reproduced**: neither part 1 nor part 2.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])

    def below(names: Sequence[str]) -> bool:
        return all(figures[f"log10_{name}_high"] < 0 for name in names)

    def ratio(name: str) -> str:
        value = figures[f"log10_{name}"]
        return f"{10 ** max(-30.0, min(30.0, value)):.2g}"

    def listed(what: str, rivals: Sequence[str]) -> str:
        names = [f"{what}_ratio_{p}_{r}" for p in _PROBLEMS for r in rivals]
        return ", ".join(ratio(name) for name in names)

    first = ("adam", "sgd")
    holds = [
        below([f"error_ratio_noise_{n:g}" for n in NOISES[1:]]),
        below([f"steps_ratio_{p}_{r}" for p in _PROBLEMS for r in first]),
        below([f"seconds_ratio_{p}_{r}" for p in _PROBLEMS for r in first]),
        below([f"gradients_ratio_{p}_lbfgs" for p in _PROBLEMS]),
    ]
    errors = ", ".join(ratio(f"error_ratio_noise_{n:g}") for n in NOISES)
    said = (
        f"The error of the inverse Hessian is these multiples of BFGS's at noise "
        f"{', '.join(f'{n:g}' for n in NOISES)}: {errors}. On Rosenbrock's function against Adam and SGD, then on "
        f"logistic regression against the same, PSGD takes {listed('steps', first)} times the steps and "
        f"{listed('seconds', first)} times the seconds; against L-BFGS {listed('gradients', ('lbfgs',))} times the "
        f"gradients and {listed('seconds', ('lbfgs',))} times the seconds."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or holds[1] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Errors of the estimates, descents, and the time they took."""
    figure, (estimate, valley, regression, clock) = canvas(rows=2)
    for index, (noise, found) in enumerate(series["errors"].items()):
        for method, style in (("psgd", "-"), ("bfgs", ":")):
            curves = np.clip(np.asarray(found[method]), 1e-10, 1e4)
            x = np.linspace(1, series["pairs"], curves.shape[1])
            label = f"{'PSGD' if method == 'psgd' else 'BFGS'}, noise {noise}"
            estimate.plot(x, np.median(curves, 0), style, color=COLOURS[index], label=label)
    estimate.set_yscale("log")
    estimate.set_xlabel("pairs")
    estimate.set_ylabel("error of P H (clipped)")
    estimate.set_title("Estimating the inverse Hessian")
    estimate.legend(ncols=2, fontsize=7.5)
    methods = ("psgd", *_RIVALS)
    for panel, name, title in ((valley, "rosenbrock", "Rosenbrock"), (regression, "logistic", "Logistic regression")):
        for index, method in enumerate(methods):
            for number, (x, y) in enumerate(series["curves"][name][method]):
                label = _NAMES[method] if number == 0 else None
                panel.plot(x, y, color=COLOURS[index], linewidth=1.1, alpha=0.8, label=label)
        panel.axhline(TARGET, color="#9aa3ad", linestyle="--", linewidth=1)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_ylim(TARGET / 30, 30)
        panel.set_xlabel("steps (L-BFGS: evaluations)")
        panel.set_ylabel("part of the excess left")
        panel.set_title(title)
    valley.legend(fontsize=8)
    width = 0.38
    for shift, name in ((-width / 2, "rosenbrock"), (width / 2, "logistic")):
        seconds = [figures[f"seconds_{name}_{m}"] for m in methods]
        solved = [figures[f"solved_{name}_{m}"] for m in methods]
        bars = clock.bar(
            [k + shift for k in range(len(methods))],
            seconds,
            width,
            color=[COLOURS[k] for k in range(len(methods))],
            alpha=1.0 if name == "rosenbrock" else 0.5,
        )
        clock.bar_label(bars, [f"{100 * s:.0f} %" for s in solved], fontsize=7)
    clock.set_xticks(range(len(methods)), ["PSGD", "Adam", "SGD", "L-BFGS"])
    clock.set_yscale("log")
    clock.margins(y=0.15)
    clock.set_ylabel("seconds, median")
    clock.set_axisbelow(True)
    clock.set_title("Time, % solved; pale: logistic")
    return figure


CLAIM = Claim(
    method="psgd",
    title="PSGD",
    statement=card("psgd").claim,
    paper=card("psgd").papers[0],
    test=f"""\
Estimation: a preconditioner with one triangular factor and BFGS's update of the inverse see the same pairs of a random
vector and its noisy product with a fixed Hessian (eigenvalues from 1 to 10: at a condition number of 100 PSGD needs
tens of thousands of pairs), at PSGD's default settings.
Minimization: Rosenbrock's function in two dimensions from random starts, and logistic regression on 500 random examples
with 20 features whose scales differ by a factor of 30, whole batch, to {TARGET:g} of the start's excess. PSGD is given
one product with the Hessian per step, has one triangular factor, the momentum (0.9) and the step of the preconditioner
(0.5) of the authors' demonstration on Rosenbrock's function, and clips its steps at a root mean square of 1. Each
method chooses from 7 learning rates on a problem of another seed by the steps it takes; L-BFGS has a strong Wolfe line
search, and its evaluations are counted. All in float64. Seconds are wall time of these small problems, where the
overhead of Python counts. The paper's experiments with networks are not repeated here.

This is a second run. In the first PSGD had no momentum and its default step of the preconditioner, and 6 winners lay at
the edges of narrower ranges of learning rates; no part held (against Adam PSGD took 0.81 times the steps on
Rosenbrock's function, 3.8 times on logistic regression). Ranges were then widened and PSGD given the authors' setting;
estimation and rule are unchanged.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one seed, two learning rates, few pairs and steps; seconds; always inconclusive",
        Size.LAPTOP: "5 seeds, 2,500 pairs of dimension 10, at most 1,500 steps, 7 learning rates; minutes",
        Size.FULL: "20 seeds, 50,000 pairs of dimension 50, at most 50,000 steps, 7 learning rates; hours (the paper "
        "also trains ResNet-18 on CIFAR-10 and recurrent networks, which need their data and a GPU)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
