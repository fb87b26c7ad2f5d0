"""Globally optimal training of two-layer ReLU networks by convex optimization.

- :mod:`~steepest.train.convexnet.patterns`: activation patterns, sampled or all, and how many suffice.
- :mod:`~steepest.train.convexnet.network`: the networks, and how a solution of the convex program becomes one.
- :func:`train_robust_convex_relu`: training that is robust to perturbed inputs, with the exact worst case.
- :class:`RobustProgram`, :func:`robust_patterns`: its program and patterns.
- :mod:`~steepest.train.convexnet.verify`: proofs of the worst case of any two-layer ReLU network.
- :mod:`~steepest.train.convexnet.attacks`: attacks on any model, and training against them.
"""

from steepest.train.convexnet import robust
from steepest.train.convexnet.attacks import adversarial_training, fgsm, pgd
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
from steepest.train.convexnet.robust import RobustFit, train_robust_convex_relu
from steepest.train.convexnet.robust_program import RobustProgram, robust_patterns
from steepest.train.convexnet.verify import (
    RobustCertificate,
    OutputRange,
    WorstCase,
    certified_accuracy,
    certified_radius,
    output_range,
    worst_case_loss,
)

__all__ = [
    "RobustCertificate",
    "OutputRange",
    "Patterns",
    "RobustFit",
    "RobustProgram",
    "TwoLayerGatedReLU",
    "TwoLayerReLU",
    "WorstCase",
    "activation_patterns",
    "adversarial_training",
    "certified_accuracy",
    "certified_radius",
    "count_in_general_position",
    "enumerate_patterns",
    "fgsm",
    "merge_patterns",
    "nonconvex_objective",
    "output_range",
    "pattern_count_bound",
    "patterns_needed",
    "pgd",
    "recover",
    "recover_gated",
    "robust_patterns",
    "sample_patterns",
    "sampling_confidence",
    "sampling_quality",
    "train_robust_convex_relu",
    "with_bias",
    "worst_case_loss",
]

CARDS = (robust.CARD,)
