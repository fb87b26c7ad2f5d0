"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind.

Methods:

- :class:`FISTA`: proximal gradient steps with momentum, restart and backtracking; the one to start with for ``f + g``.
- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`GradientMethod`: gradient descent with a step rule (:mod:`~steepest.solve.convex.step_rules`).
- :class:`Nesterov`: Nesterov's accelerated gradient with a constant step size.
- :class:`ProximalGradient`: proximal gradient steps with backtracking; values never rise.
"""

from steepest.solve.convex.fista import CARD as FISTA_CARD
from steepest.solve.convex.fista import FISTA
from steepest.solve.convex.gradient_descent import CARD as GRADIENT_DESCENT_CARD
from steepest.solve.convex.gradient_descent import GradientDescent
from steepest.solve.convex.gradient_method import CARD as GRADIENT_METHOD_CARD
from steepest.solve.convex.gradient_method import GradientMethod
from steepest.solve.convex.nesterov import CARD as NESTEROV_CARD
from steepest.solve.convex.nesterov import Nesterov
from steepest.solve.convex.problem import CompositeProblem, LinearModel
from steepest.solve.convex.proximal_gradient import CARD as PROXIMAL_GRADIENT_CARD
from steepest.solve.convex.proximal_gradient import ProximalGradient

__all__ = [
    "FISTA",
    "CompositeProblem",
    "GradientDescent",
    "GradientMethod",
    "LinearModel",
    "Nesterov",
    "ProximalGradient",
]

CARDS = (
    FISTA_CARD,
    GRADIENT_DESCENT_CARD,
    GRADIENT_METHOD_CARD,
    NESTEROV_CARD,
    PROXIMAL_GRADIENT_CARD,
)
