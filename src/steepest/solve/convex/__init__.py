"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind;
:class:`SplitProblem`, ``min f(x) + g(z)`` subject to ``A x + B z = c``; :class:`SaddleProblem` and
:class:`MonotoneProblem`, ``min_x max_y f(x, y)`` and variational inequalities.

Methods:

- :class:`FISTA`: proximal gradient steps with momentum, restart and backtracking; the one to start with for ``f + g``.
- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
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
"""

from steepest.solve.convex.admm import ADMM
from steepest.solve.convex.admm import CARD as ADMM_CARD
from steepest.solve.convex.away_frank_wolfe import CARD as AWAY_FRANK_WOLFE_CARD
from steepest.solve.convex.away_frank_wolfe import AwayFrankWolfe
from steepest.solve.convex.dual_averaging import CARD as DUAL_AVERAGING_CARD
from steepest.solve.convex.dual_averaging import DualAveraging
from steepest.solve.convex.fista import CARD as FISTA_CARD
from steepest.solve.convex.fista import FISTA
from steepest.solve.convex.frank_wolfe import CARD as FRANK_WOLFE_CARD
from steepest.solve.convex.frank_wolfe import FrankWolfe
from steepest.solve.convex.gradient_descent import CARD as GRADIENT_DESCENT_CARD
from steepest.solve.convex.gradient_descent import GradientDescent
from steepest.solve.convex.gradient_method import CARD as GRADIENT_METHOD_CARD
from steepest.solve.convex.gradient_method import GradientMethod
from steepest.solve.convex.mirror_descent import CARD as MIRROR_DESCENT_CARD
from steepest.solve.convex.mirror_descent import MirrorDescent
from steepest.solve.convex.mirror_prox import CARD as MIRROR_PROX_CARD
from steepest.solve.convex.mirror_prox import MirrorProx
from steepest.solve.convex.nesterov import CARD as NESTEROV_CARD
from steepest.solve.convex.nesterov import Nesterov
from steepest.solve.convex.normalized_gradient_descent import CARD as NORMALIZED_GRADIENT_DESCENT_CARD
from steepest.solve.convex.normalized_gradient_descent import NormalizedGradientDescent
from steepest.solve.convex.problem import CompositeProblem, LinearModel
from steepest.solve.convex.proximal_gradient import CARD as PROXIMAL_GRADIENT_CARD
from steepest.solve.convex.proximal_gradient import ProximalGradient
from steepest.solve.convex.saddle_problem import MonotoneProblem, SaddleProblem
from steepest.solve.convex.split_problem import LossBlock, ProxBlock, QuadraticBlock, SplitProblem
from steepest.solve.convex.subgradient_method import CARD as SUBGRADIENT_METHOD_CARD
from steepest.solve.convex.subgradient_method import SubgradientMethod

__all__ = [
    "ADMM",
    "FISTA",
    "AwayFrankWolfe",
    "CompositeProblem",
    "DualAveraging",
    "FrankWolfe",
    "GradientDescent",
    "GradientMethod",
    "LinearModel",
    "LossBlock",
    "MirrorDescent",
    "MirrorProx",
    "MonotoneProblem",
    "Nesterov",
    "NormalizedGradientDescent",
    "ProxBlock",
    "ProximalGradient",
    "QuadraticBlock",
    "SaddleProblem",
    "SplitProblem",
    "SubgradientMethod",
]

CARDS = (
    FISTA_CARD,
    GRADIENT_DESCENT_CARD,
    GRADIENT_METHOD_CARD,
    NESTEROV_CARD,
    NORMALIZED_GRADIENT_DESCENT_CARD,
    FRANK_WOLFE_CARD,
    AWAY_FRANK_WOLFE_CARD,
    ADMM_CARD,
    SUBGRADIENT_METHOD_CARD,
    MIRROR_DESCENT_CARD,
    DUAL_AVERAGING_CARD,
    MIRROR_PROX_CARD,
    PROXIMAL_GRADIENT_CARD,
)
