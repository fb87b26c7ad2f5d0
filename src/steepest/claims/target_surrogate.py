"""Target-based surrogates: the loss after equally many gradients in the outputs, over the steps taken for each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from steepest import data
from steepest.catalogue import card
from steepest.optim import TargetSurrogate

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

SETS = ("breast_cancer", "a8a", "w8a")
#: Inner steps; with one, gradient descent with a line search on the surrogate.
STEPS = (1, 5, 20)
_MOST = STEPS[-1]


@dataclass(frozen=True)
class _Scale:
    calls: int
    seeds: int
    rates: int
    rows: int  # of each data set, drawn by the seed
    batch: int = 100


_SCALES = {
    Size.SMOKE: _Scale(4, 1, 2, 100, batch=25),
    Size.LAPTOP: _Scale(60, 5, 8, 2000),
    Size.FULL: _Scale(2000, 5, 13, 20_000, batch=625),
}

Batches = Sequence[tuple[Tensor, Tensor]]


@cache
def _table(name: str) -> tuple[Tensor, Tensor]:
    if name == "breast_cancer":
        found = data.breast_cancer(validation=0.0, test=0.0, dtype=torch.float64)
        return found.train.inputs, found.train.targets.double()
    split = data.libsvm(name, dense=True).train
    return split.inputs.double(), split.targets.double()


def _problem(name: str, seed: int, scale: _Scale) -> tuple[Tensor, Tensor, Batches]:
    """Rows of a data set and mini-batches of them, both drawn by the seed."""
    rows, labels = _table(name)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: scale.rows]
    rows, labels = rows[chosen], labels[chosen]
    size = min(scale.batch, len(labels))
    draws = [torch.randperm(len(labels), generator=generator)[:size] for _ in range(scale.calls)]
    return rows, labels, [(rows[d], labels[d]) for d in draws]


def _sgd(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=rate)


def _adam(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=rate)


def _surrogate(steps: int) -> Callable[[Any, float], torch.optim.Optimizer]:
    def build(parameters: Any, rate: float) -> torch.optim.Optimizer:
        return TargetSurrogate(torch.optim.SGD(parameters, lr=10.0), rate, steps, line_search=True)

    return build


SIDES: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    **{f"{m} inner step{'s' * (m > 1)}": _surrogate(m) for m in STEPS},
    "SGD": _sgd,
    "Adam": _adam,
}
_OURS = f"{_MOST} inner steps"


def rates(side: str, count: int) -> list[float]:
    """Step sizes by factors of about 3: in the outputs from 100 downwards, of SGD from 30, of Adam from 1."""
    top = {"SGD": 30.0, "Adam": 1.0}.get(side, 100.0)
    return [float(f"{top * 10 ** (-k / 2):.2g}") for k in range(count)]


def descend(side: str, rate: float, problem: tuple[Tensor, Tensor, Batches]) -> tuple[list[float], int]:
    """log10 of the mean logistic loss over all rows after each tenth of the calls, and the gradients of the model."""
    rows, labels, batches = problem
    model = nn.utils.skip_init(nn.Linear, rows.shape[1], 1, dtype=torch.float64)  # draws no random numbers
    for p in model.parameters():
        nn.init.zeros_(p)
    optimizer = SIDES[side](model.parameters(), rate)
    found, gradients = [], 0
    for number, (x, y) in enumerate(batches, 1):
        if isinstance(optimizer, TargetSurrogate):

            def oracle(z: Tensor, y: Tensor = y) -> Tensor:
                return (z.sigmoid() - y[:, None]) / len(y)

            optimizer.step(lambda x=x: model(x), oracle)  # type: ignore[misc]
            gradients += optimizer.gradient_evaluations
        else:
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y).backward()
            optimizer.step()
            gradients += 1
        if number % max(1, len(batches) // 10) == 0:
            with torch.no_grad():
                loss = float(nn.functional.binary_cross_entropy_with_logits(model(rows)[:, 0], labels))
            found.append(math.log10(loss) if 0 < loss < math.inf else math.inf)
    return found, gradients


def measure(context: Context) -> Measured:
    """Tune every side on one draw of every data set, and run it on fresh ones."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"curves": {}, "settings": {}, "landscape": {}, "gradients": {}}
    edges = 0
    for name in SETS:
        tuning = _problem(name, context.tuning_seed, scale)
        curves: dict[str, list[list[float]]] = {}
        for part in ("settings", "landscape", "gradients"):
            series[part][name] = {}
        for side in SIDES:
            context.say(f"{name}, {side}")
            tried = rates(side, scale.rates)
            scores = [descend(side, rate, tuning)[0][-1] for rate in tried]
            best = min(range(len(tried)), key=lambda k: scores[k])
            edges += best in (0, len(tried) - 1)
            series["settings"][name][side] = tried[best]
            series["landscape"][name][side] = [
                [rate, score if math.isfinite(score) else None] for rate, score in zip(tried, scores, strict=True)
            ]
            runs = [descend(side, tried[best], _problem(name, seed, scale)) for seed in seeds]
            curves[side] = [run[0] for run in runs]
            series["gradients"][name][side] = sum(run[1] for run in runs) / len(runs)
        series["curves"][name] = {
            side: [[v if math.isfinite(v) else None for v in run] for run in runs] for side, runs in curves.items()
        }
        last = {side: [run[-1] for run in runs] for side, runs in series["curves"][name].items()}
        for kind, theirs in (("one", "1 inner step"), ("sgd", "SGD"), ("adam", "Adam")):
            gap = difference(last[_OURS], last[theirs])
            figure = f"{name}_log10_many_less_{kind}"
            figures |= gap.figures(figure) if gap else {figure: None, f"{figure}_low": None, f"{figure}_high": None}
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "step sizes tried per side": scale.rates,
        "gradients in the outputs per run": scale.calls,
        "examples per batch": scale.batch,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Scored is log10 of the logistic loss over all rows after equally many gradients in the outputs (mini-batches). A data
set counts where the 95 % interval of the paired difference lies below 0.

1. {_MOST} inner steps against one, under the same line search: on two of the three data sets or more.
2. {_MOST} inner steps against SGD: on two or more.
3. {_MOST} inner steps against Adam: on two or more.

- **reproduced**: all three. **partly**: 1, and not both others. **not reproduced**: 1 does not hold.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    kinds = ("one", "sgd", "adam")
    highs = {(n, k): figures.get(f"{n}_log10_many_less_{k}_high") for n in SETS for k in kinds}
    if any(high is None for high in highs.values()):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    wins = {kind: sum(highs[name, kind] < 0 for name in SETS) for kind in kinds}
    holds = [wins[kind] >= 2 for kind in kinds]
    told = [
        f"on {name} by {figures[f'{name}_log10_many_less_one']:+.3f}, "
        f"{figures[f'{name}_log10_many_less_sgd']:+.3f} and {figures[f'{name}_log10_many_less_adam']:+.3f}"
        for name in SETS
    ]
    said = (
        f"{_MOST} inner steps lower the loss on {wins['one']} of 3 data sets against one, on {wins['sgd']} against SGD "
        f"and on {wins['adam']} against Adam; log10 of the loss differs from theirs {', '.join(told)}."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Losses over calls, and the gradients of the model that they took."""
    figure, axes = canvas(rows=2)
    for panel, name in zip(axes, SETS, strict=False):
        for index, (side, runs) in enumerate(series["curves"][name].items()):
            known = np.array([[np.nan if v is None else 10**v for v in run] for run in runs])
            share = np.linspace(100 / known.shape[1], 100, known.shape[1])
            middle = 10 ** np.log10(known).mean(0)
            panel.plot(share, middle, color=COLOURS[index], marker=MARKERS[index], label=side)
            panel.fill_between(share, known.min(0), known.max(0), color=COLOURS[index], alpha=0.12, linewidth=0)
        panel.set_yscale("log")
        panel.set_xlabel("gradients in the outputs (% of all)")
        panel.set_ylabel("logistic loss, all rows")
        panel.set_title(name)
    axes[0].legend(fontsize=8)
    cost = axes[3]
    for index, side in enumerate(SIDES):
        values = [series["gradients"][name][side] for name in SETS]
        places = [k + 0.15 * (index - 2) for k in range(len(SETS))]
        cost.plot(places, values, MARKERS[index], color=COLOURS[index], label=side)
    cost.set_xticks(range(len(SETS)), SETS)
    cost.set_yscale("log")
    cost.set_ylabel("gradients of the model")
    cost.set_title("What a run took of the model")
    return figure


CLAIM = Claim(
    method="target-surrogate",
    title="Target-based surrogates",
    statement=card("target-surrogate").claim,
    paper=card("target-surrogate").papers[0],
    test="""\
Logistic regression, started at zero, on three data sets of two classes, from each of which a seed draws rows and
mini-batches. The surrogate is lowered by 1, 5 or 20 steps of gradient descent with a line search, which sees no loss
beyond the one gradient in the outputs; SGD and Adam take one step for it. Every side chooses among as many step sizes
(in the outputs, or learning rates), constant during a run, by the loss after the last call on a draw that is not
scored. What a run costs in gradients of the model is told and not judged: the method is for losses that cost more than
the model does. The paper's data sets are mushrooms, ijcnn1 and rcv1, and imitation learning in a simulator.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "4 calls, two step sizes, one seed; seconds; always inconclusive",
        Size.LAPTOP: "60 calls on up to 2,000 rows, 8 step sizes and 5 seeds per side; minutes",
        Size.FULL: "2,000 calls on up to 20,000 rows, 13 step sizes and 5 seeds per side; hours",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
