"""L-BFGS on Rosenbrock's function, least value 0, its point a list of two tensors."""

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import LBFGS


def problem(dtype: torch.dtype) -> SmoothProblem:
    """Its minimum is 0 at (1, 1)."""
    return SmoothProblem(lambda x: (1 - x[0]).square().sum() + 100 * (x[1] - x[0].square()).square().sum())


CASES = (
    Case(
        name="l-bfgs",
        solver=LBFGS(memory=5),
        problem=problem,
        start=lambda dtype: [torch.full((1,), -1.2, dtype=dtype), torch.ones(1, dtype=dtype)],
        optimum=0.0,
        accuracy=1e-12,
        steps=60,
    ),
)
