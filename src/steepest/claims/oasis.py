"""OASIS, which has no learning rate, against tuned gradient descent, SGD and Adam on logistic regression."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from steepest.catalogue import card
from steepest.optim import OASIS

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas
from .logistic_rows import Regression, best_of, descend, draw_rows, half_decades

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Gradients that a step counts for; a Hessian-vector product counts for two.
COST, MINI_BATCH_COST = 3, 4
#: Twice the error of the best rival still counts as equal.
EQUAL = math.log10(2)
#: The largest spread over initial steps, in decades of the error.
SPREAD = 0.5
FIRST_STEPS = (1e-6, 1e-3, 1.0)
#: Errors are relative to that of the start; below this they are rounding.
FLOOR = 1e-12
_REACH = {"raw": 0.0, "scaled": 3.0, "wild": 4 * math.log(10)}
_RIVALS = ("GD", "Adam")


@dataclass(frozen=True)
class _Scale:
    sets: tuple[str, ...]
    rows: int
    seeds: int
    gradients: int
    rates: int


_SCALES = {
    Size.SMOKE: _Scale(("breast_cancer",), 100, 1, 12, 1),
    Size.LAPTOP: _Scale(("breast_cancer", "a8a", "w8a"), 1000, 5, 600, 23),
    Size.FULL: _Scale(("breast_cancer", "a8a", "w8a"), 100_000, 10, 3000, 23),
}


def _first_rate(name: str) -> float:
    return -9.0 if name in ("GD", "SGD") else -6.0


def _maker(name: str, rate: float) -> Callable[[nn.Parameter], Any]:
    kind = torch.optim.Adam if name == "Adam" else torch.optim.SGD
    return lambda x: kind([x], lr=rate)


def _problem(name: str, scale: _Scale, kind: str, seed: int) -> Regression:
    problem = draw_rows(name, scale.rows, seed)
    problem = Regression(problem.design, problem.target, 1 / len(problem.target))
    return problem.rescaled(_REACH[kind], seed) if _REACH[kind] else problem


def _error(value: float, start: float, best: float) -> float:
    """log10 of the error, relative to the start's; 0 where it is not smaller than that, or the run has blown up."""
    if not math.isfinite(value):
        return 0.0
    return float(np.log10(min(1.0, max((value - best) / (start - best), FLOOR))))


def _full(problem: Regression, scale: _Scale, first: float = 1e-3, seed: int = 0) -> list[float]:
    def make(x: nn.Parameter) -> OASIS:
        return OASIS([x], exact=False, initial_step=first, seed=seed)

    return descend(problem, make, scale.gradients // COST, differentiates=True)


def _mini(problem: Regression, scale: _Scale, seed: int) -> float:
    """The mean loss over the last quarter of the evaluations."""
    steps = scale.gradients // MINI_BATCH_COST
    found = descend(
        problem,
        lambda x: OASIS([x], seed=seed),
        steps,
        batch=64,
        seed=seed,
        every=max(1, steps // 20),
        differentiates=True,
    )
    return float(np.mean(found[-5:]))


def _mini_rival(name: str, rate: float, problem: Regression, scale: _Scale, seed: int) -> float:
    every = max(1, scale.gradients // 20)
    found = descend(problem, _maker(name, rate), scale.gradients, batch=64, seed=seed, every=every)
    return float(np.mean(found[-5:]))


def measure(context: Context) -> Measured:
    """Tune the rivals per data set and scaling on one draw of rows; score all on others."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"errors": {}, "curves": {}, "rates": {}}
    edges = 0
    every = scale.gradients
    for name in scale.sets:
        for kind in _REACH:
            key = f"{name}_{kind}"
            rates: dict[str, float] = {}
            tuning = _problem(name, scale, kind, context.tuning_seed)
            for rival in _RIVALS:
                context.say(f"{name}, {kind}: tuning {rival}")
                scores = {
                    rate: descend(tuning, _maker(rival, rate), scale.gradients, every=every)[-1]
                    for rate in half_decades(_first_rate(rival), scale.rates)
                }
                rates[rival], at_edge = best_of(scores)
                edges += at_edge
            errors: dict[str, list[float]] = {side: [] for side in ("OASIS", "AdGD", *_RIVALS)}
            spread: list[list[float]] = []
            for seed in seeds:
                context.say(f"{name}, {kind}: seed {seed}")
                problem = _problem(name, scale, kind, seed)
                best = problem.optimum()
                start = float(problem.loss(torch.zeros_like(problem.design[0])))
                ours = _full(problem, scale, seed=seed)
                curves = {"OASIS": ours}
                curves |= {r: descend(problem, _maker(r, rates[r]), scale.gradients, every=COST) for r in _RIVALS}
                curves["AdGD"] = _adgd(problem, scale.gradients)
                for side, curve in curves.items():
                    errors[side].append(_error(curve[-1], start, best))
                if seed == seeds[0] and kind != "wild":
                    series["curves"][key] = {
                        side: [_error(v, start, best) for v in curve] for side, curve in curves.items()
                    }
                if kind == "raw":
                    spread.append([_error(_full(problem, scale, f, seed)[-1], start, best) for f in FIRST_STEPS])
            series["errors"][key], series["rates"][key] = errors, rates
            winner = min(_RIVALS, key=lambda r: float(np.mean(errors[r])))
            gaps = [a - b for a, b in zip(errors["OASIS"], errors[winner], strict=True)]
            figures |= interval(gaps).figures(f"{key}_log10_error_over_best_rival")
            figures |= {f"{key}_log10_error_{side.lower()}": float(np.mean(v)) for side, v in errors.items()}
            if spread:
                means = np.mean(spread, axis=0)
                figures[f"{name}_decades_over_initial_steps"] = float(np.ptp(means))
        rates = {}
        tuning = _problem(name, scale, "raw", context.tuning_seed)
        for rival in ("SGD", "Adam"):
            context.say(f"{name}, mini-batches: tuning {rival}")
            low = -4.0 if rival == "Adam" else -3.0
            scores = {
                rate: _mini_rival(rival, rate, tuning, scale, context.tuning_seed)
                for rate in half_decades(low, min(11, scale.rates))
            }
            rates[rival], at_edge = best_of(scores)
            edges += at_edge
        errors = {side: [] for side in ("OASIS", "SGD", "Adam")}
        for seed in seeds:
            context.say(f"{name}, mini-batches: seed {seed}")
            problem = _problem(name, scale, "raw", seed)
            best = problem.optimum()
            start = float(problem.loss(torch.zeros_like(problem.design[0])))
            errors["OASIS"].append(_error(_mini(problem, scale, seed), start, best))
            for rival in ("SGD", "Adam"):
                errors[rival].append(_error(_mini_rival(rival, rates[rival], problem, scale, seed), start, best))
        series["errors"][f"{name}_mini"], series["rates"][f"{name}_mini"] = errors, rates
        winner = min(("SGD", "Adam"), key=lambda r: float(np.mean(errors[r])))
        gaps = [a - b for a, b in zip(errors["OASIS"], errors[winner], strict=True)]
        figures |= interval(gaps).figures(f"{name}_mini_log10_error_over_best_rival")
        figures |= {f"{name}_mini_log10_error_{side.lower()}": float(np.mean(v)) for side, v in errors.items()}
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "gradients per run": scale.gradients,
        "learning rates tried per rival": f"{scale.rates}, with mini-batches {min(11, scale.rates)}",
        "settings tried of OASIS": 1,
        "rows at most": scale.rows,
    }
    return Measured(figures, series, seeds, budgets)


def _adgd(problem: Regression, gradients: int) -> list[float]:
    """Malitsky and Mishchenko's method, which has no learning rate either."""

    class Unit(OASIS):
        """OASIS with a curvature of one, at the cost of a gradient per step."""

        wants_estimate = False  # type: ignore[assignment]

        def backward(self, loss: Any) -> None:
            super().backward(loss)
            self.observe([torch.ones_like(p) for group in self.param_groups for p in group["params"]])

    return descend(
        problem, lambda x: Unit([x], exact=False, truncation=1.0), gradients, every=COST, differentiates=True
    )


RULE = f"""\
Errors are F(x) - min F, relative to that of the start, after equally many gradients; a Hessian-vector product counts as
two, so a step of OASIS counts as {COST} (with mini-batches {MINI_BATCH_COST}). The best rival is the tuned one with the
smaller mean error. Intervals are of paired differences of log10 of the error.

1. Full gradients, features as they are: OASIS' error is at most twice the best rival's (the interval lies below
   {EQUAL:.2f}), on two of the three data sets.
2. Full gradients, columns times e^U(-3, 3): it is smaller (the interval lies below 0), on two of the three.
3. The mean error varies by at most {SPREAD:g} decades over initial steps of {", ".join(f"{f:g}" for f in FIRST_STEPS)},
   on all.
4. Mini-batches of 64, features as they are: at most twice the best rival's, on two of the three.

- **reproduced**: all four. **partly**: 2 or more of 1, 2 and 4. **not reproduced**: fewer.
- **inconclusive**: fewer than {ENOUGH} seeds.

Columns times 10^U(-4, 4), and AdGD, are measured and not judged."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    names = [
        k.removesuffix("_decades_over_initial_steps") for k in figures if k.endswith("_decades_over_initial_steps")
    ]

    def count(kind: str, limit: float) -> int:
        return sum(figures[f"{n}_{kind}_log10_error_over_best_rival_high"] < limit for n in names)

    raw, scaled, mini = count("raw", EQUAL), count("scaled", 0.0), count("mini", EQUAL)
    worst = max(figures[f"{n}_decades_over_initial_steps"] for n in names)
    holds = [raw >= 2, scaled >= 2, worst <= SPREAD, mini >= 2]

    def told(kind: str) -> str:
        return ", ".join(f"{figures[f'{n}_{kind}_log10_error_over_best_rival']:+.2f}" for n in names)

    said = parts(
        holds,
        f"log10 of OASIS' error over that of the best tuned rival ({', '.join(names)}): {told('raw')} with features as "
        f"they are, {told('scaled')} with columns times e^U(-3, 3), {told('wild')} with columns times 10^U(-4, 4), "
        f"{told('mini')} with mini-batches. Over initial steps the error varies by {worst:.2f} decades at most.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    enough = sum((holds[0], holds[1], holds[3])) >= 2
    return Judgement(Verdict.PARTLY if enough else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The error over gradients, a panel per data set and scaling."""
    keys = list(series["curves"])
    figure, axes = canvas(columns=2, rows=max(1, len(keys) // 2), height=2.7)
    order = ("OASIS", "GD", "Adam", "AdGD")
    for panel, key in zip(axes, keys, strict=False):
        name, _, kind = key.rpartition("_")
        for index, side in enumerate(order):
            curve = series["curves"][key][side]
            gradients = [COST * k for k in range(len(curve))]
            panel.plot(
                gradients,
                [10.0**v for v in curve],
                color=COLOURS[index],
                marker=MARKERS[index],
                markevery=max(1, len(curve) // 8),
                markersize=4,
                label=f"{side}, tuned" if side in _RIVALS else side,
            )
        panel.set_yscale("log")
        panel.set_title(f"{name}, {'features as they are' if kind == 'raw' else 'columns times e^U(-3, 3)'}")
        panel.set_ylabel("relative error")
        panel.set_xlabel("gradients")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


CLAIM = Claim(
    method="oasis",
    title="OASIS",
    statement=card("oasis").claim,
    paper=card("oasis").papers[0],
    test="""\
Logistic regression with l2 regularization of 1/n, from zero, in float64, on random rows of three data sets; every seed
is another draw of rows, and of scales where the columns are multiplied by some. OASIS runs with its defaults. Gradient
descent and Adam choose among 23 learning rates in steps of the root of 10 (from 1e-9 and 1e-6), for every data set and
scaling anew, on a draw that is not scored. With mini-batches OASIS evaluates both gradients on the same mini-batch; SGD
and Adam choose among 11 rates (from 1e-3 and 1e-4), and the loss of all rows is averaged over the last quarter of the
run; no side has a schedule. The paper's data sets are larger (ijcnn1, rcv1, news20, covtype, real-sim), and it trains
networks besides.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "100 rows of scikit-learn's breast_cancer, one seed; seconds; always inconclusive",
        Size.LAPTOP: "breast_cancer, and 1000 rows of a8a and w8a; 600 gradients, 5 seeds; minutes",
        Size.FULL: "all rows, 3000 gradients, 10 seeds; hours",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
