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
    asgo,
    auon,
    diffgrad,
    lion,
    lion_k,
    muon,
    psgd,
    psgd_lra,
    psgd_xmat,
    reg,
    shampoo,
    sophia,
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
from .asgo import ASGO, DASGO
from .auon import AuON, HybridAuON
from .diffgrad import DiffGrad
from .lion import Lion
from .lion_k import LionK
from .muon import Muon
from .psgd import PSGD
from .psgd_lra import PSGDLRA
from .psgd_xmat import PSGDXMat
from .reg import REG
from .shampoo import Shampoo
from .sophia import Sophia
from .trust_region import ExtrapolatedTrustRegion, NonEuclideanTrustRegion

__all__ = [
    "ASGO",
    "DASGO",
    "PSGD",
    "PSGDLRA",
    "REG",
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
    "PSGDXMat",
    "Shampoo",
    "Sophia",
]

CARDS = (
    adabelief.CARD,
    *adabound.CARDS,
    adahessian.CARD,
    adamomentum.CARD,
    *adamp.CARDS,
    ademamix.CARD,
    amsgrad.CARD,
    *ano.CARDS,
    *asgo.CARDS,
    *auon.CARDS,
    diffgrad.CARD,
    lion.CARD,
    lion_k.CARD,
    muon.CARD,
    psgd.CARD,
    psgd_lra.CARD,
    psgd_xmat.CARD,
    reg.CARD,
    shampoo.CARD,
    sophia.CARD,
    *trust_region.CARDS,
    *torch_optimizers.CARDS,
)
