"""Polar factors: exact ones, and the quality of the polynomial iterations."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.core import orthogonal
from steepest.core.orthogonal import (
    NEWTON_SCHULZ,
    fast_dtype,
    newton_schulz,
    polar,
    polar_express,
    polar_express_coefficients,
)

SHAPES = [(8, 8), (5, 20), (20, 5), (16, 24), (1, 7), (7, 1), (1, 1)]
ALL = pytest.mark.parametrize("method", [polar, polar_express, newton_schulz], ids=lambda f: f.__name__)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_singular_values(values: list[float], rows: int, columns: int) -> torch.Tensor:
    u = torch.linalg.qr(gaussian(rows, rows)).Q[:, : len(values)]
    v = torch.linalg.qr(gaussian(columns, columns, seed=1)).Q[:, : len(values)]
    return u * torch.tensor(values, dtype=torch.float64) @ v.mT


def compose(coefficients: object, x: np.ndarray) -> np.ndarray:
    for a, b, c in coefficients:  # type: ignore[attr-defined]
        x = a * x + b * x**3 + c * x**5
    return x


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_polar_is_u_vt(shape: tuple[int, int]) -> None:
    m = gaussian(*shape)
    u, _, vt = np.linalg.svd(m.numpy(), full_matrices=False)
    np.testing.assert_allclose(polar(m).numpy(), u @ vt, atol=1e-12)


def test_polar_of_a_rank_deficient_matrix_is_a_partial_isometry() -> None:
    m = with_singular_values([3.0, 0.5], 6, 9)
    s = torch.linalg.svdvals(polar(m))
    assert torch.allclose(s, torch.tensor([1.0, 1, 0, 0, 0, 0], dtype=torch.float64), atol=1e-12)
    assert (polar(m) * m).sum().item() == pytest.approx(3.5)  # <polar, m> is the nuclear norm


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(4, 4), (3, 20), (20, 3), (2, 3, 20)], ids=str)
def test_zero_gives_zero(method: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert torch.equal(method(torch.zeros(shape, dtype=dtype)), torch.zeros(shape, dtype=dtype))  # type: ignore[operator]


@ALL
@pytest.mark.parametrize("shape", [(6, 6), (4, 15), (15, 4)], ids=str)
def test_stacks_equal_single_matrices(method: object, shape: tuple[int, int]) -> None:
    stack = torch.stack(
        [gaussian(*shape, seed=i) * 10.0**i for i in range(3)] + [torch.zeros(shape, dtype=torch.float64)]
    )
    singles = torch.stack([method(m) for m in stack])  # type: ignore[operator]
    torch.testing.assert_close(method(stack), singles, rtol=1e-9, atol=1e-9)  # type: ignore[operator]
    nested = method(stack.reshape(2, 2, *shape))  # type: ignore[operator]
    torch.testing.assert_close(nested.reshape(stack.shape), singles, rtol=1e-9, atol=1e-9)


@ALL
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scale_does_not_matter(method: object, scale: float) -> None:
    m = gaussian(6, 10, dtype=torch.float32)
    torch.testing.assert_close(method(scale * m), method(m), rtol=1e-2, atol=1e-2)  # type: ignore[operator]


@ALL
def test_transposes(method: object) -> None:
    m = gaussian(5, 12)
    torch.testing.assert_close(method(m.mT), method(m).mT, rtol=1e-9, atol=1e-9)  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_singular_values_after_the_iterations(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Above the lower end of relative size, the Polar Express is within its minimax error (and bfloat16's rounding)."""
    values = np.geomspace(1.0, 0.02, min(shape)).tolist()
    m = with_singular_values(values, *shape).to(dtype)
    exact = polar(m)
    express, schulz = polar_express(m), newton_schulz(m)
    s = torch.linalg.svdvals(express.double())
    error = np.abs(compose(polar_express_coefficients(3e-3, 4), np.geomspace(3e-3, 1, 5000)) - 1).max()
    assert error < 0.21
    rounding = 0.03 if fast_dtype(m) == torch.bfloat16 else 0.01
    assert 1 - error - rounding < s.min()
    assert s.max() < 1 + error + rounding
    s = torch.linalg.svdvals(schulz.double())
    assert s.min() > 0.6
    assert s.max() < 1.25
    assert (express - exact).norm() < (schulz - exact).norm()  # better, in four steps against five


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (64, 512)])
def test_bfloat16_is_safe_on_every_machine(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where singular values are small and the matrix is wide: nothing grows beyond what the polynomials allow."""
    monkeypatch.setattr(orthogonal, "fast_dtype", lambda m: torch.bfloat16)
    m = with_singular_values(np.geomspace(1.0, 0.02, min(shape)).tolist(), *shape).float()
    for steps in (4, 5, 8):
        s = torch.linalg.svdvals(polar_express(m, steps).double())
        assert s.max() < (1.23 if steps == 4 else 1.03)
        assert s.min() > (0.77 if steps == 4 else 0.96)
    s = torch.linalg.svdvals(newton_schulz(m).double())
    assert 0.6 < s.min() <= s.max() < 1.25


def test_the_iteration_is_the_scalar_polynomial_on_singular_values() -> None:
    """Both code paths (on the matrix, on its Gram matrix) keep U and V and map the scaled singular values."""
    for columns in (10, 30):
        m = with_singular_values([1.0, 0.6, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005], 8, columns)
        s = np.linalg.svd(m.numpy(), compute_uv=False)
        bound = 1.01 * np.sqrt(np.linalg.norm(m.numpy() @ m.numpy().T))
        u, _, vt = np.linalg.svd(m.numpy(), full_matrices=False)
        for coefficients, found in (
            (polar_express_coefficients(3e-3, 6), polar_express(m, steps=6)),
            ((NEWTON_SCHULZ,) * 5, newton_schulz(m)),
        ):
            expected = u * compose(coefficients, s / bound) @ vt
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@given(st.floats(1e-4, 0.9), st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_coefficients_equioscillate(lower: float, steps: int) -> None:
    """The last polynomial's error reaches its extreme value four times with alternating sign: the minimax property."""
    coefficients = polar_express_coefficients(lower, steps)
    low, high = lower, 1.0
    for a, b, c in coefficients:
        grid = np.linspace(low, high, 20001)
        error = a * grid + b * grid**3 + c * grid**5 - 1
        size = np.abs(error).max()
        if size > 1e-7:
            extremes = [error[0], error[-1]]
            roots = np.roots([5 * c, 0, 3 * b, 0, a])
            inner = sorted(r.real for r in roots if abs(r.imag) < 1e-9 and low < r.real < high)
            extremes[1:1] = [a * r + b * r**3 + c * r**5 - 1 for r in inner]
            assert len(extremes) == 4
            np.testing.assert_allclose(np.abs(extremes), size, rtol=1e-5)
            assert (np.sign(extremes) == [-1, 1, -1, 1]).all()
        low, high = 1 - size, 1 + size


@pytest.mark.parametrize("lower", [1e-3, 3e-3, 0.05])
def test_polar_express_beats_newton_schulz(lower: float) -> None:
    grid = np.geomspace(lower, 1.0, 5000)
    for steps in (3, 4, 5):
        best = np.abs(compose(polar_express_coefficients(lower, steps), grid) - 1).max()
        fixed = np.abs(compose((NEWTON_SCHULZ,) * steps, grid) - 1).max()
        assert best < fixed
    errors = [np.abs(compose(polar_express_coefficients(lower, n), grid) - 1).max() for n in range(1, 9)]
    assert all(b <= a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("lower", [0.0, 1.0, -1.0, 2.0])
def test_bad_lower_end(lower: float) -> None:
    with pytest.raises(ValueError, match=r"lower must be in \(0, 1\)"):
        polar_express_coefficients(lower, 4)
