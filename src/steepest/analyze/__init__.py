"""Instruments that explain a run: spectra, sharpness, bounds."""

from . import last_iterate
from .last_iterate import WorstCase, last_iterate_bound, step_sizes

__all__ = ["WorstCase", "last_iterate_bound", "step_sizes"]

CARDS = (last_iterate.CARD,)
