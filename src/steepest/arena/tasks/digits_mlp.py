"""``digits-mlp``: scikit-learn's handwritten digits and a small perceptron; a run takes under a second."""

from torch import nn
from torch.nn import functional

from steepest import data

from ..task import Data, Task
from .common import accuracy, draw_classes, examples

__all__ = ["make_task"]


def _data() -> Data:
    return examples(data.digits())


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def make_task() -> Task:
    """1,797 images of 8 x 8 pixels in 10 classes; a perceptron with two hidden layers of 64 units."""
    return Task(
        name="digits-mlp",
        title="Handwritten digits, perceptron with two hidden layers",
        model=_model,
        data=_data,
        loss=functional.cross_entropy,
        sample=draw_classes,
        metric=accuracy,
        metric_name="accuracy",
        higher_is_better=True,
        batch_size=64,
        budget="300steps",
        description="1,797 images of 8 x 8 pixels (scikit-learn), 9 thousand parameters; seconds per method.",
    )
