"""Muon against AdamW on a small transformer: steps and seconds to the loss with which AdamW ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest.arena.train import Outcome
from steepest.catalogue import card

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, interval, mean, part_of_budget, parts, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas, tuning
from .two_rates import TwoRates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Muon's budgets, in AdamW's steps; each run has its own schedule.
_BUDGETS = (0.25, 0.5, 1.0)
#: What the authors' speed records amount to, as a part of AdamW's steps.
_AUTHORS = 1 / 1.35


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    others: int  # learning rates of embeddings, head, norms and biases per side
    batch: int = 16
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    corpus: int = 2_000_000


_SCALES = {
    Size.SMOKE: _Scale(12, 1, 1, 1, batch=4, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale(200, 4, 5, 3),
    Size.FULL: _Scale(20_000, 5, 6, 3, batch=32, width=256, layers=6, context=256, windows=512, corpus=5_000_000),
}


def _sides(scale: _Scale) -> tuple[Side, Side]:
    """Equally many settings: a rate of the matrices, and one of the rest, which both treat by AdamW."""
    order = (2, 1, 3, 0, 4, 5)[: scale.rates]  # the usual ones first, for the sizes that try few
    muon = sorted((3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)[k] for k in order)
    adamw = sorted((3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)[k] for k in order)
    fallback = (0.1, 3e-2, 0.3)[: scale.others]
    return (
        Side("Muon", "muon", grid(lr=muon, adamw_lr=fallback), {"weight_decay": 0.01}),
        TwoRates("AdamW", "adamw", grid(lr=adamw, adamw_lr=fallback), {"betas": (0.9, 0.95), "weight_decay": 0.01}),
    )


def _pace(runs: Sequence[Outcome]) -> float:
    """Seconds per step, the median over runs."""
    return float(np.median([run.seconds / max(run.steps, 1) for run in runs]))


def measure(context: Context) -> Measured:
    """Tune both for the same number of steps, then give Muon a quarter, a half, and all of AdamW's steps."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    task = characters(
        batch=scale.batch,
        width=scale.width,
        layers=scale.layers,
        context=scale.context,
        windows=scale.windows,
        corpus=scale.corpus,
    )
    muon, adamw = _sides(scale)
    tuned = {side.name: tune(context, task, side, scale.steps) for side in (muon, adamw)}
    budgets = [max(2, round(part * scale.steps)) for part in _BUDGETS]
    runs: dict[str, list[list[Outcome]]] = {"Muon": [[] for _ in budgets], "AdamW": [[]]}
    for seed in seeds:  # seed by seed, so that a busy machine slows both sides alike
        runs["AdamW"][0] += repeat(context, task, adamw, tuned["AdamW"].settings, [seed], scale.steps)
        for place, steps in enumerate(budgets):
            runs["Muon"][place] += repeat(context, task, muon, tuned["Muon"].settings, [seed], steps)
    theirs = [run.test_loss for run in runs["AdamW"][0]]
    ours = [[run.test_loss for run in found] for found in runs["Muon"]]
    figures: dict[str, float | int | None] = {"seeds": len(seeds), "loss_adamw": mean(theirs)}
    for part, losses in zip(_BUDGETS, ours, strict=True):
        figures[f"loss_muon_{part:g}_of_the_steps"] = mean(losses)
    gap = difference(ours[-1], theirs)
    figures |= gap.figures("loss_less_adamw") if gap else {"loss_less_adamw": None}
    pace = _pace(runs["Muon"][-1]) / _pace(runs["AdamW"][0])
    fractions = [part_of_budget(target, _BUDGETS, losses) for target, *losses in zip(theirs, *ours, strict=True)]
    known = [f for f in fractions if f is not None]
    for name, factor in (("steps_over_adamw", 1.0), ("time_over_adamw", pace)):
        whole = len(known) == len(fractions)
        figures |= interval([factor * f for f in known]).figures(name) if whole else {name: None}
    figures["seconds_per_step_over_adamw"] = pace
    figures["state_bytes_per_parameter_muon"] = mean([r.state_bytes_per_parameter for r in runs["Muon"][-1]])
    figures["state_bytes_per_parameter_adamw"] = mean([r.state_bytes_per_parameter for r in runs["AdamW"][0]])
    figures["winners_at_edge_of_grid"] = sum(t.at_edge for t in tuned.values())
    series = {
        "loss": {"AdamW": theirs, "Muon": ours},
        "steps": budgets,
        "settings": {name: dict(found.settings) for name, found in tuned.items()},
        "landscape": {
            side.name: [[s["lr"], v] for s, v in zip(side.grid, tuned[side.name].scores, strict=True)]
            for side in (muon, adamw)
        },
    }
    return Measured(
        figures,
        series,
        seeds,
        {
            "settings tried per side": len(muon.grid),
            "steps of AdamW": scale.steps,
            "batch size": scale.batch,
            "characters per window": scale.context,
        },
    )


RULE = f"""\
Muon is given a quarter, a half and all of AdamW's steps, each with a schedule of its own; for every seed, the part of
the steps at which its test loss meets AdamW's final one is interpolated (a quarter stands for a quarter or less; beyond
all of the steps the line is drawn on, to twice as many at most).

1. Steps: the interval of that part, over the seeds, lies below 1.
2. Time: so does the interval of the part times the ratio of the seconds per step, as measured in these runs.

- **reproduced**: both. **partly**: 1, but not 2.
- **not reproduced**: the interval of 1 lies at or above 1.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    steps, time = (
        [figures.get(name + end) for end in ("", "_low", "_high")] for name in ("steps_over_adamw", "time_over_adamw")
    )
    if None in steps or None in time:
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    said = (
        f"Muon meets AdamW's final loss after {100 * steps[0]:.0f} % of its steps ({100 * steps[1]:.0f} to "
        f"{100 * steps[2]:.0f}; 25 stands for 25 or less) and {100 * time[0]:.0f} % of its time "
        f"({100 * time[1]:.0f} to {100 * time[2]:.0f}); a "
        f"step takes {figures['seconds_per_step_over_adamw']:.2f} times as long here. With as many steps its loss "
        f"differs by {figures['loss_less_adamw']:+.3f}."
    )
    fewer, sooner = steps[2] < 1, time[2] < 1
    said = parts([fewer, sooner], said)
    if fewer:
        return Judgement(Verdict.REPRODUCED if sooner else Verdict.PARTLY, said)
    return Judgement(Verdict.NOT_REPRODUCED if steps[1] >= 1 else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Loss over the steps, and what tuning saw."""
    figure, (loss, landscape) = canvas()
    steps = series["steps"]
    for place, values in zip(steps, series["loss"]["Muon"], strict=True):
        known = [v for v in values if v is not None]
        loss.plot([place] * len(known), known, MARKERS[0], color=COLOURS[0], alpha=0.35, markersize=4)
    means = [figures[f"loss_muon_{part:g}_of_the_steps"] for part in _BUDGETS]
    loss.plot(steps, means, color=COLOURS[0], marker=MARKERS[0], label="Muon")
    known = [v for v in series["loss"]["AdamW"] if v is not None]
    loss.plot([steps[-1]] * len(known), known, MARKERS[1], color=COLOURS[1], alpha=0.35, markersize=4)
    if figures["loss_adamw"] is not None:
        loss.plot(steps[-1], figures["loss_adamw"], MARKERS[1], color=COLOURS[1], label="AdamW", markersize=7)
        loss.axhline(figures["loss_adamw"], color=COLOURS[1], linestyle="--", linewidth=1)
    loss.axvline(_AUTHORS * steps[-1], color=INK, linestyle=":", linewidth=1, label="the authors' 1/1.35")
    loss.set_xscale("log", base=2)
    loss.set_xticks(steps, [str(s) for s in steps])
    loss.minorticks_off()
    loss.set_xlabel("steps of a run (each with its own schedule)")
    loss.set_ylabel("test loss (nats per character)")
    loss.set_title("Steps to AdamW's loss")
    loss.legend()
    tuning(landscape, series["landscape"], "validation loss")
    return figure


CLAIM = Claim(
    method="muon",
    title="Muon",
    statement=card("muon").claim,
    paper=card("muon").papers[0],
    test="""\
A small decoder-only transformer learns to predict the characters of Python's standard library. Muon and AdamW are tuned
over equally many settings for the same number of steps: five learning rates of the matrices in steps of about 3, and
three of embeddings, head, norms and biases, which both treat by AdamW (so AdamW gets two rates as well; with a single
one, in a first run, it ended at a loss of 2.7, and Muon needed a quarter of its steps). The winners are then trained
with fresh seeds under the same schedule (warm-up, then cosine), AdamW for all steps, Muon for a quarter, a half and all
of them. The ratio of the seconds per step is that of this machine and this size: Muon's extra work per step is a few
matrix products per weight, which larger batches make small beside the gradient. The ranges of learning rates were
placed by a look at single runs with the tuning seed.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 12 steps; seconds; always inconclusive",
        Size.LAPTOP: "32 thousand parameters, 200 steps, 15 settings and 4 seeds per side; minutes",
        Size.FULL: "5 million parameters, 20,000 steps of 32 windows of 256 characters, 18 settings and 5 seeds per "
        "side; a few days on one GPU (the authors' own runs, GPT-2 on FineWeb, need its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
