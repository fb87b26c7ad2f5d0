"""Muon: momentum, orthogonalized."""

from collections.abc import Mapping
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..core.adamw import ADAMW, adamw_settings
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.orthogonal import orthogonalize
from ..core.ranges import MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Flag, Integer, OneOf
from ..core.rule import lerp

__all__ = ["CARD", "Muon"]


class Muon(RuleOptimizer):
    r"""Muon (MomentUm Orthogonalized by Newton-Schulz): steepest descent in the spectral norm, on momentum.

    For a weight matrix :math:`X` of shape :math:`m \times n` (convolutions as ``out x (in * kernel)``):

    .. math::
        M_t &= \mu M_{t-1} + (1 - \mu) G_t, \qquad
        \tilde M_t = \mu M_t + (1 - \mu) G_t \;\;(\text{nesterov, else } M_t) \\
        X_t &= (1 - \eta\lambda) X_{t-1} - \eta \, s(m, n) \, \operatorname{polar}(\tilde M_t)

    where :math:`\operatorname{polar}(U \Sigma V^\top) = U V^\top`. Orthogonalizing after averaging is what the
    trust-region view derives; with weight decay the iterates stay within spectral norm :math:`s/\lambda`.

    Embeddings, the output head, norms, biases and scalars follow AdamW. Pass the whole model and
    :func:`~steepest.core.routing.route` sorts its parameters (``optimizer.routing`` prints what went where), or pass
    groups and mark those for AdamW with ``rule="adamw"``.

    Args:
        params: the model; or matrices, or parameter groups with ``rule="muon"`` (default) or ``rule="adamw"``.
        lr: learning rate :math:`\eta \ge 0` of the matrices.
        momentum: :math:`\mu` in [0, 1).
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the learning rate; for both rules.
        nesterov: orthogonalize the look-ahead average.
        scale: :math:`s(m, n)`: ``"spectral"``: :math:`\sqrt{\max(1, m/n)}`; ``"rms"``: :math:`0.2\sqrt{\max(m, n)}`,
            which gives updates the size of AdamW's, so that its learning rates carry over.
        orthogonalization: ``"polar-express"``; ``"newton-schulz"``: Jordan's five fixed quintics; ``"exact"``: by
            singular values. The first is closer to the polar factor in four steps than the second is in five.
        orthogonalization_steps: polynomials to apply; by default 4 and 5 respectively.
        adamw_lr, adamw_betas, adamw_eps: settings of the fallback, as for ``torch.optim.AdamW``.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`. The
            engine concerns the fallback; matrix products are library calls in either.

    Raises:
        ValueError: a tensor with fewer than two dimensions is in a group of matrices.

    Sources: Jordan et al. (2024), Muon: An optimizer for hidden layers in neural networks; Kovalev (2025),
    Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region Optimization,
    arXiv 2503.12645; Amsel et al. (2025), The Polar Express, arXiv 2505.16932.
    """

    state_tensors = {"momentum": torch.zeros_like}
    granularity = "matrix"
    complex_as_real = False
    static = ("nesterov", "scale", "orthogonalization", "orthogonalization_steps")
    fallback = ADAMW
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "nesterov": Flag(),
        "scale": OneOf(("spectral", "rms")),
        "orthogonalization": OneOf(("polar-express", "newton-schulz", "exact")),
        "orthogonalization_steps": Integer(low=1, optional=True),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        scale: Literal["spectral", "rms"] = "spectral",
        orthogonalization: Literal["polar-express", "newton-schulz", "exact"] = "polar-express",
        orthogonalization_steps: int | None = None,
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
            "nesterov": nesterov,
            "scale": scale,
            "orthogonalization": orthogonalization,
            "orthogonalization_steps": orthogonalization_steps,
        }
        fallback = adamw_settings(type(self).__name__, adamw_lr, adamw_betas, adamw_eps)
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
        nesterov: bool,
        scale: str,
        orthogonalization: str,
        orthogonalization_steps: int | None,
    ) -> tuple[Tensor, Tensor]:
        momentum_buffer = lerp(momentum_buffer, g, 1 - momentum)
        average = lerp(momentum_buffer, g, 1 - momentum) if nesterov else momentum_buffer
        direction = orthogonalize(average, orthogonalization, orthogonalization_steps)
        rows, columns = x.shape[-2:]
        factor = max(1.0, rows / columns) ** 0.5 if scale == "spectral" else 0.2 * max(rows, columns) ** 0.5
        return (1 - lr * weight_decay) * x - (lr * factor) * direction, momentum_buffer


CARD = MethodCard(
    name="muon",
    title="Muon",
    room="optim",
    family="matrix",
    summary="Orthogonalizes the momentum of every weight matrix; AdamW for the rest.",
    target="steepest.optim.muon:Muon",
    papers=(
        Paper(
            "Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein",
            2024,
            "Muon: An optimizer for hidden layers in neural networks",
            venue="kellerjordan.github.io/posts/muon",
        ),
        Paper(
            "Kovalev",
            2025,
            "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region Optimization",
            arxiv="2503.12645",
        ),
        Paper(
            "Amsel, Persson, Musco, Gower",
            2025,
            "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon Algorithm",
            arxiv="2505.16932",
        ),
    ),
    buffers=1,
    search={
        "lr": Float(1e-3, 0.3, log=True),
        "adamw_lr": Float(1e-4, 3e-2, log=True),
        "weight_decay": Float(1e-4, 0.3, log=True),
    },
    takes_model=True,
    claim="Reaches AdamW's final loss in fewer steps, and in less time.",
)
