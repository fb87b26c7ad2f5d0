"""Lion: the sign of an interpolated momentum."""

from typing import Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, STEP_SIZE, WEIGHT_DECAY
from ..core.rule import lerp

__all__ = ["CARD", "Lion"]


class Lion(RuleOptimizer):
    r"""Lion (EvoLved Sign Momentum): one buffer, every coordinate moves by exactly the learning rate.

    .. math::
        c_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        x_t &= x_{t-1} - \eta \, (\operatorname{sign}(c_t) + \lambda x_{t-1}) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    with :math:`m_0 = 0` and :math:`\operatorname{sign}(0) = 0`. The direction uses the old momentum; there is no bias
    correction and no epsilon. Multiplying the loss by a positive constant leaves the iterates unchanged. With weight
    decay :math:`\lambda`, the iterates end in the box :math:`\|x\|_\infty \le 1/\lambda` (see :class:`LionK`).

    The authors advise a learning rate 3 to 10 times smaller than AdamW's and a weight decay as many times larger, and
    ``betas=(0.95, 0.98)`` for language models; the advantage they report grows with the batch size.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`; the distance each coordinate moves per step.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1): interpolation for the direction, decay of the momentum.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Chen et al. (2023), Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675, Algorithm 2.
    """

    state_tensors = {"momentum": torch.zeros_like}
    ranges = {"lr": STEP_SIZE, "betas": BETAS, "weight_decay": WEIGHT_DECAY}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, **common)

    @staticmethod
    def rule(
        x: Tensor, g: Tensor, momentum: Tensor, *, lr: float, beta1: float, beta2: float, weight_decay: float
    ) -> tuple[Tensor, Tensor]:
        direction = torch.sign(lerp(momentum, g, 1 - beta1))
        return x - lr * (direction + weight_decay * x), lerp(momentum, g, 1 - beta2)


CARD = MethodCard(
    name="lion",
    title="Lion",
    room="optim",
    family="sign",
    summary="Steps by the sign of an interpolated momentum, with half of Adam's state.",
    target="steepest.optim.lion:Lion",
    papers=(
        Paper(
            "Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu, Le",
            2023,
            "Symbolic Discovery of Optimization Algorithms",
            arxiv="2302.06675",
        ),
    ),
    buffers=1,
    search={"lr": Float(1e-5, 1e-2, log=True), "weight_decay": Float(1e-3, 1.0, log=True)},
    claim="Matches or beats AdamW with half the optimizer state, and the more so the larger the batch.",
)
