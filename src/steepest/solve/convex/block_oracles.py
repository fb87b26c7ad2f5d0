"""What block coordinate methods ask of a problem: blocks of the gradient and of the Hessian, from an image of the point
that a block's step updates cheaply."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from steepest.core.losses import Squared
from steepest.core.oracle import tally
from steepest.solve.convex.columns import Columns
from steepest.solve.convex.problem import LinearModel
from steepest.solve.convex.quadratic import Quadratic
from steepest.solve.convex.separable import SeparableForm
from steepest.solve.convex.working_set_newton import separable_of

__all__ = ["BlockOracles"]


class BlockOracles(ABC):
    """The smooth part ``f`` of a problem, block by block; ``image`` is ``A x``."""

    def __init__(self, problem: LinearModel | Quadratic, columns: Columns) -> None:
        self.problem, self.columns = problem, columns

    @staticmethod
    def of(problem: LinearModel | Quadratic) -> "BlockOracles":
        """Those of a problem.

        Raises:
            TypeError: it is of another class.
        """
        if isinstance(problem, LinearModel):
            return _Linear(problem, Columns.of(problem))
        if isinstance(problem, Quadratic):
            return _Quadratic(problem, Columns.of(problem))
        raise TypeError(f"problem must be a LinearModel or a Quadratic, got {type(problem).__name__}")

    def form(self, start: Tensor, by: str) -> SeparableForm:
        """The regularizer, after a check of the start."""
        if isinstance(self.problem, LinearModel):
            return separable_of(self.problem, start, by)
        if tuple(start.shape) != tuple(self.problem.linear.shape):
            raise ValueError(f"{by}: start must be a vector of {len(self.problem.linear)} numbers, got {start.shape}")
        return SeparableForm.of(self.problem.regularizer, start)

    def image(self, x: Tensor) -> Tensor:
        """``A x``."""
        tally("product")
        return self.problem.design @ x

    def moved(self, image: Tensor, block: Tensor, delta: Tensor) -> Tensor:
        """The image after ``x[block] += delta``."""
        return image + delta @ self.columns.dense(block)

    @abstractmethod
    def value(self, image: Tensor, x: Tensor) -> float: ...

    @abstractmethod
    def gradient(self, image: Tensor) -> Tensor: ...

    @abstractmethod
    def curvature(self, image: Tensor, block: Tensor) -> Tensor:
        """The block of the Hessian at the point."""

    @abstractmethod
    def bound(self, block: Tensor) -> Tensor:
        """A matrix that no block of a Hessian exceeds."""

    @abstractmethod
    def lipschitz(self) -> Tensor:
        """The Lipschitz constant of each entry of the gradient in its own coordinate, > 0."""

    def certificate(self, form: SeparableForm, x: Tensor, image: Tensor, gradient: Tensor, value: float) -> float:
        """The duality gap where there is one, else the largest violation of the optimality conditions."""
        return float(form.violation(x, gradient).max())


class _Linear(BlockOracles):
    problem: LinearModel

    def value(self, image: Tensor, x: Tensor) -> float:
        return float(self.problem.scale * self.problem.loss.value(image, self.problem.target).sum())

    def gradient(self, image: Tensor) -> Tensor:
        tally("product")
        slope = self.problem.loss.derivative(image, self.problem.target)
        return self.problem.scale * (self.columns.transposed @ slope)

    def curvature(self, image: Tensor, block: Tensor) -> Tensor:
        if isinstance(self.problem.loss, Squared):
            return self.bound(block)
        weight = self.problem.scale * self.problem.loss.second_derivative(image, self.problem.target)
        part = self.columns.gather(block)
        return self.columns.gram(part, part, weight)

    def bound(self, block: Tensor) -> Tensor:
        part = self.columns.gather(block)
        return self.problem.scale * self.problem.loss.curvature * self.columns.gram(part, part)

    def lipschitz(self) -> Tensor:
        squares = self.columns.squared_norms()
        factor = self.problem.scale * self.problem.loss.curvature
        return factor * squares.clamp_min(torch.finfo(squares.dtype).tiny ** 0.5)

    def certificate(self, form: SeparableForm, x: Tensor, image: Tensor, gradient: Tensor, value: float) -> float:
        if not ("gap" in self.problem.offers and form.has_dual()):
            return super().certificate(form, x, image, gradient, value)
        slope = self.problem.loss.derivative(image, self.problem.target)
        return max(value - float(self.problem.dual_value_of(slope, gradient)), 0.0)


class _Quadratic(BlockOracles):
    problem: Quadratic

    def value(self, image: Tensor, x: Tensor) -> float:
        return float(0.5 * (x @ image) - self.problem.linear @ x)

    def gradient(self, image: Tensor) -> Tensor:
        return image - self.problem.linear

    def curvature(self, image: Tensor, block: Tensor) -> Tensor:
        return self.bound(block)

    def bound(self, block: Tensor) -> Tensor:
        return self.columns.dense(block)[:, block]

    def lipschitz(self) -> Tensor:
        diagonal = self.columns.diagonal()
        return diagonal.clamp_min(torch.finfo(diagonal.dtype).tiny ** 0.5)
