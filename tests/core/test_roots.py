"""Inverse roots against scipy, closed forms, and what they promise for zero, rank-deficient and non-finite matrices."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from steepest.core.roots import inverse_root, inverse_root_by_products


def spectrum(n: int, condition: float, batch: tuple[int, ...] = (), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Orthogonal vectors and eigenvalues, the largest well apart from the others."""
    generator = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64))
    values = torch.logspace(0, -1, n, dtype=torch.float64) ** np.log10(condition)
    values[0] *= 4.0
    return vectors, values * 37.0


def assemble(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values.unsqueeze(-2)) @ vectors.mT


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_scipy(p: int) -> None:
    a = assemble(*spectrum(7, 1e3))
    expected = scipy.linalg.fractional_matrix_power(a.numpy(), -1 / p)
    np.testing.assert_allclose(inverse_root(a, p).numpy(), expected, rtol=1e-9, atol=1e-11)
    if p in (2, 4, 8):
        ridge = 1e-6 * np.linalg.eigvalsh(a.numpy())[-1]
        expected = scipy.linalg.fractional_matrix_power(a.numpy() + ridge * np.eye(7), -1 / p)
        np.testing.assert_allclose(inverse_root(a, p, 1e-6).numpy(), expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(inverse_root_by_products(a, p, 1e-6).numpy(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("condition", [1e1, 1e4, 1e6, 1e10])
@pytest.mark.parametrize(("eps", "single", "products"), [(1e-6, 4e-3, 2e-2), (1e-4, 4e-5, 3e-4)])
def test_documented_accuracy(p: int, condition: float, eps: float, single: float, products: float) -> None:
    """Of float64 and float32 matrices, whatever their condition number: the ridge bounds it."""
    vectors, values = spectrum(48, condition, (2, 3))
    a = assemble(vectors, values)
    exact = assemble(vectors, (values + eps * values[0]) ** (-1 / p))
    assert error(inverse_root(a, p, eps), exact) < 1e-9
    assert error(inverse_root(a.float(), p, eps), exact) < single
    assert error(inverse_root_by_products(a, p, eps), exact) < 1e-6
    assert error(inverse_root_by_products(a.float(), p, eps), exact) < products
    assert inverse_root(a.float(), p, eps).dtype == inverse_root_by_products(a.float(), p, eps).dtype == torch.float32


def test_decomposing_in_float64_is_worth_it() -> None:
    vectors, values = spectrum(48, 1e6, (4,))
    a = assemble(vectors, values)
    exact = assemble(vectors, (values + 1e-6 * values[0]) ** -0.5)
    double, single = inverse_root(a.float(), 2, 1e-6), inverse_root(a.float(), 2, 1e-6, dtype=torch.float32)
    assert 5 * error(double, exact) < error(single, exact)


def test_products_find_the_largest_eigenvalue_to_two_percent_in_a_cluster() -> None:
    """The ridge may be that much too small, the root of the smallest eigenvalue half of that too large."""
    vectors, _ = spectrum(40, 1.0)
    values = torch.linspace(0, 1, 40, dtype=torch.float64)
    exact = assemble(vectors, (values + 1e-4) ** -0.5)
    assert error(inverse_root_by_products(assemble(vectors, values), 2, 1e-4), exact) < 1e-2


ROOTS = pytest.mark.parametrize("root", [inverse_root, inverse_root_by_products], ids=["eigh", "products"])


@ROOTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_scale(root, dtype: torch.dtype, scale: float) -> None:
    """The root of ``cA`` is ``c^(-1/p)`` times the root of ``A``."""
    a = assemble(*spectrum(6, 1e2, (2,))).to(dtype)
    expected = scale**-0.25 * root(a, 4, 1e-4)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    assert (root(scale * a, 4, 1e-4) - expected).norm() < tolerance * expected.norm()


@ROOTS
def test_zero_and_non_finite_matrices_do_not_touch_their_neighbours(root) -> None:
    good = assemble(*spectrum(5, 1e2))
    bad, infinite = good.clone(), good.clone()
    bad[1, 2] = bad[2, 1] = torch.nan
    infinite[3, 3] = torch.inf
    found = root(torch.stack([good, torch.zeros_like(good), bad, infinite]), 4, 1e-6)
    torch.testing.assert_close(found[0], root(good, 4, 1e-6))
    assert torch.equal(found[1], torch.zeros_like(good))
    assert found[2:].isnan().all()


@ROOTS
def test_size_one_and_no_matrix_at_all(root) -> None:
    a = torch.tensor([[[16.0]], [[0.0]]], dtype=torch.float64)
    torch.testing.assert_close(root(a, 4, 1e-9), torch.tensor([[[0.5]], [[0.0]]], dtype=torch.float64))
    assert root(a[:0], 4, 1e-9).shape == (0, 1, 1)


def test_rank_deficient_without_a_ridge_gives_the_root_of_the_pseudo_inverse() -> None:
    generator = torch.Generator().manual_seed(3)
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 2e-2)):
        factor = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        a = (factor @ factor.mT).to(dtype)
        root = inverse_root(a, 2).double()
        torch.testing.assert_close(root @ root, torch.linalg.pinv(factor @ factor.mT), rtol=tolerance, atol=tolerance)
        assert torch.linalg.matrix_rank(root, hermitian=True, rtol=1e-5) == 3


@ROOTS
def test_orthogonal_equivariance(root) -> None:
    a = assemble(*spectrum(6, 1e3))
    q, _ = spectrum(6, 1.0, seed=9)
    torch.testing.assert_close(root(q @ a @ q.mT, 4, 1e-5), q @ root(a, 4, 1e-5) @ q.mT, rtol=1e-8, atol=1e-8)


def test_what_products_refuse() -> None:
    a = torch.eye(3)
    for p in (1, 3, 6, 0):
        with pytest.raises(ValueError, match=f"p must be a power of two from 2 on, got {p}"):
            inverse_root_by_products(a, p)
    with pytest.raises(ValueError, match=r"eps must be at least 1e-07 for torch\.float32, got 1e-09"):
        inverse_root_by_products(a, 2, 1e-9)
