"""Cautious updates: no coordinate moves against its gradient."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import AdamW, Optimizer

from ..core.card import Float, MethodCard, Paper
from ..core.rule import compute_dtype
from ..core.sharding import full
from ..core.transform import Entry, Transform, real
from .weight_decay import WeightDecay

__all__ = ["CARD", "Cautious", "cautious_adamw"]


class Cautious(Transform):
    r"""Leaves out the coordinates of an update that go against the present gradient, and enlarges the others.

    With the base's update :math:`u = x - x^{+}`, the difference of a parameter before and after its step, and the
    gradient :math:`g`, for each tensor of :math:`d` coordinates:

    .. math::
        \phi = \mathbb{1}[u \circ g > 0], \qquad
        x \leftarrow x - \frac{d}{\|\phi\|_0 + 1}\, \phi \circ u

    (:math:`-g` in groups that maximize). Without momentum every coordinate agrees, and only the factor
    :math:`d / (d + 1)` is left. Since the update is read off the parameters, any base will do; what else the base does
    to them, decoupled weight decay above all, is masked with it. The paper decays outside of the mask, which is
    ``WeightDecay(Cautious(base), weight_decay)`` over a base without decay: see :func:`cautious_adamw`. The gradient
    compared with is the one that this transform is given: changed by the transforms outside of it, not by those inside.

    The factor is the paper's :math:`d / (\|\phi\|_0 + \xi)` with its :math:`\xi = 1`; the authors' C-Lion has it too,
    their later C-AdamW divides by :math:`\max(\|\phi\|_0 / d, 10^{-3})` instead. Rounding in the difference is that of
    the parameter: with half-precision parameters the update has few digits.

    Args:
        base: any optimizer but LBFGS. One copy of the parameters is kept during a step, none between steps.

    Raises:
        ValueError, TypeError: ``base`` is no optimizer, or is LBFGS.

    Source: Liang, Chen, Liu, Liu (2024), Cautious Optimizers: Improving Training with One Line of Code, arXiv
    2411.16085, Algorithms 1 and 2.
    """

    moves = True

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base)

    def begin(self, entries: Sequence[Entry]) -> list[Tensor]:
        """The parameters before the step."""
        return [entry.parameter.detach().clone() for entry in entries]

    def finish(self, entries: Sequence[Entry], begun: list[Tensor]) -> None:
        """Mask and scale what the base has done; evaluated in float32 for half precision."""
        for (group, p, g), old in zip(entries, begun, strict=True):
            after = real(p.detach())
            dtype = compute_dtype(after.dtype)
            before = real(old).to(dtype)
            update = before - after.to(dtype)
            mask = (update * g < 0) if self.maximizes(group) else (update * g > 0)
            kept: Any = full(mask.sum(dtype=dtype))
            after.copy_(before - update * mask * (mask.numel() / (kept + 1)))


def cautious_adamw(
    params: Iterable[Any],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> WeightDecay:
    """C-AdamW: :class:`Cautious` over ``torch.optim.AdamW``, with the decoupled decay outside of the mask.

    Args:
        params: parameters, groups or named parameters.
        lr, betas, eps: AdamW's.
        weight_decay: decoupled weight decay, multiplied by ``lr``.

    Source: Liang, Chen, Liu, Liu (2024), arXiv 2411.16085, Algorithm 2. The order of decay and update is torch's: the
    decay comes first.
    """
    return WeightDecay(Cautious(AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=0.0)), weight_decay)


CARD = MethodCard(
    name="cautious-adamw",
    title="Cautious AdamW",
    room="optim",
    family="transform",
    summary="AdamW whose coordinates wait when the update goes against the present gradient.",
    target="steepest.optim.cautious:cautious_adamw",
    papers=(
        Paper(
            "Liang, Chen, Liu, Liu",
            2024,
            "Cautious Optimizers: Improving Training with One Line of Code",
            arxiv="2411.16085",
        ),
    ),
    buffers=2,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    claim="Masking the coordinates of the update that oppose the gradient speeds up AdamW and Lion without tuning.",
)
