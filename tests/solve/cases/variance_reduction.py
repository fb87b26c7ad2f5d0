"""Methods for sums on a lasso and on a ridge regression; optima by coordinate minimization and by linear algebra."""

from typing import Any

import torch
from solver_case import Case

from steepest.core.regularizer import L1
from steepest.solve.convex import SAGA, SARAH, SVRG, FiniteSum, GrowingBatches, LinearModel, MomentumSGD, SpiderBoost

DESIGN = torch.tensor(
    [[1.0, 0.2, 0.0], [0.0, 1.0, 0.3], [0.5, 0.0, 1.0], [1.0, -0.4, 0.1], [0.2, 0.8, -0.6], [-0.7, 0.3, 0.9]],
    dtype=torch.float64,
)
TARGET = torch.tensor([1.0, -1.0, 0.5, 1.5, -0.4, -0.6], dtype=torch.float64)


def lasso(weight: float = 0.05) -> float:
    """The optimum by cyclic minimization over single coordinates, each in closed form."""
    x, norms = torch.zeros(3, dtype=torch.float64), DESIGN.square().sum(0)
    for _ in range(3000):
        for j in range(3):
            slope = DESIGN[:, j] @ (TARGET - DESIGN @ x) + norms[j] * x[j]
            x[j] = torch.sign(slope) * (slope.abs() - 6 * weight).clamp_min(0) / norms[j]
    return float((DESIGN @ x - TARGET).square().sum() / 12 + weight * x.abs().sum())


def linear(dtype: torch.dtype) -> LinearModel:
    return LinearModel(DESIGN.to(dtype), TARGET.to(dtype), regularizer=L1(0.05))


def ridge() -> float:
    x = torch.linalg.solve(DESIGN.T @ DESIGN / 6 + 0.1 * torch.eye(3, dtype=torch.float64), DESIGN.T @ TARGET / 6)
    return float((DESIGN @ x - TARGET).square().sum() / 12 + 0.05 * x.square().sum())


def ridge_sum(dtype: torch.dtype) -> FiniteSum:
    design, target = DESIGN.to(dtype), TARGET.to(dtype)
    return FiniteSum(
        lambda p, i: 0.5 * (design[i] @ p["x"] - target[i]).square() + 0.05 * p["x"].square().sum(),
        6,
        lipschitz=0.8,
        sample_lipschitz=1.6,
        strong_convexity=0.1,
    )


def case(name: str, solver: Any, of: str, accuracy: float, steps: int) -> Case:
    if of == "lasso":
        return Case(name, solver, linear, lambda dtype: torch.zeros(3, dtype=dtype), lasso(), accuracy, steps)
    return Case(name, solver, ridge_sum, lambda dtype: {"x": torch.zeros(3, dtype=dtype)}, ridge(), accuracy, steps)


CASES = (
    case("svrg", SVRG(), "lasso", 1e-9, 150),
    case("svrg/sum", SVRG(snapshot="last", batch=2, replacement=False), "ridge", 1e-9, 100),
    case("saga", SAGA(), "lasso", 1e-9, 150),
    case("saga/sum", SAGA(batch=2), "ridge", 1e-9, 150),
    case("sarah", SARAH(inner=30), "ridge", 1e-9, 60),
    case("spider-boost", SpiderBoost(), "lasso", 1e-9, 150),
    case("large-scale-ml", GrowingBatches(), "lasso", 1e-9, 200),
    case("momentum-sgd", MomentumSGD(step_size=0.003, inner=100), "ridge", 1e-3, 60),
)
