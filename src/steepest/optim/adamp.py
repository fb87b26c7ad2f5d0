"""AdamP and SGDP: momentum without the growth of scale-invariant weights."""

from typing import Unpack

import torch
from torch import Tensor

from ..core.adamw import bias_corrections
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.projection import remove_radial
from ..core.ranges import BETAS, EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Flag
from ..core.rule import lerp
from ..core.settled import settled

__all__ = ["CARDS", "SGDP", "AdamP"]


class AdamP(RuleOptimizer):
    r"""AdamP: Adam with the radial part of the update removed from weights that are followed by a normalization.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
        p_t = \frac{m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon} \\
        q_t, \rho_t &= \begin{cases} \Pi_x(p_t),\; \text{wd\_ratio} & \text{if } x \text{ looks scale-invariant}\\
                       p_t,\; 1 & \text{otherwise} \end{cases} \\
        x_t &= (1 - \eta\lambda\rho_t)\, x_{t-1} - \frac{\eta}{1 - \beta_1^t} q_t

    with the projection :math:`\Pi_x` and the test of :func:`~steepest.core.projection.remove_radial`. Momentum lets the
    norm of scale-invariant weights grow about :math:`1 + 2\beta/(1-\beta)` times faster than plain steps do, which
    shrinks the effective step; the projection prevents it. With ``delta=0`` this is AdamW. Tensors with fewer than two
    dimensions are never projected.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\varepsilon \ge 0`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        delta: threshold of the scale-invariance test, :math:`\ge 0`.
        wd_ratio: factor on the weight decay of projected weights, :math:`\ge 0`.
        nesterov: use :math:`\beta_1 m_t + (1 - \beta_1) g_t` in place of :math:`m_t` in the update.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Heo et al. (2020), AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights,
    arXiv 2006.08217, Algorithm 2.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "exp_avg_sq": torch.zeros_like}
    granularity = "tensor"
    coefficients = staticmethod(bias_corrections)
    complex_as_real = False
    static = ("nesterov",)
    nonnegative = ("exp_avg_sq",)
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "delta": EPSILON,
        "wd_ratio": EPSILON,
        "nesterov": Flag(),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "delta": delta,
            "wd_ratio": wd_ratio,
            "nesterov": nesterov,
        }
        super().__init__(params, settings, **common)

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
        delta: float,
        wd_ratio: float,
        nesterov: bool,
        correction1: float,
        correction2: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
        numerator = lerp(exp_avg, g, 1 - beta1) if nesterov else exp_avg
        update = numerator / (torch.sqrt((1 / correction2) * exp_avg_sq) + eps)
        decay = lr * weight_decay
        if x.dim() > 1:
            update, invariant = remove_radial(update, x, g, delta=delta, eps=eps)
            return _kept(invariant, decay, wd_ratio, x) * x - (lr / correction1) * update, exp_avg, exp_avg_sq
        return x - decay * x - (lr / correction1) * update, exp_avg, exp_avg_sq


class SGDP(RuleOptimizer):
    r"""SGDP: SGD with momentum and the projection of :class:`AdamP`.

    .. math::
        b_t &= \mu b_{t-1} + (1 - \text{dampening})\, g_t, \qquad
        p_t = b_t \;\;(\text{nesterov: } g_t + \mu b_t) \\
        x_t &= \Big(1 - \frac{\eta\lambda\rho_t}{1 - \mu}\Big)\, x_{t-1} - \eta\, q_t

    where :math:`q_t, \rho_t` come from :math:`p_t` as in :class:`AdamP`. Dividing the decay by :math:`1 - \mu` gives it
    the strength that a coupled decay has under momentum.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0` (the authors give no default; 0.1 is what they use for ImageNet).
        momentum: :math:`\mu` in [0, 1).
        dampening: in [0, 1); also applied to the first gradient, unlike in ``torch.optim.SGD``.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`.
        nesterov: look ahead along the buffer.
        eps: added to norms, :math:`\ge 0`.
        delta, wd_ratio: as for :class:`AdamP`.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Heo et al. (2020), arXiv 2006.08217, Algorithm 1; weight decay as in the authors' code.
    """

    state_tensors = {"momentum_buffer": torch.zeros_like}
    granularity = "tensor"
    complex_as_real = False
    static = ("nesterov",)
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "dampening": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "nesterov": Flag(),
        "eps": EPSILON,
        "delta": EPSILON,
        "wd_ratio": EPSILON,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.1,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "eps": eps,
            "delta": delta,
            "wd_ratio": wd_ratio,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum_buffer: Tensor,
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        eps: float,
        delta: float,
        wd_ratio: float,
    ) -> tuple[Tensor, Tensor]:
        momentum_buffer = momentum * momentum_buffer + (1 - dampening) * g
        update = g + momentum * momentum_buffer if nesterov else momentum_buffer
        decay = lr * weight_decay / (1 - momentum)
        if x.dim() > 1:
            update, invariant = remove_radial(update, x, g, delta=delta, eps=eps)
            return _kept(invariant, decay, wd_ratio, x) * x - lr * update, momentum_buffer
        return x - decay * x - lr * update, momentum_buffer


def _kept(invariant: Tensor, decay: float | Tensor, wd_ratio: float | Tensor, x: Tensor) -> Tensor:
    """The factor that the decay leaves of the weight: a number in ``x``'s dtype."""
    one = x.new_ones(())
    return settled(one - decay * torch.where(invariant, wd_ratio * one, one))


_PAPER = Paper(
    "Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha",
    2020,
    "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    arxiv="2006.08217",
)

CARDS = (
    MethodCard(
        name="adamp",
        title="AdamP",
        room="optim",
        family="adaptive",
        summary="Adam that does not rescale weights which are followed by a normalization.",
        target="steepest.optim.adamp:AdamP",
        papers=(_PAPER,),
        buffers=2,
        search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
        claim="Keeps the norms of scale-invariant weights from growing, with uniform gains over Adam.",
    ),
    MethodCard(
        name="sgdp",
        title="SGDP",
        room="optim",
        family="momentum",
        summary="SGD with momentum that does not rescale weights which are followed by a normalization.",
        target="steepest.optim.adamp:SGDP",
        papers=(_PAPER,),
        buffers=1,
        search={"lr": Float(1e-4, 1.0, log=True), "weight_decay": Float(1e-6, 1e-2, log=True)},
        settings={"momentum": 0.9, "nesterov": True},
        claim="Keeps the norms of scale-invariant weights from growing, with uniform gains over SGD.",
    ),
)
