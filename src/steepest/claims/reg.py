"""REG against AdamW and Muon: a small transformer from scratch, and one that AdamW has trained on another text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from steepest import data
from steepest.arena.task import Task
from steepest.arena.train import evaluate, train
from steepest.catalogue import card

from .characters import Text, characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, mean, parts, percent, remembered, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas, tuning
from .two_rates import TwoRates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: A gain of fewer per cent of the loss does not count.
SMALL = 1.0
#: Stability: how many times too high the learning rate of the matrices is.
STRAY = 10
_STRAY = f"{{}} at {STRAY} times its rate"
#: The loss of a model that knows nothing.
_GUESS = math.log(len(data.PYTEXT_VOCABULARY))


@dataclass(frozen=True)
class _Scale:
    scratch: int  # steps of a run from scratch
    before: int  # steps of AdamW before fine-tuning
    tuned: int  # steps of fine-tuning
    seeds: int
    rates: int
    others: int  # learning rates of embeddings, head, norms and biases per side
    batch: int = 16
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    corpus: int = 2_000_000
    text: Text = "shakespeare"  # to fine-tune on


_SCALES = {
    Size.SMOKE: _Scale(
        8, 12, 8, 1, 1, 1, batch=4, width=16, layers=1, context=16, windows=16, corpus=200_000, text="python"
    ),
    Size.LAPTOP: _Scale(200, 1000, 150, 5, 5, 3),
    Size.FULL: _Scale(
        20_000, 100_000, 5000, 5, 6, 3, batch=32, width=256, layers=6, context=256, windows=400, corpus=5_000_000
    ),
}


def _sides(scale: _Scale) -> dict[str, Side]:
    """Equally many settings for all; updates of one learning rate have about one size (NGD's: a tenth of it)."""
    order = (2, 1, 3, 0, 4, 5)[: scale.rates]  # the middle first, for the sizes that try few
    rates = sorted((1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)[k] for k in order)
    others = (3e-2, 1e-2, 0.1)[: scale.others]
    choices = grid(lr=rates, adamw_lr=others)
    decay = {"weight_decay": 0.01}
    return {
        "REG": Side("REG", "reg", choices, decay),
        "AdamW": TwoRates("AdamW", "adamw", choices, {"betas": (0.9, 0.95), **decay}),
        "Muon": Side("Muon", "muon", choices, {"scale": "rms", **decay}),
        "NGD": Side("NGD", "auon", grid(lr=[10 * r for r in rates], adamw_lr=others), {"gamma": 0.0, **decay}),
    }


def _loaded(model: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module:
    made = model()
    made.load_state_dict(weights)
    return made


def _pretrained(
    context: Context, task: Task, side: Side, settings: Mapping[str, Any], seed: int, steps: int
) -> tuple[dict[str, Tensor], float]:
    """The weights that training leaves, and their loss on the test split."""
    context.say(f"training with {side.name} what is fine-tuned, seed {seed}")
    kept, held = remembered(task)
    ended = train(kept, side.card(), settings, seed=seed, steps=steps, device=context.device)
    if ended.status != "complete":
        raise RuntimeError(f"{side.name} does not train {task.name}: {ended.reason}")
    model = held[0].cpu()
    return model.state_dict(), evaluate(task, model, task.splits().test)[1]


def _finetuned(
    context: Context, tasks: Mapping[int, Task], former: Task, side: Side, settings: Mapping[str, Any], steps: int
) -> tuple[list[float | None], list[float | None]]:
    """Per seed the loss on the test split of the new text, and on that of the former one."""
    losses: list[float | None] = []
    kept: list[float | None] = []
    for seed, task in tasks.items():
        task, held = remembered(task)
        (run,) = repeat(context, task, side, settings, [seed], steps)
        losses.append(run.test_loss)
        left = evaluate(former, held[0].cpu(), former.splits().test)[1]
        kept.append(left if math.isfinite(left) else None)
    return losses, kept


def measure(context: Context) -> Measured:
    """From scratch; then AdamW's models are fine-tuned: with tuned rates, with AdamW's, and with rates too high."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    python, other = (
        characters(
            batch=scale.batch,
            width=scale.width,
            layers=scale.layers,
            context=scale.context,
            windows=scale.windows,
            corpus=scale.corpus,
            text=text,
        )
        for text in ("python", scale.text)
    )
    other.splits()  # missing data is told before anything is trained
    sides = _sides(scale)
    losses: dict[str, list[float | None]] = {}
    scratch = {name: tune(context, python, sides[name], scale.scratch) for name in ("REG", "AdamW")}
    for name, found in scratch.items():
        runs = repeat(context, python, sides[name], found.settings, seeds, scale.scratch)
        losses[f"{name} from scratch"] = [run.test_loss for run in runs]

    tasks: dict[int, Task] = {}
    before: list[float | None] = []
    for seed in (context.tuning_seed, *seeds):
        weights, loss = _pretrained(context, python, sides["AdamW"], scratch["AdamW"].settings, seed, scale.before)
        tasks[seed] = replace(other, model=partial(_loaded, other.model, weights))
        before.append(loss)
    tuning_task = tasks.pop(context.tuning_seed)
    kept = {"before": before[1:]}
    tuned = {name: tune(context, tuning_task, side, scale.tuned) for name, side in sides.items()}
    best = {name: dict(found.settings) for name, found in tuned.items()}
    plans = {name: (name, best[name]) for name in sides}
    plans |= {f"{name} at AdamW's rates": (name, best["AdamW"]) for name in ("REG", "Muon")}
    plans |= {_STRAY.format(name): (name, {**best[name], "lr": STRAY * best[name]["lr"]}) for name in ("REG", "AdamW")}
    for label, (name, settings) in plans.items():
        losses[label], kept[label] = _finetuned(context, tasks, python, sides[name], settings, scale.tuned)

    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    figures |= percent("scratch_percent_reg_over_adamw", losses["REG from scratch"], losses["AdamW from scratch"])
    for ours, theirs in (
        ("REG", "AdamW"),
        ("Muon", "AdamW"),
        ("Muon", "REG"),
        ("NGD", "AdamW"),
        ("REG at AdamW's rates", "AdamW"),
        ("Muon at AdamW's rates", "AdamW"),
    ):
        figures |= percent(f"percent_{_key(ours)}_over_{_key(theirs)}", losses[ours], losses[theirs])
    rises = {}
    for name in ("REG", "AdamW"):
        # A run that diverges knows as much as a guess.
        ends = [_GUESS if v is None else v for v in losses[_STRAY.format(name)]]
        rises[name] = [None if low is None else end - low for end, low in zip(ends, losses[name], strict=True)]
        figures[f"rise_{_key(name)}"] = mean(rises[name])
    gap = difference(rises["REG"], rises["AdamW"])
    figures |= gap.figures("rise_reg_less_adamw") if gap else {"rise_reg_less_adamw": None}
    figures |= {f"loss_{_key(name)}": mean(values) for name, values in losses.items()}
    figures |= {f"python_loss_{_key(name)}": mean(values) for name, values in kept.items()}
    figures["winners_at_edge_of_grid"] = sum(t.at_edge for t in (*scratch.values(), *tuned.values()))
    landscapes = {
        label: {n: [[s["lr"], v] for s, v in zip(sides[n].grid, t.scores, strict=True)] for n, t in found.items()}
        for label, found in (("scratch", scratch), ("tuned", tuned))
    }
    chosen = {f"{name} from scratch": dict(found.settings) for name, found in scratch.items()}
    chosen |= {label: settings for label, (_, settings) in plans.items()}
    budgets = {
        "settings tried per side": len(sides["REG"].grid),
        "steps from scratch": scale.scratch,
        "steps of AdamW before fine-tuning": scale.before,
        "steps of fine-tuning": scale.tuned,
        "batch size": scale.batch,
        "characters per window": scale.context,
    }
    series = {"loss": losses, "python_loss": kept, "landscape": landscapes, "settings": chosen}
    return Measured(figures, series, seeds, budgets)


def _key(name: str) -> str:
    return name.lower().replace("'", "").replace(" ", "_")


RULE = f"""\
Losses are on the test split; gaps are in per cent of the other's loss, paired by seed.

1. From scratch REG's loss is lower than AdamW's (the interval of the gap lies below 0).
2. In fine-tuning REG's loss is lower than AdamW's (likewise).
3. Muon fails in fine-tuning: its loss is higher than AdamW's and than REG's (both intervals lie above 0).
4. REG is more stable: in fine-tuning with {STRAY} times the tuned learning rate of the matrices its loss rises less
   than AdamW's (the interval of the paired difference lies below 0; a run that diverges has the loss of a guess).

- **reproduced**: all four. **partly**: at least one of 1, 2 and 3.
- **not reproduced**: none of 1, 2 and 3, and the intervals of both 1 and 2 lie above -{SMALL:g} %: no gain, or one so
  small that it does not count.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


_ENDS = ("", "_low", "_high")


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])

    def gap(name: str) -> list[Any]:
        return [figures.get(f"{name}{end}") for end in _ENDS]

    scratch, tuned, muon, over, rise = needed = [
        gap("scratch_percent_reg_over_adamw"),
        gap("percent_reg_over_adamw"),
        gap("percent_muon_over_adamw"),
        gap("percent_muon_over_reg"),
        gap("rise_reg_less_adamw"),
    ]
    if any(None in found for found in needed):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    text = "{:+.2f} % ({:+.2f} to {:+.2f})".format
    said = (
        f"From scratch REG's loss differs by {text(*scratch)} from AdamW's. Fine-tuning what AdamW has trained, REG's "
        f"differs by {text(*tuned)} and Muon's by {text(*muon)} from AdamW's, and Muon's by {text(*over)} from REG's"
    )
    carried = gap("percent_reg_at_adamws_rates_over_adamw"), gap("percent_muon_at_adamws_rates_over_adamw")
    if None not in (*carried[0], *carried[1]):
        said += f"; with AdamW's learning rates REG's by {text(*carried[0])} and Muon's by {text(*carried[1])}"
    said += (
        f". At {STRAY} times the tuned rate REG's loss rises by {figures['rise_reg']:.2f} and AdamW's by "
        f"{figures['rise_adamw']:.2f} (difference {rise[0]:+.2f}, {rise[1]:+.2f} to {rise[2]:+.2f})."
    )
    holds = [scratch[2] < 0, tuned[2] < 0, muon[1] > 0 and over[1] > 0, rise[2] < 0]
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if any(holds[:3]):
        return Judgement(Verdict.PARTLY, said)
    small = scratch[1] > -SMALL and tuned[1] > -SMALL
    return Judgement(Verdict.NOT_REPRODUCED if small else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """What tuning saw, the gaps to AdamW, and what fine-tuning costs on the former text."""
    figure, (scratch, tuned, gaps, kept) = canvas(rows=2)
    tuning(scratch, series["landscape"]["scratch"], "validation loss (nats)")
    scratch.set_title("From scratch: tuning")
    tuning(tuned, series["landscape"]["tuned"], "validation loss (nats)")
    tuned.set_title("Fine-tuning: tuning")
    looks = {name: index for index, name in enumerate(series["landscape"]["tuned"])}
    rows = {
        "REG\nfrom scratch": "scratch_percent_reg_over_adamw",
        "REG": "percent_reg_over_adamw",
        "REG, AdamW's rates": "percent_reg_at_adamws_rates_over_adamw",
        "Muon": "percent_muon_over_adamw",
        "Muon, AdamW's rates": "percent_muon_at_adamws_rates_over_adamw",
        "NGD": "percent_ngd_over_adamw",
    }
    gaps.axvline(0, color=INK, linewidth=1)
    for place, (label, key) in enumerate(rows.items()):
        middle, low, high = (figures.get(f"{key}{end}") for end in _ENDS)
        index = looks[label.replace(",", "").split()[0]]
        if middle is not None:
            gaps.plot([middle], [place], MARKERS[index], color=COLOURS[index], markersize=8)
        if low is not None and high is not None:
            gaps.plot([low, high], [place, place], color=COLOURS[index], linewidth=2.5)
    gaps.set_yticks(range(len(rows)), list(rows), fontsize=8)
    gaps.set_ylim(len(rows) - 0.5, -0.5)
    gaps.set_xlabel("loss against AdamW's (%)")
    gaps.set_title("Below 0: better than AdamW")
    for label in (*looks, "Muon at AdamW's rates"):
        name, _, how = label.partition(" at ")
        pairs = zip(series["loss"][label], series["python_loss"][label], strict=True)
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if known:
            x, y = zip(*known, strict=True)
            look, fill = looks[name], "none" if how else "full"
            kept.plot(x, y, MARKERS[look], label=label, color=COLOURS[look], fillstyle=fill, markersize=6)
    kept.set_xlabel("loss on the new text (nats)")
    kept.set_ylabel("loss on the former text (nats)")
    kept.set_title("Fresh seeds: learned and forgotten")
    low, high = kept.get_ylim()
    kept.set_ylim(low, high + 0.4 * (high - low))
    kept.legend(ncols=2, loc="upper center", fontsize=8)
    return figure


CLAIM = Claim(
    method="reg",
    title="REG",
    statement=card("reg").claim,
    paper=card("reg").papers[0],
    test="""\
A small decoder-only transformer learns to predict the characters of Python's standard library, with REG and with AdamW.
Then AdamW trains such models for longer, one per seed, and they are fine-tuned on Shakespeare's plays with REG, AdamW,
Muon (scaled to AdamW's update size) and normalized gradient descent (NGD: momentum of unit Frobenius norm), which the
paper compares as well. In both parts all sides are tuned over equally many settings for the same number of steps: five
learning rates of the matrices in steps of about 3, and three of embeddings, head, norms and biases, which all treat by
AdamW (AdamW itself gets two rates as well); the winners are run again with fresh seeds under the same schedule
(warm-up, then cosine). Besides, REG and Muon are fine-tuned with AdamW's tuned rates, as someone would who changes the
optimizer alone, and REG and AdamW with ten times their own rate of the matrices. The loss on Python after fine-tuning
shows what was forgotten; it plays no part in the verdict. The ranges of learning rates were placed by a look at single
runs with the tuning seed.""",
    seen="""\
Fixed before the figures below were seen, but not before any figures were: a probe of single runs with the tuning seed
had been seen by then.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 8 steps, Python in place of the plays; seconds; always inconclusive",
        Size.LAPTOP: "33 thousand parameters, 200 steps from scratch and 150 of fine-tuning after 1,000 of AdamW, tiny "
        "Shakespeare (found as `steepest.data.tiny_shakespeare` says), 15 settings and 5 seeds per side; minutes",
        Size.FULL: "5 million parameters, 20,000 steps from scratch and 5,000 of fine-tuning after 100,000 of AdamW, "
        "18 settings and 5 seeds per side; days on one GPU (the authors fine-tune Qwen2.5-Math, whose weights it would "
        "need)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
