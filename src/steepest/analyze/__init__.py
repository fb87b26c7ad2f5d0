"""Instruments that explain a run: spectra, sharpness, noise, bounds; and what can be left out of a model."""

from . import last_iterate, noise_scale, pruning, run_watch, sharpness_measures, spectral_density
from .last_iterate import WorstCase, last_iterate_bound, step_sizes
from .noise_scale import GradientNoiseScale, gradient_noise_scale
from .pruning import InverseFisher, prune
from .run_watch import RunExplanation, RunWatch
from .sharpness_measures import Sharpness, ascent_sharpness, directional_sharpness, sharpness
from .spectral_density import Spectrum, spectrum

__all__ = [
    "GradientNoiseScale",
    "InverseFisher",
    "RunExplanation",
    "RunWatch",
    "Sharpness",
    "Spectrum",
    "WorstCase",
    "ascent_sharpness",
    "directional_sharpness",
    "gradient_noise_scale",
    "last_iterate_bound",
    "prune",
    "sharpness",
    "spectrum",
    "step_sizes",
]

CARDS = (
    last_iterate.CARD,
    noise_scale.CARD,
    pruning.CARD,
    run_watch.CARD,
    *sharpness_measures.CARDS,
    spectral_density.CARD,
)
"""Instruments that explain a run: spectra, sharpness, bounds, dynamics."""

from . import sam_sde
from .sam_sde import SAMDiffusion

__all__ = ["SAMDiffusion"]

CARDS = (sam_sde.CARD,)
