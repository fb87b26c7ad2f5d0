"""Non-Euclidean trust regions: the theorem's bounds, the rate, and whether momentum belongs before the oracle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steepest.catalogue import card
from steepest.core.lmo import NORMS, dual, lmo, norm
from steepest.optim import ExtrapolatedTrustRegion, NonEuclideanTrustRegion

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, interval, parts, too_few
from .figure import COLOURS, INK, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

_ROWS, _COLUMNS = 6, 8
#: What a slope may lack to -1/4.
SLACK = 0.05
#: ``||x||_F <= c ||x||`` on matrices of that size, which gives the theorem's constants.
_FACTOR = {
    "l2": 1.0,
    "max": (_ROWS * _COLUMNS) ** 0.5,
    "spectral": _ROWS**0.5,
    "nuclear": 1.0,
    "column": _COLUMNS**0.5,
}
#: Standard deviation of the noise, in the Frobenius norm.
_SIGMA = 2.0
_MOMENTUM = 0.95


@dataclass(frozen=True)
class _Scale:
    seeds: int
    lengths: tuple[int, ...]  # steps per run, for bounds and rate
    order: int  # steps per run, for the order of momentum and oracle
    rates: int


_SCALES = {
    Size.SMOKE: _Scale(1, (10, 40), 40, 2),
    Size.LAPTOP: _Scale(16, (100, 316, 1000, 3162, 10_000), 2000, 9),
    Size.FULL: _Scale(200, (100, 316, 1000, 3162, 10_000, 31_623, 100_000), 20_000, 17),
}


@dataclass(frozen=True)
class _Problem:
    """``f(x) = 1/2 sum h_ij (x_ij - target_ij)^2`` from zero, curvatures between 0.1 and 1."""

    curvature: Tensor
    target: Tensor

    def gradient(self, x: Tensor) -> Tensor:
        return self.curvature * (x - self.target)

    @property
    def gap(self) -> float:
        return float(0.5 * (self.curvature * self.target.square()).sum())


def _problem() -> _Problem:
    generator = torch.Generator().manual_seed(0)
    h = torch.logspace(-1, 0, _ROWS * _COLUMNS, dtype=torch.float64)
    h = h[torch.randperm(h.numel(), generator=generator)].reshape(_ROWS, _COLUMNS)
    return _Problem(h, torch.randn(_ROWS, _COLUMNS, generator=generator, dtype=torch.float64))


def _noise(kind: str, seeds: list[int], steps: int) -> Tensor:
    """Mean zero, ``E ||noise||_F^2 = sigma^2``, of shape (steps, seeds, rows, columns).

    ``"skewed"``: entries that are small and negative nine times of ten, and large and positive the tenth.
    """
    shape = (steps, _ROWS, _COLUMNS)
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        if kind == "gaussian":
            drawn.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        else:
            rare = (torch.rand(shape, generator=generator, dtype=torch.float64) < 0.1).double()
            drawn.append((rare - 0.1) / 0.3)
    return torch.stack(drawn, 1) * (_SIGMA / (_ROWS * _COLUMNS) ** 0.5)


def _run(method: str, name: str, noise: Tensor, radius: float, momentum: float, decay: bool = False) -> Tensor:
    """``||grad f||_*`` at the iterate before every step, shape (steps + 1, seeds); all seeds advance together.

    Args:
        method: ``"trust region"``, ``"extrapolated"``, or ``"oracle first"``: momentum of the oracle's answers.
        name: the norm.
        noise: added to the gradients.
        radius: of the region.
        momentum: ``1 - alpha``.
        decay: whether the radius falls to zero, linearly.
    """
    problem = _problem()
    fixed = {"weight_decay": 0.0, "norm": name}
    plain = torch.vmap(lambda x, g, m, lr, w: NonEuclideanTrustRegion.rule(x, g, m, lr=lr, weight=w, **fixed), _SEEDS)
    ahead = torch.vmap(
        lambda x, g, p, m, lr, w: ExtrapolatedTrustRegion.rule(x, g, p, m, lr=lr, weight=w, momentum=momentum, **fixed),
        (0, 0, 0, 0, None, None),
    )
    oracle = torch.vmap(lambda g: lmo(name, g))
    size = torch.vmap(lambda g: dual(name, g))
    steps = len(noise)
    x = torch.zeros(noise.shape[1:], dtype=torch.float64)
    point, average = x, torch.zeros_like(x)
    found = []
    for step in range(steps):
        found.append(size(problem.gradient(point)))
        g = problem.gradient(x) + noise[step]
        weight = 1.0 if step == 0 else 1 - momentum
        lr = radius * (1 - step / steps if decay else 1.0)
        if method == "trust region":
            x, average = plain(x, g, average, lr, weight)
            point = x
        elif method == "extrapolated":
            x, point, average = ahead(x, g, point, average, lr, weight)
        else:
            average = average + weight * (oracle(g) - average)
            x = x + lr * average
            point = x
    found.append(size(problem.gradient(point)))
    return torch.stack(found)


_SEEDS = (0, 0, 0, None, None)


def _bound(name: str, steps: int, radius: float, alpha: float) -> float:
    """The theorem: what the mean of the gradient's dual norm over steps and runs cannot exceed."""
    rho = _FACTOR[name]
    lipschitz = rho**2 * float(_problem().curvature.max())
    noise = rho * _SIGMA
    return (
        _problem().gap / (radius * steps)
        + 2 * noise / (alpha * steps)
        + 2 * alpha**0.5 * noise
        + 1.5 * lipschitz * radius
        + 2 * lipschitz * radius / alpha
    )


def measure(context: Context) -> Measured:
    """Bounds and rates in every norm, then the order of momentum and oracle under two kinds of noise."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"lengths": list(scale.lengths), "measured": {}, "bound": {}, "landscape": {}, "radii": []}
    noise = _noise("gaussian", seeds, max(scale.lengths))
    for name in NORMS:
        distance = float(norm(name, _problem().target))
        measured, bounds = [], []
        for steps in scale.lengths:
            context.say(f"{name}, {steps} steps")
            radius, alpha = distance * steps**-0.75, steps**-0.5
            # The mean over the steps, which the theorem bounds too, and which is larger than the least.
            measured.append(float(_run("trust region", name, noise[:steps], radius, 1 - alpha)[:-1].mean()))
            bounds.append(_bound(name, steps, radius, alpha))
        series["measured"][name], series["bound"][name] = measured, bounds
        figures[f"measured_over_bound_{name}"] = max(a / b for a, b in zip(measured, bounds, strict=True))
        figures[f"slope_{name}"] = float(np.polyfit(np.log(scale.lengths), np.log(measured), 1)[0])
    ahead = []
    for steps in scale.lengths:
        context.say(f"extrapolated, {steps} steps")
        radius = float(norm("spectral", _problem().target)) * steps ** (-5 / 7)
        ahead.append(float(_run("extrapolated", "spectral", noise[:steps], radius, 1 - steps ** (-4 / 7))[:-1].mean()))
    series["measured"]["extrapolated"] = ahead
    figures["slope_spectral_extrapolated"] = float(np.polyfit(np.log(scale.lengths), np.log(ahead), 1)[0])
    figures["largest_measured_over_bound"] = max(float(figures[f"measured_over_bound_{n}"] or 0) for n in NORMS)
    figures["flattest_slope"] = max(float(figures[f"slope_{n}"] or 0) for n in NORMS)

    radii = [float(r) for r in np.geomspace(1e-4, 1.0, scale.rates) * float(norm("spectral", _problem().target))]
    series["radii"] = radii
    edges = 0
    for kind in ("gaussian", "skewed", "none"):
        best: dict[str, list[float]] = {}
        for method in ("trust region", "oracle first"):
            context.say(f"order of momentum and oracle, noise {kind}, {method}")
            # The radius is chosen with noise that is not scored.
            drawn = [_noise(kind if kind != "none" else "gaussian", s, scale.order) for s in (_tuning(context), seeds)]
            drawn = [0 * d if kind == "none" else d for d in drawn]
            ends = [float(_run(method, "spectral", drawn[0], r, _MOMENTUM, decay=True)[-1].mean()) for r in radii]
            chosen = int(np.argmin(ends))
            edges += chosen in (0, len(radii) - 1)
            series["landscape"][f"{kind}, {method}"] = ends
            best[method] = _run(method, "spectral", drawn[1], radii[chosen], _MOMENTUM, decay=True)[-1].tolist()
            figures[f"end_{kind}_{method.replace(' ', '_')}"] = float(np.mean(best[method]))
        ratios = [a / b for a, b in zip(best["trust region"], best["oracle first"], strict=True)]
        figures |= interval(np.log(ratios).tolist()).figures(f"log_ratio_{kind}")
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "matrix": f"{_ROWS} x {_COLUMNS}",
        "steps, for bounds and rates": ", ".join(map(str, scale.lengths)),
        "steps, for the order": scale.order,
        "radii tried per side": len(radii),
    }
    return Measured(figures, series, seeds, budgets)


def _tuning(context: Context) -> list[int]:
    return [context.tuning_seed + 500 + k for k in range(4)]


RULE = f"""\
1. Bounds: in every norm and for every number of steps, the mean of the gradient's dual norm does not exceed the
   theorem's bound.
2. Rate: in every norm, with alpha ~ K^(-1/2) and the radius ~ K^(-3/4), the fitted exponent of that mean in the number
   of steps K is at most {SLACK - 0.25:g}.
3. Order: with the better of equally many radii for each, momentum before the oracle ends at a smaller gradient than the
   oracle before momentum (the interval of the mean logarithm of the paired ratio lies below 0): under Gaussian noise,
   and
4. under skewed noise of the same variance.

- **reproduced**: all four. **partly**: 1 and 2, and one of 3 and 4.
- **not reproduced**: 1 or 2 fails, or the intervals of both ratios lie at or above 0.
- **inconclusive**: fewer than {ENOUGH} seeds, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    gaussian, skewed = (
        [figures[f"log_ratio_{kind}{end}"] for end in ("", "_low", "_high")] for kind in ("gaussian", "skewed")
    )
    holds = [
        figures["largest_measured_over_bound"] <= 1,
        figures["flattest_slope"] <= SLACK - 0.25,
        gaussian[2] < 0,
        skewed[2] < 0,
    ]
    times = ["{:.2f} ({:.2f} to {:.2f})".format(*np.exp(ratio)) for ratio in (gaussian, skewed)]
    said = (
        f"The gradient is at most {100 * figures['largest_measured_over_bound']:.0f} % of its bound; the exponents in "
        f"the number of steps are {figures['flattest_slope']:.2f} or less. With momentum first the run ends at "
        f"{times[0]} times the gradient that it ends at with the oracle first under Gaussian noise, at {times[1]} "
        "times under skewed noise."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if not (holds[0] and holds[1]) or (gaussian[1] >= 0 and skewed[1] >= 0):
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[2] or holds[3] else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Measured gradients with their bounds, and where runs end over the radius for both orders."""
    figure, axes = canvas(columns=3)
    lengths = series["lengths"]
    for index, (name, values) in enumerate(series["measured"].items()):
        if name == "extrapolated":
            axes[0].plot(lengths, values, color=INK, marker="x", linestyle="--", label="spectral, extrapolated")
            continue
        axes[0].plot(lengths, values, color=COLOURS[index], marker=MARKERS[index], label=name)
        axes[0].plot(lengths, series["bound"][name], color=COLOURS[index], linestyle=":", linewidth=1)
    axes[0].set_xscale("log")
    axes[0].set_yscale("log")
    axes[0].set_xlabel("steps of the run")
    axes[0].set_ylabel("gradient, dual norm (dotted: bound)")
    axes[0].set_title("The bounds, by norm")
    axes[0].set_ylim(top=30 * max(max(values) for values in series["bound"].values()))  # room for the legend
    axes[0].legend(fontsize=7.5, ncols=2, loc="upper center")
    for place, kind in ((1, "gaussian"), (2, "skewed")):
        for index, (method, label) in enumerate((("trust region", "momentum first"), ("oracle first", "oracle first"))):
            ends = series["landscape"][f"{kind}, {method}"]
            axes[place].plot(series["radii"], ends, color=COLOURS[index], marker=MARKERS[index], label=label)
        axes[place].set_xscale("log")
        axes[place].set_yscale("log")
        axes[place].set_xlabel("radius at the start")
        axes[place].set_ylabel("gradient at the end")
        axes[place].set_title(f"Order, {kind} noise".replace("gaussian", "Gaussian"))
        axes[place].legend()
        axes[place].set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    for panel in axes:
        panel.yaxis.set_minor_formatter("")
    return figure


CLAIM = Claim(
    method="trust-region",
    title="Non-Euclidean trust region",
    statement=card("trust-region").claim,
    paper=card("trust-region").papers[0],
    test=f"""\
A quadratic of {_ROWS} x {_COLUMNS} variables with curvatures between 0.1 and 1 is minimized from zero with noisy
gradients, for which all constants of the theorem are known. In five norms, runs of several lengths, with the weight of
new gradients and the radius that the theorem advises, are compared with the bound and with each other. For the order of
momentum and oracle, in the spectral norm, both take the best of equally many radii, found with noise that is not
scored, under a radius that falls to zero and momentum {_MOMENTUM}. The skewed noise has independent entries that are
small and negative nine times of ten and large and positive the tenth: its mean is zero, but the mean of the oracle's
answers is not, so that averaging them leads elsewhere.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one seed and few steps; seconds; always inconclusive",
        Size.LAPTOP: "16 seeds, up to 10,000 steps, 9 radii; a few minutes",
        Size.FULL: "200 seeds, up to 100,000 steps, 17 radii; hours on one core",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
