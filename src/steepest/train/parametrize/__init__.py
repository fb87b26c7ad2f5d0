"""Layers and parametrizations that change what an optimizer sees: conditioning, subspaces, widths.

- :func:`mup`: the maximal update parametrization: learning rates that hold for all widths, for any optimizer.
- :func:`coordinate_check`, :func:`transfer`: whether they do.
- :class:`Subspace`: training in a random subspace; :func:`intrinsic_dimension`: how few dimensions suffice.
- :func:`tract`: the first layer learns as if its pre-activations did.
- :func:`ghost_batch_norm`: batch normalization over parts of a batch.
- :func:`weight_conditioning`: weight matrices with equilibrated rows.
"""

from . import ghost_batch_norm as _ghost_batch_norm
from . import tract as _tract
from . import weight_conditioning as _weight_conditioning
from .coordinate_check import Coordinates, coordinate_check
from .ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d, ghost_batch_norm
from .intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from .mup import CARD as MUP
from .mup import MaximalUpdate, attention_scale, mup
from .subspace import CARD as SUBSPACE
from .subspace import Subspace
from .tract import TrActConv1d, TrActConv2d, TrActLinear, remove_tract, tract
from .transfer import Transfer, transfer
from .weight_conditioning import WeightConditioning, weight_conditioning
from .widths import Scaling, parameter_shapes

__all__ = [
    "Coordinates",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "IntrinsicDimension",
    "MaximalUpdate",
    "Scaling",
    "Subspace",
    "TrActConv1d",
    "TrActConv2d",
    "TrActLinear",
    "Transfer",
    "WeightConditioning",
    "attention_scale",
    "coordinate_check",
    "ghost_batch_norm",
    "intrinsic_dimension",
    "mup",
    "parameter_shapes",
    "remove_tract",
    "tract",
    "transfer",
    "weight_conditioning",
]

CARDS = (SUBSPACE, MUP, _ghost_batch_norm.CARD, _tract.CARD, _weight_conditioning.CARD)
