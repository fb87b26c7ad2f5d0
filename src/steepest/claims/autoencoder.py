"""A deep autoencoder of handwritten digits at two scales: the test bed of second-order methods since Hinton's."""

import itertools
from functools import partial

from torch import nn
from torch.nn import functional

from steepest import data
from steepest.arena.task import Data, Examples, Task
from steepest.arena.tasks.common import examples

__all__ = ["autoencoder"]


def autoencoder(*, full: bool = False, batch: int = 32) -> Task:
    """Images through a narrow code and back, scored by the mean squared error of a pixel.

    Args:
        full: MNIST through layers of 784, 256, 64, 16, 64, 256, 784 units, in place of scikit-learn's digits through
            64, 48, 24, 8, 24, 48, 64.
        batch: images per mini-batch.
    """
    return Task(
        name=f"autoencoder{'-mnist' if full else ''}",
        title="Handwritten digits, deep autoencoder",
        model=partial(_model, (784, 256, 64, 16) if full else (64, 48, 24, 8)),
        data=partial(_data, full),
        loss=functional.mse_loss,
        batch_size=batch,
        evaluations=10,
    )


def _data(full: bool) -> Data:
    splits = examples(data.mnist() if full else data.digits(validation=0.2, test=0.3))
    flat = [split.inputs.flatten(1) for split in splits]
    return Data(*(Examples(images, images) for images in flat))


def _model(half: tuple[int, ...]) -> nn.Module:
    widths = (*half, *half[-2::-1])
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
        layers.append(nn.Linear(inputs, outputs))
        if index not in (len(half) - 1, len(widths) - 1):  # code and reconstruction are linear
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)
