"""AdamW with a rate of its own for what is no hidden matrix: the freedom that matrix methods with a fallback have."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from steepest.core.card import MethodCard
from steepest.core.routing import route

from .experiment import Side

__all__ = ["AdamWTwoRates", "TwoRates"]


class AdamWTwoRates(torch.optim.AdamW):
    """``torch.optim.AdamW`` of a model, with ``adamw_lr`` for embeddings, head, norms and biases."""

    def __init__(self, model: nn.Module, lr: float, adamw_lr: float, **settings: Any) -> None:
        routing = route(model)
        groups: list[Mapping[str, Any]] = [
            {"params": [p for _, p in routing.named("matrix")]},
            {"params": [p for _, p in routing.named("embedding", "head", "vector")], "lr": adamw_lr},
        ]
        super().__init__([dict(g) for g in groups if g["params"]], lr=lr, **settings)


@dataclass(frozen=True)
class TwoRates(Side):
    """AdamW as a side that chooses ``lr`` and ``adamw_lr``."""

    def card(self) -> MethodCard:
        """AdamW's card with the class above."""
        return replace(super().card(), target=f"{__name__}:AdamWTwoRates", takes_model=True)
