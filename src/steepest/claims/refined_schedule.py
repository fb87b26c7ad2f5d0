"""Learning-rate schedules on logistic regressions: linear decay against the usual ones, and refined ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from steepest import data
from steepest.analyze import WorstCase, step_sizes
from steepest.catalogue import card
from steepest.core.adamw import ADAMW, bias_corrections
from steepest.optim.schedules import LinearDecay, refine

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Part of the problems on which linear decay must be among the best, in per cent.
MOST = 80.0
#: The worst case: the error times the root of the steps may grow so much, or must, from the first count to the last.
FLAT, GROWS = 1.05, 1.2
USUAL = ("cosine", "stepwise", "flat", "1/sqrt(t)", "1/t")
SCHEDULES = ("refined", "linear", *USUAL)
_BATCH, _BETAS = 16, (0.9, 0.999)


@dataclass(frozen=True)
class _Scale:
    problems: tuple[str, ...]
    rows: int
    epochs: int
    seeds: int
    rates: tuple[float, ...]
    worst: tuple[int, ...]


_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
_SCALES = {
    Size.SMOKE: _Scale(("wine",), 100, 2, 1, (1e-2, 1e-1), (50, 100)),
    Size.LAPTOP: _Scale(
        ("wine", "breast_cancer", "digits", "a8a", "w8a", "mnist10k"), 1000, 30, 10, _RATES, (200, 800, 3200)
    ),
    Size.FULL: _Scale(
        ("wine", "breast_cancer", "digits", "a8a", "a9a.t", "w8a", "mnist"),
        60_000,
        100,
        10,
        _RATES,
        (200, 3200, 51_200),
    ),
}


@dataclass(frozen=True)
class Problem:
    """Multinomial logistic regression with the ridge penalty of scikit-learn's default, ``|W|^2 / (2 n)``."""

    inputs: Tensor  # with a column of ones
    targets: Tensor
    classes: int
    minimum: float

    @property
    def ridge(self) -> float:
        return 1 / len(self.targets)

    def value(self, weights: Tensor) -> Tensor:
        """The objective of models ``(runs, features, classes)``."""
        logits = (self.inputs @ weights).flatten(0, 1)
        losses = cross_entropy(logits, self.targets.repeat(len(weights)), reduction="none")
        return losses.view(len(weights), -1).mean(1) + 0.5 * self.ridge * weights.square().sum((1, 2))

    def gradient(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Gradients of the objective on batches ``(runs or 1, batch)`` of rows."""
        x, y = self.inputs[rows], self.targets[rows]
        residual = torch.softmax(x @ weights, -1)
        residual = residual - torch.nn.functional.one_hot(y, self.classes).to(residual.dtype)
        return x.mT @ residual / rows.shape[1] + self.ridge * weights


@cache
def problem(name: str, rows: int) -> Problem:
    """The first rows of the training part."""
    from scipy.optimize import minimize

    split = data.load(name).train  # type: ignore[union-attr]
    x = split.inputs[:rows] if split.inputs.layout == torch.strided else split.inputs.to_dense()[:rows]
    x = x.reshape(len(x), -1).float()
    y = split.targets[:rows]
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    classes = int(split.targets.max()) + 1
    exact = Problem(x.double(), y, classes, 0.0)
    everything = torch.arange(len(y))[None]

    def function(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.tensor(flat).view(1, x.shape[1], classes)
        return float(exact.value(weights)), exact.gradient(weights, everything).flatten().numpy()

    start = np.zeros(x.shape[1] * classes)
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(function, start, jac=True, method="L-BFGS-B", options=options)
    return Problem(x, y, classes, float(found.fun))


def factors(name: str, steps: int, norms: Sequence[float] | None = None) -> list[float]:
    """The schedule: parts of the peak, one per step."""
    t = np.arange(steps)
    if name == "refined":
        assert norms is not None
        return refine(norms, order=1).tolist()  # type: ignore[no-any-return]
    if name == "linear":
        schedule = LinearDecay(torch.optim.SGD([torch.zeros(1)], lr=1.0), steps)
        return [schedule.factor(k) for k in range(steps)]
    usual: dict[str, Callable[[], Any]] = {
        "cosine": lambda: 0.5 * (1 + np.cos(math.pi * t / steps)),
        "stepwise": lambda: 0.1 ** np.floor(10 * t / (3 * steps)),  # after 30, 60 and 90 per cent
        "flat": lambda: np.ones(steps),
        "1/sqrt(t)": lambda: (t + 1) ** -0.5,
        "1/t": lambda: 1 / (t + 1),
    }
    return usual[name]().tolist()  # type: ignore[no-any-return]


def train(
    task: Problem, peaks: Tensor, parts_of_peak: Tensor, seeds: Sequence[int], epochs: int
) -> tuple[Tensor, list[float]]:
    """Adam on all runs at once.

    Args:
        task: the problem.
        peaks: one per run.
        parts_of_peak: ``(steps, runs)``.
        seeds: of the batches; one per run, or one for all.
        epochs: passes over the rows.

    Returns:
        The final errors ``f(W) - f*``, and the l1 norms of the first run's gradients.
    """
    weights = torch.zeros(len(peaks), task.inputs.shape[1], task.classes)
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    count = len(task.targets) // _BATCH
    settings: dict[str, Any] = {"beta1": _BETAS[0], "beta2": _BETAS[1], "eps": 1e-8, "weight_decay": 0.0}
    norms = []
    for epoch in range(epochs):
        order = torch.stack([torch.randperm(len(task.targets), generator=draw) for draw in draws])
        for k in range(count):
            step = epoch * count + k
            g = task.gradient(weights, order[:, k * _BATCH : (k + 1) * _BATCH])
            norms.append(float(g[0].abs().sum()))
            lr = (peaks * parts_of_peak[step])[:, None, None]
            weights, first, second = ADAMW.update(
                weights, g, first, second, lr=lr, **settings, **bias_corrections(step + 1, settings)
            )
    return task.value(weights) - task.minimum, norms


def _compare(context: Context, name: str, scale: _Scale) -> dict[str, Any]:
    """Tune every schedule on one seed, and run it on the others."""
    task = problem(name, scale.rows)
    steps = scale.epochs * (len(task.targets) // _BATCH)
    rates = torch.tensor(scale.rates)

    def tuned(names: Sequence[str], norms: Sequence[float] | None = None) -> dict[str, list[float]]:
        columns = torch.tensor([factors(s, steps, norms) for s in names]).T
        errors, _ = train(
            task,
            rates.repeat(len(names)),
            columns.repeat_interleave(len(rates), 1),
            [context.tuning_seed],
            scale.epochs,
        )
        table = errors.nan_to_num(nan=math.inf).view(len(names), -1)
        return {s: table[k].tolist() for k, s in enumerate(names)}

    context.say(f"{name}: tuning")
    tried = tuned(SCHEDULES[1:])
    peaks = {s: scale.rates[int(np.argmin(errors))] for s, errors in tried.items()}
    context.say(f"{name}: the run whose norms refine the schedule")
    linear = torch.tensor(factors("linear", steps))[:, None]
    _, norms = train(task, torch.tensor([peaks["linear"]]), linear, [context.tuning_seed], scale.epochs)
    tried |= tuned(["refined"], norms)
    peaks["refined"] = scale.rates[int(np.argmin(tried["refined"]))]
    errors: dict[str, list[float]] = {}
    seeds = context.seeds(scale.seeds)
    for schedule in SCHEDULES:
        context.say(f"{name}: {schedule}")
        column = torch.tensor(factors(schedule, steps, norms))[:, None].expand(-1, len(seeds))
        found, _ = train(task, torch.full((len(seeds),), peaks[schedule]), column, seeds, scale.epochs)
        errors[schedule] = found.tolist()
    shown = np.unique(np.linspace(0, steps - 1, 200).astype(int))
    return {
        "errors": errors,
        "peaks": peaks,
        "refined": [factors("refined", steps, norms)[k] for k in shown],
    }


def measure(context: Context) -> Measured:
    """All problems, then the worst case."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds), "problems": len(scale.problems)}
    series: dict[str, Any] = {"problems": list(scale.problems), "logs": {}, "refined": {}, "peaks": {}}
    among_the_best, best, gains, edges = 0, 0, [], 0
    for name in scale.problems:
        found = _compare(context, name, scale)
        logs = {s: np.log10(np.maximum(e, 1e-12)).tolist() for s, e in found["errors"].items()}
        series["logs"][name], series["refined"][name], series["peaks"][name] = logs, found["refined"], found["peaks"]
        rival = min(USUAL, key=lambda s: float(np.mean(logs[s])))
        against = difference(logs["linear"], logs[rival])
        assert against is not None
        among_the_best += against.low is not None and against.low <= 0
        best += against.mean <= 0
        key = name.replace(".", "_")
        figures |= against.figures(f"{key}_log10_linear_over_best_other")
        gain = difference(logs["refined"], logs["linear"])
        assert gain is not None
        figures |= gain.figures(f"{key}_log10_refined_over_linear")
        gains.append(gain.mean)
        edges += sum(peak in (scale.rates[0], scale.rates[-1]) for peak in found["peaks"].values())
    figures["percent_of_problems_with_linear_among_the_best"] = 100 * among_the_best / len(scale.problems)
    figures["percent_of_problems_with_linear_best"] = 100 * best / len(scale.problems)
    figures |= interval(gains).figures("log10_refined_over_linear")
    for s in USUAL:
        mean = float(
            np.mean([np.mean(series["logs"][p][s]) - np.mean(series["logs"][p]["linear"]) for p in scale.problems])
        )
        figures[f"log10_{_key(s)}_over_linear"] = mean
    figures["winners_at_edge_of_grid"] = edges

    series["worst"] = {"steps": list(scale.worst)}
    for rule in ("linear", "1/sqrt(t)", "constant"):
        context.say(f"the worst case, {rule}")
        values = [math.sqrt(n) * WorstCase(n).last_value(step_sizes(rule, n)) for n in scale.worst]
        series["worst"][rule] = values
        figures[f"worst_case_growth_{_key(rule)}"] = values[-1] / values[0]
    budgets = {
        "peaks that each schedule chooses from": ", ".join(f"{r:g}" for r in scale.rates),
        "rows at most": scale.rows,
        "epochs": scale.epochs,
        "batch": _BATCH,
        "runs for the norms, once per problem": 1,
    }
    return Measured(figures, series, seeds, budgets)


def _key(schedule: str) -> str:
    return {"1/sqrt(t)": "one_over_root", "1/t": "one_over_t"}.get(schedule, schedule)


RULE = f"""\
Three parts; the error is the training objective of the last iterate less its minimum, compared as log10, pair by pair:

1. on at least {MOST:g} % of the problems linear decay is among the best: the 95 % interval of its difference to the
   best of the other five schedules is not entirely above 0;
2. refining gains: the mean over the problems of the difference between refined and linear is below 0 by its 95 %
   interval;
3. on the worst case of Harvey et al. the error times the root of the number of steps grows at most by the factor
   {FLAT:g} with linear decay, from the smallest to the largest number, and at least by {GROWS:g} with steps 1/sqrt(t)
   and with constant ones.

- **reproduced**: all three. **partly**: part 3 and one of the others. **not reproduced**: any other case.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    high = figures["log10_refined_over_linear_high"]
    share = figures["percent_of_problems_with_linear_among_the_best"]
    holds = [
        share >= MOST,
        high is not None and high < 0,
        figures["worst_case_growth_linear"] <= FLAT
        and min(figures["worst_case_growth_one_over_root"], figures["worst_case_growth_constant"]) >= GROWS,
    ]
    factor = 10 ** figures["log10_refined_over_linear"]
    said = (
        f"Linear decay is among the best on {share:.0f} % of {figures['problems']} problems and the best of the six "
        f"on {figures['percent_of_problems_with_linear_best']:.0f} %; a refined schedule has {factor:.2f} times its "
        f"error; on the worst case the scaled error grows {figures['worst_case_growth_linear']:.2f}-fold with linear "
        f"decay and {figures['worst_case_growth_one_over_root']:.2f}-fold with 1/sqrt(t)."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[2] and any(holds[:2]) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Errors relative to linear decay, the refined schedules, the worst case."""
    figure, (errors, shapes, worst) = canvas(columns=3)
    names = series["problems"]
    for index, schedule in enumerate(s for s in SCHEDULES if s != "linear"):
        values = [np.mean(series["logs"][p][schedule]) - np.mean(series["logs"][p]["linear"]) for p in names]
        errors.plot(
            10 ** np.array(values), range(len(names)), MARKERS[index], color=COLOURS[index], label=schedule, alpha=0.85
        )
    errors.axvline(1, color="#3d444d", linewidth=1)
    errors.set_xscale("log")
    errors.set_yticks(range(len(names)), [n.replace("_", " ") for n in names])
    errors.set_ylim(-0.5, len(names) - 0.5)
    errors.set_xlabel("error / that of linear decay")
    errors.set_title("Last iterate (left is better)")
    figure.legend(*errors.get_legend_handles_labels(), loc="outside lower left", ncols=6, frameon=False, fontsize=9)

    for index, name in enumerate(names):
        curve = series["refined"][name]
        place = np.linspace(0, 1, len(curve))
        shapes.plot(place, curve, color=COLOURS[index % len(COLOURS)], label=name.replace("_", " "), linewidth=1.4)
    shapes.plot([0, 1], [1, 0], color="#3d444d", linestyle=":", label="linear", linewidth=1.4)
    shapes.set_xlabel("part of the run")
    shapes.set_ylabel("part of the peak")
    shapes.set_title("Refined schedules")
    shapes.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, columnspacing=1.0, handlelength=1.2
    )

    for index, rule in enumerate(("linear", "1/sqrt(t)", "constant")):
        worst.plot(
            series["worst"]["steps"],
            series["worst"][rule],
            color=COLOURS[index],
            marker=MARKERS[index],
            label=rule,
        )
    worst.set_xscale("log")
    worst.set_xticks(series["worst"]["steps"], [str(n) for n in series["worst"]["steps"]])
    worst.minorticks_off()
    worst.set_ylim(bottom=0)
    worst.set_xlabel("steps")
    worst.set_ylabel(r"$\sqrt{T}\,(f(x_T) - f^*)$")
    worst.set_title("Worst case")
    worst.legend()
    return figure


CLAIM = Claim(
    method="refined-schedule",
    title="Refined learning-rate schedule",
    statement=card("refined-schedule").claim,
    paper=card("refined-schedule").papers[0],
    test=f"""\
Logistic regressions on tables, web pages, census data and digits (at most 1000 training rows each, with scikit-learn's
default ridge penalty) are trained by Adam with batches of {_BATCH}, as in the paper's convex experiments. Every
schedule chooses its peak from the same learning rates by its final error with one seed for the batches, and is scored
with others. The refined schedule uses the gradients' l1 norms from the tuned run with linear decay. No schedule is
given a warm-up. The minimum is found by L-BFGS. The paper's deep networks are not repeated. The worst case is
deterministic, with step sizes of theory.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one problem, 2 learning rates, 2 epochs, one seed; seconds; always inconclusive",
        Size.LAPTOP: "6 problems, 8 learning rates, 30 epochs, 10 seeds; a few minutes",
        Size.FULL: "7 problems with all rows, 8 learning rates, 100 epochs, 10 seeds; hours",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
