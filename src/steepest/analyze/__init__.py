"""Instruments that explain a run: spectra, sharpness, noise, bounds; and what can be left out of a model."""

from . import last_iterate, noise_scale, pruning, run_watch, sam_sde, sharpness_measures, spectral_density
from .last_iterate import WorstCase, last_iterate_bound, step_sizes
from .noise_scale import GradientNoiseScale, gradient_noise_scale
from .pruning import InverseFisher, prune
from .run_watch import RunExplanation, RunWatch
from .sam_sde import SAMDiffusion
from .sharpness_measures import Sharpness, ascent_sharpness, directional_sharpness, sharpness
from .spectral_density import Spectrum, spectrum

__all__ = [
    "GradientNoiseScale",
    "InverseFisher",
    "RunExplanation",
    "RunWatch",
    "SAMDiffusion",
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
    sam_sde.CARD,
    *sharpness_measures.CARDS,
    spectral_density.CARD,
)
