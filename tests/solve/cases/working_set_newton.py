"""Working sets on a lasso, a group lasso and a sparse logistic regression; the optima are Clarabel's, through CVXPY."""

import torch
from solver_case import Case

from steepest.core.regularizer import L1, GroupL2, Regularizer
from steepest.solve.convex import LinearModel, WorkingSetNewton


def problem(dtype: torch.dtype, loss: str, regularizer: Regularizer) -> LinearModel:
    """40 samples of 12 features, made by a formula; the target is that of three of them, with a ripple."""
    row, column = torch.arange(40, dtype=torch.float64)[:, None], torch.arange(12, dtype=torch.float64)
    design = torch.sin(1 + row * (column + 1) + 0.3 * column) + 0.4 * torch.cos(row)
    target = design[:, 1] - 2 * design[:, 4] + 0.5 * design[:, 7] + 0.3 * torch.sin(3 * row[:, 0])
    if loss == "logistic":
        target = torch.where(target > 0.1 * torch.sin(7 * row[:, 0]), 1.0, -1.0)
    return LinearModel(design.to(dtype), target.to(dtype), loss, regularizer)


def case(variant: str, loss: str, regularizer: Regularizer, optimum: float, steps: int) -> Case:
    return Case(
        name=f"working-set-newton{variant}",
        solver=WorkingSetNewton(start_size=1),
        problem=lambda dtype: problem(dtype, loss, regularizer),
        start=lambda dtype: torch.zeros(12, dtype=dtype),
        optimum=optimum,
        accuracy=1e-9,
        accuracy32=1e-5,
        steps=steps,
        bounds=True,
    )


CASES = (
    case("", "squared", L1(0.005), 0.0414097840501, 12),
    case("/groups", "squared", GroupL2(0.01, 2), 0.0588766791546, 12),
    case("/logistic", "logistic", L1(0.005), 0.13702071486, 20),
)
