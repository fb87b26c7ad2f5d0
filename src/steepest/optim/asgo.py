"""ASGO: AdaGrad on one side of a matrix; DASGO: on its columns."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.adamw import ADAMW
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Flag, Integer, Real, check_settings
from ..core.roots import inverse_root
from ..core.rule import lerp

__all__ = ["ASGO", "CARDS", "DASGO"]

_RANGES = {
    "lr": STEP_SIZE,
    "momentum": MOMENTUM,
    "beta": Real(low=0.0, high=1.0),
    "eps": EPSILON,
    "weight_decay": WEIGHT_DECAY,
    "rescale": Flag(),
}


def _weight(step: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The new statistics' weight: theory sums them, practice averages."""
    return {"weight": 1.0 if settings["beta"] == 1.0 else 1.0 - settings["beta"]}


def _fallback(owner: str, lr: float, betas: tuple[float, float], eps: float) -> dict[str, Any]:
    given = {"adamw_lr": lr, "adamw_betas": betas, "adamw_eps": eps}
    check_settings(owner, given, {name: ADAMW.ranges[name.removeprefix("adamw_")] for name in given})
    return {"lr": lr, "betas": betas, "eps": eps}


def _rescaled(update: Tensor) -> Tensor:
    """With a root mean square of 0.2, that of AdamW's updates; zero stays zero."""
    norm = torch.linalg.matrix_norm(update, keepdim=True)
    rows, columns = update.shape[-2:]
    return (0.2 * (rows * columns) ** 0.5 / torch.where(norm > 0, norm, 1.0)) * update


class ASGO(RuleOptimizer):
    r"""ASGO (Adaptive Structured Gradient Optimization): one factor, on the shorter side, with the exponent -1/2.

    For a weight matrix of shape :math:`m \times n` (convolutions as ``out x (in * kernel)``) with :math:`m < n`:

    .. math::
        M_t &= \mu M_{t-1} + (1 - \mu) G_t, \qquad V_t = \beta V_{t-1} + (1 - \beta)\, G_t G_t^\top \\
        U_t &= (V_t + \varepsilon\lambda_{\max}(V_t) I)^{-1/2} M_t, \qquad
        X_t = (1 - \eta\lambda) X_{t-1} - \eta \, \frac{0.2 \sqrt{mn}}{\|U_t\|_F} U_t

    With :math:`m \ge n` the factor is :math:`G_t^\top G_t` on the right. On its first step, and at :math:`\beta = 0`
    without momentum, it is Muon with exact polar factors. The method of the paper's theorems is ``ASGO(params, lr,
    momentum=0, beta=1, weight_decay=0, rescale=False)``: :math:`V_t` is then the sum of all :math:`G_s G_s^\top`, and
    the step is :math:`\eta V_t^{-1/2} G_t`.

    Embeddings, the output head, norms, biases and scalars follow AdamW, as in :class:`~steepest.optim.muon.Muon`: pass
    the whole model, or groups with ``rule="asgo"`` (default) and ``rule="adamw"``.

    Args:
        params: the model; or matrices, or parameter groups.
        lr: learning rate :math:`\eta \ge 0` of the matrices.
        momentum: :math:`\mu` in [0, 1).
        beta: :math:`\beta` in [0, 1]; at 1 the factor is a sum. Neither average is corrected for its start, which
            rescaling makes needless.
        eps: ridge :math:`\varepsilon \ge 0`, relative to the largest eigenvalue; without it, directions not seen are
            left out.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the learning rate; for both rules.
        rescale: give every update the root mean square 0.2. The decay of AdaGrad's steps, which the theorems rest on,
            is then left to a schedule of the learning rate.
        precondition_every: steps between two computations of the root; the first step makes one.
        adamw_lr, adamw_betas, adamw_eps: settings of the fallback, as for ``torch.optim.AdamW``.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`. The
            engine concerns the fallback.

    Raises:
        ValueError: a tensor with fewer than two dimensions is in a group of matrices.

    The paper adds :math:`\varepsilon` to :math:`V_t^{1/2}`; the authors' code adds it to the norm by which it scales
    :math:`V_t` and takes the root by ten polynomials, which leave eigenvalues below about 1e-9 of the largest partly
    uninverted. The root here is exact (eigenvalues in float64), and the relative ridge damps likewise.

    Source: An, Liu, Pan, Ren, Ma, Goldfarb, Zhang (2025), ASGO: Adaptive Structured Gradient Optimization, arXiv
    2503.20762, Algorithm 1; momentum, decay and rescaling as in the authors' code.
    """

    granularity = "matrix"
    complex_as_real = False
    static = ("rescale", "eps", "refresh")
    fallback = ADAMW
    ranges = {**_RANGES, "precondition_every": Integer(low=1)}

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.01,
        momentum: float = 0.9,
        beta: float = 0.8,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
        rescale: bool = True,
        precondition_every: int = 1,
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
            "beta": beta,
            "eps": eps,
            "weight_decay": weight_decay,
            "rescale": rescale,
            "precondition_every": precondition_every,
        }
        fallback = _fallback("ASGO", adamw_lr, adamw_betas, adamw_eps)
        super().__init__(params, settings, fallback_settings=fallback, routing=routing, **common)

    full_precision = ("factor", "root")  # of a square matrix they have its shape

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        size = min(x.shape[0], x.numel() // max(1, x.shape[0]))
        state = {
            "momentum_buffer": torch.zeros_like(x),
            "factor": torch.zeros(size, size, dtype=x.dtype, device=x.device),
        }
        if settings["precondition_every"] > 1:
            state["root"] = torch.zeros(size, size, dtype=x.dtype, device=x.device)
        return state

    @staticmethod
    def coefficients(step: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        every = settings["precondition_every"]
        return {**_weight(step, settings), "refresh": (step - 1) % every == 0}

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum_buffer: Tensor,
        factor: Tensor,
        *stored: Tensor,
        lr: float,
        momentum: float,
        beta: float,
        weight: float,
        weight_decay: float,
        eps: float,
        rescale: bool,
        refresh: bool,
    ) -> tuple[Tensor, ...]:
        left = x.shape[-2] < x.shape[-1]
        momentum_buffer = lerp(momentum_buffer, g, 1 - momentum)
        factor = beta * factor + weight * (g @ g.mT if left else g.mT @ g)
        root = inverse_root(factor, 2, eps) if refresh else stored[0]
        update = root @ momentum_buffer if left else momentum_buffer @ root
        if rescale:
            update = _rescaled(update)
        x = (1 - lr * weight_decay) * x - lr * update
        return (x, momentum_buffer, factor, *((root,) if stored else ()))


class DASGO(RuleOptimizer):
    r"""DASGO: the diagonal of :class:`ASGO`'s right factor, one number per column.

    .. math::
        M_t &= \mu M_{t-1} + (1 - \mu) G_t, \qquad
        s_{t,j} = \beta s_{t-1,j} + (1 - \beta) \textstyle\sum_i G_{t,ij}^2 \\
        U_{t,ij} &= M_{t,ij} / \sqrt{s_{t,j} + \varepsilon}, \qquad
        X_t = (1 - \eta\lambda) X_{t-1} - \eta \, \frac{0.2 \sqrt{mn}}{\|U_t\|_F} U_t

    Needs no root and, besides the momentum, next to no memory.

    Args:
        params, lr, momentum, weight_decay, rescale, adamw_lr, adamw_betas, adamw_eps, routing, common: as for
            :class:`ASGO`; ``rule="dasgo"`` names the groups of matrices.
        beta: :math:`\beta` in [0, 1]; at 1 the sums are not averaged.
        eps: :math:`\varepsilon \ge 0`, absolute, under the square root.

    Raises:
        ValueError: a tensor with fewer than two dimensions is in a group of matrices.

    Source: An, Liu, Pan, Ren, Ma, Goldfarb, Zhang (2025), arXiv 2503.20762; constants as in the authors' code.
    """

    granularity = "matrix"
    complex_as_real = False
    static = ("rescale",)
    fallback = ADAMW
    coefficients = _weight
    ranges = _RANGES

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.01,
        momentum: float = 0.9,
        beta: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        rescale: bool = True,
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
            "beta": beta,
            "eps": eps,
            "weight_decay": weight_decay,
            "rescale": rescale,
        }
        fallback = _fallback("DASGO", adamw_lr, adamw_betas, adamw_eps)
        super().__init__(params, settings, fallback_settings=fallback, routing=routing, **common)

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        columns = x.numel() // max(1, x.shape[0])
        return {
            "momentum_buffer": torch.zeros_like(x),
            "column_sq": torch.zeros(columns, dtype=x.dtype, device=x.device),
        }

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum_buffer: Tensor,
        column_sq: Tensor,
        *,
        lr: float,
        momentum: float,
        beta: float,
        weight: float,
        weight_decay: float,
        eps: float,
        rescale: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        momentum_buffer = lerp(momentum_buffer, g, 1 - momentum)
        column_sq = beta * column_sq + weight * (g * g).sum(-2)
        size = (column_sq + eps).unsqueeze(-2).sqrt()
        update = momentum_buffer / torch.where(size > 0, size, 1.0)
        if rescale:
            update = _rescaled(update)
        return (1 - lr * weight_decay) * x - lr * update, momentum_buffer, column_sq


_PAPER = Paper(
    "An, Liu, Pan, Ren, Ma, Goldfarb, Zhang",
    2025,
    "ASGO: Adaptive Structured Gradient Optimization",
    arxiv="2503.20762",
)
_SEARCH = {
    "lr": Float(1e-3, 0.3, log=True),
    "adamw_lr": Float(1e-4, 3e-2, log=True),
    "weight_decay": Float(1e-4, 0.3, log=True),
}

CARDS = (
    MethodCard(
        name="asgo",
        title="ASGO",
        room="optim",
        family="matrix",
        summary="Shampoo with a single factor, on the shorter side of every weight matrix; AdamW for the rest.",
        target="steepest.optim.asgo:ASGO",
        papers=(_PAPER,),
        buffers=2,
        search=_SEARCH,
        takes_model=True,
        claim="Trains at least as well as Shampoo and better than AdamW, with half of Shampoo's factors.",
    ),
    MethodCard(
        name="dasgo",
        title="DASGO",
        room="optim",
        family="matrix",
        summary="Divides every column of a momentum matrix by its gradients' running norm; AdamW for the rest.",
        target="steepest.optim.asgo:DASGO",
        papers=(_PAPER,),
        buffers=1,
        search=_SEARCH,
        takes_model=True,
        claim="Trains about as well as AdamW with half of its memory.",
    ),
)
