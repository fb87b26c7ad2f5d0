"""Problems that split into two functions, coupled by linear equations, and the blocks that they are made of."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.losses import Loss, loss_of
from steepest.core.oracle import oracle
from steepest.core.problem import Problem
from steepest.core.ranges import Real
from steepest.core.regularizer import Regularizer
from steepest.core.tree import Point

__all__ = ["Block", "LossBlock", "ProxBlock", "QuadraticBlock", "SplitProblem"]

#: How far a point goes out along a direction to see the shape of a domain.
_FAR = 1e10


class Block(ABC):
    """A convex function of one variable and the linear map ``K`` through which the variable is coupled."""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """The function at ``x``, a 0-dim tensor."""

    @abstractmethod
    def update(self, v: Tensor, weight: float) -> Tensor:
        """The minimizer of the function plus ``weight / 2 |K x - v|^2``."""

    @abstractmethod
    def support(self, y: Tensor, zero: float) -> float:
        """The supremum of ``<y, x>`` over the domain; a ``y`` of norm at most ``zero`` counts as 0."""

    def apply(self, x: Tensor) -> Tensor:
        """``K x``."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``K^T y``."""
        return y


class _Scaled(Block):
    """A block whose ``K`` is a multiple of the identity."""

    def __init__(self, scale: float) -> None:
        Real().check("scale", scale)
        if scale == 0:
            raise ValueError("scale must not be 0")
        self.scale = scale

    @abstractmethod
    def prox(self, x: Tensor, step: float) -> Tensor:
        """The proximal step of the function."""

    def update(self, v: Tensor, weight: float) -> Tensor:
        return self.prox(v / self.scale, 1 / (weight * self.scale**2))

    def support(self, y: Tensor, zero: float) -> float:
        norm = float(y.norm())
        if norm <= zero:
            return 0.0
        # A proximal step with almost no weight on the function projects onto its domain.
        reach = float(torch.vdot(y.flatten(), self.prox(_FAR / norm * y, 1 / _FAR).flatten()))
        return math.inf if reach > 1e-3 * _FAR * norm else reach

    def apply(self, x: Tensor) -> Tensor:
        return self.scale * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.scale * y


class ProxBlock(_Scaled):
    """A function whose prox is cheap, coupled by ``K = scale * identity``.

    Args:
        function: a :class:`~steepest.core.regularizer.Regularizer`; the indicator of a set is one.
        scale: the factor, not 0. Default 1.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of its range.
    """

    def __init__(self, function: Regularizer, scale: float = 1.0) -> None:
        if not isinstance(function, Regularizer):
            raise TypeError(f"function must be a Regularizer, got {function!r}")
        super().__init__(scale)
        self.function = function

    def value(self, x: Tensor) -> Tensor:
        return self.function.value(x)

    def prox(self, x: Tensor, step: float) -> Tensor:
        return self.function.prox(x, step)


class LossBlock(_Scaled):
    """``c sum_i loss(x_i, y_i)`` of a vector of predictions, coupled by ``K = scale * identity``.

    Args:
        loss: a :class:`~steepest.core.losses.Loss` or its name.
        target: ``y``.
        weight: ``c``, > 0. Default 1.
        scale: the factor, not 0. Default 1.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of its range.
    """

    def __init__(self, loss: Loss | str, target: Tensor, weight: float = 1.0, scale: float = 1.0) -> None:
        Real(low=0.0, low_open=True).check("weight", weight)
        super().__init__(scale)
        self.loss, self.target, self.weight = loss_of(loss), target, weight
        self.loss.check_target(target)

    def value(self, x: Tensor) -> Tensor:
        return self.weight * self.loss.value(x, self.target).sum()

    def prox(self, x: Tensor, step: float) -> Tensor:
        return self.loss.prox(x, step * self.weight, self.target)


class QuadraticBlock(Block):
    """``x' P x / 2 + q' x``, where wanted subject to ``E x = e``, coupled by any matrix ``K``.

    Factorizations are kept, one for each ``weight`` that is asked for, the last few of them.

    Args:
        quadratic: ``P``, ``(n, n)``, symmetric and positive semidefinite; ``None`` for 0.
        linear: ``q``, ``(n,)``.
        operator: ``K``, ``(m, n)``; ``None`` (default) for the identity.
        equality: ``(E, e)`` with shapes ``(p, n)``, ``(p,)`` and ``E`` of full row rank; ``None`` (default) for none.

    Raises:
        ValueError: shapes do not fit.
    """

    def __init__(
        self,
        quadratic: Tensor | None,
        linear: Tensor,
        operator: Tensor | None = None,
        equality: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        size = len(linear)
        if linear.dim() != 1 or (quadratic is not None and quadratic.shape != (size, size)):
            shape = None if quadratic is None else list(quadratic.shape)
            raise ValueError(f"linear must be (n,) and quadratic (n, n), got {list(linear.shape)} and {shape}")
        if operator is not None and (operator.dim() != 2 or operator.shape[1] != size):
            raise ValueError(f"operator must be (m, {size}), got {list(operator.shape)}")
        if equality is not None:
            shapes = [list(part.shape) for part in equality]
            if equality[0].shape[1:] != (size,) or equality[1].shape != equality[0].shape[:1]:
                raise ValueError(f"equality must be (E, e) with shapes (p, {size}) and (p,), got {shapes}")
        self.quadratic, self.linear, self.operator, self.equality = quadratic, linear, operator, equality
        self._factors: dict[float, tuple[Tensor, Tensor]] = {}

    def fingerprint(self) -> str:
        """As that of a problem: factorizations are left out."""
        return Problem.fingerprint(self)  # type: ignore[arg-type]

    def value(self, x: Tensor) -> Tensor:
        value = self.linear @ x
        return value if self.quadratic is None else value + 0.5 * x @ (self.quadratic @ x)

    def update(self, v: Tensor, weight: float) -> Tensor:
        right = weight * self.adjoint(v) - self.linear
        if self.equality is not None:
            right = torch.cat([right, self.equality[1]])
        factor, pivots = self._factor(weight)
        return torch.linalg.lu_solve(factor, pivots, right[:, None])[: len(self.linear), 0]

    def support(self, y: Tensor, zero: float) -> float:
        if self.equality is None:
            return 0.0 if float(y.norm()) <= zero else math.inf
        matrix, right = self.equality
        multiplier = torch.linalg.lstsq(matrix.mT, y[:, None]).solution[:, 0]
        if float((matrix.mT @ multiplier - y).norm()) > zero:
            return math.inf
        return float(multiplier @ right)

    def apply(self, x: Tensor) -> Tensor:
        return x if self.operator is None else self.operator @ x

    def adjoint(self, y: Tensor) -> Tensor:
        return y if self.operator is None else self.operator.mT @ y

    def _factor(self, weight: float) -> tuple[Tensor, Tensor]:
        if weight not in self._factors:
            size = len(self.linear)
            identity = torch.eye(size, dtype=self.linear.dtype, device=self.linear.device)
            matrix = weight * (identity if self.operator is None else self.operator.mT @ self.operator)
            if self.quadratic is not None:
                matrix = matrix + self.quadratic
            if self.equality is not None:
                rows = self.equality[0]
                corner = rows.new_zeros(len(rows), len(rows))
                matrix = torch.cat([torch.cat([matrix, rows.mT], 1), torch.cat([rows, corner], 1)])
            factor, pivots, failed = torch.linalg.lu_factor_ex(matrix)
            diagonal = factor.diagonal().abs()
            if int(failed) or float(diagonal.min()) <= 1e-3 * torch.finfo(matrix.dtype).eps * float(diagonal.max()):
                raise ValueError(
                    "the minimizer of this block is not unique: P + K'K must be positive definite on the null space of "
                    "E, and E of full row rank"
                )
            while len(self._factors) >= 4:
                self._factors.pop(next(iter(self._factors)))
            self._factors[weight] = (factor, pivots)
        return self._factors[weight]


class SplitProblem(Problem):
    """Minimize two functions of two variables that are coupled by linear equations::

        min_{x, z} f(x) + g(z)   subject to   A x + B z = c

    Args:
        first: ``f`` and ``A``, a :class:`Block`.
        second: ``g`` and ``B``, a :class:`Block`. For ``x = z`` give it ``scale=-1``.
        offset: ``c``, a tensor that broadcasts against ``A x``; default 0.

    A point is the tuple ``(x, z)``. Offers ``"value"``, ``"first update"`` and ``"second update"``, the minimizers over
    one variable of the function plus ``weight / 2 |A x + B z - c|^2`` with the other shifted in.

    Raises:
        TypeError: a part is not a block.
    """

    def __init__(self, first: Block, second: Block, offset: Tensor | float = 0.0) -> None:
        for name, block in (("first", first), ("second", second)):
            if not isinstance(block, Block):
                raise TypeError(f"{name} must be a Block, such as ProxBlock(L1(0.1)), got {block!r}")
        self.first, self.second, self.offset = first, second, offset

    def check_start(self, start: Point) -> None:
        """As :meth:`Problem.check_start`; besides, a point is a pair of floating-point tensors.

        Raises:
            TypeError: it is not.
        """
        super().check_start(start)
        if not (isinstance(start, (tuple, list)) and len(start) == 2 and all(isinstance(p, Tensor) for p in start)):
            raise TypeError(f"start must be a pair (x, z) of tensors, got {tree.describe(start)}")
        if not all(part.is_floating_point() for part in start):
            raise TypeError(f"start must hold floating-point tensors, got {tree.describe(start)}; convert it first")

    @oracle("value")
    def value(self, x: Point) -> Tensor:
        """``f(x) + g(z)``, a 0-dim tensor."""
        return self._value(x)

    @oracle("first update")
    def first_update(self, v: Tensor, weight: float) -> Tensor:
        """The minimizer of ``f(x) + weight / 2 |A x - v|^2``."""
        return self.first.update(v, weight)

    @oracle("second update")
    def second_update(self, v: Tensor, weight: float) -> Tensor:
        """The minimizer of ``g(z) + weight / 2 |B z - v|^2``."""
        return self.second.update(v, weight)

    def separates(self, direction: Tensor) -> bool:
        """Whether ``direction`` proves that no point of the two domains satisfies the equations.

        It does where ``<v, A x + B z - c>`` is positive over all of them, which support functions of the domains tell.
        """
        norm = float(direction.norm())
        if not norm > 0:
            return False
        v = direction / norm
        zero = 1e3 * torch.finfo(v.dtype).eps ** 0.75
        first, second = self.first.adjoint(v), self.second.adjoint(v)
        reach = self.first.support(-first, zero) + self.second.support(-second, zero)
        least = -reach - float((v * self.offset).sum())
        return least > zero * (1 + abs(reach))

    def falls_forever(self, point: Point, direction: Point) -> bool:
        """Whether the value falls along a ray of points that all satisfy the equations as well as the first does."""
        (x, z), (dx, dz) = point, direction
        norm = float(tree.norm(direction))
        if not norm > 0:
            return False
        dx, dz = dx / norm, dz / norm
        far = _FAR * max(1.0, float(tree.norm(point)))
        slack = float((self.first.apply(dx) + self.second.apply(dz)).norm())
        if slack > 1e3 * torch.finfo(dx.dtype).eps ** 0.75:
            return False
        here, there = float(self._value(point)), float(self._value((x + far * dx, z + far * dz)))
        return there < here - 1e-6 * far

    def _value(self, point: Point) -> Tensor:
        return self.first.value(point[0]) + self.second.value(point[1])
