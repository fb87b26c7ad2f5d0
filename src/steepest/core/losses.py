"""Losses of a prediction against a target, sample by sample, with what solvers ask of them.

Each is a convex function of the prediction. Where a method needs more than its value (a derivative, a bound on the
curvature, a conjugate for a duality gap, a prox), it asks the loss, so that one definition serves all of them.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["LOSSES", "Absolute", "Hinge", "Huber", "Logistic", "Loss", "Squared", "SquaredHinge", "loss_of"]


@dataclass(frozen=True)
class Loss(ABC):
    r"""A convex loss :math:`\ell(z, y)` of predictions ``z`` and targets ``y`` of one shape; all is elementwise.

    Class attributes:
        curvature: the supremum of the second derivative; infinite where the loss is not smooth.
        margin: whether targets are the signs -1 and 1, and the loss is a function of ``y z``.
    """

    curvature: ClassVar[float] = math.inf
    margin: ClassVar[bool] = False

    @abstractmethod
    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        r""":math:`\ell(z, y)`."""

    @abstractmethod
    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        r""":math:`\partial \ell / \partial z`; a subgradient where the loss has a kink."""

    def second_derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        r""":math:`\partial^2 \ell / \partial z^2`, almost everywhere.

        Raises:
            NotImplementedError: the loss is not smooth.
        """
        raise NotImplementedError(f"{type(self).__name__} is not a smooth loss")

    @abstractmethod
    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        r""":math:`\ell^*(u, y) = \sup_z u z - \ell(z, y)`; infinite outside its domain."""

    @abstractmethod
    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        r""":math:`\arg\min_z \ell(z, y) + (z - p)^2 / (2 t)`, with ``p`` the given prediction and ``t`` the step."""

    def check_target(self, target: Tensor) -> None:
        """Raise ``ValueError`` where a margin loss is given targets other than -1 and 1."""
        if self.margin and not bool(((target == 1) | (target == -1)).all()):
            found = torch.unique(target)[:5].tolist()
            raise ValueError(f"target of the loss {type(self).__name__} must be -1 or 1, got values such as {found}")


@dataclass(frozen=True)
class Squared(Loss):
    r""":math:`\tfrac12 (z - y)^2`."""

    curvature = 1.0

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (prediction - target).square()

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction - target

    def second_derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.ones_like(prediction)

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        return dual * target + 0.5 * dual.square()

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        return (prediction + step * target) / (1 + step)


@dataclass(frozen=True)
class Absolute(Loss):
    r""":math:`|z - y|`."""

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs()

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.sign(prediction - target)

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        return torch.where(dual.abs() <= 1, dual * target, math.inf)

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        residual = prediction - target
        return target + torch.sign(residual) * (residual.abs() - step).clamp_min(0)


@dataclass(frozen=True)
class Huber(Loss):
    r""":math:`\tfrac12 r^2` where :math:`|r| \le \delta`, else :math:`\delta |r| - \tfrac12 \delta^2`; ``r = z - y``.

    Args:
        delta: where the loss turns linear, > 0, in units of the target. Default 1.
    """

    delta: float = 1.0
    curvature = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise ValueError(f"delta must be a positive finite number, got {self.delta!r}")

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        residual = (prediction - target).abs()
        inner = residual.clamp_max(self.delta)
        return inner * (residual - 0.5 * inner)

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).clamp(-self.delta, self.delta)

    def second_derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target).abs() <= self.delta).to(prediction.dtype)

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        return torch.where(dual.abs() <= self.delta, dual * target + 0.5 * dual.square(), math.inf)

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        residual = prediction - target
        return prediction - step * (residual / (1 + step)).clamp(-self.delta, self.delta)


@dataclass(frozen=True)
class Logistic(Loss):
    r""":math:`\log(1 + e^{-y z})` for targets ``y`` of -1 and 1."""

    curvature = 0.25
    margin = True

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-target * prediction)

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return -target * torch.sigmoid(-target * prediction)

    def second_derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        s = torch.sigmoid(prediction)
        return s * (1 - s)

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        s = -target * dual
        entropy = torch.xlogy(s, s) + torch.xlogy(1 - s, 1 - s)
        return torch.where((s >= 0) & (s <= 1), entropy, math.inf)

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        # In the margin m = y z: m = p + t sigmoid(-m), whose solution lies in [p, p + t]. Newton's method alone may
        # cycle, so a step that leaves the bracket, or is not half as long as the one before the last, is replaced by
        # a bisection.
        p = target * prediction
        low, high = p, p + step
        m = p + 0.5 * step
        before = last = (high - low).abs()
        tolerance = 4 * torch.finfo(m.dtype).eps
        for _ in range(200):
            s = torch.sigmoid(-m)
            residual = m - p - step * s
            low, high = torch.where(residual < 0, m, low), torch.where(residual > 0, m, high)
            change = residual / (1 + step * s * (1 - s))
            newton = m - change
            good = (newton >= low) & (newton <= high) & (2 * change.abs() <= before)
            following = torch.where(good, newton, 0.5 * (low + high))
            # Close to the solution a residual is rounding, of what is subtracted.
            noise = tolerance * (m.abs() + p.abs() + step * s) / (1 + step * s * (1 - s))
            done = ~(change.abs() > noise)  # NaN too: it would never end
            following = torch.where(done, m, following)
            before, last = last, (following - m).abs()
            m = following
            if bool(done.all()):
                break
        return target * m


@dataclass(frozen=True)
class Hinge(Loss):
    r""":math:`\max(0, 1 - y z)` for targets ``y`` of -1 and 1."""

    margin = True

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (1 - target * prediction).clamp_min(0)

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.where(target * prediction < 1, -target, torch.zeros_like(target))

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        s = target * dual
        return torch.where((s >= -1) & (s <= 0), s, math.inf)

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        m = target * prediction
        return target * torch.maximum(m, torch.minimum(m + step, torch.ones_like(m)))


@dataclass(frozen=True)
class SquaredHinge(Loss):
    r""":math:`\tfrac12 \max(0, 1 - y z)^2` for targets ``y`` of -1 and 1."""

    curvature = 1.0
    margin = True

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (1 - target * prediction).clamp_min(0).square()

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return -target * (1 - target * prediction).clamp_min(0)

    def second_derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (target * prediction < 1).to(prediction.dtype)

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        s = target * dual
        return torch.where(s <= 0, s + 0.5 * s.square(), math.inf)

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        m = target * prediction
        return target * torch.where(m < 1, (m + step) / (1 + step), m)


LOSSES: dict[str, type[Loss]] = {
    "squared": Squared,
    "absolute": Absolute,
    "huber": Huber,
    "logistic": Logistic,
    "hinge": Hinge,
    "squared-hinge": SquaredHinge,
}


def loss_of(loss: Loss | str) -> Loss:
    """A loss by its name, or the loss itself.

    Raises:
        ValueError, TypeError: there is no such loss; the message lists the names.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss must be a Loss or one of {sorted(LOSSES)}, got {loss!r} of type {type(loss).__name__}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be a Loss or one of {sorted(LOSSES)}, got {loss!r}")
    return LOSSES[loss]()
