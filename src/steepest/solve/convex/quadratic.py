"""Quadratic problems, dense or sparse."""

import torch
from torch import Tensor

from steepest.core.oracle import oracle
from steepest.core.regularizer import Regularizer
from steepest.solve.convex.columns import Columns
from steepest.solve.convex.problem import CompositeProblem

__all__ = ["Quadratic"]


class Quadratic(CompositeProblem):
    """Minimize a convex quadratic plus a function whose prox is cheap::

        min_x  x . A x / 2 - b . x + g(x)

    Label propagation, Gaussian graphical models, least squares with a Gram matrix that is known.

    Args:
        matrix: ``A``, ``(n, n)``, symmetric positive semidefinite (not checked beyond symmetry); dense or CSR.
        linear: ``b``, ``(n,)``.
        regularizer: ``g``; default 0.

    Offers ``"columns"`` besides what a :class:`CompositeProblem` offers.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or shape, not finite, or the matrix is not symmetric.
    """

    def __init__(self, matrix: Tensor, linear: Tensor, regularizer: Regularizer | None = None) -> None:
        for name, data in (("matrix", matrix), ("linear", linear)):
            if not isinstance(data, Tensor) or not data.is_floating_point():
                raise TypeError(f"{name} must be a tensor of a floating-point dtype, got {data!r}")
        if matrix.dim() != 2 or linear.dim() != 1 or tuple(matrix.shape) != (len(linear), len(linear)):
            raise ValueError(
                f"matrix must be (n, n) and linear (n,), got {list(matrix.shape)} and {list(linear.shape)}"
            )
        if matrix.layout not in (torch.strided, torch.sparse_csr):
            raise ValueError(f"matrix must be dense or sparse in the CSR layout, got {matrix.layout}")
        entries = matrix if matrix.layout is torch.strided else matrix.values()
        if not (bool(torch.isfinite(entries).all()) and bool(torch.isfinite(linear).all())):
            raise ValueError("matrix and linear must be finite, but one holds NaN or an infinity")
        probe = torch.cos(torch.arange(len(linear), device=linear.device, dtype=linear.dtype))
        self._columns: Columns | None = None
        self.design, self.linear = matrix, linear
        there, back = matrix @ probe, Columns.of(self).transposed @ probe
        if not torch.allclose(there, back, rtol=1e-4, atol=1e-4 * float(there.abs().max())):
            raise ValueError("matrix must be symmetric, but its product with a vector differs from its transpose's")
        super().__init__(self._function, regularizer)

    @oracle("columns")
    def columns(self, indices: Tensor) -> Tensor:
        """The columns ``indices`` of the matrix as the rows of a dense one, ``(k, n)``."""
        return Columns.of(self).dense(indices)

    def _function(self, x: Tensor) -> Tensor:
        return 0.5 * x @ (self.design @ x) - self.linear @ x

    def _smooth_value(self, x: Tensor) -> Tensor:
        return self._function(x)

    def _smooth_value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        image = self.design @ x
        return 0.5 * x @ image - self.linear @ x, image - self.linear

    def _smooth_hvp(self, x: Tensor, direction: Tensor) -> Tensor:
        return self.design @ direction
