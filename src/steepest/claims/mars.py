"""MARS against AdamW, Muon and itself without the correction, on a small transformer; approximate and exact."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steepest.catalogue import card
from steepest.core.card import MethodCard

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, grid, mean, parts, percent, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Per cent of the loss. A gain of less is none: the paper's are 1.2 to 2.7.
SMALL = 0.3
#: Per cent by which the approximate form may be worse than the exact one and still do as well.
MARGIN = 1.0
_DECAY = 0.1
#: Shown as; the first is the one under test.
_NAMES = ("MARS", "no correction", "MARS exact", "AdamW", "Muon")


@dataclass(frozen=True)
class _Scale:
    batch: int
    steps: int  # parameter updates
    seeds: int
    rates: int  # learning rates per side
    averages: int  # choices of momentum per side
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    corpus: int = 2_000_000  # characters


_SCALES = {
    Size.SMOKE: _Scale(4, 12, 1, 1, 1, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale(16, 200, 5, 5, 2),
    Size.FULL: _Scale(64, 10_000, 5, 6, 2, width=256, layers=6, context=256, windows=512, corpus=5_000_000),
}


class _TwoGradients(Side):
    """A side whose optimizer is given closures."""

    def card(self) -> MethodCard:
        return replace(super().card(), needs=frozenset({"gradient", "closure"}))


def _sides(scale: _Scale) -> dict[str, Side]:
    """The same learning rates, in steps of about 3, and as many choices of momentum for all."""
    order = (2, 1, 3, 0, 4, 5)[: scale.rates]  # the usual ones first, for the sizes that try few
    rates = sorted((1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-4)[k] for k in order)
    betas = ((0.95, 0.99), (0.9, 0.95))[: scale.averages]  # the authors', and those they use for AdamW
    own, decay = grid(lr=rates, betas=betas), {"weight_decay": _DECAY}
    # At this scale Muon's updates have the size of AdamW's, so that one learning rate serves both of its rules.
    muon = [{**s, "adamw_lr": s["lr"]} for s in grid(lr=rates, momentum=[b for b, _ in betas])]
    sides = (
        Side("MARS", "marsadamw", own, decay),
        Side("no correction", "marsadamw", own, {**decay, "gamma": 0.0}),
        _TwoGradients("MARS exact", "marsadamw", own, {**decay, "exact": True}),
        Side("AdamW", "adamw", own, decay),
        Side("Muon", "muon", muon, {**decay, "scale": "rms"}),
    )
    return {side.name: side for side in sides}


def measure(context: Context) -> Measured:
    """Tune all sides, then train with fresh seeds."""
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
    series: dict[str, Any] = {"loss": {}, "landscape": {}, "settings": {}}
    edges = 0
    for name, side in _sides(scale).items():
        # The budget counts gradients: one in the first step, two in every other.
        gradients = 2 * scale.steps - 1 if name == "MARS exact" else scale.steps
        tuned = tune(context, task, side, gradients)
        edges += tuned.at_edge
        series["settings"][name] = dict(tuned.settings)
        best: dict[float, float] = {}
        for setting, score in zip(side.grid, tuned.scores, strict=True):
            if score is not None:
                best[setting["lr"]] = min(score, best.get(setting["lr"], score))
        series["landscape"][name] = sorted(best.items())
        runs = {name: gradients} | ({"MARS exact, equal gradients": scale.steps} if name == "MARS exact" else {})
        for label, budget in runs.items():
            found = repeat(context, task, side, tuned.settings, seeds, budget)
            series["loss"][label] = [run.test_loss for run in found]
            figures[f"loss_{_key(label)}"] = mean(series["loss"][label])
    for ours, theirs in (
        ("MARS", "AdamW"),
        ("MARS", "no correction"),
        ("MARS", "Muon"),
        ("MARS", "MARS exact"),
        ("MARS", "MARS exact, equal gradients"),
        ("no correction", "AdamW"),
    ):
        name = f"gap_percent_{_key(ours)}_to_{_key(theirs)}"
        figures |= percent(name, series["loss"][ours], series["loss"][theirs])
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": scale.rates * scale.averages,
        "steps per run": scale.steps,
        "gradients per run": f"{scale.steps}; MARS exact {2 * scale.steps - 1}",
        "windows per step": scale.batch,
        "characters per window": scale.context,
    }
    return Measured(figures, series, seeds, budgets)


def _key(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "_")


RULE = f"""\
A gap is the test loss of MARS-AdamW's approximate form less another's, in per cent of the other's, paired by seed.

1. The gap to AdamW lies below 0 (its whole interval).
2. The gap to MARS without the correction (gamma = 0), with the clip and the same choice of momenta, lies below 0.
3. The gap to Muon lies below 0.
4. The gap to the exact form, after as many steps with twice the gradients, ends at or below +{MARGIN:g} %.

- **reproduced**: all four. **partly**: 1 and 2, but not both of 3 and 4.
- **not reproduced**: the interval of 1 or of 2 lies above -{SMALL:g} %: no gain, or one so small that it does not \
count.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""

_ENDS = ("", "_low", "_high")


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    gaps = {
        other: [figures.get(f"gap_percent_mars_to_{other}{end}") for end in _ENDS]
        for other in ("adamw", "no_correction", "muon", "mars_exact")
    }
    if any(None in gap for gap in gaps.values()):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    told = {name: "{:+.2f} % ({:+.2f} to {:+.2f})".format(*gap) for name, gap in gaps.items()}
    holds = [gaps[name][2] < 0 for name in ("adamw", "no_correction", "muon")] + [gaps["mars_exact"][2] <= MARGIN]
    said = parts(
        holds,
        f"The loss of MARS differs from tuned AdamW's by {told['adamw']}, from its own without the correction by "
        f"{told['no_correction']}, from Muon's by {told['muon']}, and from the exact form's by {told['mars_exact']}.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if holds[0] and holds[1]:
        return Judgement(Verdict.PARTLY, said)
    if any(gaps[name][1] > -SMALL for name in ("adamw", "no_correction")):
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """The tuning's losses over the learning rate, and the gaps."""
    figure, (left, right) = canvas()
    for index, name in enumerate(_NAMES):
        if series["landscape"].get(name):
            left.plot(
                *zip(*series["landscape"][name], strict=True), color=COLOURS[index], marker=MARKERS[index], label=name
            )
    left.set_xscale("log")
    left.set_xlabel("learning rate")
    left.set_ylabel("validation loss (nats per character)")
    left.set_title("Tuning: the better of the momenta")
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.3 * (high - low))
    left.legend(ncols=2, loc="upper center")
    others = [*_NAMES[1:], "MARS exact, equal gradients"]
    right.axvline(0, color=INK, linewidth=1)
    for place, name in enumerate(others):
        index = min(place + 1, len(_NAMES)) % len(COLOURS)
        pairs = zip(series["loss"]["MARS"], series["loss"][name], strict=True)
        gaps = [100 * (a / b - 1) for a, b in pairs if a is not None and b is not None]
        right.plot(gaps, [place] * len(gaps), MARKERS[index], color=COLOURS[index], alpha=0.35, markersize=4)
        middle, low, high = (figures.get(f"gap_percent_mars_to_{_key(name)}{end}") for end in _ENDS)
        if middle is not None:
            right.plot([middle], [place], MARKERS[index], color=COLOURS[index], markersize=8)
        if low is not None and high is not None:
            right.plot([low, high], [place, place], color=COLOURS[index], linewidth=2.5)
    right.set_yticks(range(len(others)), [name.replace(", ", ",\n") for name in others])
    right.set_ylim(len(others) - 0.5, -0.5)
    right.set_xlabel("loss of MARS against theirs (%)")
    right.set_title("Below 0: MARS is better")
    return figure


CLAIM = Claim(
    method="marsadamw",
    title="MARS-AdamW",
    statement=card("marsadamw").claim,
    paper=card("marsadamw").papers[0],
    test="""\
A small decoder-only transformer learns to predict the characters of Python's standard library. Five sides are each
tuned over the same learning rates and two choices of momentum, the authors' (0.95 and 0.99) and the usual one (0.9 and
0.95), at weight decay 0.1: MARS-AdamW with gamma = 0.025; the same without the correction but with the clip and the
momenta, which tells what the correction adds; its exact form, which takes two gradients per step; AdamW; and Muon. All
see the same windows under the same schedule (warm-up, then cosine). The winners are trained again with fresh seeds, and
scored on held-out text. The exact form is also trained on half the steps, which is as many gradients. No global norm is
clipped (the authors do, for all methods).""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, a transformer of width 16; seconds; always inconclusive",
        Size.LAPTOP: "10 settings and 5 seeds per side; 200 steps of 16 windows; 33 thousand parameters; minutes",
        Size.FULL: "12 settings and 5 seeds per side; 10,000 steps of 64 windows of 256 characters; 5 million "
        "parameters; days on one GPU (the paper's own runs, GPT-2 on OpenWebText, need its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
