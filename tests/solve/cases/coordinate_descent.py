"""Coordinate descent by every rule on a lasso and a group lasso with orthonormal features: optima in closed form."""

import torch
from solver_case import Case

from steepest.core.regularizer import L1, GroupL2, Regularizer
from steepest.solve.convex import CoordinateDescent, LinearModel

#: Products of the features with the target.
PRODUCTS = torch.tensor([3.0, -1.5, 0.7, 0.2, -0.1, 2.2, 0.0, -4.0], dtype=torch.float64)


def problem(dtype: torch.dtype, regularizer: Regularizer) -> LinearModel:
    """Cosines: orthonormal columns. The target adds one more of them, which no feature sees."""
    row, column = torch.arange(16, dtype=torch.float64)[:, None] + 0.5, torch.arange(1, 10, dtype=torch.float64)
    basis = (2 / 16) ** 0.5 * torch.cos(torch.pi * row * column / 16)
    return LinearModel(
        basis[:, :8].to(dtype), (basis[:, :8] @ PRODUCTS + basis[:, 8]).to(dtype), "squared", regularizer, scale="sum"
    )


def least(norms: torch.Tensor, weight: float) -> float:
    """Where a block has the product ``p``: ``|p|^2 / 2`` is left below the weight, else ``w |p| - w^2 / 2``."""
    parts = torch.where(norms <= weight, 0.5 * norms.square(), weight * norms - 0.5 * weight**2)
    return 0.5 + float(parts.sum())


def case(variant: str, rule: str, regularizer: Regularizer, optimum: float, steps: int) -> Case:
    return Case(
        name=f"coordinate-descent{variant}",
        solver=CoordinateDescent(rule=rule),
        problem=lambda dtype: problem(dtype, regularizer),
        start=lambda dtype: torch.full((8,), 0.5, dtype=dtype),
        optimum=optimum,
        accuracy=1e-9,
        accuracy32=1e-5,
        steps=steps,
        bounds=True,
    )


LASSO = L1(0.5), least(PRODUCTS.abs(), 0.5)
GROUPS = GroupL2(0.8, 2), least(PRODUCTS.reshape(4, 2).norm(dim=1), 0.8)

CASES = (
    case("", "gauss-southwell-lipschitz", *LASSO, 10),
    case("/cyclic", "cyclic", *LASSO, 10),
    case("/random", "random", *LASSO, 80),
    case("/lipschitz-sampling", "lipschitz-sampling", *LASSO, 80),
    case("/gauss-southwell", "gauss-southwell", *LASSO, 10),
    case("/gauss-southwell-q", "gauss-southwell-q", *GROUPS, 10),
)
