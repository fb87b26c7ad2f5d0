"""Training with a step of one's own, for the claims about ways of training that are no optimizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import data
from steepest.data.dataset import Dataset

from .claim import Context

__all__ = ["Scored", "accuracy", "best_of", "images", "train"]

#: Settings -> the model and the step ``(inputs, targets)`` that trains it.
Make = Callable[[Mapping[str, Any], int], tuple[nn.Module, Callable[[Tensor, Tensor], Any]]]


@dataclass(frozen=True)
class Scored:
    """Accuracies in per cent."""

    validation: float
    test: float


def images(name: str, side: int, **options: Any) -> Dataset:
    """Images ``(n, 1, side, side)``, averaged over squares of pixels where they are larger."""
    found = data.load(name, **options)
    assert isinstance(found, Dataset)
    pixels = round(found.train.inputs[0].numel() ** 0.5)

    def shrunk(inputs: Tensor) -> Tensor:
        return functional.avg_pool2d(inputs.reshape(-1, 1, pixels, pixels), pixels // side)

    splits = {part: getattr(found, part) for part in ("train", "validation", "test")}
    return replace(found, **{part: replace(split, inputs=shrunk(split.inputs)) for part, split in splits.items()})


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """In per cent."""
    model.eval()
    found = 100 * float((model(inputs).argmax(1) == targets).double().mean())
    model.train()
    return found


def train(make: Make, settings: Mapping[str, Any], dataset: Dataset, epochs: int, batch: int, seed: int) -> Scored:
    """Train by mini-batches that, like the initial parameters, depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, step = make(settings, seed)
        model.train()
        inputs, targets = dataset.train.inputs, dataset.train.targets
        order = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for rows in torch.randperm(len(targets), generator=order).split(batch):
                step(inputs[rows], targets[rows])
        scores = [
            accuracy(model, *part) for part in ((s.inputs, s.targets) for s in (dataset.validation, dataset.test))
        ]
    return Scored(*scores)


def best_of(
    context: Context, name: str, grid: Sequence[Mapping[str, Any]], score: Callable[[Mapping[str, Any]], float]
) -> tuple[Mapping[str, Any], list[float], bool]:
    """The setting with the highest score, all scores, and whether its learning rate lies at the edge of the grid."""
    scores = []
    for number, settings in enumerate(grid, 1):
        context.say(f"tuning {name}: {number} of {len(grid)}")
        scores.append(score(settings))
    chosen = grid[max(range(len(grid)), key=scores.__getitem__)]
    rates = [s["lr"] for s in grid]
    return chosen, scores, len(set(rates)) > 1 and chosen["lr"] in (min(rates), max(rates))
