"""Composite problems whose second part is differentiable too, seen as one smooth problem."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.matrix import transposed
from steepest.core.oracle import oracle
from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import Zero
from steepest.core.tree import Point

if TYPE_CHECKING:
    from steepest.solve.convex.problem import CompositeProblem, LinearModel

__all__ = ["SmoothLinearModel", "smooth_view"]


def smooth_view(problem: "CompositeProblem") -> SmoothProblem:
    """``min f + g`` as a smooth problem; see :meth:`~steepest.solve.convex.problem.CompositeProblem.as_smooth`.

    Raises:
        ValueError: ``f`` or ``g`` is not smooth.
    """
    from steepest.solve.convex.problem import LinearModel

    if not problem.regularizer.smooth:
        raise ValueError(
            f"regularizer must be smooth (Zero, SquaredL2, ...) for a smooth problem, got {problem.regularizer!r}"
        )
    if not isinstance(problem, LinearModel):
        return _SmoothComposite(problem)
    if math.isinf(problem.loss.curvature):
        raise ValueError(f"loss must be smooth for a smooth problem, got {problem.loss!r}")
    return SmoothLinearModel(problem)


class _SmoothComposite(SmoothProblem):
    """``f + g``, differentiated as one function."""

    def __init__(self, problem: "CompositeProblem") -> None:
        self.problem = problem
        super().__init__(self._total)

    def check_start(self, start: Point) -> None:
        """As the composite problem's."""
        self.problem.check_start(start)

    def _total(self, x: Point) -> Tensor:
        return self.problem.smooth.function(x) + self.problem._regularizer(x)


class SmoothLinearModel(SmoothProblem):
    """A linear model whose loss and regularizer are smooth, by closed formulas; made by ``model.as_smooth()``.

    The point is one tensor, ``(d,)`` or ``(d, k)``. It offers what a smooth problem offers, dense designs and CSR.

    Attributes:
        model: the linear model.
    """

    def __init__(self, model: "LinearModel") -> None:
        self.model = model
        self._back = transposed(model.design)
        self._free = isinstance(model.regularizer, Zero)
        super().__init__(self._total)

    def check_start(self, start: Point) -> None:
        """As :meth:`SmoothProblem.check_start`; besides, the start is a tensor of the shape of the coefficients.

        Raises:
            TypeError: it is not one tensor.
            ValueError: it has another shape.
        """
        super().check_start(start)
        shape = (self.model.design.shape[1], *self.model.target.shape[1:])
        if not isinstance(start, Tensor):
            raise TypeError(f"start must be one tensor, got {tree.describe(start)}")
        if tuple(start.shape) != shape:
            raise ValueError(f"start must have shape {list(shape)}, got {list(start.shape)}")

    @oracle("value")
    def value(self, x: Point) -> Tensor:
        """``f(x) + g(x)``, a 0-dim tensor."""
        return self._total(x)

    @oracle("hvp")
    def hvp(self, x: Point, direction: Point) -> Point:
        """The Hessian at ``x`` times ``direction``."""
        model = self.model
        weight = model.scale * model.loss.second_derivative(model.predict(x), model.target)
        product = self._back @ (weight * model.predict(direction))
        return product if self._free else product + model.regularizer.hvp(x, direction)

    @oracle("hessian")
    def hessian(self, x: Point) -> Tensor:
        """The Hessian, over the flattened point."""
        matrix = self.model._hessian_at(self.model.predict(x))
        return matrix if self._free else matrix + self.model.regularizer.hessian(x)

    def _total(self, x: Any) -> Tensor:
        value = self.model._function(x)
        return value if self._free else value + self.model.regularizer.value(x)

    def _value_and_gradient(self, x: Point) -> tuple[Tensor, Point]:
        model = self.model
        prediction = model.predict(x)
        value = model.scale * model.loss.value(prediction, model.target).sum()
        gradient = torch.mul(self._back @ model.loss.derivative(prediction, model.target), model.scale)
        if self._free:
            return value, gradient
        return value + model.regularizer.value(x), gradient + model.regularizer.gradient(x)
