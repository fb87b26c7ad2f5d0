"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind.

Methods:

- :class:`FISTA`: proximal gradient steps with momentum, restart and backtracking; the one to start with for ``f + g``.
- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`ProximalGradient`: proximal gradient steps with backtracking; values never rise.
"""

from steepest.solve.convex.fista import CARD as FISTA_CARD
from steepest.solve.convex.fista import FISTA
from steepest.solve.convex.gradient_descent import CARD as GRADIENT_DESCENT_CARD
from steepest.solve.convex.gradient_descent import GradientDescent
from steepest.solve.convex.problem import CompositeProblem, LinearModel
from steepest.solve.convex.proximal_gradient import CARD as PROXIMAL_GRADIENT_CARD
from steepest.solve.convex.proximal_gradient import ProximalGradient

__all__ = [
    "FISTA",
    "CompositeProblem",
    "GradientDescent",
    "LinearModel",
    "ProximalGradient",
]

CARDS = (
    FISTA_CARD,
    GRADIENT_DESCENT_CARD,
    PROXIMAL_GRADIENT_CARD,
)
