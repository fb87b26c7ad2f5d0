"""A design by its columns: the products that coordinate methods take, for dense and CSR matrices on any device."""

from typing import Any

import scipy.sparse
import torch
from torch import Tensor

from steepest.core.matrix import take_rows

__all__ = ["Columns"]


class Columns:
    """The columns of a design matrix ``A``, ``(n, d)``.

    The transposed matrix of a CSR design is made once (a product with the transposed view of a CSR matrix costs torch
    a hundred times what it costs with a matrix that is stored the other way round).

    Attributes:
        design: ``A``.
        transposed: the transposed matrix, a view of a dense design, else CSR.
    """

    def __init__(self, design: Tensor) -> None:
        self.design = design
        self.transposed = design.mT if design.layout is torch.strided else _transpose(design)
        self._squares: Tensor | None = None
        self._gram: Tensor | None = None
        self._of_groups: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, problem: Any) -> "Columns":
        """Those of a linear model, made on first use and kept with it."""
        if problem._columns is None:
            problem._columns = cls(problem.design)
        found: Columns = problem._columns
        return found

    def squared_norms(self) -> Tensor:
        """The squared Euclidean norm of every column, ``(d,)``."""
        if self._squares is None:
            if self.design.layout is torch.strided:
                self._squares = self.design.square().sum(0)
            else:
                zeros = self.design.values().new_zeros(self.design.shape[1])
                self._squares = zeros.index_add(0, self.design.col_indices(), self.design.values().square())
        return self._squares

    def squared_norms_of_groups(self, groups: Tensor) -> Tensor:
        """The squared spectral norm of every group of columns; ``groups`` numbers the group of each column."""
        if self._of_groups is None or not torch.equal(self._of_groups[0], groups):
            norms = []
            for number in range(int(groups.max()) + 1):
                part = self.gather((groups == number).nonzero()[:, 0])
                norms.append(torch.linalg.eigvalsh(self.gram(part, part))[-1] * (1 + 1e-12))
            self._of_groups = groups, torch.stack(norms)
        return self._of_groups[1]

    def whole_gram(self) -> Tensor:
        """``A^T A``, made once and kept."""
        if self._gram is None:
            every = self.gather(torch.arange(self.design.shape[1], device=self.design.device))
            self._gram = self.gram(every, every)
        return self._gram

    def dense(self, indices: Tensor) -> Tensor:
        """Some columns as the rows of a dense matrix, ``(k, n)``."""
        rows = take_rows(self.transposed, indices)
        return rows if rows.layout is torch.strided else _densify(rows)

    def gather(self, indices: Tensor) -> Tensor:
        """Some columns as the rows of a matrix of the design's layout."""
        return take_rows(self.transposed, indices)

    @staticmethod
    def gram(left: Tensor, right: Tensor, weight: Tensor | None = None) -> Tensor:
        """``L diag(weight) R^T`` of two matrices of columns from :meth:`gather`, dense, ``(k, l)``."""
        if left.layout is torch.strided:
            return (left if weight is None else left * weight) @ right.mT
        if left.device.type != "cpu":
            return Columns.gram(_densify(left), _densify(right), weight)
        first, second = _scipy(left), _scipy(right)
        if weight is not None:
            first.data = first.data * weight.numpy()[first.indices]
        # SciPy's sparse product: torch would have to make the columns dense, which costs more than the product itself.
        return torch.from_numpy((first @ second.T.tocsr()).toarray()).to(left.dtype)


def _transpose(matrix: Tensor) -> Tensor:
    if matrix.device.type == "cpu":  # SciPy converts ten times as fast as torch
        other = _scipy(matrix).tocsc()
        start, rows = torch.from_numpy(other.indptr), torch.from_numpy(other.indices)
        values = torch.from_numpy(other.data)
    else:
        other = matrix.to_sparse_csc()
        start, rows, values = other.ccol_indices(), other.row_indices(), other.values()
    shape = (matrix.shape[1], matrix.shape[0])
    return torch.sparse_csr_tensor(start.long(), rows.long(), values, shape, check_invariants=False)


def _scipy(matrix: Tensor) -> Any:
    parts = matrix.values().numpy(), matrix.col_indices().numpy(), matrix.crow_indices().numpy()
    return scipy.sparse.csr_matrix(parts, shape=tuple(matrix.shape))


def _densify(matrix: Tensor) -> Tensor:
    counts = matrix.crow_indices().diff()
    rows = torch.repeat_interleave(torch.arange(len(counts), device=matrix.device), counts)
    out = matrix.values().new_zeros(tuple(matrix.shape))
    return out.index_put((rows, matrix.col_indices()), matrix.values(), accumulate=True)
