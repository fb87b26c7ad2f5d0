"""AdaBelief: step sizes by the belief in the observed gradient."""

from typing import Unpack

import torch
from torch import Tensor

from ..core.adamw import bias_corrections
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY
from ..core.rule import lerp

__all__ = ["CARD", "AdaBelief"]


class AdaBelief(RuleOptimizer):
    r"""AdaBelief: Adam whose second moment measures the deviation of the gradient from its moving average.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        s_t &= \beta_2 s_{t-1} + (1 - \beta_2)(g_t - m_t)^2 + \varepsilon \\
        x_t &= (1 - \eta\lambda) x_{t-1}
               - \eta \, \frac{m_t / (1 - \beta_1^t)}{\sqrt{s_t / (1 - \beta_2^t)} + \varepsilon}

    A gradient near its prediction earns a large step, a surprising one a small step. The deviation is taken from the
    *updated* average, and :math:`\varepsilon` enters the recursion in every step, so that the denominator has the floor
    :math:`\sqrt{\varepsilon / (1 - \beta_2)}`: 3e-3 for ``eps=1e-8``, which is no longer a mere safeguard. Compare with
    Adam at ``eps`` near :math:`\sqrt{\varepsilon}`. Clip gradients by norm, not by coordinate: clamped coordinates look
    perfectly predictable and get huge steps.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\varepsilon \ge 0`. The default is that of the authors' package; the paper uses 1e-8 for
            convolutional networks and 1e-16 to 1e-12 for recurrent networks, transformers and GANs.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr`` (as in the authors' package).
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    The authors' package rectifies the step as RAdam by default; the paper's results do not, and neither does this.

    Source: Zhuang et al. (2020), AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients,
    arXiv 2010.07468, Algorithm 2.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "deviation": torch.zeros_like}
    nonnegative = ("deviation",)
    ranges = {"lr": STEP_SIZE, "betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY}
    coefficients = staticmethod(bias_corrections)

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, **common)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        deviation: Tensor,
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
        surprise = g - exp_avg
        deviation = beta2 * deviation + (1 - beta2) * surprise * surprise + eps
        step = (lr / correction1) * exp_avg / (torch.sqrt((1 / correction2) * deviation) + eps)
        return (1 - lr * weight_decay) * x - step, exp_avg, deviation


CARD = MethodCard(
    name="adabelief",
    title="AdaBelief",
    room="optim",
    family="adaptive",
    summary="Adam with the variance of the gradient around its moving average in the denominator.",
    target="steepest.optim.adabelief:AdaBelief",
    papers=(
        Paper(
            "Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan",
            2020,
            "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
            arxiv="2010.07468",
        ),
    ),
    buffers=2,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    claim="Converges as fast as Adam and generalizes as well as SGD.",
)
