"""Adam with decoupled weight decay as a rule: what matrix methods fall back to for vectors and embeddings."""

from typing import Any

import torch
from torch import Tensor

from .ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY, check_settings
from .rule import Rule, lerp

__all__ = ["ADAMW", "adamw_settings", "bias_corrections"]


def bias_corrections(step: float, settings: dict[str, float]) -> dict[str, float]:
    """``correction1 = 1 - beta1^t`` and ``correction2 = 1 - beta2^t``."""
    return {"correction1": 1 - settings["beta1"] ** step, "correction2": 1 - settings["beta2"] ** step}


def _adamw(
    x: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
) -> tuple[Tensor, Tensor, Tensor]:
    exp_avg = lerp(exp_avg, g, 1 - beta1)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    denominator = torch.sqrt((1 / correction2) * exp_avg_sq) + eps
    return x - lr * ((1 / correction1) * exp_avg / denominator + weight_decay * x), exp_avg, exp_avg_sq


#: Loshchilov and Hutter (2019). Decoupled Weight Decay Regularization, arXiv 1711.05101.
ADAMW = Rule(
    name="adamw",
    update=_adamw,
    state={"exp_avg": torch.zeros_like, "exp_avg_sq": torch.zeros_like},
    nonnegative=("exp_avg_sq",),
    coefficients=bias_corrections,  # type: ignore[arg-type]
    ranges={"lr": STEP_SIZE, "betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY},
)


def adamw_settings(owner: str, lr: Any, betas: Any, eps: Any) -> dict[str, Any]:
    """The fallback's settings, checked under the names that matrix methods take them by: ``adamw_lr``, ...

    Args:
        owner: the class name that error messages begin with.
        lr, betas, eps: the values.
    """
    settings = {"lr": lr, "betas": betas, "eps": eps}
    for name, value in settings.items():
        check_settings(owner, {f"adamw_{name}": value}, {f"adamw_{name}": ADAMW.ranges[name]})
    return settings
