"""The induced metric against SGD, SGD with clipped gradients and Adam: on functions of two variables and on digits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from steepest.catalogue import card
from steepest.core.card import MethodCard
from steepest.optim import InducedMetric, InducedMetricLog, InducedMetricRMS

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Interval, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "FUNCTIONS", "ClippedSGD", "find"]

#: How near to the least value counts as there; how much worse than Adam, in points, still competes.
NEAR = 1e-3
COMPETES = 0.5
_SIDES = ("metric", "log", "SGD", "clipped SGD", "Adam")


@dataclass(frozen=True)
class _Scale:
    rates: int
    others: int  # values of the second setting: xi, the clip, Adam's beta2; as many times more rates for SGD
    steps: int  # on functions
    starts: int
    training: int  # steps on digits
    seeds: int
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(1, 1, 20, 5, 10, 1),
    Size.LAPTOP: _Scale(11, 3, 800, 40, 200, 8),
    Size.FULL: _Scale(17, 5, 10_000, 400, 30_000, 20, full=True),
}


# ------------------------------------------------------------------------------------------------ functions


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _himmelblau(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def _ackley(x: Tensor, y: Tensor) -> Tensor:
    around = 20 - 20 * torch.exp(-0.2 * torch.sqrt(0.5 * (x * x + y * y) + 1e-16))
    return around + np.e - torch.exp(0.5 * (torch.cos(2 * np.pi * x) + torch.cos(2 * np.pi * y)))


def _rastrigin(x: Tensor, y: Tensor) -> Tensor:
    return 20 + x * x + y * y - 10 * (torch.cos(2 * np.pi * x) + torch.cos(2 * np.pi * y))


#: Name -> function with the least value 0, and half the width of the square of starts around the origin.
FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "Beale": (_beale, 4.5),
    "Rosenbrock": (_rosenbrock, 2.0),
    "Himmelblau": (_himmelblau, 5.0),
    "Ackley": (_ackley, 5.0),
    "Rastrigin": (_rastrigin, 5.12),
}


def _choices(scale: _Scale) -> dict[str, dict[str, Tensor]]:
    """The settings of every side, as one tensor per setting."""
    middle = scale.rates == 1
    rates = [0.01] if middle else list(np.geomspace(1e-4, 10.0, scale.rates))
    many = rates * scale.others if middle else list(np.geomspace(1e-4, 10.0, scale.rates * scale.others))
    xis = (0.1, 0.01, 1.0, 1e-3, 10.0)[: scale.others]

    def pairs(name: str, values: Sequence[float]) -> dict[str, Tensor]:
        both = torch.tensor([(r, v) for r in rates for v in values], dtype=torch.float64)
        return {"lr": both[:, 0], name: both[:, 1]}

    return {
        "metric": pairs("xi", xis),
        "log": pairs("xi", xis),
        "SGD": {"lr": torch.tensor(many, dtype=torch.float64)},
        "clipped SGD": pairs("norm", [0.5 / xi**0.5 for xi in xis]),  # the metric's longest step, see its docstring
        "Adam": pairs("rms_decay", (0.99, 0.9, 0.999, 0.95, 0.9999)[: scale.others]),
    }


def find(side: str, function: Callable[[Tensor, Tensor], Tensor], starts: Tensor, steps: int, **s: Tensor) -> Tensor:
    """How many steps each run takes to come within :data:`NEAR` of the least value; infinity where it does not.

    All sides are forms of the induced metric (SGD and Adam those with ``xi`` 0) with momentum 0.9 and no smoothing.

    Args:
        side: one of the sides.
        function, starts, steps: what to minimize, from where (shape (runs, 2)), and for how long.
        s: a setting for each run.
    """
    cls = {"Adam": InducedMetricRMS, "log": InducedMetricLog}.get(side, InducedMetric)
    pure = cls.functional(smoothing=0.0)
    taken = {name: value for name, value in s.items() if name != "norm"}
    if "xi" not in s:
        taken["xi"] = torch.zeros(len(starts), dtype=starts.dtype)

    def slope(x: Tensor) -> tuple[Tensor, Tensor]:
        g, value = torch.func.grad_and_value(lambda at: function(at[0], at[1]))(x)
        return g, value

    def advance(x: Tensor, state: Any, settings: Any, norm: Any, count: int) -> tuple[Tensor, Any, Tensor]:
        g, value = slope(x)
        if norm is not None:
            g = g * torch.clamp(norm / torch.linalg.vector_norm(g).clamp_min(1e-300), max=1.0)
        state = {"step": count, **state}
        if count:
            state["shared"] = {"count": count, "average": state["shared"]["average"]}
        values, new = pure.update({"x": x}, {"x": g}, state, loss=value, **settings)
        return values["x"], {"x": new["x"], "shared": {"average": new["shared"]["average"]}}, value

    x = starts
    made = torch.vmap(lambda at: {"x": pure.init({"x": at})["x"], "shared": {"average": at[0] * 0}})(x)
    first = torch.full((len(x),), torch.inf, dtype=x.dtype)
    for count in range(steps + 1):
        x, made, value = torch.vmap(
            lambda at, state, settings, norm, c=count: advance(at, state, settings, norm, c),
            in_dims=(0, 0, 0, None if "norm" not in s else 0),
        )(x, made, taken, s.get("norm"))
        first = torch.where((value < NEAR) & first.isinf(), float(count), first)
    return first


def _functions(context: Context, scale: _Scale, seeds: Sequence[int]) -> tuple[dict[str, Any], dict[str, Any], int]:
    figures: dict[str, float | None] = {}
    shares: dict[str, dict[str, list[float]]] = {side: {} for side in _SIDES}
    edges = 0
    speed: dict[str, list[float]] = {side: [] for side in _SIDES}
    for name, (function, half) in FUNCTIONS.items():

        def starts(seed: int, half: float = half) -> Tensor:
            drawn = torch.rand(scale.starts, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            return half * (2 * drawn - 1)

        for side, settings in _choices(scale).items():
            context.say(f"{name}, {side}")
            count = len(settings["lr"])
            runs = {k: v.repeat_interleave(scale.starts) for k, v in settings.items()}
            tried = find(side, function, starts(context.tuning_seed).repeat(count, 1), scale.steps, **runs)
            found = tried.view(count, scale.starts)
            # The most successes; of equals the fewest steps.
            success = found.isfinite().double().mean(1)
            cost = found.clamp_max(2.0 * scale.steps).mean(1) / (2.0 * scale.steps)
            best = int((success - 1e-3 * cost).argmax())
            edges += count > 1 and float(settings["lr"][best]) in (
                float(settings["lr"].min()),
                float(settings["lr"].max()),
            )
            chosen = {k: v[best].repeat(scale.starts * len(seeds)) for k, v in settings.items()}
            scored = find(side, function, torch.cat([starts(seed) for seed in seeds]), scale.steps, **chosen)
            shares[side][name] = (100 * scored.view(len(seeds), -1).isfinite().double().mean(1)).tolist()
            speed[side] += scored[scored.isfinite()].tolist()
    whole = {side: np.mean(list(by.values()), axis=0).tolist() for side, by in shares.items()}
    for side in _SIDES:
        figures[f"success_{_key(side)}"] = mean(whole[side])
        figures[f"median_steps_of_successes_{_key(side)}"] = float(np.median(speed[side])) if speed[side] else None
    for ours, theirs in (("metric", "SGD"), ("metric", "clipped SGD"), ("metric", "Adam"), ("log", "SGD")):
        gain = difference(whole[ours], whole[theirs])
        assert gain is not None
        figures |= gain.figures(f"success_{_key(ours)}_less_{_key(theirs)}")
    return figures, {side: {n: float(np.mean(v)) for n, v in by.items()} for side, by in shares.items()}, edges


def _key(name: str) -> str:
    return name.lower().replace(" ", "_")


# ------------------------------------------------------------------------------------------------ digits


class ClippedSGD(torch.optim.SGD):
    """``torch.optim.SGD`` on the gradient of all parameters clipped to a norm of ``clip``."""

    def __init__(self, params: Any, clip: float = 1.0, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.clip = clip

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], self.clip)
        return super().step(closure)


class _Clipped(Side):
    def card(self) -> MethodCard:
        return MethodCard(
            name=self.name,
            title=self.name,
            room="optim",
            family="sgd",
            summary="SGD on clipped gradients.",
            target=f"{__name__}:ClippedSGD",
            papers=(),
            settings={"momentum": 0.9, **self.fixed},
        )


def _sides(scale: _Scale) -> dict[str, Side]:
    """The same learning rates for the forms of SGD (a tenth of them where torch's momentum sums), lower for Adam."""
    rates = [0.1] if scale.rates == 1 else [float(r) for r in np.geomspace(3e-3, 30.0, scale.rates)]
    xis = (0.1, 0.01, 1.0, 1e-3, 10.0)[: scale.others]
    lower = [r / 10 for r in rates]
    sides = (
        Side("metric", "induced-metric", grid(lr=rates, xi=xis), {}),
        Side("log", "induced-metric-log", grid(lr=rates, xi=xis), {}),
        Side("SGD", "sgd", grid(lr=lower, momentum=(0.9, 0.0, 0.95, 0.8, 0.99)[: scale.others]), {}),
        _Clipped("clipped SGD", "sgd", grid(lr=lower, clip=[0.5 / xi**0.5 for xi in xis]), {}),
        Side(
            "Adam",
            "adam",
            grid(
                lr=[r / 100 for r in rates],
                betas=[(0.9, b) for b in (0.999, 0.99, 0.9, 0.95, 0.9999)[: scale.others]],
            ),
            {},
        ),
    )
    return {side.name: side for side in sides}


def _digits(context: Context, scale: _Scale, seeds: Sequence[int]) -> tuple[dict[str, Any], dict[str, Any], int]:
    task = handwriting("perceptron", full=scale.full, batch=128 if scale.full else 32)
    figures: dict[str, float | None] = {}
    accuracy: dict[str, list[float | None]] = {}
    edges = 0
    for name, side in _sides(scale).items():
        tuned = tune(context, task, side, scale.training)
        edges += tuned.at_edge
        found = repeat(context, task, side, tuned.settings, seeds, scale.training)
        accuracy[name] = [None if r.test_metric is None else 100 * r.test_metric for r in found]
        figures[f"accuracy_{_key(name)}"] = mean(accuracy[name])
    for ours, theirs in (("metric", "SGD"), ("metric", "clipped SGD"), ("metric", "Adam"), ("log", "SGD")):
        gain = difference(accuracy[ours], accuracy[theirs])
        label = f"accuracy_{_key(ours)}_less_{_key(theirs)}"
        figures |= {label: None} if gain is None else gain.figures(label)
    return figures, accuracy, edges


def measure(context: Context) -> Measured:
    """Functions, then digits."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    on_functions, shares, edges = _functions(context, scale, seeds)
    on_digits, accuracy, more = _digits(context, scale, seeds)
    figures = {"seeds": len(seeds), **on_functions, **on_digits, "winners_at_edge_of_grid": edges + more}
    budgets = {
        "settings tried per side": scale.rates * scale.others,
        "starts per function and seed": scale.starts,
        "steps per start": scale.steps,
        "training steps on digits": scale.training,
    }
    return Measured(figures, {"success": shares, "accuracy": accuracy}, seeds, budgets)


RULE = f"""\
Success: the share of starts from which a value within {NEAR:g} of the least is reached, in points, over five functions;
all differences are paired by seed, and an interval decides.

1. The induced metric succeeds from more starts than SGD (the interval of the difference lies above 0).
2. It succeeds from more starts than SGD with clipped gradients: it is more than a clip.
3. Its test accuracy on digits is higher than SGD's.
4. On digits it competes with Adam: the interval of the difference begins at or above -{COMPETES:g} points.

- **reproduced**: all four. **partly**: 1, or 3 and 4, and neither 1 nor 3 is refuted.
- **not reproduced**: neither 1 nor both of 3 and 4; or the interval of 1 or of 3 lies below 0.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""

_ENDS = ("", "_low", "_high")
_READ = (
    "success_metric_less_sgd",
    "success_metric_less_clipped_sgd",
    "accuracy_metric_less_sgd",
    "accuracy_metric_less_adam",
)


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    if any(figures.get(name + end) is None for name in _READ for end in _ENDS):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    sgd, clipped, digits, adam = (Interval(*(figures[name + end] for end in _ENDS)) for name in _READ)
    assert sgd.low is not None and clipped.low is not None and digits.low is not None and adam.low is not None  # noqa: PT018
    assert sgd.high is not None and digits.high is not None  # noqa: PT018
    holds = [sgd.low > 0, clipped.low > 0, digits.low > 0, adam.low >= -COMPETES]
    told = ["{:+.2f} ({:+.2f} to {:+.2f})".format(*(figures[name + end] for end in _ENDS)) for name in _READ]
    said = parts(
        holds,
        f"From {figures['success_metric']:.0f} % of the starts the induced metric finds the minimum, SGD from "
        f"{figures['success_sgd']:.0f} %, clipped SGD from {figures['success_clipped_sgd']:.0f} %, Adam from "
        f"{figures['success_adam']:.0f} %: it differs from SGD by {told[0]} points, from clipped SGD by {told[1]}. Its "
        f"accuracy on digits differs from SGD's by {told[2]} points, from Adam's by {told[3]}.",
    )
    refuted = sgd.high < 0 or digits.high < 0
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if (holds[0] or (holds[2] and holds[3])) and not refuted:
        return Judgement(Verdict.PARTLY, said)
    return Judgement(Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Success by function, and accuracy by side."""
    figure, (left, right) = canvas()
    names = list(FUNCTIONS)
    for index, side in enumerate(_SIDES):
        at = [k + 0.16 * (index - 2) for k in range(len(names))]
        heights = [series["success"][side][name] for name in names]
        left.bar(at, heights, width=0.16, color=COLOURS[index], label=side)
        values = [v for v in series["accuracy"][side] if v is not None]
        right.plot([index] * len(values), values, MARKERS[index], color=COLOURS[index], alpha=0.4)
        if values:
            right.plot([index - 0.3, index + 0.3], [float(np.mean(values))] * 2, color=COLOURS[index], linewidth=2.5)
    left.set_xticks(range(len(names)), names, fontsize=7.5)
    left.set_axisbelow(True)
    left.set_ylabel("starts that find the minimum (%)")
    left.set_ylim(0, 135)
    left.set_yticks(range(0, 101, 20))
    left.set_title("Functions of two variables")
    left.legend(ncols=3, loc="upper left")
    right.set_xticks(range(len(_SIDES)), [side.replace(" ", "\n") for side in _SIDES])
    right.set_ylabel("test accuracy (%)")
    right.set_title("Digits: fresh seeds")
    return figure


CLAIM = Claim(
    method="induced-metric",
    title="Induced metric",
    statement=card("induced-metric").claim,
    paper=card("induced-metric").papers[0],
    test="""\
Five functions of two variables (Beale, Rosenbrock, Himmelblau, Ackley, Rastrigin) are minimized from random starts by
the induced metric, its form for the logarithm, SGD, SGD with the gradient clipped in norm, and Adam, all with momentum
0.9. A setting is chosen for each function and side on one set of starts, from as many settings for all: learning rates
(1e-4 to 10) by values of xi, of the clip (those that allow steps as long as the metric's longest), or of
Adam's second beta; SGD has nothing else to choose and gets a finer grid of rates. It is scored on fresh starts, a set
for each seed. A perceptron is trained on handwritten digits in the same way, scored by test accuracy. """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, few steps; seconds; always inconclusive",
        Size.LAPTOP: "33 settings per side, 8 seeds of 40 starts and 800 steps; scikit-learn's digits, 200 steps; "
        "minutes",
        Size.FULL: "85 settings per side, 20 seeds of 400 starts and 10,000 steps; MNIST, 30,000 steps; a day",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
