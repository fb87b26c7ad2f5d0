"""Optimistic AMSGrad against AMSGrad and Adam after as many gradients: three networks, training and test loss."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steepest.arena.task import Task
from steepest.arena.train import Outcome
from steepest.catalogue import card

from .autoencoder import autoencoder
from .characters import characters
from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, Side, grid, mean, parts, percent, repeat, too_few, tune
from .figure import COLOURS, INK, MARKERS, canvas
from .handwriting import handwriting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: A gain of fewer per cent of the loss does not count.
SMALL = 1.0
_TASKS = ("convolutional", "autoencoder", "transformer")
_RIVALS = ("AMSGrad", "Adam")
#: Evaluations per run; the mean training loss between the last two is what counts.
_LOOKS = 20


@dataclass(frozen=True)
class _Scale:
    steps: int
    seeds: int
    rates: int
    floors: int  # smallest denominators per side
    full: bool = False


_SCALES = {
    Size.SMOKE: _Scale(10, 1, 1, 1),
    Size.LAPTOP: _Scale(200, 10, 7, 2),
    Size.FULL: _Scale(10_000, 5, 7, 2, full=True),
}


def _tasks(scale: _Scale) -> dict[str, Task]:
    """All are scored by their loss."""
    sizes: dict[str, Any] = (
        {"width": 256, "layers": 6, "context": 256, "windows": 400, "corpus": 5_000_000} if scale.full else {}
    )
    batch = 64 if scale.full else 32
    digits = handwriting("convolutional", full=scale.full, batch=batch)
    tasks = (
        replace(digits, metric=None, metric_name="loss", higher_is_better=False),
        autoencoder(full=scale.full, batch=batch),
        characters(batch=32 if scale.full else 16, **sizes),
    )
    return {kind: replace(task, evaluations=_LOOKS) for kind, task in zip(_TASKS, tasks, strict=True)}


def _sides(scale: _Scale) -> tuple[Side, ...]:
    order = (2, 3, 1, 4, 0, 5, 6)[: scale.rates]  # the middle first, for the sizes that try few
    rates = sorted((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)[k] for k in order)
    # Optimistic AMSGrad starts its second moment at epsilon, so that sqrt(epsilon) is the smallest denominator. The
    # others add theirs to the denominator, and may choose the same two floors.
    inside, outside = (1e-8, 1e-16)[: scale.floors], (1e-4, 1e-8)[: scale.floors]
    return (
        Side("Optimistic AMSGrad", "optimistic-amsgrad", grid(lr=rates, eps=inside), {}),
        Side("AMSGrad", "amsgrad", grid(lr=rates, eps=outside), {"bias_correction": "none"}),
        Side("Adam", "adam", grid(lr=rates, eps=outside), {}),
    )


def measure(context: Context) -> Measured:
    """Tune all sides on every task, train with fresh seeds, and without the extrapolation."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"curves": {}, "landscape": {}, "train_loss": {}, "test_loss": {}, "settings": {}}
    edges = 0
    tasks = _tasks(scale)
    for kind, task in tasks.items():
        runs: dict[str, list[Outcome]] = {}
        series["landscape"][kind] = {}
        for side in _sides(scale):
            tuned = tune(context, task, side, scale.steps)
            edges += tuned.at_edge
            series["settings"][f"{kind}, {side.name}"] = dict(tuned.settings)
            series["landscape"][kind][side.name] = [[s["lr"], v] for s, v in zip(side.grid, tuned.scores, strict=True)]
            runs[side.name] = repeat(context, task, side, tuned.settings, seeds, scale.steps)
            if side.name == "Optimistic AMSGrad":
                # The extrapolation of two gradients is the former: the control, everything else alike.
                control = replace(side, name="one gradient", fixed={"history": 1})
                runs[control.name] = repeat(context, task, control, tuned.settings, seeds, scale.steps)
        losses = {
            "train": {name: [_last(run) for run in found] for name, found in runs.items()},
            "test": {name: [run.test_loss for run in found] for name, found in runs.items()},
        }
        for split, found in losses.items():
            series[f"{split}_loss"][kind] = found
            for rival in (*_RIVALS, "one gradient"):
                key = f"{split}_percent_over_{_key(rival)}_{kind}"
                figures |= percent(key, found["Optimistic AMSGrad"], found[rival])
            figures |= {f"{split}_loss_{_key(name)}_{kind}": mean(values) for name, values in found.items()}
        series["curves"][kind] = {
            name: [[point.step, point.train_loss] for point in run.curve]
            for name, found in runs.items()
            for run in found[:1]
        }
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "settings tried per side and task": scale.rates * scale.floors,
        "gradients per run": scale.steps,
        **{f"batch size, {kind}": task.batch_size for kind, task in tasks.items()},
    }
    return Measured(figures, series, seeds, budgets)


def _last(run: Outcome) -> float | None:
    return run.curve[-1].train_loss if run.status == "complete" else None


def _key(name: str) -> str:
    return name.lower().replace(" ", "_")


RULE = f"""\
All sides have had as many gradients. The training loss is the mean over the mini-batches of the last twentieth of a
run. Differences are Optimistic AMSGrad's less the rival's, in per cent of the rival's, paired by seed. On a task it is
better if the interval lies below 0, and worse if it lies above 0.

1. Its training loss is better than AMSGrad's on at least two of the three tasks, and worse on none.
2. Its training loss is better than Adam's on at least two of the three tasks, and worse on none.
3. Its test loss is better than AMSGrad's on at least two of the three tasks, and worse on none.

- **reproduced**: all three. **partly**: 1 or 2, but not all three.
- **not reproduced**: neither 1 nor 2, and on at least two tasks the interval of the training loss against AMSGrad's
  lies above -{SMALL:g} %: no gain, or one so small that it does not count.
- **inconclusive**: fewer than {ENOUGH} seeds, a run without a score, or anything else."""


_ENDS = ("", "_low", "_high")


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])

    def gaps(split: str, rival: str) -> list[list[Any]]:
        return [[figures.get(f"{split}_percent_over_{rival}_{kind}{end}") for end in _ENDS] for kind in _TASKS]

    needed = [gaps("train", "amsgrad"), gaps("train", "adam"), gaps("test", "amsgrad")]
    if any(None in gap for found in needed for gap in found):
        return Judgement(Verdict.INCONCLUSIVE, "A run has no score.")
    holds = [sum(gap[2] < 0 for gap in found) >= 2 and all(gap[1] <= 0 for gap in found) for found in needed]

    def told(found: list[list[Any]]) -> str:
        text = "{:+.1f} % ({:+.1f} to {:+.1f})".format
        first, second, third = (text(*gap) for gap in found)
        return f"{first} on the convolutional network, {second} on the autoencoder and {third} on the transformer"

    said = (
        f"After as many gradients the training loss differs from AMSGrad's by {told(needed[0])}; from Adam's by "
        f"{told(needed[1])}. The test loss differs from AMSGrad's by {told(needed[2])}"
    )
    control = gaps("train", "one_gradient")
    if all(None not in gap for gap in control):
        said += (
            f". Against the control that predicts the gradient before the last, the training loss differs by "
            f"{told(control)}"
        )
    said = parts(holds, f"{said}.")
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if holds[0] or holds[1]:
        return Judgement(Verdict.PARTLY, said)
    small = sum(gap[1] > -SMALL for gap in needed[0]) >= 2
    return Judgement(Verdict.NOT_REPRODUCED if small else Verdict.INCONCLUSIVE, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Training, what tuning saw, and the differences, for every task."""
    figure, axes = canvas(columns=3, rows=3, height=2.7)
    looks = {name: index for index, name in enumerate(("Optimistic AMSGrad", *_RIVALS, "one gradient"))}
    for place, kind in enumerate(_TASKS):
        training, landscape, gaps = axes[place::3]
        for name, points in series["curves"][kind].items():
            known = [p for p in points if p[1] is not None]
            style = "--" if name == "one gradient" else "-"
            training.plot(*zip(*known, strict=True), style, color=COLOURS[looks[name]], label=name, linewidth=1.4)
        if kind == "convolutional":  # the others' losses are all of one size
            training.set_yscale("log")
            landscape.set_yscale("log")
        training.set_xlabel("gradients")
        training.set_title(f"{kind.capitalize()}: one run")
        for name, points in series["landscape"][kind].items():
            scored = [p for p in points if p[1] is not None]
            rates = sorted({p[0] for p in scored})
            best = [min(v for r, v in scored if r == rate) for rate in rates]
            landscape.plot(rates, best, color=COLOURS[looks[name]], marker=MARKERS[looks[name]], label=name)
        landscape.set_xscale("log")
        landscape.set_xlabel("learning rate")
        landscape.set_title("Tuning")
        gaps.axvline(0, color=INK, linewidth=1)
        rows = [(split, rival) for split in ("train", "test") for rival in (*_RIVALS, "one gradient")]
        for row, (split, rival) in enumerate(rows):
            key = f"{split}_percent_over_{_key(rival)}_{kind}"
            middle, low, high = (figures.get(f"{key}{end}") for end in _ENDS)
            index = looks[rival]
            if middle is not None:
                gaps.plot([middle], [row], MARKERS[index], color=COLOURS[index], markersize=7)
            if low is not None and high is not None:
                gaps.plot([low, high], [row, row], color=COLOURS[index], linewidth=2.5)
        gaps.set_yticks(range(len(rows)), [f"{split}, {rival}" if place == 0 else "" for split, rival in rows])
        gaps.set_ylim(len(rows) - 0.5, -0.5)
        gaps.set_xlabel("loss against theirs (%)")
        gaps.set_title("Below 0: better")
    axes[0].set_ylabel("training loss")
    axes[3].set_ylabel("validation loss")
    axes[0].legend(fontsize=8)
    return figure


CLAIM = Claim(
    method="optimistic-amsgrad",
    title="Optimistic AMSGrad",
    statement=card("optimistic-amsgrad").claim,
    paper=card("optimistic-amsgrad").papers[0],
    test="""\
Three networks are trained: a convolutional network that classifies handwritten digits (the nearest to the paper's), a
deep autoencoder of such digits, and a small decoder-only transformer that predicts the characters of Python's standard
library. Optimistic AMSGrad as its paper writes it (it extrapolates past gradients, so a step takes one gradient, as the
rivals' do), AMSGrad without bias correction, which it extends, and Adam are tuned over the same seven learning rates in
steps of about 3 and the same two floors of the denominator, by the validation loss after the same number of steps, and
trained again with fresh seeds under the same schedule (warm-up, then cosine). The control has Optimistic AMSGrad's
tuned settings and keeps one past gradient in place of five: its prediction is the gradient before the last, and nothing
is extrapolated. (The authors' code takes a second gradient per step; it is another method and not tested.) A first run
had six learning rates, at whose upper end three winners lay, and six seeds, which left the verdict open: for all sides
alike a rate of 0.1 and four seeds were added, once.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "one setting, one seed, 10 steps; seconds; always inconclusive",
        Size.LAPTOP: "networks of 6 to 33 thousand parameters, scikit-learn's digits, 200 steps, 14 settings and 10 "
        "seeds per side and task; minutes",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says) and a transformer of 5 million parameters, 10,000 "
        "steps, 14 settings and 5 seeds per side and task; days on one GPU (the authors train ResNet-18 on CIFAR-10 "
        "and CIFAR-100, which need their data)",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
