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
- :class:`BlockCoordinateDescent`: blocks of coordinates, greedy rules, gradient, matrix and Newton updates.
- :class:`MessagePassingDescent`: a sparse quadratic, solved exactly on a forest of its variables in every step.
- :class:`FISTA`: proximal gradient steps with momentum, restart and backtracking; the one to start with for ``f + g``.
- :class:`GradientMethod`: gradient descent with a step rule (:mod:`~steepest.solve.convex.step_rules`).
- :class:`Nesterov`: Nesterov's accelerated gradient with a constant step size.
- :class:`NormalizedGradientDescent`: separates two classes by normalized logistic gradients; between logistic
  regression and the perceptron.
- :class:`FrankWolfe`: minimizes over a set by linear minimizations instead of projections.
- :class:`AwayFrankWolfe`: Frank-Wolfe with away or pairwise steps; a linear rate on polytopes.
- :class:`ADMM`: two coupled functions by turns (:class:`SplitProblem`): quadratic programs, consensus, basis pursuit.
- :class:`SubgradientMethod`: functions with kinks, projected; the slow and safe one.
- :class:`MirrorDescent`: the subgradient method in another geometry, such as the entropy on the simplex.
- :class:`DualAveraging`: mirror descent that weighs all subgradients alike.
- :class:`MirrorProx`: saddle points (:class:`SaddleProblem`) and monotone operators (:class:`MonotoneProblem`).
- :class:`ProximalGradient`: proximal gradient steps with backtracking; values never rise.
- :class:`SGD`: proximal stochastic gradient steps with any step rule and average: cheap and rough.
- :class:`MomentumSGD`: growing momentum, by which the last iterate does what SGD's average does.
- :class:`GrowingBatches`: SGD with batches that grow up to all samples, hence without noise in the end.
- :class:`SVRG`, :class:`SAGA`, :class:`SARAH`: variance reduction; linear rates where ``f`` is strongly convex, for
  large sums. SAGA first for linear models (it keeps a number per sample), SVRG where a table is too large.
- :class:`ModelBased`: proximal steps on models of single samples, for losses of smooth maps (:class:`CompositeSum`,
  :class:`PhaseRetrieval`, :class:`BlindDeconvolution`, :class:`CovarianceEstimation`), kinks and all.
- :class:`SpiderBoost`: variance reduction for stationary points of sums that need not be convex.

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
from steepest.core.regularizer.cauchy_schwarz import CARD as CAUCHY_SCHWARZ_CARD
from steepest.core.regularizer.norms import GROUP_SPARSE_ENVELOPE_CARD
from steepest.solve.convex import (
    admm,
    away_frank_wolfe,
    block_coordinate_descent,
    coordinate_descent,
    dual_averaging,
    fista,
    frank_wolfe,
    gradient_descent,
    gradient_method,
    gradient_normalized_newton,
    growing_batches,
    lazy_newton,
    lbfgs,
    message_passing_descent,
    mirror_descent,
    mirror_prox,
    model_based,
    momentum_sgd,
    nesterov,
    newton,
    normalized_gradient_descent,
    proximal_gradient,
    saddle_free_newton,
    saga,
    sarah,
    sgd,
    spider_boost,
    subgradient_method,
    svrg,
    working_set_newton,
)
from steepest.solve.convex.admm import ADMM
from steepest.solve.convex.away_frank_wolfe import AwayFrankWolfe
from steepest.solve.convex.block_coordinate_descent import BlockCoordinateDescent
from steepest.solve.convex.coordinate_descent import CoordinateDescent
from steepest.solve.convex.dual_averaging import DualAveraging
from steepest.solve.convex.fista import FISTA
from steepest.solve.convex.frank_wolfe import FrankWolfe
from steepest.solve.convex.gradient_descent import GradientDescent
from steepest.solve.convex.gradient_method import GradientMethod
from steepest.solve.convex.gradient_normalized_newton import GradientNormalizedNewton
from steepest.solve.convex.growing_batches import GrowingBatches
from steepest.solve.convex.lazy_newton import LazyNewton
from steepest.solve.convex.lbfgs import LBFGS
from steepest.solve.convex.message_passing_descent import MessagePassingDescent
from steepest.solve.convex.minimize import Choice, choose, minimize
from steepest.solve.convex.mirror_descent import MirrorDescent
from steepest.solve.convex.mirror_prox import MirrorProx
from steepest.solve.convex.model_based import ModelBased
from steepest.solve.convex.momentum_sgd import MomentumSGD
from steepest.solve.convex.nesterov import Nesterov
from steepest.solve.convex.newton import Newton
from steepest.solve.convex.normalized_gradient_descent import NormalizedGradientDescent
from steepest.solve.convex.problem import CompositeProblem, FiniteSum, LinearModel, SumProblem
from steepest.solve.convex.proximal_gradient import ProximalGradient
from steepest.solve.convex.quadratic import Quadratic
from steepest.solve.convex.saddle_free_newton import KrylovSaddleFreeNewton, SaddleFreeNewton
from steepest.solve.convex.saddle_problem import MonotoneProblem, SaddleProblem
from steepest.solve.convex.saga import SAGA
from steepest.solve.convex.sarah import SARAH
from steepest.solve.convex.sgd import SGD
from steepest.solve.convex.spider_boost import SpiderBoost
from steepest.solve.convex.split_problem import LossBlock, ProxBlock, QuadraticBlock, SplitProblem
from steepest.solve.convex.subgradient_method import SubgradientMethod
from steepest.solve.convex.svrg import SVRG
from steepest.solve.convex.weakly_convex import BlindDeconvolution, CompositeSum, CovarianceEstimation, PhaseRetrieval
from steepest.solve.convex.working_set_newton import WorkingSetNewton

__all__ = [
    "ADMM",
    "FISTA",
    "L1",
    "LBFGS",
    "SAGA",
    "SARAH",
    "SGD",
    "SVRG",
    "Affine",
    "AwayFrankWolfe",
    "BlindDeconvolution",
    "BlockCoordinateDescent",
    "Box",
    "Choice",
    "CompositeProblem",
    "CompositeSum",
    "CoordinateDescent",
    "CovarianceEstimation",
    "DualAveraging",
    "Eigenvector",
    "ElasticNet",
    "FiniteSum",
    "FrankWolfe",
    "GradientDescent",
    "GradientMethod",
    "GradientNormalizedNewton",
    "GroupL2",
    "GroupSparseEnvelope",
    "GrowingBatches",
    "Halfspace",
    "KrylovSaddleFreeNewton",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "LazyNewton",
    "LinearModel",
    "LossBlock",
    "MessagePassingDescent",
    "MirrorDescent",
    "MirrorProx",
    "ModelBased",
    "MomentumSGD",
    "MonotoneProblem",
    "MultiBit",
    "Nesterov",
    "Newton",
    "Nonnegative",
    "NormalizedGradientDescent",
    "Nuclear",
    "NuclearBall",
    "OneSided",
    "OrthogonalColumns",
    "PhaseRetrieval",
    "ProxBlock",
    "ProximalGradient",
    "Quadratic",
    "QuadraticBlock",
    "Regularizer",
    "SaddleFreeNewton",
    "SaddleProblem",
    "Separable",
    "Simplex",
    "SparseGroup",
    "SpiderBoost",
    "SplitProblem",
    "SquaredL2",
    "SubgradientMethod",
    "SumProblem",
    "Ternary",
    "TotalVariation",
    "TwoValued",
    "WorkingSetNewton",
    "Zero",
    "choose",
    "minimize",
]

CARDS = (
    CAUCHY_SCHWARZ_CARD,
    GROUP_SPARSE_ENVELOPE_CARD,
    admm.CARD,
    away_frank_wolfe.CARD,
    block_coordinate_descent.CARD,
    coordinate_descent.CARD,
    dual_averaging.CARD,
    fista.CARD,
    frank_wolfe.CARD,
    gradient_descent.CARD,
    gradient_method.CARD,
    gradient_normalized_newton.CARD,
    growing_batches.CARD,
    lazy_newton.CARD,
    lbfgs.CARD,
    message_passing_descent.CARD,
    mirror_descent.CARD,
    mirror_prox.CARD,
    model_based.CARD,
    momentum_sgd.CARD,
    nesterov.CARD,
    newton.CARD,
    normalized_gradient_descent.CARD,
    proximal_gradient.CARD,
    saddle_free_newton.CARD,
    saddle_free_newton.KRYLOV_CARD,
    saga.CARD,
    sarah.CARD,
    sgd.CARD,
    spider_boost.CARD,
    subgradient_method.CARD,
    svrg.CARD,
    working_set_newton.CARD,
)
