"""Clipping the global norm of the gradient, as part of an optimizer."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.ranges import Real
from ..core.sharding import full
from ..core.transform import Entry, Transform

__all__ = ["NormClip"]


class NormClip(Transform):
    r"""Scales the whole gradient down when its norm, over all parameters together, exceeds a bound.

    .. math::
        g \leftarrow g \cdot \min\Big(1, \frac{c}{\|g\|_2 + 10^{-6}}\Big)

    This is :func:`torch.nn.utils.clip_grad_norm_` inside the optimizer: a closure that is evaluated several times has
    every gradient clipped, and ``.grad`` is left as it was. A gradient that is not finite makes the norm so, and all
    gradients with it.

    Args:
        base: any optimizer.
        max_norm: the bound :math:`c` in (0, inf]; infinity clips nothing.

    Raises:
        ValueError, TypeError: ``max_norm`` is out of its range, or ``base`` is no optimizer.

    Source: Pascanu, Mikolov, Bengio (2012), On the difficulty of training Recurrent Neural Networks, arXiv 1211.5063,
    Algorithm 1; the :math:`10^{-6}` is PyTorch's.
    """

    ranges = {"max_norm": Real(low=0.0, low_open=True, infinite=True)}
    max_norm: float

    def __init__(self, base: Optimizer, max_norm: float) -> None:
        super().__init__(base, max_norm=max_norm)

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor] | None:
        """The gradients, scaled together."""
        if not entries or math.isinf(self.max_norm):
            return None
        gradients = [entry.gradient for entry in entries]
        norm: Any = full(nn.utils.get_total_norm(gradients))
        factor = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        return [g * factor.to(g.device, g.dtype) for g in gradients]
