"""FISTA and its restarts on problems with answers in closed form."""

import torch
from solver_case import Case

from steepest.core.regularizer import L1
from steepest.solve.convex import FISTA, CompositeProblem, LinearModel

SCALES = torch.linspace(1.0, 4.0, 12, dtype=torch.float64)
TARGET = torch.tensor([3.0, -2.0, 1.0, 0.1, -0.1, 2.0, -3.0, 0.2, 1.5, -1.0, 0.3, 2.5], dtype=torch.float64)
WEIGHT = 0.1


def lasso(dtype: torch.dtype) -> LinearModel:
    """A diagonal design: the coordinates separate, and each is a soft threshold."""
    return LinearModel(torch.diag(SCALES).to(dtype), TARGET.to(dtype), "squared", L1(WEIGHT))


def lasso_minimum() -> float:
    curvature, slope = SCALES.square() / len(TARGET), SCALES * TARGET / len(TARGET)
    x = torch.sign(slope) * (slope.abs() - WEIGHT).clamp_min(0) / curvature
    return float(0.5 * (SCALES * x - TARGET).square().mean() + WEIGHT * x.abs().sum())


def plain(dtype: torch.dtype) -> CompositeProblem:
    """No regularizer, a point that is a dict, and strong convexity 1: ``|w|^2 / 2 + 10 |b - 2|^2 / 2 + 3``."""
    return CompositeProblem(
        lambda x: 0.5 * x["w"].square().sum() + 5 * (x["b"] - 2).square().sum() + 3, strong_convexity=1.0
    )


def case(variant: str, solver: FISTA) -> Case:
    return Case(
        name=f"fista{variant}",
        solver=solver,
        problem=lasso,
        start=lambda dtype: torch.zeros(12, dtype=dtype),
        optimum=lasso_minimum(),
        accuracy=1e-9,
        steps=400,
        bounds=True,
    )


CASES = (
    case("", FISTA()),
    case("/function", FISTA(restart="function", grow=1.1)),
    case("/gradient", FISTA(restart="gradient", step_size=100.0)),
    Case(
        name="fista/strongly convex",
        solver=FISTA(),
        problem=plain,
        start=lambda dtype: {"w": torch.ones(3, 2, dtype=dtype), "b": torch.ones(2, dtype=dtype)},
        optimum=3.0,
        accuracy=1e-9,
        steps=200,
    ),
)
