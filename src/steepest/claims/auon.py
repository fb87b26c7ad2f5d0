"""AuON against Muon, AdamW, and itself without the hyperbolic cosine, on a small transformer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steepest.catalogue import card

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, grid, mean, parts, percent, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas
from .two_rates import TwoRates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Per cent of the other's loss that still count as a match.
MARGIN = 1.0
#: At the largest matrix, AuON's step must take at most this part of Muon's time.
CHEAP = 0.5


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    others: int  # learning rates of embeddings, head, norms and biases per side
    sides: tuple[int, ...]  # of the square matrices that steps are timed on
    batch: int = 16
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    corpus: int = 2_000_000


_SCALES = {
    Size.SMOKE: _Scale(12, 1, 1, 1, (32, 64), batch=4, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale(150, 4, 5, 3, (128, 256, 512, 1024)),
    Size.FULL: _Scale(
        20_000,
        5,
        6,
        3,
        (256, 512, 1024, 2048, 4096),
        batch=32,
        width=256,
        layers=6,
        context=256,
        windows=512,
        corpus=5_000_000,
    ),
}


def _sides(scale: _Scale) -> dict[str, Side]:
    """Equally many settings for all; the ranges of the matrices' rates overlap, shifted by what a unit step is."""
    order = (2, 1, 3, 0, 4, 5)[: scale.rates]  # the middle first, for the sizes that try few
    fallback = (0.1, 3e-2, 0.3)[: scale.others]

    def matrix(name: str, method: str, rates: tuple[float, ...]) -> Side:
        chosen = grid(lr=sorted(rates[k] for k in order), adamw_lr=fallback)
        return Side(name, method, chosen, {"weight_decay": 0.01})

    rates = sorted((3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)[k] for k in order)
    return {
        "AuON": matrix("AuON", "auon", (1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)),
        "Hybrid AuON": matrix("Hybrid AuON", "hybrid-auon", (1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)),
        "Muon": matrix("Muon", "muon", (3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)),
        "AdamW": TwoRates(
            "AdamW", "adamw", grid(lr=rates, adamw_lr=fallback), {"betas": (0.9, 0.95), "weight_decay": 0.01}
        ),
    }


def _step_time(method: str, side: int, device: str) -> float:
    """Milliseconds of a step on a square matrix, the best of several; in the eager engine, which both have.

    On a CPU processor time, which does not count what else the machine does.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    p = torch.nn.Parameter(torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device))
    p.grad = torch.ones_like(p) + p.detach()
    optimizer = card(method).load()([p], engine="eager")
    best = float("inf")
    for _ in range(12):
        if device == "cuda":
            torch.cuda.synchronize()
        begun = clock()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - begun)
    return 1000 * best


def measure(context: Context) -> Measured:
    """Tune all sides for the same number of steps, score them and the control, and time a step over the size."""
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
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    losses: dict[str, list[float | None]] = {}
    series: dict[str, Any] = {"loss": losses, "settings": {}, "landscape": {}, "sides": list(scale.sides), "time": {}}
    edges = 0
    for name, side in _sides(scale).items():
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][name] = dict(tuned.settings)
        series["landscape"][name] = [[s["lr"], v] for s, v in zip(side.grid, tuned.scores, strict=True)]
        runs = repeat(context, task, side, tuned.settings, seeds, scale.steps)
        losses[name] = [run.test_loss for run in runs]
        figures[f"loss_{side.method}"] = mean(losses[name])
        if name == "AuON":  # the control: cosh(0) = 1, everything else alike
            control = Side("Control", side.method, side.grid, {**side.fixed, "gamma": 0.0})
            runs = repeat(context, task, control, tuned.settings, seeds, scale.steps)
            losses["Control"] = [run.test_loss for run in runs]
            figures["loss_control"] = mean(losses["Control"])
    for figure, ours, theirs in (
        ("gap_percent_to_muon", "AuON", "Muon"),
        ("gap_percent_to_adamw", "AuON", "AdamW"),
        ("gap_percent_to_control", "AuON", "Control"),
        ("gap_percent_hybrid_to_muon", "Hybrid AuON", "Muon"),
    ):
        figures |= percent(figure, losses[ours], losses[theirs])
    for method in ("auon", "hybrid-auon", "muon"):
        context.say(f"timing {method}")
        series["time"][method] = [_step_time(method, side, context.device) for side in scale.sides]
    figures["step_time_over_muon_at_largest_matrix"] = series["time"]["auon"][-1] / series["time"]["muon"][-1]
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(series["landscape"]["AuON"]),
        "steps per run": scale.steps,
        "batch size": scale.batch,
        "characters per window": scale.context,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
A gap is AuON's test loss less the other's, in per cent of the other's, paired by seed.

1. AuON matches or beats Muon: the interval of the gap ends at or below +{MARGIN:g} %.
2. AuON matches or beats AdamW: likewise.
3. The hyperbolic cosine does something: with the same settings, AuON's loss is lower than that of the control without
   it, which is momentum of unit Frobenius norm (the interval of the gap lies below 0).
4. It is cheap: on the largest matrix timed, a step takes at most {CHEAP:g} times as long as Muon's.

- **reproduced**: all four. **partly**: 4, and 1 or 2.
- **not reproduced**: 4 fails, or the intervals of both gaps, to Muon and to AdamW, lie above +{MARGIN:g} %, or that to
  Muon does and 3 fails.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


_ENDS = ("", "_low", "_high")


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    muon, adamw, control, hybrid = (
        [figures.get(f"gap_percent_{name}{end}") for end in _ENDS]
        for name in ("to_muon", "to_adamw", "to_control", "hybrid_to_muon")
    )
    if None in muon or None in adamw or None in control or None in hybrid:
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    cost = figures["step_time_over_muon_at_largest_matrix"]
    said = (
        "AuON's loss differs by {:+.2f} % ({:+.2f} to {:+.2f}) from Muon's".format(*muon)
        + ", by {:+.2f} % ({:+.2f} to {:+.2f}) from AdamW's".format(*adamw)
        + ", and by {:+.3f} % ({:+.3f} to {:+.3f}) from its own without the hyperbolic cosine".format(*control)
        + f"; a step on the largest matrix takes {cost:.2f} times Muon's time. "
        + "Hybrid AuON differs by {:+.2f} % ({:+.2f} to {:+.2f}) from Muon.".format(*hybrid)
    )
    holds = [muon[2] <= MARGIN, adamw[2] <= MARGIN, control[2] < 0, cost <= CHEAP]
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    behind = muon[1] > MARGIN
    if not holds[3] or (behind and (adamw[1] > MARGIN or not holds[2])):
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or holds[1] else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Tuning, the scores of fresh seeds, and the time of a step over the size."""
    figure, (landscape, loss, cost) = canvas(columns=3)
    looks = {name: index for index, name in enumerate(("AuON", "Muon", "AdamW", "Hybrid AuON", "Control"))}
    for name, points in series["landscape"].items():
        scored = [p for p in points if p[1] is not None]
        rates = sorted({p[0] for p in scored})
        best = [min(v for r, v in scored if r == rate) for rate in rates]
        landscape.plot(rates, best, color=COLOURS[looks[name]], marker=MARKERS[looks[name]], label=name)
    landscape.set_xscale("log")
    landscape.set_xlabel("learning rate")
    landscape.set_ylabel("validation loss")
    landscape.set_title("Tuning")
    landscape.legend(fontsize=8)
    names = ("AuON", "Control", "Hybrid AuON", "Muon", "AdamW")
    for place, name in enumerate(names):
        values = [v for v in series["loss"][name] if v is not None]
        colour, marker = COLOURS[looks[name]], MARKERS[looks[name]]
        loss.plot([place] * len(values), values, marker, color=colour, alpha=0.4)
        if values:
            loss.plot([place - 0.3, place + 0.3], [sum(values) / len(values)] * 2, color=colour, linewidth=2.5)
    loss.set_xticks(range(len(names)), ["AuON", "AuON\nno cosh", "Hybrid\nAuON", "Muon", "AdamW"], fontsize=8)
    loss.set_ylabel("test loss (nats per character)")
    loss.set_title("Fresh seeds")
    for method, name in (("auon", "AuON"), ("hybrid-auon", "Hybrid AuON"), ("muon", "Muon")):
        cost.plot(
            series["sides"], series["time"][method], color=COLOURS[looks[name]], marker=MARKERS[looks[name]], label=name
        )
    first, last = series["sides"][0], series["sides"][-1]
    base = series["time"]["auon"][-1]
    cost.plot([first, last], [base * (first / last) ** 2, base], color=INK, linestyle=":", label="entries")
    cost.set_xscale("log", base=2)
    cost.set_yscale("log")
    cost.set_xticks(series["sides"], [str(s) for s in series["sides"]])
    cost.set_xlabel("side of a square matrix")
    cost.set_ylabel("step (ms)")
    cost.set_title("Cost of a step")
    cost.legend(fontsize=8)
    return figure


CLAIM = Claim(
    method="auon",
    title="AuON",
    statement=card("auon").claim,
    paper=card("auon").papers[0],
    test="""\
A small decoder-only transformer learns to predict the characters of Python's standard library. AuON (the paper's
equations), Hybrid AuON with one Newton-Schulz polynomial, Muon and AdamW are tuned over equally many settings for the
same number of steps: five learning rates of the matrices in steps of about 3, and three of embeddings, head, norms and
biases, which all sides treat by AdamW (AdamW itself gets two rates as well). The winners are trained again with fresh
seeds under the same schedule (warm-up, then cosine). The control has AuON's tuned settings and no hyperbolic cosine:
since the cosine's root mean square is one up to the inverse of the number of entries, it should be the same method. A
step is timed on square matrices of several sizes. """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 12 steps; seconds; always inconclusive",
        Size.LAPTOP: "32 thousand parameters, 150 steps, 15 settings and 4 seeds per side; minutes",
        Size.FULL: "5 million parameters, 20,000 steps of 32 windows of 256 characters, 18 settings and 5 seeds per "
        "side; a few days on one GPU (the authors' own runs, GPT on FineWeb-Edu, need its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
