"""Saddle-free Newton on small networks: against damped Newton and gradient descent, and away from a saddle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from steepest import data
from steepest.catalogue import card
from steepest.core.budget import Budget
from steepest.core.oracle import oracle
from steepest.core.problem import SmoothProblem
from steepest.core.stopping import Tolerance
from steepest.solve.convex import KrylovSaddleFreeNewton, SaddleFreeNewton
from steepest.solve.convex.saddle_free_newton import SaddleFreeNewtonState
from steepest.solve.convex.second_order import Spectrum

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, interval, parts, percent, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "DampedNewton", "Network", "gradient_descent"]

#: Half of this times the squared norm of all parameters is added to the loss, so that minimizers exist.
RIDGE = 1e-4
#: A gain of fewer per cent of the objective does not count.
SMALL = 1.0
#: Of three sizes, on how many a part of the rule must hold.
MANY = 2
#: A run has left the saddle when its objective is below this part of the saddle's.
LEFT = 0.9
#: How far from the saddle it begins, per parameter.
NOISE = 1e-3
#: Dimension of the Krylov space.
SUBSPACE = 30
#: Gradient descent's momentum, and the learning rates it is tuned over.
MOMENTUM = 0.9
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
CLASSES = 10


@dataclass(frozen=True)
class _Scale:
    seeds: int
    images: int
    side: int  # pixels
    hidden: tuple[int, int, int]
    steps: int  # of a Newton method; gradient descent has `steps * d` epochs
    tuned: float  # the part of that for tuning
    batch: int
    epochs: int  # at most, to leave the saddle


_SCALES = {
    Size.SMOKE: _Scale(1, 40, 4, (1, 2, 3), 3, 0.3, 20, 20),
    Size.LAPTOP: _Scale(5, 500, 4, (4, 8, 16), 40, 0.5, 250, 1000),
    Size.FULL: _Scale(20, 10_000, 10, (5, 25, 50), 300, 0.1, 100, 20_000),
}


class Network(SmoothProblem):
    """The mean cross-entropy of one hidden layer of tanh units, with a ridge; its Hessian by formulas.

    A point is a vector: the hidden layer's weights, ``(hidden, inputs + 1)`` with the biases in the last column, and
    then the output's, ``(classes, hidden + 1)``.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, hidden: int) -> None:
        super().__init__(self._objective)
        self.inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        self.labels = labels
        self.targets = functional.one_hot(labels, CLASSES).to(inputs.dtype)
        self.hidden = hidden
        self.shapes = (hidden, self.inputs.shape[1]), (CLASSES, hidden + 1)
        self.dimension = sum(math.prod(shape) for shape in self.shapes)
        self._latest: tuple[Tensor, Tensor] | None = None

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both layers' weights; before them ``x`` may have other dimensions."""
        first, second = x.split([math.prod(shape) for shape in self.shapes], -1)
        return first.reshape(*x.shape[:-1], *self.shapes[0]), second.reshape(*x.shape[:-1], *self.shapes[1])

    def start(self, generator: torch.Generator) -> Tensor:
        """Normal weights of standard deviation ``1 / sqrt(fan-in)``."""
        return torch.cat(
            [
                torch.randn(shape, dtype=torch.float64, generator=generator).flatten() / math.sqrt(shape[1])
                for shape in self.shapes
            ]
        )

    def scores(self, x: Tensor) -> Tensor:
        """Before the softmax, ``(images, classes)``."""
        first, second = self.split(x)
        return torch.tanh(self.inputs @ first.mT) @ second[..., :-1].mT + second[..., None, :, -1]

    def errors(self, x: Tensor) -> float:
        """Images that are misclassified, in per cent."""
        return 100 * float((self.scores(x).argmax(-1) != self.labels).double().mean())

    def _objective(self, x: Tensor) -> Tensor:
        return functional.cross_entropy(self.scores(x), self.labels) + 0.5 * RIDGE * x.square().sum()

    def objectives(self, x: Tensor) -> Tensor:
        """The objective of each of several networks, ``(networks,)``."""
        found = torch.log_softmax(self.scores(x), -1)
        chosen = found.gather(-1, self.labels.expand(len(x), -1)[..., None]).squeeze(-1)
        return -chosen.mean(-1) + 0.5 * RIDGE * x.square().sum(-1)

    def slopes(self, x: Tensor, rows: Tensor) -> Tensor:
        """For each of several networks ``(networks, d)`` the gradient over images of its own, ``(networks, batch)``."""
        first, second = self.split(x)
        inputs = self.inputs[rows]
        units = torch.tanh(inputs @ first.mT)
        ahead = torch.softmax(units @ second[..., :-1].mT + second[..., None, :, -1], -1)
        wrong = (ahead - self.targets[rows]) / rows.shape[1]
        outer = torch.cat([wrong.mT @ units, wrong.sum(1)[..., None]], -1)
        inner = ((wrong @ second[..., :-1]) * (1 - units.square())).mT @ inputs
        return torch.cat([inner.flatten(1), outer.flatten(1)], 1) + RIDGE * x

    def _hessian(self, x: Tensor) -> Tensor:
        if self._latest is not None and self._latest[0] is x:
            return self._latest[1]
        first, second = self.split(x)
        n, h, p, c = len(self.inputs), self.hidden, self.inputs.shape[1], CLASSES
        units = torch.tanh(self.inputs @ first.mT)
        slope = 1 - units.square()
        extended = torch.cat([units, units.new_ones(n, 1)], 1)
        ahead = torch.softmax(extended @ second.mT, 1)
        wrong = ahead - self.targets
        curved = torch.diag_embed(ahead) - ahead[:, :, None] * ahead[:, None, :]
        across = curved @ second[:, :-1]  # (n, c, h)
        inner = (second[:, :-1].mT @ across) * slope[:, :, None] * slope[:, None, :]
        inner = inner + torch.diag_embed((wrong @ second[:, :-1]) * -2 * units * slope)
        mixed = across[:, :, None, :] * extended[:, None, :, None] * slope[:, None, None, :]  # (n, c, h + 1, h)
        mixed[:, :, :h] += wrong[:, :, None, None] * torch.diag_embed(slope)[:, None]
        squares = (self.inputs[:, :, None] * self.inputs[:, None, :]).flatten(1)
        units2 = (extended[:, :, None] * extended[:, None, :]).flatten(1)
        top = (inner.flatten(1).mT @ squares).reshape(h, h, p, p).permute(0, 2, 1, 3).reshape(h * p, h * p)
        side = (mixed.flatten(1).mT @ self.inputs).reshape(c * (h + 1), h * p)
        low = (curved.flatten(1).mT @ units2).reshape(c, c, h + 1, h + 1).permute(0, 2, 1, 3)
        low = low.reshape(c * (h + 1), c * (h + 1))
        matrix = torch.cat([torch.cat([top, side.mT], 1), torch.cat([side, low], 1)]) / n
        matrix = 0.5 * (matrix + matrix.mT)
        matrix.diagonal().add_(RIDGE)
        self._latest = (x, matrix)
        return matrix

    @oracle("hessian")
    def hessian(self, x: Tensor) -> Tensor:
        """The Hessian by formulas, which is far quicker than differentiating column by column."""
        return self._hessian(x)

    @oracle("hvp")
    def hvp(self, x: Tensor, direction: Tensor) -> Tensor:
        """The Hessian, which is kept while the point is the same, times a vector."""
        return self._hessian(x) @ direction


class DampedNewton(SaddleFreeNewton):
    """Saddle-free Newton with the Hessian raised until it is positive semidefinite, in place of its absolute value.

    The step is ``-(H + (max(0, -w_1) + damping) I)^-1 g`` with the lowest eigenvalue ``w_1``; all the rest, the search
    for the damping above all, is the same.
    """

    def _best(
        self, problem: SmoothProblem, state: SaddleFreeNewtonState, spectrum: Spectrum, basis: Tensor | None
    ) -> SaddleFreeNewtonState | None:
        raised = spectrum._replace(values=spectrum.values + max(0.0, -float(spectrum.values[0])))
        return super()._best(problem, state, raised, basis)


def gradient_descent(
    network: Network, starts: Tensor, rates: Tensor, epochs: int, batch: int, seeds: list[int], *, decay: bool = True
) -> tuple[Tensor, Tensor]:
    """Several runs of mini-batch gradient descent with momentum at once: where they end, and values on the way.

    Args:
        network: the problem.
        starts: ``(runs, d)``.
        rates: the learning rate of each run; with ``decay`` it falls linearly to zero.
        epochs: passes over the images.
        batch: images per step.
        seeds: of each run's shuffling.
        decay: whether rates fall.

    Returns:
        The points of the least objective among those looked at, and the objectives, ``(looks, runs)``: at about 100
        epochs at even distances; at every epoch without ``decay``.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    n = len(network.inputs)
    x, velocity = starts.clone(), torch.zeros_like(starts)
    best, least = x.clone(), network.objectives(x)
    values = [least.clone()]
    count, done = epochs * (n // batch), 0
    looks = max(1, epochs // 100) if decay else 1
    for epoch in range(1, epochs + 1):
        order = torch.stack([torch.randperm(n, generator=generator) for generator in generators])
        for rows in order.split(batch, 1):
            if rows.shape[1] < batch:
                break
            rate = rates * (1 - done / count) if decay else rates
            velocity.mul_(MOMENTUM).add_(network.slopes(x, rows))
            x = x - rate[:, None] * velocity
            done += 1
        if epoch % looks == 0 or epoch == epochs:
            now = network.objectives(x)
            values.append(now)
            better = now < least
            best, least = torch.where(better[:, None], x, best), torch.where(better, now, least)
    return best, torch.stack(values)


def _newton(
    solver: SaddleFreeNewton | KrylovSaddleFreeNewton,
    network: Network,
    start: Tensor,
    budget: Budget,
    tolerance: Tolerance,
) -> tuple[Tensor, list[float]]:
    """The last point, and the values from the start on."""
    result = solver.run(network, start, budget=budget, tolerance=tolerance, progress=False)
    return result.solution, [value for value in result.trace.value if value is not None]


def saddle(network: Network, generator: torch.Generator) -> Tensor:
    """The best network whose hidden units are all alike, which is a saddle of the networks whose units are not."""
    h, (rows, columns) = network.hidden, network.shapes[0]
    assert rows == h

    def full(x: Tensor) -> Tensor:
        unit, outer, bias = x.split([columns, CLASSES, CLASSES])
        second = torch.cat([(outer / h)[:, None].expand(-1, h), bias[:, None]], 1)
        return torch.cat([unit.expand(h, -1).reshape(-1), second.reshape(-1)])

    alike = SmoothProblem(lambda x: network.function(full(x)))
    start = torch.randn(columns + 2 * CLASSES, dtype=torch.float64, generator=generator) / math.sqrt(columns)
    return full(SaddleFreeNewton().run(alike, start, budget="200steps", tolerance=1e-8, progress=False).solution)


def _problem(scale: _Scale, hidden: int) -> Network:
    if scale.side == 10:
        found = data.mnist10k(validation=0.0, test=0.0, dtype=torch.float64).train
    else:
        found = data.digits(validation=0.0, test=0.0, dtype=torch.float64).train
    width = math.isqrt(found.inputs[0].numel())
    images = found.inputs.reshape(-1, 1, width, width)
    images = functional.adaptive_avg_pool2d(images, scale.side)[: scale.images].flatten(1)
    return Network(images / images.std(), found.targets[: scale.images], hidden)


_SIDES = ("saddle-free Newton", "damped Newton", "gradient descent", "saddle-free Newton, Krylov")
_RIVALS = {"damped_newton": "damped Newton", "gradient_descent": "gradient descent"}


def measure(context: Context) -> Measured:
    """All methods on three sizes of networks from the same starts; then away from a saddle of the middle size."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"hidden": list(scale.hidden), "values": {}, "costs": {}}
    gaps: dict[str, list[list[float]]] = {rival: [] for rival in _RIVALS}
    tuned: dict[str, dict[str, float]] = {}
    edges = 0
    for number, (place, hidden) in enumerate(zip(("small", "middle", "large"), scale.hidden, strict=True)):
        network = _problem(scale, hidden)
        d = network.dimension
        starts = torch.stack([network.start(torch.Generator().manual_seed(seed)) for seed in seeds])
        ends: dict[str, list[Tensor]] = {}
        curves: dict[str, list[list[float]]] = {}
        budgets: dict[str, tuple[SaddleFreeNewton | KrylovSaddleFreeNewton, Budget]] = {
            "saddle-free Newton": (SaddleFreeNewton(), Budget(steps=scale.steps)),
            "damped Newton": (DampedNewton(), Budget(steps=scale.steps)),
            "saddle-free Newton, Krylov": (
                KrylovSaddleFreeNewton(subspace=min(SUBSPACE, d)),
                Budget(steps=max(2 * scale.steps, 1)),
            ),
        }
        for name, (solver, budget) in budgets.items():
            for index, start in enumerate(starts, 1):
                context.say(f"{hidden} hidden units: {name}, start {index} of {len(starts)}")
                end, values = _newton(solver, network, start, budget, Tolerance(stationarity=1e-9))
                ends.setdefault(name, []).append(end)
                curves.setdefault(name, []).append(values)
        epochs = scale.steps * d
        context.say(f"{hidden} hidden units: gradient descent, tuning")
        first = network.start(torch.Generator().manual_seed(context.tuning_seed)).expand(len(RATES), -1)
        rates = torch.tensor(RATES, dtype=torch.float64)
        trials = max(1, round(scale.tuned * epochs))
        _, found = gradient_descent(network, first, rates, trials, scale.batch, [context.tuning_seed] * len(RATES))
        last = found[-1].nan_to_num(torch.inf)
        choice = int(last.argmin())
        edges += choice in (0, len(RATES) - 1)
        tuned[f"gradient descent, {hidden} hidden units"] = {"lr": RATES[choice], "momentum": MOMENTUM}
        context.say(f"{hidden} hidden units: gradient descent")
        points, found = gradient_descent(
            network, starts, rates[choice].expand(len(seeds)), epochs, scale.batch, list(seeds)
        )
        ends["gradient descent"] = list(points)
        curves["gradient descent"] = _finite(found.mT).tolist()
        final = {name: [float(network.value(x)) for x in ends[name]] for name in _SIDES}
        for rival in gaps:
            other = final[_RIVALS[rival]]
            pairs = list(zip(final["saddle-free Newton"], other, strict=True))
            gaps[rival].append([100 * (a / b - 1) for a, b in pairs])
            figures |= percent(f"percent_over_{rival}_{place}", final["saddle-free Newton"], other)
        for name in _SIDES:
            key = _key(name)
            spectra = [torch.linalg.eigvalsh(network._hessian(x)) for x in ends[name]]
            figures[f"objective_{key}_{place}"] = sum(final[name]) / len(seeds)
            figures[f"error_percent_{key}_{place}"] = sum(network.errors(x) for x in ends[name]) / len(seeds)
            figures[f"lowest_eigenvalue_{key}_{place}"] = sum(float(w[0]) for w in spectra) / len(seeds)
        figures[f"dimension_{place}"] = d
        series["values"][place] = curves
        series["costs"][place] = {"newton": d, "krylov": min(SUBSPACE, d), "epochs": epochs}
        if number == 1:
            middle = network
    for rival, found_gaps in gaps.items():
        growth = difference(found_gaps[-1], found_gaps[0])
        assert growth is not None
        figures |= growth.figures(f"growth_{rival}")
    figures |= _leave(context, scale, middle, series)
    figures["winners_at_edge_of_grid"] = edges
    series["settings"] = tuned
    told: dict[str, float | int | str] = {
        "images": scale.images,
        "steps of a Newton method": scale.steps,
        "epochs of gradient descent, in units of d": scale.steps,
        "learning rates tried for gradient descent": len(RATES),
        "batch size of gradient descent": scale.batch,
    }
    return Measured(figures, series, seeds, told)


def _leave(context: Context, scale: _Scale, network: Network, series: dict[str, Any]) -> dict[str, float | int | None]:
    """How many steps, or epochs, each method needs to leave a saddle from close by."""
    seeds = context.seeds(scale.seeds)
    curves: dict[str, list[list[float]]] = {name: [] for name in _SIDES[:3]}
    starts, levels = [], []
    for number, seed in enumerate(seeds, 1):
        context.say(f"leaving a saddle: {number} of {len(seeds)}")
        generator = torch.Generator().manual_seed(seed)
        at = saddle(network, generator)
        levels.append(float(network.value(at)))
        starts.append(at + NOISE * torch.randn(at.shape, dtype=torch.float64, generator=generator))
        for name, solver in zip(_SIDES, (SaddleFreeNewton(), DampedNewton()), strict=False):
            _, values = _newton(
                solver, network, starts[-1], Budget(steps=4 * scale.steps), Tolerance(value=LEFT * levels[-1])
            )
            curves[name].append([v / levels[-1] for v in values])
    context.say("leaving a saddle: gradient descent")
    count = len(RATES)
    rates = torch.tensor(RATES, dtype=torch.float64).repeat(len(seeds))
    _, found = gradient_descent(
        network,
        torch.stack(starts).repeat_interleave(count, 0),
        rates,
        scale.epochs,
        scale.batch,
        [seed for seed in seeds for _ in RATES],
        decay=False,
    )
    for runs, level in zip(found.mT.split(count), levels, strict=True):
        relative = _finite(runs / level).tolist()
        curves["gradient descent"].append(min(relative, key=_left))  # that of the best rate
    steps: dict[str, list[int]] = {}
    for name, runs in curves.items():
        steps[name] = [_left(run) for run in runs]
        curves[name] = [run[: last + 1] for run, last in zip(runs, steps[name], strict=True)]
    series["saddle"] = curves
    ours = steps["saddle-free Newton"]
    figures: dict[str, float | int | None] = {}
    for name in _SIDES[1:3]:
        ratios = [b / max(a, 1) for a, b in zip(ours, steps[name], strict=True)]
        figures |= interval(ratios).figures(f"steps_to_leave_{_key(name)}_over_ours")
    return figures | {f"steps_to_leave_{_key(name)}": sum(each) / len(each) for name, each in steps.items()}


def _finite(values: Tensor) -> Tensor:
    """For a drawing: runs that diverge stay on it."""
    return values.nan_to_num(1e6).clamp(max=1e6)


def _left(values: list[float]) -> int:
    """When a run has left the saddle; its length, if it has not."""
    return next((k for k, value in enumerate(values) if value < LEFT), len(values) - 1)


def _key(name: str) -> str:
    return name.lower().replace(",", "").replace("-", "_").replace(" ", "_")


RULE = f"""\
The objective is the training loss with its ridge; gaps are in per cent of the rival's final objective, paired by seed.
A gap counts where it is at most -{SMALL:g} % on average and its interval lies below 0.

1. Saddle-free Newton's objective is lower than damped Newton's after as many steps: the gap counts on {MANY} of the
   three sizes of networks.
2. It is lower than that of gradient descent after as many gradients, a Hessian counting as d: likewise.
3. The larger the network, the more so: the gap to either rival on the largest network is below that on the smallest
   (the interval of the paired difference lies below 0).
4. It leaves saddles sooner: from near a saddle it needs fewer steps than damped Newton and than gradient descent needs
   epochs (the lower ends of the intervals of both ratios are above 1).

- **reproduced**: all four. **partly**: not all, but 1 or 2.
- **not reproduced**: neither 1 nor 2.
- **inconclusive**: fewer than {ENOUGH} seeds; or neither 1 nor 2 holds, but against one of the rivals the interval of \
the gap has both 0 and -{SMALL:g} % within it on {MANY} sizes."""

_PLACES = ("small", "middle", "large")


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    gaps = {
        rival: [[figures[f"percent_over_{rival}_{place}{end}"] for end in ("", "_low", "_high")] for place in _PLACES]
        for rival in _RIVALS
    }
    ahead = [sum(mean <= -SMALL and high < 0 for mean, _, high in gaps[rival]) >= MANY for rival in _RIVALS]
    holds = [
        *ahead,
        all(figures[f"growth_{rival}_high"] < 0 for rival in _RIVALS),
        all(figures[f"steps_to_leave_{rival}_over_ours_low"] > 1 for rival in _RIVALS),
    ]
    told = [
        ", ".join("{:+.1f} % ({:+.1f} to {:+.1f})".format(*gap) for gap in gaps[rival]) + f" against {name}"
        for rival, name in _RIVALS.items()
    ]
    said = (
        f"From the smallest to the largest network the objective differs by {told[0]} and by {told[1]}. From near a "
        f"saddle damped Newton needs {figures['steps_to_leave_damped_newton_over_ours']:.1f} times as many steps, and "
        f"gradient descent {figures['steps_to_leave_gradient_descent_over_ours']:.1f} times as many epochs."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if any(ahead):
        return Judgement(Verdict.PARTLY, said)
    wide = any(sum(low <= -SMALL and high >= 0 for _, low, high in gaps[rival]) >= MANY for rival in _RIVALS)
    return Judgement(Verdict.INCONCLUSIVE if wide else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Objectives over the cost on each size, and the way out of the saddle."""
    figure, axes = canvas(columns=2, rows=2)
    for panel, place, hidden in zip(axes, _PLACES, series["hidden"], strict=False):
        costs = series["costs"][place]
        d = costs["newton"]
        for index, name in enumerate(_SIDES):
            runs = series["values"][place][name]
            longest = max(len(run) for run in runs)
            padded = np.array([[*run, *[run[-1]] * (longest - len(run))] for run in runs])
            if name == "gradient descent":
                places = np.linspace(0, costs["epochs"] / d, longest)
            else:
                places = np.arange(longest) * (costs["krylov"] / d if name.endswith("Krylov") else 1.0)
            panel.plot(places, padded.mean(0), color=COLOURS[index], label=name)
            panel.fill_between(places, padded.min(0), padded.max(0), color=COLOURS[index], alpha=0.15, linewidth=0)
        panel.set_yscale("log")
        panel.set_xlabel("cost (d gradients, or a Hessian)")
        panel.set_ylabel("objective")
        panel.set_title(f"{hidden} hidden units, d = {d}")
        panel.legend(fontsize=8)
    panel = axes[3]
    for index, name in enumerate(_SIDES[:3]):
        for number, run in enumerate(series["saddle"][name]):
            label = name if number == 0 else None
            panel.plot(range(len(run)), run, color=COLOURS[index], alpha=0.7, linewidth=1.2, label=label)
            panel.plot([len(run) - 1], [run[-1]], MARKERS[index], color=COLOURS[index])
    panel.axhline(LEFT, color="#9aa1ab", linewidth=1, linestyle=":")
    panel.set_xscale("symlog", linthresh=1)
    longest = max(len(run) for runs in series["saddle"].values() for run in runs)
    panel.set_xlim(0, 1.4 * longest)
    panel.set_xlabel("steps (gradient descent: epochs)")
    panel.set_ylabel("objective / that of the saddle")
    panel.set_title(f"From near a saddle, {series['hidden'][1]} hidden units")
    panel.set_ylim(top=1.2)
    panel.legend(fontsize=8, loc="lower left")
    return figure


CLAIM = Claim(
    method="saddle-free-newton",
    title=card("saddle-free-newton").title,
    statement=card("saddle-free-newton").claim,
    paper=card("saddle-free-newton").papers[1],
    test=f"""\
Networks of one layer of tanh units learn to tell digits apart from few pixels, as in the paper, with a small ridge so
that minimizers exist. Saddle-free Newton and damped Newton run from the same starts with their full Hessians for
equally many steps. Damped Newton is the same code with the same search for the damping, but its damping comes on top of
what makes the Hessian positive semidefinite, so that it descends as well. Gradient descent takes mini-batches with a
momentum of {MOMENTUM:g} and a learning rate that falls to zero; of {len(RATES)} rates the best on the tuning seed,
after a part of its epochs, is taken. It gets as many epochs as the Hessians cost when each counts as d gradients, the
price of one without formulas for it, and the best of about 100 of its points counts. The Newton methods are not tuned;
their linear algebra and values are free. Saddle-free Newton in Krylov spaces of dimension {SUBSPACE} is shown for twice
as many steps. Then a network of the middle size is put near a saddle, the best network whose units are all alike, with
deviations of {NOISE:g}: it has left when the objective is below {100 * LEFT:g} % of the saddle's. Of gradient descent,
its rate constant there, the run of the best rate counts for each start. The code was timed, and its derivatives
compared, beforehand on a few steps whose values were not looked at. Gradient descent's side was given more once: in a
first run, with the verdict "partly" (part 2 alone held), its rates ended at 3, the one that two networks of three
chose, the tuning had a fifth of the epochs, and near the saddle the tuned rate was kept, which threw it far off. This
lowered its objective on the two smaller networks. On the largest the longer tuning, on its one seed, chose the rate 3
in place of 1, which ends 2.5 % higher; against the first run's objective there, saddle-free Newton's gap was -1.1 %
(-2.3 to -0.5), so that part 2 holds narrowly with either.""",
    seen="""\
Fixed before any values were seen, and unchanged since. The figures of a first run had been seen when gradient descent's
side was given more.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one seed, 40 images of 4 x 4 pixels, 1 to 3 units, 3 steps; seconds; always inconclusive",
        Size.LAPTOP: "5 seeds, 500 images of 4 x 4 pixels, 4, 8 and 16 units (d from 118 to 442), 40 steps; minutes",
        Size.FULL: "20 seeds, the 10,000 test images of MNIST in 10 x 10 pixels, 5, 25 and 50 units (d up to 5,560), "
        "300 steps; weeks on one core, for the epochs of gradient descent above all",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
