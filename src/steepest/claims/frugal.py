"""FRUGAL against AdamW and GaLore on a small transformer: loss against the bytes of optimizer state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steepest.arena.task import Task
from steepest.catalogue import card
from steepest.core.memory import state_bytes
from steepest.core.routing import route

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, interval, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The share of the matrices' state that FRUGAL and GaLore may keep, of AdamW's.
DENSITY = 0.25
#: Periods over which the state of matrices that take turns is averaged.
_PERIODS = 4


@dataclass(frozen=True)
class _Scale:
    steps: int
    gap: int
    seeds: int
    rates: int
    batch: int = 16
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    corpus: int = 2_000_000  # characters


_SCALES = {
    Size.SMOKE: _Scale(12, 5, 1, 1, batch=4, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale(300, 50, 4, 5),
    Size.FULL: _Scale(20_000, 200, 5, 6, batch=32, width=256, layers=6, context=256, windows=512, corpus=5_000_000),
}

_NAMES = ("FRUGAL", "FRUGAL, blocks", "FRUGAL, no state", "GaLore", "AdamW")
_KEYS = dict(zip(_NAMES, ("frugal", "frugal_blocks", "frugal_no_state", "galore", "adamw"), strict=True))


def _sides(scale: _Scale) -> tuple[Side, ...]:
    """The same learning rates for all, in steps of about 3; no weight decay, as in the paper."""
    order = (3, 2, 4, 1, 0, 5)[: scale.rates]  # the usual ones first, for the sizes that try few
    rates = grid(lr=sorted((3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-4)[k] for k in order))
    shared = {"gap": scale.gap, "density": DENSITY}
    settings: tuple[tuple[str, dict[str, Any]], ...] = (
        ("frugal", {**shared, "projection": "columns"}),
        ("frugal", {**shared, "projection": "block"}),
        ("frugal", {**shared, "projection": "columns", "density": 0.0}),
        ("frugal", {**shared, "projection": "svd", "state_free": "none"}),
        ("adamw", {"weight_decay": 0.0}),
    )
    return tuple(Side(name, method, rates, fixed) for name, (method, fixed) in zip(_NAMES, settings, strict=True))


def _kept(task: Task, side: Side) -> tuple[float, float]:
    """Measured bytes of state per parameter: of all parameters, and of the hidden matrices alone.

    The mean over as many steps as it takes all matrices to have had their turn, the projection being changed at each.
    """
    model = task.build(0)
    matrices = [p for _, p in route(model).named("matrix")]
    optimizer = side.card().build(model, lr=0.0, **({"gap": 1} if side.method == "frugal" else {}))
    total = own = 0.0
    for _ in range(_PERIODS):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        total += state_bytes(optimizer) / _PERIODS
        held = [t for p in matrices for t in optimizer.state[p].values() if isinstance(t, torch.Tensor)]
        own += sum(t.nbytes for t in held) / _PERIODS
    return total / sum(p.numel() for p in model.parameters()), own / sum(p.numel() for p in matrices)


def measure(context: Context) -> Measured:
    """Tune all sides alike, train with fresh seeds, and weigh the state."""
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
    sides = _sides(scale)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"loss": {}, "settings": {}, "tuning": {}}
    losses: dict[str, list[float | None]] = {}
    edges = 0
    for side in sides:
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][side.name] = dict(tuned.settings)
        series["tuning"][side.name] = [[s["lr"], v] for s, v in zip(side.grid, tuned.scores, strict=True)]
        losses[side.name] = [r.test_loss for r in repeat(context, task, side, tuned.settings, seeds, scale.steps)]
        key = _KEYS[side.name]
        figures[f"loss_{key}"] = mean(losses[side.name])
        figures[f"state_bytes_per_parameter_{key}"], figures[f"matrix_state_bytes_per_parameter_{key}"] = _kept(
            task, side
        )
    series["loss"] = losses
    for name, ours, theirs in (
        ("frugal_less_galore", "FRUGAL", "GaLore"),
        ("frugal_blocks_less_galore", "FRUGAL, blocks", "GaLore"),
        ("frugal_less_adamw", "FRUGAL", "AdamW"),
        ("galore_less_adamw", "GaLore", "AdamW"),
        ("no_state_less_frugal", "FRUGAL, no state", "FRUGAL"),
    ):
        found = difference(losses[ours], losses[theirs])
        figures |= found.figures(name) if found else {name: None, f"{name}_low": None, f"{name}_high": None}
    figures |= _over_half(losses)
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(sides[0].grid),
        "steps per run": scale.steps,
        "steps per projection": scale.gap,
        "batch size": scale.batch,
        "characters per window": scale.context,
    }
    return Measured(figures, series, seeds, budgets)


def _over_half(losses: Mapping[str, list[float | None]]) -> dict[str, float | None]:
    """FRUGAL's loss less the mean of GaLore's and AdamW's: below 0 where it loses less than half of GaLore's loss."""
    rows = list(zip(*(losses[n] for n in ("FRUGAL", "GaLore", "AdamW")), strict=True))
    name = "frugal_less_midway"
    if any(v is None for row in rows for v in row):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return interval([ours - (galore + adamw) / 2 for ours, galore, adamw in rows]).figures(name)  # type: ignore[operator]


RULE = f"""\
FRUGAL keeps Adam's statistics of a quarter of the columns, GaLore of a quarter of the rank (FRUGAL's code with singular
vectors and nothing on the rest). Differences are of test losses, paired by seed.

1. FRUGAL's loss is below GaLore's (the interval of the difference lies below 0).
2. FRUGAL loses less than half as much to AdamW as GaLore does: its loss is below the mean of theirs (likewise).
3. The state of FRUGAL's matrices has at most {100 * DENSITY + 1:g} % of the bytes of AdamW's, and its whole state no
   more bytes than GaLore's.

- **reproduced**: all three. **partly**: 1 and 3.
- **not reproduced**: the interval of 1 lies above 0, or 3 fails.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    ends = ("", "_low", "_high")
    galore, midway, free = (
        [figures[n + e] for e in ends] for n in ("frugal_less_galore", "frugal_less_midway", "no_state_less_frugal")
    )
    if None in galore or None in midway or None in free:
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    ours, theirs = (figures[f"matrix_state_bytes_per_parameter_{n}"] for n in ("frugal", "adamw"))
    whole = [figures[f"state_bytes_per_parameter_{n}"] for n in ("frugal", "galore", "adamw")]
    small = ours <= (DENSITY + 0.01) * theirs and whole[0] <= whole[1]
    said = (
        f"FRUGAL's loss differs by {galore[0]:+.4f} ({galore[1]:+.4f} to {galore[2]:+.4f}) from GaLore's and by "
        f"{midway[0]:+.4f} ({midway[1]:+.4f} to {midway[2]:+.4f}) from the mean of GaLore's and AdamW's. It keeps "
        f"{ours:.2f} bytes per parameter of the matrices (AdamW: {theirs:.2f}) and {whole[0]:.2f} of all (GaLore: "
        f"{whole[1]:.2f}, AdamW: {whole[2]:.2f}). Without any state for the matrices its loss differs by "
        f"{free[0]:+.4f} ({free[1]:+.4f} to {free[2]:+.4f})."
    )
    if free[1] <= 0:
        said += " So the state of the matrices shows no gain here."
    if figures["galore_less_adamw"] < 0:
        said += " GaLore is better than AdamW in these short runs, so there is no loss of its to be halved."
    said = parts([galore[2] < 0, midway[2] < 0, small], said)
    if galore[1] > 0 or not small:
        return Judgement(Verdict.NOT_REPRODUCED, said)
    if galore[2] < 0:
        return Judgement(Verdict.REPRODUCED if midway[2] < 0 else Verdict.PARTLY, said)
    return Judgement(Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test loss over bytes of state, and the learning rates that were tried."""
    figure, (left, right) = canvas()
    for index, name in enumerate(_NAMES):
        values = [v for v in series["loss"][name] if v is not None]
        size = figures[f"state_bytes_per_parameter_{_KEYS[name]}"]
        style = {"color": COLOURS[index], "linestyle": "none"}
        left.plot([size] * len(values), values, MARKERS[index], alpha=0.35, markersize=4, **style)
        if values:
            left.plot([size], [sum(values) / len(values)], MARKERS[index], label=name, markersize=8, **style)
        points = [(rate, loss) for rate, loss in series["tuning"][name] if loss is not None]
        if points:
            right.plot(*zip(*points, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name)
    left.set_xlim(0, None)
    left.set_xlabel("bytes of state per parameter, all parameters")
    left.set_ylabel("test loss (nats per character)")
    left.set_title("Loss against memory")
    left.legend()
    right.set_xscale("log")
    right.set_xlabel("learning rate")
    right.set_ylabel("validation loss (nats per character)")
    right.set_title("Tuning")
    return figure


CLAIM = Claim(
    method="frugal",
    title="FRUGAL",
    statement=card("frugal").claim,
    paper=card("frugal").papers[0],
    test="""\
A small decoder-only transformer learns the characters of Python's standard library. Five sides are tuned over the same
learning rates (3e-4 to 3e-2 at laptop size): FRUGAL on a quarter of the columns (the verdict is on it, since it keeps
the same bytes at all times), FRUGAL on a quarter of the matrices in turn, FRUGAL without state for the matrices
(density 0: signSGD), GaLore, and AdamW. No weight decay. Embeddings, head and norms have AdamW on all sides, with the
same learning rate; in a model this small they hold a fifth of the parameters, so the bytes of the matrices are
stated by themselves. The winners are trained again with fresh seeds and scored on held-out text.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 12 steps; seconds; always inconclusive",
        Size.LAPTOP: "33 thousand parameters, 300 steps, a new projection every 50; 5 settings and 4 seeds per side; "
        "minutes",
        Size.FULL: "5 million parameters, 20,000 steps of 32 windows of 256 characters, a new projection every 200; "
        "6 settings and 5 seeds per side; a few days on one GPU (the paper's own runs, LLaMA of 60 M parameters and up "
        "on C4, need its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
