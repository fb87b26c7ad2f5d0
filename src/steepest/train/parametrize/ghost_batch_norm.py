"""Ghost batch normalization: a large batch, normalized in small parts."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...core.card import MethodCard, Paper
from ...core.ranges import Integer

__all__ = ["CARD", "GhostBatchNorm1d", "GhostBatchNorm2d", "GhostBatchNorm3d", "ghost_batch_norm"]

Model = TypeVar("Model", bound=nn.Module)

_SIZE = Integer(low=1)


class _Ghost(_BatchNorm):
    ghost_size: int

    def __init__(self, num_features: int, ghost_size: int = 128, **settings: Any) -> None:
        _SIZE.check(f"{type(self).__name__}: ghost_size", ghost_size)
        super().__init__(num_features, **settings)
        self.ghost_size = ghost_size

    def forward(self, input: Tensor) -> Tensor:
        count = len(input) // self.ghost_size
        if not self.training or count <= 1:
            return super().forward(input)
        each, more = divmod(len(input), count)
        parts = input.split([each + 1] * more + [each] * (count - more))  # tensor_split's backward pass is quadratic
        # One after the other: each part's call updates the running statistics, which gives the paper's recursion.
        return torch.cat([super(_Ghost, self).forward(part) for part in parts])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


class GhostBatchNorm1d(_Ghost, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over ghost batches; see :func:`ghost_batch_norm`.

    Args:
        num_features: as in ``nn.BatchNorm1d``, whose other arguments follow by name.
        ghost_size: samples per ghost batch.
    """


class GhostBatchNorm2d(_Ghost, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over ghost batches; see :func:`ghost_batch_norm`.

    Args:
        num_features: as in ``nn.BatchNorm2d``, whose other arguments follow by name.
        ghost_size: samples per ghost batch.
    """


class GhostBatchNorm3d(_Ghost, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` over ghost batches; see :func:`ghost_batch_norm`.

    Args:
        num_features: as in ``nn.BatchNorm3d``, whose other arguments follow by name.
        ghost_size: samples per ghost batch.
    """


_CLASSES: dict[type[nn.Module], type[_Ghost]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}


def ghost_batch_norm(model: Model, ghost_size: int = 128) -> Model:
    r"""Turns the batch norms of a model into ghost batch norms, in place.

    A batch norm's noise acts as a regularizer, and it fades as batches grow. In training, ghost batch normalization
    cuts the batch of :math:`B` samples into :math:`K = \lfloor B / B_S \rfloor` ghost batches and normalizes each with
    its own mean and variance, as training with small batches would:

    .. math::
        y = \gamma \frac{x - \mu_l}{\sqrt{\sigma_l^2 + \varepsilon}} + \beta \quad (x \text{ in ghost batch } l), \qquad
        \bar\mu \leftarrow (1 - \eta)^K \bar\mu + \sum_{l=1}^K (1 - \eta)^{K - l} \eta\, \mu_l

    with the momentum :math:`\eta` of the running averages, those of the (unbiased) variances likewise; in evaluation
    they normalize as always. Where :math:`B_S` does not divide :math:`B`, ghost batches differ by at most one sample
    and none has fewer than :math:`B_S`; a batch of less than two times :math:`B_S` is one ghost batch. Samples must be
    shuffled. Each process of data-parallel training cuts its own part, as batch norms do.

    The layers stay the same objects, of a subclass (:class:`GhostBatchNorm1d`, ...): parameters, running statistics
    and ``state_dict`` are untouched, and a plain model can load them.

    In the paper this is one part of a recipe for batches ``k`` times as large: a learning rate :math:`\sqrt k` times
    as large, gradients clipped to the norm 5, and as many updates as with small batches.

    Args:
        model: a module with ``nn.BatchNorm1d``, ``2d`` or ``3d`` in it, or one itself. Subclasses of these, among
            them ``nn.SyncBatchNorm``, are left alone.
        ghost_size: :math:`B_S \ge 1`, samples per ghost batch; 128 in the paper.

    Returns:
        The model.

    Raises:
        ValueError, TypeError: ``ghost_size`` is out of range, or the model has no batch norm.

    Source: Hoffer, Hubara, Soudry (2017), Train longer, generalize better: closing the generalization gap in large
    batch training of neural networks, arXiv 1705.08741.
    """
    _SIZE.check("ghost_batch_norm: ghost_size", ghost_size)
    found: list[Any] = [layer for layer in model.modules() if type(layer) in _CLASSES or isinstance(layer, _Ghost)]
    if not found:
        raise ValueError("ghost_batch_norm: model must have a batch norm, it has none")
    for layer in found:
        layer.__class__ = _CLASSES.get(type(layer), type(layer))
        layer.ghost_size = ghost_size
    return model


CARD = MethodCard(
    name="ghost-batch-norm",
    title="Ghost batch normalization",
    room="parametrize",
    family="normalization",
    summary="Batch norms that normalize a large batch in small parts, each with its own statistics.",
    target="steepest.train.parametrize.ghost_batch_norm:ghost_batch_norm",
    papers=(
        Paper(
            "Hoffer, Hubara, Soudry",
            2017,
            "Train longer, generalize better: closing the generalization gap in large batch training of neural "
            "networks",
            "1705.08741",
        ),
    ),
    needs=frozenset({"function"}),
    buffers=0,
    usage="steepest.train.parametrize.ghost_batch_norm(model, ghost_size=128)",
    claim="Large batches generalize worse because they update less: with a learning rate scaled by the square root, "
    "ghost batch norms and as many updates as small batches get, the gap closes.",
)
