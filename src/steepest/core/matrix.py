"""Matrices as data, dense or CSR: rows, transposes, Gram matrices, norms."""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

__all__ = ["narrowed", "squared_norm", "squared_row_norms", "take_rows", "transposed", "weighted_gram"]

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


def narrowed(matrix: Tensor) -> Tensor:
    """A CSR matrix with indices of 32 bits where they suffice: products with it read less. Dense ones are returned."""
    if matrix.layout is not torch.sparse_csr or max(*matrix.shape, matrix._nnz()) > torch.iinfo(torch.int32).max:
        return matrix
    crow, col = matrix.crow_indices().to(torch.int32), matrix.col_indices().to(torch.int32)
    return torch.sparse_csr_tensor(crow, col, matrix.values(), matrix.shape, check_invariants=False)


def transposed(matrix: Tensor) -> Tensor:
    """The transpose, a view of a dense matrix; of a CSR matrix a copy in CSR, whose products with vectors are far
    faster than those of torch's own transpose of it."""
    if matrix.layout is not torch.sparse_csr:
        return matrix.mT
    rows, columns = matrix.shape
    crow, col, values = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    if matrix.device.type == "cpu" and not values.requires_grad:
        flipped = csr_matrix((values.numpy(), col.numpy(), crow.numpy()), shape=(rows, columns)).tocsc()
        start, row, values = (torch.from_numpy(part) for part in (flipped.indptr, flipped.indices, flipped.data))
        start, row = start.to(crow.dtype), row.to(crow.dtype)
    else:
        owner = torch.repeat_interleave(torch.arange(rows, device=crow.device), crow.diff())
        column, order = torch.sort(col, stable=True)
        start = torch.zeros(columns + 1, dtype=crow.dtype, device=crow.device)
        torch.cumsum(torch.bincount(column, minlength=columns), 0, out=start[1:])
        row, values = owner[order].to(crow.dtype), values[order]
    return torch.sparse_csr_tensor(start, row, values, (columns, rows), check_invariants=False)


def weighted_gram(matrix: Tensor, weight: Tensor) -> Tensor:
    """``A' diag(w) A``, dense and symmetric to the last bit, for ``w >= 0`` and a matrix dense or CSR.

    On the CPU it is BLAS's symmetric product, which takes half the operations of a general one, or SciPy's sparse one.
    """
    if matrix.device.type == "cpu" and matrix.dtype in (torch.float32, torch.float64):
        root = weight.sqrt()
        if matrix.layout is torch.sparse_csr:
            parts = (matrix.values(), matrix.col_indices(), matrix.crow_indices())
            values, columns, start = (part.numpy() for part in parts)
            counts = matrix.crow_indices().diff()
            values = values * torch.repeat_interleave(root, counts).numpy()
            rows = csr_matrix((values, columns, start), shape=matrix.shape)
            half = (rows.T @ rows).toarray()
            return torch.from_numpy(0.5 * (half + half.T))
        scaled = (root[:, None] * matrix).numpy()
        return torch.from_numpy(scaled.T @ scaled)  # numpy sees that it is symmetric; torch does not
    design = matrix.to_dense() if matrix.layout is torch.sparse_csr else matrix
    gram = design.mT @ (weight[:, None] * design)
    return 0.5 * (gram + gram.mT)


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

    back = transposed(matrix)
    operator = LinearOperator(
        tuple(matrix.shape),
        matvec=lambda v: product(matrix, v),
        rmatvec=lambda v: product(back, v),
        dtype=np.float64,
    )
    top = float(svds(operator, k=1, return_singular_vectors=False, random_state=0)[0])
    return top * top * (1 + 1e-7)
