"""Indicators of sets: zero on the set, infinite outside. The prox is the projection, whatever the step."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core import prox
from steepest.core.ranges import Integer, Real
from steepest.core.regularizer.base import Regularizer, indicator, slack

__all__ = ["Affine", "Box", "Halfspace", "L1Ball", "L2Ball", "LInfBall", "Nonnegative", "NuclearBall", "Simplex"]


class _Bounded(Regularizer):
    """The indicator of a bounded set: its conjugate, the support function, is finite and attained by the lmo."""

    def conjugate(self, y: Tensor) -> Tensor:
        return (y * self.lmo(-y)).sum()

    def dual_scale(self, y: Tensor) -> Tensor:
        return y.new_ones(())

    @abstractmethod
    def lmo(self, direction: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Nonnegative(Regularizer):
    """Every entry >= 0."""

    def value(self, x: Tensor) -> Tensor:
        return indicator((x >= 0).all(), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.nonnegative(x)

    def conjugate(self, y: Tensor) -> Tensor:
        return indicator((y <= 0).all(), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        return (y <= 0).all().to(y.dtype)


@dataclass(frozen=True)
class Box(Regularizer):
    """``low <= x <= high``.

    Args:
        low, high: the bounds, numbers or tensors that broadcast against the point; they may be infinite.

    Raises:
        TypeError: a bound is no number.
        ValueError: a bound is NaN, or ``low`` exceeds ``high`` somewhere.
    """

    low: float | Tensor
    high: float | Tensor

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if not isinstance(bound, Tensor) or bound.numel() == 1:
                self._real(name, Real(infinite=True))
            elif bool(bound.isnan().any()):
                raise ValueError(f"Box: {name} must not hold NaN")
        if bool((torch.as_tensor(self.low) > torch.as_tensor(self.high)).any()):
            raise ValueError(f"Box: low must not exceed high, got low={self.low!r} and high={self.high!r}")

    def offers(self, name: str) -> bool:
        """As :meth:`Regularizer.offers`; an lmo where all bounds are finite."""
        finite = all(bool(torch.as_tensor(b).isfinite().all()) for b in (self.low, self.high))
        return super().offers(name) and (name != "lmo" or finite)

    def value(self, x: Tensor) -> Tensor:
        return indicator(((x >= self.low) & (x <= self.high)).all(), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.box(x, self.low, self.high)

    def conjugate(self, y: Tensor) -> Tensor:
        return torch.where(y == 0, 0.0, y * self._side(y > 0, y)).sum()

    def dual_scale(self, y: Tensor) -> Tensor:
        return ((y == 0) | self._side(y > 0, y).isfinite()).all().to(y.dtype)

    def lmo(self, direction: Tensor) -> Tensor:
        if not self.offers("lmo"):
            raise NotImplementedError("Box has no lmo, since a bound is infinite")
        return self._side(direction <= 0, direction)

    def _side(self, high: Tensor, x: Tensor) -> Tensor:
        """The upper bound where ``high``, else the lower one."""
        upper, low = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in (self.high, self.low))
        return torch.where(high, upper, low)


@dataclass(frozen=True)
class Simplex(_Bounded):
    """Every entry >= 0, and the sum is ``total``.

    Args:
        total: > 0. Default 1.
        dim: the dimension whose slices are such vectors; ``None`` takes the point as one. Default -1.

    Raises:
        ValueError, TypeError: ``total`` is not positive, not finite or no number.
    """

    total: float | Tensor = 1.0
    dim: int | None = -1

    def __post_init__(self) -> None:
        self._real("total", Real(low=0.0, low_open=True))
        Integer(low=-64, optional=True).check("Simplex: dim", self.dim)

    def value(self, x: Tensor) -> Tensor:
        sums = x.sum() if self.dim is None else x.sum(self.dim)
        near = ((sums - self.total).abs() <= slack(x) * self.total).all()
        return indicator((x >= 0).all() & near, x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.simplex(x, self.total, self.dim)

    def lmo(self, direction: Tensor) -> Tensor:
        return _corner(direction, self.dim) * self.total


@dataclass(frozen=True)
class L1Ball(_Bounded):
    """``|x|_1 <= radius``.

    Args:
        radius: > 0. Default 1.
        dim: the dimension whose slices are such vectors; ``None`` (default) takes the point as one.

    Raises:
        ValueError, TypeError: ``radius`` is not positive, not finite or no number.
    """

    radius: float | Tensor = 1.0
    dim: int | None = None

    def __post_init__(self) -> None:
        self._real("radius", Real(low=0.0, low_open=True))
        Integer(low=-64, optional=True).check("L1Ball: dim", self.dim)

    def value(self, x: Tensor) -> Tensor:
        sums = x.abs().sum() if self.dim is None else x.abs().sum(self.dim)
        return indicator((sums <= self.radius * (1 + slack(x))).all(), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.l1_ball(x, self.radius, self.dim)

    def lmo(self, direction: Tensor) -> Tensor:
        return -self.radius * _corner(-direction.abs(), self.dim) * _sign(direction)


@dataclass(frozen=True)
class L2Ball(_Bounded):
    """``|x|_2 <= radius``.

    Args:
        radius: > 0. Default 1.
        dim: the dimension whose slices are such vectors; ``None`` (default) takes the point as one.

    Raises:
        ValueError, TypeError: ``radius`` is not positive, not finite or no number.
    """

    radius: float | Tensor = 1.0
    dim: int | None = None

    def __post_init__(self) -> None:
        self._real("radius", Real(low=0.0, low_open=True))
        Integer(low=-64, optional=True).check("L2Ball: dim", self.dim)

    def value(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=self.dim)
        return indicator((norm <= self.radius * (1 + slack(x))).all(), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.l2_ball(x, self.radius, self.dim)

    def lmo(self, direction: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(direction, dim=self.dim, keepdim=True)
        corner: Tensor = -self.radius * direction / torch.where(norm > 0, norm, 1.0)
        return corner


@dataclass(frozen=True)
class LInfBall(_Bounded):
    """``|x|_inf <= radius``.

    Args:
        radius: > 0. Default 1.

    Raises:
        ValueError, TypeError: ``radius`` is not positive, not finite or no number.
    """

    radius: float | Tensor = 1.0

    def __post_init__(self) -> None:
        self._real("radius", Real(low=0.0, low_open=True))

    def value(self, x: Tensor) -> Tensor:
        return indicator((x.abs() <= self.radius * (1 + slack(x))).all(), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.linf_ball(x, self.radius)

    def lmo(self, direction: Tensor) -> Tensor:
        return -self.radius * _sign(direction)


@dataclass(frozen=True, eq=False)
class Affine(Regularizer):
    """The affine subspace ``matrix @ x == offset``; points ``(..., n)`` are batches of vectors.

    Args:
        matrix: ``(m, n)``, of any rank; its pseudo-inverse is computed once, in float64.
        offset: ``(m,)``.

    Raises:
        TypeError, ValueError: an argument is no finite tensor of that shape, or the equations contradict each other.
    """

    matrix: Tensor
    offset: Tensor

    def __post_init__(self) -> None:
        for name in ("matrix", "offset"):
            data = getattr(self, name)
            if not isinstance(data, Tensor) or not data.is_floating_point():
                raise TypeError(f"Affine: {name} must be a tensor of a floating-point dtype, got {data!r}")
            if not bool(data.isfinite().all()):
                raise ValueError(f"Affine: {name} must be finite, but it holds NaN or an infinity")
        if self.matrix.dim() != 2 or self.offset.shape != self.matrix.shape[:1]:
            raise ValueError(
                "Affine: matrix must be (m, n) and offset (m,), got "
                f"{list(self.matrix.shape)} and {list(self.offset.shape)}"
            )
        # Data in float32 have the rank that float32 can tell.
        smallest = max(self.matrix.shape) * torch.finfo(self.matrix.dtype).eps
        inverse = torch.linalg.pinv(self.matrix.double(), rtol=smallest)
        object.__setattr__(self, "_inverse", inverse)
        miss = self.matrix.double() @ (inverse @ self.offset.double()) - self.offset
        if bool(miss.abs().max() > 1e3 * slack(self.offset) * self.offset.abs().max()):
            raise ValueError(f"Affine: no point meets the equations; the least-squares residual is {miss.norm():.3g}")

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        data: list[Any] = [self.matrix, self.offset, self.__dict__["_inverse"]]
        matrix, offset, inverse = (t.to(dtype=x.dtype, device=x.device) for t in data)
        return matrix, offset, inverse

    def value(self, x: Tensor) -> Tensor:
        matrix, offset, _ = self._cast(x)
        scale = x.abs() @ matrix.abs().mT + offset.abs()
        return indicator(((x @ matrix.mT - offset).abs() <= slack(x) * scale).all(), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        matrix, offset, inverse = self._cast(x)
        return prox.affine(x, matrix, offset, inverse)

    def conjugate(self, y: Tensor) -> Tensor:
        matrix, offset, inverse = self._cast(y)
        multiplier = y @ inverse
        return (multiplier * offset).sum() + indicator(self._in_range(y, multiplier @ matrix), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        matrix, _, inverse = self._cast(y)
        return self._in_range(y, y @ inverse @ matrix).to(y.dtype)

    @staticmethod
    def _in_range(y: Tensor, projected: Tensor) -> Tensor:
        rest: Tensor = torch.linalg.vector_norm(y - projected)
        whole: Tensor = torch.linalg.vector_norm(y)
        return rest <= 100 * slack(y) * whole


@dataclass(frozen=True, eq=False)
class Halfspace(Regularizer):
    """``<normal, x> <= offset``.

    Args:
        normal: a tensor of the shape of the point, not zero.
        offset: a number.

    Raises:
        TypeError, ValueError: ``normal`` is no finite tensor, or zero; ``offset`` is not finite or no number.
    """

    normal: Tensor
    offset: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.normal, Tensor) or not self.normal.is_floating_point():
            raise TypeError(f"Halfspace: normal must be a tensor of a floating-point dtype, got {self.normal!r}")
        if not bool(self.normal.isfinite().all()) or bool((self.normal == 0).all()):
            raise ValueError("Halfspace: normal must be finite and not zero")
        self._real("offset", Real())

    def _normal(self, x: Tensor) -> Tensor:
        normal = self.normal.to(dtype=x.dtype, device=x.device)
        if normal.shape != x.shape:
            raise ValueError(f"Halfspace: the point must have the shape {list(normal.shape)}, got {list(x.shape)}")
        return normal

    def value(self, x: Tensor) -> Tensor:
        product = self._normal(x) * x
        scale = product.abs().sum() + torch.as_tensor(self.offset).abs()
        return indicator(product.sum() - self.offset <= slack(x) * scale, x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.halfspace(x, self._normal(x), self.offset)

    def conjugate(self, y: Tensor) -> Tensor:
        multiplier, inside = self._multiplier(y)
        return multiplier * self.offset + indicator(inside, y)

    def dual_scale(self, y: Tensor) -> Tensor:
        return self._multiplier(y)[1].to(y.dtype)

    def _multiplier(self, y: Tensor) -> tuple[Tensor, Tensor]:
        normal = self._normal(y)
        multiplier = (normal * y).sum() / normal.square().sum()
        near = torch.linalg.vector_norm(y - multiplier * normal) <= 100 * slack(y) * torch.linalg.vector_norm(y)
        return multiplier, near & (multiplier >= 0)


@dataclass(frozen=True)
class NuclearBall(_Bounded):
    """Matrices ``(..., m, n)`` whose singular values have a sum of at most ``radius``.

    Args:
        radius: > 0. Default 1.

    Raises:
        ValueError, TypeError: ``radius`` is not positive, not finite or no number.
    """

    radius: float | Tensor = 1.0

    def __post_init__(self) -> None:
        self._real("radius", Real(low=0.0, low_open=True))

    def value(self, x: Tensor) -> Tensor:
        return indicator((torch.linalg.svdvals(x).sum(-1) <= self.radius * (1 + slack(x))).all(), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.nuclear_ball(x, self.radius)

    def conjugate(self, y: Tensor) -> Tensor:
        largest: Tensor = torch.linalg.svdvals(y).amax(-1)
        return (self.radius * largest).sum()

    def lmo(self, direction: Tensor) -> Tensor:
        u, _, vh = torch.linalg.svd(direction, full_matrices=False)
        corner: Tensor = -self.radius * (u[..., :, :1] @ vh[..., :1, :])
        return corner


def _sign(x: Tensor) -> Tensor:
    """The sign, 1 at zero."""
    return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))


def _corner(direction: Tensor, dim: int | None) -> Tensor:
    """1 at the first least entry of each slice, else 0."""
    flat = direction.reshape(-1) if dim is None else direction
    axis = -1 if dim is None else dim
    place = flat.argmin(axis, keepdim=True)
    return torch.zeros_like(flat).scatter(axis, place, 1.0).reshape(direction.shape)
