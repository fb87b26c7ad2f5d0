r"""Linear systems :math:`(\lambda I + G^\top W G / m)\, x = v` with few rows :math:`G` and many columns.

They are solved in the space of the rows: by the push-through identity,

.. math::
    (\lambda I + \tfrac1m G^\top G)^{-1} v = \tfrac1\lambda \big(v - G^\top (m \lambda I + G G^\top)^{-1} G v\big)
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["GramSolver", "GramSpectrum", "push_through"]


class GramSolver:
    r"""The inverse of :math:`F = \lambda I + G^\top G / m`, from the Gram matrix :math:`G G^\top` alone.

    The rows may lie in several tensors: what is needed of them are their Gram matrix and the inner products with the
    right-hand side, both sums over the tensors. The system of ``m`` unknowns is solved in float64.

    Args:
        gram: :math:`G G^\top`, ``(m, m)``.
        damping: :math:`\lambda > 0`.
        divisor: :math:`m`; by default the number of rows.

    Raises:
        ValueError: ``damping`` is not positive, or ``gram`` not square.
    """

    def __init__(self, gram: Tensor, damping: float, divisor: float | None = None) -> None:
        if gram.dim() != 2 or gram.shape[0] != gram.shape[1]:
            raise ValueError(f"gram must be a square matrix, got the shape {tuple(gram.shape)}")
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping!r}")
        self.damping = damping
        self.divisor = float(len(gram) if divisor is None else divisor)
        wide = gram.double()
        shift = self.divisor * damping
        factor, info = torch.linalg.cholesky_ex(wide + shift * torch.eye(len(gram)).to(wide))
        self._factor: Tensor | None = factor
        if int(info) != 0:
            # Rounding in a Gram matrix of float32 rows may exceed a tiny damping. How negative it made an eigenvalue
            # says how far all of them are off.
            self._factor = None
            values, self._vectors = torch.linalg.eigh(0.5 * (wide + wide.mT))
            self._values = values.clamp_min(-float(values[0])) + shift

    def coefficients(self, products: Tensor) -> Tensor:
        r"""``c`` such that :math:`F^{-1} v = (v - G^\top c) / \lambda`, of the products :math:`G v`.

        Args:
            products: ``(m,)``, or ``(m, k)`` for several right-hand sides.
        """
        flat = products.dim() == 1
        right = (products[:, None] if flat else products).double()
        if self._factor is not None:
            solved = torch.cholesky_solve(right, self._factor)
        else:
            solved = self._vectors @ ((self._vectors.mT @ right) / self._values[:, None])
        return (solved[:, 0] if flat else solved).to(products.dtype)

    def solve(self, rows: Tensor, v: Tensor) -> Tensor:
        r""":math:`F^{-1} v` for rows :math:`G` of shape ``(m, d)`` and a vector ``(d,)``."""
        solution: Tensor = (v - rows.mT @ self.coefficients(rows @ v)) / self.damping
        return solution


class GramSpectrum:
    r"""Functions of :math:`F = \lambda I + G^\top G / m`, by the eigenvalues of the Gram matrix.

    With :math:`G G^\top / m = V \Sigma V^\top` and the orthonormal :math:`U = G^\top V (m \Sigma)^{-1/2}`,

    .. math::
        \phi(F)\, v = \phi(\lambda)\, v + U \big(\phi(\lambda I + \Sigma) - \phi(\lambda) I\big) U^\top v

    Eigenvalues that are rounding errors in the dtype of the rows are taken for zero.

    Args:
        rows: :math:`G`, ``(m, d)``.
        damping: :math:`\lambda \ge 0`.
        divisor: :math:`m`; by default the number of rows.
    """

    def __init__(self, rows: Tensor, damping: float, divisor: float | None = None) -> None:
        divisor = float(len(rows) if divisor is None else divisor)
        gram = (rows @ rows.mT).double() / divisor
        # What is not finite has no eigenvalues, and makes what is computed from them NaN.
        finite = bool(gram.isfinite().all())
        values, vectors = torch.linalg.eigh(gram) if finite else (gram[0] * torch.nan, gram * torch.nan)
        known = ~(values <= values[-1] * torch.finfo(rows.dtype).eps * len(rows))
        self.rows, self.damping = rows, damping
        #: The eigenvalues of :math:`G^\top G / m` above zero, ascending, in float64.
        self.values = values[known]
        self._basis = vectors[:, known] / (divisor * self.values).sqrt()

    def apply(self, function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """``function(F) v``, for a function that maps a tensor of eigenvalues to one of its shape."""
        off = function(self.values.new_tensor([self.damping]))
        change = function(self.damping + self.values) - off
        inside = change * (self._basis.mT @ (self.rows @ v).double())
        return off.to(v.dtype) * v + self.rows.mT @ (self._basis @ inside).to(v.dtype)


def push_through(rows: Tensor, right: Tensor, damping: float, weight: Tensor | None = None) -> Tensor:
    r""":math:`G^\top (W G G^\top + b \lambda I)^{-1} r`, by the push-through identity.

    It equals :math:`(G^\top W G / b + \lambda I)^{-1} G^\top r / b`.

    The matrix is not symmetric where there is a weight; it is solved by LU in float64.

    Args:
        rows: :math:`G`, ``(b, c, d)``: ``c`` rows for each of ``b`` samples.
        right: :math:`r`, ``(b, c)``.
        damping: :math:`\lambda > 0`.
        weight: :math:`W`, one symmetric block ``(c, c)`` per sample, ``(b, c, c)``; by default the identity.

    Raises:
        ValueError: ``damping`` is not positive.
    """
    if not damping > 0:
        raise ValueError(f"damping must be positive, got {damping!r}")
    b, c, d = rows.shape
    flat = rows.reshape(b * c, d)
    gram = (flat @ flat.mT).double()
    if weight is not None:
        gram = torch.einsum("bij,bjk->bik", weight.double(), gram.view(b, c, b * c)).reshape(b * c, b * c)
    system = gram + b * damping * torch.eye(b * c).to(gram)
    solved = torch.linalg.solve(system, right.reshape(-1).double())
    solution: Tensor = flat.mT @ solved.to(flat.dtype)
    return solution
