"""What the second-order methods of the room share: trial points, factorizations and shifted systems."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.linesearch import change_of_value, rounding_of
from steepest.core.oracle import tally
from steepest.core.problem import SmoothProblem
from steepest.core.tree import Point

__all__ = ["Spectrum", "Trial", "cholesky", "trial"]


class Trial(NamedTuple):
    """A trial point ``x + d`` and what is known there.

    Attributes:
        point: the trial point.
        value: ``f`` there.
        gradient: the gradient there, as a vector.
        norm: its Euclidean norm.
        change: ``f(x + d) - f(x)``, from the slopes where the difference of values drowns in rounding.
        lost: whether it does.
    """

    point: Point
    value: float
    gradient: Tensor
    norm: float
    change: float
    lost: bool

    @property
    def finite(self) -> bool:
        """Whether value and gradient are finite."""
        return math.isfinite(self.value) and math.isfinite(self.norm)


def trial(problem: SmoothProblem, x: Point, value: float, gradient: Tensor, direction: Tensor) -> Trial:
    """Evaluate ``f`` and its gradient at ``x + direction``; ``value`` and ``gradient`` (flat) are those at ``x``."""
    point = tree.add_scaled(x, 1.0, tree.unravel(direction, x))
    found, slopes = problem.value_and_gradient(point)
    here, following = float(found), tree.ravel(slopes)
    rounding = rounding_of(value, torch.finfo(gradient.dtype).eps)
    slope, here_slope = float(gradient @ direction), float(following @ direction)
    change = change_of_value(value, slope, 1.0, here, here_slope, rounding)
    norm = float(torch.linalg.vector_norm(following))
    return Trial(point, here, following, norm, change, abs(here - value) < rounding)


def cholesky(matrix: Tensor, shift: float = 0.0) -> Tensor | None:
    """The Cholesky factor of ``matrix + shift I``, or ``None`` where that is not safely positive definite.

    It counts as one ``"factorization"``. A pivot below the rounding error of the largest is taken for zero.
    """
    tally("factorization")
    shifted = matrix
    if shift:
        shifted = matrix.clone()
        shifted.diagonal().add_(shift)
    factor, info = torch.linalg.cholesky_ex(shifted)
    if int(info):
        return None
    pivots = factor.diagonal().square()
    smallest, largest = float(pivots.min()), float(pivots.max())
    return factor if smallest > len(matrix) * torch.finfo(matrix.dtype).eps * largest else None


class Spectrum(NamedTuple):
    """An eigendecomposition ``H = Q diag(w) Q'``, from which every shifted system is two products with ``Q``.

    Attributes:
        values: the eigenvalues ``w``, ascending.
        vectors: their eigenvectors, the columns of ``Q``.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> "Spectrum":
        """Decompose a symmetric matrix; counts as one ``"factorization"``."""
        tally("factorization")
        return cls(*torch.linalg.eigh(matrix))

    def shifted(self, vector: Tensor, shift: float) -> Tensor:
        """``(H + shift I)^-1 vector``."""
        return self.vectors @ ((self.vectors.mT @ vector) / (self.values + shift))

    def absolute(self, vector: Tensor, damping: float) -> Tensor:
        """``(|H| + damping I)^-1 vector``, with the absolute eigenvalues."""
        return self.vectors @ ((self.vectors.mT @ vector) / (self.values.abs() + damping))

    def cubic(self, gradient: Tensor, constant: float) -> Tensor:
        r"""A global minimizer of :math:`\langle g, d\rangle + \tfrac12 \langle Hd, d\rangle + \tfrac M6 \|d\|^3`.

        It is characterized by :math:`(H + sI) d = -g` with :math:`s = M \|d\| / 2` and :math:`H + sI \succeq 0`. The
        root ``s`` of :math:`\|(H + sI)^{-1} g\| = 2s/M` beyond :math:`\max(0, -w_1)` is found by Newton's method on the
        reciprocals, which are almost straight in ``s``, kept in a bracket. In the hard case, where the left side stays
        below the right down to :math:`s = -w_1`, a multiple of the first eigenvector fills the length.

        Args:
            gradient: ``g``.
            constant: ``M > 0``.
        """
        part, eps = self.vectors.mT @ gradient, torch.finfo(gradient.dtype).eps
        size, lowest = float(torch.linalg.vector_norm(part)), float(self.values[0])
        pole = max(0.0, -lowest)
        if size == 0 and pole == 0:
            return torch.zeros_like(gradient)
        # The unknown is t = s - pole, not s: close to the pole, s has no digits left for it.
        gaps = self.values + pole
        scale = max(float(self.values.abs().max()), math.sqrt(0.5 * constant * size))
        low = eps * eps * scale
        if pole > 0 and float(torch.linalg.vector_norm(part / (gaps + low))) < 2 * pole / constant:
            rest = torch.where(gaps > 8 * eps * scale, part / gaps, 0.0)
            along = math.sqrt(max((2 * pole / constant) ** 2 - float(rest @ rest), 0.0))
            return -(self.vectors @ rest) - math.copysign(along, float(part[0])) * self.vectors[:, 0]
        # |(H + sI)^-1 g| <= |g| / (s + w_1) bounds the root by that of s (s + w_1) = M |g| / 2.
        high = constant * size / (math.hypot(lowest, math.sqrt(2 * constant * size)) + abs(lowest)) * (1 + 8 * eps)
        t = high
        for _ in range(200):
            solution = part / (gaps + t)
            length, target = float(torch.linalg.vector_norm(solution)), 2 * (pole + t) / constant
            low, high = (t, high) if length > target else (low, t)
            if abs(length - target) <= 4 * eps * target or high - low <= 2 * eps * high:
                break
            slope = float(solution @ (solution / (gaps + t))) / length**3 + 1 / (target * (pole + t))
            following = t - (1 / length - 1 / target) / slope
            t = following if low < following < high else 0.5 * (low + high)
        return -(self.vectors @ (part / (gaps + t)))
