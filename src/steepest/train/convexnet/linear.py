r"""The linear systems of ADMM: :math:`(I + \omega F^T F + G^T G) u = q`, without forming the matrix.

Each block of :math:`G^T G` is :math:`R^T R` with :math:`R` the (scaled) rows of the design, since the signs square to
one; so :math:`I + G^T G` is block diagonal with one block :math:`K = I + R^T R` repeated. By Woodbury's identity

.. math:: A^{-1} q = K^{-1} q - K^{-1} F^T S^{-1} F K^{-1} q, \qquad
          S = \tfrac1\omega I + c\,(X K^{-1} X^T) \circ (D D^T)

with :math:`D` the 0/1 matrix of the patterns (n, P) and :math:`c` the number of copies (2, or 1 without cones). There
are three ways to solve with it: the inverse of ``S`` where ``n`` is small; where ``P d`` is the smaller, that of the
matrix of the differences ``v - w``; and else conjugate gradients on ``S`` with a Nystrom preconditioner. The inverses
are formed, once, because a product reads them once, where two triangular solves are several times slower; both matrices
are the identity, times a number, plus a positive semidefinite one, and far from singular.
"""

import math

import torch
from torch import Tensor

__all__ = ["NormalEquations"]

#: Up to this size a matrix is inverted.
_DIRECT = 6000
#: The columns that the Nystrom preconditioner samples.
_RANK = 400


class NormalEquations:
    """Solves ``(I + weight F^T F + G^T G) u = q``.

    Args:
        design: ``X``, ``(n, d)``.
        active: the patterns as numbers, ``(n, P)``.
        rows: ``R``, ``(n, d)``; ``None`` where there are no cones.
        weight: > 0.
        copies: 2, or 1 without cones.
        method: ``"samples"``, ``"weights"``, ``"cg"``, or ``None`` to choose by size.
    """

    def __init__(
        self, design: Tensor, active: Tensor, rows: Tensor | None, weight: float, copies: int, method: str | None = None
    ) -> None:
        n, d = design.shape
        self.design, self.active, self.weight, self.copies = design, active, weight, copies
        identity = torch.eye(d, dtype=design.dtype, device=design.device)
        self.small = torch.linalg.cholesky(identity if rows is None else identity + rows.mT @ rows)
        if method is None:
            size = min(n, active.shape[1] * d)
            method = "cg" if size > _DIRECT else ("samples" if n <= active.shape[1] * d else "weights")
        self.method = method
        # X K^{-1}, for rows and columns of S.
        self.half = torch.cholesky_solve(design.mT, self.small).mT
        if method == "samples":
            matrix = copies * (self.half @ design.mT) * (active @ active.mT)
            matrix.diagonal().add_(1 / weight)
            self.inverse = _inverse(matrix)
        elif method == "weights":
            self.inverse = _inverse(self._gram())
        else:
            self._precondition()

    def solve(self, q: Tensor, start: Tensor | None = None, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
        """The solution, and a dual vector ``(n, outputs)`` from which the next solve may start.

        Args:
            q: the right-hand side, ``(copies, P, d, outputs)``.
            start: that vector from an earlier solve; conjugate gradients begin there.
            tolerance: of ``F u``, relative, at which conjugate gradients end; the inverses ignore it.
        """
        base = self._block(q)
        if self.method == "weights":
            # Only v - w meets F: with s = q_v - q_w, (K + copies weight F'F) delta = s; the sum solves with K alone.
            s = q[0] if self.copies == 1 else q[0] - q[1]
            count, d, outputs = s.shape
            delta = (self.inverse @ s.reshape(count * d, outputs)).reshape(s.shape)
            change = (delta - (base[0] if self.copies == 1 else base[0] - base[1])) / self.copies
            shift = change[None] if self.copies == 1 else torch.stack([change, -change])
            return base + shift, q.new_zeros(len(self.design), outputs)
        fit = self._predict(base)
        if self.method == "samples":
            dual = self.inverse @ fit
        else:
            dual = self._cg(fit, start, tolerance)
        return base - self._block(self._adjoint(dual)), dual

    def _block(self, q: Tensor) -> Tensor:
        """``K^{-1}`` on every block."""
        copies, count, d, outputs = q.shape
        columns = q.movedim(2, 0).reshape(d, -1)
        return torch.cholesky_solve(columns, self.small).reshape(d, copies, count, outputs).movedim(0, 2)

    def _predict(self, blocks: Tensor) -> Tensor:
        difference = blocks[0] if self.copies == 1 else blocks[0] - blocks[1]
        inner = self.design @ difference.movedim(1, 0).flatten(1)
        return torch.einsum("npk,np->nk", inner.reshape(len(inner), *difference.shape[::2]), self.active)

    def _adjoint(self, dual: Tensor) -> Tensor:
        spread = (self.active[:, :, None] * dual[:, None, :]).flatten(1)
        blocks = self.design.mT @ spread
        blocks = blocks.reshape(len(blocks), self.active.shape[1], -1).movedim(0, 1)
        return blocks[None] if self.copies == 1 else torch.stack([blocks, -blocks])

    def _gram(self) -> Tensor:
        """``K`` on the diagonal plus ``copies weight F^T F``, of one copy, ``(P d, P d)``."""
        n, d = self.design.shape
        count = self.active.shape[1]
        total = self.design.new_zeros(count * d, count * d)
        rows = max(1, 20_000_000 // (count * d))
        for begin in range(0, n, rows):
            part = slice(begin, begin + rows)
            wide = (self.active[part, :, None] * self.design[part, None, :]).flatten(1)
            total.addmm_(wide.mT, wide)
        total *= self.copies * self.weight
        k = self.small @ self.small.mT
        blocks = total.reshape(count, d, count, d)
        blocks.diagonal(dim1=0, dim2=2).add_(k[:, :, None])
        return total

    def _matrix(self, dual: Tensor) -> Tensor:
        """``S`` times a vector, by products with the design."""
        return dual / self.weight + self._predict(self._block(self._adjoint(dual)))

    def _precondition(self) -> None:
        """A Nystrom approximation of ``S - I / weight`` from some of its columns, which cost no pass over all data."""
        n = len(self.design)
        rank = min(_RANK, n)
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:rank].to(self.design.device)
        columns = self.copies * (self.half @ self.design[chosen].mT) * (self.active @ self.active[chosen].mT)
        core = columns[chosen]
        scale = float(core.diagonal().sum())
        shift = scale * torch.finfo(core.dtype).eps * 10
        factor = torch.linalg.cholesky(core + shift * torch.eye(rank, dtype=core.dtype, device=core.device))
        thin = torch.linalg.solve_triangular(factor, columns.mT, upper=False)  # rank x n; thin' thin approximates
        values, vectors = torch.linalg.eigh(thin @ thin.mT)
        values = values.clamp_min(0)
        kept = values > values[-1] * 1e-10
        self.basis = (vectors[:, kept] / values[kept].sqrt()).mT @ thin  # orthonormal rows
        self.values = values[kept]
        # What the sample has not seen: the average of the rest of the diagonal.
        diagonal = self.copies * (self.half * self.design).sum(1) * self.active.sum(1)
        self.rest = float((diagonal.sum() - self.values.sum()).clamp_min(0)) / n + 1 / self.weight

    def _preconditioned(self, residual: Tensor) -> Tensor:
        inside = self.basis @ residual
        shrink = 1 / (self.values + self.rest) - 1 / self.rest
        return residual / self.rest + self.basis.mT @ (shrink[:, None] * inside)

    def _cg(self, target: Tensor, start: Tensor | None, tolerance: float, limit: int = 200) -> Tensor:
        """Conjugate gradients for ``S x = target``, each output by itself.

        Of the solution ``u`` of the whole system, ``F u = x / weight``, and the residual here is by how much it misses
        that. So the tolerance is relative to ``x / weight``; the target may be larger by orders of magnitude, most of
        which the two terms of Woodbury's identity take from each other.
        """
        x = torch.zeros_like(target) if start is None else start
        residual = target - self._matrix(x) if start is not None else target
        least = torch.linalg.vector_norm(target, dim=0) * (10 * torch.finfo(target.dtype).eps)
        z = self._preconditioned(residual)
        direction, inner = z, (residual * z).sum(0)
        for _ in range(limit):
            goal = torch.linalg.vector_norm(x, dim=0) * (tolerance / self.weight)
            if bool((torch.linalg.vector_norm(residual, dim=0) <= goal.maximum(least)).all()):
                break
            image = self._matrix(direction)
            length = inner / (direction * image).sum(0).clamp_min(torch.finfo(target.dtype).tiny)
            x = x + length * direction
            residual = residual - length * image
            z = self._preconditioned(residual)
            following = (residual * z).sum(0)
            direction = z + following / inner.clamp_min(torch.finfo(target.dtype).tiny) * direction
            inner = following
        return x


def tolerance_at(step: int) -> float:
    """The relative accuracy of inexact solves, summable over the steps: ``(1 + k)^-1.2``, at most a tenth."""
    return min(0.1, math.pow(1 + step, -1.2))


def _inverse(matrix: Tensor) -> Tensor:
    """Of a symmetric positive definite matrix."""
    inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return inverse
