r"""Derivatives of a linear classifier on given features, in closed form.

For logits :math:`z = W h + b` and the cross-entropy of their softmax :math:`p`, a sample's gradient is
:math:`(p - y)\,[h, 1]^\top` and its Hessian
:math:`(\mathrm{diag}(p) - p p^\top) \otimes [h, 1] [h, 1]^\top`: no second differentiation is needed, and what follows
remains differentiable in the features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["check_linear", "design", "residuals"]


def residuals(logits: Tensor, targets: Tensor) -> Tensor:
    """The gradient ``(n, c)`` of each sample's cross-entropy in its logits: probabilities less the one-hot target."""
    return logits.softmax(1) - functional.one_hot(targets, logits.shape[1]).to(logits)


def design(features: Tensor, head: nn.Linear) -> Tensor:
    """The features ``(n, d)``, with a column of ones where the head has a bias."""
    if head.bias is None:
        return features
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


def check_linear(owner: str, head: nn.Module) -> None:
    """Refuse a head that is not a linear layer."""
    if not isinstance(head, nn.Linear):
        raise TypeError(f"{owner}: head must be a torch.nn.Linear, got {type(head).__name__}")
