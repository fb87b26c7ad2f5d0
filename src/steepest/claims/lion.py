"""Lion against AdamW on a small transformer, at several batch sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steepest.catalogue import card

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, difference, grid, interval, mean, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Per cent of AdamW's loss that still count as a match.
MARGIN = 1.0


@dataclass(frozen=True)
class _Scale:
    batches: tuple[int, ...]
    examples: int  # windows that one run sees, whatever the batch size
    seeds: int
    rates: int  # learning rates per side
    decays: int  # weight decays per side
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    corpus: int = 2_000_000  # characters


_SCALES = {
    Size.SMOKE: _Scale((4, 32), 128, 1, 1, 1, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale((8, 32, 128), 6144, 4, 5, 2),
    Size.FULL: _Scale((16, 64, 256), 320_000, 5, 6, 3, width=256, layers=6, context=256, windows=512, corpus=5_000_000),
}


def _sides(scale: _Scale) -> tuple[Side, Side]:
    """The same learning rates for both, in steps of about 3; Lion's weight decays are 10 times higher."""
    order = (1, 2, 0, 3, 4, 5)[: scale.rates]  # the usual ones first, for the sizes that try few
    rates = sorted((1e-3, 3e-3, 1e-2, 3e-2, 3e-4, 1e-4)[k] for k in order)
    lion = grid(lr=rates, weight_decay=(0.1, 1.0, 3.0)[: scale.decays])
    adamw = grid(lr=rates, weight_decay=(0.01, 0.1, 0.3)[: scale.decays])
    # The momenta that the authors use for language models, for both.
    return Side("Lion", "lion", lion, {"betas": (0.95, 0.98)}), Side("AdamW", "adamw", adamw, {"betas": (0.9, 0.99)})


def measure(context: Context) -> Measured:
    """Tune both at every batch size, then train with fresh seeds."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    sides = _sides(scale)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"batches": list(scale.batches), "loss": {}, "settings": {}}
    gaps: list[list[float] | None] = []
    states: dict[str, float | None] = {}
    edges = 0
    for batch in scale.batches:
        task = characters(
            batch=batch,
            width=scale.width,
            layers=scale.layers,
            context=scale.context,
            windows=scale.windows,
            corpus=scale.corpus,
        )
        steps = scale.examples // batch
        losses: dict[str, list[float | None]] = {}
        for side in sides:
            at = Context(
                context.size, context.seed, lambda text, b=batch: context.say(f"batch {b}, {text}"), context.device
            )
            tuned = tune(at, task, side, steps)
            edges += tuned.at_edge
            runs = repeat(at, task, side, tuned.settings, seeds, steps)
            losses[side.name] = [run.test_loss for run in runs]
            states[side.name] = mean([run.state_bytes_per_parameter for run in runs])
            figures[f"{side.method}_loss_batch_{batch}"] = mean(losses[side.name])
            series["settings"][f"{side.name}, batch {batch}"] = dict(tuned.settings)
        series["loss"][str(batch)] = losses
        pairs = list(zip(losses["Lion"], losses["AdamW"], strict=True))
        gap = None if any(a is None or b is None for a, b in pairs) else [100 * (a / b - 1) for a, b in pairs]  # type: ignore[operator]
        gaps.append(gap)
        if gap is not None:
            figures |= interval(gap).figures(f"gap_percent_batch_{batch}")
    last = f"gap_percent_batch_{scale.batches[-1]}"
    for end in ("", "_low", "_high"):
        figures[f"gap_percent_largest_batch{end}"] = figures.get(last + end)
    trend = difference(gaps[-1], gaps[0]) if gaps[-1] is not None and gaps[0] is not None else None
    figures |= trend.figures("gap_change") if trend else {"gap_change": None}
    figures["state_bytes_per_parameter_lion"] = states["Lion"]
    figures["state_bytes_per_parameter_adamw"] = states["AdamW"]
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side and batch size": len(sides[0].grid),
        "windows per run": scale.examples,
        "characters per window": scale.context,
        "batch sizes": ", ".join(map(str, scale.batches)),
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
A gap is Lion's test loss less AdamW's, in per cent of AdamW's, paired by seed.

- **reproduced**: at the largest batch size the interval of the gap ends at or below +{MARGIN:g} % (Lion matches or
  beats AdamW), the gap there is lower than at the smallest batch size (the interval of the change lies below 0), and
  Lion's state has at most 51 % of AdamW's bytes.
- **partly**: the match at the largest batch size and the state, but not the trend.
- **not reproduced**: at the largest batch size the interval of the gap lies above +{MARGIN:g} %, or the state is
  larger.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    gap, low, high = (figures.get(f"gap_percent_largest_batch{end}") for end in ("", "_low", "_high"))
    change, change_low, change_high = (figures.get(f"gap_change{end}") for end in ("", "_low", "_high"))
    ours, theirs = figures["state_bytes_per_parameter_lion"], figures["state_bytes_per_parameter_adamw"]
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    if None in (gap, low, high, change, change_low, change_high, ours, theirs):
        return Judgement(Verdict.INCONCLUSIVE, "A run at the smallest or the largest batch size has no score.")
    state = f"Lion keeps {ours:.2f} bytes per parameter where AdamW keeps {theirs:.2f}."
    said = f"At the largest batch size Lion's loss differs from AdamW's by {gap:+.2f} % ({low:+.2f} to {high:+.2f})"
    said += f", {change:+.2f} points ({change_low:+.2f} to {change_high:+.2f}) against the smallest batch size; {state}"
    half = ours <= 0.51 * theirs
    if low > MARGIN or not half:
        return Judgement(Verdict.NOT_REPRODUCED, said)
    if high > MARGIN:
        return Judgement(Verdict.INCONCLUSIVE, f"{said} The interval does not tell a match from a loss.")
    return Judgement(Verdict.REPRODUCED if change_high < 0 else Verdict.PARTLY, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test loss of both, and the gap, over the batch size."""
    figure, (left, right) = canvas()
    batches = series["batches"]
    for index, name in enumerate(("Lion", "AdamW")):
        for batch in batches:
            values = [v for v in series["loss"][str(batch)][name] if v is not None]
            left.plot([batch] * len(values), values, MARKERS[index], color=COLOURS[index], alpha=0.35, markersize=4)
        means = [figures[f"{name.lower()}_loss_batch_{b}"] for b in batches]
        left.plot(batches, means, color=COLOURS[index], marker=MARKERS[index], label=name)
    left.set_ylabel("test loss (nats per character)")
    left.set_title("Loss after the same number of examples")
    left.legend()
    known = [b for b in batches if figures.get(f"gap_percent_batch_{b}") is not None]
    means = [figures[f"gap_percent_batch_{b}"] for b in known]
    ends = [[figures[f"gap_percent_batch_{b}_{end}"] for b in known] for end in ("low", "high")]
    right.axhline(0, color=INK, linewidth=1)
    right.axhspan(-MARGIN, MARGIN, color=INK, alpha=0.08, linewidth=0)
    if known and None not in ends[0]:
        errors = [
            [m - e for m, e in zip(means, ends[0], strict=True)],
            [e - m for m, e in zip(means, ends[1], strict=True)],
        ]
        right.errorbar(known, means, errors, color=COLOURS[0], marker=MARKERS[0], capsize=4)
    else:
        right.plot(known, means, color=COLOURS[0], marker=MARKERS[0])
    right.set_ylabel("Lion's loss against AdamW's (%)")
    right.set_title("Below 0: Lion is better (band: a match)")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(b) for b in batches])
        axes.set_xlabel("batch size (windows)")
    return figure


CLAIM = Claim(
    method="lion",
    title="Lion",
    statement=card("lion").claim,
    paper=card("lion").papers[0],
    test="""\
A small decoder-only transformer learns to predict the characters of Python's standard library. Lion and AdamW are each
tuned at every batch size over the same learning rates (3e-4 to 3e-2 at laptop size) and as many weight decays (Lion's
10 times higher, as the authors advise), with the momenta that the authors use for language models. Every run sees the
same number of windows, whatever the batch size, under the same schedule (warm-up, then cosine): at laptop size 768, 192
and 48 steps, which is short. The winners are trained again with fresh seeds, and scored on held-out text. """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, a transformer of width 16; seconds; always inconclusive",
        Size.LAPTOP: "batch sizes 8, 32, 128; 10 settings and 4 seeds per side; 33 thousand parameters; minutes",
        Size.FULL: "batch sizes 16, 64, 256; 18 settings and 5 seeds per side; 5 million parameters and 82 million "
        "characters per run; days on one GPU (the paper's own runs, ViT on ImageNet and JFT, need its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
