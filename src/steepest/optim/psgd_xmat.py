"""PSGD with an X-shaped matrix: gradients whitened by a diagonal and an anti-diagonal."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard
from ..core.lie import xmat_apply, xmat_fit
from ..core.optimizer import Common, Parameters
from .lie_optimizer import Curvature, LieOptimizer, average, descend, fitting_pair, starting
from .psgd import PAPERS

__all__ = ["CARD", "PSGDXMat"]


class PSGDXMat(LieOptimizer):
    r"""PSGD-XMat: momentum times a preconditioner that couples every coordinate with its mirror image.

    Every tensor, as a vector of length d, has :math:`P = Q^\top Q` with
    :math:`Q = \operatorname{diag}(p) + \operatorname{antidiag}(q)`, whose non-zero entries look like an X. With the
    mirror image :math:`\tilde z_i = z_{d + 1 - i}` and elementwise products, in steps that refit it with a pair
    :math:`(v, h)`:

    .. math::
        a &= p h + q \tilde h, \qquad b = (\tilde p v - \tilde q \tilde v) / (p \tilde p - q \tilde q) \\
        p &\leftarrow p - \tfrac{\mu}{L} \left((a^2 - b^2) p + (a \tilde a - b \tilde b) \tilde q\right), \quad
        q \leftarrow q - \tfrac{\mu}{L} \left((a^2 - b^2) q + (a \tilde a - b \tilde b) \tilde p\right)

    both at once, where L follows, as in :class:`~steepest.optim.psgd.PSGD`, :math:`\max(a^2 + b^2)`. The step is that
    of ``PSGD``. Time and memory are O(d): this is the least that lies between a diagonal and a full matrix.

    Args:
        params: parameters, groups, named parameters or a module. Real tensors only.
        lr: learning rate :math:`\eta \ge 0`.
        momentum: in [0, 1).
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        curvature, precond_lr, lipschitz_beta, damping, init_scale, clip_rms, clip_value, seed: as for
            :class:`~steepest.optim.psgd.PSGD`.
        update_probability: part of the steps that refit, in (0, 1], evenly spaced; None: the schedule of ``PSGD``.
        common: see :class:`~steepest.core.optimizer.RuleOptimizer`. No part of the rule is compiled.

    Raises:
        TypeError: a parameter is complex.

    The paper mirrors one vector of all parameters, which couples the first layer with the last; here every tensor is
    mirrored in itself. For the paper's form, optimize one flat vector. The paper's L is that of ``lipschitz_beta=0``.

    Source: Pooladzandi, Li (2024), Curvature-Informed SGD via General Purpose Lie-Group Preconditioners,
    arXiv 2402.04553.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        curvature: Curvature = "gradient",
        precond_lr: float = 0.1,
        update_probability: float | None = 1.0,
        lipschitz_beta: float = 0.9,
        damping: float = 1e-9,
        init_scale: float | None = None,
        clip_rms: float | None = 2.0,
        clip_value: float | None = 10.0,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "curvature": curvature,
            "precond_lr": precond_lr,
            "update_probability": update_probability,
            "lipschitz_beta": lipschitz_beta,
            "damping": damping,
            "init_scale": init_scale,
            "clip_rms": clip_rms,
            "clip_value": clip_value,
            "seed": seed,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        flat = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
        return {
            "momentum": torch.zeros_like(x),
            "lipschitz": torch.zeros(1, dtype=x.dtype, device=x.device),
            "diagonal": torch.full_like(flat, settings["init_scale"] or 1.0),
            "anti": flat,
        }

    @staticmethod
    def fit(v: Tensor, h: Tensor, lipschitz: Tensor, *factors: Tensor, **settings: Any) -> tuple[Tensor, ...]:
        diagonal, anti = factors
        scale = starting(lipschitz, v, h, settings)
        diagonal, anti, lipschitz = xmat_fit(
            scale * diagonal,
            scale * anti,
            lipschitz,
            v.reshape(-1),
            h.reshape(-1),
            step=settings["precond_lr"],
            beta=settings["lipschitz_beta"],
        )
        return lipschitz, diagonal, anti

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum: Tensor,
        lipschitz: Tensor,
        diagonal: Tensor,
        anti: Tensor,
        *,
        lr: float,
        weight: float,
        weight_decay: float,
        precond_lr: float,
        lipschitz_beta: float,
        damping: float,
        curvature: str,
        init_scale: float | None,
        clip_rms: float | None,
        clip_value: float | None,
        refit: bool,
        count: int,
        step: int,
        seed: int,
    ) -> tuple[Tensor, ...]:
        momentum = average(momentum, g, weight)
        if refit:
            v, h = fitting_pair(g, momentum, curvature, seed, step, damping)
            lipschitz, diagonal, anti = PSGDXMat.fit(
                v,
                h,
                lipschitz,
                diagonal,
                anti,
                curvature=curvature,
                init_scale=init_scale,
                precond_lr=precond_lr,
                lipschitz_beta=lipschitz_beta,
                count=count,
            )
        direction = xmat_apply(diagonal, anti, momentum.reshape(-1)).reshape(x.shape)
        return descend(x, direction, lr, weight_decay, clip_rms, clip_value), momentum, lipschitz, diagonal, anti


CARD = MethodCard(
    name="psgd-xmat",
    title="PSGD-XMat",
    room="optim",
    family="curvature",
    summary="Momentum whitened by a diagonal and an anti-diagonal, fitted online in linear time.",
    target="steepest.optim.psgd_xmat:PSGDXMat",
    papers=PAPERS[:1],
    buffers=3,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    claim="The inverse of the absolute Hessian in the form of an X, at a linear cost per step.",
)
