"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adamp,
    ademamix,
    diffgrad,
    drop_muon,
    frugal,
    lion,
    lion_k,
    muon,
    torch_optimizers,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .diffgrad import DiffGrad
from .drop_muon import DropMuon
from .frugal import FRUGAL
from .lion import Lion
from .lion_k import LionK
from .muon import Muon

__all__ = [
    "FRUGAL",
    "SGDP",
    "AMSBound",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdamP",
    "DiffGrad",
    "DropMuon",
    "Lion",
    "LionK",
    "Muon",
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
    frugal.CARD,
    drop_muon.CARD,
    *torch_optimizers.CARDS,
)
