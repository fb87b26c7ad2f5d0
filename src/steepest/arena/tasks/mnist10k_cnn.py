"""``mnist10k-cnn``: ten thousand MNIST images and a small convolutional network."""

from torch import nn
from torch.nn import functional

from steepest import data

from ..task import Data, Task
from .common import accuracy, draw_classes, examples

__all__ = ["make_task"]


def _data() -> Data:
    return examples(data.mnist10k())


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def make_task() -> Task:
    """7,000 training images of 28 x 28 pixels in 10 classes; two strided convolutions and two linear layers."""
    return Task(
        name="mnist10k-cnn",
        title="MNIST (10,000 images), small convolutional network",
        model=_model,
        data=_data,
        loss=functional.cross_entropy,
        sample=draw_classes,
        metric=accuracy,
        metric_name="accuracy",
        higher_is_better=True,
        batch_size=64,
        budget="300steps",
        eval_batch_size=1000,
        description="7,000 training images of 28 x 28 pixels, 106 thousand parameters; minutes per method.",
    )
