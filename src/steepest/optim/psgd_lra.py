"""PSGD with a low-rank approximation: gradients whitened by a diagonal plus a few directions."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard
from ..core.lie import lra_apply, lra_fit
from ..core.optimizer import Common, Parameters
from ..core.ranges import Integer
from ..core.rule import compute_dtype
from .lie_optimizer import Curvature, LieOptimizer, average, descend, draw, fitting_pair, starting
from .psgd import PAPERS

__all__ = ["CARD", "PSGDLRA"]


class PSGDLRA(LieOptimizer):
    r"""PSGD-LRA: momentum times a preconditioner of the form low rank plus diagonal, fitted online.

    Every tensor, as a vector of length d, has :math:`P = Q^\top Q` with
    :math:`Q = (I + UV^\top) \operatorname{diag}(s)` and :math:`U, V` of shape (d, r). In steps that refit it, with a
    pair :math:`(v, h)` and :math:`a = Qh`, :math:`b = Q^{-\top}v` (by an r x r system):

    .. math::
        s &\leftarrow s - \tfrac{\mu}{L_s} (h \cdot Ph - v \cdot P^{-1}v) \cdot s, \quad\text{and in turn} \\
        U &\leftarrow U - \tfrac{\mu}{L_U} (aa^\top - bb^\top) V (I + V^\top U) \quad\text{or}\quad
        V \leftarrow V - \tfrac{\mu}{L_V} (I + VU^\top) (aa^\top - bb^\top) U

    where each L follows, as in :class:`~steepest.optim.psgd.PSGD`, :math:`\max|h \cdot Ph| + \max|v \cdot P^{-1}v|`,
    :math:`\|a\| \|VV^\top a\| + \|b\| \|VV^\top b\|`, and the same with U. The step is that of ``PSGD``. Time
    and memory are :math:`O(rd)`; with ``rank=0`` the preconditioner is diagonal.

    Args:
        params: parameters, groups, named parameters or a module. Real tensors only.
        lr: learning rate :math:`\eta \ge 0`.
        momentum: in [0, 1).
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        rank: r, at least 0, cut down to d - 1 for tensors of fewer elements.
        curvature, precond_lr, lipschitz_beta, damping, init_scale, clip_rms, clip_value, seed: as for
            :class:`~steepest.optim.psgd.PSGD`.
        update_probability: part of the steps that refit, in (0, 1], evenly spaced; None: the schedule of ``PSGD``.
        common: see :class:`~steepest.core.optimizer.RuleOptimizer`. No part of the rule is compiled.

    Raises:
        TypeError: a parameter is complex.

    The paper has one vector of all parameters; here every tensor has a preconditioner (and r directions) of its own:
    curvature between tensors is not seen, and none is starved of directions by a larger one. For the paper's form,
    optimize one flat vector. The authors' code chooses between U and V at random, here they take turns; it also
    rotates U and V towards :math:`U^\top U = V^\top V`, here only their norms are made equal, as in the paper.

    Sources: Li (2022), Black Box Lie Group Preconditioners for SGD, arXiv 2211.04422; Pooladzandi, Li (2024),
    Curvature-Informed SGD via General Purpose Lie-Group Preconditioners, arXiv 2402.04553.
    """

    ranges = {**LieOptimizer.ranges, "rank": Integer(low=0)}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        rank: int = 10,
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
            "rank": rank,
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
        size = x.numel()
        zero = torch.zeros(size, min(settings["rank"], max(size - 1, 0)), dtype=x.dtype, device=x.device)
        # Random directions of the authors' size: from zero the updates would not move them.
        sides = [draw(zero.to(compute_dtype(x.dtype)), settings["seed"], name) for name in ("left", "right")]
        left, right = (0.1**0.5 / max(zero.numel(), 1) ** 0.5 * side for side in sides)
        diagonal = torch.full((size,), settings["init_scale"] or 1.0, dtype=x.dtype, device=x.device)
        lipschitz = torch.zeros(3, dtype=x.dtype, device=x.device)
        momentum = torch.zeros_like(x)
        return {"momentum": momentum, "lipschitz": lipschitz, "left": left, "right": right, "diagonal": diagonal}

    @staticmethod
    def fit(v: Tensor, h: Tensor, lipschitz: Tensor, *factors: Tensor, **settings: Any) -> tuple[Tensor, ...]:
        left, right, diagonal = factors
        left, right, diagonal, lipschitz = lra_fit(
            left,
            right,
            starting(lipschitz, v, h, settings) * diagonal,
            lipschitz,
            v.reshape(-1),
            h.reshape(-1),
            step=settings["precond_lr"],
            beta=settings["lipschitz_beta"],
            side=settings["count"] % 2,
        )
        return lipschitz, left, right, diagonal

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum: Tensor,
        lipschitz: Tensor,
        left: Tensor,
        right: Tensor,
        diagonal: Tensor,
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
            lipschitz, left, right, diagonal = PSGDLRA.fit(
                v,
                h,
                lipschitz,
                left,
                right,
                diagonal,
                curvature=curvature,
                init_scale=init_scale,
                precond_lr=precond_lr,
                lipschitz_beta=lipschitz_beta,
                count=count,
            )
        direction = lra_apply(left, right, diagonal, momentum.reshape(-1)).reshape(x.shape)
        x = descend(x, direction, lr, weight_decay, clip_rms, clip_value)
        return x, momentum, lipschitz, left, right, diagonal


CARD = MethodCard(
    name="psgd-lra",
    title="PSGD-LRA",
    room="optim",
    family="curvature",
    summary="Momentum whitened by a diagonal plus a few directions, fitted online in linear time.",
    target="steepest.optim.psgd_lra:PSGDLRA",
    papers=PAPERS,
    buffers=22,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    claim="The inverse of the absolute Hessian in a low-rank form, at a linear cost per step.",
)
