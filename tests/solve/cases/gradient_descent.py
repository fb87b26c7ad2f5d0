"""Gradient descent on a quadratic with a known minimum, its point a dict of two tensors."""

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import GradientDescent


def problem(dtype: torch.dtype) -> SmoothProblem:
    """``(|w|^2 + 10 |b - 2|^2) / 2 + 3``: the least value is 3."""
    return SmoothProblem(lambda x: 0.5 * x["w"].square().sum() + 5 * (x["b"] - 2).square().sum() + 3)


CASES = (
    Case(
        name="gradient-descent",
        solver=GradientDescent(),
        problem=problem,
        start=lambda dtype: {"w": torch.ones(3, 2, dtype=dtype), "b": torch.ones(2, dtype=dtype)},
        optimum=3.0,
        accuracy=1e-9,
        steps=200,
    ),
)
