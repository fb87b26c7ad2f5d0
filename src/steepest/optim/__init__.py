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
    diffgrad,
    lion,
    lion_k,
    muon,
    sophia,
    torch_optimizers,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adahessian import AdaHessian
from .adamomentum import AdaMomentum
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .amsgrad import AMSGrad
from .ano import Ano, Anolog
from .diffgrad import DiffGrad
from .lion import Lion
from .lion_k import LionK
from .muon import Muon
from .sophia import Sophia

__all__ = [
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
    "DiffGrad",
    "Lion",
    "LionK",
    "Muon",
    "Sophia",
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
    *torch_optimizers.CARDS,
)
