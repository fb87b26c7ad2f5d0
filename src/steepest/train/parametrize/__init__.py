"""Layers and parametrizations that change what an optimizer sees: conditioning, subspaces, widths."""

from . import tract as _tract
from .tract import TrActConv1d, TrActConv2d, TrActLinear, remove_tract, tract

__all__ = ["TrActConv1d", "TrActConv2d", "TrActLinear", "remove_tract", "tract"]

CARDS = (_tract.CARD,)
