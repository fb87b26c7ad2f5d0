"""Regularizers: functions to add to a loss, most of them with a cheap proximal step.

- norms: :class:`L1`, :class:`GroupL2`, :class:`SparseGroup`, :class:`ElasticNet`, :class:`SquaredL2`,
  :class:`Nuclear`, :class:`TotalVariation`, :class:`GroupSparseEnvelope`; :class:`Zero`;
- indicators of sets, whose prox is the projection: :class:`Nonnegative`, :class:`Box`, :class:`Simplex`,
  :class:`L1Ball`, :class:`L2Ball`, :class:`LInfBall`, :class:`Affine`, :class:`Halfspace`, :class:`NuclearBall`;
- differentiable ones that are not convex, without a prox: the Cauchy-Schwarz regularizers :class:`TwoValued`,
  :class:`OneSided`, :class:`Ternary`, :class:`MultiBit`, :class:`Eigenvector`, :class:`OrthogonalColumns`;
- :class:`Separable`: one for each tensor of a point.
"""

from steepest.core.regularizer.base import Regularizer, Zero
from steepest.core.regularizer.cauchy_schwarz import (
    CauchySchwarz,
    Eigenvector,
    MultiBit,
    OneSided,
    OrthogonalColumns,
    Ternary,
    TwoValued,
)
from steepest.core.regularizer.norms import (
    L1,
    ElasticNet,
    GroupL2,
    GroupSparseEnvelope,
    Nuclear,
    SparseGroup,
    SquaredL2,
    TotalVariation,
)
from steepest.core.regularizer.separable import Separable, regularizer_of
from steepest.core.regularizer.sets import (
    Affine,
    Box,
    Halfspace,
    L1Ball,
    L2Ball,
    LInfBall,
    Nonnegative,
    NuclearBall,
    Simplex,
)

__all__ = [
    "L1",
    "Affine",
    "Box",
    "CauchySchwarz",
    "Eigenvector",
    "ElasticNet",
    "GroupL2",
    "GroupSparseEnvelope",
    "Halfspace",
    "L1Ball",
    "L2Ball",
    "LInfBall",
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
    "regularizer_of",
]
