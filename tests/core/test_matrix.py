"""Rows of dense and sparse matrices, and spectral norms, against dense linear algebra."""

import pytest
import torch
from torch import Tensor

from steepest.core import matrix
from steepest.core.matrix import squared_norm, take_rows


def sparse(rows: int, columns: int, seed: int = 0, density: float = 0.3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return (dense * (torch.rand(rows, columns, generator=generator) < density)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rows",
    [[0], [2, 0, 5], [5, 4, 3, 2, 1, 0], [1, 1, 1], [3], []],
    ids=["one", "some", "all", "twice", "zero", "none"],
)
def test_rows_of_a_sparse_matrix_are_those_of_the_dense_one(rows: list[int], dtype: torch.dtype) -> None:
    dense = sparse(6, 5, dtype=dtype)
    dense[3] = 0  # an empty row
    index = torch.tensor(rows, dtype=torch.long)
    expected = dense[index]
    assert torch.equal(take_rows(dense, index), expected)
    found = take_rows(dense.to_sparse_csr(), index)
    assert found.layout is torch.sparse_csr
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert torch.equal(found.to_dense(), expected)
    v = torch.arange(5, dtype=dtype)
    torch.testing.assert_close(found @ v, expected @ v)
    torch.testing.assert_close(
        found.mT @ torch.ones(len(rows), dtype=dtype), expected.mT @ torch.ones(len(rows), dtype=dtype)
    )


def test_rows_with_indices_of_32_bits_and_invariants() -> None:
    csr = sparse(30, 20).to_sparse_csr()
    narrow = torch.sparse_csr_tensor(csr.crow_indices().int(), csr.col_indices().int(), csr.values(), csr.shape)
    index = torch.randint(0, 30, (50,), generator=torch.Generator().manual_seed(1))
    found = take_rows(narrow, index)
    assert torch.equal(found.to_dense(), csr.to_dense()[index])
    torch.sparse_csr_tensor(  # raises if they are broken
        found.crow_indices(), found.col_indices(), found.values(), found.shape, check_invariants=True
    )


def test_rows_of_a_matrix_without_entries() -> None:
    empty = torch.zeros(4, 3).to_sparse_csr()
    assert torch.equal(take_rows(empty, torch.tensor([1, 3])).to_dense(), torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (1, 7), (7, 1), (1, 1), (40, 40)])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_squared_norm_is_that_of_the_singular_values(
    shape: tuple[int, int], large: bool, layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        if min(shape) == 1:
            pytest.skip("Lanczos needs two rows and two columns")
        monkeypatch.setattr(matrix, "_SMALL", 0)  # the way of large matrices
    dense = sparse(*shape, density=0.7, dtype=dtype)
    dense[0, 0] = 1.0
    expected = float(torch.linalg.svdvals(dense.double())[0]) ** 2
    found = squared_norm(dense if layout == "dense" else dense.to_sparse_csr())
    slack = 1e-6 if dtype == torch.float32 and large else 2e-7
    assert expected * (1 - (slack if large else 1e-12)) <= found <= expected * (1 + slack)


def test_a_matrix_of_zeros_has_a_tiny_positive_norm() -> None:
    assert 0 < squared_norm(torch.zeros(3, 2)) < 1e-300


def test_the_norm_bounds_the_gradients_lipschitz_constant() -> None:
    dense = sparse(30, 12)
    bound = squared_norm(dense) ** 0.5
    for seed in range(200):
        v = torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert (dense @ v).norm() <= bound * v.norm()
