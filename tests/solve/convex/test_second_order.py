"""The shared parts: the cubic subproblem against brute force, safe factorizations, changes below rounding."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from steepest.core.linesearch import change_of_value, rounding_of
from steepest.core.oracle import OracleCounts, counting
from steepest.solve.convex.second_order import Spectrum, cholesky


def model(d: np.ndarray, g: np.ndarray, h: np.ndarray, constant: float) -> float:
    return float(g @ d + 0.5 * d @ h @ d + constant / 6 * np.linalg.norm(d) ** 3)


def matrix(seed: int, size: int, low: float, high: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(size, size)))[0]
    return basis @ np.diag(np.linspace(low, high, size)) @ basis.T


@pytest.mark.parametrize("constant", [1e-6, 0.3, 20.0, 1e6])
@pytest.mark.parametrize("low", [-3.0, -1e-3, 0.0, 1e-8, 2.0])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_cubic_steps_satisfy_the_conditions_of_a_global_minimizer(constant: float, low: float, size: int) -> None:
    h = matrix(size, size, low, 5.0)
    h = 0.5 * (h + h.T)
    g = np.random.default_rng(1).normal(size=size)
    spectrum = Spectrum.of(torch.from_numpy(h))
    for scale in (1.0, 1e-9, 1e5):
        d = spectrum.cubic(torch.from_numpy(scale * g), constant).numpy()
        s = 0.5 * constant * np.linalg.norm(d)
        slack = scale * np.linalg.norm(g) + np.linalg.norm(h) * np.linalg.norm(d)
        # Necessary and sufficient (Nesterov and Polyak, 2006, section 5).
        assert np.linalg.norm(scale * g + h @ d + s * d) <= 1e-12 * slack
        assert np.linalg.eigvalsh(h)[0] + s >= -1e-12 * (1 + s)


@pytest.mark.parametrize("seed", range(4))
def test_cubic_steps_beat_every_point_of_a_grid_and_local_searches(seed: int) -> None:
    generator = np.random.default_rng(seed)
    h = matrix(seed, 2, -2.0, 1.0)
    g, constant = generator.normal(size=2), 1.5
    d = Spectrum.of(torch.from_numpy(h)).cubic(torch.from_numpy(g), constant).numpy()
    best = model(d, g, h, constant)
    axis = np.linspace(-6, 6, 401)
    xs, ys = np.meshgrid(axis, axis)
    points = np.stack([xs.ravel(), ys.ravel()], 1)
    values = points @ g + 0.5 * ((points @ h) * points).sum(1) + constant / 6 * np.linalg.norm(points, axis=1) ** 3
    assert best <= values.min() + 1e-12
    assert values.min() - best < 2e-2  # the grid comes close, so it was searched in the right place
    found = scipy.optimize.minimize(lambda p: model(p, g, h, constant), points[values.argmin()], tol=1e-12)
    np.testing.assert_allclose(found.x, d, atol=1e-5)


@pytest.mark.parametrize("multiplicity", [1, 2])
def test_the_hard_case(multiplicity: int) -> None:
    # The gradient has no part along the lowest eigenvalue -1, and the length there falls short of 2/M.
    values = [-1.0] * multiplicity + [2.0, 3.0]
    h, constant = np.diag(values), 0.5
    g = np.array([0.0] * multiplicity + [0.6, -0.8])
    d = Spectrum.of(torch.from_numpy(h)).cubic(torch.from_numpy(g), constant).numpy()
    assert np.linalg.norm(d) == pytest.approx(2 / constant, rel=1e-12)
    np.testing.assert_allclose(d[multiplicity:], [-0.2, 0.2], rtol=1e-10)
    generator = np.random.default_rng(0)
    for start in generator.normal(size=(20, len(values))):
        local = scipy.optimize.minimize(lambda p: model(p, g, h, constant), 4 * start)
        assert model(d, g, h, constant) <= local.fun + 1e-9
    zero = Spectrum.of(torch.from_numpy(h)).cubic(torch.zeros(len(values)).double(), constant)
    assert float(zero.norm()) == pytest.approx(2 / constant)  # at a saddle, the cubic model leads on
    assert float(Spectrum.of(torch.eye(2)).cubic(torch.zeros(2), 1.0).norm()) == 0


def test_cholesky_refuses_what_is_positive_by_rounding_alone() -> None:
    counts = OracleCounts()
    with counting(counts):
        assert cholesky(torch.diag(torch.tensor([1.0, 1e-17])).double()) is None
        assert cholesky(torch.diag(torch.tensor([1.0, -1.0]))) is None
        factor = cholesky(torch.diag(torch.tensor([1.0, -1.0])), shift=3.0)
    assert factor is not None
    torch.testing.assert_close(factor, torch.diag(torch.tensor([2.0, math.sqrt(2.0)])))
    assert counts.snapshot() == {"factorization": 3}


def test_changes_below_rounding_come_from_slopes() -> None:
    # phi(t) = 1e9 + (t - 1)^2 / 2 * 1e-9: at t = 0.5 its value has not changed in float64.
    value, slope = 1e9, -1e-9
    here, here_slope = 1e9, -0.5e-9
    rounding = rounding_of(value, 2.2e-16)
    assert change_of_value(value, slope, 0.5, here, here_slope, rounding) == pytest.approx(-0.375e-9)
    assert change_of_value(value, slope, 0.5, here, here_slope) == 0.0
    assert change_of_value(1.0, -1.0, 0.5, 0.7, -0.1, 1e-15) == pytest.approx(-0.3)
    assert math.isnan(change_of_value(1.0, -1.0, 0.5, math.nan, math.nan, 1e-15))
