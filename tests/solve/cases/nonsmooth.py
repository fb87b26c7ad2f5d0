"""Methods for functions with kinks, and for saddle points, on small problems with answers in closed form."""

from dataclasses import dataclass
from typing import Any

import torch
from solver_case import Case
from torch import Tensor

from steepest.core.regularizer import Regularizer
from steepest.solve.convex import (
    CompositeProblem,
    DualAveraging,
    MirrorDescent,
    MirrorProx,
    MonotoneProblem,
    SaddleProblem,
    SubgradientMethod,
)
from steepest.solve.convex.geometry import Entropy, Euclidean, PNorm
from steepest.solve.convex.subgradient_method import DecreasingSteps, PolyakSteps


@dataclass(frozen=True)
class Simplex(Regularizer):
    """The indicator of the probability simplex."""

    def value(self, x: Tensor) -> Tensor:
        slack = 1e-5  # room for averages in float32
        return x.new_zeros(()).where((x >= -slack).all() & ((x.sum() - 1).abs() <= slack), float("inf"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        ordered = x.sort(descending=True).values
        level = (ordered.cumsum(0) - 1) / torch.arange(1, len(x) + 1, dtype=x.dtype)
        return (x - level[int((ordered > level).sum()) - 1]).clamp_min(0)

    def lmo(self, direction: Tensor) -> Tensor:
        vertex = torch.zeros_like(direction)
        vertex[direction.argmin()] = 1
        return vertex


def largest(dtype: torch.dtype) -> CompositeProblem:
    """``max_i c_i x_i`` on the simplex: all products are equal at the minimum, ``1 / sum_i 1 / c_i``."""
    scale = torch.tensor([1.0, 2.0, 4.0], dtype=dtype)
    return CompositeProblem(lambda x: (scale * x).max(), Simplex())


def distance(dtype: torch.dtype) -> CompositeProblem:
    """``|x_1 - 1| + 2 |x_2 + 1| + 3``, without a set."""
    center, scale = torch.tensor([1.0, -1.0], dtype=dtype), torch.tensor([1.0, 2.0], dtype=dtype)
    return CompositeProblem(lambda x: (scale * (x - center).abs()).sum() + 3)


def game(dtype: torch.dtype) -> SaddleProblem:
    """Rock, paper and scissors with one prize doubled."""
    matrix = torch.tensor([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-2.0, 1.0, 0.0]], dtype=dtype)
    return SaddleProblem(lambda x, y: x @ matrix @ y, (Simplex(), Simplex()))


def fair(point: Any) -> None:
    """Both players mix as 1 : 2 : 1, in the order of what their choice is worth."""
    expected = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    for part in point:
        torch.testing.assert_close(part.double(), expected, rtol=0, atol=0.02)


def turn(dtype: torch.dtype) -> MonotoneProblem:
    """A rotation around (1, 2): monotone, no gradient of anything, and gradient steps spiral outwards."""
    center = torch.tensor([1.0, 2.0], dtype=dtype)
    matrix = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=dtype)
    return MonotoneProblem(lambda z: matrix @ (z - center))


def turned(point: Any) -> None:
    torch.testing.assert_close(point.double(), torch.tensor([1.0, 2.0]).double(), rtol=0, atol=0.05)


def uniform(dtype: torch.dtype) -> Tensor:
    return torch.full((3,), 1 / 3, dtype=dtype)


LARGEST = 1 / (1 + 1 / 2 + 1 / 4)


def on_simplex(name: str, solver: Any, accuracy: float) -> Case:
    return Case(name, solver, largest, uniform, LARGEST, accuracy, 600, accuracy32=accuracy, bounds=True)


def in_space(name: str, solver: Any, accuracy: float) -> Case:
    return Case(
        name,
        solver,
        distance,
        lambda dtype: torch.full((2,), 0.3, dtype=dtype),
        3.0,
        accuracy,
        600,
        accuracy32=accuracy,
    )


CASES = (
    on_simplex("subgradient-method", SubgradientMethod(DecreasingSteps(0.3)), 0.05),
    on_simplex("subgradient-method/best", SubgradientMethod(DecreasingSteps(0.3), output="best"), 0.05),
    in_space("subgradient-method/polyak", SubgradientMethod(PolyakSteps(3.0)), 0.2),
    on_simplex("mirror-descent", MirrorDescent(), 0.05),
    on_simplex("mirror-descent/euclidean", MirrorDescent(Euclidean(), step_size=0.3), 0.05),
    in_space("mirror-descent/p-norm", MirrorDescent(PNorm(1.5), step_size=0.5), 0.2),
    on_simplex("dual-averaging", DualAveraging(), 0.05),
    in_space("dual-averaging/p-norm", DualAveraging(PNorm(1.5), step_size=0.5), 0.2),
    Case(
        name="mirror-prox",
        solver=MirrorProx(0.4),
        problem=game,
        start=lambda dtype: (uniform(dtype), torch.tensor([1.0, 0.0, 0.0], dtype=dtype)),
        optimum=None,
        accuracy=0.0,
        steps=600,
        check=fair,
    ),
    Case(
        name="mirror-prox/entropy",
        solver=MirrorProx(0.5, Entropy()),
        problem=game,
        start=lambda dtype: (uniform(dtype), uniform(dtype)),
        optimum=None,
        accuracy=0.0,
        steps=600,
        check=fair,
    ),
    Case(
        name="mirror-prox/space",
        solver=MirrorProx(0.5),
        problem=turn,
        start=lambda dtype: torch.zeros(2, dtype=dtype),
        optimum=None,
        accuracy=0.0,
        steps=600,
        check=turned,
    ),
)
