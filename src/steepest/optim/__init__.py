"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adamp,
    ademamix,
    auon,
    diffgrad,
    lion,
    lion_k,
    muon,
    reg,
    torch_optimizers,
    trust_region,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .auon import AuON, HybridAuON
from .diffgrad import DiffGrad
from .lion import Lion
from .lion_k import LionK
from .muon import Muon
from .reg import REG
from .trust_region import ExtrapolatedTrustRegion, NonEuclideanTrustRegion

__all__ = [
    "REG",
    "SGDP",
    "AMSBound",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdamP",
    "AuON",
    "DiffGrad",
    "ExtrapolatedTrustRegion",
    "HybridAuON",
    "Lion",
    "LionK",
    "Muon",
    "NonEuclideanTrustRegion",
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
    *trust_region.CARDS,
    *auon.CARDS,
    reg.CARD,
    *torch_optimizers.CARDS,
)
