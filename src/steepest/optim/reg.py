"""REG: momentum with its rows and columns scaled to equal length."""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor

from ..core.adamw import ADAMW, adamw_settings
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY
from ..core.rule import lerp
from ..core.settled import settled

__all__ = ["CARD", "REG"]


class REG(RuleOptimizer):
    r"""REG: the matrix sign of Muon replaced by row-and-column scaling of the momentum.

    For a weight matrix of shape :math:`m \times n` (convolutions as ``out x (in * kernel)``):

    .. math::
        M_t &= \beta M_{t-1} + (1 - \beta) G_t \\
        r_i &= \|M_{t, i\cdot}\|_2, \quad X_{ij} = \frac{M_{t, ij}}{r_i + \varepsilon}, \qquad
        c_j = \|X_{\cdot j}\|_2, \quad Z_{ij} = \frac{X_{ij}}{c_j + \varepsilon} \\
        W_t &= (1 - \eta\lambda)\, W_{t-1} - \eta\, \frac{0.2 \sqrt{mn}}{\|Z\|_F}\, Z

    Columns of the update have equal length exactly, rows nearly so. Up to :math:`\varepsilon` it does not change when
    rows of the momentum are rescaled. It costs a few passes over memory and no matrix products. It balances a matrix
    whose bad conditioning comes from the scales of rows and columns; it does not orthogonalize, and leaves a badly
    conditioned matrix with balanced rows and columns as it was. A matrix of rank one, :math:`uv^\top`, gives
    :math:`\operatorname{sign}(u)\operatorname{sign}(v)^\top`.

    **What is reconstructed.** The paper's abstract and summaries give the operator (rows and columns divided by their
    p-norms, p = 2 preferred), its place (in Muon, for the matrix sign) and the match with AdamW's update size; the
    authors published no code that we know of. That rows come before columns, the exponential average without
    look-ahead, 0.2 as in Moonlight, and the values of ``momentum`` and ``eps`` are our reading. (RACS is also the name
    of another optimizer, arXiv 2502.07752; this is not it.)

    Embeddings, the output head, norms, biases and scalars follow AdamW, as in :class:`~steepest.optim.Muon`. A vector
    in a group of its own rule is a matrix of one column, which gives its sign.

    Args:
        params: the model; or matrices, or parameter groups with ``rule="reg"`` (default) or ``rule="adamw"``.
        lr: learning rate :math:`\eta \ge 0` of the matrices, of AdamW's size.
        momentum: :math:`\beta` in [0, 1).
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the learning rate; for both rules.
        eps: :math:`\varepsilon \ge 0`, in units of the momentum in the first place: rows far shorter than this stay
            small, rows of any other length are brought to the same. Zero rows stay zero also without it.
        adamw_lr, adamw_betas, adamw_eps: settings of the fallback, as for ``torch.optim.AdamW``.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Liu, Wu, Fu, Liu, Han, Zhong, Yuan (2025), REG: A Regularization Optimizer for Robust Training Dynamics,
    arXiv 2510.03691.
    """

    state_tensors = {"momentum": torch.zeros_like}
    granularity = "tensor"
    complex_as_real = False
    fallback = ADAMW
    ranges = {"lr": STEP_SIZE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "eps": EPSILON}

    def __init__(
        self,
        params: Parameters,
        lr: float = 3e-4,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        eps: float = 1e-8,
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        *,
        routing: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps}
        fallback = adamw_settings("REG", adamw_lr, adamw_betas, adamw_eps)
        super().__init__(params, settings, fallback_settings=fallback, routing=routing, **common)

    @staticmethod
    def rule(
        x: Tensor, g: Tensor, momentum_buffer: Tensor, *, lr: float, momentum: float, weight_decay: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        momentum_buffer = lerp(momentum_buffer, g, 1 - momentum)
        m = momentum_buffer.reshape(x.shape[0], -1) if x.dim() > 1 else momentum_buffer.reshape(-1, 1)
        by_row = settled(_inverse(torch.linalg.vector_norm(m, dim=1, keepdim=True), eps))
        columns = torch.linalg.vector_norm(m * by_row, dim=0, keepdim=True)
        by_column = _inverse(columns, eps)
        # The scaled columns have the lengths columns * by_column: ||Z||_F without another pass over the matrix.
        size = (RMS * m.shape[0] ** 0.5 * m.shape[1] ** 0.5) * _inverse(
            torch.linalg.vector_norm(columns * by_column), 0.0
        )
        step = (m * by_row * settled(lr * size * by_column)).reshape(x.shape)
        return (1 - lr * weight_decay) * x - step, momentum_buffer


#: The root mean square of the update's entries: that of AdamW's updates in practice.
RMS = 0.2


def _inverse(norm: Tensor, eps: float) -> Tensor:
    """``1 / (norm + eps)``, and 1 where that is 0."""
    divisor = norm + eps
    return 1 / torch.where(divisor > 0, divisor, 1.0)


CARD = MethodCard(
    name="reg",
    title="REG",
    room="optim",
    family="matrix",
    summary="Scales the rows, then the columns of the momentum to equal length; AdamW for the rest.",
    target="steepest.optim.reg:REG",
    papers=(
        Paper(
            "Liu, Wu, Fu, Liu, Han, Zhong, Yuan",
            2025,
            "REG: A Regularization Optimizer for Robust Training Dynamics",
            arxiv="2510.03691",
        ),
    ),
    buffers=1,
    search={
        "lr": Float(1e-5, 3e-2, log=True),
        "adamw_lr": Float(1e-4, 3e-2, log=True),
        "weight_decay": Float(1e-4, 0.3, log=True),
    },
    takes_model=True,
    claim="Better and more stable than AdamW, and fine-tunes models trained with AdamW where Muon fails.",
)
