r"""Cauchy-Schwarz regularizers: differentiable functions that vanish on a wanted set of any scale.

For two vector-valued functions, :math:`\|g\|^2 \|h\|^2 - \langle g, h \rangle^2 \ge 0` is zero exactly where
:math:`g(x)` and :math:`h(x)` are parallel. A choice of both makes a regularizer whose zeros are, for some scale that
need not be known, the vectors with two values, three values, and so on. They are homogeneous (``degree``), not convex,
and zero at the origin: a constraint or a loss has to keep the point away from it, and line searches have to cope with
large gradients.

The difference is computed as :math:`\|g\|^2 \|h - (\langle g, h \rangle / \|g\|^2) g\|^2`, which does not cancel.

Source: S. Taner, Z. Wang and C. Studer (2025), "Cauchy-Schwarz Regularizers", ICLR, arXiv:2503.01639.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.core.ranges import Integer
from steepest.core.regularizer.base import Regularizer, check_weight

__all__ = ["CauchySchwarz", "Eigenvector", "MultiBit", "OneSided", "OrthogonalColumns", "Ternary", "TwoValued"]


@dataclass(frozen=True)
class CauchySchwarz(Regularizer):
    r"""The base of them: ``weight`` times :math:`\|g\|^2 \|h\|^2 - \langle g, h \rangle^2`.

    Class attributes:
        degree: ``value(c * x) == c**degree * value(x)``.
    """

    convex = False
    smooth = True
    degree: ClassVar[int] = 4

    weight: float | Tensor = 1.0

    def __post_init__(self) -> None:
        check_weight(f"{type(self).__name__}: weight", self.weight)

    @abstractmethod
    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``g(x)`` and ``h(x)``: vectors along the last dimension, of one shape."""

    def value(self, x: Tensor) -> Tensor:
        return (self.weight * _defect(*self.pair(x))).sum()


@dataclass(frozen=True)
class _Entries(CauchySchwarz):
    dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Integer(low=-64, optional=True).check(f"{type(self).__name__}: dim", self.dim)

    def _vectors(self, x: Tensor) -> Tensor:
        return x.reshape(-1) if self.dim is None else x.movedim(self.dim, -1)

    def gradient(self, x: Tensor) -> Tensor:
        g = self.weight * self._slope(self._vectors(x))
        return g.reshape(x.shape) if self.dim is None else g.movedim(-1, self.dim)

    @abstractmethod
    def _slope(self, v: Tensor) -> Tensor:
        """The gradient at vectors along the last dimension."""


@dataclass(frozen=True)
class TwoValued(_Entries):
    r"""Zero where all entries are :math:`\pm a` for one :math:`a`: :math:`N \sum x^4 - (\sum x^2)^2`.

    Args:
        weight: a factor, >= 0. Default 1.
        dim: the dimension whose slices have an :math:`a` of their own; ``None`` (default): one for all entries.
    """

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = self._vectors(x)
        return torch.ones_like(v), v.square()

    def _slope(self, v: Tensor) -> Tensor:
        return 4 * v.shape[-1] * v * (v.square() - v.square().mean(-1, keepdim=True))


@dataclass(frozen=True)
class OneSided(_Entries):
    r"""Zero where all entries are 0 or :math:`a` for one :math:`a`: :math:`\sum x^2 \sum x^4 - (\sum x^3)^2`.

    Args:
        weight: a factor, >= 0. Default 1.
        dim: the dimension whose slices have an :math:`a` of their own; ``None`` (default): one for all entries.
    """

    degree = 6

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = self._vectors(x)
        return v, v.square()

    def _slope(self, v: Tensor) -> Tensor:
        s2, s3, s4 = (v.pow(p).sum(-1, keepdim=True) for p in (2, 3, 4))
        return 2 * v * (s4 + 2 * s2 * v.square() - 3 * s3 * v)


@dataclass(frozen=True)
class Ternary(_Entries):
    r"""Zero where all entries are :math:`-a`, 0 or :math:`a` for one :math:`a`:
    :math:`\sum x^2 \sum x^6 - (\sum x^4)^2`.

    Args:
        weight: a factor, >= 0. Default 1.
        dim: the dimension whose slices have an :math:`a` of their own; ``None`` (default): one for all entries.
    """

    degree = 8

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = self._vectors(x)
        return v, v.pow(3)

    def _slope(self, v: Tensor) -> Tensor:
        s2, s4, s6 = (v.pow(p).sum(-1, keepdim=True) for p in (2, 4, 6))
        return 2 * v * (s6 + 3 * s2 * v.pow(4) - 4 * s4 * v.square())


@dataclass(frozen=True)
class MultiBit(CauchySchwarz):
    r"""Zero where the entries of :math:`Y_b` are :math:`\pm a 2^b` for one :math:`a`, so that :math:`\sum_b Y_b` has
    :math:`2^B` equally spaced values.

    With the point a tensor of the shape ``(bits, ...)``, :math:`N` the entries of one :math:`Y_b` and
    :math:`K = \sum_b 16^b`: :math:`K N \sum Y^4 - (\sum_b 4^b \sum Y_b^2)^2`.

    Args:
        weight: a factor, >= 0. Default 1.
    """

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        powers = self._powers(x)
        return powers.expand_as(x).reshape(-1), x.square().reshape(-1)

    def gradient(self, x: Tensor) -> Tensor:
        powers = self._powers(x).expand_as(x)
        total, along = powers.square().sum(), (powers * x.square()).sum()
        return self.weight * 4 * x * (total * x.square() - along * powers)

    @staticmethod
    def _powers(x: Tensor) -> Tensor:
        if x.dim() == 0:
            raise ValueError("MultiBit needs a tensor of the shape (bits, ...), got one without dimensions")
        bits = torch.arange(len(x), device=x.device, dtype=x.dtype)
        return (4.0**bits).reshape(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True, eq=False, init=False)
class Eigenvector(CauchySchwarz):
    r"""Zero at the eigenvectors of a symmetric matrix :math:`C`: :math:`\|Cx\|^2 \|x\|^2 - (x^\top C x)^2`; points
    ``(..., n)`` are batches of vectors.

    Args:
        matrix: ``C``, ``(n, n)``, symmetric.
        weight: a factor, >= 0. Default 1.

    Raises:
        TypeError, ValueError: ``matrix`` is no symmetric matrix.
    """

    matrix: Tensor  # type: ignore[misc]  # the order of fields matters to a generated __init__ alone

    def __init__(self, matrix: Tensor, weight: float | Tensor = 1.0) -> None:
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "weight", weight)
        super().__post_init__()
        if not isinstance(matrix, Tensor):
            raise TypeError(f"Eigenvector: matrix must be a tensor, got {type(matrix).__name__}")
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not torch.allclose(matrix, matrix.mT):
            raise ValueError(f"Eigenvector: matrix must be symmetric, got one of shape {list(matrix.shape)}")

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x @ self.matrix.to(x)

    def gradient(self, x: Tensor) -> Tensor:
        image = x @ self.matrix.to(x)
        twice = image @ self.matrix.to(x)
        xx, xc, cc = ((a * b).sum(-1, keepdim=True) for a, b in ((x, x), (x, image), (image, image)))
        return 2 * self.weight * (twice * xx + cc * x - 2 * xc * image)


@dataclass(frozen=True)
class OrthogonalColumns(CauchySchwarz):
    r"""Zero at the matrices with orthogonal columns of one length:
    :math:`K \|X^\top X\|_F^2 - \|X\|_F^4`, for points ``(..., N, K)``.

    Args:
        weight: a factor, >= 0. Default 1.
    """

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gram = self._gram(x)
        unit = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device).expand_as(gram)
        return unit.flatten(-2), gram.flatten(-2)

    def gradient(self, x: Tensor) -> Tensor:
        # K X X'X - |X|^2 X without the cancellation: X (K X'X - trace(X'X) I).
        gram = self._gram(x)
        mean = torch.diagonal(gram, dim1=-2, dim2=-1).mean(-1)[..., None, None]
        unit = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
        return 4 * self.weight * gram.shape[-1] * (x @ (gram - mean * unit))

    @staticmethod
    def _gram(x: Tensor) -> Tensor:
        if x.dim() < 2:
            raise ValueError(f"OrthogonalColumns needs matrices, got a tensor with {x.dim()} dimensions")
        return x.mT @ x


def _defect(g: Tensor, h: Tensor) -> Tensor:
    squared = g.square().sum(-1, keepdim=True)
    positive = squared > 0
    along = (g * h).sum(-1, keepdim=True) / torch.where(positive, squared, 1.0)
    return (squared * (h - along * g).square()).sum(-1)
