"""Clipping the largest coordinates of the gradient."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..core.card import Float, MethodCard, Paper
from ..core.ranges import Integer, Real
from ..core.rule import compute_dtype
from ..core.sharding import full
from ..core.transform import Entry, Transform

__all__ = ["CARD", "CoordinateClip", "sgd_with_coordinate_clip", "threshold"]


class CoordinateClip(Transform):
    r"""Clips the largest coordinates of the gradient to a threshold that follows the gradient.

    With :math:`N` coordinates in all parameters together and the fraction :math:`k`, the threshold :math:`\tau` is the
    largest magnitude that is not among the :math:`\lfloor k N \rfloor` largest:

    .. math::
        \tau = |g|_{(\lfloor k N \rfloor + 1)}, \qquad g_i \leftarrow \operatorname{sign}(g_i) \min(|g_i|, \tau)

    where :math:`|g|_{(j)}` is the :math:`j`-th largest. One threshold holds for all tensors. With many zero gradients
    (embeddings of rare words) the rank may fall on a zero; the smallest magnitude above zero is the threshold then, so
    that the clip never removes the whole gradient. Non-finite coordinates rank highest and are passed on as they are,
    for the base, or the user, to notice.

    As :math:`k \to 1` all magnitudes become the smallest one: up to its scale the clipped gradient tends to the sign.

    Where this differs from the authors' code: there the clip is part of SGD, Adam and others; Adam's second moment is
    fed the raw gradient, and only the multi-tensor code path clips. Here every base sees the clipped gradient alone,
    on every path.

    Args:
        base: any optimizer.
        fraction: :math:`k` in [0, 1), the part of the coordinates that is clipped. The authors use 0.1 for SGD and 0.5
            for Adam. 0 clips nothing.
        sample: up to this many coordinates the selection is exact. Above, the threshold is taken from about so many
            coordinates, drawn once and for all, from each tensor its share; the fraction that is then clipped has a
            standard error of at most :math:`\sqrt{k (1 - k) / \mathrm{sample}}`, 0.0003 at the default for
            :math:`k = 0.1`. ``None``: exact always.

    Raises:
        ValueError, TypeError: a setting is out of its range, or ``base`` is no optimizer.

    Source: Pan, Li (2023), Toward Understanding Why Adam Converges Faster Than SGD for Transformers, arXiv 2306.00204.
    """

    ranges = {"fraction": Real(low=0.0, high=1.0, high_open=True), "sample": Integer(low=1, optional=True)}
    fraction: float
    sample: int | None

    def __init__(self, base: Optimizer, fraction: float = 0.1, sample: int | None = 2**20) -> None:
        super().__init__(base, fraction=fraction, sample=sample)

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor] | None:
        """The gradients, clipped at one threshold."""
        if not self.fraction or not any(entry.gradient.numel() for entry in entries):
            return None
        gradients = [entry.gradient for entry in entries]
        tau = threshold(gradients, self.fraction, self.sample)
        return [_clip(g, tau.to(g.device, g.dtype)) for g in gradients]


def threshold(tensors: Sequence[Tensor], fraction: float, sample: int | None = None) -> Tensor:
    """The magnitude that the given fraction of all coordinates exceeds, above zero where any coordinate is.

    Args:
        tensors: the tensors, of any shapes, at least one of them not empty.
        fraction: in [0, 1).
        sample: as in :class:`CoordinateClip`.
    """
    flat = [full(t).flatten() for t in tensors]
    total = sum(t.numel() for t in flat)
    if sample is not None and total > sample:
        draw = torch.Generator().manual_seed(0)  # the same places in every step and on every replica
        shares = [-(-sample * t.numel() // total) for t in flat]
        places = [torch.randint(max(1, t.numel()), (n,), generator=draw) for t, n in zip(flat, shares, strict=True)]
        flat = [t[at.to(t.device)] for t, at in zip(flat, places, strict=True)]
    dtype = max((compute_dtype(t.dtype) for t in flat), key=lambda d: d.itemsize)
    magnitudes = torch.cat([t.abs().to(flat[0].device, dtype) for t in flat])
    count = magnitudes.numel()
    tau = magnitudes.kthvalue(count - int(fraction * count)).values
    if tau == 0:
        tau = magnitudes.masked_fill(magnitudes == 0, torch.inf).min()
    return tau


def _clip(g: Tensor, tau: Tensor) -> Tensor:
    return torch.where(g.isfinite(), g.clamp(-tau, tau), g)


def sgd_with_coordinate_clip(
    params: Iterable[Any],
    lr: float = 1e-2,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    fraction: float = 0.1,
) -> CoordinateClip:
    """:class:`CoordinateClip` over ``torch.optim.SGD``; the momentum and the decay follow the clip.

    Args:
        params: parameters, groups or named parameters.
        lr, momentum, weight_decay: SGD's.
        fraction: of the coordinates that is clipped.

    Source: Pan, Li (2023), arXiv 2306.00204 ("SGD clip", with momentum 0.9 and fraction 0.1).
    """
    return CoordinateClip(SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay), fraction=fraction)


CARD = MethodCard(
    name="coordinate-clip",
    title="Coordinate clipping",
    room="optim",
    family="transform",
    summary="Clips the largest coordinates of the gradient before the step; here over SGD with momentum.",
    target="steepest.optim.coordinate_clip:sgd_with_coordinate_clip",
    papers=(
        Paper(
            "Pan, Li",
            2023,
            "Toward Understanding Why Adam Converges Faster Than SGD for Transformers",
            arxiv="2306.00204",
        ),
    ),
    buffers=1,
    search={
        "lr": Float(1e-3, 3.0, log=True),
        "weight_decay": Float(1e-6, 1e-2, log=True),
        "fraction": Float(0.01, 0.5, log=True),
    },
    claim="On transformers SGD's steps are far sharper than Adam's because of a few coordinates; clipping the largest "
    "tenth of them makes SGD's steps flatter and its training faster.",
)
