"""Handwritten digits at two scales: the classification tasks that several claims are tested on."""

from functools import partial
from typing import Literal

from torch import nn
from torch.nn import functional

from steepest import data
from steepest.arena.task import Data, Task
from steepest.arena.tasks.common import accuracy, draw_classes, examples

__all__ = ["IMAGE_SIDES", "digit_images", "handwriting"]

Network = Literal["perceptron", "convolutional"]

_LOADERS = {
    "digits": partial(data.digits, test=0.5),
    "mnist10k": partial(data.mnist10k, validation=0.1, test=0.5),
    "mnist": data.mnist,
}
#: Pixels along each side of the images of :func:`digit_images`.
IMAGE_SIDES = {"digits": 8, "mnist10k": 28, "mnist": 28}


def digit_images(name: str, side: int) -> Data:
    """Digits as images of ``(1, side, side)`` pixels, half of the smaller data sets for the test.

    Args:
        name: ``"digits"`` (scikit-learn's), ``"mnist10k"`` or ``"mnist"``.
        side: to which images are averaged down.
    """
    splits = examples(_LOADERS[name]())
    whole = (split.inputs.reshape(-1, 1, IMAGE_SIDES[name], IMAGE_SIDES[name]) for split in splits)
    shrunk = (functional.adaptive_avg_pool2d(inputs, side) for inputs in whole)
    return Data(*(split._replace(inputs=inputs) for split, inputs in zip(splits, shrunk, strict=True)))


def handwriting(network: Network, *, full: bool = False, batch: int = 32) -> Task:
    """Digits in 10 classes, scored by accuracy.

    Args:
        network: ``"perceptron"`` (two hidden layers) or ``"convolutional"`` (two convolutions and a hidden layer, each
            followed by a batch norm, so that all weights but the last are scale-invariant).
        full: the 70,000 images of MNIST and a network of four times the width, in place of scikit-learn's 1,797 images,
            half of which are for the test: few training images leave room for a difference.
        batch: examples per mini-batch.
    """
    return Task(
        name=f"handwriting-{network}{'-mnist' if full else ''}",
        title=f"Handwritten digits, {network} network",
        model=partial(_perceptron if network == "perceptron" else _convolutional, full),
        data=partial(_data, network == "convolutional", full),
        loss=functional.cross_entropy,
        sample=draw_classes,
        metric=accuracy,
        metric_name="accuracy",
        higher_is_better=True,
        batch_size=batch,
        evaluations=20,
    )


def _data(images: bool, full: bool) -> Data:
    splits = examples(data.mnist() if full else data.digits(validation=0.2, test=0.5))
    side = 28 if full else 8
    shape = (1, side, side) if images else (side * side,)
    return Data(*(split._replace(inputs=split.inputs.reshape(-1, *shape)) for split in splits))


def _perceptron(full: bool) -> nn.Module:
    inputs, width = (784, 256) if full else (64, 64)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def _convolutional(full: bool) -> nn.Module:
    width, side = (32, 14) if full else (8, 4)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, 4 * width, bias=False),
        nn.BatchNorm1d(4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, 10),
    )
