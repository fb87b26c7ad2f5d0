"""Layers and parametrizations that change what an optimizer sees: conditioning, subspaces, widths.

- :func:`mup`: the maximal update parametrization: learning rates that hold for all widths, for any optimizer.
- :func:`coordinate_check`, :func:`transfer`: whether they do.
- :class:`Subspace`: training in a random subspace; :func:`intrinsic_dimension`: how few dimensions suffice.
"""

from .coordinate_check import Coordinates, coordinate_check
from .intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from .mup import CARD as MUP
from .mup import MaximalUpdate, attention_scale, mup
from .subspace import CARD as SUBSPACE
from .subspace import Subspace
from .transfer import Transfer, transfer
from .widths import Scaling, parameter_shapes

__all__ = [
    "Coordinates",
    "IntrinsicDimension",
    "MaximalUpdate",
    "Scaling",
    "Subspace",
    "Transfer",
    "attention_scale",
    "coordinate_check",
    "intrinsic_dimension",
    "mup",
    "parameter_shapes",
    "transfer",
]

CARDS = (SUBSPACE, MUP)
