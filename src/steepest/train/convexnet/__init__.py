"""Globally optimal training of two-layer ReLU networks by convex optimization.

- :mod:`~steepest.train.convexnet.patterns`: activation patterns, sampled or all, and how many suffice.
- :mod:`~steepest.train.convexnet.network`: the networks, and how a solution of the convex program becomes one.
"""

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

__all__ = [
    "Patterns",
    "TwoLayerGatedReLU",
    "TwoLayerReLU",
    "activation_patterns",
    "count_in_general_position",
    "enumerate_patterns",
    "merge_patterns",
    "nonconvex_objective",
    "pattern_count_bound",
    "patterns_needed",
    "recover",
    "recover_gated",
    "sample_patterns",
    "sampling_confidence",
    "sampling_quality",
    "with_bias",
]

CARDS = ()
