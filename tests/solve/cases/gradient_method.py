"""Gradient descent with every step rule on a quadratic with a known minimum, its point a dict of two tensors."""

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import GradientMethod
from steepest.solve.convex.step_rules import (
    Armijo,
    BarzilaiBorwein,
    ConstantStep,
    DecreasingStep,
    ExactStep,
    PolyakStep,
    StepRule,
    StrongWolfe,
)


def problem(dtype: torch.dtype) -> SmoothProblem:
    """``sum_i i w_i^2 / 2 + 10 |b - 2|^2 / 2 + 3``: the least value is 3."""
    scale = torch.arange(1.0, 7.0, dtype=dtype).reshape(3, 2)
    return SmoothProblem(lambda x: 0.5 * (scale * x["w"].square()).sum() + 5 * (x["b"] - 2).square().sum() + 3)


def case(variant: str, rule: StepRule, steps: int = 300) -> Case:
    return Case(
        name=f"gradient-method{variant}",
        solver=GradientMethod(rule),
        problem=problem,
        start=lambda dtype: {"w": torch.ones(3, 2, dtype=dtype), "b": torch.ones(2, dtype=dtype)},
        optimum=3.0,
        accuracy=1e-9,
        steps=steps,
    )


CASES = (
    case("", BarzilaiBorwein()),
    case("/short", BarzilaiBorwein(kind="short", window=1)),
    case("/constant", ConstantStep(0.1)),
    case("/decreasing", DecreasingStep(0.2, power=0.25)),
    case("/polyak", PolyakStep(3.0)),
    case("/exact", ExactStep()),
    case("/armijo", Armijo()),
    case("/wolfe", StrongWolfe()),
)
