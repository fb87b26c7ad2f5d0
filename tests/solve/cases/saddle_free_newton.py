"""Saddle-free Newton, dense and by Lanczos, on ``x^2 - y^2 + y^4 / 2`` (a saddle of 0 between minima of -1/2)."""

import torch
from solver_case import Case

from steepest.core.problem import SmoothProblem
from steepest.solve.convex import KrylovSaddleFreeNewton, SaddleFreeNewton


def problem(dtype: torch.dtype) -> SmoothProblem:
    """Its least value is -1/2, at (0, 1) and (0, -1)."""
    return SmoothProblem(lambda p: (p["x"].square() - p["y"].square() + 0.5 * p["y"] ** 4).sum())


def start(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Where Newton's method goes to the saddle."""
    return {"x": torch.ones(1, dtype=dtype), "y": torch.full((1,), 0.1, dtype=dtype)}


CASES = (
    Case("saddle-free-newton", SaddleFreeNewton(), problem, start, -0.5, 1e-12, 30),
    Case("saddle-free-newton-krylov", KrylovSaddleFreeNewton(subspace=2), problem, start, -0.5, 1e-12, 30),
    Case("saddle-free-newton-krylov/inner", KrylovSaddleFreeNewton(inner=3), problem, start, -0.5, 1e-12, 30),
)
