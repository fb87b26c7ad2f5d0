"""Monotone variational inequalities, and convex-concave saddle points as their most common kind."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from steepest.core import tree
from steepest.core.oracle import oracle
from steepest.core.problem import Problem
from steepest.core.regularizer import Regularizer, Zero
from steepest.core.tree import Point

__all__ = ["MonotoneProblem", "SaddleProblem"]


class MonotoneProblem(Problem):
    """Find a point ``z`` of a convex set ``Z`` with::

        <F(z), w - z> >= 0   for all w in Z

    for a monotone operator ``F``: ``<F(w) - F(z), w - z> >= 0`` (the gradient of a convex function is one; so is the
    pair of gradients of a convex-concave function, the second with a minus).

    Args:
        operator: maps a point to one of the same structure.
        sets: the indicator of the set of each tensor of a point, in their order; by default none (the whole space).

    Offers ``"operator"``, ``"prox"`` (the projection) and, where all sets are bounded, ``"lmo"``.

    Raises:
        TypeError: an argument is of the wrong kind.
    """

    def __init__(self, operator: Callable[[Any], Any], sets: tuple[Regularizer, ...] | None = None) -> None:
        if not callable(operator):
            raise TypeError(f"operator must be callable, got {operator!r}")
        if sets is not None and not all(isinstance(item, Regularizer) for item in sets):
            raise TypeError(f"sets must be a tuple of Regularizers or None, got {sets!r}")
        self.map = operator
        self.sets = sets

    @property
    def offers(self) -> frozenset[str]:
        """What the class declares, without ``"lmo"`` where a set is not bounded."""
        bounded = self.sets is not None and all(item.offers("lmo") for item in self.sets)
        return self._declared - (set() if bounded else {"lmo"})

    def check_start(self, start: Point) -> None:
        """As :meth:`Problem.check_start`; besides, floating-point tensors, one for each set.

        Raises:
            TypeError, ValueError: they are not.
        """
        super().check_start(start)
        found = tree.leaves(start)
        if not all(leaf.is_floating_point() for leaf in found):
            raise TypeError(f"start must hold floating-point tensors, got {tree.describe(start)}; convert it first")
        if self.sets is not None and len(found) != len(self.sets):
            raise ValueError(f"start must hold {len(self.sets)} tensors, one for each set, got {tree.describe(start)}")

    @oracle("operator")
    def operator(self, z: Point) -> Point:
        """``F(z)``."""
        return self.map(z)

    @oracle("prox")
    def prox(self, z: Point, step: float | Tensor) -> Point:
        """The projection onto ``Z``."""
        return self._each(z, lambda item, leaf: item.prox(leaf, step))

    @oracle("lmo")
    def lmo(self, direction: Point) -> Point:
        """A minimizer of ``<direction, z>`` over ``Z``."""
        return self._each(direction, lambda item, leaf: item.lmo(leaf))

    def _each(self, point: Point, function: Callable[[Regularizer, Tensor], Tensor]) -> Point:
        flat, structure = pytree.tree_flatten(point)
        sets = self.sets or (Zero(),) * len(flat)
        return pytree.tree_unflatten([function(*pair) for pair in zip(sets, flat, strict=True)], structure)


class SaddleProblem(MonotoneProblem):
    """Find a saddle point ``min_x max_y f(x, y)`` of a function that is convex in ``x`` and concave in ``y``.

    Args:
        function: maps ``x`` and ``y``, one tensor each, to a tensor with one element, by differentiable operations.
        sets: the indicators of the sets of ``x`` and of ``y``; by default none.

    A point is the pair ``(x, y)``. Besides what a :class:`MonotoneProblem` offers: ``"value"``, that of ``function``.

    Raises:
        TypeError: an argument is of the wrong kind.
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], sets: tuple[Regularizer, Regularizer] | None = None
    ) -> None:
        super().__init__(self._gradients, sets)
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r}")
        self.function = function

    def fingerprint(self) -> str:
        """As :meth:`Problem.fingerprint`, of the function and the sets."""
        seen = MonotoneProblem(self.function, self.sets)
        return f"saddle {Problem.fingerprint(seen)}"

    def check_start(self, start: Point) -> None:
        """As :meth:`MonotoneProblem.check_start`; besides, the point is a pair.

        Raises:
            TypeError: it is not.
        """
        super().check_start(start)
        if not (isinstance(start, (tuple, list)) and len(start) == 2):
            raise TypeError(f"start must be a pair (x, y) of tensors, got {tree.describe(start)}")

    @oracle("value")
    def value(self, z: Point) -> Tensor:
        """``f(x, y)``, a 0-dim tensor."""
        with torch.no_grad():
            return self.function(*z).reshape(())

    def _gradients(self, z: Point) -> Point:
        with torch.enable_grad():
            x, y = (part.detach().requires_grad_() for part in z)
            value = self.function(x, y)
            dx, dy = torch.autograd.grad(value, (x, y), allow_unused=True, materialize_grads=True)
        return type(z)((dx, -dy))
