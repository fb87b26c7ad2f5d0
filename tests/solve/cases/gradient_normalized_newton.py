"""Gradient-normalized Newton on Rosenbrock's function as a sum of squares, exactly and with Gauss-Newton; on counts."""

import math
from typing import Any

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import GradientNormalizedNewton, LinearModel
from steepest.solve.convex.curvatures import DiagonalHessian, Fisher, GaussNewton


def residuals(x: Any) -> torch.Tensor:
    """Whose squares make Rosenbrock's function."""
    return torch.cat([1 - x["a"], 10 * (x["b"] - x["a"].square())])


def problem(dtype: torch.dtype) -> SmoothProblem:
    """Its minimum is 0 at (1, 1)."""
    return SmoothProblem(lambda x: residuals(x).square().sum())


def start(dtype: torch.dtype) -> Any:
    """The usual one."""
    return {"a": torch.full((1,), -1.2, dtype=dtype), "b": torch.ones(1, dtype=dtype)}


def fourth(dtype: torch.dtype) -> SmoothProblem:
    """A fourth power of a norm, least value 0."""
    return SmoothProblem(lambda x: (x - 1).square().sum().square() / 4)


def counts(dtype: torch.dtype) -> object:
    """Three of four labels are positive and the only feature is 1: the minimizer is log 3, whatever the method."""
    design, target = torch.ones(4, 1, dtype=dtype), torch.tensor([1, 1, 1, -1], dtype=dtype)
    return LinearModel(design, target, "logistic").as_smooth()


CASES = (
    Case("grad-normalized-newton", GradientNormalizedNewton(), problem, start, 0.0, 1e-12, 60),
    Case(
        "grad-normalized-newton/gauss-newton",
        GradientNormalizedNewton(GaussNewton(residuals, lambda u: 2 * torch.ones_like(u))),
        problem,
        start,
        0.0,
        1e-12,
        60,
    ),
    Case(
        "grad-normalized-newton/diagonal",
        GradientNormalizedNewton(DiagonalHessian()),
        counts,
        lambda dtype: torch.zeros(1, dtype=dtype),
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25),
        1e-12,
        30,
    ),
    Case(
        "grad-normalized-newton/fisher",
        GradientNormalizedNewton(Fisher(4.0)),
        fourth,
        lambda dtype: torch.tensor([3.0, -2.0, 0.0], dtype=dtype),
        0.0,
        1e-12,
        60,
    ),
)
