"""ADMM on a lasso with a diagonal design, split into its two terms."""

from typing import Any

import torch
from solver_case import Case

from steepest.core.regularizer import L1
from steepest.solve.convex import ADMM, ProxBlock, QuadraticBlock, SplitProblem

SCALES = torch.linspace(1.0, 4.0, 12, dtype=torch.float64)
TARGET = torch.tensor([3.0, -2.0, 1.0, 0.1, -0.1, 2.0, -3.0, 0.2, 1.5, -1.0, 0.3, 2.5], dtype=torch.float64)
WEIGHT = 0.7


def solution() -> torch.Tensor:
    """A soft threshold in every coordinate."""
    slope = SCALES * TARGET
    return torch.sign(slope) * (slope.abs() - WEIGHT).clamp_min(0) / SCALES.square()


def problem(dtype: torch.dtype) -> SplitProblem:
    """``|D x - y|^2 / 2 - |y|^2 / 2 + w |z|_1`` with ``x = z``."""
    first = QuadraticBlock(torch.diag(SCALES.square()).to(dtype), -(SCALES * TARGET).to(dtype))
    return SplitProblem(first, ProxBlock(L1(WEIGHT), scale=-1.0))


def solves(point: Any) -> None:
    accuracy = 1e-9 if point[0].dtype == torch.float64 else 1e-3
    for part in point:
        torch.testing.assert_close(part.double(), solution(), rtol=0, atol=accuracy)


# The value of a pair that does not satisfy the equations may be below the minimum, so the solution is checked itself.
CASES = tuple(
    Case(
        name=f"admm{variant}",
        solver=solver,
        problem=problem,
        start=lambda dtype: (torch.zeros(12, dtype=dtype), torch.zeros(12, dtype=dtype)),
        optimum=None,
        accuracy=0.0,
        steps=300,
        check=solves,
    )
    for variant, solver in (
        ("", ADMM()),
        ("/relaxed", ADMM(relaxation=1.6)),
        ("/balanced", ADMM(penalty=1e-3)),
        ("/fixed", ADMM(penalty=4.0, balance_steps=0)),
    )
)
