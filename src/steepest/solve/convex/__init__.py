"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
"""

from steepest.solve.convex.gradient_descent import CARD, GradientDescent
from steepest.solve.convex.problem import CompositeProblem, LinearModel

__all__ = ["CompositeProblem", "GradientDescent", "LinearModel"]

CARDS = (CARD,)
