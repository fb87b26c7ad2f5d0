"""Stochastic model-based minimization: do prox-linear and proximal point models widen the window of good step sizes?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from steepest.catalogue import card
from steepest.solve.convex import BlindDeconvolution, ModelBased, PhaseRetrieval
from steepest.solve.convex.model_steps import Model, ProxLinear, ProxPoint, Subgradient
from steepest.solve.convex.sgd_steps import Constant

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The objective that a run has to reach; its least value is 0.
TARGET = 1e-4
#: A step size is good where it needs at most this many times the epochs of the method's best.
GOOD = 2.0
#: How many decades wider the windows of the prox models must be: ten times.
WIDER = 1.0
#: How many times the epochs of the subgradient method their best may take.
AS_FAST = 2.0
_PROBLEMS = {"phase": "phase retrieval", "blind": "blind deconvolution"}
_MODELS: dict[str, Model] = {
    "subgradient": Subgradient(),
    "prox_linear": ProxLinear(),
    "prox_point": ProxPoint(repeats=20, tolerance=1e-6),
}
_NAMES = {"subgradient": "subgradient", "prox_linear": "prox-linear", "prox_point": "proximal point"}


@dataclass(frozen=True)
class _Scale:
    seeds: int
    variables: int
    samples: int
    epochs: int
    steps: tuple[float, ...]


def _steps(low: int, high: int, per_decade: int) -> tuple[float, ...]:
    return tuple(10 ** (k / per_decade) for k in range(low * per_decade, high * per_decade + 1))


_SCALES = {
    Size.SMOKE: _Scale(1, 4, 12, 3, (0.01, 1.0)),
    Size.LAPTOP: _Scale(6, 10, 30, 100, _steps(-4, 1, 2)),
    Size.FULL: _Scale(15, 100, 300, 100, _steps(-4, 1, 4)),
}


def _instance(problem: str, d: int, n: int, seed: int) -> tuple[Any, torch.Tensor]:
    """A problem without noise and a start: truth and start are uniform on the unit sphere (of each factor)."""
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def sphere() -> torch.Tensor:
        x = gaussian(d)
        return x / x.norm()

    made: Any
    if problem == "phase":
        vectors, truth, start = gaussian(n, d), sphere(), sphere()
        made = PhaseRetrieval(vectors, (vectors @ truth).square())
    else:
        left, right, start = gaussian(n, d), gaussian(n, d), torch.cat([sphere(), sphere()])
        made = BlindDeconvolution(left, right, (left @ sphere()) * (right @ sphere()))
    return made, start


def _epochs(model: Model, step_size: float, problem: Any, start: torch.Tensor, most: int, seed: int) -> int:
    """Epochs to the target; ``most`` where it is not reached."""
    solver = ModelBased(model=model, step_rule=Constant(step_size))
    with torch.no_grad():
        state = solver.init(problem, start, torch.Generator().manual_seed(seed))
        for epoch in range(1, most + 1):
            state = solver.step(problem, state)
            value = float(problem.value(state.point))
            if value <= TARGET:
                return epoch
            if not math.isfinite(value):
                break
    return most


def window(epochs: Sequence[float], steps: Sequence[float], most: int) -> float:
    """Decades of neighbouring good step sizes around the best, one grid spacing counted for the ends; 0 where none
    reaches the target in the mean."""
    best = int(np.argmin(epochs))
    if epochs[best] >= most:
        return 0.0
    good = [e <= GOOD * epochs[best] and e < most for e in epochs]
    low = high = best
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(steps) and good[high + 1]:
        high += 1
    return math.log10(steps[high] / steps[low]) + math.log10(steps[1] / steps[0])


def _bounds(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def measure(context: Context) -> Measured:
    """All models at all step sizes on both problems."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"steps": list(scale.steps), "most": scale.epochs, "epochs": {}}
    chosen = np.random.default_rng(context.seed).integers(len(seeds), size=(2000, len(seeds)))
    for problem, said in _PROBLEMS.items():
        table = {}
        for name, model in _MODELS.items():
            context.say(f"{said}, {_NAMES[name]}")
            rows = []
            for seed in seeds:
                made, start = _instance(problem, scale.variables, scale.samples, seed)
                rows.append([_epochs(model, s, made, start, scale.epochs, seed) for s in scale.steps])
            table[name] = np.array(rows, dtype=float)
        series["epochs"][problem] = {name: rows.mean(0).tolist() for name, rows in table.items()}
        widths = {n: window(rows.mean(0).tolist(), scale.steps, scale.epochs) for n, rows in table.items()}
        # Problems are drawn anew, the same for all models.
        drawn = {
            n: np.array([window(rows[c].mean(0).tolist(), scale.steps, scale.epochs) for c in chosen])
            for n, rows in table.items()
        }
        fastest = {n: np.array([rows[c].mean(0).min() for c in chosen]) for n, rows in table.items()}
        for name, rows in table.items():
            figures[f"window_decades_{problem}_{name}"] = widths[name]
            figures[f"best_epochs_{problem}_{name}"] = float(rows.mean(0).min())
        for name in ("prox_linear", "prox_point"):
            key = f"decades_wider_{problem}_{name}"
            figures[key] = widths[name] - widths["subgradient"]
            figures[f"{key}_low"], figures[f"{key}_high"] = _bounds(drawn[name] - drawn["subgradient"])
            key = f"epochs_ratio_{problem}_{name}"
            figures[key] = float(table[name].mean(0).min() / table["subgradient"].mean(0).min())
            figures[f"{key}_low"], figures[f"{key}_high"] = _bounds(fastest[name] / fastest["subgradient"])
    budgets = {
        "step sizes per model": len(scale.steps),
        "epochs per run, at most": scale.epochs,
        "variables": scale.variables,
        "samples": scale.samples,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
A run has arrived when the objective is at most {TARGET:g}; one that does not counts as the most epochs. A step size is
good where its mean epochs are at most {GOOD:g} times those of the method's own best; the window is the run of good step
sizes around that best. Intervals are 95 %, over problems drawn anew. For prox-linear and proximal point, on phase
retrieval and on blind deconvolution:

1. the window is at least {WIDER:g} decade wider than that of the subgradient method (lower end of the interval);
2. at their best they take at most {AS_FAST:g} times the epochs of the subgradient method at its best (upper end).

- **reproduced**: both. **partly**: one of them. **not reproduced**: neither.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    keys = [f"{problem}_{name}" for problem in _PROBLEMS for name in ("prox_linear", "prox_point")]
    holds = [
        all(figures[f"decades_wider_{key}_low"] >= WIDER for key in keys),
        all(figures[f"epochs_ratio_{key}_high"] <= AS_FAST for key in keys),
    ]

    def said(problem: str) -> str:
        widths = [f"{figures[f'window_decades_{problem}_{name}']:.1f} ({_NAMES[name]})" for name in _MODELS]
        epochs = [f"{figures[f'best_epochs_{problem}_{name}']:.1f}" for name in _MODELS]
        return (
            f"On {_PROBLEMS[problem]} good step sizes span {', '.join(widths[:2])} and {widths[2]} decades, "
            f"and the best take {', '.join(epochs[:2])} and {epochs[2]} epochs"
        )

    told = parts(holds, f"{said('phase')}. {said('blind')}.")
    if all(holds):
        return Judgement(Verdict.REPRODUCED, told)
    return Judgement(Verdict.PARTLY if any(holds) else Verdict.NOT_REPRODUCED, told)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Epochs over step sizes."""
    figure, axes = canvas()
    for place, (problem, said) in zip(axes, _PROBLEMS.items(), strict=True):
        for index, name in enumerate(("prox_linear", "prox_point", "subgradient")):
            epochs = series["epochs"][problem][name]
            style = {"color": COLOURS[index], "marker": MARKERS[index], "label": _NAMES[name]}
            place.plot(series["steps"], epochs, alpha=0.85, **style)
        place.axhline(series["most"], color="k", linestyle=":", linewidth=1)
        place.set_xscale("log")
        place.set_ylim(0, 1.06 * series["most"])
        place.set_xlabel("step size")
        place.set_ylabel(f"epochs to {TARGET:g} (dotted: all)")
        place.set_title(said.capitalize())
    axes[0].legend()
    return figure


CLAIM = Claim(
    method="model-based",
    title=card("model-based").title,
    statement=card("model-based").claim,
    paper=card("model-based").papers[0],
    test="""\
Phase retrieval and blind deconvolution without noise, with Gaussian vectors, three samples per variable, and truth and
start uniform on the unit sphere, as in the paper. Each of the three models runs with every constant step size of one
grid, one sample at a time, until the objective is small or the epochs are used up. An epoch is one pass over the
samples for all; the proximal point of blind deconvolution is found by repeated prox-linear steps on the same sample,
which are not counted as further epochs.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one seed, four variables, two step sizes; seconds; always inconclusive",
        Size.LAPTOP: "6 seeds, 10 variables and 30 samples, 11 step sizes; minutes",
        Size.FULL: "the paper's largest: 15 seeds, 100 variables and 300 samples, 21 step sizes; hours",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
