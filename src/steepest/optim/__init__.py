"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adamp,
    ademamix,
    cautious,
    coordinate_clip,
    diffgrad,
    gradient_noise,
    lion,
    lion_k,
    muon,
    torch_optimizers,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .cautious import Cautious, cautious_adamw
from .coordinate_clip import CoordinateClip, sgd_with_coordinate_clip
from .diffgrad import DiffGrad
from .gradient_noise import GradientNoise, sgd_with_gradient_noise
from .lion import Lion
from .lion_k import LionK
from .muon import Muon
from .norm_clip import NormClip
from .weight_decay import WeightDecay

__all__ = [
    "SGDP",
    "AMSBound",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdamP",
    "Cautious",
    "CoordinateClip",
    "DiffGrad",
    "GradientNoise",
    "Lion",
    "LionK",
    "Muon",
    "NormClip",
    "WeightDecay",
    "cautious_adamw",
    "sgd_with_coordinate_clip",
    "sgd_with_gradient_noise",
]

CARDS = (
    lion.CARD,
    lion_k.CARD,
    adabelief.CARD,
    diffgrad.CARD,
    ademamix.CARD,
    *adabound.CARDS,
    *adamp.CARDS,
    muon.CARD,
    coordinate_clip.CARD,
    gradient_noise.CARD,
    cautious.CARD,
    *torch_optimizers.CARDS,
)
