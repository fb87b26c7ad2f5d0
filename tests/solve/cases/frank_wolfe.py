"""Frank-Wolfe: the point of a simplex, and of a ball, next to a given one."""

from dataclasses import dataclass

import torch
from solver_case import Case
from torch import Tensor

from steepest.core.regularizer import Regularizer
from steepest.solve.convex import CompositeProblem, FrankWolfe
from steepest.solve.convex.frank_wolfe_steps import ExactQuadratic, OpenLoop, ShortStep


@dataclass(frozen=True)
class Ball(Regularizer):
    """The indicator of the Euclidean unit ball, whose linear minimization is a normalization."""

    def value(self, x: Tensor) -> Tensor:
        return x.new_zeros(()).where(x.norm() <= 1 + 1e-6, float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x / x.norm().clamp_min(1)

    def lmo(self, direction: Tensor) -> Tensor:
        return -direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)


def ball(dtype: torch.dtype) -> CompositeProblem:
    """``|x - (3, 4)|^2 / 2 + 1`` on the unit ball: the distance is 4, so the least value is 9."""
    center = torch.tensor([3.0, 4.0], dtype=dtype)
    return CompositeProblem(lambda x: 0.5 * (x - center).square().sum() + 1, Ball())


CASES = tuple(
    Case(
        name=f"frank-wolfe{variant}",
        solver=solver,
        problem=ball,
        start=lambda dtype: torch.tensor([1.0, 0.0], dtype=dtype),
        optimum=9.0,
        accuracy=accuracy,
        steps=400,
        bounds=True,
    )
    for variant, solver, accuracy in (
        ("", FrankWolfe(), 1e-9),
        ("/short", FrankWolfe(ShortStep(1.0)), 1e-9),
        ("/exact", FrankWolfe(ExactQuadratic()), 1e-9),
        ("/open loop", FrankWolfe(OpenLoop()), 2 * 4 / 402),
    )
)
