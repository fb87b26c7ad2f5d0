"""AdaMomentum: Adam whose second moment is that of the momentum."""

from typing import Unpack

import torch
from torch import Tensor

from ..core.adamw import bias_corrections
from ..core.card import Choice, Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY
from ..core.rule import lerp

__all__ = ["CARD", "AdaMomentum"]


class AdaMomentum(RuleOptimizer):
    r"""AdaMomentum (AdaM³): Adam whose second moment averages the square of the momentum, not of the gradient.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) m_t^2 + \varepsilon \\
        x_t &= (1 - \eta\lambda) x_{t-1}
               - \eta \, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)}}

    Numerator and denominator come from the same average, so a coordinate with noisy gradients takes steps of about
    ``lr`` where Adam's shrink: under independent noise they are :math:`\sqrt{(1+\beta_1)/(1-\beta_1)}` (4.4 by default)
    times as long, so tune ``lr`` anew. Three things to know:

    - There is no other :math:`\varepsilon` than the one that enters the recursion in every step. It accumulates: the
      corrected denominator has the floor :math:`\sqrt{\varepsilon / (1 - \beta_2)}`, 3e-3 for the default, below which
      steps are those of SGD with momentum at the rate ``lr`` over the floor. On networks with small gradients this is
      part of the method, so compare with Adam at ``eps`` near 3e-3. In a coordinate that never had a gradient,
      ``eps=0`` gives NaN.
    - The first momentum is :math:`(1-\beta_1) g`, and the correction of :math:`v` does not account for it: where
      :math:`\varepsilon` does not matter, the first step has the length :math:`\eta / (1 - \beta_1)`, ten times ``lr``.
      Warm ``lr`` up.
    - For a constant gradient it becomes Adam.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\varepsilon \ge 0`. The default is what the paper uses for convolutional networks; the authors'
            package defaults to 1e-16.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr`` (as in the authors' package;
            the paper's convolutional networks use coupled decay).
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    The authors' package rectifies the step as RAdam by default; the algorithm in the paper does not, nor does this.

    Source: Wang, Kang, Qin, Wang, Xu, Zhang, Fu (2021), Rethinking Adam: A Twofold Exponential Moving Average Approach,
    arXiv 2106.11514; published 2023 as Momentum is All You Need for Data-Driven Adaptive Optimization.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "momentum_sq": torch.zeros_like}
    ranges = {"lr": STEP_SIZE, "betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY}
    coefficients = staticmethod(bias_corrections)

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, **common)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        momentum_sq: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        correction1: float,
        correction2: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        momentum_sq = beta2 * momentum_sq + (1 - beta2) * (exp_avg * exp_avg) + eps
        step = (lr / correction1) * exp_avg / torch.sqrt((1 / correction2) * momentum_sq)
        return (1 - lr * weight_decay) * x - step, exp_avg, momentum_sq


CARD = MethodCard(
    name="adamomentum",
    title="AdaMomentum",
    room="optim",
    family="adaptive",
    summary="Adam with the squared momentum in place of the squared gradient: noisy coordinates keep full steps.",
    target="steepest.optim.adamomentum:AdaMomentum",
    papers=(
        Paper(
            "Wang, Kang, Qin, Wang, Xu, Zhang, Fu",
            2021,
            "Rethinking Adam: A Twofold Exponential Moving Average Approach",
            arxiv="2106.11514",
        ),
    ),
    buffers=2,
    search={
        "lr": Float(1e-5, 3e-2, log=True),
        "weight_decay": Float(1e-4, 0.3, log=True),
        "eps": Choice((1e-16, 1e-12, 1e-8)),
    },
    claim="Generalizes better than Adam and its descendants, close to or beyond SGD.",
)
