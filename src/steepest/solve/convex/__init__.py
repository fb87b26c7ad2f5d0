"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`LBFGS`: quasi-Newton steps from the last changes of the gradient; what to try first on a smooth problem.
- :class:`LazyNewton`: cubic or quadratic regularization, one Hessian and one decomposition for many steps.
- :class:`Newton`: damped, with a dense Hessian; quadratic convergence, for up to some thousand variables.

Smooth methods run on a :class:`CompositeProblem` or :class:`LinearModel` by its ``as_smooth()``, where the regularizer
is differentiable: ``LBFGS().run(LinearModel(A, y, "logistic", SquaredL2(1e-4)).as_smooth(), start, budget="1m")``.
"""

from steepest.solve.convex import gradient_descent, lazy_newton, lbfgs, newton
from steepest.solve.convex.gradient_descent import GradientDescent
from steepest.solve.convex.lazy_newton import LazyNewton
from steepest.solve.convex.lbfgs import LBFGS
from steepest.solve.convex.newton import Newton
from steepest.solve.convex.problem import CompositeProblem, LinearModel

__all__ = ["LBFGS", "CompositeProblem", "GradientDescent", "LazyNewton", "LinearModel", "Newton"]

CARDS = (gradient_descent.CARD, lazy_newton.CARD, lbfgs.CARD, newton.CARD)
