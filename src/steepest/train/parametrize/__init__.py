"""Layers and parametrizations that change what an optimizer sees: conditioning, subspaces, widths.

- :func:`mup`: the maximal update parametrization: learning rates that hold for all widths, for any optimizer.
- :func:`coordinate_check`, :func:`transfer`: whether they do.
"""

from .coordinate_check import Coordinates, coordinate_check
from .mup import CARD as MUP
from .mup import MaximalUpdate, attention_scale, mup
from .transfer import Transfer, transfer
from .widths import Scaling, parameter_shapes

__all__ = [
    "Coordinates",
    "MaximalUpdate",
    "Scaling",
    "Transfer",
    "attention_scale",
    "coordinate_check",
    "mup",
    "parameter_shapes",
    "transfer",
]

CARDS = (MUP,)
