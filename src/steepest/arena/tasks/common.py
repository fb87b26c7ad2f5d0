"""What several tasks share."""

from typing import Any

import torch
from torch import Tensor

from ..task import Data, Examples

__all__ = ["accuracy", "draw_classes", "examples"]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The part of the rows whose largest output is the target class."""
    return (outputs.argmax(-1) == targets).float().mean()


def draw_classes(outputs: Tensor) -> Tensor:
    """Classes drawn from the probabilities whose logits are the last dimension of the outputs."""
    return torch.distributions.Categorical(logits=outputs).sample()


def examples(dataset: Any) -> Data:
    """The splits of a :class:`steepest.data` data set."""
    return Data(*(Examples(s.inputs, s.targets) for s in (dataset.train, dataset.validation, dataset.test)))
