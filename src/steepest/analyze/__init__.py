"""Instruments that explain a run: spectra, sharpness, bounds, dynamics."""

from . import sam_sde
from .sam_sde import SAMDiffusion

__all__ = ["SAMDiffusion"]

CARDS = (sam_sde.CARD,)
