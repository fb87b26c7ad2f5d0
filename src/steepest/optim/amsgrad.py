"""AMSGrad: Adam whose second moment never falls."""

from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from ..core.adamw import bias_corrections
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY, OneOf
from ..core.rule import lerp

__all__ = ["CARD", "AMSGrad"]


class AMSGrad(RuleOptimizer):
    r"""AMSGrad: Adam that divides by the running maximum of its second moment, so that its step sizes only shrink.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
        \hat v_t = \max(\hat v_{t-1}, c_t v_t) \\
        x_t &= (1 - \eta\lambda) x_{t-1}
               - \eta \, \frac{a_t m_t}{\sqrt{d_t \hat v_t} + \varepsilon}

    On some convex problems Adam goes to the worst point of the domain, because its average forgets a rare large
    gradient faster than such gradients return. The maximum never forgets. The price is that one spike of the gradient
    makes the steps of its coordinate small for the rest of the run.

    The paper does not correct the bias, and its users disagree on where to do it, which ``bias_correction`` chooses:

    - ``"none"`` (the paper): :math:`a_t = c_t = d_t = 1`;
    - ``"before"`` the maximum (optax): :math:`a_t = 1/(1-\beta_1^t)`, :math:`c_t = 1/(1-\beta_2^t)`, :math:`d_t = 1`;
    - ``"after"`` the maximum (``torch.optim``): :math:`a_t = 1/(1-\beta_1^t)`, :math:`c_t = 1`,
      :math:`d_t = 1/(1-\beta_2^t)`. Here the denominator does fall while the correction fades, by up to the factor
      :math:`\sqrt{1 - \beta_2}` after a large first gradient; the paper's promise then holds only for ``lr`` that falls
      as :math:`1/\sqrt t` (:math:`t / (1-\beta_2^t)` grows), or late in the run.

    The paper projects every step onto a bounded set, in the norm weighted by :math:`\sqrt{\hat v_t}`. For a box this is
    clamping each coordinate after ``step()``. Its theorem divides ``lr`` by :math:`\sqrt t` (a ``LambdaLR``).

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`. The paper names no default; this is torch's.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\varepsilon \ge 0`; the paper has none. With 0, a coordinate without any gradient becomes NaN.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        bias_correction: ``"after"`` the maximum, ``"before"`` it, or ``"none"``: see above.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    The defaults are those of ``torch.optim.AdamW(amsgrad=True)`` without decay.

    Source: Reddi, Kale, Kumar (2018), On the Convergence of Adam and Beyond, arXiv 1904.09237, Algorithm 2.
    """

    state_tensors = {
        "exp_avg": torch.zeros_like,
        "exp_avg_sq": torch.zeros_like,
        "max_exp_avg_sq": torch.zeros_like,
    }
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "bias_correction": OneOf(("after", "before", "none")),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bias_correction: Literal["after", "before", "none"] = "after",
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def coefficients(step: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """The factors on the first moment, and on the second before and after the maximum."""
        where = settings["bias_correction"]
        corrections = bias_corrections(step, settings)
        second = 1 / corrections["correction2"]
        return {
            "first_factor": 1.0 if where == "none" else 1 / corrections["correction1"],
            "factor_before": second if where == "before" else 1.0,
            "factor_after": second if where == "after" else 1.0,
        }

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        max_exp_avg_sq: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        first_factor: float,
        factor_before: float,
        factor_after: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
        max_exp_avg_sq = torch.maximum(max_exp_avg_sq, factor_before * exp_avg_sq)
        step = (lr * first_factor) * exp_avg / (torch.sqrt(factor_after * max_exp_avg_sq) + eps)
        return (1 - lr * weight_decay) * x - step, exp_avg, exp_avg_sq, max_exp_avg_sq


CARD = MethodCard(
    name="amsgrad",
    title="AMSGrad",
    room="optim",
    family="adaptive",
    summary="Adam on the running maximum of its second moment, so that rare large gradients are not forgotten.",
    target="steepest.optim.amsgrad:AMSGrad",
    papers=(Paper("Reddi, Kale, Kumar", 2018, "On the Convergence of Adam and Beyond", arxiv="1904.09237"),),
    buffers=3,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    claim="Converges where Adam goes to the worst point, and trains networks at least as well as Adam.",
)
