"""Matrices as data: rows of a sparse one, and the spectral norm."""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

__all__ = ["squared_norm", "take_rows", "transposed", "weighted_gram"]

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


def transposed(matrix: Tensor) -> Tensor:
    """The transpose, a view of a dense matrix; of a CSR matrix a copy in CSR, whose products with vectors are far
    faster than those of torch's own transpose of it."""
    if matrix.layout is not torch.sparse_csr:
        return matrix.mT
    rows, columns = matrix.shape
    crow = matrix.crow_indices()
    row = torch.repeat_interleave(torch.arange(rows, device=crow.device), crow.diff())
    column, order = torch.sort(matrix.col_indices(), stable=True)
    start = torch.zeros(columns + 1, dtype=crow.dtype, device=crow.device)
    torch.cumsum(torch.bincount(column, minlength=columns), 0, out=start[1:])
    return torch.sparse_csr_tensor(
        start, row[order].to(crow.dtype), matrix.values()[order], (columns, rows), check_invariants=False
    )


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
