r"""Geometries of mirror methods: a mirror map, its inverse, and the set it lives on.

A geometry has a strictly convex function :math:`\Phi`; points are moved in the dual space of :math:`\nabla \Phi(x)`.
For every tensor of a point, ``dual`` is :math:`\nabla \Phi(x)`, and ``primal`` the minimizer of :math:`\Phi(x) -
\langle \theta, x \rangle` over the set, which is a Bregman projection.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.ranges import Real
from steepest.core.tree import Point
from steepest.solve.convex.problem import CompositeProblem

__all__ = ["Entropy", "Euclidean", "Geometry", "PNorm"]


class Geometry(ABC):
    """The base of the geometries."""

    @abstractmethod
    def check(self, x: Point) -> None:
        """Raise ``ValueError`` where a start is not in the interior of the set."""

    @abstractmethod
    def dual(self, x: Point) -> Point:
        """The image of a point under the mirror map."""

    @abstractmethod
    def primal(self, problem: CompositeProblem, dual: Point) -> Point:
        """The point of the set that a dual point stands for."""

    @abstractmethod
    def settle(self, dual: Point, x: Point) -> Point:
        """The dual point from which mirror descent goes on: the mirror image of ``x = primal(dual)``."""

    @abstractmethod
    def distance(self, x: Point, y: Point) -> float:
        """The Bregman distance of ``x`` from ``y``."""


@dataclass(frozen=True)
class Euclidean(Geometry):
    r""":math:`\Phi(x) = \tfrac12 \|x\|_2^2`, 1-strongly convex in the Euclidean norm; the set is the problem's.

    Mirror descent is then the projected subgradient method.
    """

    def check(self, x: Point) -> None:
        return

    def dual(self, x: Point) -> Point:
        return x

    def primal(self, problem: CompositeProblem, dual: Point) -> Point:
        return problem.prox(dual, 1.0)

    def settle(self, dual: Point, x: Point) -> Point:
        return x

    def distance(self, x: Point, y: Point) -> float:
        return 0.5 * float(tree.norm(tree.add_scaled(x, -1.0, y))) ** 2


@dataclass(frozen=True)
class Entropy(Geometry):
    r""":math:`\Phi(x) = \sum_i x_i \log x_i` on the probability simplex (of the last dimension).

    It is 1-strongly convex in the :math:`\ell_1` norm.

    From the uniform point no point is farther than ``log d``, so the dimension enters rates by its logarithm only. The
    dual point is kept as logarithms, up to a constant: weights that underflow come back.
    """

    def check(self, x: Point) -> None:
        for leaf in tree.leaves(x):
            if not bool((leaf > 0).all() & ((leaf.sum(-1) - 1).abs() < 1e-4).all()):
                raise ValueError(f"start must be positive with sum 1 for the entropy, got {leaf}")

    def dual(self, x: Point) -> Point:
        return tree.tree_map(torch.log, x)

    def primal(self, problem: CompositeProblem, dual: Point) -> Point:
        return tree.tree_map(lambda leaf: torch.softmax(leaf, -1), dual)

    def settle(self, dual: Point, x: Point) -> Point:
        return tree.tree_map(lambda leaf: torch.log_softmax(leaf, -1), dual)

    def distance(self, x: Point, y: Point) -> float:
        pairs = zip(tree.leaves(x), tree.leaves(y), strict=True)
        return sum(float((torch.xlogy(a, a) - torch.xlogy(a, b)).sum()) for a, b in pairs)


@dataclass(frozen=True)
class PNorm(Geometry):
    r""":math:`\Phi(x) = \tfrac12 \|x\|_p^2` on the whole space, ``(p - 1)``-strongly convex in the p-norm.

    Near ``p = 1`` it suits sparse minimizers, as the entropy does; ``p = 1 + 1 / log d`` is the usual choice.

    Args:
        p: in (1, 2]. With 2 it is the Euclidean geometry without a set.
    """

    p: float

    def __post_init__(self) -> None:
        Real(low=1.0, high=2.0, low_open=True).check("p", self.p)

    def check(self, x: Point) -> None:
        return

    def dual(self, x: Point) -> Point:
        return tree.tree_map(lambda leaf: _power(leaf, self.p), x)

    def primal(self, problem: CompositeProblem, dual: Point) -> Point:
        return tree.tree_map(lambda leaf: _power(leaf, self.p / (self.p - 1)), dual)

    def settle(self, dual: Point, x: Point) -> Point:
        return dual

    def distance(self, x: Point, y: Point) -> float:
        def energy(point: Point) -> float:
            return sum(0.5 * float(torch.linalg.vector_norm(leaf, self.p)) ** 2 for leaf in tree.leaves(point))

        return energy(x) - energy(y) - float(tree.dot(self.dual(y), tree.add_scaled(x, -1.0, y)))


def _power(x: Tensor, p: float) -> Tensor:
    """The gradient of half the squared p-norm, ``sign(x) |x|^(p-1) / |x|_p^(p-2)``, scaled against overflow."""
    largest = x.abs().max()
    if not bool(largest > 0) or math.isinf(p):
        return x
    y = x / largest
    norm = torch.linalg.vector_norm(y, p)
    return largest * torch.sign(y) * y.abs() ** (p - 1) / norm ** (p - 2)
