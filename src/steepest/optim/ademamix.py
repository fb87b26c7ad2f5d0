"""AdEMAMix: AdamW with a second, very slow moving average of the gradient."""

import math
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.adamw import bias_corrections
from ..core.card import Choice, Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Integer, Real, Reals
from ..core.rule import lerp

__all__ = ["CARD", "AdEMAMix"]


class AdEMAMix(RuleOptimizer):
    r"""AdEMAMix: the numerator of AdamW mixes a fast and a very slow moving average of the gradient.

    .. math::
        m_1 &\leftarrow \beta_1 m_1 + (1 - \beta_1) g, \quad
        m_2 \leftarrow \beta_3(t) m_2 + (1 - \beta_3(t)) g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        x &\leftarrow x - \eta \left( \frac{m_1 / (1 - \beta_1^t) + \alpha(t)\, m_2}
                      {\sqrt{v / (1 - \beta_2^t)} + \varepsilon} + \lambda x \right)

    The slow average is not bias-corrected. Both its weight and its half-life grow over a warm-up of ``warmup`` steps:
    :math:`\alpha(t) = \min(t / T, 1)\, \alpha`, and :math:`1 / \ln \beta_3(t)` goes linearly from
    :math:`1 / \ln \beta_1` to :math:`1 / \ln \beta_3`, which makes the half-life grow linearly. Without a warm-up the
    early steps are large; set it to the length of the training run, as the paper does.

    With :math:`\alpha = 0` this is AdamW. Gradients older than :math:`1/(1-\beta_3)` = 10,000 steps still count, so for
    a run of ``T`` steps choose :math:`\beta_3` with :math:`1/(1-\beta_3)` between ``T/10`` and ``T/2``.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`, as for AdamW.
        betas: :math:`(\beta_1, \beta_2, \beta_3)`, each in [0, 1).
        alpha: weight of the slow average, :math:`\alpha \ge 0`; the paper uses 4 to 10.
        warmup: steps :math:`T` of the warm-up of :math:`\alpha` and :math:`\beta_3`, or None for none.
        eps: :math:`\varepsilon \ge 0`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Pagliardini, Ablin, Grangier (2024), The AdEMAMix Optimizer: Better, Faster, Older, arXiv 2409.03137,
    Algorithm 1.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "exp_avg_slow": torch.zeros_like, "exp_avg_sq": torch.zeros_like}
    nonnegative = ("exp_avg_sq",)
    ranges = {
        "lr": STEP_SIZE,
        "betas": Reals(3, MOMENTUM),
        "alpha": Real(low=0.0),
        "warmup": Integer(low=1, optional=True),
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        warmup: int | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "warmup": warmup,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def coefficients(step: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """Bias corrections, and the warmed-up ``alpha`` and ``beta3``."""
        fraction = 1.0 if settings["warmup"] is None else min(step / settings["warmup"], 1.0)
        warmed = {"alpha": fraction * settings["alpha"], "beta3": settings["beta3"]}
        if fraction < 1.0:
            start, end = (_inverse_log(settings[name]) for name in ("beta1", "beta3"))
            inverse = start + fraction * (end - start)
            warmed["beta3"] = min(math.exp(1 / inverse), settings["beta3"]) if inverse < 0 else 0.0
        return {**bias_corrections(step, settings), **warmed}

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_slow: Tensor,
        exp_avg_sq: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        beta3: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        correction1: float,
        correction2: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        exp_avg_slow = lerp(exp_avg_slow, g, 1 - beta3)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
        mixed = (1 / correction1) * exp_avg + alpha * exp_avg_slow
        direction = mixed / (torch.sqrt((1 / correction2) * exp_avg_sq) + eps)
        return x - lr * (direction + weight_decay * x), exp_avg, exp_avg_slow, exp_avg_sq


def _inverse_log(beta: float) -> float:
    """``1 / ln beta``, which is minus the half-life over ln 2, and 0 for ``beta = 0``."""
    return 1 / math.log(beta) if beta > 0 else 0.0


CARD = MethodCard(
    name="ademamix",
    title="AdEMAMix",
    room="optim",
    family="adaptive",
    summary="AdamW that adds a very slow moving average, so that gradients thousands of steps old still count.",
    target="steepest.optim.ademamix:AdEMAMix",
    papers=(
        Paper(
            "Pagliardini, Ablin, Grangier",
            2024,
            "The AdEMAMix Optimizer: Better, Faster, Older",
            arxiv="2409.03137",
        ),
    ),
    buffers=3,
    search={
        "lr": Float(1e-5, 3e-2, log=True),
        "weight_decay": Float(1e-4, 0.3, log=True),
        "betas": Choice(((0.9, 0.999, 0.99), (0.9, 0.999, 0.999), (0.9, 0.999, 0.9999))),
    },
    claim="Reaches AdamW's loss with about half the tokens, and forgets training data more slowly.",
)
