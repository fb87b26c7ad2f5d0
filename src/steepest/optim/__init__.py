"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adamp,
    ademamix,
    asgo,
    diffgrad,
    lion,
    lion_k,
    muon,
    shampoo,
    torch_optimizers,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .asgo import ASGO, DASGO
from .diffgrad import DiffGrad
from .lion import Lion
from .lion_k import LionK
from .muon import Muon
from .shampoo import Shampoo

__all__ = [
    "ASGO",
    "DASGO",
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
    "Shampoo",
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
    *asgo.CARDS,
    shampoo.CARD,
    *torch_optimizers.CARDS,
)
