"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`FiniteSum`, where ``f`` is a mean of functions that can be sampled; :class:`LinearModel`,
its most common kind.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
- :class:`SGD`: proximal stochastic gradient steps with any step rule and average: cheap and rough.
- :class:`MomentumSGD`: growing momentum, by which the last iterate does what SGD's average does.
- :class:`GrowingBatches`: SGD with batches that grow up to all samples, hence without noise in the end.
- :class:`SVRG`, :class:`SAGA`, :class:`SARAH`: variance reduction; linear rates where ``f`` is strongly convex, for
  large sums. SAGA first for linear models (it keeps a number per sample), SVRG where a table is too large.
- :class:`ModelBased`: proximal steps on models of single samples, for losses of smooth maps (:class:`CompositeSum`,
  :class:`PhaseRetrieval`, :class:`BlindDeconvolution`, :class:`CovarianceEstimation`), kinks and all.
- :class:`SpiderBoost`: variance reduction for stationary points of sums that need not be convex.
"""

from steepest.solve.convex.gradient_descent import CARD, GradientDescent
from steepest.solve.convex.growing_batches import CARD as GROWING_BATCHES_CARD
from steepest.solve.convex.growing_batches import GrowingBatches
from steepest.solve.convex.model_based import CARD as MODEL_BASED_CARD
from steepest.solve.convex.model_based import ModelBased
from steepest.solve.convex.momentum_sgd import CARD as MOMENTUM_SGD_CARD
from steepest.solve.convex.momentum_sgd import MomentumSGD
from steepest.solve.convex.problem import CompositeProblem, FiniteSum, LinearModel
from steepest.solve.convex.saga import CARD as SAGA_CARD
from steepest.solve.convex.saga import SAGA
from steepest.solve.convex.sarah import CARD as SARAH_CARD
from steepest.solve.convex.sarah import SARAH
from steepest.solve.convex.sgd import CARD as SGD_CARD
from steepest.solve.convex.sgd import SGD
from steepest.solve.convex.spider_boost import CARD as SPIDER_BOOST_CARD
from steepest.solve.convex.spider_boost import SpiderBoost
from steepest.solve.convex.svrg import CARD as SVRG_CARD
from steepest.solve.convex.svrg import SVRG
from steepest.solve.convex.weakly_convex import BlindDeconvolution, CompositeSum, CovarianceEstimation, PhaseRetrieval

__all__ = [
    "SAGA",
    "SARAH",
    "SGD",
    "SVRG",
    "BlindDeconvolution",
    "CompositeProblem",
    "CompositeSum",
    "CovarianceEstimation",
    "FiniteSum",
    "GradientDescent",
    "GrowingBatches",
    "LinearModel",
    "ModelBased",
    "MomentumSGD",
    "PhaseRetrieval",
    "SpiderBoost",
]

CARDS = (
    CARD,
    SGD_CARD,
    MOMENTUM_SGD_CARD,
    GROWING_BATCHES_CARD,
    SVRG_CARD,
    SAGA_CARD,
    SARAH_CARD,
    SPIDER_BOOST_CARD,
    MODEL_BASED_CARD,
)
