"""Langevin averaging on tensor PCA: the time average finds a direction that no iterate comes near."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steepest.catalogue import card
from steepest.optim.schedules import LangevinAveraging

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, MARKERS, band, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "planted_tensor"]

#: Correlation with the hidden direction that the right average must reach, and that the wrong one must miss.
FOUND, MISSED = 0.8, 0.5
#: An iterate knows nothing where its root-mean-square correlation is below so many times that of a random direction.
BLIND = 2.0
_DRIFT, _PER_DIMENSION = 3.0, 10


@dataclass(frozen=True)
class _Run:
    order: int
    size: int
    time_step: float
    steps: int


@dataclass(frozen=True)
class _Scale:
    seeds: int
    runs: tuple[_Run, ...]


_SCALES = {
    Size.SMOKE: _Scale(1, (_Run(3, 6, 0.01, 50), _Run(4, 4, 0.01, 50))),
    Size.LAPTOP: _Scale(10, (_Run(3, 20, 0.01, 60_000), _Run(3, 30, 0.01, 80_000), _Run(4, 12, 0.02, 80_000))),
    Size.FULL: _Scale(
        10, (_Run(3, 100, 0.002, 20_000_000), _Run(4, 100, 0.002, 100_000_000), _Run(5, 40, 0.002, 100_000_000))
    ),
}


def planted_tensor(order: int, size: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A hidden direction, and the symmetric tensor of its power plus symmetrized noise of deviation 1/sqrt(samples)."""
    from itertools import permutations

    draw = torch.Generator().manual_seed(seed)
    hidden = torch.nn.functional.normalize(torch.randn(size, generator=draw, dtype=torch.float64), dim=0)
    signal = hidden
    for _ in range(order - 1):
        signal = signal[..., None] * hidden
    noise = torch.randn(*[size] * order, generator=draw, dtype=torch.float64) / samples**0.5
    ways = list(permutations(range(order)))
    return hidden, signal + sum(noise.permute(way) for way in ways) / len(ways)


def contract(tensors: Tensor, points: Tensor, times: int) -> Tensor:
    """Tensors ``(seeds, d, ..., d)`` applied to points ``(seeds, d)`` in their last ``times`` arguments."""
    for _ in range(times):
        shape = tensors.shape[:-1]
        tensors = (tensors.reshape(len(points), -1, points.shape[-1]) @ points[..., None]).view(shape)
    return tensors


def partial_trace(tensors: Tensor) -> Tensor:
    """The estimator that averages over the sphere: pairs of arguments summed until a vector or a matrix is left."""
    while tensors.dim() > 3:
        tensors = tensors.diagonal(dim1=-2, dim2=-1).sum(-1)
    if tensors.dim() == 3:
        return torch.linalg.eigh(tensors).eigenvectors[..., -1]
    return torch.nn.functional.normalize(tensors, dim=-1)


def _alike(found: Tensor, hidden: Tensor) -> Tensor:
    return (found * hidden).sum(-1)


def dynamics(kind: _Run, seeds: Sequence[int], context: Context) -> dict[str, Any]:
    """All seeds side by side, one row each."""
    samples = _PER_DIMENSION * kind.size ** math.ceil(kind.order / 2)
    drawn = [planted_tensor(kind.order, kind.size, samples, seed) for seed in seeds]
    hidden, tensors = (torch.stack(parts_) for parts_ in zip(*drawn, strict=True))
    even = kind.order % 2 == 0
    start = torch.stack([torch.randn(kind.size, generator=torch.Generator().manual_seed(10**6 + s)) for s in seeds])
    theta = start.double().requires_grad_()
    base = torch.optim.SGD([theta], lr=kind.time_step * _DRIFT, foreach=False)
    optimizer = LangevinAveraging(base, drift=_DRIFT, second_moment=even, seed=seeds[0])
    looks = set(np.unique(np.geomspace(10, kind.steps, 40).astype(int)).tolist())
    times, averages, iterates, squares = [], [], [], torch.zeros(len(seeds), dtype=torch.float64)
    for step in range(1, kind.steps + 1):
        # The loss is -<T, theta^k>.
        theta.grad = -kind.order * contract(tensors, theta.detach(), kind.order - 1)
        optimizer.step()
        now = _alike(theta.detach(), hidden)
        squares += now.square()
        if step in looks:
            context.say(f"order {kind.order}, {kind.size} dimensions: step {step} of {kind.steps}")
            times.append(step * kind.time_step)
            found = _alike(optimizer.directions()[0], hidden)
            averages.append((found.abs() if even else found).tolist())
            iterates.append(now.abs().tolist())
    first_order = torch.nn.functional.normalize(optimizer.averages()[0], dim=-1)
    climbed = torch.nn.functional.normalize(start.double(), dim=-1)
    for _ in range(500):  # power iteration: what follows the landscape without noise
        climbed = torch.nn.functional.normalize(contract(tensors, climbed, kind.order - 1) + climbed, dim=-1)
    traced = _alike(partial_trace(tensors), hidden)
    return {
        "times": times,
        "averages": np.array(averages).T.tolist(),
        "iterates": np.array(iterates).T.tolist(),
        "first_order": _alike(first_order, hidden).abs().tolist(),
        "rms_over_random": ((squares / kind.steps).sqrt() * kind.size**0.5).tolist(),
        "partial_trace": (traced.abs() if even else traced).tolist(),
        "ascent": _alike(climbed, hidden).abs().tolist(),
    }


def measure(context: Context) -> Measured:
    """Every order and dimension."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {}
    worst: dict[str, list[float | None]] = {"odd": [], "even": [], "missed": [], "blind": []}
    for kind in scale.runs:
        name = f"order_{kind.order}_size_{kind.size}"
        found = series[name] = dynamics(kind, seeds, context)
        last = interval([curve[-1] for curve in found["averages"]])
        first = interval(found["first_order"])
        figures |= last.figures(f"{name}_average") | first.figures(f"{name}_first_order")
        figures[f"{name}_iterate_rms_over_random"] = float(np.mean(found["rms_over_random"]))
        figures[f"{name}_partial_trace"] = float(np.mean(found["partial_trace"]))
        figures[f"{name}_ascent"] = float(np.mean(found["ascent"]))
        worst["blind"].append(figures[f"{name}_iterate_rms_over_random"])
        if kind.order % 2:
            worst["odd"].append(last.low)
        else:
            worst["even"].append(last.low)
            worst["missed"].append(first.high)
    figures["least_odd_average_low"] = _extreme(min, worst["odd"])
    figures["least_even_average_low"] = _extreme(min, worst["even"])
    figures["most_even_first_order_high"] = _extreme(max, worst["missed"])
    figures["most_iterate_rms_over_random"] = _extreme(max, worst["blind"])
    budgets = {
        "samples": f"{_PER_DIMENSION} d^ceil(k/2)",
        "drift": _DRIFT,
        **{f"order {r.order}, {r.size} dimensions: steps of {r.time_step:g}": r.steps for r in scale.runs},
    }
    return Measured(figures, series, seeds, budgets)


def _extreme(choose: Any, values: Sequence[float | None]) -> float | None:
    return None if not values or any(v is None for v in values) else float(choose(values))


RULE = f"""\
Three parts; correlations are with the hidden direction, each stated for all dimensions that are run:

1. for the odd order the direction of the time average is found: the lower end of the 95 % interval of its mean
   correlation is above {FOUND:g};
2. for the even order the top eigenvector of the averaged second moment is found (lower end above {FOUND:g}, sign
   ignored), and the plain average is not (upper end below {MISSED:g});
3. no iterate knows the direction: the root-mean-square correlation over all iterates is below {BLIND:g} times that of a
   random direction.

- **reproduced**: all three. **partly**: part 3 and one of the others. **not reproduced**: any other case.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    odd, even = figures["least_odd_average_low"], figures["least_even_average_low"]
    missed, blind = figures["most_even_first_order_high"], figures["most_iterate_rms_over_random"]
    if None in (odd, even, missed, blind):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no interval.")
    ascents = [f"{value:.2f}" for key, value in figures.items() if key.endswith("_ascent")]
    holds = [odd > FOUND, even > FOUND and missed < MISSED, blind < BLIND]
    said = (
        f"For the odd order the average's correlation is above {odd:.2f} in every dimension by its interval; for the "
        f"even order the second moment's is above {even:.2f} and the plain average's below {missed:.2f}; iterates "
        f"reach at most {blind:.2f} times the correlation of a random direction. Noiseless ascent from the same "
        f"starts, which is not judged, comes to {', '.join(ascents)}."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[2] and any(holds[:2]) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Correlations over time, one panel per order and dimension."""
    figure, axes = canvas(columns=max(2, len(series)))
    for place, (panel, (name, found)) in enumerate(zip(axes, series.items(), strict=False)):
        _, order, _, size = name.split("_")
        even = int(order) % 2 == 0
        band(panel, found["times"], found["averages"], 0, "second moment" if even else "time average")
        band(panel, found["times"], found["iterates"], 1, "iterate (abs.)")
        panel.axhline(np.mean(found["partial_trace"]), color=COLOURS[2], linestyle="--", label="partial trace")
        if even:
            panel.plot(
                found["times"][-1:],
                [np.mean(found["first_order"])],
                MARKERS[3],
                color=COLOURS[3],
                label="plain average (abs.)",
                clip_on=False,
                linestyle="none",
            )
        panel.set_xscale("log")
        panel.set_ylim(-0.5, 1.05)
        panel.set_xlabel("time")
        panel.set_title(f"Order {order}, {size} dimensions")
        if place == 0:
            panel.set_ylabel("correlation with the hidden direction")
        if place in (0, len(series) - 1):
            panel.legend(fontsize=8, loc="lower right")
    return figure


CLAIM = Claim(
    method="langevin-averaging",
    title="Langevin averaging",
    statement=card("langevin-averaging").claim,
    paper=card("langevin-averaging").papers[0],
    test=f"""\
A direction is hidden in a symmetric tensor of order k: its power plus symmetrized Gaussian noise of deviation
1/sqrt(n), with n = {_PER_DIMENSION} d^ceil(k/2) for d dimensions, as in the paper's simulation. The loss is
-<T, theta^k>, the start a random direction, the drift {_DRIFT:g} throughout. Besides the averages, the partial trace
(what averaging tends to) and noiseless ascent from the same start are measured, and not judged. The paper's simulation
has 100 dimensions and orders up to 5.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "6 and 4 dimensions, 50 steps, one seed; seconds; always inconclusive",
        Size.LAPTOP: "order 3 with 20 and 30 dimensions and order 4 with 12, up to 80,000 steps, 10 seeds; minutes",
        Size.FULL: "orders 3 and 4 with 100 dimensions and order 5 with 40, 10 seeds; days",
    },
    measure=measure,
    judge=judge,
    draw=draw,
    seen="One run in 30 dimensions with order 3, made with other code, had been seen before: from it come the drift "
    "and the thresholds of the odd order.",
)
