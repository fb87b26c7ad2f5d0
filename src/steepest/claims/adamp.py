"""AdamP and SGDP: the norms of scale-invariant weights, exactly on a toy and in a network with batch norm."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steepest.arena.train import train
from steepest.catalogue import card
from steepest.optim import SGDP

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, WIDENED, Side, difference, grid, mean, parts, repeat, too_few, tune, watched
from .figure import COLOURS, MARKERS, band, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Relative error of the identities.
EXACT = 1e-6
_MOMENTUM = 0.9


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    decays: int
    tracked: int  # seeds whose weight norms are followed
    toy: int = 300  # steps
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(20, 1, 1, 1, 1, toy=100),
    Size.LAPTOP: _Scale(200, 6, 5, 2, 4),
    Size.FULL: _Scale(30_000, 5, 5, 3, 5, full=True),
}

#: The plain method that each projected one is compared with, and the setting at which norms are compared.
_NORMS = {"AdamP": ("AdamW", {"lr": 3e-3}), "SGDP": ("SGD", {"lr": 0.1})}


def _sides(scale: _Scale) -> dict[str, Side]:
    order = (1, 2, 0, 3, 4)[: scale.rates]
    rates = sorted((1e-3, 3e-3, 1e-2, 3e-2, 1e-1)[k] for k in order)
    sgd = sorted((0.03, 0.1, 0.3, 1.0, 0.01)[k] for k in order)
    decoupled = grid(lr=rates, weight_decay=(0.01, 0.1, 0.0)[: scale.decays])
    coupled = grid(lr=rates, weight_decay=(1e-4, 1e-3, 0.0)[: scale.decays])
    plain = grid(lr=sgd, weight_decay=(1e-4, 1e-3, 0.0)[: scale.decays])
    return {
        "AdamP": Side("AdamP", "adamp", decoupled, {}),
        "AdamW": Side("AdamW", "adamw", decoupled, {}),
        "Adam": Side("Adam", "adam", coupled, {}),
        "SGDP": Side("SGDP", "sgdp", plain, {}),
        "SGD": Side("SGD", "sgd", plain, {}),
    }


def _toy(steps: int, seed: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Squared norms on ``f(w) = <a, w> / |w| + sin(3 <b, w> / |w|)`` against what the identities say.

    ``w`` is orthogonal to the gradient of a function of ``w / |w|``. With updates ``p_t`` (before the learning rate)
    plain descent gives ``|w|^2 + lr^2 |p|^2``; with momentum ``<w_t, p_t> = -lr sum_k b^(t-k) |p_k|^2``, which adds
    ``2 lr^2 sum_k b^(t-k) |p_k|^2``; with the projection the sum vanishes.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b, start = (torch.randn(1, 24, generator=generator, dtype=torch.float64) for _ in range(3))
    rate = 0.05

    def f(w: Tensor) -> Tensor:
        unit = w / w.norm()
        return (a * unit).sum() + torch.sin(3 * (b * unit).sum())

    makers: dict[str, tuple[float, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
        "GD": (0.0, lambda p: torch.optim.SGD(p, lr=rate)),
        "GD with momentum": (_MOMENTUM, lambda p: torch.optim.SGD(p, lr=rate, momentum=_MOMENTUM)),
        "SGDP": (0.0, lambda p: SGDP(p, lr=rate, momentum=_MOMENTUM)),
    }
    errors, squares = {}, {}
    for name, (momentum, make) in makers.items():
        w = start.clone().requires_grad_()
        optimizer = make([w])
        predicted = float((w.detach() ** 2).sum())
        carried = error = 0.0
        squares[name] = [predicted]
        for _ in range(steps):
            optimizer.zero_grad()
            f(w).backward()
            before = w.detach().clone()
            optimizer.step()
            update = float(((w.detach() - before) ** 2).sum())  # lr^2 |p|^2
            predicted += update + 2 * carried
            carried = momentum * (carried + update)
            actual = float((w.detach() ** 2).sum())
            error = max(error, abs(predicted / actual - 1))
            squares[name].append(actual)
        errors[name] = error
    return errors, squares


def _norm(model: nn.Module) -> float:
    """The norm of all weights that a batch norm follows."""
    weights = [m.weight for m in model if isinstance(m, (nn.Conv2d, nn.Linear))][:-1]  # type: ignore[attr-defined]
    return math.sqrt(sum(float((w.detach() ** 2).sum()) for w in weights))


def measure(context: Context) -> Measured:
    """The identities, the norms at the same settings, and accuracies after equal tuning."""
    scale = _SCALES[context.size]
    task = handwriting("convolutional", full=scale.full, batch=128 if scale.full else 32)
    seeds = context.seeds(scale.seeds)
    sides = _sides(scale)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"toy": {}, "norms": {}, "norm_steps": [], "accuracy": {}, "settings": {}}

    context.say("norms on a scale-invariant function")
    errors, squares = _toy(scale.toy, context.tuning_seed)
    for name, error in errors.items():
        figures[f"identity_error_{name.lower().replace(' ', '_')}"] = error
        series["toy"][name] = squares[name]
    figures["largest_identity_error"] = max(errors.values())

    ends: dict[str, list[float]] = {}
    for projected, (plain, settings) in _NORMS.items():
        for name in (projected, plain):
            series["norms"][name] = []
            ends[name] = []
            for seed in seeds[: scale.tracked]:
                context.say(f"weight norms under {name}")
                norms = [_norm(task.build(seed))]
                steps = [0]

                def look(model: nn.Module, step: int, norms: list[float] = norms, steps: list[int] = steps) -> None:
                    norms.append(_norm(model))
                    steps.append(step)

                same = {"lr": settings["lr"], "weight_decay": 0.0}
                observed, watch = watched(task, look)
                train(
                    observed, sides[name].card(), same, seed=seed, steps=scale.steps, device=context.device, watch=watch
                )
                series["norms"][name].append([v / norms[0] for v in norms])
                series["norm_steps"] = steps
                ends[name].append(norms[-1] / norms[0])
            figures[f"norm_growth_{name.lower()}"] = mean(ends[name])
        found = difference(ends[projected], ends[plain])
        figures |= found.figures(f"norm_growth_{projected.lower()}_less_{plain.lower()}") if found else {}

    accuracy: dict[str, list[float | None]] = {}
    scores: dict[str, float] = {}
    edges = 0
    for name, side in sides.items():
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        scores[name] = tuned.score or 0.0
        runs = repeat(context, task, side, tuned.settings, seeds, scale.steps)
        accuracy[name] = [None if r.test_metric is None else 100 * r.test_metric for r in runs]
        figures[f"accuracy_{name.lower()}"] = mean(accuracy[name])
        series["accuracy"][name] = accuracy[name]
        series["settings"][name] = dict(tuned.settings)
    rival = max(("Adam", "AdamW"), key=scores.__getitem__)
    for ours, theirs, name in (
        ("AdamP", rival, "points_adamp_over_better_adam"),
        ("SGDP", "SGD", "points_sgdp_over_sgd"),
    ):
        gain = difference(accuracy[ours], accuracy[theirs])
        figures |= gain.figures(name) if gain else {name: None}
    series["rival"] = rival
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side": len(sides["AdamP"].grid),
        "steps per run": scale.steps,
        "batch size": task.batch_size,
        "seeds whose norms are followed": scale.tracked,
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
1. On a scale-invariant function in float64, the squared norm follows the paper's identities for gradient descent,
   for descent with momentum and for SGDP to a relative error of {EXACT:g}.
2. In the network, at the same learning rate and without weight decay, the norm of the scale-invariant weights grows
   less under AdamP than under AdamW and under SGDP than under SGD (the intervals of the paired differences lie below
   0).
3. After equal tuning, test accuracy is higher for AdamP than for the better of Adam and AdamW (better on the validation
   split) and for SGDP than for SGD (the intervals of the paired differences lie above 0).

- **reproduced**: all three. **partly**: 1 and 2, and no interval of 3 lies below 0.
- **not reproduced**: 1 or 2 fails, or an interval of 3 lies below 0.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""

_LESS = ("norm_growth_adamp_less_adamw", "norm_growth_sgdp_less_sgd")
_GAIN = ("points_adamp_over_better_adam", "points_sgdp_over_sgd")


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    less, gain = ([[figures.get(n + end) for end in ("", "_low", "_high")] for n in names] for names in (_LESS, _GAIN))
    if any(v is None for group in (*less, *gain) for v in group):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    said = (
        f"The norm identities hold to {figures['largest_identity_error']:.0e}. At the same settings the norm of the "
        f"scale-invariant weights grows {figures['norm_growth_adamp']:.2f} times under AdamP and "
        f"{figures['norm_growth_adamw']:.2f} times under AdamW, {figures['norm_growth_sgdp']:.2f} times under SGDP and "
        f"{figures['norm_growth_sgd']:.2f} times under SGD. After equal tuning AdamP's test accuracy differs by "
        f"{gain[0][0]:+.2f} points ({gain[0][1]:+.2f} to {gain[0][2]:+.2f}) from that of the better of Adam and AdamW, "
        f"SGDP's by {gain[1][0]:+.2f} ({gain[1][1]:+.2f} to {gain[1][2]:+.2f}) from SGD's."
    )
    holds = [
        figures["largest_identity_error"] <= EXACT,
        all(group[2] < 0 for group in less),
        all(group[1] > 0 for group in gain),
    ]
    said = parts(holds, said)
    if not (holds[0] and holds[1]) or any(group[2] < 0 for group in gain):
        return Judgement(Verdict.NOT_REPRODUCED, said)
    return Judgement(Verdict.REPRODUCED if holds[2] else Verdict.PARTLY, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Norms on the toy and in the network, and accuracies."""
    figure, (toy, norms, accuracy) = canvas(columns=3)
    for name, index in (("GD with momentum", 1), ("GD", 2), ("SGDP", 0)):
        toy.plot(series["toy"][name], color=COLOURS[index], label=name)
    toy.set_xlabel("step")
    toy.set_ylabel("squared norm of w")
    toy.set_title("A scale-invariant function")
    toy.set_ylim(bottom=0)
    toy.legend()
    looks = {"AdamP": (0, "-"), "AdamW": (1, "-"), "SGDP": (0, "--"), "SGD": (1, "--")}
    for name, (index, dash) in looks.items():
        band(norms, series["norm_steps"], series["norms"][name], index, name, linestyle=dash)
    norms.set_xlabel("step")
    norms.set_ylabel("norm of the weights / start")
    norms.set_title("Network, same settings")
    norms.legend()
    names = list(series["accuracy"])
    for place, name in enumerate(names):
        index = 0 if name.endswith("P") else 1
        values = [v for v in series["accuracy"][name] if v is not None]
        accuracy.plot([place] * len(values), values, MARKERS[index], color=COLOURS[index], alpha=0.4)
        if values:
            accuracy.plot(
                [place - 0.3, place + 0.3], [sum(values) / len(values)] * 2, color=COLOURS[index], linewidth=2.5
            )
    accuracy.set_xticks(range(len(names)), names, fontsize=8)
    accuracy.set_ylabel("test accuracy (%)")
    accuracy.set_title("After equal tuning")
    return figure


CLAIM = Claim(
    method="adamp",
    title="AdamP",
    statement=card("adamp").claim,
    paper=card("adamp").papers[0],
    test="""\
The paper's identities for the norm are checked step by step on a function of w / |w|. A convolutional network with
batch norms classifies handwritten digits: the norm of the weights that a batch norm follows is tracked at the same
settings for the plain and the projected method; then Adam, AdamW, AdamP, SGD and SGDP (both with momentum 0.9,
Nesterov) each get the same number of pairs of learning rate and weight decay, tuned on a validation split, and the
winners are trained again with fresh seeds under the same schedule. """
    + WIDENED,
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 20 steps; seconds; always inconclusive",
        Size.LAPTOP: "scikit-learn's digits (539 training images), 10 settings and 6 seeds per side, 200 steps; "
        "minutes",
        Size.FULL: "MNIST's 60,000 training images (found as `steepest.data.mnist` says), 15 settings and 5 seeds per "
        "side, 30,000 steps of 128; a day on a GPU (the paper's thirteen benchmarks, ImageNet first, need their data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
