"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adamp,
    ademamix,
    diffgrad,
    lion,
    lion_k,
    muon,
    psgd,
    psgd_lra,
    psgd_xmat,
    torch_optimizers,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .diffgrad import DiffGrad
from .lion import Lion
from .lion_k import LionK
from .muon import Muon
from .psgd import PSGD
from .psgd_lra import PSGDLRA
from .psgd_xmat import PSGDXMat

__all__ = [
    "PSGD",
    "PSGDLRA",
    "SGDP",
    "AMSBound",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdamP",
    "DiffGrad",
    "Lion",
    "LionK",
    "Muon",
    "PSGDXMat",
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
    psgd.CARD,
    psgd_lra.CARD,
    psgd_xmat.CARD,
    *torch_optimizers.CARDS,
)
