"""Instruments that explain a run: spectra, sharpness, bounds; and what can be left out of a model."""

from . import pruning
from .pruning import InverseFisher, prune

__all__ = ["InverseFisher", "prune"]

CARDS = (pruning.CARD,)
