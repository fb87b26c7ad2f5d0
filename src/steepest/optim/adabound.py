"""AdaBound and AMSBound: Adam whose step sizes are squeezed into those of SGD."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY, Real
from ..core.rule import lerp

__all__ = ["CARDS", "AMSBound", "AdaBound"]

_POSITIVE = Real(low=0.0, low_open=True)


class AdaBound(RuleOptimizer):
    r"""AdaBound: Adam's per-coordinate step sizes, clipped to an interval that shrinks to a single value.

    .. math::
        g &\leftarrow g + \lambda x, \quad
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g^2 \\
        \eta_t &= \operatorname{clip}\!\left(
            \frac{\eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)}{\sqrt{v_t} + \varepsilon},\;
            f \Big(1 - \frac{1}{\gamma t + 1}\Big),\; f \Big(1 + \frac{1}{\gamma t}\Big) \right),
        \qquad f = \text{final\_lr} \cdot \eta / \eta_0 \\
        x_t &= x_{t-1} - \eta_t \, m_t

    It begins as Adam and ends as SGD with momentum :math:`\beta_1`, dampening :math:`\beta_1` and learning rate
    :math:`f`. A learning-rate schedule scales :math:`f` too, by the ratio of ``lr`` to the ``base_lr`` that the group
    stores when it is made (and that is saved with it). The lower bound rises fast: at the defaults it passes 1e-3
    after ten steps.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: Adam's learning rate :math:`\eta > 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        final_lr: the learning rate of the SGD that it becomes, :math:`\ge 0`.
        gamma: speed of the transition, :math:`> 0`; the bounds are within 10 % of :math:`f` after ``10 / gamma`` steps.
        eps: :math:`\varepsilon \ge 0`.
        weight_decay: coupled (L2) decay :math:`\lambda \ge 0`, added to the gradient.
        base_lr: the learning rate :math:`\eta_0` that ``final_lr`` goes with; by default the ``lr`` given here.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    This follows the authors' code, which corrects the bias; the paper's algorithm does not, and divides the step by
    :math:`\sqrt t` for its regret bound. That bound has a gap; see Savarese (2019), arXiv 1908.04457.

    Source: Luo, Xiong, Liu, Sun (2019), Adaptive Gradient Methods with Dynamic Bound of Learning Rate,
    arXiv 1902.09843.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "exp_avg_sq": torch.zeros_like}
    nonnegative = ("exp_avg_sq", "max_exp_avg_sq")
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "final_lr": STEP_SIZE,
        "gamma": _POSITIVE,
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "base_lr": _POSITIVE,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        base_lr: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "final_lr": final_lr,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        if base_lr is not None:
            settings["base_lr"] = base_lr
        super().__init__(params, settings, **common)

    def group_settings(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """The learning rate that ``final_lr`` goes with, kept when a schedule changes ``lr``."""
        base = group.get("base_lr", group["lr"])
        if not base > 0:
            raise ValueError(
                f"{type(self).__name__}: lr must be a finite number in (0, inf) unless base_lr is given, got {base!r}"
            )
        return {"base_lr": base}

    @staticmethod
    def coefficients(step: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """Adam's corrected step size and the two bounds."""
        final = settings["final_lr"] * settings["lr"] / settings["base_lr"]
        speed = settings["gamma"] * step
        return {
            "step_size": settings["lr"] * (1 - settings["beta2"] ** step) ** 0.5 / (1 - settings["beta1"] ** step),
            "low": final * (1 - 1 / (speed + 1)),
            "high": final * (1 + 1 / speed),
        }

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step_size: float,
        low: float,
        high: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        g = g + weight_decay * x
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
        return x - _bounded(exp_avg_sq, eps, step_size, low, high) * exp_avg, exp_avg, exp_avg_sq


class AMSBound(AdaBound):
    r"""AMSBound: :class:`AdaBound` on the running maximum of the second moment, as in AMSGrad.

    As :class:`AdaBound` (same arguments, defaults and source) with :math:`\hat v_t = \max(\hat v_{t-1}, v_t)` in
    place of :math:`v_t` in the step size; one more buffer.
    """

    state_tensors = {
        "exp_avg": torch.zeros_like,
        "exp_avg_sq": torch.zeros_like,
        "max_exp_avg_sq": torch.zeros_like,
    }

    @staticmethod
    def rule(  # type: ignore[override]
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        max_exp_avg_sq: Tensor,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step_size: float,
        low: float,
        high: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        g = g + weight_decay * x
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
        max_exp_avg_sq = torch.maximum(max_exp_avg_sq, exp_avg_sq)
        step = _bounded(max_exp_avg_sq, eps, step_size, low, high) * exp_avg
        return x - step, exp_avg, exp_avg_sq, max_exp_avg_sq


def _bounded(second_moment: Tensor, eps: float, step_size: float, low: float, high: float) -> Tensor:
    sizes = step_size / (torch.sqrt(second_moment) + eps)
    # where() rather than clamp(): the bounds are numbers in one engine and 0-dim tensors in the other.
    sizes = torch.where(sizes < low, low, sizes)
    return torch.where(sizes > high, high, sizes)


_PAPER = Paper(
    "Luo, Xiong, Liu, Sun",
    2019,
    "Adaptive Gradient Methods with Dynamic Bound of Learning Rate",
    arxiv="1902.09843",
)
_SEARCH = {
    "lr": Float(1e-5, 3e-2, log=True),
    "final_lr": Float(1e-3, 1.0, log=True),
    "weight_decay": Float(1e-6, 1e-2, log=True),
}

CARDS = (
    MethodCard(
        name="adabound",
        title="AdaBound",
        room="optim",
        family="adaptive",
        summary="Adam whose step sizes are clipped to bounds that close in on those of SGD.",
        target="steepest.optim.adabound:AdaBound",
        papers=(_PAPER,),
        buffers=2,
        search=_SEARCH,
        claim="As fast as Adam early in training, and as good as SGD with momentum at the end.",
    ),
    MethodCard(
        name="amsbound",
        title="AMSBound",
        room="optim",
        family="adaptive",
        summary="AdaBound on the running maximum of the second moment.",
        target="steepest.optim.adabound:AMSBound",
        papers=(_PAPER,),
        buffers=3,
        search=_SEARCH,
    ),
)
