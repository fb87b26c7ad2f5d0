"""Losses of this room: those of the library, and any convex function of prediction and target."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.losses import Loss, loss_of

__all__ = ["CallableLoss", "as_loss"]

#: How wide the kinks of a loss that is not smooth are rounded off, in parts of the mean size of the targets.
_ROUNDED = 0.05


@dataclass(frozen=True)
class CallableLoss(Loss):
    r"""An elementwise convex loss given as a function ``loss(prediction, target)`` of tensors of one shape.

    It returns a tensor of that shape and is differentiated by PyTorch. The prox solves :math:`z + t \ell'(z) = p` by
    bisection. The conjugate is that of a differentiable function that is bounded below, found by bisection as well.

    Args:
        function: the loss; it must act on each element by itself.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        found = self.function(prediction, target)
        if not isinstance(found, Tensor) or found.shape != prediction.shape:
            what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"loss must be elementwise: for predictions {list(prediction.shape)} it must return a tensor of that "
                f"shape, got {what}"
            )
        return found

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.enable_grad():
            z = prediction.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.value(z, target).sum(), z)
        return slope.detach()

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        # z + t l'(z) increases by at least 1 per unit of z, so the root is within |t l'(p)| of p.
        slope = step * self.derivative(prediction, target)
        return self._root(lambda z: z + step * self.derivative(z, target) - prediction, prediction, -slope)

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        """A lower estimate where the supremum is not attained within 1e6 of zero."""
        far = torch.full_like(dual, 1e6)
        z = _bisect(lambda z: self.derivative(z, target) - dual, -far, far)
        return dual * z - self.value(z, target)

    @staticmethod
    def _root(function: Callable[[Tensor], Tensor], start: Tensor, towards: Tensor) -> Tensor:
        end = start + towards
        return _bisect(function, torch.minimum(start, end), torch.maximum(start, end))


def _bisect(increasing: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """A root of an increasing function in an interval, elementwise, to the last bits."""
    below, above = increasing(low), increasing(high)
    middle = 0.5 * (low + high)
    eps = torch.finfo(low.dtype).eps
    for k in range(120):
        # Secants (with the Illinois rule) are fast, and every third step halves, which is safe.
        secant = (low * above - high * below) / torch.where(above > below, above - below, 1.0)
        useful = (above > below) & (secant > low) & (secant < high)
        middle = torch.where(useful & (k % 3 != 2), secant, 0.5 * (low + high))
        value = increasing(middle)
        up = value > 0
        below = torch.where(up, torch.where(below == 0, below, 0.5 * below), value)
        above = torch.where(up, value, 0.5 * above)
        low, high = torch.where(up, low, middle), torch.where(up, middle, high)
        tight = (high - low) <= 4 * eps * (1 + middle.abs())
        if bool((tight | (value == 0)).all()):
            break
    return middle


def as_loss(loss: Loss | str | Callable[[Tensor, Tensor], Tensor], target: Tensor | None = None) -> Loss:
    """A loss by name, as an object, or from a function; with ``target``, a function is probed for convexity.

    Warns:
        UserWarning: the function was found not to be convex at some pair of points; nothing that the convex program
            promises then holds.
    """
    if isinstance(loss, (Loss, str)) or not callable(loss):
        return loss_of(loss)  # type: ignore[arg-type]
    made = CallableLoss(loss)
    if target is not None:
        _probe(made, target)
    return made


def _probe(loss: CallableLoss, target: Tensor) -> None:
    """Look for a violation of midpoint convexity on a grid of predictions, for up to 50 of the targets."""
    chosen = torch.unique(target.detach().double())
    chosen = chosen[torch.linspace(0, len(chosen) - 1, min(50, len(chosen)), device=chosen.device).round().long()]
    spread = float(max(10.0, 3 * chosen.abs().max()))
    grid = torch.linspace(-spread, spread, 241, dtype=torch.float64, device=chosen.device)
    z, y = (t.reshape(-1) for t in torch.meshgrid(grid, chosen, indexing="ij"))
    with torch.no_grad():
        values = loss.value(z, y).double().reshape(len(grid), -1)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"loss must be finite for all predictions, but it is not on [{-spread:g}, {spread:g}]")
    for width in (1, 5, 30):
        middle = values[width:-width]
        bend = values[2 * width :] + values[: -2 * width] - 2 * middle
        slack = 1e-9 * (1 + values.abs().max())
        if float(bend.min()) < -slack:
            where = float(grid[width:-width][int(bend.min(1).values.argmin())])
            warnings.warn(
                f"the loss {loss.function!r} is not convex (seen near the prediction {where:.3g}); the solution need "
                "not be a global optimum, and lower bounds do not hold",
                UserWarning,
                stacklevel=3,
            )
            return


def sum_of(loss: Loss, prediction: Tensor, target: Tensor) -> Tensor:
    """The loss summed over samples and outputs: the convention of this room."""
    return loss.value(prediction, target).sum()


def has_kinks(loss: Loss) -> bool:
    """Whether the loss is not smooth. A function is taken for smooth."""
    return not (math.isfinite(loss.curvature) or isinstance(loss, CallableLoss))


def smoothed(loss: Loss, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss (summed) and its slope; of a loss with kinks, those of its Moreau envelope, whose slope is a
    subgradient of the loss at a prediction nearby."""
    if not has_kinks(loss):
        return loss.value(prediction, target).sum(), loss.derivative(prediction, target)
    width = _ROUNDED * float(target.abs().mean().clamp_min(1e-12))
    near = loss.prox(prediction, width, target)
    slope = (prediction - near) / width
    return loss.value(near, target).sum() + 0.5 * width * slope.square().sum(), slope


def lower_bound(loss: Loss, target: Tensor) -> Tensor:
    """The infimum of the loss over predictions, for each target."""
    found = -loss.conjugate(torch.zeros_like(target), target)
    return torch.where(torch.isfinite(found), found, -math.inf)
