"""Instruments that explain a run: spectra, sharpness, noise, bounds."""

from . import noise_scale as _noise
from . import sharpness_measures as _sharpness
from . import spectral_density as _spectrum
from .noise_scale import GradientNoiseScale, gradient_noise_scale
from .sharpness_measures import Sharpness, ascent_sharpness, directional_sharpness, sharpness
from .spectral_density import Spectrum, spectrum

__all__ = [
    "GradientNoiseScale",
    "Sharpness",
    "Spectrum",
    "ascent_sharpness",
    "directional_sharpness",
    "gradient_noise_scale",
    "sharpness",
    "spectrum",
]

CARDS = (_spectrum.CARD, *_sharpness.CARDS, _noise.CARD)
from . import last_iterate
from .last_iterate import WorstCase, last_iterate_bound, step_sizes

__all__ = ["WorstCase", "last_iterate_bound", "step_sizes"]

CARDS = (last_iterate.CARD,)
