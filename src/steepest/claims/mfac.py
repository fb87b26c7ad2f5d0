"""M-FAC: pruning a trained network at once, and training one."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import analyze
from steepest.arena.task import Task
from steepest.arena.train import evaluate, train
from steepest.catalogue import card
from steepest.core.operators import per_sample_gradients

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, difference, grid, mean, parts, remembered, repeat, too_few, tune
from .figure import COLOURS, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
#: The rule looks at the mean of these.
_HIGH = (0.8, 0.9, 0.95)
_PRUNERS = ("M-FAC", "diagonal", "magnitude")


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int  # of SGD and Adam; M-FAC tries half as many, each with two dampings
    samples: int  # whose gradients make the matrix
    dampings: int
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(10, 1, 2, 32, 2),
    Size.LAPTOP: _Scale(300, 6, 8, 512, 5),
    Size.FULL: _Scale(10_000, 10, 14, 1024, 7, full=True),
}


def _task(scale: _Scale) -> Task:
    return handwriting("perceptron", full=scale.full)


def _sides(scale: _Scale) -> tuple[Side, ...]:
    rates = [float(f"{10 ** (-k / 3):.2g}") for k in range(scale.rates)]
    half = [float(f"{0.1 * 10 ** (-k / 2):.2g}") for k in range(scale.rates // 2)]
    return (
        Side("M-FAC", "mfac", grid(lr=half, damping=(1e-4, 1e-2)), {"history_size": 64, "momentum": 0.9}),
        Side("SGD", "sgd", grid(lr=[r / 3 for r in rates]), {"momentum": 0.9, "nesterov": False}),
        Side("Adam", "adam", grid(lr=[r / 10 for r in rates]), {}),
    )


def pruned(
    model: nn.Module, pruner: str, damping: float, sparsities: Sequence[float], gradients: Mapping[str, Tensor]
) -> list[nn.Module]:
    """Copies without the weights of the lowest scores, one for each sparsity; M-FAC moves the others, too."""
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    fisher = None
    if pruner == "magnitude":
        scores = weights.abs()
    elif pruner == "diagonal":
        squares = torch.cat([g.double().square().mean(0).reshape(-1) for g in gradients.values()])
        scores = weights.double() ** 2 * (squares + damping)
    else:
        fisher = analyze.InverseFisher(gradients, damping)
        scores = fisher.saliency(weights)
    copies = [copy.deepcopy(model).eval() for _ in sparsities]
    for one, sparsity in zip(copies, sparsities, strict=True):
        analyze.prune(one, scores, sparsity, fisher)
    return copies


def _prune(context: Context, scale: _Scale, seeds: list[int]) -> dict[str, dict[float, list[float]]]:
    """Test accuracies of pruned networks, by pruner and sparsity; dampings are tuned on the validation split."""
    task, held = remembered(_task(scale))
    splits = task.splits()
    dampings = [10.0**-k for k in range(1, scale.dampings + 1)]

    def trained(seed: int) -> tuple[nn.Module, Mapping[str, Tensor]]:
        train(task, card("adam"), {"lr": 2e-3}, seed=seed, steps=2 * scale.steps)
        model = held[0].eval()
        rows = torch.randperm(len(splits.train.targets), generator=torch.Generator().manual_seed(seed))[: scale.samples]
        inputs, targets = splits.train.inputs[rows], splits.train.targets[rows]
        return model, per_sample_gradients(model, functional.cross_entropy, inputs, targets)

    context.say("pruning: tuning the damping")
    model, gradients = trained(context.tuning_seed)
    chosen = {"magnitude": 0.0}
    for pruner in _PRUNERS[:2]:
        scores = [
            sum(evaluate(task, one, splits.validation)[0] for one in pruned(model, pruner, lam, _HIGH, gradients))
            for lam in dampings
        ]
        chosen[pruner] = dampings[int(np.argmax(scores))]
    found: dict[str, dict[float, list[float]]] = {p: {s: [] for s in SPARSITIES} for p in _PRUNERS}
    for number, seed in enumerate(seeds, 1):
        context.say(f"pruning: network {number} of {len(seeds)}")
        model, gradients = trained(seed)
        for pruner in _PRUNERS:
            copies = pruned(model, pruner, chosen[pruner], SPARSITIES, gradients)
            for sparsity, one in zip(SPARSITIES, copies, strict=True):
                found[pruner][sparsity].append(100 * evaluate(task, one, splits.test)[0])
    return found


def measure(context: Context) -> Measured:
    """Prune networks that Adam trained; then train with M-FAC, SGD and Adam."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    accuracies = _prune(context, scale, seeds)
    high = {
        p: [float(np.mean(v)) for v in zip(*(found[s] for s in _HIGH), strict=True)] for p, found in accuracies.items()
    }
    for pruner, values in high.items():
        figures[f"pruned_{pruner.lower()}"] = mean(values)
    task = _task(scale)
    scores: dict[str, list[float | None]] = {}
    series: dict[str, Any] = {"curves": {}, "settings": {}, "scores": scores}
    series["pruning"] = {p: [found[s] for s in SPARSITIES] for p, found in accuracies.items()}
    edges = 0
    for side in _sides(scale):
        tuned = tune(context, task, side, scale.steps)
        edges += tuned.at_edge
        series["settings"][side.name] = dict(tuned.settings)
        runs = repeat(context, task, side, tuned.settings, seeds, scale.steps)
        scores[side.name] = [None if run.test_metric is None else 100 * run.test_metric for run in runs]
        series["curves"][side.name] = [[[p.step, p.train_loss] for p in run.curve[1:]] for run in runs]
        key = side.name.lower().replace("-", "")
        figures[f"accuracy_{key}"] = mean(scores[side.name])
        figures[f"milliseconds_per_step_{key}"] = 1000 * sum(run.seconds for run in runs) / len(runs) / scale.steps
    for name, ours, theirs in (
        ("pruned_mfac_less_diagonal", high["M-FAC"], high["diagonal"]),
        ("pruned_mfac_less_magnitude", high["M-FAC"], high["magnitude"]),
        ("accuracy_mfac_less_sgd", scores["M-FAC"], scores["SGD"]),
        ("accuracy_mfac_less_adam", scores["M-FAC"], scores["Adam"]),
    ):
        gap = difference(ours, theirs)
        figures |= gap.figures(name) if gap else {name: None, f"{name}_low": None, f"{name}_high": None}
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per optimizer": len(_sides(scale)[0].grid),
        "dampings tried per pruner": scale.dampings,
        "steps per run": scale.steps,
        "gradients of single samples for pruning": scale.samples,
    }
    return Measured(figures, series, seeds, budgets)


_NAMES = (
    "pruned_mfac_less_diagonal",
    "pruned_mfac_less_magnitude",
    "accuracy_mfac_less_sgd",
    "accuracy_mfac_less_adam",
)
RULE = f"""\
Test accuracy, in points of percentage; a part holds where the 95 % interval of the paired difference lies above 0. For
pruning it is that right after, without training, in the mean over the sparsities {", ".join(f"{s:g}" for s in _HIGH)}.

1. Pruned by M-FAC against pruned by the diagonal of the same Fisher matrix.
2. Pruned by M-FAC against pruned by magnitude.
3. Trained by M-FAC against SGD with momentum.
4. Trained by M-FAC against Adam.

- **reproduced**: all four. **partly**: 1 and 2, or 3 and 4, or one of each. **not reproduced**: fewer.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run without a score."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    lows = [figures.get(f"{name}_low") for name in _NAMES]
    if any(low is None for low in lows):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    holds = [low is not None and low > 0 for low in lows]
    gaps = [f"{figures[n]:+.1f} ({figures[f'{n}_low']:+.1f} to {figures[f'{n}_high']:+.1f})" for n in _NAMES]
    pruned_to = ", ".join(f"{figures[f'pruned_{p.lower()}']:.1f} ({p})" for p in _PRUNERS)
    reached = ", ".join(f"{figures[f'accuracy_{k}']:.2f} ({n})" for k, n in _SIDES_BY_KEY.items())
    said = (
        f"Pruned networks keep an accuracy of {pruned_to} %: M-FAC differs from the diagonal by {gaps[0]} "
        f"points and from magnitudes by {gaps[1]}. Training reaches {reached} %: M-FAC differs from SGD by {gaps[2]} "
        f"points and from Adam by {gaps[3]}."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if sum(holds) >= 2 else Verdict.NOT_REPRODUCED, said)


_SIDES_BY_KEY = {"mfac": "M-FAC", "sgd": "SGD", "adam": "Adam"}


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Accuracy over sparsity; training loss over steps; test accuracies."""
    figure, (pruning, losses, scores) = canvas(columns=3)
    for index, (pruner, found) in enumerate(series["pruning"].items()):
        values = np.array(found)
        shown = [100 * s for s in SPARSITIES]
        pruning.plot(shown, values.mean(1), color=COLOURS[index], marker=MARKERS[index], label=pruner)
        pruning.fill_between(shown, values.min(1), values.max(1), color=COLOURS[index], alpha=0.15, linewidth=0)
    pruning.set_xlabel("weights removed (%)")
    pruning.set_ylabel("test accuracy (%)")
    pruning.set_title("Pruned at once")
    pruning.legend()
    for index, (side, runs) in enumerate(series["curves"].items()):
        steps = [p[0] for p in runs[0]]
        middle = [sum(run[k][1] for run in runs) / len(runs) for k in range(len(steps))]
        losses.plot(steps, middle, color=COLOURS[index], label=side)
        values = [v for v in series["scores"][side] if v is not None]
        scores.plot([index] * len(values), values, MARKERS[index], color=COLOURS[index], alpha=0.5)
        if values:
            scores.hlines(sum(values) / len(values), index - 0.2, index + 0.2, color=COLOURS[index], linewidth=2)
    losses.set_yscale("log")
    losses.set_xlabel("step")
    losses.set_ylabel("training loss")
    losses.set_title("Training (means)")
    losses.legend()
    scores.set_xticks(range(len(series["curves"])), list(series["curves"]))
    scores.set_xlim(-0.5, len(series["curves"]) - 0.5)
    scores.set_ylabel("test accuracy (%)")
    scores.set_title("Trained (bars: means)")
    return figure


CLAIM = Claim(
    method="mfac",
    title="M-FAC",
    statement=card("mfac").claim,
    paper=card("mfac").papers[0],
    test="""\
Perceptrons with two hidden layers of 64 units on scikit-learn's digits, half of them for the test. Pruning: networks
that Adam has trained lose a part of their weights at once, by the scores of the optimal brain surgeon from the
empirical Fisher matrix of single samples, with its correction of the weights that stay; by the diagonal of the same
matrix; or by magnitude. The damping of the first two is chosen among as many values by the validation split.
Training: M-FAC with the last 64 gradients chooses among four learning rates and two dampings, SGD with momentum and
Adam among as many learning rates. The paper prunes ResNet-50 and MobileNet on ImageNet and trains ResNets on CIFAR.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "10 steps, two settings and one seed per side; seconds; always inconclusive",
        Size.LAPTOP: "9 thousand parameters, 300 steps, 8 settings and 6 seeds per side; 512 gradients, 5 dampings and "
        "6 networks for pruning; minutes",
        Size.FULL: "MNIST, 270 thousand parameters, 10,000 steps, 14 settings and 10 seeds per side; hours on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
