"""Gradient descent with Armijo's line search."""

from dataclasses import dataclass

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver
from steepest.core.tree import Point
from steepest.solve.convex.step_rules import Armijo, GradientState

__all__ = ["CARD", "GradientDescent"]

CARD = MethodCard(
    name="gradient-descent",
    title="Gradient descent (Armijo)",
    room="convex",
    family="first order",
    summary="Steepest descent with a backtracking line search that guarantees sufficient decrease.",
    target="steepest.solve.convex.gradient_descent:GradientDescent",
    papers=(
        Paper(
            "L. Armijo",
            1966,
            "Minimization of functions having Lipschitz continuous first partial derivatives",
            venue="Pacific Journal of Mathematics 16(1), 1-3",
        ),
    ),
    needs=frozenset({"value", "gradient"}),
    buffers=1,
    claim="Every limit point is stationary without knowing the Lipschitz constant of the gradient.",
)


@dataclass(frozen=True)
class GradientDescent(Solver[SmoothProblem, GradientState]):
    """Gradient descent with Armijo's backtracking line search.

    It solves ``min_x f(x)`` for a differentiable ``f`` by::

        x_{k+1} = x_k - t_k g_k,        g_k = grad f(x_k)

    where ``t_k`` is the first of ``step_size * shrink**i``, i = 0, 1, ..., with::

        f(x_k - t_k g_k) <= f(x_k) - decrease * t_k * |g_k|^2

    Where ``f`` is ``m``-strongly convex with an ``L``-Lipschitz gradient, ``f(x_k) - min f`` shrinks in every step at
    least by the factor ``1 - 2 m decrease t_min``, ``t_min = min(step_size, 2 (1 - decrease) shrink / L)``. A step
    costs one gradient and one value per trial. Stationarity is the Euclidean norm of the gradient.

    Other step rules: :class:`~steepest.solve.convex.gradient_method.GradientMethod`.

    Args:
        step_size: the first trial of each search, > 0 (the unit of ``x`` per unit of the gradient). Default 1.
        decrease: the demanded part of the decrease that the slope promises, in (0, 1). Default 1/2, the paper's.
        shrink: the factor between trials, in (0, 1). Default 1/2, the paper's.
        max_trials: trials before a search gives up, >= 1. Default 60.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.

    A run ends as ``stalled`` where no trial decreases ``f`` enough: close to a minimizer, differences of ``f`` drown in
    rounding when the gradient is about the square root of the machine precision; before that, the gradient is wrong or
    ``max_trials`` too small.

    Source: L. Armijo (1966), "Minimization of functions having Lipschitz continuous first partial derivatives", Pacific
    Journal of Mathematics 16(1), 1-3. The rate: S. Boyd and L. Vandenberghe (2004), "Convex Optimization", section
    9.3.1, for any ``decrease`` in (0, 1).
    """

    step_size: float = 1.0
    decrease: float = 0.5
    shrink: float = 0.5
    max_trials: int = 60

    needs = frozenset({"value", "gradient"})
    ranges = {
        "step_size": Real(low=0.0, low_open=True),
        "decrease": Real(low=0.0, high=1.0, low_open=True, high_open=True),
        "shrink": Real(low=0.0, high=1.0, low_open=True, high_open=True),
        "max_trials": Integer(low=1),
    }

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> GradientState:
        """The value and the gradient at the start."""
        return GradientState.begin(problem, start)

    def step(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        """One line search and one gradient.

        Raises:
            Stalled: the gradient is zero, or no trial decreased ``f`` enough.
        """
        return Armijo(self.step_size, self.decrease, self.shrink, self.max_trials).advance(problem, state)
