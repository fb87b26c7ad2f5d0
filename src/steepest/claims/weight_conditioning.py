"""Weight conditioning against other parametrizations of weights, on a convolutional network with batch norms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from steepest.arena.task import Task
from steepest.catalogue import card
from steepest.train.parametrize import weight_conditioning

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, mean, parts, remembered, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

_NAMES = {
    "conditioned": "weight conditioning",
    "plain": "plain weights",
    "normalized": "weight normalization",
    "standardized": "weight standardization",
    "spectral": "spectral normalization",
}
RIVALS = ("normalized", "standardized", "spectral")


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    batch: int = 32
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(6, 1, 1),
    Size.LAPTOP: _Scale(150, 5, 6),
    Size.FULL: _Scale(20_000, 5, 6, batch=128, full=True),
}


class _Standardized(nn.Module):
    """Rows of mean 0 and variance 1 / their length (their norm is 1, as that of conditioned ones)."""

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        scaled: Tensor = centred / (centred.norm(dim=1, keepdim=True) + 1e-5)
        return scaled.view_as(weight)


def _layers(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def _parametrized(kind: str, build: Callable[[], nn.Module]) -> nn.Module:
    model = build()
    if kind == "conditioned":
        return weight_conditioning(model)
    for layer in _layers(model):
        if kind == "normalized":
            parametrizations.weight_norm(layer)
        elif kind == "spectral":
            parametrizations.spectral_norm(layer)
        elif kind == "standardized":
            parametrize.register_parametrization(layer, "weight", _Standardized())
    return model


def _condition(model: nn.Module) -> float:
    """The geometric mean of the condition numbers of the hidden weights in use."""
    with torch.no_grad():
        hidden = [layer.weight.flatten(1).double().cpu() for layer in _layers(model)[:-1]]
        return float(np.exp(np.mean([np.log(float(torch.linalg.cond(w))) for w in hidden])))


def _sides(scale: _Scale) -> dict[str, Side]:
    """The same learning rates for all, in steps of about 3."""
    order = (2, 3, 1, 4, 0, 5)[: scale.rates]  # the middle first, for the sizes that try few
    rates = grid(lr=sorted((0.01, 0.03, 0.1, 0.3, 1.0, 3.0)[k] for k in order))
    fixed = {"momentum": 0.9, "nesterov": False}
    return {kind: Side(name, "sgd", rates, fixed) for kind, name in _NAMES.items()}


def _task(kind: str, scale: _Scale) -> Task:
    plain = handwriting("convolutional", full=scale.full, batch=scale.batch)
    return replace(plain, name=f"{plain.name}-{kind}", model=partial(_parametrized, kind, plain.model), evaluations=5)


def measure(context: Context) -> Measured:
    """Tune and train with each parametrization; condition numbers at the end."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    errors: dict[str, list[float | None]] = {}
    conditions: dict[str, list[float]] = {}
    series: dict[str, Any] = {"errors": errors, "conditions": conditions, "settings": {}, "landscape": {}}
    edges = 0
    for kind, side in _sides(scale).items():
        task = _task(kind, scale)
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][side.name] = dict(tuned.settings)
        series["landscape"][side.name] = [
            [s["lr"], None if v is None else 100 * (1 - v)] for s, v in zip(side.grid, tuned.scores, strict=True)
        ]
        errors[kind], conditions[kind] = [], []
        for seed in seeds:
            kept, held = remembered(task)
            (run,) = repeat(context, kept, side, tuned.settings, [seed], scale.steps)
            errors[kind].append(None if run.test_metric is None else 100 * (1 - run.test_metric))
            conditions[kind].append(_condition(held[0]))
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    figures |= {f"error_{kind}": mean(values) for kind, values in errors.items()}
    figures |= {f"condition_{kind}": float(np.exp(np.mean(np.log(v)))) for kind, v in conditions.items()}
    logs = {kind: [float(np.log10(v)) for v in conditions[kind]] for kind in ("conditioned", "plain")}
    gaps = {f"conditioned_less_{k}": difference(errors["conditioned"], errors[k]) for k in ("plain", *RIVALS)}
    gaps["decades_of_condition"] = difference(logs["conditioned"], logs["plain"])
    for key, gap in gaps.items():
        figures |= gap.figures(key) if gap else {key: None, f"{key}_low": None, f"{key}_high": None}
    figures["winners_at_edge_of_grid"] = edges
    budgets = {"settings tried per side": scale.rates, "steps per run": scale.steps, "images per batch": scale.batch}
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
"Lower" means that the interval of the paired difference lies below 0.

1. The test error is lower with weight conditioning than with plain weights.
2. It is lower than with weight normalization, weight standardization and spectral normalization, each.
3. The condition number of the hidden weights in use (their geometric mean, after training) is lower than that of plain
   weights.

- **reproduced**: all three. **partly**: 1 or 2.
- **not reproduced**: neither of these.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    kinds = ("plain", *RIVALS)
    gaps = {k: [figures[f"conditioned_less_{k}{end}"] for end in ("", "_low", "_high")] for k in kinds}
    if any(value is None for gap in gaps.values() for value in gap) or figures["decades_of_condition_high"] is None:
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    holds = [
        gaps["plain"][2] < 0,
        all(gaps[k][2] < 0 for k in RIVALS),
        figures["decades_of_condition_high"] < 0,
    ]
    compared = ", ".join(f"{_NAMES[k]} {g:+.2f} ({low:+.2f} to {high:+.2f})" for k, (g, low, high) in gaps.items())
    said = (
        f"The test error with weight conditioning is {figures['error_conditioned']:.2f} %; it differs from that with "
        f"{compared}. The condition numbers are {figures['condition_conditioned']:.1f} with it and "
        f"{figures['condition_plain']:.1f} without."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if holds[0] or holds[1] else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Test errors over condition numbers, per seed; and what tuning saw."""
    figure, (cloud, tuning) = canvas(height=3.8)
    for index, (kind, name) in enumerate(_NAMES.items()):
        pairs = zip(series["conditions"][kind], series["errors"][kind], strict=True)
        known = [(x, y) for x, y in pairs if y is not None]
        if known:
            cloud.plot(*zip(*known, strict=True), MARKERS[index], color=COLOURS[index], alpha=0.7, label=name)
        points = [p for p in series["landscape"][name] if p[1] is not None]
        if points:
            tuning.plot(*zip(*points, strict=True), color=COLOURS[index], marker=MARKERS[index], label=name)
    cloud.set_xlabel("condition number of hidden weights")
    cloud.set_ylabel("test error (%)")
    cloud.set_title("After training, per seed")
    tuning.set_xscale("log")
    tuning.set_xlabel("learning rate")
    tuning.set_yscale("log")  # a rate that is far too large would flatten all others
    tuning.set_ylabel("validation error (%)")
    tuning.set_title("Tuning")
    tuning.legend(fontsize=8)
    return figure


CLAIM = Claim(
    method="weight-conditioning",
    title="Weight conditioning",
    statement=card("weight-conditioning").claim,
    paper=card("weight-conditioning").papers[0],
    test="""\
A small convolutional network with batch norms learns handwritten digits by SGD with momentum 0.9: with plain weights,
and with weight conditioning, weight normalization, weight standardization or spectral normalization on all its weights.
Each is tuned over the same learning rates in steps of about 3 on the validation split, and trained with fresh seeds
under the same schedule. The condition numbers are those of the weights that the hidden layers use after training. The
paper's networks are Inception, ResNets and transformers on natural images.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one learning rate, one seed, 6 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits, 10 thousand parameters, 150 steps, 6 learning rates and 5 seeds per side; "
        "a minute",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says), a network of four times the width, 20,000 steps, 6 "
        "learning rates and 5 seeds per side; hours on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
