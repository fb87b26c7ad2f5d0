"""Proximal steps on models of a weakly convex function: closed forms, a dual method, and Gauss-Newton around it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.losses import Loss
from steepest.core.ranges import Integer, Real
from steepest.core.regularizer import Zero
from steepest.solve.convex.weakly_convex import CompositeSum

__all__ = ["Clipped", "Model", "ProxLinear", "ProxPoint", "Subgradient", "linear_step", "proximal_point"]


@dataclass(frozen=True)
class Model(ABC):
    """A model of ``f_B`` around a point, and its proximal step."""

    @abstractmethod
    def step(self, problem: CompositeSum, x: Tensor, indices: Tensor, step: float) -> Tensor:
        """The minimizer of ``model(z) + g(z) + |z - x|^2 / (2 step)``."""


@dataclass(frozen=True)
class Subgradient(Model):
    """``f_B(x) + <v, z - x>`` with a subgradient ``v``: the stochastic proximal subgradient method."""

    def step(self, problem: CompositeSum, x: Tensor, indices: Tensor, step: float) -> Tensor:
        return problem.prox(x - step * problem.sample_gradient(x, indices), step)


@dataclass(frozen=True)
class Clipped(Model):
    """``max{f_B(x) + <v, z - x>, least}``, for functions that are known not to be less than ``least``.

    Without ``g`` its step is a subgradient step of size ``min{step, (f_B(x) - least) / |v|^2}``, a Polyak step.

    Args:
        least: a lower bound of every ``f_i``; default 0.
    """

    least: float = 0.0

    def __post_init__(self) -> None:
        Real().check("Clipped: least", self.least)

    def step(self, problem: CompositeSum, x: Tensor, indices: Tensor, step: float) -> Tensor:
        value, gradient = problem.sample_value_and_gradient(x, indices)
        above = (value - self.least)[None]
        return linear_step(problem, x, above, gradient[None], _Positive(), torch.zeros_like(above), step)[0]


@dataclass(frozen=True)
class ProxLinear(Model):
    """``mean_B loss(c_i(x) + c_i'(x)(z - x), y_i)``: the stochastic prox-linear (Gauss-Newton) method."""

    def step(self, problem: CompositeSum, x: Tensor, indices: Tensor, step: float) -> Tensor:
        values, derivative = problem.linearize(x, indices)
        return linear_step(problem, x, values, derivative, problem.loss, problem.target[indices], step)[0]


@dataclass(frozen=True)
class ProxPoint(Model):
    """``f_B`` itself: the stochastic proximal point method.

    The problem's closed form where there is one (for one sample and no ``g``), else prox-linear steps repeated until
    they do not move: the minimizer for steps below ``1 / rho``, a stationary point for longer ones. Each repetition
    counts as a sample.

    Args:
        repeats: the most prox-linear steps, >= 1. Default 100.
        tolerance: ends them: the part of the decrease so far that the next may promise, > 0. Default 1e-8.
    """

    repeats: int = 100
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        Integer(low=1).check("ProxPoint: repeats", self.repeats)
        Real(low=0.0, low_open=True).check("ProxPoint: tolerance", self.tolerance)

    def step(self, problem: CompositeSum, x: Tensor, indices: Tensor, step: float) -> Tensor:
        if len(indices) == 1 and isinstance(problem.regularizer, Zero):
            found = problem.point_step(x, indices, step)
            if found is not None:
                return found
        return proximal_point(problem, x, indices, step, self.repeats, self.tolerance)


def linear_step(
    problem: CompositeSum,
    x: Tensor,
    values: Tensor,
    derivative: Tensor,
    loss: Loss,
    target: Tensor,
    step: float,
    tolerance: float = 1e-10,
    most: int = 2000,
    warm: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The minimizer of ``mean_i loss(c_i + <J_i, z - x>, y_i) + g(z) + |z - x|^2 / (2 step)``.

    For one sample and ``g = 0`` the dual has one number, and a prox of the loss gives it. Otherwise the dual, a smooth
    concave function less conjugates of the loss, is maximized by accelerated proximal ascent with restarts, until the
    duality gap is at most ``tolerance`` of the decrease.

    Args:
        problem: for ``g`` and its prox.
        x: the center.
        values: ``c_i``, ``(b,)``.
        derivative: ``J_i``, ``(b, *x.shape)``.
        loss: with ``target``, the convex losses.
        target: ``y_i``, ``(b,)``.
        step: the step size, > 0.
        tolerance: where to end, in float64; never below what the dtype can show.
        most: iterations of the dual method.
        warm: where the dual method begins; default the slopes at ``x``.

    Returns:
        The minimizer and its dual point.
    """
    rows = derivative.flatten(1)
    b, plain = len(values), isinstance(problem.regularizer, Zero)
    prox = problem.regularizer.prox if plain else problem.prox  # no calls are counted where there is nothing to do
    if b == 1 and plain:
        square = step * rows[0].dot(rows[0])
        moved = loss.prox(values, square, target)
        slope = torch.where(square > 0, (values - moved) / square, 0.0)
        return x - (step * slope) * derivative[0], slope
    scale = step / b * float(torch.linalg.matrix_norm(rows.double(), 2)) ** 2
    if scale == 0:
        return prox(x, step), loss.derivative(values, target)
    tau = 1 / scale
    tolerance = max(tolerance, 30 * torch.finfo(x.dtype).eps)
    shrink = 1 - 8 * torch.finfo(x.dtype).eps  # keeps rounding from leaving the domain of the conjugate

    def point(u: Tensor) -> tuple[Tensor, Tensor]:
        z = prox(x - (step / b) * (u @ rows).reshape(x.shape), step)
        return z, values + rows @ (z - x).reshape(-1)

    def primal(z: Tensor, s: Tensor) -> Tensor:
        far = (z - x).square().sum() / (2 * step)
        return loss.value(s, target).mean() + problem.regularizer.value(z) + far

    before = primal(x, values)
    floor = _rounding(values, target)
    u = loss.derivative(values, target) if warm is None else warm
    ahead, momentum = u, 1.0
    for k in range(most):
        _, s = point(ahead)
        v = ahead + tau * s
        following = v - tau * loss.prox(v / tau, 1 / tau, target)
        if float(torch.dot(ahead - following, following - u)) > 0:
            momentum = 1.0  # the momentum points the wrong way
        later = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        ahead, u, momentum = following + (momentum - 1) / later * (following - u), following, later
        if k % 10 == 9:
            w = u * shrink
            z, s = point(w)
            far = (z - x).square().sum() / (2 * step)
            dual = (w * s - loss.conjugate(w, target)).mean() + problem.regularizer.value(z) + far
            if primal(z, s) - dual <= torch.maximum(tolerance * (before - dual), floor):
                break
    return point(u)[0], u


def proximal_point(
    problem: CompositeSum, x: Tensor, indices: Tensor, step: float, repeats: int = 100, tolerance: float = 1e-8
) -> Tensor:
    """The minimizer of ``f_B(z) + g(z) + |z - x|^2 / (2 step)``, by damped prox-linear steps.

    A step is taken where it keeps a tenth of the decrease that its model promises; otherwise it is damped more.
    """
    target = problem.target[indices]
    tolerance = max(tolerance, 30 * torch.finfo(x.dtype).eps)

    def objective(z: Tensor) -> Tensor:
        far = (z - x).square().sum() / (2 * step)
        return problem.sample_values(z, indices).mean() + problem.regularizer.value(z) + far

    z, value, damping = x, objective(x), 0.0
    begun = value
    values, derivative = problem.linearize(z, indices)
    dual, floor = None, _rounding(values, target)
    for _ in range(repeats):
        # |w - x|^2 / (2 step) + damping |w - z|^2 / 2 is one square around a point between them.
        short = 1 / (1 / step + damping)
        center = short * (x / step + damping * z)
        shifted = values + derivative.flatten(1) @ (center - z).reshape(-1)
        w, dual = linear_step(problem, center, shifted, derivative, problem.loss, target, short, tolerance, warm=dual)
        model = problem.loss.value(values + derivative.flatten(1) @ (w - z).reshape(-1), target).mean()
        model = model + problem.regularizer.value(w) + (w - x).square().sum() / (2 * step)
        promised, found = value - model, objective(w)
        if promised <= torch.maximum(tolerance * (begun - value), 2 * floor) or damping * step > 1e10:
            return w if found <= value else z
        if value - found >= 0.1 * promised:
            z, value, damping = w, found, damping / 4 if damping > 1e-3 / step else 0.0
            values, derivative = problem.linearize(z, indices)
        else:
            damping = max(4 * damping, 0.5 / step)
    return z


def _rounding(values: Tensor, target: Tensor) -> Tensor:
    """What rounding leaves of differences of the objective, roughly: no tolerance below it can be met."""
    return 4 * torch.finfo(values.dtype).eps * (values.abs() + target.abs()).mean()


@dataclass(frozen=True)
class _Positive(Loss):
    """``max(z, 0)``, whatever the target."""

    def value(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.clamp_min(0)

    def derivative(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction > 0).to(prediction.dtype)

    def conjugate(self, dual: Tensor, target: Tensor) -> Tensor:
        return torch.where((dual >= 0) & (dual <= 1), dual.new_zeros(()), float("inf"))

    def prox(self, prediction: Tensor, step: float | Tensor, target: Tensor) -> Tensor:
        return torch.where(prediction > 0, (prediction - step).clamp_min(0), prediction)
