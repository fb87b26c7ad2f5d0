"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`CoordinateDescent`: one coordinate or group at a time, at random, in turn, or by Gauss-Southwell rules.
- :class:`WorkingSetNewton`: sparse linear models to high accuracy; Newton steps on the few features that matter.
"""

from steepest.solve.convex.coordinate_descent import CARD as COORDINATE_DESCENT
from steepest.solve.convex.coordinate_descent import CoordinateDescent
from steepest.solve.convex.gradient_descent import CARD, GradientDescent
from steepest.solve.convex.problem import CompositeProblem, LinearModel
from steepest.solve.convex.working_set_newton import CARD as WORKING_SET_NEWTON
from steepest.solve.convex.working_set_newton import WorkingSetNewton

__all__ = ["CompositeProblem", "CoordinateDescent", "GradientDescent", "LinearModel", "WorkingSetNewton"]

CARDS = (CARD, COORDINATE_DESCENT, WORKING_SET_NEWTON)
