"""AuON and its hybrid: momentum of unit norm, divided by a root mean square of its hyperbolic cosine."""

import math
from collections.abc import Mapping
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..core.adamw import ADAMW, adamw_settings
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.orthogonal import NEWTON_SCHULZ
from ..core.ranges import EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Integer, OneOf
from ..core.rule import lerp
from ..core.settled import settled

__all__ = ["CARDS", "AuON", "HybridAuON"]


class AuON(RuleOptimizer):
    r"""AuON: Nesterov momentum divided by its Frobenius norm and by a root mean square of its hyperbolic cosine.

    For a weight matrix of shape :math:`m \times n` with :math:`N = mn` entries (convolutions as
    ``out x (in * kernel)``):

    .. math::
        M_t &= \mu M_{t-1} + (1 - \mu) G_t, \qquad \tilde M_t = \mu M_t + (1 - \mu) G_t \\
        X_t &= \frac{\tilde M_t}{\|\tilde M_t\|_F + \varepsilon}, \qquad
        R_t = \sqrt{\tfrac1N \textstyle\sum_{ij} \cosh^2(\gamma X_{t,ij})}, \qquad
        U_t = \frac{X_t}{R_t + 10^{-8}} \\
        W_t &= (1 - \eta\lambda)\, W_{t-1} - \eta \sqrt{\max(1, m/n)}\; U_t

    **What this reduces to.** Since :math:`\|X\|_F \le 1`, the mean of :math:`\cosh^2 = 1 + \sinh^2` lies between 1 and
    :math:`1 + \sinh^2(\gamma)/N`, so that :math:`1 \le R \le 1 + \sinh^2(\gamma)/(2N)`: for a matrix of 64 x 64 at most
    1.0002. The division by :math:`R` changes nothing that training could notice, and the method is momentum normalized
    to unit Frobenius norm, tensor by tensor, up to :math:`\gamma^2/N`. Its spectral norm is at most one because the
    Frobenius norm is; no singular values are equalized.

    Embeddings, the output head, norms, biases and scalars follow AdamW, as in :class:`~steepest.optim.Muon`. A vector
    in a group of its own rule is a matrix of one row.

    Args:
        params: the model; or matrices, or parameter groups with ``rule="auon"`` (default) or ``rule="adamw"``.
        lr: learning rate :math:`\eta \ge 0` of the matrices; the default is that of the authors' code.
        momentum: :math:`\mu` in [0, 1).
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the learning rate; for both rules.
        gamma: scale inside the hyperbolic cosine, :math:`\ge 0`; the paper's equations have none, that is 1, the
            authors' code 1.5. Above 44 float32 may overflow.
        mode: ``"paper"``: as above. ``"code"``: what the authors' repository runs,
            :math:`U = \tilde M / (R + 10^{-8})` without the shape factor, which is SGD with momentum, up to
            :math:`\gamma^2/N`; it needs other learning rates.
        eps: :math:`\varepsilon \ge 0`.
        adamw_lr, adamw_betas, adamw_eps: settings of the fallback, as for ``torch.optim.AdamW``.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Maity (2025), AuON: A Linear-time Alternative to Orthogonal Momentum Updates, arXiv 2509.24320.
    """

    state_tensors = {"momentum": torch.zeros_like}
    granularity = "tensor"
    complex_as_real = False
    static = ("mode", "series")
    coefficients = staticmethod(lambda step, settings: {"series": _small(settings["gamma"])})
    fallback = ADAMW
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "gamma": EPSILON,
        "mode": OneOf(("paper", "code")),
        "eps": EPSILON,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.24,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        gamma: float = 1.0,
        mode: Literal["paper", "code"] = "paper",
        eps: float = 1e-7,
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        *,
        routing: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "gamma": gamma,
            "mode": mode,
            "eps": eps,
        }
        fallback = adamw_settings("AuON", adamw_lr, adamw_betas, adamw_eps)
        super().__init__(params, settings, fallback_settings=fallback, routing=routing, **common)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum_buffer: Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        gamma: float,
        mode: str,
        series: bool,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        momentum_buffer = lerp(momentum_buffer, g, 1 - momentum)
        average = lerp(momentum_buffer, g, 1 - momentum)
        scale = settled(1 / (torch.linalg.vector_norm(average) + eps))
        y = settled(gamma * scale) * average
        cosh = _cosh(y) if series else torch.cosh(y)
        brake = 1 / (cosh.square().mean().sqrt() + TINY)
        size = lr * brake if mode == "code" else (lr * _shape_factor(x) * scale) * brake
        return (1 - lr * weight_decay) * x - settled(size) * average, momentum_buffer


class HybridAuON(RuleOptimizer):
    r"""Hybrid AuON: one Newton-Schulz polynomial on the momentum, then the scaling of :class:`AuON`.

    .. math::
        M_t &= \mu M_{t-1} + (1 - \mu) G_t, \qquad \tilde M_t = \mu M_t + (1 - \mu) G_t \\
        Y &= \tilde M_t / (\|\tilde M_t\|_F + \varepsilon), \qquad
        Y \leftarrow aY + b\,(YY^\top) Y + c\,(YY^\top)^2 Y \quad (k \text{ times}) \\
        X_t &= \frac{Y}{\|Y\|_F + \varepsilon}, \qquad
        R_t = \sqrt{\tfrac1N \textstyle\sum_{ij} \cosh^2(\gamma X_{t,ij})}, \qquad
        W_t = (1 - \eta\lambda)\, W_{t-1} - \eta \sqrt{\max(1, m/n)}\; \frac{X_t}{R_t + 10^{-8}}

    with the coefficients of Jordan et al., (3.4445, -4.7750, 2.0315). As for :class:`AuON`, :math:`R = 1` up to
    :math:`\gamma^2/N`, so this is Muon with ``k`` polynomials, scaled to unit Frobenius norm. After one polynomial the
    small singular values have grown by 3.4 at most: the momentum is flattened a little, not orthogonalized.

    Args:
        params: the model; or matrices, or parameter groups with ``rule="hybridauon"`` (default) or ``rule="adamw"``.
        lr: learning rate :math:`\eta \ge 0` of the matrices; the default is that of the authors' code.
        momentum: :math:`\mu` in [0, 1).
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the learning rate; for both rules.
        gamma: scale inside the hyperbolic cosine, :math:`\ge 0`; see :class:`AuON`.
        ns_steps: polynomials :math:`k \ge 1`: 1 in the paper, 5 in the authors' code.
        eps: :math:`\varepsilon \ge 0`.
        adamw_lr, adamw_betas, adamw_eps: settings of the fallback, as for ``torch.optim.AdamW``.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`. The
            engine concerns the fallback.

    Raises:
        ValueError: a tensor with fewer than two dimensions is in a group of matrices.

    Source: Maity (2025), AuON: A Linear-time Alternative to Orthogonal Momentum Updates, arXiv 2509.24320.
    """

    state_tensors = {"momentum": torch.zeros_like}
    granularity = "matrix"
    complex_as_real = False
    static = ("ns_steps",)
    fallback = ADAMW
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "gamma": EPSILON,
        "ns_steps": Integer(low=1),
        "eps": EPSILON,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.24,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        gamma: float = 1.0,
        ns_steps: int = 1,
        eps: float = 1e-7,
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        *,
        routing: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "gamma": gamma,
            "ns_steps": ns_steps,
            "eps": eps,
        }
        fallback = adamw_settings("HybridAuON", adamw_lr, adamw_betas, adamw_eps)
        super().__init__(params, settings, fallback_settings=fallback, routing=routing, **common)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum_buffer: Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        gamma: float,
        ns_steps: int,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        momentum_buffer = lerp(momentum_buffer, g, 1 - momentum)
        y = _flattened(lerp(momentum_buffer, g, 1 - momentum), ns_steps, eps)
        direction = y / (_frobenius(y) + eps)
        brake = torch.cosh(gamma * direction).square().mean((-2, -1), keepdim=True).sqrt() + TINY
        factor = max(1.0, x.shape[-2] / x.shape[-1]) ** 0.5
        return (1 - lr * weight_decay) * x - (lr * factor) * (direction / brake), momentum_buffer


#: Added to the root mean square, which is at least one.
TINY = 1e-8


def _small(gamma: float | Tensor) -> bool:
    """Whether no entry of the scaled momentum exceeds 2, for which the series is exact."""
    return not isinstance(gamma, Tensor) and gamma <= 2


def _cosh(y: Tensor) -> Tensor:
    """The hyperbolic cosine of numbers up to 2 by its Taylor series, to the last digit of float64.

    Compiled, it takes twelve fused operations, where the library's way takes an exponential and a division.
    """
    square = y * y
    result = square * COSH[-1]
    for coefficient in reversed(COSH[:-1]):
        result = (result + coefficient) * square
    return result + 1


#: The coefficients 1 / (2k)! of the even powers, from the second on; the first left out is 2^26 / 26! < 2e-19.
COSH = tuple(1 / math.factorial(2 * k) for k in range(1, 13))


def _shape_factor(x: Tensor) -> float:
    """``sqrt(max(1, rows / columns))`` of the ``(out, rest)`` view; 1 for vectors. Symbolic where the sizes are."""
    ratio = x.shape[0] ** 2 / x.numel() if x.dim() > 1 else 0.0
    factor: float = torch.sym_max(1.0, ratio) ** 0.5
    return factor


def _frobenius(x: Tensor) -> Tensor:
    """One norm for each matrix of a stack."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)


def _flattened(m: Tensor, steps: int, eps: float) -> Tensor:
    """Newton-Schulz from the Frobenius norm, in the precision that is given: after few steps the start matters."""
    a, b, c = NEWTON_SCHULZ
    y = m.mT if m.shape[-2] > m.shape[-1] else m
    y = y / (_frobenius(y) + eps)
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.mT if m.shape[-2] > m.shape[-1] else y


_PAPER = Paper(
    "Maity",
    2025,
    "AuON: A Linear-time Alternative to Orthogonal Momentum Updates",
    arxiv="2509.24320",
)
_SEARCH = {
    "lr": Float(1e-3, 1.0, log=True),
    "adamw_lr": Float(1e-4, 3e-2, log=True),
    "weight_decay": Float(1e-4, 0.3, log=True),
}

CARDS = (
    MethodCard(
        name="auon",
        title="AuON",
        room="optim",
        family="matrix",
        summary="Normalizes the momentum of every weight matrix to unit Frobenius norm (its cosh factor is 1 up to "
        "rounding); AdamW for the rest.",
        target="steepest.optim.auon:AuON",
        papers=(_PAPER,),
        buffers=1,
        search=_SEARCH,
        takes_model=True,
        claim="Performs like Muon and AdamW at linear cost, without orthogonalizing.",
    ),
    MethodCard(
        name="hybrid-auon",
        title="Hybrid AuON",
        room="optim",
        family="matrix",
        summary="One Newton-Schulz polynomial on the momentum, then unit Frobenius norm; AdamW for the rest.",
        target="steepest.optim.auon:HybridAuON",
        papers=(_PAPER,),
        buffers=1,
        search=_SEARCH,
        takes_model=True,
        claim="Outperforms Muon in language modelling with a single Newton-Schulz polynomial.",
    ),
)
