"""Layers and parametrizations that change what an optimizer sees: conditioning, subspaces, widths."""

from . import ghost_batch_norm as _ghost_batch_norm
from . import tract as _tract
from . import weight_conditioning as _weight_conditioning
from .ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d, ghost_batch_norm
from .tract import TrActConv1d, TrActConv2d, TrActLinear, remove_tract, tract
from .weight_conditioning import WeightConditioning, weight_conditioning

__all__ = [
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "TrActConv1d",
    "TrActConv2d",
    "TrActLinear",
    "WeightConditioning",
    "ghost_batch_norm",
    "remove_tract",
    "tract",
    "weight_conditioning",
]

CARDS = (_ghost_batch_norm.CARD, _tract.CARD, _weight_conditioning.CARD)
