r"""Losses as functions of a model's outputs, with the curvature in them that Gauss-Newton methods need.

A loss is a mean over the samples of a batch. For a sample with outputs :math:`z \in \mathbb R^c` there are its residual
:math:`r = -\nabla_z \ell`, its Hessian :math:`Q = \nabla_z^2 \ell` and a root :math:`S` with :math:`S S^\top = Q`.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import hessian, vmap
from torch.nn import functional

__all__ = ["CustomLoss", "LossName", "OutputLoss", "output_loss"]

LossName = Literal["squared", "cross-entropy", "binary"]


class OutputLoss:
    """What of a loss is asked; outputs are ``(b, c)``, flattened per sample."""

    def value(self, outputs: Tensor, targets: Any) -> Tensor:
        """The mean over the samples."""
        raise NotImplementedError

    def residual(self, outputs: Tensor, targets: Any) -> Tensor:
        """Minus the derivative of every sample's loss, ``(b, c)``."""
        raise NotImplementedError

    def curvature(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """The Hessian of every sample's loss, ``(b, c, c)``; None for the identity."""
        raise NotImplementedError

    def root(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """``S`` with ``S S^T`` the curvature, ``(b, c, c)``; None for the identity."""
        raise NotImplementedError


class _Squared(OutputLoss):
    r""":math:`\frac12 \|z - y\|^2`, the sum over the outputs."""

    def value(self, outputs: Tensor, targets: Any) -> Tensor:
        return 0.5 * self.residual(outputs, targets).square().sum(1).mean()

    def residual(self, outputs: Tensor, targets: Any) -> Tensor:
        if targets.numel() != outputs.numel():
            raise ValueError(
                f"targets of the squared loss must have {outputs.shape[1]} numbers per sample, as the outputs do, "
                f"got the shape {tuple(targets.shape)}"
            )
        found: Tensor = targets.reshape(outputs.shape).to(outputs.dtype) - outputs
        return found

    def curvature(self, outputs: Tensor, targets: Any) -> Tensor | None:
        return None

    def root(self, outputs: Tensor, targets: Any) -> Tensor | None:
        return None


class _CrossEntropy(OutputLoss):
    r""":math:`-\log \operatorname{softmax}(z)_y`, with classes as integers.

    With the probabilities p, :math:`Q = \operatorname{diag} p - p p^\top` and
    :math:`S = \operatorname{diag} \sqrt p - p \sqrt p^\top`.
    """

    def value(self, outputs: Tensor, targets: Any) -> Tensor:
        self._check(outputs, targets)
        return functional.cross_entropy(outputs, targets)

    def residual(self, outputs: Tensor, targets: Any) -> Tensor:
        self._check(outputs, targets)
        return functional.one_hot(targets, outputs.shape[1]).to(outputs) - outputs.softmax(1)

    def curvature(self, outputs: Tensor, targets: Any) -> Tensor:
        p = outputs.softmax(1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def root(self, outputs: Tensor, targets: Any) -> Tensor:
        p = outputs.softmax(1)
        half = p.sqrt()
        return torch.diag_embed(half) - p[:, :, None] * half[:, None, :]

    @staticmethod
    def _check(outputs: Tensor, targets: Any) -> None:
        if targets.dtype != torch.int64 or targets.shape != outputs.shape[:1]:
            raise ValueError(
                "targets of the cross-entropy must be one class per sample (int64), got "
                f"{targets.dtype} of the shape {tuple(targets.shape)} for {len(outputs)} samples"
            )


class _Binary(OutputLoss):
    r""":math:`-y \log p - (1 - y) \log(1 - p)` with :math:`p = 1 / (1 + e^{-z})`, the sum over the outputs."""

    def value(self, outputs: Tensor, targets: Any) -> Tensor:
        y = self._targets(outputs, targets)
        return functional.binary_cross_entropy_with_logits(outputs, y, reduction="sum") / len(outputs)

    def residual(self, outputs: Tensor, targets: Any) -> Tensor:
        return self._targets(outputs, targets) - outputs.sigmoid()

    def curvature(self, outputs: Tensor, targets: Any) -> Tensor:
        return torch.diag_embed(outputs.sigmoid() * (-outputs).sigmoid())

    def root(self, outputs: Tensor, targets: Any) -> Tensor:
        return self.curvature(outputs, targets).sqrt()

    @staticmethod
    def _targets(outputs: Tensor, targets: Any) -> Tensor:
        if targets.numel() != outputs.numel():
            raise ValueError(
                f"targets of the binary cross-entropy must have {outputs.shape[1]} numbers per sample, as the outputs "
                f"do, got the shape {tuple(targets.shape)}"
            )
        found: Tensor = targets.reshape(outputs.shape).to(outputs.dtype)
        return found


class CustomLoss(OutputLoss):
    """Any loss ``(outputs, targets) -> mean over the samples`` that is convex in the outputs, by differentiating it.

    Args:
        function: the loss; it is called with batches of one, too.
        shape: of the outputs of one sample.
    """

    def __init__(self, function: Callable[[Any, Any], Tensor], shape: torch.Size) -> None:
        self.function, self.shape = function, shape

    def value(self, outputs: Tensor, targets: Any) -> Tensor:
        return self.function(outputs.reshape(-1, *self.shape), targets)

    def residual(self, outputs: Tensor, targets: Any) -> Tensor:
        slope: Tensor = torch.func.grad(lambda z: self.value(z, targets))(outputs)
        return -len(outputs) * slope

    def curvature(self, outputs: Tensor, targets: Any) -> Tensor:
        found: Tensor = vmap(hessian(lambda z, y: self.function(z.reshape(1, *self.shape), y[None])))(outputs, targets)
        return found

    def root(self, outputs: Tensor, targets: Any) -> Tensor:
        values, vectors = torch.linalg.eigh(self.curvature(outputs, targets))
        root: Tensor = vectors * values.clamp_min(0.0).sqrt()[:, None, :]
        return root


_NAMED: dict[str, type[OutputLoss]] = {"squared": _Squared, "cross-entropy": _CrossEntropy, "binary": _Binary}


def output_loss(name: str) -> OutputLoss:
    """The loss of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in _NAMED:
        allowed = ", ".join(map(repr, _NAMED))
        raise ValueError(f"loss must be one of {allowed}, or a function of outputs and targets, got {name!r}")
    return _NAMED[name]()
