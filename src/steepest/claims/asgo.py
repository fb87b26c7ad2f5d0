"""ASGO against Shampoo, AdaGrad, SGD and AdamW: on a convex problem with low-rank gradients, and on characters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from steepest.catalogue import card
from steepest.optim import ASGO, Shampoo

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, grid, mean, parts, percent, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Per cent of Shampoo's loss that still count as a match.
MARGIN = 1.0


@dataclass(frozen=True)
class _Scale:
    steps: int  # of the language model
    seeds: int
    rates: int
    convex_steps: int
    convex_rates: int
    batch: int = 16
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    corpus: int = 2_000_000  # characters


_SCALES = {
    Size.SMOKE: _Scale(8, 1, 1, 20, 2, batch=4, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale(200, 4, 7, 300, 11),
    Size.FULL: _Scale(5000, 5, 7, 3000, 13, 64, 384, 6, 256, 512, 5_000_000),
}


def _sides(scale: _Scale) -> tuple[Side, ...]:
    """The same learning rates for all; what ASGO leaves to AdamW has the learning rate of the matrices."""
    order = (2, 3, 1, 4, 0, 5, 6)[: scale.rates]  # the usual ones first, for the sizes that try few
    rates = sorted((1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-4, 1e-4)[k] for k in order)
    return (
        Side("ASGO", "asgo", tuple({"lr": r, "adamw_lr": r} for r in rates), {"weight_decay": 0.1}),
        Side("Shampoo", "shampoo", grid(lr=rates), {"precondition_every": 1, "start": 10}),
        Side("AdamW", "adamw", grid(lr=rates), {"weight_decay": 0.1}),
    )


# ------------------------------------------------------------------------------------------------ the convex problem


def _asgo(w: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return ASGO(w, lr, momentum=0.0, beta=1.0, weight_decay=0.0, rescale=False)


def _shampoo(w: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return Shampoo(w, lr, momentum=0.0, graft="none", nesterov=False, start=1, precondition_every=1)


CONVEX: dict[str, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    "ASGO": _asgo,
    "Shampoo": _shampoo,
    "AdaGrad": lambda w, lr: torch.optim.Adagrad(w, lr=lr),
    "SGD": lambda w, lr: torch.optim.SGD(w, lr=lr),
}


def convex(name: str, rate: float, seed: int, steps: int) -> float | None:
    """Least squares ``mean ||a^T W B - c||^2 / 2`` over 512 rows, four at a time: gradients of rank four.

    Rows and ``B`` have variances that fall as powers of the index.

    Returns:
        The objective at the average of all iterates, above its minimum, as a part of that of ``W = 0``.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = normal(512, 24) / torch.arange(1, 25, dtype=torch.float64)
    turned, _ = torch.linalg.qr(normal(24, 24))
    rows = rows @ turned
    right, _ = torch.linalg.qr(normal(16, 16))
    right = right / torch.arange(1, 17, dtype=torch.float64).sqrt()
    wanted = rows @ normal(24, 16) @ right + 0.1 * normal(512, 16)

    def objective(w: Tensor) -> float:
        return 0.5 * float((rows @ w @ right - wanted).square().sum(1).mean())

    best = objective(torch.linalg.lstsq(rows, wanted).solution @ torch.linalg.inv(right))
    w = nn.Parameter(torch.zeros(24, 16, dtype=torch.float64))
    opt = CONVEX[name]([w], rate)
    total = torch.zeros_like(w.detach())
    for _ in range(steps):
        total += w.detach()
        index = torch.randint(512, (4,), generator=generator)
        a = rows[index]
        w.grad = a.T @ (a @ w.detach() @ right - wanted[index]) @ right.T / 4
        opt.step()
    end = (objective(total / steps) - best) / (objective(torch.zeros_like(total)) - best)
    return end if np.isfinite(end) else None


def _convex(context: Context, scale: _Scale, seeds: list[int]) -> tuple[dict[str, Any], dict[str, Any], int]:
    rates = [float(r) for r in np.geomspace(1e-3, 100.0, scale.convex_rates)]
    landscape: dict[str, list[float | None]] = {}
    ends: dict[str, list[float | None]] = {}
    edges = 0
    for name in CONVEX:
        context.say(f"convex problem, {name}")
        landscape[name] = [convex(name, rate, context.tuning_seed, scale.convex_steps) for rate in rates]
        at = min(range(len(rates)), key=lambda k: np.inf if landscape[name][k] is None else landscape[name][k])
        edges += len(rates) > 2 and at in (0, len(rates) - 1)
        ends[name] = [convex(name, rates[at], seed, scale.convex_steps) for seed in seeds]
    figures: dict[str, Any] = {f"convex_part_left_{name.lower()}": mean(values) for name, values in ends.items()}
    for rival in list(CONVEX)[1:]:
        key = f"convex_percent_over_{rival.lower()}"
        figures |= percent(key, ends["ASGO"], ends[rival])
    return figures, {"rates": rates, "convex_landscape": landscape, "convex": ends}, edges


def measure(context: Context) -> Measured:
    """The convex problem, then the language model: tuned, then trained with fresh seeds."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    convex_figures, series, edges = _convex(context, scale, seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds), **convex_figures}
    task = characters(
        batch=scale.batch,
        width=scale.width,
        layers=scale.layers,
        context=scale.context,
        windows=scale.windows,
        corpus=scale.corpus,
    )
    losses: dict[str, list[float | None]] = {}
    series |= {"loss": losses, "settings": {}, "landscape": {}}
    for side in _sides(scale):
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][side.name] = dict(tuned.settings)
        series["landscape"][side.name] = [[s["lr"], v] for s, v in zip(side.grid, tuned.scores, strict=True)]
        runs = repeat(context, task, side, tuned.settings, seeds, scale.steps)
        losses[side.name] = [run.test_loss for run in runs]
        figures[f"loss_{side.method}"] = mean(losses[side.name])
        figures[f"state_bytes_per_parameter_{side.method}"] = mean([run.state_bytes_per_parameter for run in runs])
    for rival in ("Shampoo", "AdamW"):
        figures |= percent(f"percent_over_{rival.lower()}", losses["ASGO"], losses[rival])
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": scale.rates,
        "steps per run": scale.steps,
        "batch size": scale.batch,
        "characters per window": scale.context,
        "learning rates on the convex problem": scale.convex_rates,
        "steps on the convex problem": scale.convex_steps,
    }
    return Measured(figures, series, seeds, budgets)


_ENDS = ("", "_low", "_high")

RULE = f"""\
Differences are ASGO's less the rival's, in per cent of the rival's, paired by seed.

1. On the convex problem the method of the theory ends below AdaGrad and below SGD (the intervals lie below 0), and not
   above Shampoo (the interval does not lie above 0).
2. The language model's test loss is below AdamW's (the interval lies below 0).
3. It is not above Shampoo's (the interval ends at or below +{MARGIN:g} %).

- **reproduced**: all three. **partly**: 2 or 3, and nothing below.
- **not reproduced**: the interval of 2 lies above 0, or that of 3 above +{MARGIN:g} %.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    names = [f"convex_percent_over_{name}" for name in ("shampoo", "adagrad", "sgd")]
    names += ["percent_over_adamw", "percent_over_shampoo"]
    values = [[figures.get(name + end) for end in _ENDS] for name in names]
    if any(None in value for value in values):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    shampoo, adagrad, sgd, adamw, rival = values
    said = [f"{value[0]:+.1f} % ({value[1]:+.1f} to {value[2]:+.1f})" for value in values]
    holds = [adagrad[2] < 0 and sgd[2] < 0 and shampoo[1] <= 0, adamw[2] < 0, rival[2] <= MARGIN]
    told = parts(
        holds,
        f"On the convex problem ASGO's objective differs by {said[0]} from Shampoo's, {said[1]} from AdaGrad's and "
        f"{said[2]} from SGD's; the language model's loss by {said[3]} from AdamW's and {said[4]} from Shampoo's.",
    )
    if adamw[1] > 0 or rival[1] > MARGIN:
        return Judgement(Verdict.NOT_REPRODUCED, told)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, told)
    return Judgement(Verdict.PARTLY if holds[1] or holds[2] else Verdict.INCONCLUSIVE, told)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The convex problem over the learning rate, the language model's tuning, and its fresh seeds."""
    figure, (first, second, third) = canvas(columns=3)
    for index, (name, values) in enumerate(series["convex_landscape"].items()):
        known = [p for p in zip(series["rates"], values, strict=True) if p[1] is not None and p[1] < 2]
        if known:
            first.plot(*zip(*known, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name)
    first.set_xscale("log")
    first.set_yscale("log")
    first.set_ylabel("objective left (part of the start's)")
    first.set_title("Convex problem")
    first.legend()
    for index, (name, points) in enumerate(series["landscape"].items()):
        colour, marker = (0, 1, 4)[index], MARKERS[(0, 1, 4)[index]]
        known = [p for p in points if p[1] is not None]
        second.plot(*zip(*known, strict=True), color=COLOURS[colour], marker=marker, label=name)
        found = [v for v in series["loss"][name] if v is not None]
        third.plot([index] * len(found), found, marker, color=COLOURS[colour], alpha=0.5)
        if found:
            third.plot([index - 0.3, index + 0.3], [float(np.mean(found))] * 2, color=COLOURS[colour], linewidth=2.5)
    second.set_xscale("log")
    second.set_ylabel("validation loss (nats per character)")
    second.set_title("Characters: tuning")
    second.legend()
    for axes in (first, second):
        axes.set_xlabel("learning rate")
    third.set_xticks(range(len(series["loss"])), list(series["loss"]))
    third.set_xlim(-0.6, len(series["loss"]) - 0.4)
    third.set_ylabel("test loss")
    third.set_title("Characters: fresh seeds")
    return figure


CLAIM = Claim(
    method="asgo",
    title="ASGO",
    statement=card("asgo").claim,
    paper=card("asgo").papers[0],
    test="""\
On a convex problem (least squares in a 24 x 16 matrix, gradients of rank four, variances that fall as powers) the
method of the paper's theory meets Shampoo without a graft, AdaGrad and SGD; each has the best of the same learning
rates, and the average of all iterates counts. A small decoder-only transformer learns to predict the characters of
Python's standard library with ASGO as the authors run it (what is no hidden matrix follows AdamW at the same learning
rate), Shampoo with AdaGrad's step length, and AdamW, each tuned over the same learning rates. ASGO computes its roots
in every step, and so does Shampoo from step 10 on. """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 8 steps; seconds; always inconclusive",
        Size.LAPTOP: "200 steps of 16 windows, 7 settings and 4 seeds per side; 33 thousand parameters; minutes",
        Size.FULL: "a transformer of 6 layers and width 384 as in the paper, 5000 steps of 64 windows, 7 settings and "
        "5 seeds per side; days on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
