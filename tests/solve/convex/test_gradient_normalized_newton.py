"""Gradient-normalized Newton against a transcription, its guarantees, and dense forms of its approximations."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from steepest.core.problem import MissingOracle, SmoothProblem
from steepest.core.regularizer import SquaredL2
from steepest.core.result import Reason
from steepest.solve.convex import GradientDescent, GradientNormalizedNewton, LinearModel
from steepest.solve.convex.curvatures import (
    Curvature,
    DiagonalHessian,
    ExactHessian,
    Fisher,
    GaussNewton,
    RankOne,
    Supplied,
)


def states(curvature: Curvature, problem: SmoothProblem, start: Any, steps: int, **settings: Any) -> tuple[Any, Any]:
    found: list[Any] = []
    radius = settings.pop("radius", 1.0)
    result = GradientNormalizedNewton(curvature, radius=radius).run(
        problem, start, budget=f"{steps}steps", callbacks=[lambda report: found.append(report.state)], **settings
    )
    return result, found


def soft_maximum(mu: float, n: int = 60, d: int = 8) -> tuple[SmoothProblem, GaussNewton, np.ndarray, np.ndarray]:
    """A log-sum-exp that has a minimum (rows come with their negatives), its weighted Gauss-Newton matrix, its data."""
    generator = torch.Generator().manual_seed(0)
    rows = 2 * torch.rand(n // 2, d, dtype=torch.float64, generator=generator) - 1
    rows = rows * torch.logspace(0, -1, d, dtype=torch.float64)  # ill-conditioned
    rows = torch.cat([rows, -rows])
    shift = torch.rand(n, dtype=torch.float64, generator=generator)
    problem = SmoothProblem(lambda x: mu * torch.logsumexp((rows @ x - shift) / mu, 0))
    approximation = GaussNewton(lambda x: rows @ x - shift, lambda u: torch.softmax(u / mu, 0) / mu)
    return problem, approximation, rows.numpy(), shift.numpy()


@pytest.mark.parametrize("radius", [1.0, 100.0])
@pytest.mark.parametrize("exact", [True, False])
def test_steps_equal_a_transcription_in_numpy(radius: float, exact: bool) -> None:
    mu = 0.2
    problem, approximation, a, b = soft_maximum(mu)

    def value(x: np.ndarray) -> float:
        return float(mu * np.logaddexp.reduce((a @ x - b) / mu))

    def weights(x: np.ndarray) -> np.ndarray:
        w = np.exp((a @ x - b) / mu - value(x) / mu)
        return w / w.sum()

    x = 2 * np.random.default_rng(1).normal(size=8)
    _, found = states(ExactHessian() if exact else approximation, problem, torch.from_numpy(x), 9, radius=radius)
    gamma, halvings = radius, 0
    for state in found:
        g = a.T @ weights(x)
        if np.linalg.norm(g) < 1e-6:
            break
        h = (a.T * weights(x)) @ a / mu
        if exact:
            h -= np.outer(g, g) / mu
        while True:
            lam = np.linalg.norm(g) / (gamma + 1e-8)
            following = x - np.linalg.solve(h + lam * np.eye(8), g)
            after = a.T @ weights(following)
            if value(x) - value(following) >= after @ after / (8 * lam):
                break
            gamma, halvings = gamma / 2, halvings + 1
        x = following
        assert state.accepted == gamma
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-7, atol=1e-9)
        gamma *= 2
    assert halvings > 0 or radius == 1.0


def test_accepted_radii_and_progress_are_as_guaranteed_for_a_lipschitz_hessian() -> None:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(60, 6, dtype=torch.float64, generator=generator)
    target = torch.sign(design[:, 0] + torch.randn(60, dtype=torch.float64, generator=generator))
    problem = LinearModel(design, target, "logistic", SquaredL2(1e-3)).as_smooth()
    top = float(torch.linalg.matrix_norm(design, 2)) ** 2 / 60
    lipschitz = top * float(design.norm(dim=1).max()) / (6 * math.sqrt(3))
    for radius in (1e-3, 1e3):
        start = 6 * torch.ones(6, dtype=torch.float64)
        result, found = states(ExactHessian(), problem, start, 100, radius=radius, tolerance=1e-10)
        assert result.success
        norms = [float(problem.gradient(start).norm())] + [state.stationarity for state in found]
        values = [float(problem.value(start))] + [state.value for state in found]
        for k, state in enumerate(found):
            assert state.accepted + 1e-8 >= min(radius, 0.5 * math.sqrt(2 * min(norms[: k + 1]) / lipschitz))
            if norms[k + 1] > 1e-7:
                shift = norms[k] / (state.accepted + 1e-8)
                assert values[k] - values[k + 1] >= norms[k + 1] ** 2 / (8 * shift) * (1 - 1e-9)
        ratios = [b / a for a, b in itertools.pairwise(norms)]
        assert ratios[-1] < 0.02  # superlinear in the end


@pytest.mark.parametrize("mu", [0.05, 0.1, 1.0])
def test_gauss_newton_converges_linearly_and_far_faster_than_gradients(mu: float) -> None:
    problem, approximation, a, b = soft_maximum(mu)
    start = torch.ones(8, dtype=torch.float64)
    exact, _ = states(ExactHessian(), problem, start, 300, tolerance=1e-8)
    weighted, found = states(approximation, problem, start, 300, tolerance=1e-8)
    assert exact.success
    assert weighted.success
    peer = scipy.optimize.minimize(
        lambda x: mu * np.logaddexp.reduce((a @ x - b) / mu), np.ones(8), method="BFGS", options={"gtol": 1e-9}
    )
    for result in (exact, weighted):
        assert result.value == pytest.approx(peer.fun, abs=1e-12)
        np.testing.assert_allclose(result.solution.numpy(), peer.x, atol=1e-4)
    gaps = [state.value - peer.fun for state in found if state.value - peer.fun > 1e-9]
    assert all(b < a for a, b in itertools.pairwise(gaps))
    # Linear: ten steps lower the gap by a tenth at least, anywhere.
    assert all(later <= 0.9 * gap for gap, later in zip(gaps, gaps[10:], strict=False))
    descent = GradientDescent(step_size=8.0).run(problem, start, budget="2000steps", tolerance=1e-6)
    reached = next(k for k, state in enumerate(found, 1) if state.stationarity <= 1e-6)
    assert 4 * reached <= descent.steps


def test_without_curvature_steps_are_normalized_gradients_and_do_not_see_the_scale_of_f() -> None:
    problem = SmoothProblem(lambda x: 0.5 * (torch.tensor([1.0, 10.0]).double() * x.square()).sum())
    start = torch.tensor([3.0, -4.0], dtype=torch.float64)
    _, found = states(Fisher(2.0), problem, start, 20)
    x = start
    for state in found:
        g = problem.gradient(x)
        torch.testing.assert_close(state.point, x - (state.accepted + 1e-8) * g / g.norm())
        x = state.point
    scaled = SmoothProblem(lambda x: 1e6 * problem.function(x))
    for curvature in (Fisher(2.0), ExactHessian()):
        _, one = states(curvature, problem, start, 8)
        _, two = states(curvature, scaled, start, 8)
        for left, right in zip(one, two, strict=True):
            torch.testing.assert_close(left.point, right.point, rtol=1e-9, atol=1e-9)


def test_on_a_quadratic_the_radius_grows_and_newtons_step_follows() -> None:
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    problem = SmoothProblem(lambda x: 0.5 * x @ matrix @ x - x.sum())
    result, found = states(ExactHessian(), problem, torch.tensor([5.0, -7.0]).double(), 12, tolerance=1e-12)
    assert result.success
    assert result.steps <= 8
    assert all(state.trials == 1 for state in found)
    assert found[-1].accepted == 2.0 ** (len(found) - 1)


def test_fisher_equals_the_term_of_the_hessian_and_its_solve_the_dense_one() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    b = torch.randn(7, dtype=torch.float64, generator=generator)
    for power in (3.0, 4.0):
        problem = SmoothProblem(lambda x, p=power: (rows @ x - b).norm() ** p / p)
        x = torch.randn(4, dtype=torch.float64, generator=generator)
        value, gradient = problem.value_and_gradient(x)
        found = Fisher(power).at(problem, x, float(value), gradient)
        u = rows @ x - b
        expected = (power - 2) * u.norm() ** (power - 4) * torch.outer(rows.T @ u, rows.T @ u)
        dense = found.scale * torch.outer(found.vector, found.vector)
        torch.testing.assert_close(dense, expected)
        # What is left of the Hessian is the Gauss-Newton term.
        rest = GaussNewton(lambda x: rows @ x - b, lambda u, p=power: u.norm() ** (p - 2) * torch.ones_like(u))
        torch.testing.assert_close(rest.at(problem, x, 0.0, gradient).entries + dense, problem.hessian(x))
        v = torch.randn(4, dtype=torch.float64, generator=generator)
        solved = found.solve(0.3, v)
        assert solved is not None
        torch.testing.assert_close(solved, torch.linalg.solve(dense + 0.3 * torch.eye(4).double(), v))
    assert RankOne(v, 1.0).solve(0.0, v) is None


def test_gauss_newton_matrices_equal_their_closed_forms() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    x = {"w": torch.randn(4, dtype=torch.float64, generator=generator)}
    weight = torch.rand(9, dtype=torch.float64, generator=generator)
    problem = SmoothProblem(lambda x: x["w"].sum())
    for w in (weight, torch.diag(weight)):
        found = GaussNewton(lambda x: torch.tanh(rows @ x["w"]), lambda u, w=w: w).at(problem, x, 0.0, weight)
        slopes = (1 - torch.tanh(rows @ x["w"]).square())[:, None] * rows
        torch.testing.assert_close(found.entries, slopes.T @ torch.diag(weight) @ slopes)
    few = GaussNewton(lambda x: (rows[:2] @ x["w"]).square(), lambda u: torch.ones_like(u))  # fewer outputs than inputs
    slopes = 2 * (rows[:2] @ x["w"])[:, None] * rows[:2]
    torch.testing.assert_close(few.at(problem, x, 0.0, weight).entries, slopes.T @ slopes)


def test_diagonal_and_supplied_curvature() -> None:
    matrix = torch.tensor([[2.0, 0.5, 0.0], [0.5, -1.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    problem = SmoothProblem(lambda x: 0.5 * x @ matrix @ x)
    x = torch.ones(3, dtype=torch.float64)
    found = DiagonalHessian().at(problem, x, 0.0, x)
    torch.testing.assert_close(found.entries, torch.tensor([2.0, 0.0, 3.0]).double())
    solved = found.solve(1.0, x)
    assert solved is not None
    torch.testing.assert_close(solved, torch.tensor([1 / 3, 1.0, 0.25]).double())
    assert found.solve(0.0, x) is None
    # The upper bound A'A / 4 on the Hessian of a logistic regression, computed once.
    generator = torch.Generator().manual_seed(3)
    design = torch.randn(50, 4, dtype=torch.float64, generator=generator)
    target = torch.sign(torch.randn(50, dtype=torch.float64, generator=generator))
    bound = design.T @ design / 200
    logistic = LinearModel(design, target, "logistic").as_smooth()
    result, _ = states(Supplied(lambda x: bound), logistic, torch.zeros(4).double(), 200, tolerance=1e-9)
    assert result.success
    assert result.calls["curvature"] == result.steps
    assert "hessian" not in result.calls


def test_indefinite_hessians_and_degenerate_problems_end_honestly() -> None:
    well = SmoothProblem(lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2)
    result, _ = states(ExactHessian(), well, torch.tensor([0.1, 1.0]).double(), 100, tolerance=1e-9)
    assert result.success
    assert result.value == pytest.approx(-0.25)
    generator = torch.Generator().manual_seed(1)
    design = torch.randn(12, 20, dtype=torch.float64, generator=generator)  # n < d, separable: no minimizer
    target = torch.sign(torch.randn(12, dtype=torch.float64, generator=generator))
    result, _ = states(
        ExactHessian(), LinearModel(design, target, "logistic").as_smooth(), torch.zeros(20).double(), 300
    )
    assert result.reason in (Reason.STALLED, Reason.BUDGET)
    assert result.value is not None
    assert 0 <= result.value < 1e-3
    problem = LinearModel(design, target, "logistic", SquaredL2(0.1)).as_smooth()
    result, _ = states(ExactHessian(), problem, torch.zeros(20).double(), 1000, tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    assert result.stationarity is not None
    assert result.stationarity < 1e-14
    result, _ = states(ExactHessian(), SmoothProblem(lambda x: -x.square().sum()), torch.ones(2).double(), 100)
    assert result.reason in (Reason.DIVERGED, Reason.BUDGET, Reason.STALLED)
    assert result.value is not None
    assert result.value < -1e3


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="curvature must be a Curvature"):
        GradientNormalizedNewton(curvature="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="GradientNormalizedNewton: radius must be"):
        GradientNormalizedNewton(radius=0.0)
    with pytest.raises(ValueError, match="power must be"):
        Fisher(1.0)

    class Plain(SmoothProblem):
        @property
        def offers(self) -> frozenset[str]:
            return frozenset({"value", "gradient"})

    with pytest.raises(MissingOracle, match="ExactHessian"):
        GradientNormalizedNewton().run(Plain(lambda x: x.sum()), torch.ones(2), budget="1steps")
