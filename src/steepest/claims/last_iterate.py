"""The last iterate of stochastic subgradient methods: the logarithm in the worst case, and rates with noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steepest.analyze import WorstCase, last_iterate_bound, step_sizes
from steepest.catalogue import card

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

Array = npt.NDArray[np.float64]

#: Slope of sqrt(T) f(x_T) over log T in the worst case: proved from below for 1/sqrt(t), and allowed for linear decay.
PROVED, FLAT = 1 / 32, 1e-3
#: How much a slope in the double logarithm may lie above the proved one.
SLACK = 0.1
#: Degrees of freedom of Student's noise, whose moments below that order exist, and the moment that step sizes use.
FREEDOM, POWER = 1.5, 1.4
RULES = ("linear", "1/sqrt(t)", "constant")
_ROWS, _SIZE, _WEIGHT = 50, 20, 0.02
_SCALES_TRIED = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class _Scale:
    seeds: int
    runs: int
    steps: tuple[int, ...]
    worst: tuple[int, ...]


_SCALES = {
    Size.SMOKE: _Scale(1, 10, (30, 100), (50, 100)),
    Size.LAPTOP: _Scale(10, 60, (100, 316, 1000, 3162, 10_000), (200, 800, 3200, 12_800)),
    Size.FULL: _Scale(20, 500, (100, 1000, 10_000, 100_000), (200, 800, 3200, 12_800, 51_200)),
}


@dataclass(frozen=True)
class Sharp:
    """``mean |A x - b| + weight |x|_1`` in all of R^d, with its minimum by linear programming."""

    design: Array
    target: Array
    weight: float
    minimum: float
    distance: float

    @classmethod
    def draw(cls, seed: int, weight: float) -> "Sharp":
        from scipy.optimize import linprog

        rng = np.random.default_rng(seed)
        design = rng.normal(size=(_ROWS, _SIZE)) / math.sqrt(_SIZE)
        target = design @ rng.normal(size=_SIZE) + 0.3 * rng.laplace(size=_ROWS)
        # x = p - q with p, q >= 0, and residuals below s.
        costs = np.concatenate([np.full(2 * _SIZE, weight), np.full(_ROWS, 1 / _ROWS)])
        eye = np.eye(_ROWS)
        above = np.block([[design, -design, -eye], [-design, design, -eye]])
        found = linprog(costs, A_ub=above, b_ub=np.concatenate([target, -target]), method="highs")
        solution = found.x[:_SIZE] - found.x[_SIZE : 2 * _SIZE]
        return cls(design, target, weight, float(found.fun), float(np.linalg.norm(solution)))

    @property
    def lipschitz(self) -> float:
        """A bound on the subgradients of the first term."""
        return float(np.linalg.norm(self.design, axis=1).mean())

    def value(self, x: Array) -> Array:
        return np.asarray(np.abs(x @ self.design.T - self.target).mean(-1) + self.weight * np.abs(x).sum(-1))

    def slope(self, x: Array) -> Array:
        return np.asarray(np.sign(x @ self.design.T - self.target) @ self.design / _ROWS)


@dataclass(frozen=True)
class Strong:
    """``|x - target|^2 / 2 + weight |x|_1``."""

    target: Array
    weight: float = _WEIGHT

    @property
    def minimum(self) -> float:
        best = np.sign(self.target) * np.maximum(np.abs(self.target) - self.weight, 0)
        return float(self.value(best))

    def value(self, x: Array) -> Array:
        return np.asarray(0.5 * ((x - self.target) ** 2).sum(-1) + self.weight * np.abs(x).sum(-1))

    def slope(self, x: Array) -> Array:
        return x - self.target


def run(task: Any, sizes: Array, seed: int, heavy: bool = False) -> Array:
    """Errors of the last iterates of stochastic steps from 0: proximal, or with heavy tails by mirror descent.

    Noise with moments of order p alone asks for a mirror map that grows like |x|^(p / (p - 1)).

    Args:
        task: the problem.
        sizes: step sizes ``(steps, runs)``.
        seed: of the noise, whose deviation is 1 in all coordinates together (Student's has none).
        heavy: Student's noise instead of Gaussian.
    """
    rng = np.random.default_rng(seed)
    x = np.zeros((sizes.shape[1], _SIZE))
    order = POWER / (POWER - 1)
    for eta in sizes[..., None]:
        noise = rng.standard_t(FREEDOM, x.shape) if heavy else rng.standard_normal(x.shape)
        g = task.slope(x) + noise / math.sqrt(_SIZE)
        if heavy:
            dual = x * np.linalg.norm(x, axis=1, keepdims=True) ** (order - 2) - eta * g
            x = dual * np.linalg.norm(dual, axis=1, keepdims=True) ** ((2 - order) / (order - 1))
        else:
            x = x - eta * g
            x = np.sign(x) * np.maximum(np.abs(x) - eta * task.weight, 0)
    return np.asarray(task.value(x) - task.minimum)


def _slope(steps: tuple[int, ...], errors: list[float]) -> float:
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def measure(context: Context) -> Measured:
    """The worst case, then random problems with noise."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"worst": {"steps": list(scale.worst)}, "steps": list(scale.steps), "errors": {}}
    for rule in RULES:
        context.say(f"the worst case, {rule}")
        values = [math.sqrt(n) * WorstCase(n).last_value(step_sizes(rule, n)) for n in scale.worst]
        series["worst"][rule] = values
        figures[f"worst_case_slope_{_key(rule)}"] = float(np.polyfit(np.log(scale.worst), values, 1)[0])

    everybody = [context.tuning_seed, *seeds]
    drawn = {heavy: {s: Sharp.draw(s, 0.0 if heavy else _WEIGHT) for s in everybody} for heavy in (False, True)}
    targets = {seed: np.random.default_rng(seed).normal(size=_SIZE) for seed in seeds}
    cases = [(rule, rule, False, 2.0) for rule in RULES] + [("heavy-tailed", "heavy-tailed", True, POWER)]
    violations, last = 0, {}
    for name, rule, heavy, power in cases:
        means: dict[int, list[float]] = {seed: [] for seed in seeds}
        tails: dict[int, list[float]] = {seed: [] for seed in seeds}
        for steps in scale.steps:
            context.say(f"{name}, {steps} steps")
            columns = [step_sizes(rule, steps, s, power=power) for s in _SCALES_TRIED for _ in range(scale.runs)]
            found = run(drawn[heavy][context.tuning_seed], np.array(columns).T, context.tuning_seed, heavy)
            best = _SCALES_TRIED[int(found.reshape(len(_SCALES_TRIED), -1).mean(1).argmin())]
            sizes = step_sizes(rule, steps, best, power=power)
            for seed in seeds:
                task = drawn[heavy][seed]
                errors = run(task, np.tile(sizes[:, None], scale.runs), seed, heavy)
                means[seed].append(float(errors.mean()))
                tails[seed].append(float(np.quantile(errors, 0.95)))
                if not heavy:
                    bound = last_iterate_bound(sizes, task.distance, 2 * task.lipschitz, 1.0)
                    violations += means[seed][-1] > bound
        series["errors"][name] = list(means.values())
        figures |= interval([_slope(scale.steps, m) for m in means.values()]).figures(f"slope_{_key(name)}")
        last[name] = [[math.log10(v[seed][-1]) for seed in seeds] for v in (means, tails)]
    figures["measured_above_the_bound"] = violations

    strong: list[list[float]] = []
    for seed in seeds:
        context.say(f"strongly convex, seed {seed}")
        task = Strong(targets[seed])
        strong.append([])
        for steps in scale.steps:
            sizes = step_sizes("1/t", steps, 1.5, smoothness=1.0)
            strong[-1].append(float(run(task, np.tile(sizes[:, None], scale.runs), seed).mean()))
    series["errors"]["strongly convex"] = strong
    figures |= interval([_slope(scale.steps, m) for m in strong]).figures("slope_strongly_convex")
    for place, kind in enumerate(("mean", "tail")):
        against = difference(last["linear"][place], last["1/sqrt(t)"][place])
        assert against is not None
        figures |= against.figures(f"log10_{kind}_linear_over_one_over_root")
    budgets = {
        "scales that each rule chooses from, per number of steps": ", ".join(f"{s:g}" for s in _SCALES_TRIED),
        "runs per problem": scale.runs,
        "steps": ", ".join(map(str, scale.steps)),
    }
    return Measured(figures, series, seeds, budgets)


def _key(rule: str) -> str:
    return {"1/sqrt(t)": "one_over_root", "heavy-tailed": "heavy_tailed"}.get(rule, rule)


#: Figure -> the exponent that is proved.
EXPONENTS = {
    **{f"slope_{_key(rule)}": -0.5 for rule in RULES},
    "slope_strongly_convex": -1.0,
    "slope_heavy_tailed": 1 / POWER - 1,
}

RULE = f"""\
Four parts:

1. in the worst case of Harvey et al. the error times the root of the number T of steps grows with log T by a slope of
   at least 1/32 (which is proved) with steps 1/sqrt(t) and with constant steps, and of at most {FLAT:g} with linear
   decay;
2. the mean error is nowhere above the bound (Gaussian noise, every rule, every number of steps);
3. on random problems without a bounded domain the error falls at least as fast as proved: the slope of its logarithm
   over that of T is at most {SLACK:g} above -1/2 for linear decay, 1/sqrt(t) and constant steps, above -1 in the
   strongly convex case, and above 1/p - 1 = {1 / POWER - 1:.2f} with Student's noise, all by the upper ends of 95 %
   intervals;
4. at the largest T linear decay has the smaller error than 1/sqrt(t), in the mean and in the 95 % quantile over runs:
   the mean over problems of log10 of the ratio is below 0 by its 95 % interval.

- **reproduced**: all four. **partly**: parts 1 and 2, but not both of 3 and 4. **not reproduced**: part 1 or 2 fails.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])

    def below(name: str, level: float) -> bool:
        high = figures[f"{name}_high"]
        return high is not None and high < level

    slopes = [figures[f"worst_case_slope_{_key(rule)}"] for rule in RULES]
    holds = [
        slopes[0] <= FLAT and min(slopes[1:]) >= PROVED,
        figures["measured_above_the_bound"] == 0,
        all(below(name, exponent + SLACK) for name, exponent in EXPONENTS.items()),
        below("log10_mean_linear_over_one_over_root", 0) and below("log10_tail_linear_over_one_over_root", 0),
    ]
    ratios = [10 ** figures[f"log10_{kind}_linear_over_one_over_root"] for kind in ("mean", "tail")]
    said = (
        f"In the worst case the scaled error grows by {slopes[1]:.3f} log T with 1/sqrt(t), {slopes[2]:.3f} log T with "
        f"constant steps and {slopes[0]:.4f} log T with linear decay; on random problems it falls as "
        f"T^{figures['slope_linear']:.2f} (linear), T^{figures['slope_one_over_root']:.2f} (1/sqrt(t)), "
        f"T^{figures['slope_strongly_convex']:.2f} (strongly convex) and T^{figures['slope_heavy_tailed']:.2f} (heavy "
        f"tails); linear decay ends with {ratios[0]:.2f} times the mean error of 1/sqrt(t) and {ratios[1]:.2f} times "
        f"its 95 % quantile."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] and holds[1] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The worst case, and errors over the number of steps."""
    figure, (worst, errors) = canvas()
    for index, rule in enumerate(RULES):
        values = series["worst"][rule]
        worst.plot(series["worst"]["steps"], values, color=COLOURS[index], marker=MARKERS[index], label=rule)
    worst.set_xscale("log")
    worst.set_ylim(bottom=0)
    worst.set_xlabel("steps T")
    worst.set_ylabel(r"$\sqrt{T}\,(f(x_T) - f^*)$")
    worst.set_title("Worst case")
    worst.legend()
    for index, (name, curves) in enumerate(series["errors"].items()):
        middle = np.exp(np.log(np.array(curves)).mean(0))
        errors.plot(series["steps"], middle, color=COLOURS[index], marker=MARKERS[index], label=name)
    errors.set_xscale("log")
    errors.set_yscale("log")
    errors.set_xlabel("steps T")
    errors.set_ylabel("error of the last iterate")
    errors.set_title("Random problems with noise (tuned)")
    errors.legend(fontsize=8)
    return figure


CLAIM = Claim(
    method="last-iterate",
    title="Last iterate of stochastic gradient methods",
    statement=card("last-iterate").claim,
    paper=card("last-iterate").papers[0],
    test=f"""\
The worst case is deterministic, with step sizes of scale 1. The random problems are regressions by the mean absolute
residual with an l1 penalty ({_ROWS} rows, {_SIZE} unknowns, any point allowed), started at 0, with proximal steps and
noise added to the subgradient: Gaussian, or Student's with {FREEDOM:g} degrees of freedom, whose variance is infinite.
For the latter there is no penalty, steps are t^(-1/p) with p = {POWER:g}, and the mirror map is |x|^q / q with
q = p / (p - 1). Per number of steps every rule chooses its scale from the same ones on a problem
that is not scored. The strongly convex case is a quadratic with an l1 penalty and steps 1.5/t. Minima come from a
linear program, or in closed form.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one problem, 10 runs of up to 100 steps; seconds; always inconclusive",
        Size.LAPTOP: "10 problems, 60 runs of up to 10,000 steps each; minutes",
        Size.FULL: "20 problems, 500 runs of up to 100,000 steps each; hours",
    },
    measure=measure,
    judge=judge,
    draw=draw,
    seen="In a first run the steps with heavy tails were Euclidean, for which the rate is not proved, and their error "
    "fell as T^-0.03: part 3 failed by it alone. They were replaced by the mirror descent that the rate is proved for; "
    "the rule and everything else stayed as they were.",
)
