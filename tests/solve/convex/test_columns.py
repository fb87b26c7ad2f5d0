"""The columns of a design: sparse equals dense, and nothing is changed in passing."""

import numpy as np
import pytest
import torch

from steepest.core.regularizer import L1
from steepest.solve.convex import LinearModel
from steepest.solve.convex.columns import Columns


def dense(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A third of the entries, with an empty row, an empty column and a column alone in its row."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(9, 7, dtype=dtype, generator=generator)
    matrix = torch.where(torch.rand(9, 7, generator=generator) < 0.4, matrix, 0.0)
    matrix[4], matrix[:, 2] = 0.0, 0.0
    matrix[5], matrix[5, 6] = 0.0, 2.0
    return matrix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_equals_dense(dtype: torch.dtype) -> None:
    matrix = dense(dtype)
    sparse = matrix.to_sparse_csr()
    columns, order = Columns(sparse), torch.tensor([6, 0, 2, 3])
    torch.testing.assert_close(columns.transposed.to_dense(), matrix.mT)
    torch.testing.assert_close(columns.dense(order), matrix[:, order].mT)
    torch.testing.assert_close(columns.squared_norms(), matrix.square().sum(0))
    torch.testing.assert_close(columns.whole_gram(), matrix.mT @ matrix)
    weight = torch.linspace(0.5, 2.0, 9, dtype=dtype)
    left, right = columns.gather(order), columns.gather(torch.tensor([1, 4]))
    before = left.values().clone()
    expected = matrix[:, order].mT @ (weight[:, None] * matrix[:, [1, 4]])
    torch.testing.assert_close(columns.gram(left, right, weight), expected)
    assert columns.gram(left, right, weight).dtype == dtype
    assert torch.equal(left.values(), before)
    assert torch.equal(sparse.to_dense(), matrix)
    square = matrix[:7] + matrix[:7].mT + torch.eye(7, dtype=dtype)
    torch.testing.assert_close(Columns(square.to_sparse_csr()).diagonal(), square.diagonal())
    torch.testing.assert_close(Columns(square).diagonal(), square.diagonal())


@pytest.mark.parametrize("layout", ["csr", "dense", "fortran"])
def test_squared_norms_of_groups_are_spectral(layout: str) -> None:
    matrix = dense()
    design = {"csr": matrix.to_sparse_csr(), "dense": matrix, "fortran": matrix.mT.contiguous().mT}[layout]
    groups = torch.tensor([0, 1, 1, 0, 2, 2, 2])
    found = Columns(design).squared_norms_of_groups(groups)
    expected = [np.linalg.norm(matrix[:, groups == g].numpy(), 2) ** 2 for g in range(3)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    other = torch.tensor([0, 0, 0, 0, 1, 1, 1])  # what is kept belongs to the groups that it was made for
    columns = Columns(design)
    columns.squared_norms_of_groups(groups)
    assert len(columns.squared_norms_of_groups(other)) == 2


def test_the_oracle_gives_features_as_rows_and_is_counted_out_of_the_fingerprint() -> None:
    matrix = dense()
    problem = LinearModel(matrix.to_sparse_csr(), torch.ones(9).double(), "squared", L1(0.1))
    before = problem.fingerprint()
    torch.testing.assert_close(problem.columns(torch.tensor([3, 1])), matrix[:, [3, 1]].mT)
    assert "columns" in problem.offers
    assert problem.fingerprint() == before
    matrix[0, 0] += 1.0
    assert LinearModel(matrix.to_sparse_csr(), problem.target, "squared", L1(0.1)).fingerprint() != before
