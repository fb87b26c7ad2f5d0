"""Block coordinate descent on a quadratic with a known minimum, and on a lasso and a logistic regression that Clarabel
solved through CVXPY."""

import torch
from solver_case import Case

from steepest.core.problem import Problem
from steepest.core.regularizer import L1
from steepest.solve.convex import BlockCoordinateDescent, LinearModel, Quadratic


def quadratic(dtype: torch.dtype) -> Quadratic:
    """A path of 9 springs with the ends held: the matrix of second differences plus 1/2; minimum at (1, ..., 9)."""
    matrix = 2.5 * torch.eye(9) - torch.diag(torch.ones(8), 1) - torch.diag(torch.ones(8), -1)
    solution = torch.arange(1.0, 10.0)
    return Quadratic(matrix.to(dtype), (matrix @ solution).to(dtype))


SOLUTION = torch.arange(1.0, 10.0, dtype=torch.float64)
LEAST = -0.5 * float(SOLUTION @ (quadratic(torch.float64).design @ SOLUTION))


def linear(dtype: torch.dtype, loss: str) -> LinearModel:
    """40 samples of 12 features, made by a formula; the target is that of three of them, with a ripple."""
    row, column = torch.arange(40, dtype=torch.float64)[:, None], torch.arange(12, dtype=torch.float64)
    design = torch.sin(1 + row * (column + 1) + 0.3 * column) + 0.4 * torch.cos(row)
    target = design[:, 1] - 2 * design[:, 4] + 0.5 * design[:, 7] + 0.3 * torch.sin(3 * row[:, 0])
    if loss == "logistic":
        target = torch.where(target > 0.1 * torch.sin(7 * row[:, 0]), 1.0, -1.0)
    return LinearModel(design.to(dtype), target.to(dtype), loss, L1(0.005))


def case(variant: str, problem: str, optimum: float, steps: int, **settings: str) -> Case:
    def made(dtype: torch.dtype) -> Problem:
        return quadratic(dtype) if problem == "quadratic" else linear(dtype, problem)

    return Case(
        name=f"block-coordinate-descent{variant}",
        solver=BlockCoordinateDescent(size=3, **settings),
        problem=made,
        start=lambda dtype: torch.full((9 if problem == "quadratic" else 12,), 0.5, dtype=dtype),
        optimum=optimum,
        accuracy=1e-9,
        accuracy32=1e-3 if problem == "quadratic" else 1e-5,
        steps=steps,
        bounds=problem != "quadratic",
    )


CASES = (
    case("", "quadratic", LEAST, 60),
    case("/random", "quadratic", LEAST, 150, rule="random"),
    case("/lasso", "squared", 0.0414097840501, 60),
    case("/cyclic", "squared", 0.0414097840501, 150, rule="cyclic", partition="sorted"),
    case("/newton", "logistic", 0.13702071486, 150, rule="gauss-southwell", update="newton"),
    case(
        "/quadratic",
        "squared",
        0.0414097840501,
        100,
        rule="gauss-southwell-quadratic",
        partition="order",
    ),
)
