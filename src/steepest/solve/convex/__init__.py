"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind. For ``g`` this room also exports the regularizers of
:mod:`steepest.core.regularizer`, such as :class:`~steepest.core.regularizer.L1`.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`GradientNormalizedNewton`: steps with any approximate Hessian (exact, Gauss-Newton, Fisher, diagonal).
- :class:`LBFGS`: quasi-Newton steps from the last changes of the gradient; what to try first on a smooth problem.
- :class:`LazyNewton`: cubic or quadratic regularization, one Hessian and one decomposition for many steps.
- :class:`Newton`: damped, with a dense Hessian; quadratic convergence, for up to some thousand variables.
- :class:`SaddleFreeNewton` and :class:`KrylovSaddleFreeNewton`: absolute eigenvalues, for functions with saddles.
- :class:`CoordinateDescent`: one coordinate or group at a time, at random, in turn, or by Gauss-Southwell rules.
- :class:`WorkingSetNewton`: sparse linear models to high accuracy; Newton steps on the few features that matter.

Smooth methods run on a :class:`CompositeProblem` or :class:`LinearModel` by its ``as_smooth()``, where the regularizer
is differentiable: ``LBFGS().run(LinearModel(A, y, "logistic", SquaredL2(1e-4)).as_smooth(), start, budget="1m")``.
"""

from steepest.core.regularizer import (
    L1,
    Affine,
    Box,
    Eigenvector,
    ElasticNet,
    GroupL2,
    GroupSparseEnvelope,
    Halfspace,
    L1Ball,
    L2Ball,
    LInfBall,
    MultiBit,
    Nonnegative,
    Nuclear,
    NuclearBall,
    OneSided,
    OrthogonalColumns,
    Regularizer,
    Separable,
    Simplex,
    SparseGroup,
    SquaredL2,
    Ternary,
    TotalVariation,
    TwoValued,
    Zero,
)
from steepest.solve.convex import (
    coordinate_descent,
    gradient_descent,
    gradient_normalized_newton,
    lazy_newton,
    lbfgs,
    newton,
    saddle_free_newton,
    working_set_newton,
)
from steepest.solve.convex.coordinate_descent import CoordinateDescent
from steepest.solve.convex.gradient_descent import GradientDescent
from steepest.solve.convex.gradient_normalized_newton import GradientNormalizedNewton
from steepest.solve.convex.lazy_newton import LazyNewton
from steepest.solve.convex.lbfgs import LBFGS
from steepest.solve.convex.newton import Newton
from steepest.solve.convex.problem import CompositeProblem, LinearModel
from steepest.solve.convex.saddle_free_newton import KrylovSaddleFreeNewton, SaddleFreeNewton
from steepest.solve.convex.working_set_newton import WorkingSetNewton

__all__ = [
    "L1",
    "LBFGS",
    "Affine",
    "Box",
    "CompositeProblem",
    "CoordinateDescent",
    "Eigenvector",
    "ElasticNet",
    "GradientDescent",
    "GradientNormalizedNewton",
    "GroupL2",
    "GroupSparseEnvelope",
    "Halfspace",
    "KrylovSaddleFreeNewton",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "LazyNewton",
    "LinearModel",
    "MultiBit",
    "Newton",
    "Nonnegative",
    "Nuclear",
    "NuclearBall",
    "OneSided",
    "OrthogonalColumns",
    "Regularizer",
    "SaddleFreeNewton",
    "Separable",
    "Simplex",
    "SparseGroup",
    "SquaredL2",
    "Ternary",
    "TotalVariation",
    "TwoValued",
    "WorkingSetNewton",
    "Zero",
]

CARDS = (
    coordinate_descent.CARD,
    gradient_descent.CARD,
    gradient_normalized_newton.CARD,
    lazy_newton.CARD,
    lbfgs.CARD,
    newton.CARD,
    saddle_free_newton.CARD,
    saddle_free_newton.KRYLOV_CARD,
    working_set_newton.CARD,
)
