"""Globally optimal training of two-layer ReLU networks by convex optimization.

- :mod:`~steepest.train.convexnet.patterns`: activation patterns, sampled or all, and how many suffice.
- :mod:`~steepest.train.convexnet.network`: the networks, and how a solution of the convex program becomes one.
- :class:`ConvexProgram`: the program, over given patterns, with its operators; with or without cones.
- :class:`ADMM`: for all losses and sizes; the method to start with.
- :class:`ADMMRBCD`: the same splitting by steps on random blocks, without a factorization.
- :func:`grow_patterns`: patterns that are looked for, by column generation; :func:`find_neurons`.
- :class:`SCP`: random hidden neurons and a lasso; :func:`sample_features`, :func:`sampled_program`.
- :class:`InteriorPoint`: CVXPY and Clarabel, the reference for small problems.
- :func:`certify`: how far any given network is above the global optimum.
- :func:`lower_bound`: what proves how far any of them is from the optimum.
- :func:`train_convex_relu`, :func:`convex_relu_path`: from tensors to a network in one call.
- :class:`ConvexReLUClassifier`, :class:`ConvexReLURegressor`: with the interface of scikit-learn, which they need.
- :func:`train_robust_convex_relu`: training that is robust to perturbed inputs, with the exact worst case.
- :class:`RobustProgram`, :func:`robust_patterns`: its program and patterns.
- :mod:`~steepest.train.convexnet.verify`: proofs of the worst case of any two-layer ReLU network.
- :mod:`~steepest.train.convexnet.attacks`: attacks on any model, and training against them.

The loss is summed over samples everywhere in this room; see :mod:`~steepest.train.convexnet.network`.
"""

import importlib
from typing import Any

from steepest.train.convexnet import admm, admm_rbcd, interior_point, robust, scp, train
from steepest.train.convexnet.admm import ADMM
from steepest.train.convexnet.admm_rbcd import ADMMRBCD
from steepest.train.convexnet.attacks import adversarial_training, fgsm, pgd
from steepest.train.convexnet.certificate import LowerBound, lower_bound
from steepest.train.convexnet.certify import Certificate, certify
from steepest.train.convexnet.grow import Grown, Neurons, find_neurons, grow_patterns
from steepest.train.convexnet.interior_point import InteriorPoint
from steepest.train.convexnet.losses import CallableLoss
from steepest.train.convexnet.network import (
    TwoLayerGatedReLU,
    TwoLayerReLU,
    nonconvex_objective,
    recover,
    recover_gated,
    with_bias,
)
from steepest.train.convexnet.patterns import (
    Patterns,
    activation_patterns,
    count_in_general_position,
    enumerate_patterns,
    merge_patterns,
    pattern_count_bound,
    patterns_needed,
    sample_patterns,
    sampling_confidence,
    sampling_quality,
)
from steepest.train.convexnet.program import ConvexProgram
from steepest.train.convexnet.robust import RobustFit, train_robust_convex_relu
from steepest.train.convexnet.robust_program import RobustProgram, robust_patterns
from steepest.train.convexnet.scp import SCP, sample_features, sampled_network, sampled_program
from steepest.train.convexnet.train import Trained, convex_relu_path, train_convex_relu
from steepest.train.convexnet.verify import (
    OutputRange,
    RobustCertificate,
    WorstCase,
    certified_accuracy,
    certified_radius,
    output_range,
    worst_case_loss,
)

__all__ = [
    "ADMM",
    "ADMMRBCD",
    "SCP",
    "CallableLoss",
    "Certificate",
    "ConvexProgram",
    "ConvexReLUClassifier",
    "ConvexReLURegressor",
    "Grown",
    "InteriorPoint",
    "LowerBound",
    "Neurons",
    "OutputRange",
    "Patterns",
    "RobustCertificate",
    "RobustFit",
    "RobustProgram",
    "Trained",
    "TwoLayerGatedReLU",
    "TwoLayerReLU",
    "WorstCase",
    "activation_patterns",
    "adversarial_training",
    "certified_accuracy",
    "certified_radius",
    "certify",
    "convex_relu_path",
    "count_in_general_position",
    "enumerate_patterns",
    "fgsm",
    "find_neurons",
    "grow_patterns",
    "lower_bound",
    "merge_patterns",
    "nonconvex_objective",
    "output_range",
    "pattern_count_bound",
    "patterns_needed",
    "pgd",
    "recover",
    "recover_gated",
    "robust_patterns",
    "sample_features",
    "sample_patterns",
    "sampled_network",
    "sampled_program",
    "sampling_confidence",
    "sampling_quality",
    "train_convex_relu",
    "train_robust_convex_relu",
    "with_bias",
    "worst_case_loss",
]

CARDS = (admm.CARD, admm_rbcd.CARD, interior_point.CARD, robust.CARD, scp.CARD, *train.CARDS)


def __getattr__(name: str) -> Any:
    if name not in ("ConvexReLUClassifier", "ConvexReLURegressor"):
        raise AttributeError(f"module 'steepest.train.convexnet' has no attribute {name!r}")
    try:
        estimators = importlib.import_module("steepest.train.convexnet.estimators")
    except ImportError as error:
        raise ImportError(f"{name} needs scikit-learn: pip install scikit-learn") from error
    return getattr(estimators, name)
