"""Weight decay for optimizers that have none of their own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..core.ranges import WEIGHT_DECAY, Flag
from ..core.transform import Entry, Transform, real

__all__ = ["WeightDecay"]


class WeightDecay(Transform):
    r"""Pulls the parameters towards zero, beside the loss (decoupled) or as a part of it (coupled).

    .. math::
        \text{decoupled:} \quad & x \leftarrow (1 - \eta \lambda)\, x \quad \text{before the base's update} \\
        \text{coupled:} \quad & g \leftarrow g + \lambda x

    with the learning rate :math:`\eta` of each parameter group. Decoupled decay over Adam is AdamW, coupled decay over
    SGD is SGD with ``weight_decay``, both bit for bit. Of two nested transforms the outer one sees the gradient first:
    ``WeightDecay(NormClip(base), decoupled=False)`` clips the sum of gradient and decay,
    ``NormClip(WeightDecay(base, decoupled=False))`` the gradient alone. With a closure, decoupled decay follows its
    first evaluation; it is not undone when the base skips or refuses the step for a gradient that is not finite. In
    groups that maximize, coupled decay still shrinks.

    Args:
        base: any optimizer that does not decay weights itself; LBFGS takes coupled decay only.
        weight_decay: :math:`\lambda \ge 0`.
        decoupled: which of the two.

    Raises:
        ValueError, TypeError: a setting is out of its range; the base (or a transform in it) already decays; decoupled
            decay is to go over LBFGS.

    Source: Loshchilov, Hutter (2017), Decoupled Weight Decay Regularization, arXiv 1711.05101.
    """

    ranges = {"weight_decay": WEIGHT_DECAY, "decoupled": Flag()}
    weight_decay: float
    decoupled: bool

    def __init__(self, base: Optimizer, weight_decay: float, decoupled: bool = True) -> None:
        self.moves = decoupled  # type: ignore[misc]
        super().__init__(base, weight_decay=weight_decay, decoupled=decoupled)
        self._check_base()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; it may not decay."""
        _refuse(param_group, len(self.param_groups))
        super().add_param_group(param_group)

    def _check_base(self) -> None:
        for index, group in enumerate(self.param_groups):
            _refuse(group, index)
        inner: Optimizer = self.base
        while isinstance(inner, Transform):
            if isinstance(inner, WeightDecay) and inner.weight_decay:
                raise ValueError(f"WeightDecay: base already decays: {inner.weight_decay!r} by a WeightDecay inside it")
            inner = inner.base

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor] | None:
        """The gradients with the coupled decay."""
        if self.decoupled or not self.weight_decay:
            return None
        sign = {id(e.group): -1.0 if e.group.get("maximize", False) else 1.0 for e in entries}
        return [e.gradient.add(real(e.parameter), alpha=sign[id(e.group)] * self.weight_decay) for e in entries]

    def begin(self, entries: Sequence[Entry]) -> None:
        """The decoupled decay."""
        if self.decoupled and self.weight_decay:
            for entry in entries:
                entry.parameter.mul_(1 - entry.group["lr"] * self.weight_decay)


def _refuse(group: dict[str, Any], index: int) -> None:
    if group.get("weight_decay", 0):
        raise ValueError(
            f"WeightDecay: base already decays: parameter group {index} has weight_decay={group['weight_decay']!r}; "
            "build it with weight_decay=0"
        )
