"""Weakly convex sums ``loss(c_i(x))``: convex losses of smooth maps, and the best-known problems of this kind."""

from collections.abc import Callable

import torch
from torch import Tensor

from steepest.core.fingerprint import fingerprint
from steepest.core.losses import Loss, loss_of
from steepest.core.oracle import oracle, tally
from steepest.core.ranges import Real
from steepest.core.regularizer import Regularizer
from steepest.core.tree import Point, describe
from steepest.solve.convex.problem import FiniteSum

__all__ = ["BlindDeconvolution", "CompositeSum", "CovarianceEstimation", "PhaseRetrieval"]


class CompositeSum(FiniteSum):
    r"""Minimize a mean of convex losses of smooth maps plus a function whose prox is cheap::

        min_x (1/n) sum_i loss(c_i(x), y_i) + g(x)

    It is weakly convex (``F + (rho/2) |x|^2`` is convex for some ``rho``) where the loss is Lipschitz and the ``c_i``
    have Lipschitz derivatives.

    Args:
        inner: ``inner(x, indices)`` returns ``c_i(x)`` for the samples ``indices``, a tensor of their shape; made of
            differentiable operations that ``torch.func.vmap`` can map over samples.
        target: ``y``, ``(n,)``.
        loss: a :class:`~steepest.core.losses.Loss` or its name; default ``"absolute"``.
        regularizer: ``g``, convex; default 0.
        weak_convexity: ``rho >= 0``; ``None`` (default) where it is not known.

    A point is one tensor. Offers ``"models"`` (values and derivatives of ``c_i``, which count as samples as well),
    ``"samples"`` (gradients; subgradients at kinks), ``"sample values"``, ``"prox"`` and ``"value"``; for a smooth loss
    all that a :class:`~steepest.solve.convex.problem.FiniteSum` offers.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or shape, or out of its range.
    """

    def __init__(
        self,
        inner: Callable[[Tensor, Tensor], Tensor],
        target: Tensor,
        loss: Loss | str = "absolute",
        regularizer: Regularizer | None = None,
        *,
        weak_convexity: float | None = None,
    ) -> None:
        if not callable(inner):
            raise TypeError(f"inner must be callable, got {inner!r} of type {type(inner).__name__}")
        if not isinstance(target, Tensor) or target.dim() != 1 or not len(target) or not target.is_floating_point():
            found = describe(target) if isinstance(target, Tensor) else repr(target)
            raise ValueError(f"target must be a floating-point tensor of shape (n,), not empty; got {found}")
        Real(low=0.0, optional=True).check("weak_convexity", weak_convexity)
        self.inner, self.target, self.loss = inner, target, loss_of(loss)
        self.loss.check_target(target)
        self.weak_convexity = weak_convexity
        super().__init__(self._losses, len(target), regularizer)

    @property
    def offers(self) -> frozenset[str]:
        """What the class declares, without what this loss does not have."""
        kinks = {"smooth value", "smooth gradient", "smooth hvp"} if self.loss.curvature == float("inf") else set()
        return super().offers - kinks

    def fingerprint(self) -> str:
        """As :meth:`Problem.fingerprint`; methods of this problem are seen through its data."""
        shown = {name: value for name, value in vars(self).items() if getattr(value, "__self__", None) is not self}
        shown = {name: value for name, value in shown.items() if name != "smooth" and not name.startswith("_")}
        return fingerprint((type(self).__module__, type(self).__qualname__, shown))

    def check_start(self, start: Point) -> None:
        """As :meth:`CompositeProblem.check_start`; besides, the point is one tensor.

        Raises:
            TypeError: it is not.
        """
        super().check_start(start)
        if not isinstance(start, Tensor):
            raise TypeError(f"start must be one tensor, got {describe(start)}")

    @oracle("samples", "models")
    def linearize(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """``c_i(x)``, ``(b,)``, and the derivatives of ``c_i`` at ``x``, ``(b, *x.shape)``."""
        tally("samples", len(indices) - 1)
        tally("models", len(indices) - 1)
        return self._linearize(x, indices)

    def point_step(self, x: Tensor, index: Tensor, step: float) -> Tensor | None:
        """The minimizer of ``loss(c_i(z), y_i) + |z - x|^2 / (2 step)`` where a closed form is known, else ``None``.

        It counts as one sample.
        """
        return None

    def _losses(self, x: Tensor, indices: Tensor) -> Tensor:
        return self.loss.value(self.inner(x, indices), self.target[indices])

    def _linearize(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        def one(point: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            value = self.inner(point, index[None])[0]
            return value, value

        with torch.enable_grad():
            derivative, values = torch.func.vmap(torch.func.grad(one, has_aux=True), in_dims=(None, 0))(x, indices)
        return values.detach(), derivative.detach()

    def _sample_gradient(self, x: Tensor, indices: Tensor) -> Tensor:
        values, derivative = self._linearize(x, indices)
        slope = self.loss.derivative(values, self.target[indices])
        return torch.tensordot(slope, derivative, 1) / len(indices)

    def _sample_value_and_gradient(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        values, derivative = self._linearize(x, indices)
        target = self.target[indices]
        gradient = torch.tensordot(self.loss.derivative(values, target), derivative, 1) / len(indices)
        return self.loss.value(values, target).mean(), gradient


class PhaseRetrieval(CompositeSum):
    r"""Find ``x`` up to its sign from squared products::

        min_x (1/n) sum_i |<a_i, x>^2 - y_i| + g(x)

    Args:
        vectors: ``a_i`` as rows, ``(n, d)``.
        target: ``y``, ``(n,)``.
        regularizer: ``g``, convex; default 0.

    It is weakly convex with twice the largest eigenvalue of the mean of ``a_i a_i'``. The proximal point of a sample is
    known in closed form.
    """

    def __init__(self, vectors: Tensor, target: Tensor, regularizer: Regularizer | None = None) -> None:
        self.vectors = _matrix("vectors", vectors)
        rho = 2 * float(torch.linalg.eigvalsh(vectors.mT @ vectors / len(vectors))[-1].clamp_min(0))
        super().__init__(self._square, target, "absolute", regularizer, weak_convexity=rho)
        _same_length(target, vectors=vectors)

    def _square(self, x: Tensor, indices: Tensor) -> Tensor:
        return (self.vectors[indices] @ x).square()

    def _linearize(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.vectors[indices]
        product = rows @ x
        return product.square(), 2 * product[:, None] * rows

    def point_step(self, x: Tensor, index: Tensor, step: float) -> Tensor | None:
        """The best of the four points, on the line along ``a_i``, where the derivative vanishes or jumps."""
        tally("samples", 1)
        a, y = self.vectors[index[0]], self.target[index[0]]
        u, n = a @ x, a @ a
        root = y.clamp_min(0).sqrt()
        t = torch.stack(
            [
                torch.zeros_like(u),
                -2 * u * step / (2 * n * step + 1),
                2 * u * step / (1 - 2 * n * step),
                (root - u) / n,
                (-root - u) / n,
            ]
        )
        value = ((u + t * n).square() - y).abs() + t.square() * n / (2 * step)
        best = t[torch.where(value.isfinite(), value, float("inf")).argmin()]
        return x + best * a


class BlindDeconvolution(CompositeSum):
    r"""Find two vectors, ``x = (w, z)`` one after the other in one tensor, from products of their images::

        min_{w, z} (1/n) sum_i |<u_i, w> <v_i, z> - y_i| + g(w, z)

    Args:
        left: ``u_i`` as rows, ``(n, p)``.
        right: ``v_i`` as rows, ``(n, q)``.
        target: ``y``, ``(n,)``.
        regularizer: ``g``, convex; default 0.

    It is weakly convex with the mean of ``|u_i| |v_i|``.
    """

    def __init__(self, left: Tensor, right: Tensor, target: Tensor, regularizer: Regularizer | None = None) -> None:
        self.left, self.right = _matrix("left", left), _matrix("right", right)
        rho = float((left.norm(dim=1) * right.norm(dim=1)).mean()) if len(left) == len(right) else None
        super().__init__(self._product, target, "absolute", regularizer, weak_convexity=rho)
        _same_length(target, left=left, right=right)

    def _product(self, x: Tensor, indices: Tensor) -> Tensor:
        p = self.left.shape[1]
        return (self.left[indices] @ x[:p]) * (self.right[indices] @ x[p:])

    def _linearize(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        p = self.left.shape[1]
        u, v = self.left[indices], self.right[indices]
        a, b = u @ x[:p], v @ x[p:]
        return a * b, torch.cat([b[:, None] * u, a[:, None] * v], 1)


class CovarianceEstimation(CompositeSum):
    r"""Find a factor ``X``, ``(d, r)``, of a matrix of low rank from quadratic sketches::

        min_X (1/n) sum_i | |X' a_i|^2 - y_i | + g(X)

    Args:
        vectors: ``a_i`` as rows, ``(n, d)``.
        target: ``y``, ``(n,)``.
        regularizer: ``g``, convex; default 0.

    For ``r = 1`` it is :class:`PhaseRetrieval`, and its constant of weak convexity is the same for every ``r``.
    """

    def __init__(self, vectors: Tensor, target: Tensor, regularizer: Regularizer | None = None) -> None:
        self.vectors = _matrix("vectors", vectors)
        rho = 2 * float(torch.linalg.eigvalsh(vectors.mT @ vectors / len(vectors))[-1].clamp_min(0))
        super().__init__(self._sketch, target, "absolute", regularizer, weak_convexity=rho)
        _same_length(target, vectors=vectors)

    def _sketch(self, x: Tensor, indices: Tensor) -> Tensor:
        return (self.vectors[indices] @ x).square().sum(-1)

    def _linearize(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.vectors[indices]
        product = rows @ x
        return product.square().sum(-1), 2 * rows[:, :, None] * product[:, None, :]


def _matrix(name: str, matrix: Tensor) -> Tensor:
    if not isinstance(matrix, Tensor) or matrix.dim() != 2 or not matrix.is_floating_point() or 0 in matrix.shape:
        found = describe(matrix) if isinstance(matrix, Tensor) else repr(matrix)
        raise ValueError(f"{name} must be a floating-point matrix with one row per sample, got {found}")
    return matrix


def _same_length(target: Tensor, **matrices: Tensor) -> None:
    for name, matrix in matrices.items():
        if len(matrix) != len(target):
            raise ValueError(f"{name} must have {len(target)} rows, as many as target has numbers; got {len(matrix)}")
