"""Learning rates and batch sizes: eigenvalues of batches, the largest stable rates, and rates from Lanczos' method."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest import data
from steepest.catalogue import card
from steepest.core.adamw import ADAMW, bias_corrections
from steepest.core.lanczos import lanczos
from steepest.core.operators import Hessian
from steepest.core.random import normal
from steepest.optim.schedules import extreme_eigenvalue, hessian_noise, lanczos_learning_rate

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: The median relative error that the predicted eigenvalues may have, in per cent.
ERROR = 25.0
#: Where the slopes of log learning rate over log batch must lie.
SLOPES = {"sgd": (0.8, 1.2), "adam": (0.35, 0.65)}
#: Points of test accuracy that rates from Lanczos' method may cost against tuned ones.
POINTS = 2.0
_HIDDEN, _MOMENTUM, _TRAINED_BATCH = 24, 0.9, 64
_NAMES = {"sgd": "SGD", "adam": "Adam"}


@dataclass(frozen=True)
class _Scale:
    images: str
    seeds: int
    spectra: tuple[int, ...]  # batches whose Hessians are looked at
    small: tuple[int, ...]  # batches of which the slopes are taken
    large: tuple[int, ...]  # further batches, shown
    draws: int  # batches per size
    steps: int  # of a run that must be stable
    epochs: int  # of the comparison with tuned SGD
    lanczos: int


_SCALES = {
    Size.SMOKE: _Scale("digits", 1, (64,), (8, 16), (), 1, 5, 1, 4),
    Size.LAPTOP: _Scale("digits", 5, (8, 32, 128, 512), (4, 8, 16, 32), (64, 128, 256), 10, 300, 15, 12),
    Size.FULL: _Scale("mnist", 10, (32, 128, 512, 2048), (4, 8, 16, 32), (64, 256, 1024), 20, 2000, 30, 40),
}
#: Learning rates tried for stability (log2 in steps of a third), and for the tuned side.
_TRIED = {"sgd": 2.0 ** (np.arange(-15, 22) / 3), "adam": 2.0 ** (np.arange(-30, 7) / 3)}
_TUNED = (0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8)


def _network(inputs: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, 10))


def _rows(images: str) -> Any:
    return {"digits": data.digits, "mnist": data.mnist}[images]()


def _flat(split: Any) -> tuple[Tensor, Tensor]:
    return split.inputs.flatten(1), split.targets


def _train(model: nn.Module, x: Tensor, y: Tensor, batch: int, epochs: int, lr: float | None, seed: int) -> list[float]:
    """SGD with momentum in place; without ``lr`` both come from Lanczos' method every epoch. The rates used."""
    draw = torch.Generator().manual_seed(seed)
    opt = torch.optim.SGD(model.parameters(), lr=lr or 1.0, momentum=_MOMENTUM)
    rates = []
    for epoch in range(epochs):
        order = torch.randperm(len(y), generator=draw)
        if lr is None:
            first = order[:batch]
            found = lanczos_learning_rate(model, cross_entropy, [(x[first], y[first])], seed=epoch)
            opt.param_groups[0].update(lr=found.lr, momentum=found.momentum)
        rates.append(float(opt.param_groups[0]["lr"]))
        for chosen in order.split(batch):
            if len(chosen) == batch:
                opt.zero_grad()
                cross_entropy(model(x[chosen]), y[chosen]).backward()
                opt.step()
    return rates


def _largest(model: nn.Module, batches: Sequence[Any], steps: int, seed: int) -> float:
    hessian = Hessian(model, cross_entropy, batches)
    small = lanczos(hessian, normal(hessian.like, seed), steps)[1]
    return float(torch.linalg.eigvalsh(small.double())[-1])


def spectra(context: Context, scale: _Scale, x: Tensor, y: Tensor, seed: int) -> list[dict[str, Any]]:
    """At three points of a training run: the largest eigenvalues of batches, measured and predicted."""
    model = _network(x.shape[1], seed)
    draw = torch.Generator().manual_seed(seed)
    found = []
    for point, epochs in enumerate((0, 2, 8)):
        context.say(f"eigenvalues, seed {seed}, point {point + 1} of 3")
        if epochs:
            _train(model, x, y, _TRAINED_BATCH, epochs, 0.05, seed + point)
        whole = _largest(model, [(x, y)], 2 * scale.lanczos, seed)
        noise = hessian_noise(model, cross_entropy, x, y, batch=min(64, len(y) - 1), pairs=scale.draws, seed=seed)
        measured, predicted = [], []
        for batch in scale.spectra:
            tops = []
            for _ in range(scale.draws):
                chosen = torch.randperm(len(y), generator=draw)[:batch]
                tops.append(_largest(model, [(x[chosen], y[chosen])], scale.lanczos, seed))
            measured.append(float(np.mean(tops)))
            predicted.append(extreme_eigenvalue(whole, noise, batch, len(y)))
        found.append({"whole": whole, "noise": noise, "measured": measured, "predicted": predicted})
    return found


def stable(kind: str, x: Tensor, y: Tensor, batch: int, steps: int, seed: int) -> float:
    """The largest of the learning rates up to which training, from one start and on one sequence of batches, is stable.

    Stable: the mean loss over the last fifth of the steps is below that of the start.
    """
    model = _network(x.shape[1], seed)
    rates = torch.tensor(_TRIED[kind], dtype=torch.float32)
    weights = [p.detach().T if p.dim() == 2 else p.detach()[None] for p in model.parameters()]
    stacks = [w.expand(len(rates), *w.shape).clone().requires_grad_() for w in weights]
    memory = [(torch.zeros_like(s), torch.zeros_like(s)) for s in stacks]
    settings: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        start = float(cross_entropy(model(x), y))
    late = torch.zeros(len(rates))
    for step in range(steps):
        chosen = torch.randperm(len(y), generator=draw)[:batch]
        w1, b1, w2, b2 = stacks
        logits = torch.tanh(x[chosen] @ w1 + b1) @ w2 + b2
        losses = cross_entropy(logits.flatten(0, 1), y[chosen].repeat(len(rates)), reduction="none")
        losses = losses.view(len(rates), -1).mean(1)
        if step >= steps - max(1, steps // 5):
            late += losses.detach() / max(1, steps // 5)
        gradients = torch.autograd.grad(losses.sum(), stacks)
        with torch.no_grad():
            for k, g in enumerate(gradients):
                lr = rates[:, None, None]
                if kind == "sgd":
                    stacks[k] -= lr * g
                else:
                    new, *kept = ADAMW.update(
                        stacks[k], g, *memory[k], lr=lr, **settings, **bias_corrections(step + 1, settings)
                    )
                    stacks[k].copy_(new)
                    memory[k] = (kept[0], kept[1])
    good = (late < start).tolist()
    first_bad = good.index(False) if False in good else len(good)
    return float(rates[max(0, first_bad - 1)])


def measure(context: Context) -> Measured:
    """Eigenvalues, stable rates, and training with rates from Lanczos' method."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    split = _rows(scale.images)
    x, y = _flat(split.train)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"spectra_batches": list(scale.spectra), "batches": [*scale.small, *scale.large]}

    found = [spectra(context, scale, x, y, seed) for seed in seeds]
    series["spectra"] = found
    points = [point for run in found for point in run]
    pairs = [pair for point in points for pair in zip(point["predicted"], point["measured"], strict=True)]
    errors = [100 * abs(predicted / measured - 1) for predicted, measured in pairs]
    figures["eigenvalue_median_error_percent"] = float(np.median(errors))
    for k, batch in enumerate(scale.spectra):
        ratio = [point["measured"][k] / point["whole"] for point in points]
        figures[f"eigenvalue_over_whole_batch_{batch}"] = float(np.median(ratio))

    series["stable"] = {}
    for kind in SLOPES:
        table, slopes = [], []
        for seed in seeds:
            row = []
            for batch in series["batches"]:
                context.say(f"largest stable rate of {_NAMES[kind]}, seed {seed}, batch {batch}")
                row.append(stable(kind, x, y, batch, scale.steps, seed))
            table.append(row)
            small = row[: len(scale.small)]
            slopes.append(float(np.polyfit(np.log(scale.small), np.log(small), 1)[0]))
        series["stable"][kind] = table
        figures |= interval(slopes).figures(f"slope_{kind}")

    test_x, test_y = _flat(split.test)
    check_x, check_y = _flat(split.validation)

    def accuracy(model: nn.Module, rows: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            return 100 * float((model(rows).argmax(1) == labels).float().mean())

    context.say("tuning SGD with momentum")
    scores = []
    for lr in _TUNED:
        model = _network(x.shape[1], context.tuning_seed)
        _train(model, x, y, _TRAINED_BATCH, scale.epochs, lr, context.tuning_seed)
        scores.append(accuracy(model, check_x, check_y))
    best = _TUNED[int(np.argmax(scores))]
    figures["tuned_lr"] = best
    accuracies: dict[str, list[float]] = {"learnt": [], "tuned": []}
    series["learnt_rates"] = []
    for seed in seeds:
        context.say(f"training with both, seed {seed}")
        base = _network(x.shape[1], seed)
        for side, lr in (("learnt", None), ("tuned", best)):
            model = copy.deepcopy(base)
            rates = _train(model, x, y, _TRAINED_BATCH, scale.epochs, lr, seed)
            accuracies[side].append(accuracy(model, test_x, test_y))
            if side == "learnt":
                series["learnt_rates"].append(rates)
    series["accuracies"] = accuracies
    figures |= {f"accuracy_{side}": float(np.mean(values)) for side, values in accuracies.items()}
    against = difference(accuracies["learnt"], accuracies["tuned"])
    assert against is not None
    figures |= against.figures("accuracy_learnt_less_tuned")
    budgets = {
        "rates tried for stability": f"{len(_TRIED['sgd'])} for each optimizer, a factor 2^(1/3) apart",
        "learning rates of tuned SGD": ", ".join(f"{r:g}" for r in _TUNED),
        "settings of the rates from Lanczos' method": 1,
        "steps of a run that must be stable": scale.steps,
        "parameters": sum(p.numel() for p in _network(x.shape[1], 0).parameters()),
    }
    return Measured(figures, series, seeds, budgets)


RULE = f"""\
Three parts:

1. the largest eigenvalues of Hessians of batches are predicted from that of all samples and from the noise: over all
   seeds, batch sizes and points of training the median relative error is at most {ERROR:g} %;
2. the largest stable learning rate grows with the batch (4 to 32) with a slope in the double logarithm between
   {SLOPES["sgd"][0]:g} and {SLOPES["sgd"][1]:g} for SGD, and between {SLOPES["adam"][0]:g} and {SLOPES["adam"][1]:g}
   for Adam: means over seeds;
3. with learning rate and momentum from Lanczos' method, and nothing tuned, the test accuracy is at most {POINTS:g}
   points below that of SGD with momentum {_MOMENTUM:g} and a tuned rate, by the lower end of the 95 % interval.

- **reproduced**: all three. **partly**: one or two. **not reproduced**: none.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    low = figures["accuracy_learnt_less_tuned_low"]
    holds = [
        figures["eigenvalue_median_error_percent"] <= ERROR,
        all(lowest <= figures[f"slope_{kind}"] <= highest for kind, (lowest, highest) in SLOPES.items()),
        low is not None and low >= -POINTS,
    ]
    said = (
        f"Predicted eigenvalues are off by {figures['eigenvalue_median_error_percent']:.0f} % in the median; the "
        f"largest stable rate grows as the batch to the power {figures['slope_sgd']:.2f} for SGD and "
        f"{figures['slope_adam']:.2f} for Adam; rates from Lanczos' method reach {figures['accuracy_learnt']:.1f} % "
        f"against {figures['accuracy_tuned']:.1f} % with a tuned one."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if any(holds) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Eigenvalues, stable rates, and the rates that were learnt."""
    figure, (values, rates, learnt) = canvas(columns=3)
    for point, name in enumerate(("start", "2 epochs", "10 epochs")):
        measured, predicted = (
            np.exp(np.mean(np.log([run[point][kind] for run in series["spectra"]]), 0))
            for kind in ("measured", "predicted")
        )
        values.plot(series["spectra_batches"], measured, MARKERS[point], color=COLOURS[point], label=name)
        values.plot(series["spectra_batches"], predicted, "--", color=COLOURS[point])
    values.set_xscale("log", base=2)
    values.set_yscale("log")
    values.set_xlabel("batch")
    values.set_ylabel("largest eigenvalue")
    values.set_title("Hessians (lines: predicted)")
    values.legend()
    for index, (kind, slope) in enumerate((("sgd", 1.0), ("adam", 0.5))):
        middle = np.exp(np.mean(np.log(series["stable"][kind]), 0))
        batches = np.array(series["batches"], dtype=float)
        rates.plot(batches, middle, color=COLOURS[index], marker=MARKERS[index], label=_NAMES[kind])
        guide = middle[0] * (batches / batches[0]) ** slope
        rates.plot(batches, guide, ":", color=COLOURS[index], label=f"slope {slope:g}")
    rates.set_xscale("log", base=2)
    rates.set_yscale("log")
    rates.set_xlabel("batch")
    rates.set_ylabel("largest stable learning rate")
    rates.set_title("Stability")
    rates.legend(fontsize=8)
    for index, run in enumerate(series["learnt_rates"]):
        learnt.plot(range(1, len(run) + 1), run, color=COLOURS[0], alpha=0.7, label="Lanczos" if index == 0 else None)
    learnt.axhline(figures["tuned_lr"], color=COLOURS[1], linestyle="--", label="tuned")
    learnt.set_yscale("log")
    learnt.set_xlabel("epoch")
    learnt.set_ylabel("learning rate of SGD")
    learnt.set_title("Rates in training (one line per seed)")
    learnt.legend()
    return figure


_SIZES = {
    Size.SMOKE: "one seed, batches of 8 and 16; seconds; always inconclusive",
    Size.LAPTOP: f"scikit-learn's digits, 5 seeds, {len(_TUNED)} learning rates for the tuned side; minutes",
    Size.FULL: f"MNIST, 10 seeds, {len(_TUNED)} learning rates for the tuned side; hours",
}


CLAIM = Claim(
    method="lanczos-learning-rate",
    title="Learning rates from the curvature of batches",
    statement=card("lanczos-learning-rate").claim,
    paper=card("lanczos-learning-rate").papers[0],
    test=f"""\
A network with one hidden layer of {_HIDDEN} tanh units classifies handwritten digits. At three points of a training run
the largest eigenvalue of the Hessian of random batches is found by Lanczos' method and compared with the formula, into
which the eigenvalue for all samples and the measured noise of Hessian-vector products go. Then plain SGD and Adam train
from the same start with learning rates a factor 2^(1/3) apart; a rate is stable while the loss at the end of the run is
below that at its start. Last, SGD is trained with batches of {_TRAINED_BATCH} and with learning rate and momentum taken
anew every epoch from the Hessian of one batch. The paper's networks are convolutional, on CIFAR-100 and ImageNet.""",
    rule=RULE,
    sizes=_SIZES,
    measure=measure,
    judge=judge,
    draw=draw,
)
