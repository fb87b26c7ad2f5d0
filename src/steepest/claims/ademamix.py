"""AdEMAMix against AdamW: Rosenbrock's valley, a small language model, and what is left of a batch seen once."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steepest.arena.task import Task
from steepest.arena.train import factor
from steepest.catalogue import card
from steepest.data import pytext
from steepest.optim import AdEMAMix

from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, difference, grid, mean, parts, repeat, too_few, tune
from .figure import COLOURS, MARKERS, band, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: AdamW must need this many times AdEMAMix's steps.
BUDGET = 1.5
#: Budgets of AdamW, in AdEMAMix's.
_BUDGETS = (1.0, 1.5, 2.0)
#: Distance from the minimum of Rosenbrock's function that counts as there.
_NEAR = 0.1


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    mixes: int  # values of alpha (and of AdamW's beta1)
    kept: int  # seeds of the forgetting experiment
    valley: int  # steps on Rosenbrock's function
    valley_rates: int
    batch: int = 16
    width: int = 32
    layers: int = 2
    context: int = 32
    windows: int = 128
    slow: float = 0.99  # beta3
    corpus: int = 2_000_000  # characters


_SCALES = {
    Size.SMOKE: _Scale(20, 1, 1, 1, 1, 50, 2, batch=4, width=16, layers=1, context=16, windows=16),
    Size.LAPTOP: _Scale(400, 4, 5, 2, 3, 3000, 5),
    Size.FULL: _Scale(
        20_000, 5, 5, 3, 5, 10_000, 9, 32, width=256, layers=6, context=256, windows=512, slow=0.9998, corpus=5_000_000
    ),
}


def _sides(scale: _Scale, steps: int) -> tuple[Side, Side]:
    order = (1, 0, 2, 3, 4)[: scale.rates]
    rates = sorted((3e-3, 1e-2, 3e-2, 1e-3, 3e-4)[k] for k in order)
    alphas = (5.0, 2.0, 8.0)[: scale.mixes]
    betas = ((0.9, 0.999), (0.98, 0.999), (0.95, 0.999))[: scale.mixes]
    mix = {"betas": (0.9, 0.999, scale.slow), "warmup": steps, "weight_decay": 0.1}
    return (
        Side("AdEMAMix", "ademamix", grid(lr=rates, alpha=alphas), mix),
        Side("AdamW", "adamw", grid(lr=rates, betas=betas), {"weight_decay": 0.1}),
    )


def _rosenbrock(p: Tensor) -> Tensor:
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def _valley(steps: int, count: int) -> tuple[dict[str, float | int | None], dict[str, Any]]:
    """From (-3, 5), over several rates: after how many steps the point stays near (1, 1), at the best rate."""
    rates = [float(r) for r in np.geomspace(0.003, 0.3, count)]
    makers: dict[str, Any] = {
        "AdEMAMix": lambda groups: AdEMAMix(groups, betas=(0.9, 0.999, 0.999), alpha=9.0),
        "AdamW, beta1 0.9": lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=0.0),
        "AdamW, beta1 0.999": lambda groups: torch.optim.AdamW(groups, betas=(0.999, 0.999), weight_decay=0.0),
    }
    figures: dict[str, float | int | None] = {}
    series: dict[str, Any] = {}
    for name, make in makers.items():
        points = [torch.tensor([-3.0, 5.0], dtype=torch.float64, requires_grad=True) for _ in rates]
        optimizer = make([{"params": [p], "lr": rate} for p, rate in zip(points, rates, strict=True)])
        paths = [[p.detach().tolist()] for p in points]
        for _ in range(steps):
            optimizer.zero_grad()
            torch.stack([_rosenbrock(p) for p in points]).sum().backward()
            optimizer.step()
            for path, p in zip(paths, points, strict=True):
                path.append(p.detach().tolist())
        distance = np.linalg.norm(np.nan_to_num(np.asarray(paths), nan=1e9, posinf=1e9, neginf=-1e9) - 1, axis=-1)
        settled = [int(np.flatnonzero(d >= _NEAR).max(initial=-1)) + 1 for d in distance]
        best = min(range(len(rates)), key=lambda k: (settled[k], distance[k][-1]))
        key = name.lower().replace(", ", "_").replace(" ", "_").replace(".", "")
        figures[f"valley_steps_{key}"] = settled[best] if settled[best] <= steps else None
        series[name] = {
            "rate": rates[best],
            "distance": np.minimum(distance[best], 1e3)[:: max(1, steps // 300)].tolist(),
        }
    return figures, {"every": max(1, steps // 300), "runs": series}


def _forget(
    context: Context, task: Task, side: Side, settings: Mapping[str, Any], seed: int, scale: _Scale
) -> list[list[float]]:
    """The gain of one held-out batch, put in place of a training batch at half time: [[step after it, gain], ...].

    The gain is the batch's loss in an undisturbed run less that in the disturbed one; both share everything else.
    """
    data = task.splits()
    steps, every = scale.steps, max(1, scale.steps // 100)
    generator = torch.Generator().manual_seed(seed + 500)
    text = pytext(size=scale.corpus)
    length = data.validation.inputs.shape[1]
    batch = tuple(t.to(context.device) for t in text.windows("validation", length, task.batch_size, generator))
    model = task.build(seed).to(context.device)
    optimizer = side.card().build(model, **settings)
    base = [float(group["lr"]) for group in optimizer.param_groups]
    draws = torch.Generator().manual_seed(seed)
    assert task.draw is not None

    def advance(run: tuple[Any, Any], inputs: Tensor, targets: Tensor, step: int) -> None:
        network, method = run
        for group, rate in zip(method.param_groups, base, strict=True):
            group["lr"] = rate * factor(step / steps, (step + 1) / steps)
        method.zero_grad()
        task.loss(network(inputs), targets).backward()
        method.step()

    def loss(run: tuple[Any, Any]) -> float:
        with torch.no_grad():
            return float(task.loss(run[0](batch[0]), batch[1]))

    plain = (model, optimizer)
    half = steps // 2
    for step in range(half):
        advance(plain, *(t.to(context.device) for t in task.draw(data.train, task.batch_size, draws)), step)
    other = copy.deepcopy(plain)
    gains = []
    for step in range(half, steps):
        drawn = tuple(t.to(context.device) for t in task.draw(data.train, task.batch_size, draws))
        advance(plain, *drawn, step)
        advance(other, *(batch if step == half else drawn), step)
        if (step - half) % every == 0 or step == steps - 1:
            gains.append([float(step - half + 1), loss(plain) - loss(other)])
    return gains


def _kept(gains: list[list[float]]) -> float | None:
    """The part of the largest gain that is left at the end (mean of the last tenth); ``None`` if there was no gain."""
    values = [g for _, g in gains]
    largest = max(values)
    return float(np.mean(values[-max(1, len(values) // 10) :])) / largest if largest > 0 else None


def measure(context: Context) -> Measured:
    """Rosenbrock's valley; AdEMAMix against AdamW with 1, 1.5 and 2 times the steps; forgetting."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    context.say("Rosenbrock's function")
    valley, paths = _valley(scale.valley, scale.valley_rates)
    figures |= valley
    series: dict[str, Any] = {"valley": paths, "loss": {}, "settings": {}, "gains": {}}
    task = characters(
        batch=scale.batch,
        width=scale.width,
        layers=scale.layers,
        context=scale.context,
        windows=scale.windows,
        corpus=scale.corpus,
    )
    sides = _sides(scale, scale.steps)
    edges = 0
    losses: dict[str, list[float | None]] = {}
    kept: dict[str, list[float | None]] = {}
    for side in sides:
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][side.name] = dict(tuned.settings)
        for budget in (1.0,) if side.name == "AdEMAMix" else _BUDGETS:
            runs = repeat(context, task, side, tuned.settings, seeds, round(budget * scale.steps))
            losses[f"{side.name} {budget:g}"] = [r.test_loss for r in runs]
            figures[f"loss_{side.method}_{budget:g}_budgets"] = mean(losses[f"{side.name} {budget:g}"])
        context.say(f"forgetting under {side.name}")
        gains = [_forget(context, task, side, tuned.settings, s, scale) for s in seeds[: scale.kept]]
        kept[side.name] = [_kept(g) for g in gains]
        figures[f"part_kept_{side.method}"] = mean(kept[side.name])
        series["gains"][side.name] = gains
    series["loss"] = losses
    for name, found in (
        ("loss_less_adamw", difference(losses["AdEMAMix 1"], losses["AdamW 1"])),
        ("part_kept_more", difference(kept["AdEMAMix"], kept["AdamW"])),
    ):
        figures |= found.figures(name) if found else {name: None}
    figures["adamw_budgets_for_same_loss"] = _equivalent(
        figures["loss_ademamix_1_budgets"], [figures[f"loss_adamw_{b:g}_budgets"] for b in _BUDGETS]
    )
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(sides[0].grid),
        "steps per run": scale.steps,
        "batch size": scale.batch,
        "characters per window": scale.context,
        "seeds of the forgetting experiment": scale.kept,
        "learning rates on Rosenbrock's function": scale.valley_rates,
    }
    return Measured(figures, series, seeds, budgets)


def _equivalent(ours: float | None, theirs: list[float | None]) -> float | None:
    """The budget at which AdamW has our loss, by interpolation in log budget; 1 for 1 or less, 2 for 2 or more."""
    if ours is None or any(v is None for v in theirs):
        return None
    known = np.minimum.accumulate([float(v) for v in theirs if v is not None])
    # np.interp wants rising abscissae; a tie has no slope and counts as the smaller budget.
    return float(2 ** np.interp(-ours, -known, np.log2(_BUDGETS)))


RULE = f"""\
1. Rosenbrock's function: with the best of equally many learning rates, AdEMAMix stays within {_NEAR:g} of the minimum
   after fewer steps than AdamW with beta1 0.9 and with beta1 0.999.
2. Language model: after the same number of steps, AdEMAMix has the lower test loss (the interval of the paired
   difference lies below 0).
3. AdamW needs at least {BUDGET:g} times the steps for the same mean test loss (runs of 1, 1.5 and 2 times the steps,
   each with its own schedule; interpolated).
4. Forgetting: of the gain from a batch seen once, AdEMAMix keeps the larger part to the end (the interval of the paired
   difference lies above 0).

- **reproduced**: all four. **partly**: 2 or 4, and neither of them is refuted.
- **not reproduced**: the interval of 2 lies above 0, or that of 4 below 0.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    loss, kept = (
        [figures.get(n + end) for end in ("", "_low", "_high")] for n in ("loss_less_adamw", "part_kept_more")
    )
    budget = figures["adamw_budgets_for_same_loss"]
    if None in loss or None in kept or budget is None:
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    ours, fast, slow = (figures[f"valley_steps_{n}"] for n in ("ademamix", "adamw_beta1_09", "adamw_beta1_0999"))
    valley = ours is not None and all(v is None or ours < v for v in (fast, slow))
    better, efficient, keeps = loss[2] < 0, budget >= BUDGET, kept[1] > 0
    steps = [f"{v} steps" if v is not None else "never" for v in (ours, fast, slow)]
    said = (
        f"On Rosenbrock's function AdEMAMix settles after {steps[0]}, AdamW after {steps[1]} (beta1 0.9) and "
        f"{steps[2]} (beta1 0.999). The language model's test loss differs by {loss[0]:+.4f} ({loss[1]:+.4f} to "
        f"{loss[2]:+.4f}) from AdamW's; AdamW reaches it with {budget:.2f} times the steps (1 stands for 1 or less, 2 "
        "for 2 or more). "
        f"Of the gain from a batch seen once, AdEMAMix keeps {100 * figures['part_kept_ademamix']:.0f} % to the end, "
        f"AdamW {100 * figures['part_kept_adamw']:.0f} % (difference {100 * kept[0]:+.0f} points, "
        f"{100 * kept[1]:+.0f} to {100 * kept[2]:+.0f})."
    )
    said = parts([valley, better, efficient, keeps], said)
    if valley and better and efficient and keeps:
        return Judgement(Verdict.REPRODUCED, said)
    if loss[1] > 0 or kept[2] < 0:
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.PARTLY if better or keeps else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Distance in the valley, test loss over the budget, and the gain of one batch."""
    figure, (valley, loss, gain) = canvas(columns=3)
    every = series["valley"]["every"]
    for index, (name, run) in enumerate(series["valley"]["runs"].items()):
        steps = [k * every for k in range(len(run["distance"]))]
        valley.plot(steps, run["distance"], color=COLOURS[index], label=name.replace("beta1", "β1"))
    valley.axhline(_NEAR, color="black", linestyle="--", linewidth=1)
    valley.set_yscale("log")
    valley.set_ylim(1e-4, 1e4)
    valley.set_xlabel("step")
    valley.set_ylabel("distance from the minimum")
    valley.set_title("Rosenbrock, best rates")
    valley.legend(loc="upper right", fontsize=8)
    for index, name in enumerate(("AdEMAMix", "AdamW")):
        points = [(float(k.split()[-1]), v) for k, v in series["loss"].items() if k.startswith(f"{name} ")]
        aside = -0.04 if index == 0 else 0.0  # both have runs at 1
        for budget, values in points:
            known = [v for v in values if v is not None]
            loss.plot(
                [budget + aside] * len(known), known, MARKERS[index], color=COLOURS[index], alpha=0.35, markersize=4
            )
        means = [(b + aside, mean(v)) for b, v in points if None not in v]
        loss.plot(*zip(*means, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name, markersize=7)
        if index == 0 and means:
            loss.axhline(means[0][1], color=COLOURS[0], linestyle="--", linewidth=1)
    loss.set_xlabel("steps, in AdEMAMix's budget")
    loss.set_ylabel("test loss (nats per character)")
    loss.set_title("Language model")
    loss.legend()
    for index, (name, runs) in enumerate(series["gains"].items()):
        parts = [[g / max(max(v for _, v in run), 1e-12) for _, g in run] for run in runs]
        band(gain, [s for s, _ in runs[0]], parts, index, name)
    gain.axhline(0, color="black", linewidth=0.8)
    gain.set_xlabel("steps since the batch")
    gain.set_ylabel("gain on it / its largest")
    gain.set_title("Memory of one batch")
    gain.legend()
    return figure


CLAIM = Claim(
    method="ademamix",
    title="AdEMAMix",
    statement=card("ademamix").claim,
    paper=card("ademamix").papers[0],
    test="""\
On Rosenbrock's function from (-3, 5), AdEMAMix (beta3 0.999, alpha 9) and AdamW with two values of beta1 each take the
best of equally many learning rates. A small decoder-only transformer learns the characters of Python's standard
library: both sides are tuned over as many settings (learning rate, and alpha or beta1) at the same number of steps;
AdamW is then also given 1.5 and 2 times the steps. Alpha and beta3 are warmed up over the run, as the authors do; at
laptop size beta3 is 0.99, so that the slow average spans a quarter of the run. For forgetting, one held-out batch takes
the place of a training batch at half time, and its loss is compared with that in the undisturbed run of the same
seed. """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 20 steps; seconds; always inconclusive",
        Size.LAPTOP: "33 thousand parameters, 400 steps, 10 settings and 4 seeds per side; minutes",
        Size.FULL: "5 million parameters, 20,000 steps of 32 windows of 256 characters, 15 settings and 5 seeds per "
        "side; a few days on one GPU (the paper's own runs, 110 M parameters and up on RedPajama, need its data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
