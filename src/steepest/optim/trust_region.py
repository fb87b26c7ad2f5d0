"""Non-Euclidean trust regions: one method behind Muon, sign momentum and normalized SGD."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from ..core.adamw import ADAMW, adamw_settings
from ..core.card import Choice, Float, MethodCard, Paper
from ..core.lmo import NORMS, lmo
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import MOMENTUM, STEP_SIZE, WEIGHT_DECAY, OneOf
from ..core.rule import Granularity, lerp

__all__ = ["CARDS", "ExtrapolatedTrustRegion", "NonEuclideanTrustRegion"]

Norm = Literal["l2", "max", "spectral", "nuclear", "column"]
_GRANULARITY: dict[str, Granularity] = {
    "l2": "tensor",
    "max": "elementwise",
    "spectral": "matrix",
    "nuclear": "matrix",
    "column": "tensor",
}


def _granularity(x: Tensor, settings: Mapping[str, Any]) -> Granularity:
    kind = _GRANULARITY[settings["norm"]]
    return "tensor" if kind == "matrix" and x.dim() < 2 else kind


def _coefficients(step: Any, settings: Mapping[str, Any]) -> dict[str, float]:
    """The weight of the new gradient: 1 at the first step, so that the momentum begins as the first gradient."""
    return {"weight": 1.0 if step == 1 else 1 - settings["momentum"]}


class _TrustRegion(RuleOptimizer):
    """What the two methods share: settings and their ranges."""

    complex_as_real = False
    static = ("norm",)
    fallback = ADAMW
    granularity: Any = staticmethod(_granularity)
    coefficients: Any = staticmethod(_coefficients)
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "norm": OneOf(tuple(NORMS)),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        norm: Norm = "spectral",
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        *,
        routing: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "norm": norm}
        fallback = adamw_settings(type(self).__name__, adamw_lr, adamw_betas, adamw_eps)
        super().__init__(params, settings, fallback_settings=fallback, routing=routing, **common)


class NonEuclideanTrustRegion(_TrustRegion):
    r"""A trust-region step on a linear model of the loss, in a norm of choice, with a momentum for the gradient.

    .. math::
        m_t &= (1 - \alpha)\, m_{t-1} + \alpha\, g_t, \qquad m_1 = g_1, \qquad \alpha = 1 - \mu \\
        x_t &= \arg\min \{ \langle m_t, x \rangle : \|x - (1 - \eta\lambda)\, x_{t-1}\| \le \eta \}
             = (1 - \eta\lambda)\, x_{t-1} + \eta \operatorname{lmo}(m_t)

    with the oracles of :mod:`~steepest.core.lmo`. The norm makes the method:

    ==============  ===============================================================================================
    ``norm``        known as
    ==============  ===============================================================================================
    ``"l2"``        normalized SGD with momentum
    ``"max"``       sign momentum (signum)
    ``"spectral"``  orthogonalized momentum: Muon with the exact polar factor, no look-ahead and no shape factor
    ``"nuclear"``   the leading pair of singular vectors: updates of rank one
    ``"column"``    columns of unit length (the norm that maps :math:`\ell_1` to :math:`\ell_2`)
    ==============  ===============================================================================================

    The weight decay moves the centre of the region towards zero and bounds the iterates: once
    :math:`\|x\| \le 1/\lambda`, it stays so. Every step has the length :math:`\eta` in the norm, so a constant rate
    stops at a distance that it sets: schedule it.

    Passed a whole model, matrices (convolutions as ``out x (in * kernel)``) follow this rule; embeddings, the head,
    norms and biases follow AdamW, as in :class:`~steepest.optim.Muon`. Passed tensors, all of them follow it; a vector
    is a matrix of one column, which makes its step normalized SGD in every norm but ``"max"``. Each tensor has a region
    of its own; that of the product of all is theirs together, with radii given by groups.

    Args:
        params: the model; or tensors, or groups with ``rule="noneuclideantrustregion"`` (default) or ``rule="adamw"``.
        lr: the radius :math:`\eta \ge 0`, in units of the norm.
        momentum: :math:`\mu = 1 - \alpha` in [0, 1). The paper gives no number, but :math:`\alpha` of the order of
            :math:`T^{-1/2}` for :math:`T` steps with noise; the default is Muon's.
        weight_decay: :math:`\lambda \ge 0`; the paper's :math:`\beta` is ``lr * weight_decay``. For both rules.
        norm: see the table.
        adamw_lr, adamw_betas, adamw_eps: settings of the fallback, as for ``torch.optim.AdamW``.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    The momentum begins as the first gradient, as in the paper, and not as zero: the theorem's constants need it, and
    the first gradient weighs :math:`1/\alpha` times more in the steps that follow. ``"spectral"`` and ``"nuclear"``
    take a singular value decomposition in every step, which is exact and slow; for large networks use Muon.

    Source: Kovalev (2025), Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
    Optimization, arXiv 2503.12645, Algorithms 1 and 2 without the composite term.
    """

    state_tensors = {"momentum": torch.zeros_like}

    @staticmethod
    def rule(
        x: Tensor, g: Tensor, momentum: Tensor, *, lr: float, weight_decay: float, weight: float, norm: str
    ) -> tuple[Tensor, Tensor]:
        momentum = lerp(momentum, g, weight)
        return (1 - lr * weight_decay) * x + lr * lmo(norm, momentum), momentum


class ExtrapolatedTrustRegion(_TrustRegion):
    r"""The trust-region method with gradients at an extrapolated point, for losses with a smooth Hessian.

    .. math::
        m_t &= (1 - \alpha)\, m_{t-1} + \alpha \nabla f(\bar x_{t-1}; \xi_t), \qquad m_1 = \nabla f(x_0; \xi_1) \\
        x_t &= (1 - \eta\lambda)\, x_{t-1} + \eta \operatorname{lmo}(m_t) \\
        \bar x_t &= x_{t-1} + \tfrac{1}{\alpha} (x_t - x_{t-1})

    Up to second order, the average of gradients at the points :math:`\bar x` is the gradient at :math:`x`: the momentum
    loses its lag, and with a Lipschitz Hessian the rate improves from :math:`T^{-1/4}` to :math:`T^{-2/7}`. It needs
    what that assumes: on a loss that is rough over :math:`\eta / \alpha`, the extrapolated gradients are no use.

    **The model's parameters hold** :math:`\bar x`, where gradients are taken; the iterate :math:`x` is in the state.
    Evaluate and save inside :meth:`at_iterate`. Under a schedule that ends at zero the two points meet at the end.

    Args:
        params, lr, momentum, weight_decay, norm, adamw_lr, adamw_betas, adamw_eps, routing, common: as for
            :class:`NonEuclideanTrustRegion`, with ``rule="extrapolatedtrustregion"`` in groups.

    The form of the extrapolation is that of Cutkosky and Mehta (2020), Momentum Improves Normalized SGD,
    arXiv 2002.03305, which ``norm="l2"`` gives.

    Source: Kovalev (2025), arXiv 2503.12645, the algorithm for second-order smooth functions.
    """

    state_tensors = {"point": torch.clone, "momentum": torch.zeros_like}
    full_precision = ("point",)  # it is a parameter, and what rounding takes from it is lost

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        point: Tensor,
        momentum_buffer: Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        weight: float,
        norm: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        momentum_buffer = lerp(momentum_buffer, g, weight)
        step = lr * lmo(norm, momentum_buffer) - (lr * weight_decay) * point
        return point + (1 / (1 - momentum)) * step, point + step, momentum_buffer

    @contextmanager
    def at_iterate(self) -> Iterator[None]:
        """``with optimizer.at_iterate():`` the parameters hold the iterate; afterwards they are as before, bit for bit.

        Raises:
            RuntimeError: ``step`` is called inside, where gradients are at the wrong point.
        """
        held = [p for group in self.param_groups for p in group["params"] if "point" in self.state.get(p, {})]
        saved = [p.detach().clone() for p in held]
        guard = self.register_step_pre_hook(_refuse)
        try:
            _write(held, lambda index: self.state[held[index]]["point"])
            yield
        finally:
            _write(held, lambda index: saved[index])
            guard.remove()


def _refuse(optimizer: Any, *_: Any) -> None:
    raise RuntimeError(f"{type(optimizer).__name__}: step() inside at_iterate(); the parameters hold the iterate there")


@torch.no_grad()
def _write(targets: list[Tensor], value: Callable[[int], Tensor]) -> None:
    for index, target in enumerate(targets):
        target.copy_(value(index))


_PAPER = Paper(
    "Kovalev",
    2025,
    "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region Optimization",
    arxiv="2503.12645",
)
_SEARCH = {
    "lr": Float(1e-4, 0.3, log=True),
    "adamw_lr": Float(1e-4, 3e-2, log=True),
    "norm": Choice(("spectral", "max", "column")),
}

CARDS = (
    MethodCard(
        name="trust-region",
        title="Non-Euclidean trust region",
        room="optim",
        family="matrix",
        summary="Momentum, then the steepest step of fixed length in a norm of choice; AdamW for vectors.",
        target="steepest.optim.trust_region:NonEuclideanTrustRegion",
        papers=(_PAPER,),
        buffers=1,
        search=_SEARCH,
        takes_model=True,
        claim="One trust-region method explains Muon, sign momentum and normalized SGD: its bounds hold, and "
        "orthogonalizing after the momentum beats orthogonalizing before it.",
    ),
    MethodCard(
        name="trust-region-extrapolated",
        title="Extrapolated trust region",
        room="optim",
        family="matrix",
        summary="The trust-region method with gradients at an extrapolated point: momentum without its lag.",
        target="steepest.optim.trust_region:ExtrapolatedTrustRegion",
        papers=(
            _PAPER,
            Paper("Cutkosky, Mehta", 2020, "Momentum Improves Normalized SGD", arxiv="2002.03305"),
        ),
        buffers=2,
        search=_SEARCH,
        takes_model=True,
        claim="On losses with a smooth Hessian, extrapolation improves the rate from T^(-1/4) to T^(-2/7).",
    ),
)
