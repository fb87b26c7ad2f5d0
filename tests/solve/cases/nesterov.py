"""Nesterov's method on a quadratic with a known minimum, its point a dict of two tensors."""

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import Nesterov


def problem(dtype: torch.dtype) -> SmoothProblem:
    """``sum_i i w_i^2 / 2 + 10 |b - 2|^2 / 2 + 3``: the least value is 3."""
    scale = torch.arange(1.0, 7.0, dtype=dtype).reshape(3, 2)
    return SmoothProblem(lambda x: 0.5 * (scale * x["w"].square()).sum() + 5 * (x["b"] - 2).square().sum() + 3)


CASES = tuple(
    Case(
        name=f"nesterov{variant}",
        solver=solver,
        problem=problem,
        start=lambda dtype: {"w": torch.ones(3, 2, dtype=dtype), "b": torch.ones(2, dtype=dtype)},
        optimum=3.0,
        accuracy=1e-9,
        steps=300,
    )
    for variant, solver in (("", Nesterov(0.1)), ("/strongly convex", Nesterov(0.1, strong_convexity=1.0)))
)
