"""MARS: momentum whose gradient is corrected by how much the gradient has changed since the previous step."""

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from ..core.adamw import ADAMW, adamw_settings, bias_corrections
from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters
from ..core.orthogonal import orthogonalize
from ..core.ranges import BETAS, EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Flag, OneOf, Real
from ..core.rule import Rule, lerp
from ..core.twopoint import TwoPointOptimizer

__all__ = ["CARDS", "MARSAdamW", "MARSLion", "MARSShampoo"]

_GAMMA = Real(low=0.0)
_MAX_NORM = Real(low=0.0, low_open=True, optional=True)


def _correction(step: int, beta: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The factor of the change of the gradient, of which the first step has none; and the clip, 0 for none."""
    strength = settings["gamma"] * beta / (1 - beta) if step > 1 else 0.0
    return {"strength": strength, "tightness": 0.0 if settings["max_norm"] is None else 1 / settings["max_norm"]}


def _corrected(g: Tensor, previous: Tensor, strength: float, tightness: float, dim: Any = None) -> Tensor:
    """The corrected gradient, clipped in norm: of the whole tensor, or of those dimensions."""
    c = g + strength * (g - previous)
    norm = torch.linalg.vector_norm(c, dim=dim, keepdim=True)
    return c / torch.clamp(tightness * norm, min=1.0)


class MARSAdamW(TwoPointOptimizer):
    r"""MARS-AdamW: AdamW on a gradient whose noise is reduced by recursive momentum (STORM), scaled by :math:`\gamma`.

    With the gradient :math:`g_t` of the mini-batch :math:`\xi_t` at :math:`x_{t-1}`, for each tensor:

    .. math::
        c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_t^-), \qquad
        \tilde c_t = c_t \min(1, \rho / \|c_t\|_2) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, \tilde c_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, \tilde c_t^2 \\
        x_t &= (1 - \eta\lambda)\, x_{t-1}
               - \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}

    where :math:`g_t^-` is the previous step's gradient (the approximate form, at the cost of AdamW), or with ``exact``
    the gradient of the *same* mini-batch at the previous parameters :math:`x_{t-2}` (two gradients per step). In the
    first step :math:`g_1^- = g_1`. With :math:`\gamma = 0` and no clip this is AdamW; :math:`\gamma = 1` makes
    :math:`m` the estimator of STORM.

    The clip is part of the method, and acts on each tensor: it makes the step depend on the scale of the loss and on
    how parameters are cut into tensors. The authors clip the norm of the whole gradient as well, in their training
    loop. Tensors with fewer than two dimensions take plain AdamW steps, without correction and clip, as in the authors'
    code, where they have settings of their own besides (a learning rate of 0.003, betas 0.9 and 0.95, weight decay
    0.1); give them a group for that. (That code treats convolutions so too; here they are corrected.)

    Where the authors' code differs from the paper, this follows the paper in the first step (the code starts from a
    previous gradient of zero, and so from :math:`c_1 = (1 + \gamma \beta_1 / (1 - \beta_1))\, g_1`), and the code in
    clipping each tensor (the paper clips the whole vector).

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0` (the authors use 0.006 for GPT-2 small).
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        gamma: :math:`\gamma \ge 0`, how much of the correction is used.
        eps: :math:`\varepsilon \ge 0`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        max_norm: :math:`\rho > 0`, the largest norm of a tensor's corrected gradient; ``None`` for no clip.
        exact: evaluate the mini-batch at the previous parameters too. ``step`` then needs a closure, and calls it twice
            from the second step on: with the same random numbers, and without a trace of the extra call in buffers
            such as the statistics of batch norms (see :func:`~steepest.core.twopoint.gradients_at`).
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Raises:
        TypeError: a parameter is complex, or ``exact`` and no closure is given.
        ValueError: ``exact`` and a ``state_dtype`` that would round the previous parameters.

    Source: Yuan et al. (2024), MARS: Unleashing the Power of Variance Reduction for Training Large Models,
    arXiv 2411.10438, Algorithms 1 and 2.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "exp_avg_sq": torch.zeros_like, "previous": torch.zeros_like}
    granularity = "tensor"
    complex_as_real = False
    static = ("exact",)
    nonnegative = ("exp_avg_sq",)
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "gamma": _GAMMA,
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "max_norm": _MAX_NORM,
        "exact": Flag(),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        gamma: float = 0.025,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
        exact: bool = False,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_norm": max_norm,
            "exact": exact,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def coefficients(step: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {**bias_corrections(step, settings), **_correction(step, settings["beta1"], settings)}

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        previous: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        strength: float,
        tightness: float,
        exact: bool,
        correction1: float,
        correction2: float,
    ) -> tuple[Tensor, ...]:
        c = _corrected(g, previous, strength, tightness) if x.dim() > 1 else g
        stepped = ADAMW.update(
            x,
            c,
            exp_avg,
            exp_avg_sq,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            correction1=correction1,
            correction2=correction2,
        )
        return *stepped, x if exact else g


class MARSLion(TwoPointOptimizer):
    r"""MARS-Lion: the sign of a momentum of corrected gradients.

    .. math::
        m_t = \beta m_{t-1} + (1 - \beta)\, \tilde c_t, \qquad
        x_t = x_{t-1} - \eta\, (\operatorname{sign}(m_t) + \lambda x_{t-1})

    with :math:`\tilde c_t` of :class:`MARSAdamW` (and its remarks), where :math:`\beta_1 = \beta`. Without the clip,
    the approximate form with :math:`\beta = \beta_2` and :math:`\gamma = 1 - \beta_1 / \beta_2` is :class:`Lion` up to
    the first step. Tensors with fewer than two dimensions take the sign of a plain momentum, without correction and
    clip; the authors' code gives them AdamW, whose learning rates are of another size.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`, the distance that each coordinate moves per step. The authors give no
            default for this form; this one is a tenth of :class:`MARSAdamW`'s, as is usual for Lion.
        momentum: :math:`\beta` in [0, 1).
        gamma, max_norm, exact: as for :class:`MARSAdamW`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Raises:
        TypeError, ValueError: as for :class:`MARSAdamW`.

    Source: Yuan et al. (2024), arXiv 2411.10438, Algorithm 3.
    """

    state_tensors = {"momentum": torch.zeros_like, "previous": torch.zeros_like}
    granularity = "tensor"
    complex_as_real = False
    static = ("exact",)
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "gamma": _GAMMA,
        "weight_decay": WEIGHT_DECAY,
        "max_norm": _MAX_NORM,
        "exact": Flag(),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 3e-4,
        momentum: float = 0.95,
        gamma: float = 0.025,
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
        exact: bool = False,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "gamma": gamma,
            "weight_decay": weight_decay,
            "max_norm": max_norm,
            "exact": exact,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def coefficients(step: int, settings: dict[str, Any]) -> dict[str, Any]:
        return _correction(step, settings["momentum"], settings)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum_buffer: Tensor,
        previous: Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        strength: float,
        tightness: float,
        exact: bool,
    ) -> tuple[Tensor, ...]:
        c = _corrected(g, previous, strength, tightness) if x.dim() > 1 else g
        momentum_buffer = lerp(momentum_buffer, c, 1 - momentum)
        return x - lr * (torch.sign(momentum_buffer) + weight_decay * x), momentum_buffer, x if exact else g


def _remembering_adamw(
    x: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *previous: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
) -> tuple[Tensor, ...]:
    stepped = ADAMW.update(
        x,
        g,
        exp_avg,
        exp_avg_sq,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        correction1=correction1,
        correction2=correction2,
    )
    return (*stepped, x) if previous else stepped


def _remembering_state(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    names = ("exp_avg", "exp_avg_sq", *(("previous",) if settings["exact"] else ()))
    return {name: torch.zeros_like(x) for name in names}


#: AdamW which, where the gradient at the previous parameters is asked for, remembers them: all must go back there.
_FALLBACK = Rule(
    name="adamw",
    update=_remembering_adamw,
    state=_remembering_state,
    nonnegative=ADAMW.nonnegative,
    coefficients=ADAMW.coefficients,
    ranges=ADAMW.ranges,
)


class MARSShampoo(TwoPointOptimizer):
    r"""MARS-Shampoo: the orthogonalized momentum of corrected gradients, for weight matrices.

    For a matrix of shape :math:`m \times n` (convolutions as ``out x (in * kernel)``):

    .. math::
        M_t = \beta M_{t-1} + (1 - \beta)\, \tilde C_t, \qquad
        X_t = (1 - \eta\lambda)\, X_{t-1} - \eta \sqrt{\max(1, m/n)} \, \operatorname{polar}(M_t)

    with :math:`\tilde C_t` of :class:`MARSAdamW` (and its remarks), where :math:`\beta_1 = \beta`, and
    :math:`\operatorname{polar}(U \Sigma V^\top) = U V^\top`. With :math:`\gamma = 0` and no clip this is :class:`Muon`
    without Nesterov's look-ahead.

    Embeddings, the output head, norms, biases and scalars follow plain AdamW, as with :class:`Muon`: pass the whole
    model, or mark groups with ``rule="adamw"``. (The authors' code corrects embeddings and the head as
    :class:`MARSAdamW` does.)

    Args:
        params: the model; or matrices, or parameter groups with ``rule="marsshampoo"`` (default) or ``rule="adamw"``.
        lr: learning rate :math:`\eta \ge 0` of the matrices. The authors give no default for this form; this is Muon's.
        momentum: :math:`\beta` in [0, 1).
        gamma, max_norm, exact: as for :class:`MARSAdamW`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the learning rate; for both rules.
        orthogonalization: ``"newton-schulz"``: five of Jordan's quintics, as in the authors' code;
            ``"polar-express"``: closer to the polar factor in four steps; ``"exact"``: by singular values.
        adamw_lr, adamw_betas, adamw_eps: settings of the fallback.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Raises:
        TypeError, ValueError: as for :class:`MARSAdamW`; or a tensor in a group of matrices has fewer than two
            dimensions.

    Source: Yuan et al. (2024), arXiv 2411.10438, Algorithm 4; orthogonalization in place of Shampoo's roots, as there.
    """

    state_tensors = {"momentum": torch.zeros_like, "previous": torch.zeros_like}
    granularity = "matrix"
    complex_as_real = False
    static = ("orthogonalization", "exact")
    fallback = _FALLBACK
    ranges = {
        **MARSLion.ranges,
        "orthogonalization": OneOf(("newton-schulz", "polar-express", "exact")),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.02,
        momentum: float = 0.95,
        gamma: float = 0.025,
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
        exact: bool = False,
        orthogonalization: Literal["newton-schulz", "polar-express", "exact"] = "newton-schulz",
        adamw_lr: float = 3e-3,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        *,
        routing: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "gamma": gamma,
            "weight_decay": weight_decay,
            "max_norm": max_norm,
            "exact": exact,
            "orthogonalization": orthogonalization,
        }
        fallback = adamw_settings("MARSShampoo", adamw_lr, adamw_betas, adamw_eps)
        super().__init__(params, settings, fallback_settings=fallback, routing=routing, **common)

    @staticmethod
    def coefficients(step: int, settings: dict[str, Any]) -> dict[str, Any]:
        return _correction(step, settings["momentum"], settings)

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum_buffer: Tensor,
        previous: Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        strength: float,
        tightness: float,
        exact: bool,
        orthogonalization: str,
    ) -> tuple[Tensor, ...]:
        c = _corrected(g, previous, strength, tightness, (-2, -1))
        momentum_buffer = lerp(momentum_buffer, c, 1 - momentum)
        rows, columns = x.shape[-2:]
        factor = max(1.0, rows / columns) ** 0.5
        direction = orthogonalize(momentum_buffer, orthogonalization)
        return (1 - lr * weight_decay) * x - (lr * factor) * direction, momentum_buffer, x if exact else g


_PAPER = Paper(
    "Yuan, Liu, Wu, Zhou, Gu",
    2024,
    "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    arxiv="2411.10438",
)

CARDS = (
    MethodCard(
        name="marsadamw",
        title="MARS-AdamW",
        room="optim",
        family="adaptive",
        summary="AdamW on gradients corrected by their change since the last step, each tensor clipped to norm 1.",
        target="steepest.optim.mars:MARSAdamW",
        papers=(_PAPER,),
        buffers=3,
        search={"lr": Float(1e-4, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
        claim="Trains language models to a lower loss than AdamW and Muon, at the cost of AdamW per step.",
    ),
    MethodCard(
        name="marslion",
        title="MARS-Lion",
        room="optim",
        family="sign",
        summary="Steps by the sign of a momentum of gradients that are corrected by their change since the last step.",
        target="steepest.optim.mars:MARSLion",
        papers=(_PAPER,),
        buffers=2,
        search={"lr": Float(1e-5, 1e-2, log=True), "weight_decay": Float(1e-3, 1.0, log=True)},
    ),
    MethodCard(
        name="marsshampoo",
        title="MARS-Shampoo",
        room="optim",
        family="matrix",
        summary="Orthogonalizes a momentum of gradients corrected by their change; AdamW for what is no matrix.",
        target="steepest.optim.mars:MARSShampoo",
        papers=(_PAPER,),
        buffers=2,
        search={
            "lr": Float(1e-3, 0.3, log=True),
            "adamw_lr": Float(1e-4, 3e-2, log=True),
            "weight_decay": Float(1e-4, 0.3, log=True),
        },
        takes_model=True,
    ),
)
