"""Approximations of the Hessian, as objects that a method is given: exact, diagonal, Gauss-Newton, Fisher, any."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.oracle import tally
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Real
from steepest.core.tree import Point
from steepest.solve.convex.second_order import cholesky

__all__ = [
    "Curvature",
    "DiagonalHessian",
    "ExactHessian",
    "Fisher",
    "GaussNewton",
    "Matrix",
    "RankOne",
    "Supplied",
]


class Matrix:
    """A symmetric matrix of which shifted systems are solved, given whole or as its diagonal.

    Args:
        entries: ``(d, d)``, or ``(d,)`` for a diagonal matrix.
    """

    def __init__(self, entries: Tensor) -> None:
        self.entries = entries

    def solve(self, shift: float, vector: Tensor) -> Tensor | None:
        """``(H + shift I)^-1 vector``; ``None`` where the sum is not positive definite. A matrix is factorized anew for
        every shift."""
        if self.entries.dim() == 1:
            shifted = self.entries + shift
            return vector / shifted if bool((shifted > 0).all()) else None
        factor = cholesky(self.entries, shift)
        if factor is None:
            return None
        solution: Tensor = torch.cholesky_solve(vector[:, None], factor)[:, 0]
        return solution


class RankOne:
    """``scale * v v'`` with ``scale >= 0``; shifted systems by Sherman and Morrison's formula, in ``O(d)``."""

    def __init__(self, vector: Tensor, scale: float) -> None:
        self.vector, self.scale = vector, scale

    def solve(self, shift: float, vector: Tensor) -> Tensor | None:
        """``(H + shift I)^-1 vector``; ``None`` where the shift is not positive."""
        if not shift > 0:
            return None
        v, a = self.vector, self.scale
        return (vector - (a * (v @ vector) / (shift + a * (v @ v))) * v) / shift


class Curvature(ABC):
    """How a Hessian is approximated.

    Class attributes:
        needs: oracles that the problem must offer for it.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def at(self, problem: SmoothProblem, x: Point, value: float, gradient: Tensor) -> Matrix | RankOne:
        """The approximation at ``x``, over the flattened point; ``value`` and ``gradient`` (flat) are those there."""


@dataclass(frozen=True)
class ExactHessian(Curvature):
    """The Hessian of the problem."""

    needs = frozenset({"hessian"})

    def at(self, problem: SmoothProblem, x: Point, value: float, gradient: Tensor) -> Matrix:
        return Matrix(problem.hessian(x))


@dataclass(frozen=True)
class DiagonalHessian(Curvature):
    """The nonnegative part of the Hessian's diagonal. It is cut out of the dense Hessian, and costs as much, but needs
    no factorization; where there is a formula for the diagonal, give it to :class:`Supplied`."""

    needs = frozenset({"hessian"})

    def at(self, problem: SmoothProblem, x: Point, value: float, gradient: Tensor) -> Matrix:
        return Matrix(problem.hessian(x).diagonal().clamp_min(0))


@dataclass(frozen=True)
class GaussNewton(Curvature):
    r""":math:`J^\top W J` for :math:`f = h \circ u`, with the Jacobian :math:`J` of the inner function.

    With ``W`` the Hessian of ``h`` it is the generalized Gauss-Newton matrix. A positive semidefinite part of that
    Hessian gives a coarser one: for the log-sum-exp :math:`h(u) = \mu \log \sum_i e^{u_i / \mu}` the weighted one of
    the paper, :math:`w = \mathrm{softmax}(u / \mu) / \mu`, leaves out a term of rank one.

    Args:
        inner: ``u``, a differentiable function of the point, whose value is flattened.
        weight: maps the flattened ``u(x)`` to ``W``: a vector (a diagonal matrix) or a matrix, positive semidefinite.
    """

    inner: Callable[[Any], Tensor]
    weight: Callable[[Tensor], Tensor]

    def at(self, problem: SmoothProblem, x: Point, value: float, gradient: Tensor) -> Matrix:
        tally("jacobian")
        flat = tree.ravel(x)

        def inner(vector: Tensor) -> Tensor:
            return self.inner(tree.unravel(vector, x)).reshape(-1)

        outputs = inner(flat)
        differentiate = torch.func.jacrev if len(outputs) < len(flat) else torch.func.jacfwd
        jacobian: Tensor = differentiate(inner)(flat)
        weight = self.weight(outputs)
        weighted = weight[:, None] * jacobian if weight.dim() == 1 else weight @ jacobian
        matrix = jacobian.mT @ weighted
        return Matrix(0.5 * (matrix + matrix.mT))


@dataclass(frozen=True)
class Fisher(Curvature):
    r"""The term of rank one in the Hessian of a power, :math:`f = \|u(x)\|^p / p`.

    .. math:: H = \frac{p - 2}{p\, f(x)} \nabla f(x) \nabla f(x)^\top = (p - 2) \|u\|^{p-4} (J^\top u) (J^\top u)^\top

    It costs nothing beyond the gradient. For ``p = 2`` it is zero, and the steps are normalized gradients.

    Args:
        power: ``p >= 2``.

    Raises:
        ValueError: ``power`` is less than 2.
    """

    power: float

    def __post_init__(self) -> None:
        Real(low=2.0).check("power", self.power)

    def at(self, problem: SmoothProblem, x: Point, value: float, gradient: Tensor) -> RankOne:
        return RankOne(gradient, (self.power - 2) / (self.power * value) if value > 0 else 0.0)


@dataclass(frozen=True)
class Supplied(Curvature):
    """One's own approximation.

    Args:
        function: maps a point to a symmetric matrix over the flattened point, or to a vector, its diagonal.
    """

    function: Callable[[Any], Tensor]

    def at(self, problem: SmoothProblem, x: Point, value: float, gradient: Tensor) -> Matrix:
        tally("curvature")
        return Matrix(self.function(x))
