"""Lion-K: Lion with the sign replaced by the gradient of any convex function."""

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from ..core.card import Choice, Float, MethodCard, Paper
from ..core.norms import KAPPAS, subgradient
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, STEP_SIZE, WEIGHT_DECAY, Integer, OneOf, Real
from ..core.rule import Granularity, lerp

__all__ = ["CARD", "LionK"]

_GRANULARITY: dict[str, Granularity] = {
    "l2": "tensor",
    "lp": "tensor",
    "rows": "tensor",
    "top-k": "tensor",
    "nuclear": "matrix",
}


def _granularity(x: Tensor, settings: Mapping[str, Any]) -> Granularity:
    kind = _GRANULARITY.get(settings["kappa"], "elementwise")
    return "tensor" if kind == "matrix" and x.dim() < 2 else kind


class LionK(RuleOptimizer):
    r"""Lion-K: the direction is a subgradient of a convex function :math:`\mathcal K`, which sets the constraint.

    .. math::
        x_t &= x_{t-1} - \eta \, \big(\nabla\mathcal K(\beta_1 m_{t-1} + (1 - \beta_1) g_t) + \lambda x_{t-1}\big) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    With weight decay :math:`\lambda > 0` it minimizes :math:`f(x) + \frac{\gamma}{\lambda} \mathcal K^*(\lambda x)`:
    the conjugate :math:`\mathcal K^*` of a norm is the indicator of its dual ball, so the iterates are driven into that
    ball of radius :math:`1/\lambda` (at the rate :math:`1 - \eta\lambda` per step) and do not leave it.

    ==============  ===============================================  ============================================
    ``kappa``       :math:`\mathcal K(x)`                            effect of :math:`\lambda`
    ==============  ===============================================  ============================================
    ``"l1"``        :math:`\|x\|_1`: Lion                            :math:`\|x\|_\infty \le 1/\lambda`
    ``"l2"``        :math:`\|x\|_2`                                  :math:`\|x\|_2 \le 1/\lambda`
    ``"lp"``        :math:`\|x\|_p`                                  :math:`\|x\|_q \le 1/\lambda`, :math:`1/p+1/q=1`
    ``"rows"``      :math:`\sum_i \|x_i\|_2` over rows               every row :math:`\|x_i\|_2 \le 1/\lambda`
    ``"dead-zone"`` :math:`\sum_i \max(|x_i| - \epsilon, 0)`         the box, and a penalty :math:`\epsilon\|x\|_1`
    ``"huber"``     Huber's function with threshold :math:`\epsilon` the box, and a ridge penalty inside
    ``"top-k"``     sum of the ``k`` largest :math:`|x_i|`           the box, and :math:`\|x\|_1 \le k/\lambda`
    ``"nuclear"``   nuclear norm of the matrix: Muon with decay      spectral norm :math:`\le 1/\lambda`
    ``"ridge"``     :math:`\tfrac12\|x\|_2^2`: momentum              a ridge penalty
    ==============  ===============================================  ============================================

    The functions act on each tensor by itself. ``"rows"`` takes rows of the ``(out, rest)`` view and a vector as one
    row; ``"nuclear"`` takes convolutions as ``out x (in * kernel)`` and normalizes vectors (their polar factor).

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        weight_decay: :math:`\lambda \ge 0`: the inverse radius of the constraint; 0 for none.
        kappa: the function :math:`\mathcal K`, see the table.
        p: exponent of ``"lp"``, at least 1.
        epsilon: threshold of ``"dead-zone"`` and ``"huber"``, > 0.
        k: count of ``"top-k"``, at least 1 (capped by the tensor's size).
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    The authors store the momentum with the opposite sign; for even :math:`\mathcal K`, as all of these are, that is the
    same method.

    Source: Chen, Liu, Liang, Liu (2023), Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts,
    arXiv 2310.05898.
    """

    state_tensors = {"momentum": torch.zeros_like}
    granularity = staticmethod(_granularity)
    complex_as_real = False
    static = ("kappa", "k")
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "weight_decay": WEIGHT_DECAY,
        "kappa": OneOf(tuple(KAPPAS)),
        "p": Real(low=1.0),
        "epsilon": Real(low=0.0, low_open=True),
        "k": Integer(low=1),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        kappa: Literal["l1", "l2", "lp", "rows", "dead-zone", "huber", "top-k", "nuclear", "ridge"] = "l1",
        p: float = 2.0,
        epsilon: float = 1e-3,
        k: int = 1,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "kappa": kappa,
            "p": p,
            "epsilon": epsilon,
            "k": k,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        weight_decay: float,
        kappa: str,
        p: float,
        epsilon: float,
        k: int,
    ) -> tuple[Tensor, Tensor]:
        direction = subgradient(kappa, lerp(momentum, g, 1 - beta1), p=p, epsilon=epsilon, k=k)
        return x - lr * (direction + weight_decay * x), lerp(momentum, g, 1 - beta2)


CARD = MethodCard(
    name="lion-k",
    title="Lion-K",
    room="optim",
    family="sign",
    summary="Lion for any norm: weight decay becomes a constraint in the dual norm.",
    target="steepest.optim.lion_k:LionK",
    papers=(
        Paper(
            "Chen, Liu, Liang, Liu",
            2023,
            "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts",
            arxiv="2310.05898",
        ),
    ),
    buffers=1,
    search={
        "lr": Float(1e-5, 1e-2, log=True),
        "weight_decay": Float(1e-3, 1.0, log=True),
        "kappa": Choice(("l1", "dead-zone", "huber")),
    },
    claim="With weight decay, Lion minimizes the loss over a box whose radius is the inverse of the decay.",
)
