"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`FiniteSum`, where ``f`` is a mean of functions that can be sampled; :class:`LinearModel`,
its most common kind.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`SGD`: proximal stochastic gradient steps with any step rule and average: cheap and rough.
"""

from steepest.solve.convex.gradient_descent import CARD, GradientDescent
from steepest.solve.convex.problem import CompositeProblem, FiniteSum, LinearModel
from steepest.solve.convex.sgd import CARD as SGD_CARD
from steepest.solve.convex.sgd import SGD

__all__ = ["SGD", "CompositeProblem", "FiniteSum", "GradientDescent", "LinearModel"]

CARDS = (CARD, SGD_CARD)
