"""Linear minimization oracles: duality, the unit ball, and the subproblem solved by other means."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from steepest.core.lmo import NORMS, dual, lmo, norm

every = pytest.mark.parametrize("name", NORMS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (7, 1), (1, 7), (6,), (1,)])
def test_the_minimum_is_minus_the_dual_norm_and_lies_on_the_sphere(name: str, shape: tuple[int, ...]) -> None:
    for seed in range(5):
        m = draw(*shape, seed=seed)
        s = lmo(name, m)
        assert s.shape == m.shape
        assert norm(name, s).item() == pytest.approx(1.0, abs=1e-12)
        assert (m * s).sum().item() == pytest.approx(-dual(name, m).item(), rel=1e-12)


@every
def test_no_point_of_the_ball_is_lower(name: str) -> None:
    """Against many random points of the sphere, and the corners of the ball where it has some."""
    m = draw(3, 4)
    lowest = (m * lmo(name, m)).sum()
    for seed in range(2000):
        s = draw(3, 4, seed=seed + 1)
        assert (m * s).sum() / norm(name, s) >= lowest - 1e-12


def numpy_norm(name: str, x: np.ndarray) -> float:
    if name == "l2":
        return float(np.sqrt((x * x).sum()))
    if name == "max":
        return float(np.abs(x).max())
    if name == "column":
        return float(np.sqrt((x * x).sum(0)).max())
    singular = np.linalg.svd(x, compute_uv=False)
    return float(singular.max() if name == "spectral" else singular.sum())


def solved(name: str, m: np.ndarray, eta: float) -> float:
    """``min <m, s>`` over ``||s|| <= eta`` without singular vectors: by search over points written as ``eta s/||s||``.

    The objective is the linear function over the norm, quasi-convex where it is negative; the best of many starts.
    """

    def ratio(flat: np.ndarray) -> float:
        s = flat.reshape(m.shape)
        return eta * float((m * s).sum()) / numpy_norm(name, s)

    rng = np.random.default_rng(0)
    starts = [rng.normal(size=m.size) for _ in range(3)]
    settings = {"maxiter": 40_000, "maxfev": 40_000, "xatol": 1e-10, "fatol": 1e-13, "adaptive": True}
    best = math.inf
    for start in starts:
        point = start
        for _ in range(4):  # restarts of the simplex, which may collapse on a ridge
            found = minimize(ratio, point, method="Nelder-Mead", options=settings)
            point = found.x
        best = min(best, float(found.fun))
    return best


@every
def test_the_subproblem_solved_by_a_search(name: str) -> None:
    m = draw(2, 3, seed=3)
    value = 0.3 * (m * lmo(name, m)).sum().item()
    searched = solved(name, m.numpy(), 0.3)
    assert value <= searched + 1e-9  # ours is not worse
    assert value == pytest.approx(searched, rel=2e-3)  # nor is it out of the ball


def test_the_box_has_its_minimum_in_a_corner() -> None:
    m = draw(2, 3, seed=5)
    corners = [torch.tensor(c, dtype=torch.float64).reshape(2, 3) for c in itertools.product((-1.0, 1.0), repeat=6)]
    assert (m * lmo("max", m)).sum() == min((m * c).sum() for c in corners)


def test_the_dual_of_the_dual_is_the_norm() -> None:
    m = draw(4, 5)
    for a, b in (("l2", "l2"), ("spectral", "nuclear"), ("nuclear", "spectral")):
        torch.testing.assert_close(dual(a, m), norm(b, m))


@every
def test_zero_gives_zero_and_scale_does_not_matter(name: str) -> None:
    assert torch.equal(lmo(name, torch.zeros(3, 4)).abs(), torch.zeros(3, 4))
    m = draw(3, 4)
    for scale in (1e-150, 1e150):
        torch.testing.assert_close(lmo(name, scale * m), lmo(name, m), rtol=1e-9, atol=1e-9)


def test_rank_deficient_matrices_give_partial_isometries() -> None:
    m = draw(5, 2) @ draw(2, 6, seed=1)
    s = torch.linalg.svdvals(lmo("spectral", m))
    torch.testing.assert_close(s, torch.tensor([1.0, 1, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["spectral", "nuclear"])
def test_stacks_are_treated_one_by_one(name: str) -> None:
    stack = draw(4, 3, 5)
    torch.testing.assert_close(lmo(name, stack), torch.stack([lmo(name, m) for m in stack]))
    torch.testing.assert_close(norm(name, stack), torch.stack([norm(name, m) for m in stack]))
    torch.testing.assert_close(dual(name, stack), torch.stack([dual(name, m) for m in stack]))


def test_columns_of_convolutions_are_those_of_the_matrix() -> None:
    m = draw(3, 2, 2, 2)
    torch.testing.assert_close(lmo("column", m), lmo("column", m.reshape(3, 8)).reshape(m.shape))
