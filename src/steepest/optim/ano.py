"""Ano and Anolog: the direction of the momentum, the size of the current gradient."""

import math
from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY, Real
from ..core.rule import lerp

__all__ = ["CARDS", "Ano", "Anolog"]

#: Below 1/2 the second moment can become negative.
_BETA2 = Real(low=0.5, high=1.0, high_open=True)


class Ano(RuleOptimizer):
    r"""Ano: each coordinate moves in the direction of its momentum, by the size of its current normalized gradient.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \operatorname{sign}(g_t^2 - v_{t-1})\, g_t^2 \\
        x_t &= (1 - \eta\lambda) x_{t-1}
               - \eta \, \frac{|g_t|}{\sqrt{v_t / (1 - \beta_2^t) + \varepsilon}} \operatorname{sign}(m_t)

    Noise makes Adam's momentum, and so its steps, small against :math:`\sqrt v`; here only the sign of the momentum
    counts, and steps stay of about the length ``lr`` however noisy the gradient is. So compare with Adam at a larger
    ``lr``, and tune both. The second moment is Yogi's with the old average decayed as well: a gradient smaller than
    the average makes it fall faster than Adam's, in one step to no less than :math:`2 \beta_2 - 1` of its value. So it
    stays nonnegative for :math:`\beta_2 \ge 1/2`, which is required.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`\beta_1` in [0, 1) and :math:`\beta_2` in [0.5, 1).
        eps: :math:`\varepsilon \ge 0`, *inside* the square root: gradients below :math:`\sqrt\varepsilon` = 1e-4 move
            less. With 0, a coordinate without any gradient becomes NaN.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    This follows the author's code, which the paper's experiments ran; the paper's analysis lets ``lr`` fall as
    :math:`t^{-3/4}` and :math:`\beta_1` rise as :math:`1 - 1/\sqrt t`.

    Source: Kegreisz (2025), Ano: Faster is Better in Noisy Landscapes, arXiv 2508.18258.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "exp_avg_sq": torch.zeros_like}
    ranges = {"lr": STEP_SIZE, "betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, **common)

    def group_settings(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing is added, but the second of the betas has a range of its own."""
        _BETA2.check(f"{type(self).__name__}: betas[1]", group["betas"][1])
        return {}

    @staticmethod
    def coefficients(step: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """The bias correction of the second moment; the first is used for its sign only."""
        return {"correction2": 1 - settings["beta2"] ** step}

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        correction2: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        square = g * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * torch.sign(square - exp_avg_sq) * square
        step = lr * g.abs() * torch.sign(exp_avg) / torch.sqrt((1 / correction2) * exp_avg_sq + eps)
        return (1 - lr * weight_decay) * x - step, exp_avg, exp_avg_sq


class Anolog(RuleOptimizer):
    r"""Anolog: :class:`Ano` with a momentum whose window grows with the logarithm of the step count.

    .. math::
        \beta_{1,t} = 1 - \frac{1}{\ln(t + 2)}

    It begins at 0.09 and is 0.86 after 1,000 steps and 0.91 after 100,000.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        beta2: decay of the second moment, in [0.5, 1).
        eps, weight_decay, common: as for :class:`Ano`.

    This follows the paper. The author's code takes :math:`1 - 1/\ln(\max(2, t))`, which is -0.44 in the first two
    steps, and leaves out the bias correction of the second moment, which makes the first step 32 times as long.

    Source: Kegreisz (2025), arXiv 2508.18258; the default of ``beta2`` is that of the author's code.
    """

    state_tensors = Ano.state_tensors
    ranges = {"lr": STEP_SIZE, "beta2": _BETA2, "eps": EPSILON, "weight_decay": WEIGHT_DECAY}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-4,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}, **common)

    @staticmethod
    def coefficients(step: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """The growing momentum, and the bias correction of the second moment."""
        return {"beta1": 1 - 1 / math.log(step + 2), **Ano.coefficients(step, settings)}

    rule = staticmethod(Ano.rule)


_PAPER = Paper("Kegreisz", 2025, "Ano: Faster is Better in Noisy Landscapes", arxiv="2508.18258")
_SEARCH = {"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)}

CARDS = (
    MethodCard(
        name="ano",
        title="Ano",
        room="optim",
        family="adaptive",
        summary="The sign of the momentum times the size of the current gradient, normalized as in Yogi.",
        target="steepest.optim.ano:Ano",
        papers=(_PAPER,),
        buffers=2,
        search=_SEARCH,
        claim="More robust to gradient noise than Adam, by a margin that grows with the noise.",
    ),
    MethodCard(
        name="anolog",
        title="Anolog",
        room="optim",
        family="adaptive",
        summary="Ano with a momentum whose window grows with the logarithm of the step count.",
        target="steepest.optim.ano:Anolog",
        papers=(_PAPER,),
        buffers=2,
        search=_SEARCH,
    ),
)
