"""ADMM, against its equations, the inequality that proves it, KKT conditions and other packages."""

import itertools
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from first_order import Box, Simplex, lasso, spectrum, states
from sklearn.linear_model import Lasso

from steepest.core.regularizer import L1
from steepest.core.result import Reason
from steepest.core.stopping import Tolerance
from steepest.solve.convex import ADMM, LossBlock, ProxBlock, QuadraticBlock, SplitProblem
from steepest.solve.convex.admm import CARD


def pair(x: int, z: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(x, dtype=torch.float64), torch.zeros(x if z is None else z, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def split_lasso(weight: float = 0.1) -> SplitProblem:
    """A lasso in its two terms: ``x = z``."""
    model = lasso(40, 20)
    quadratic = model.design.T @ model.design / 40
    return SplitProblem(QuadraticBlock(quadratic, -model.design.T @ model.target / 40), ProxBlock(L1(weight), -1.0))


def general() -> tuple[SplitProblem, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two strongly convex quadratics with general matrices; also the solution of their KKT system ``(x, z, y)``."""
    p, q = spectrum(torch.linspace(0.5, 3, 5), 1), random(5, seed=2)
    s, t = spectrum(torch.linspace(0.2, 2, 4), 3), random(4, seed=4)
    a, b, c = random(3, 5, seed=5), random(3, 4, seed=6), random(3, seed=7)
    problem = SplitProblem(QuadraticBlock(p, q, a), QuadraticBlock(s, t, b), c)
    zero = torch.zeros
    top = torch.cat([p, zero(5, 4).double(), a.T], 1)
    middle = torch.cat([zero(4, 5).double(), s, b.T], 1)
    bottom = torch.cat([a, b, zero(3, 3).double()], 1)
    answer = torch.linalg.solve(torch.cat([top, middle, bottom]), torch.cat([-q, -t, c]))
    return problem, answer[:5], answer[5:9], answer[9:]


@pytest.mark.parametrize("relaxation", [1.0, 1.7, 0.6])
def test_it_equals_its_equations_in_numpy(relaxation: float) -> None:
    problem, *_ = general()
    p, q, a = (np.asarray(t) for t in (problem.first.quadratic, problem.first.linear, problem.first.operator))  # type: ignore[attr-defined]
    s, t, b = (np.asarray(t) for t in (problem.second.quadratic, problem.second.linear, problem.second.operator))  # type: ignore[attr-defined]
    c, r = np.asarray(problem.offset), 0.7
    z, u = np.zeros(4), np.zeros(3)
    solver = ADMM(penalty=r, relaxation=relaxation, balance_steps=0)
    for state in states(solver, problem, pair(5, 4), 30)[1:]:
        x = np.linalg.solve(p + r * a.T @ a, -q - r * a.T @ (b @ z - c + u))
        h = relaxation * a @ x - (1 - relaxation) * (b @ z - c)
        z_next = np.linalg.solve(s + r * b.T @ b, -t - r * b.T @ (h - c + u))
        u_next = u + h + b @ z_next - c
        # The subgradient of f at x, and how far the multipliers are from it.
        stationarity = np.linalg.norm(p @ x + q + a.T @ (r * u_next))
        z, u = z_next, u_next
        np.testing.assert_allclose(state.point[0].numpy(), x, atol=1e-10)
        np.testing.assert_allclose(state.point[1].numpy(), z, atol=1e-10)
        np.testing.assert_allclose(state.dual.numpy(), u, atol=1e-10)
        assert state.feasibility == pytest.approx(np.linalg.norm(a @ x + b @ z - c), abs=1e-10)
        assert state.stationarity == pytest.approx(stationarity, abs=1e-10)
        np.testing.assert_allclose(s @ z + t + b.T @ (r * u), 0, atol=1e-10)  # exact for g


def test_the_dual_residual_without_relaxation_is_the_textbooks() -> None:
    problem, *_ = general()
    found = states(ADMM(penalty=0.7, balance_steps=0), problem, pair(5, 4), 10)
    for before, after in itertools.pairwise(found):
        textbook = 0.7 * problem.first.adjoint(after.coupled - before.coupled)
        assert after.stationarity == pytest.approx(float(textbook.norm()), rel=1e-9)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 20.0])
def test_the_inequality_that_proves_convergence_holds_in_every_step(penalty: float) -> None:
    problem, _, best, multipliers = general()
    found = states(ADMM(penalty=penalty, balance_steps=0), problem, pair(5, 4), 60)

    def distance(state: Any) -> float:
        dual = state.dual - multipliers / penalty
        return penalty * float(dual.square().sum() + problem.second.apply(state.point[1] - best).square().sum())

    for before, after in itertools.pairwise(found):
        moved = problem.second.apply(after.point[1] - before.point[1])
        fall = penalty * (float(after.feasibility) ** 2 + float(moved.square().sum()))
        if before is found[0]:
            continue  # the proof compares two steps
        assert distance(after) <= distance(before) - fall + 1e-12


@pytest.mark.parametrize("solver", [ADMM(), ADMM(relaxation=1.7), ADMM(penalty=1e-4), ADMM(penalty=1e4)])
def test_it_finds_the_solution_and_the_multipliers(solver: ADMM) -> None:
    problem, x, z, y = general()
    result = solver.run(problem, pair(5, 4), budget="5000steps", tolerance=1e-9)
    assert result.success
    torch.testing.assert_close(result.solution[0], x, rtol=0, atol=1e-7)
    torch.testing.assert_close(result.solution[1], z, rtol=0, atol=1e-7)
    torch.testing.assert_close(result.state.penalty * result.state.dual, y, rtol=0, atol=1e-7)


def test_balancing_keeps_the_multipliers_and_follows_the_rule() -> None:
    problem = split_lasso()
    found = states(ADMM(penalty=1e4, balance_steps=15), problem, pair(20), 40)
    changes = 0
    for before, after in itertools.pairwise(found):
        expected = before.penalty
        if before.steps < 15:
            expected *= 2.0 if after.feasibility > 10 * after.stationarity else 1.0
            expected /= 2.0 if after.stationarity > 10 * after.feasibility else 1.0
        assert after.penalty == expected
        changes += after.penalty != before.penalty
        multipliers = before.penalty * (before.dual + after.dual_change)
        torch.testing.assert_close(after.penalty * after.dual, multipliers, rtol=1e-12, atol=1e-12)
    assert 3 < changes <= 15


def test_it_agrees_with_scikit_learn() -> None:
    model = lasso(40, 20)
    result = ADMM(relaxation=1.6).run(split_lasso(), pair(20), budget="5000steps", tolerance=1e-10)
    assert result.success
    peer = Lasso(alpha=0.1, fit_intercept=False, tol=1e-13, max_iter=100000).fit(
        model.design.numpy(), model.target.numpy()
    )
    np.testing.assert_allclose(result.solution[1].numpy(), peer.coef_, atol=1e-7)
    # The same in its other splitting, by predictions: loss(z) + w |x|_1 needs a solve with the design in f instead.
    huber = SplitProblem(
        QuadraticBlock(1e-9 * torch.eye(20, dtype=torch.float64), torch.zeros(20).double(), model.design),
        LossBlock("huber", model.target, 1 / 40, scale=-1.0),
    )
    result = ADMM(penalty=0.1).run(huber, pair(20, 40), budget="5000steps", tolerance=1e-9)
    assert result.success
    x = cvxpy.Variable(20)
    task = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(cvxpy.huber(model.design.numpy() @ x - model.target.numpy())) / 80))
    task.solve(solver="CLARABEL")
    assert result.value == pytest.approx(task.value, abs=1e-7)


@pytest.mark.parametrize("kind", ["box", "simplex", "basis pursuit"])
def test_it_agrees_with_clarabel(kind: str) -> None:
    p, q = spectrum(torch.linspace(0.0, 5, 8), 3), random(8, seed=8)
    rows, right = random(3, 8, seed=9), random(3, seed=10)
    x = cvxpy.Variable(8)
    energy = 0.5 * cvxpy.quad_form(x, cvxpy.psd_wrap(p.numpy())) + q.numpy() @ x
    if kind == "box":
        problem = SplitProblem(QuadraticBlock(p, q, None, (rows[:1], right[:1])), ProxBlock(Box(-0.5, 1.0), -1.0))
        limits = [x >= -0.5, x <= 1.0, rows[:1].numpy() @ x == right[:1].numpy()]
        task = cvxpy.Problem(cvxpy.Minimize(energy), limits)
    elif kind == "simplex":
        problem = SplitProblem(QuadraticBlock(p, q), ProxBlock(Simplex(), -1.0))
        task = cvxpy.Problem(cvxpy.Minimize(energy), [x >= 0, cvxpy.sum(x) == 1])
    else:
        problem = SplitProblem(QuadraticBlock(None, q * 0, None, (rows, right)), ProxBlock(L1(1.0), -1.0))
        task = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm1(x)), [rows.numpy() @ x == right.numpy()])
    task.solve(solver="CLARABEL")
    result = ADMM().run(problem, pair(8), budget="20000steps", tolerance=1e-9, record_every=1000)
    assert result.success
    assert result.value == pytest.approx(task.value, abs=1e-6)
    np.testing.assert_allclose(result.solution[1].numpy(), x.value, atol=1e-4)


def test_an_infeasible_problem_is_said_to_be_so() -> None:
    right = torch.tensor([30.0], dtype=torch.float64)
    rows = torch.ones(1, 4, dtype=torch.float64)
    first = QuadraticBlock(torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), None, (rows, right))
    problem = SplitProblem(first, ProxBlock(Box(-1.0, 1.0), -1.0))  # the sum of four such numbers is not 30
    result = ADMM().run(problem, pair(4), budget="2000steps", tolerance=1e-8)
    assert result.reason is Reason.STALLED
    assert "infeasible" in result.message
    # Just feasible: the same with 4, where the box is met in a corner.
    first = QuadraticBlock(
        torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), None, (rows, right * 0 + 4)
    )
    result = ADMM().run(
        SplitProblem(first, ProxBlock(Box(-1.0, 1.0), -1.0)), pair(4), budget="5000steps", tolerance=1e-6
    )
    assert result.success
    # Two boxes that do not meet, coupled by x - z = 0.
    apart = SplitProblem(ProxBlock(Box(0.0, 1.0)), ProxBlock(Box(2.0, 3.0), -1.0))
    result = ADMM().run(apart, pair(3), budget="2000steps", tolerance=1e-8)
    assert "infeasible" in result.message


def test_an_unbounded_problem_is_said_to_be_so() -> None:
    slope = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    for bound, unbounded in ((1e30, True), (50.0, False)):
        problem = SplitProblem(QuadraticBlock(None, slope), ProxBlock(Box(0.0, bound), -1.0))
        result = ADMM().run(problem, pair(2), budget="5000steps", tolerance=1e-6, divergence=None)
        if unbounded:
            assert result.reason is Reason.STALLED
            assert "unbounded" in result.message
        else:
            assert result.success
            torch.testing.assert_close(result.solution[1], torch.tensor([50.0, 0.0]).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tolerance_below_rounding_ends(dtype: torch.dtype) -> None:
    model = lasso(40, 20)
    design, target = model.design.to(dtype), model.target.to(dtype)
    first = QuadraticBlock(design.T @ design / 40, -design.T @ target / 40)
    problem = SplitProblem(first, ProxBlock(L1(0.1), -1.0))
    start = tuple(part.to(dtype) for part in pair(20))
    result = ADMM(balance_steps=20).run(problem, start, budget="5000steps", tolerance=0.0, record_every=1000)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    assert result.feasibility < (1e-5 if dtype == torch.float32 else 1e-13)


def test_what_does_not_fit_is_refused() -> None:
    problem = split_lasso()
    with pytest.raises(TypeError, match="pair"):
        ADMM().run(problem, torch.zeros(20).double(), budget="1steps")
    with pytest.raises(TypeError, match="first must be a Block"):
        SplitProblem(L1(0.1), problem.second)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale must not be 0"):
        ProxBlock(L1(0.1), 0.0)
    with pytest.raises(ValueError, match=r"equality must be"):
        QuadraticBlock(None, torch.zeros(3), None, (torch.zeros(2, 4), torch.zeros(2)))
    flat = SplitProblem(QuadraticBlock(None, torch.zeros(3), torch.zeros(2, 3)), ProxBlock(L1(1.0)))
    with pytest.raises(ValueError, match="not unique"):
        ADMM().run(flat, (torch.zeros(3), torch.zeros(2)), budget="1steps")
    for name, value in (("penalty", 0.0), ("relaxation", 2.0), ("balance", 1.0), ("balance_steps", -1)):
        with pytest.raises(ValueError, match=f"ADMM: {name} must be"):
            ADMM(**{name: value})  # type: ignore[arg-type]
    assert Tolerance(1e-3).feasibility is None
    assert CARD.load() is ADMM
