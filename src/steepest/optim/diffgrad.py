"""diffGrad: Adam with a friction that grows where the gradient stands still."""

from typing import Unpack

import torch
from torch import Tensor

from ..core.adamw import bias_corrections
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY
from ..core.rule import lerp

__all__ = ["CARD", "DiffGrad"]


class DiffGrad(RuleOptimizer):
    r"""diffGrad: Adam's step times a friction factor in [1/2, 1) that grows with the change of the gradient.

    .. math::
        \tilde g_t &= g_t + \lambda x_{t-1}, \qquad
        \xi_t = \frac{1}{1 + \exp(-|\tilde g_{t-1} - \tilde g_t|)} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) \tilde g_t^2 \\
        x_t &= x_{t-1} - \eta \, \xi_t \, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}

    with :math:`\tilde g_0 = 0`. Where the gradient is steady the step is half of Adam's; where it jumps, nearly all of
    it. The friction depends on the absolute size of gradients: with small ones it stays near 1/2, so the honest rival
    is Adam at ``lr`` *and* at ``lr / 2``, and unlike Adam the method is not invariant to a rescaling of the loss.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\varepsilon \ge 0`, added to the root of the corrected second moment.
        weight_decay: coupled (L2) decay :math:`\lambda \ge 0`, added to the gradient.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    This follows the paper. The authors' code corrects the bias outside the root, which makes the effective epsilon
    :math:`\varepsilon / \sqrt{1 - \beta_2^t}`; and its first version kept a reference to the gradient instead of a
    copy, so that :math:`\xi` was always 1/2.

    Source: Dubey et al. (2019), diffGrad: An Optimization Method for Convolutional Neural Networks, arXiv 1909.11015.
    """

    state_tensors = {
        "exp_avg": torch.zeros_like,
        "exp_avg_sq": torch.zeros_like,
        "previous_gradient": torch.zeros_like,
    }
    nonnegative = ("exp_avg_sq",)
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
        exp_avg_sq: Tensor,
        previous_gradient: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        correction1: float,
        correction2: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        g = g + weight_decay * x
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
        inverse_friction = 1 + torch.exp(-torch.abs(previous_gradient - g))
        # One division for both factors: divisions are what this kernel spends its time on.
        step = (lr / correction1) * exp_avg / (inverse_friction * (torch.sqrt((1 / correction2) * exp_avg_sq) + eps))
        return x - step, exp_avg, exp_avg_sq, g


CARD = MethodCard(
    name="diffgrad",
    title="diffGrad",
    room="optim",
    family="adaptive",
    summary="Adam's step damped, down to a half, where the gradient hardly changes.",
    target="steepest.optim.diffgrad:DiffGrad",
    papers=(
        Paper(
            "Dubey, Chakraborty, Roy, Mukherjee, Singh, Chaudhuri",
            2019,
            "diffGrad: An Optimization Method for Convolutional Neural Networks",
            arxiv="1909.11015",
        ),
    ),
    buffers=3,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-6, 1e-2, log=True)},
    claim="Escapes poor local minima that hold Adam, and trains convolutional networks to higher accuracy.",
)
