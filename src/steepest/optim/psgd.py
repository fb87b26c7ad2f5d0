"""PSGD: gradients whitened by a Kronecker product of triangular matrices."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.lie import kron_apply, kron_fit, kron_shape, kron_start
from ..core.optimizer import Common, Parameters
from ..core.ranges import Flag, Integer, Real
from .lie_optimizer import Curvature, LieOptimizer, average, descend, fitting_pair, starting

__all__ = ["CARD", "PAPERS", "PSGD"]


class PSGD(LieOptimizer):
    r"""PSGD with a Kronecker product: momentum times a preconditioner that whitens gradients, or inverts a Hessian.

    Every tensor of shape :math:`n_1 \times \dots \times n_k` has :math:`P = Q^\top Q` with
    :math:`Q = Q_1 \otimes \dots \otimes Q_k`, upper triangular or diagonal. In steps that refit it, with a pair
    :math:`(v, h)`:

    .. math::
        A &= Qh, \quad B = Q^{-\top} v, \quad
        L_i \leftarrow \max(\beta_L L_i + (1 - \beta_L)\ell_i, \ell_i), \quad
        \ell_i = \|A_{(i)} A_{(i)}^\top + B_{(i)} B_{(i)}^\top\| \\
        Q_i &\leftarrow Q_i - \frac{\mu}{L_i} \operatorname{triu}(A_{(i)} A_{(i)}^\top - B_{(i)} B_{(i)}^\top)\, Q_i

    (:math:`A_{(i)}`: unfolded along dimension :math:`i`). In every step, with the momentum
    :math:`m_t = \beta_t m_{t-1} + (1 - \beta_t) g_t`, :math:`\beta_t = \min(1 - 1/t, \beta)`:

    .. math::
        x_t = (1 - \eta\lambda) x_{t-1} - \eta \operatorname{clip}(P m_t)

    What the preconditioner is fitted to is ``curvature``. ``"gradient"``: pairs of a random :math:`v` and
    :math:`h = g_t`, which gives :math:`P = (\mathbb E\, gg^\top)^{-1/2}` within its group; steps have about the size of
    Adam's. ``"momentum"``: the same of :math:`m_t`; better for sparse gradients, with larger steps: divide ``lr`` by
    about :math:`\sqrt{(1 + \beta)/(1 - \beta)}`. ``"hessian"``: pairs that you give, which leads to
    :math:`P = |H|^{-1}`, also where H is indefinite, without damping or line search::

        grads = torch.autograd.grad(loss, params, create_graph=True)
        probes = optimizer.probes()
        optimizer.observe(probes, torch.autograd.grad(grads, params, probes))

    before ``step``, which then uses gradients alone. Take a larger ``lr`` (0.01 to 1) and ``clip_rms=None`` there, and
    a larger ``precond_lr`` (0.5) where products are not noisy: the pairs that it takes to find P grow with
    :math:`\operatorname{tr}|H| / (\mu \lambda_{\min}(|H|))`, tens of thousands for a condition number of 100.

    A step multiplies every tensor once by a matrix of the size of each triangular dimension, which is what it spends
    most of its time on; ``max_size`` and ``max_skew`` bound it.

    Args:
        params: parameters, groups, named parameters or a module. Real tensors only.
        lr: learning rate :math:`\eta \ge 0`.
        momentum: :math:`\beta` in [0, 1).
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        curvature: see above.
        precond_lr: :math:`\mu` in [0, 1), without unit.
        update_probability: part of the steps that refit, in (0, 1], evenly spaced; None: 1 for 500 steps, then falling
            by a factor e per 1,000 steps to 0.03, which is the published schedule. Not used for Hessians.
        lipschitz_beta: :math:`\beta_L` in [0, 1); closer to 1 for sparse gradients.
        damping: this times a random vector is added to :math:`h`, so that :math:`P` stays below 1 / ``damping``.
        init_scale: Q begins as this times the identity; None: from the first :math:`h`,
            :math:`(\overline{v^2})^{1/4} (\overline{h^4})^{-1/8}`.
        clip_rms, clip_value: bounds on the root mean square and then on the entries of the preconditioned momentum of a
            tensor; None: none.
        max_size, max_skew: a dimension of size n has a triangular factor if n is at most ``max_size`` and
            :math:`n^2` at most ``max_skew`` times the tensor's elements, else a diagonal one.
        fast_products: apply P in bfloat16 where the device multiplies it in hardware (float32 tensors, factors of 128
            and more; never with ``"hessian"``, where the condition number may be large). Fitting keeps full precision.
        seed: of the random vectors, which depend on it, the step and the shape alone.
        common: see :class:`~steepest.core.optimizer.RuleOptimizer`. No part of the rule is compiled.

    Raises:
        TypeError: a parameter is complex.

    The papers join all parameters in one vector for groups other than this; here, as in the authors' code for Kronecker
    products, every tensor has a preconditioner of its own, so that correlations between tensors are not seen, and the
    initial scale is each tensor's own too. The running :math:`L` is that of the authors' code; ``lipschitz_beta=0`` is
    the paper's. Their code fits and balances at random; here both are regular, so that a resumed run goes on alike.
    Other libraries call this method ``Kron`` or ``PSGDKron``.

    Sources: Li (2015), Preconditioned Stochastic Gradient Descent, arXiv 1512.04202; Li (2024), Stochastic Hessian
    Fittings with Lie Groups, arXiv 2402.11858; Pooladzandi, Li (2024), Curvature-Informed SGD via General Purpose
    Lie-Group Preconditioners, arXiv 2402.04553.
    """

    ranges = {
        **LieOptimizer.ranges,
        "max_size": Integer(low=0),
        "max_skew": Real(low=0.0),
        "fast_products": Flag(),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        curvature: Curvature = "gradient",
        precond_lr: float = 0.1,
        update_probability: float | None = None,
        lipschitz_beta: float = 0.9,
        damping: float = 1e-9,
        init_scale: float | None = None,
        clip_rms: float | None = 2.0,
        clip_value: float | None = 10.0,
        max_size: int = 8192,
        max_skew: float = 1.0,
        fast_products: bool = True,
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
            "max_size": max_size,
            "max_skew": max_skew,
            "fast_products": fast_products,
            "seed": seed,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        scale = settings["init_scale"] or 1.0
        factors = kron_start(x, scale, settings["max_size"], settings["max_skew"])
        lipschitz = torch.zeros(len(factors), dtype=x.dtype, device=x.device)
        named = {f"factor{dim}": q for dim, q in enumerate(factors)}
        return {"momentum": torch.zeros_like(x), "lipschitz": lipschitz, **named}

    @staticmethod
    def fit(v: Tensor, h: Tensor, lipschitz: Tensor, *factors: Tensor, **settings: Any) -> tuple[Tensor, ...]:
        scale = starting(lipschitz, v, h, settings) ** (1 / len(factors))
        shape = kron_shape(h.shape)
        fitted, lipschitz = kron_fit(
            [scale * q for q in factors],
            lipschitz,
            v.reshape(shape),
            h.reshape(shape),
            step=settings["precond_lr"],
            beta=settings["lipschitz_beta"],
        )
        return lipschitz, *fitted

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum: Tensor,
        lipschitz: Tensor,
        *factors: Tensor,
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
        fast_products: bool,
        refit: bool,
        count: int,
        step: int,
        seed: int,
    ) -> tuple[Tensor, ...]:
        momentum = average(momentum, g, weight)
        if refit:
            v, h = fitting_pair(g, momentum, curvature, seed, step, damping)
            lipschitz, *factors = PSGD.fit(
                v,
                h,
                lipschitz,
                *factors,
                curvature=curvature,
                init_scale=init_scale,
                precond_lr=precond_lr,
                lipschitz_beta=lipschitz_beta,
                count=count,
            )
        fast = fast_products and curvature != "hessian"
        direction = kron_apply(factors, momentum.reshape(kron_shape(x.shape)), fast).reshape(x.shape)
        return descend(x, direction, lr, weight_decay, clip_rms, clip_value), momentum, lipschitz, *factors


PAPERS = (
    Paper(
        "Pooladzandi, Li",
        2024,
        "Curvature-Informed SGD via General Purpose Lie-Group Preconditioners",
        arxiv="2402.04553",
    ),
    Paper("Li", 2024, "Stochastic Hessian Fittings with Lie Groups", arxiv="2402.11858"),
    Paper("Li", 2015, "Preconditioned Stochastic Gradient Descent", arxiv="1512.04202"),
)

CARD = MethodCard(
    name="psgd",
    title="PSGD",
    room="optim",
    family="curvature",
    summary="Momentum whitened by a Kronecker product of triangular factors, fitted online without any inverse.",
    target="steepest.optim.psgd:PSGD",
    papers=PAPERS,
    buffers=3,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    claim="Recovers the inverse of the absolute Hessian from noisy products with it, where BFGS breaks down, and "
    "reaches the minimum of ill-conditioned problems in fewer steps than first-order methods and L-BFGS.",
)
