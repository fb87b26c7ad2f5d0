"""Nesterov's accelerated gradient method with a constant step size."""

from dataclasses import dataclass

import torch

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.momentum import momentum
from steepest.solve.convex.proximal_step import has_moved

__all__ = ["CARD", "Nesterov", "NesterovState"]

CARD = MethodCard(
    name="nesterov",
    title="Nesterov's accelerated gradient",
    room="convex",
    family="first order",
    summary="Gradient steps from an extrapolated point: the optimal rate for smooth convex functions.",
    target="steepest.solve.convex.nesterov:Nesterov",
    papers=(
        Paper(
            "Y. Nesterov",
            1983,
            "A method of solving a convex programming problem with convergence rate O(1/k^2)",
            venue="Soviet Mathematics Doklady 27(2), 372-376",
        ),
        Paper("S. Bubeck", 2015, "Convex optimization: algorithms and complexity", arxiv="1405.4980"),
    ),
    needs=frozenset({"value", "gradient"}),
    buffers=2,
    claim="The first-order methods of the monograph stay under their proved bounds, with orders that are met: momentum "
    "turns 1/k into 1/k^2, and the entropy takes the dimension out of the rate on the simplex.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class NesterovState(State):
    """The iterate, its value, and:

    Attributes:
        previous: the iterate before.
        momentum: ``s_k`` of the update; 0 at the start.
    """

    previous: Point
    momentum: float = 0.0


@dataclass(frozen=True)
class Nesterov(Solver[SmoothProblem, NesterovState]):
    """Nesterov's accelerated gradient method.

    It solves ``min_x f(x)`` for a convex ``f`` with an ``L``-Lipschitz gradient. With the modulus ``m`` of strong
    convexity (0 where there is none), ``x_{-1} = x_0``, ``s_0 = 0`` and ``q = m t``::

        s_{k+1} = (1 - q s_k^2 + sqrt((1 - q s_k^2)^2 + 4 s_k^2)) / 2
        y_k     = x_k + (s_k - 1) / s_{k+1} (1 - q s_{k+1}) / (1 - q) (x_k - x_{k-1})
        x_{k+1} = y_k - t grad f(y_k)

    For ``t <= 1/L``: ``f(x_k) - f* <= 2 |x_0 - x*|^2 / (t (k + 1)^2)``, and with ``m > 0`` besides
    ``f(x_k) - f* <= p_k |x_0 - x*|^2 / (2 t s_k^2)``, ``p_k`` the product of ``1 - q s_i`` over i = 1 to k, which falls
    as ``(1 - sqrt(m t))^k``. A step costs one gradient and one value. Stationarity is the norm of the gradient at
    ``y_k``. For backtracking, restarts and constraints see :class:`~steepest.solve.convex.fista.FISTA`.

    Args:
        step_size: ``t``, in (0, 1/L] (the unit of ``x`` per unit of the gradient). There is no default.
        strong_convexity: ``m``, in [0, 1/t). Default 0.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.

    Source: Y. Nesterov (1983), "A method of solving a convex programming problem with convergence rate O(1/k^2)",
        Soviet
    Mathematics Doklady 27(2); S. Bubeck (2015), "Convex optimization: algorithms and complexity", arXiv 1405.4980,
    section 3.7 (the case ``m = 0``, with other indices).
    """

    step_size: float
    strong_convexity: float = 0.0

    needs = frozenset({"value", "gradient"})
    ranges = {"step_size": Real(low=0.0, low_open=True), "strong_convexity": Real(low=0.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strong_convexity * self.step_size < 1:
            raise ValueError(
                f"Nesterov: strong_convexity must be less than 1 / step_size, got {self.strong_convexity!r} with "
                f"step_size={self.step_size!r}"
            )

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> NesterovState:
        """The value and the gradient at the start."""
        value, gradient = problem.value_and_gradient(start)
        return NesterovState(point=start, value=value, stationarity=tree.norm(gradient), previous=start)

    def step(self, problem: SmoothProblem, state: NesterovState) -> NesterovState:
        """One extrapolation and one gradient step.

        Raises:
            Stalled: the step is no longer than the rounding error of the iterate.
        """
        following, weight = momentum(state.momentum, self.step_size, self.step_size, self.strong_convexity)
        y = tree.tree_map(lambda a, b: a + weight * (a - b), state.point, state.previous)
        gradient = problem.gradient(y)
        norm = tree.norm(gradient)
        point = tree.add_scaled(y, -self.step_size, gradient)
        if not has_moved(state.point, point) and not has_moved(y, point):
            raise Stalled("the step is no longer than the rounding error of the iterate")
        return NesterovState(
            point=point, value=problem.value(point), stationarity=norm, previous=state.point, momentum=following
        )
