"""Problems with known answers for the tests of the first-order methods."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.regularizer import L1, Regularizer
from steepest.core.stopping import Stalled
from steepest.solve.convex import CompositeProblem, LinearModel, ProximalGradient

__all__ = ["Box", "Simplex", "cvxpy_minimum", "lasso", "lasso_minimum", "quadratic", "spectrum", "states"]


@dataclass(frozen=True)
class Box(Regularizer):
    """The indicator of ``[low, high]^d``."""

    low: float
    high: float

    def value(self, x: Tensor) -> Tensor:
        slack = 64 * torch.finfo(x.dtype).eps  # convex combinations of vertices are rounded
        return x.new_zeros(()).where(((x >= self.low - slack) & (x <= self.high + slack)).all(), float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def conjugate(self, y: Tensor) -> Tensor:
        return torch.maximum(self.low * y, self.high * y).sum()

    def dual_scale(self, y: Tensor) -> Tensor:
        return y.new_ones(())

    def lmo(self, direction: Tensor) -> Tensor:
        return torch.where(direction > 0, torch.full_like(direction, self.low), torch.full_like(direction, self.high))


@dataclass(frozen=True)
class Simplex(Regularizer):
    """The indicator of the probability simplex."""

    def value(self, x: Tensor) -> Tensor:
        slack = 64 * torch.finfo(x.dtype).eps
        return x.new_zeros(()).where((x >= -slack).all() & ((x.sum() - 1).abs() <= slack * len(x)), float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        ordered = x.sort(descending=True).values
        level = (ordered.cumsum(0) - 1) / torch.arange(1, len(x) + 1, dtype=x.dtype)
        return (x - level[int((ordered > level).sum()) - 1]).clamp_min(0)

    def lmo(self, direction: Tensor) -> Tensor:
        vertex = torch.zeros_like(direction)
        vertex[direction.argmin()] = 1
        return vertex


def spectrum(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues and a random basis."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    return basis @ torch.diag(values.double()) @ basis.T


def quadratic(
    values: Tensor, regularizer: Regularizer | None = None, seed: int = 0, strong_convexity: float = 0.0
) -> tuple[CompositeProblem, Tensor, Tensor]:
    """``(x - c)' H (x - c) / 2 + g(x)`` with the eigenvalues of ``H`` given; also ``H`` and ``c``."""
    matrix = spectrum(values, seed)
    center = torch.randn(len(values), dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    problem = CompositeProblem(
        lambda x: 0.5 * (x - center) @ matrix @ (x - center),
        regularizer,
        lipschitz=float(values.max()),
        strong_convexity=strong_convexity,
    )
    return problem, matrix, center


def lasso(
    samples: int = 60, features: int = 100, part: float = 0.1, seed: int = 0, loss: str = "squared"
) -> LinearModel:
    """A sparse linear (or logistic) model with a penalty of a ``part`` of the one that gives zero."""
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(samples, features, dtype=torch.float64, generator=generator)
    weight = torch.zeros(features, dtype=torch.float64)
    weight[:5] = torch.tensor([1.0, -2.0, 3.0, -1.0, 2.0], dtype=torch.float64)
    target = design @ weight + 0.5 * torch.randn(samples, dtype=torch.float64, generator=generator)
    if loss != "squared":
        target = torch.sign(target)
    plain = LinearModel(design, target, loss)
    largest = float(plain.smooth_gradient(torch.zeros_like(weight)).abs().max())
    return LinearModel(design, target, loss, L1(part * largest))


def cvxpy_minimum(problem: LinearModel) -> float:
    """The least value by CVXPY and Clarabel."""
    import cvxpy

    design, target = problem.design.numpy(), problem.target.numpy()
    x = cvxpy.Variable(design.shape[1])
    if type(problem.loss).__name__ == "Squared":
        objective = 0.5 * problem.scale * cvxpy.sum_squares(design @ x - target)
    else:
        objective = problem.scale * cvxpy.sum(cvxpy.logistic(-cvxpy.multiply(target, design @ x)))
    constraints = []
    regularizer = problem.regularizer
    if isinstance(regularizer, L1):
        objective = objective + regularizer.weight * cvxpy.norm1(x)
    elif isinstance(regularizer, Box):
        constraints = [x >= regularizer.low, x <= regularizer.high]
    elif isinstance(regularizer, Simplex):
        constraints = [x >= 0, cvxpy.sum(x) == 1]
    task = cvxpy.Problem(cvxpy.Minimize(objective), constraints)
    precise = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    task.solve(solver="CLARABEL", **precise)
    return float(task.value)


@functools.cache
def lasso_minimum(loss: str) -> tuple[float, Tensor]:
    """The least value of :func:`lasso` by Clarabel, and a minimizer by long proximal gradient descent.

    The distance to the minimizer enters bounds as a factor, where its small error does not matter.
    """
    problem = lasso(loss=loss)
    found = states(ProximalGradient(grow=1.3), problem, torch.zeros(100, dtype=torch.float64), 800)[-1]
    least = cvxpy_minimum(problem)
    assert found.value - least < 1e-9
    return least, found.point


def states(solver: Any, problem: Any, start: Any, steps: int) -> list[Any]:
    """The states of a run, the one at the start first, until it stalls."""
    with torch.no_grad(), contextlib.suppress(Stalled):
        found = [solver.init(problem, start, torch.Generator())]
        for _ in range(steps):
            found.append(solver.step(problem, found[-1]))
    return found
