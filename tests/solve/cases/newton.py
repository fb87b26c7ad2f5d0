"""Newton's method on Rosenbrock's function (least value 0) and on a logistic regression without any choice."""

import math

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import LinearModel, Newton


def rosenbrock(dtype: torch.dtype) -> SmoothProblem:
    """Its minimum is 0 at (1, 1); the point is a dict of two tensors."""
    return SmoothProblem(lambda x: (1 - x["a"]).square().sum() + 100 * (x["b"] - x["a"].square()).square().sum())


def counts(dtype: torch.dtype) -> object:
    """Three of four labels are positive and the only feature is 1: the minimizer is log 3, whatever the method."""
    design, target = torch.ones(4, 1, dtype=dtype), torch.tensor([1, 1, 1, -1], dtype=dtype)
    return LinearModel(design, target, "logistic").as_smooth()


CASES = (
    Case(
        name="newton",
        solver=Newton(),
        problem=rosenbrock,
        start=lambda dtype: {"a": torch.full((1,), -1.2, dtype=dtype), "b": torch.ones(1, dtype=dtype)},
        optimum=0.0,
        accuracy=1e-12,
        steps=40,
    ),
    Case(
        name="newton/logistic",
        solver=Newton(),
        problem=counts,
        start=lambda dtype: torch.zeros(1, dtype=dtype),
        optimum=-0.75 * math.log(0.75) - 0.25 * math.log(0.25),
        accuracy=1e-14,
        steps=20,
    ),
)
