"""Training without backpropagation through the whole network: local losses, forward gradients, stage by stage.

- :class:`ForwardGradient`: directional derivatives along random or learned guesses, for any model and optimizer.
- :class:`LocalLosses`: a loss for every block through an auxiliary head; by itself, or as such a guess.
- :class:`TargetProjection`: every layer towards a random projection of the labels; :class:`RecurrentBlock`.
- :func:`boost`: a hidden layer a few neurons at a time; :class:`GradientBoostedNetworkClassifier`,
  :class:`GradientBoostedNetworkRegressor`: the same with the interface of scikit-learn, which they need.
"""

import importlib
from typing import Any

from steepest.train.local import forward_gradient, gradient_boosted_network, target_projection
from steepest.train.local.blocks import blocks_of
from steepest.train.local.forward_gradient import ForwardGradient, LocalLosses
from steepest.train.local.gradient_boosted_network import BinaryLoss, Boosted, SoftmaxLoss, SquaredLoss, boost
from steepest.train.local.target_projection import RecurrentBlock, TargetProjection

__all__ = [
    "BinaryLoss",
    "Boosted",
    "ForwardGradient",
    "GradientBoostedNetworkClassifier",
    "GradientBoostedNetworkRegressor",
    "LocalLosses",
    "RecurrentBlock",
    "SoftmaxLoss",
    "SquaredLoss",
    "TargetProjection",
    "blocks_of",
    "boost",
]

CARDS = (forward_gradient.CARD, gradient_boosted_network.CARD, target_projection.CARD)


def __getattr__(name: str) -> Any:
    if name not in ("GradientBoostedNetworkClassifier", "GradientBoostedNetworkRegressor"):
        raise AttributeError(f"module 'steepest.train.local' has no attribute {name!r}")
    try:
        estimators = importlib.import_module("steepest.train.local.estimators")
    except ImportError as error:
        raise ImportError(f"{name} needs scikit-learn: pip install scikit-learn") from error
    return getattr(estimators, name)
