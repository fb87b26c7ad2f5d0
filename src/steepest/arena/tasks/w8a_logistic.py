"""``w8a-logistic``: logistic regression on the LIBSVM data set w8a, a convex problem."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import data

from ..task import Data, Examples, Task

__all__ = ["make_task"]


class _Logit(nn.Linear):
    """A linear model that starts at zero, as is usual for convex problems; the seed then only orders the batches."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).squeeze(-1)


def _data() -> Data:
    found = data.libsvm("w8a", dense=True)
    return Data(*(Examples(s.inputs, s.targets.to(torch.float32)) for s in (found.train, found.validation, found.test)))


def _model() -> nn.Module:
    return _Logit(300, 1)


def _draw_labels(outputs: Tensor) -> Tensor:
    return torch.bernoulli(torch.sigmoid(outputs))


def make_task() -> Task:
    """49,749 web pages with 300 binary features, 3 % of them positive; the mean logistic loss is the score."""
    return Task(
        name="w8a-logistic",
        title="Logistic regression on w8a",
        model=_model,
        data=_data,
        loss=functional.binary_cross_entropy_with_logits,
        sample=_draw_labels,
        metric_name="log loss",
        higher_is_better=False,
        batch_size=256,
        budget="500steps",
        eval_batch_size=16384,
        description="49,749 web pages with 300 binary features (LIBSVM); convex; seconds per method.",
    )
