"""Optimizers for training: drop-in subclasses of ``torch.optim.Optimizer``, one file per method.

``CARDS`` lists their method cards, together with those of PyTorch's own optimizers.
"""

from . import (
    adabelief,
    adabound,
    adamp,
    ademamix,
    diffgrad,
    induced_metric,
    lion,
    lion_k,
    mars,
    muon,
    optimistic_amsgrad,
    torch_optimizers,
)
from .adabelief import AdaBelief
from .adabound import AdaBound, AMSBound
from .adamp import SGDP, AdamP
from .ademamix import AdEMAMix
from .diffgrad import DiffGrad
from .induced_metric import InducedMetric, InducedMetricLog, InducedMetricRMS
from .lion import Lion
from .lion_k import LionK
from .mars import MARSAdamW, MARSLion, MARSShampoo
from .muon import Muon
from .optimistic_amsgrad import OptimisticAMSGrad

__all__ = [
    "SGDP",
    "AMSBound",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdamP",
    "DiffGrad",
    "InducedMetric",
    "InducedMetricLog",
    "InducedMetricRMS",
    "Lion",
    "LionK",
    "MARSAdamW",
    "MARSLion",
    "MARSShampoo",
    "Muon",
    "OptimisticAMSGrad",
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
    *mars.CARDS,
    optimistic_amsgrad.CARD,
    *induced_metric.CARDS,
    *torch_optimizers.CARDS,
)
