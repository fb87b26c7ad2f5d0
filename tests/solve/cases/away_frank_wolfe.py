"""Away and pairwise steps: a quadratic on the probability simplex whose minimizer lies inside a face."""

from dataclasses import dataclass

import torch
from solver_case import Case
from torch import Tensor

from steepest.core.regularizer import Regularizer
from steepest.solve.convex import AwayFrankWolfe, CompositeProblem


@dataclass(frozen=True)
class Simplex(Regularizer):
    """The indicator of the probability simplex."""

    def value(self, x: Tensor) -> Tensor:
        slack = 1e-6  # room for a solution in float32
        return x.new_zeros(()).where((x >= -slack).all() & ((x.sum() - 1).abs() <= slack * len(x)), float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        raise NotImplementedError

    def lmo(self, direction: Tensor) -> Tensor:
        vertex = torch.zeros_like(direction)
        vertex[direction.argmin()] = 1
        return vertex


def problem(dtype: torch.dtype) -> CompositeProblem:
    """``sum_i i (x_i - c_i)^2 / 2``, ``c = (.2, .3, .5)`` on three coordinates and -1/i on the others.

    On the face of the first three, c is the minimizer; the slopes of the others there are 1, so it is optimal.
    """
    scale = torch.arange(1.0, 7.0, dtype=dtype)
    center = torch.tensor([0.2, 0.3, 0.5, -1 / 4, -1 / 5, -1 / 6], dtype=dtype)
    return CompositeProblem(lambda x: 0.5 * (scale * (x - center).square()).sum(), Simplex())


OPTIMUM = 0.5 * (1 / 4 + 1 / 5 + 1 / 6)

CASES = tuple(
    Case(
        name=f"away-frank-wolfe{variant}",
        solver=solver,
        problem=problem,
        start=lambda dtype: torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], dtype=dtype),
        optimum=OPTIMUM,
        accuracy=1e-9,
        steps=300,
        bounds=True,
    )
    for variant, solver in (("", AwayFrankWolfe()), ("/pairwise", AwayFrankWolfe("pairwise")))
)
