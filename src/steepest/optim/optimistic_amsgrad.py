"""Optimistic AMSGrad: steps ahead along a prediction of the next gradient."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, STEP_SIZE, WEIGHT_DECAY, Integer, Real
from ..core.rule import compute_dtype, lerp

__all__ = ["CARD", "OptimisticAMSGrad", "extrapolate"]


def extrapolate(vectors: Sequence[Tensor], regularization: float | Tensor) -> Tensor:
    r"""The limit of a sequence, by regularized minimal polynomial extrapolation.

    For :math:`x_0, \dots, x_r` and :math:`U = [x_1 - x_0, \dots, x_r - x_{r-1}]`, the weights that minimize
    :math:`\|Uc\|^2 / \|U\|_F^2 + \lambda \|c\|^2` among those that sum to one give :math:`\sum_{i<r} c_i x_i`. Where
    :math:`x_{i+1} = A x_i + b` and :math:`r` is at least the degree of the minimal polynomial of :math:`A` (with
    respect to :math:`x_1 - x_0`), its limit for :math:`\lambda \to 0` is the fixed point.

    Args:
        vectors: :math:`r + 1` tensors of one shape, the oldest first; at least two.
        regularization: :math:`\lambda > 0`, relative to the squared length of all differences together.

    Source: Scieur, d'Aspremont, Bach (2016), Regularized Nonlinear Acceleration, arXiv 1606.04133.
    """
    points = torch.stack([v.reshape(-1) for v in vectors])
    changes = points[1:] - points[:-1]
    gram = changes @ changes.mT
    size = gram.diagonal().sum()
    gram = gram / torch.where(size > 0, size, 1.0)  # of a constant sequence the mean
    identity = torch.eye(len(changes), dtype=gram.dtype, device=gram.device)
    weights, _ = torch.linalg.solve_ex(gram + regularization * identity, torch.ones_like(gram[:, 0]))
    return ((weights / weights.sum()) @ points[:-1]).reshape(vectors[0].shape)


class OptimisticAMSGrad(RuleOptimizer):
    r"""Optimistic AMSGrad: AMSGrad that steps ahead along a predicted gradient, and scales by how wrong it was.

    With the gradient :math:`g_t` at :math:`w_t`, from :math:`m_1 = 0`, :math:`v_0 = \hat v_0 = \varepsilon` and
    :math:`w_{1/2} = w_1`:

    .. math::
        \theta_t &= \beta_1 \theta_{t-1} + (1 - \beta_1) g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) (g_t - m_t)^2, \qquad \hat v_t = \max(\hat v_{t-1}, v_t) \\
        w_{t+1/2} &= (1 - \eta\lambda)\, w_{t-1/2} - \eta\, \theta_t / \sqrt{\hat v_t} \\
        m_{t+1} &= \text{the extrapolation of } g_{t-r}, \dots, g_t, \qquad
        h_{t+1} = \beta_1 \theta_{t-1} + (1 - \beta_1)\, m_{t+1} \\
        w_{t+1} &= w_{t+1/2} - \eta\, h_{t+1} / \sqrt{\hat v_t}

    The model's parameters are the :math:`w_t`, where gradients are taken; the next step starts from
    :math:`w_{t+1/2}`, so a learning rate of zero still takes back the look ahead. Gradients that are predicted well
    leave :math:`v` small and the steps large. The prediction is made for each tensor by :func:`extrapolate`; until
    there are :math:`r + 1` gradients it is the last one. There is no bias correction.

    This is the algorithm of the paper, which extrapolates past gradients, with one gradient per step. The authors' code
    extrapolates weights and takes a second gradient there. As in both, :math:`h_{t+1}` has :math:`\theta_{t-1}`. The
    weight decay is an addition.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        history: :math:`r \ge 1`, the past gradients that are kept (each is a tensor of the parameter's size).
        regularization: :math:`\lambda > 0` of the extrapolation (the authors' code has this one, for differences that
            it does not scale).
        eps: :math:`\varepsilon > 0`, the initial value of the second moments.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Wang et al. (2019), An Optimistic Acceleration of AMSGrad for Nonconvex Optimization, arXiv 1903.01435.
    """

    granularity = "tensor"
    complex_as_real = False
    static = ("predictable",)
    nonnegative = ("exp_avg_sq", "max_exp_avg_sq")
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "history": Integer(low=1),
        "regularization": Real(low=0.0, low_open=True),
        "eps": Real(low=0.0, low_open=True),
        "weight_decay": WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        history: int = 5,
        regularization: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "history": history,
            "regularization": regularization,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, settings, **common)

    full_precision = ("base",)  # it is a parameter, and what rounding takes from it is lost

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:  # type: ignore[override]
        start = torch.full_like(x, settings["eps"], dtype=compute_dtype(x.dtype))  # too small for float16
        return {
            "exp_avg": torch.zeros_like(x),
            "exp_avg_sq": start,
            "max_exp_avg_sq": start.clone(),
            "base": x.clone(),
            "prediction": torch.zeros_like(x),
            **{f"gradient{age}": torch.zeros_like(x) for age in range(1, settings["history"] + 1)},
        }

    @staticmethod
    def coefficients(step: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"predictable": step > settings["history"]}

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        max_exp_avg_sq: Tensor,
        base: Tensor,
        prediction: Tensor,
        *past: Tensor,
        lr: float,
        beta1: float,
        beta2: float,
        regularization: float,
        weight_decay: float,
        predictable: bool,
    ) -> tuple[Tensor, ...]:
        surprise = g - prediction
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * surprise * surprise
        max_exp_avg_sq = torch.maximum(max_exp_avg_sq, exp_avg_sq)
        root = torch.sqrt(max_exp_avg_sq)
        prediction = extrapolate([*reversed(past), g], regularization) if predictable else g
        ahead = lerp(exp_avg, prediction, 1 - beta1)
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        base = base - lr * (exp_avg / root + weight_decay * base)
        return base - lr * ahead / root, exp_avg, exp_avg_sq, max_exp_avg_sq, base, prediction, g, *past[:-1]


CARD = MethodCard(
    name="optimistic-amsgrad",
    title="Optimistic AMSGrad",
    room="optim",
    family="adaptive",
    summary="AMSGrad that steps ahead along a gradient extrapolated from past ones.",
    target="steepest.optim.optimistic_amsgrad:OptimisticAMSGrad",
    papers=(
        Paper(
            "Wang, Li, Karimi, Li",
            2019,
            "An Optimistic Acceleration of AMSGrad for Nonconvex Optimization",
            arxiv="1903.01435",
        ),
    ),
    buffers=10,
    search={"lr": Float(1e-5, 1e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    claim="Lower training and test loss than AMSGrad, and lower training loss than Adam, after as many epochs.",
)
