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
    cautious,
    coordinate_clip,
    diffgrad,
    drop_muon,
    exact_gauss_newton,
    frugal,
    gradient_noise,
    gradient_regularization,
    induced_metric,
    lion,
    lion_k,
    mars,
    mfac,
    muon,
    oasis,
    optimistic_amsgrad,
    psgd,
    psgd_lra,
    psgd_xmat,
    reg,
    sam,
    sania,
    shampoo,
    smb,
    sophia,
    target_surrogate,
    thermodynamic,
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
from .cautious import Cautious, cautious_adamw
from .coordinate_clip import CoordinateClip, sgd_with_coordinate_clip
from .diffgrad import DiffGrad
from .drop_muon import DropMuon
from .exact_gauss_newton import ExactGaussNewton
from .frugal import FRUGAL
from .gradient_noise import GradientNoise, sgd_with_gradient_noise
from .gradient_regularization import GradientRegularization, gradient_regularized_sgd
from .induced_metric import InducedMetric, InducedMetricLog, InducedMetricRMS
from .lion import Lion
from .lion_k import LionK
from .mars import MARSAdamW, MARSLion, MARSShampoo
from .mfac import MFAC
from .muon import Muon
from .norm_clip import NormClip
from .oasis import OASIS, OASISMomentum
from .optimistic_amsgrad import OptimisticAMSGrad
from .psgd import PSGD
from .psgd_lra import PSGDLRA
from .psgd_xmat import PSGDXMat
from .reg import REG
from .sam import DNSAM, SAM, USAM, dnsam_sgd, sam_sgd, usam_sgd
from .sania import SANIA, SANIANewton
from .shampoo import Shampoo
from .smb import SMB
from .sophia import Sophia
from .target_surrogate import TargetSurrogate, target_surrogate_sgd
from .thermodynamic import ThermodynamicNaturalGradient
from .trust_region import ExtrapolatedTrustRegion, NonEuclideanTrustRegion
from .weight_decay import WeightDecay

__all__ = [
    "ASGO",
    "DASGO",
    "DNSAM",
    "FRUGAL",
    "MFAC",
    "OASIS",
    "PSGD",
    "PSGDLRA",
    "REG",
    "SAM",
    "SANIA",
    "SGDP",
    "SMB",
    "USAM",
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
    "Cautious",
    "CoordinateClip",
    "DiffGrad",
    "DropMuon",
    "ExactGaussNewton",
    "ExtrapolatedTrustRegion",
    "GradientNoise",
    "GradientRegularization",
    "HybridAuON",
    "InducedMetric",
    "InducedMetricLog",
    "InducedMetricRMS",
    "Lion",
    "LionK",
    "MARSAdamW",
    "MARSLion",
    "MARSShampoo",
    "Muon",
    "NonEuclideanTrustRegion",
    "NormClip",
    "OASISMomentum",
    "OptimisticAMSGrad",
    "PSGDXMat",
    "SANIANewton",
    "Shampoo",
    "Sophia",
    "TargetSurrogate",
    "ThermodynamicNaturalGradient",
    "WeightDecay",
    "cautious_adamw",
    "dnsam_sgd",
    "gradient_regularized_sgd",
    "sam_sgd",
    "sgd_with_coordinate_clip",
    "sgd_with_gradient_noise",
    "target_surrogate_sgd",
    "usam_sgd",
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
    cautious.CARD,
    coordinate_clip.CARD,
    diffgrad.CARD,
    drop_muon.CARD,
    exact_gauss_newton.CARD,
    frugal.CARD,
    gradient_noise.CARD,
    gradient_regularization.CARD,
    *induced_metric.CARDS,
    lion.CARD,
    lion_k.CARD,
    *mars.CARDS,
    mfac.CARD,
    muon.CARD,
    *oasis.CARDS,
    optimistic_amsgrad.CARD,
    psgd.CARD,
    psgd_lra.CARD,
    psgd_xmat.CARD,
    reg.CARD,
    *sania.CARDS,
    *sam.CARDS,
    shampoo.CARD,
    smb.CARD,
    sophia.CARD,
    target_surrogate.CARD,
    thermodynamic.CARD,
    *trust_region.CARDS,
    *torch_optimizers.CARDS,
)
