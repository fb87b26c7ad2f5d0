"""Matrices as data: rows of a sparse one, and the spectral norm."""

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

__all__ = ["squared_norm", "squared_row_norms", "take_rows"]

#: Up to this many rows or columns the spectral norm comes from a Gram matrix.
_SMALL = 2000


def take_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a matrix, dense or CSR, in the order given; torch has no such indexing for CSR."""
    if matrix.layout is not torch.sparse_csr:
        return matrix.index_select(0, rows)
    start = matrix.crow_indices()
    counts = start[rows + 1] - start[rows]
    crow = torch.zeros(len(rows) + 1, dtype=start.dtype, device=start.device)
    torch.cumsum(counts, 0, out=crow[1:])
    within = torch.arange(int(crow[-1]), device=start.device) - torch.repeat_interleave(crow[:-1], counts)
    places = torch.repeat_interleave(start[rows], counts) + within
    values, columns = matrix.values()[places], matrix.col_indices()[places]
    return torch.sparse_csr_tensor(crow, columns, values, (len(rows), matrix.shape[1]), check_invariants=False)


def squared_row_norms(matrix: Tensor) -> Tensor:
    """The squared Euclidean norm of every row of a matrix, dense or CSR."""
    if matrix.layout is not torch.sparse_csr:
        return matrix.square().sum(1)
    start = matrix.crow_indices()
    rows = torch.repeat_interleave(torch.arange(len(start) - 1, device=start.device), start.diff())
    return matrix.values().new_zeros(matrix.shape[0]).index_add_(0, rows, matrix.values().square())


def squared_norm(matrix: Tensor) -> float:
    """The squared spectral norm of a matrix, dense or CSR, rounded up by a part in ten million."""
    if min(matrix.shape) <= _SMALL:
        dense = (matrix if matrix.layout is torch.strided else matrix.to_dense()).double()
        gram = dense.mT @ dense if matrix.shape[1] <= matrix.shape[0] else dense @ dense.mT
        return float(torch.linalg.eigvalsh(gram)[-1].clamp_min(torch.finfo(torch.float64).tiny)) * (1 + 1e-7)

    def product(m: Tensor, v: np.ndarray) -> np.ndarray:
        vector = torch.as_tensor(v.reshape(-1).copy(), dtype=m.dtype, device=m.device)
        result: np.ndarray = (m @ vector).double().cpu().numpy()
        return result

    operator = LinearOperator(
        tuple(matrix.shape),
        matvec=lambda v: product(matrix, v),
        rmatvec=lambda v: product(matrix.mT, v),
        dtype=np.float64,
    )
    top = float(svds(operator, k=1, return_singular_vectors=False, random_state=0)[0])
    return top * top * (1 + 1e-7)
