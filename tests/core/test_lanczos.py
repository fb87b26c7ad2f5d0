"""Lanczos' method against dense eigenvalues."""

import pytest
import torch
from torch import Tensor

from steepest.core.lanczos import extreme_eigenvalues, lanczos, spectral_density


def matrix(size: int = 40, seed: int = 0, values: Tensor | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    if values is None:
        values = torch.randn(size, generator=generator, dtype=torch.float64)
    return (basis * values) @ basis.mT


def test_the_basis_is_orthonormal_and_the_matrix_in_it_tridiagonal() -> None:
    a = matrix()
    start = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    basis, small = lanczos(lambda v: a @ v, start, 12)
    assert torch.allclose(basis @ basis.mT, torch.eye(12).double(), atol=1e-14)
    assert torch.allclose(basis @ a @ basis.mT, small, atol=1e-13)
    assert not small.triu(2).any()
    assert torch.allclose(basis[0], start / start.norm())
    narrow, _ = lanczos(lambda v: a.float() @ v, start.float(), 40)
    assert torch.allclose(narrow @ narrow.mT, torch.eye(len(narrow)), atol=1e-5)


def test_it_ends_where_the_space_is_exhausted() -> None:
    values = torch.tensor([1.0, 2.0, 5.0]).double().repeat(10)
    a = matrix(30, values=values)
    basis, small = lanczos(lambda v: a @ v, torch.ones(30).double(), 30)
    assert len(basis) == 3
    assert torch.allclose(torch.linalg.eigvalsh(small), torch.tensor([1.0, 2.0, 5.0]).double())


def test_the_ends_of_a_spectrum() -> None:
    a = matrix(60)
    values = torch.linalg.eigvalsh(a)
    found = extreme_eigenvalues(lambda v: a @ v, a[0], tolerance=1e-9, max_products=60)
    assert found.converged
    assert found.largest == pytest.approx(float(values[-1]), rel=1e-8)
    assert found.smallest == pytest.approx(float(values[0]), rel=1e-8)
    for value, vector in ((found.largest, found.highest), (found.smallest, found.lowest)):
        assert float((a @ vector - value * vector).norm()) < 1e-6
        assert float(vector.norm()) == pytest.approx(1.0)
    rough = extreme_eigenvalues(lambda v: a @ v, a[0], tolerance=1e-2)
    assert rough.products < found.products
    assert rough.converged
    assert not extreme_eigenvalues(lambda v: a @ v, a[0], tolerance=1e-9, max_products=3).converged
    zero = extreme_eigenvalues(lambda v: 0 * v, a[0])
    assert (zero.smallest, zero.largest, zero.converged) == (0.0, 0.0, True)


def test_the_quadrature_is_exact_for_polynomials_of_one_probe_and_right_on_average() -> None:
    a = matrix(50)
    one = spectral_density(lambda v: a @ v, a[0], steps=4, probes=1, seed=3)
    from steepest.core.random import normal

    v = normal(a[0], 3, 0)
    v = v / v.norm()
    image, total = v, []
    for _ in range(8):
        total.append(float(v @ image))
        image = a @ image
    for power, expected in enumerate(total):  # degrees 0 to 2 m - 1
        assert one.mean_of(lambda t, k=power: t**k) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    many = spectral_density(lambda v: a @ v, a[0], steps=20, probes=400)
    assert many.mean_of(lambda t: t) == pytest.approx(float(a.trace()) / 50, abs=0.02)
    assert many.mean_of(lambda t: t.square()) == pytest.approx(float(a.square().sum()) / 50, rel=0.05)
    assert torch.allclose(many.weights.sum(1), torch.ones(400).double())


def test_the_smoothed_density_integrates_to_one() -> None:
    a = matrix(50)
    found = spectral_density(lambda v: a @ v, a[0], steps=30, probes=3)
    grid = torch.linspace(-5, 5, 4001).double()
    for width in (None, 0.1):
        assert float(torch.trapezoid(found.on(grid, width), grid)) == pytest.approx(1.0, abs=1e-3)
    short = spectral_density(lambda v: 2 * v, a[0], steps=30)  # exhausted at once
    assert short.mean_of(torch.exp) == pytest.approx(float(torch.tensor(2.0).double().exp()))


def test_bad_input() -> None:
    one = torch.ones(3)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        spectral_density(lambda v: v, one, steps=0)
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        spectral_density(lambda v: v, one, probes=0)
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        extreme_eigenvalues(lambda v: v, one, tolerance=0)
    with pytest.raises(ValueError, match="max_products must be at least 1, got 0"):
        extreme_eigenvalues(lambda v: v, one, max_products=0)
    with pytest.raises(ValueError, match="width must be positive, got -1"):
        spectral_density(lambda v: v, one).on(one, -1)
