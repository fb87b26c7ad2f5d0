"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adahessian,
    adamomentum,
    adamp,
    ademamix,
    amsgrad,
    ano,
    auon,
    asgo,
    diffgrad,
    lion,
    lion_k,
    muon,
    reg,
    sophia,
    shampoo,
    torch_optimizers,
    trust_region,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adahessian import AdaHessian
from .adamomentum import AdaMomentum
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .amsgrad import AMSGrad
from .ano import Ano, Anolog
from .auon import AuON, HybridAuON
from .asgo import ASGO, DASGO
from .diffgrad import DiffGrad
from .lion import Lion
from .lion_k import LionK
from .muon import Muon
from .reg import REG
from .sophia import Sophia
from .trust_region import ExtrapolatedTrustRegion, NonEuclideanTrustRegion

__all__ = [
    "REG",
from .shampoo import Shampoo

__all__ = [
    "ASGO",
    "DASGO",
    "SGDP",
    "AMSBound",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdaHessian",
    "AdaMomentum",
    "AdamP",
    "Ano",
    "Anolog",
    "AuON",
    "DiffGrad",
    "ExtrapolatedTrustRegion",
    "HybridAuON",
    "Lion",
    "LionK",
    "Muon",
    "NonEuclideanTrustRegion",
    "Sophia",
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
    amsgrad.CARD,
    adamomentum.CARD,
    *ano.CARDS,
    muon.CARD,
    adahessian.CARD,
    sophia.CARD,
    *trust_region.CARDS,
    *auon.CARDS,
    reg.CARD,
    *asgo.CARDS,
    shampoo.CARD,
    *torch_optimizers.CARDS,
)
