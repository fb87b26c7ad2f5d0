"""Normalized gradient descent on two Gaussian clouds moved apart until they are separable."""

import torch
from solver_case import Case

from steepest.solve.convex import LinearModel, NormalizedGradientDescent


def problem(dtype: torch.dtype) -> LinearModel:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    direction = torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64) / 3
    target = torch.sign(design @ direction)
    design = design + 0.05 * target[:, None] * direction
    return LinearModel(design.to(dtype), target.to(dtype), "logistic")


def separates(x: torch.Tensor) -> None:
    data = problem(x.dtype)
    assert bool((data.target * data.predict(x) > 0).all())


CASES = tuple(
    Case(
        name=f"normalized-lr-gd{variant}",
        solver=NormalizedGradientDescent(step_size=step_size),
        problem=problem,
        start=lambda dtype: torch.zeros(3, dtype=dtype),
        optimum=None,
        accuracy=0.0,
        steps=500,
        check=separates,
    )
    for variant, step_size in (("", 100.0), ("/short", 5.0))
)
