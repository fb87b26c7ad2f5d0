"""Smooth minimization, ``min_x f(x)``: the problem is :class:`steepest.core.problem.SmoothProblem`.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
"""

from steepest.solve.convex.gradient_descent import CARD, GradientDescent

__all__ = ["GradientDescent"]

CARDS = (CARD,)
