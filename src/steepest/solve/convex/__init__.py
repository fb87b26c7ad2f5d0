"""Convex (and smooth) minimization.

Problems: :class:`steepest.core.problem.SmoothProblem`, ``min_x f(x)``; :class:`CompositeProblem`,
``min_x f(x) + g(x)``; :class:`LinearModel`, its most common kind. For ``g`` this room also exports the regularizers of
:mod:`steepest.core.regularizer`, such as :class:`~steepest.core.regularizer.L1`.

Methods:

- :class:`GradientDescent`: steepest descent with Armijo's line search; a linear rate where ``f`` is strongly convex.
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
from steepest.solve.convex.gradient_descent import CARD, GradientDescent
from steepest.solve.convex.problem import CompositeProblem, LinearModel

__all__ = [
    "L1",
    "Affine",
    "Box",
    "CompositeProblem",
    "Eigenvector",
    "ElasticNet",
    "GradientDescent",
    "GroupL2",
    "GroupSparseEnvelope",
    "Halfspace",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "LinearModel",
    "MultiBit",
    "Nonnegative",
    "Nuclear",
    "NuclearBall",
    "OneSided",
    "OrthogonalColumns",
    "Regularizer",
    "Separable",
    "Simplex",
    "SparseGroup",
    "SquaredL2",
    "Ternary",
    "TotalVariation",
    "TwoValued",
    "Zero",
]

CARDS = (CARD, CAUCHY_SCHWARZ_CARD, GROUP_SPARSE_ENVELOPE_CARD)
