"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adamomentum,
    adamp,
    ademamix,
    amsgrad,
    ano,
    diffgrad,
    lion,
    lion_k,
    muon,
    torch_optimizers,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adamomentum import AdaMomentum
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .amsgrad import AMSGrad
from .ano import Ano, Anolog
from .diffgrad import DiffGrad
from .lion import Lion
from .lion_k import LionK
from .muon import Muon

__all__ = [
    "SGDP",
    "AMSBound",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdaMomentum",
    "AdamP",
    "Ano",
    "Anolog",
    "DiffGrad",
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
    amsgrad.CARD,
    adamomentum.CARD,
    *ano.CARDS,
    muon.CARD,
    *torch_optimizers.CARDS,
)
