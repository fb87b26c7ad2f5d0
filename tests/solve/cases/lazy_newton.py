"""Lazy Newton on a double well (least value -1/4 by hand), and on a logistic regression with a known minimizer."""

import math

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import LazyNewton, LinearModel


def well(dtype: torch.dtype) -> SmoothProblem:
    """``sum of x^4/4 - x^2/2 over the first + |second - 1|^2 / 2``: -1/4 at 1 or -1, and 0 at the saddle."""
    return SmoothProblem(lambda x: (x[0] ** 4 / 4 - x[0] ** 2 / 2).sum() + 0.5 * (x[1] - 1).square().sum())


def counts(dtype: torch.dtype) -> object:
    """Three of four labels are positive and the only feature is 1: the minimizer is log 3, whatever the method."""
    design, target = torch.ones(4, 1, dtype=dtype), torch.tensor([1, 1, 1, -1], dtype=dtype)
    return LinearModel(design, target, "logistic").as_smooth()


CASES = (
    Case(
        name="lazy-hessian",
        solver=LazyNewton(),
        problem=well,
        start=lambda dtype: (torch.full((1,), 0.1, dtype=dtype), torch.zeros(2, dtype=dtype)),
        optimum=-0.25,
        accuracy=1e-10,
        steps=40,
    ),
    Case(
        name="lazy-hessian/quadratic",
        solver=LazyNewton(regularization="quadratic", every=3),
        problem=counts,
        start=lambda dtype: torch.zeros(1, dtype=dtype),
        optimum=-0.75 * math.log(0.75) - 0.25 * math.log(0.25),
        accuracy=1e-12,
        steps=40,
    ),
)
