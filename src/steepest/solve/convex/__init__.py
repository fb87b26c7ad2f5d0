"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`BlockCoordinateDescent`: blocks of coordinates, greedy rules, gradient, matrix and Newton updates.
- :class:`CoordinateDescent`: one coordinate or group at a time, at random, in turn, or by Gauss-Southwell rules.
- :class:`MessagePassingDescent`: a sparse quadratic, solved exactly on a forest of its variables in every step.
- :class:`WorkingSetNewton`: sparse linear models to high accuracy; Newton steps on the few features that matter.
"""

from steepest.solve.convex.block_coordinate_descent import CARD as BLOCK_COORDINATE_DESCENT
from steepest.solve.convex.block_coordinate_descent import BlockCoordinateDescent
from steepest.solve.convex.coordinate_descent import CARD as COORDINATE_DESCENT
from steepest.solve.convex.coordinate_descent import CoordinateDescent
from steepest.solve.convex.gradient_descent import CARD, GradientDescent
from steepest.solve.convex.message_passing_descent import CARD as MESSAGE_PASSING_DESCENT
from steepest.solve.convex.message_passing_descent import MessagePassingDescent
from steepest.solve.convex.problem import CompositeProblem, LinearModel
from steepest.solve.convex.quadratic import Quadratic
from steepest.solve.convex.working_set_newton import CARD as WORKING_SET_NEWTON
from steepest.solve.convex.working_set_newton import WorkingSetNewton

__all__ = [
    "BlockCoordinateDescent",
    "CompositeProblem",
    "CoordinateDescent",
    "GradientDescent",
    "LinearModel",
    "MessagePassingDescent",
    "Quadratic",
    "WorkingSetNewton",
]

CARDS = (CARD, BLOCK_COORDINATE_DESCENT, COORDINATE_DESCENT, MESSAGE_PASSING_DESCENT, WORKING_SET_NEWTON)
