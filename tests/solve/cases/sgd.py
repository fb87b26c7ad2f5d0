"""SGD on a lasso (optimum by coordinate descent to convergence here), and on a solvable system by Polyak's step."""

import torch
from solver_case import Case

from steepest.core.regularizer import L1
from steepest.solve.convex import SGD, FiniteSum, LinearModel
from steepest.solve.convex.sgd_steps import Constant, PolyakStep, Switching, UniformAverage

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


def solvable(dtype: torch.dtype) -> FiniteSum:
    design, truth = DESIGN.to(dtype), torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    return FiniteSum(lambda x, i: 0.5 * (design[i] @ (x["a"] - truth)).square(), 6)


CASES = (
    Case(
        name="convergence-handbook",
        solver=SGD(step_rule=Switching(1.5, 0.2)),
        problem=linear,
        start=lambda dtype: torch.zeros(3, dtype=dtype),
        optimum=lasso(),
        accuracy=1e-3,
        steps=400,
    ),
    Case(
        name="convergence-handbook/average",
        solver=SGD(step_rule=Constant(0.02), average=UniformAverage(start=300), batch=3, replacement=False),
        problem=linear,
        start=lambda dtype: torch.zeros(3, dtype=dtype),
        optimum=lasso(),
        accuracy=1e-3,
        steps=400,
    ),
    Case(
        name="convergence-handbook/polyak",
        solver=SGD(step_rule=PolyakStep(cap=10.0)),
        problem=solvable,
        start=lambda dtype: {"a": torch.zeros(3, dtype=dtype)},
        optimum=0.0,
        accuracy=1e-12,
        steps=100,
    ),
)
