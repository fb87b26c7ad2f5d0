"""Working sets with Newton steps, against scikit-learn, skglm, celer, SciPy and Clarabel, and at the edges."""

import math
from typing import Any

import celer
import cvxpy
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import skglm
import sklearn.linear_model
import torch
from torch import Tensor

from steepest.core.regularizer import L1, Box, ElasticNet, GroupL2, Nonnegative, Regularizer, SquaredL2, Zero
from steepest.core.result import Reason
from steepest.solve.convex import LinearModel, WorkingSetNewton
from steepest.solve.convex.quadratic_subproblem import minimize_quadratic, newton_direction
from steepest.solve.convex.separable import SeparableForm


def data(n: int, d: int, seed: int = 0, correlation: float = 0.5) -> tuple[Tensor, Tensor]:
    """Correlated features, a target of a tenth of them plus noise."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((n, d))
    design = noise.copy()
    for j in range(1, d):
        design[:, j] = correlation * design[:, j - 1] + math.sqrt(1 - correlation**2) * noise[:, j]
    truth = np.where(np.arange(d) % 10 == 0, generator.standard_normal(d), 0.0)
    return torch.from_numpy(design), torch.from_numpy(design @ truth + 0.3 * generator.standard_normal(n))


def csr(dense: Tensor) -> Tensor:
    return dense.to_sparse_csr()


def solve(problem: LinearModel, tolerance: float = 1e-13, **settings: Any) -> Any:
    start = torch.zeros(problem.design.shape[1], dtype=problem.design.dtype)
    return WorkingSetNewton(**settings).run(problem, start, budget="60steps", tolerance=tolerance)


def largest(design: Tensor, target: Tensor) -> float:
    return float((design.mT @ target).abs().max()) / len(target)


@pytest.mark.parametrize(("n", "d"), [(200, 40), (60, 300)])
@pytest.mark.parametrize("part", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_lasso_is_that_of_three_other_packages(n: int, d: int, part: float, sparse: bool) -> None:
    design, target = data(n, d)
    weight = part * largest(design, target)
    result = solve(LinearModel(csr(design) if sparse else design, target, "squared", L1(weight)))
    assert result.success, result
    ours, x, y = result.solution.numpy(), np.asfortranarray(design.numpy()), target.numpy()
    settings: dict[str, Any] = {"alpha": weight, "fit_intercept": False, "max_iter": 100_000}
    peers = {
        "scikit-learn": sklearn.linear_model.Lasso(tol=1e-14, **settings),
        "skglm": skglm.Lasso(alpha=weight, fit_intercept=False, tol=1e-12, max_iter=500),
        "celer": celer.Lasso(alpha=weight, fit_intercept=False, tol=1e-14, max_iter=500),
    }
    for name, peer in peers.items():
        near = 1e-7 if name == "celer" else 1e-8  # celer stops at a gap, whose root the solution's error is
        np.testing.assert_allclose(ours, peer.fit(x, y).coef_, rtol=0, atol=near, err_msg=name)


@pytest.mark.parametrize(("l1", "l2"), [(0.05, 0.1), (0.2, 1.0), (0.01, 1e-3)])
def test_the_elastic_net_is_that_of_scikit_learn(l1: float, l2: float) -> None:
    design, target = data(120, 80)
    result = solve(LinearModel(design, target, "squared", ElasticNet(l1, l2)))
    assert result.success, result
    peer = sklearn.linear_model.ElasticNet(
        alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-14, max_iter=100_000
    ).fit(design.numpy(), target.numpy())
    np.testing.assert_allclose(result.solution.numpy(), peer.coef_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("part", [0.3, 0.03])
@pytest.mark.parametrize("groups", [5, [[0, 7, 3], [1, 2], [4], [5, 6, 8, 9, 10, 11], list(range(12, 60))]])
def test_the_group_lasso_is_that_of_clarabel(part: float, groups: Any) -> None:
    design, target = data(100, 60)
    weight = part * largest(design, target) * 2
    result = solve(LinearModel(design, target, "squared", GroupL2(weight, groups)))
    assert result.success, result
    lists = [list(range(5 * j, 5 * j + 5)) for j in range(12)] if isinstance(groups, int) else groups
    x = cvxpy.Variable(60)
    penalty = weight * sum(cvxpy.norm2(x[group]) for group in lists)
    objective = cvxpy.sum_squares(design.numpy() @ x - target.numpy()) / 200 + penalty
    best = cvxpy.Problem(cvxpy.Minimize(objective))
    best.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert result.value == pytest.approx(best.value, abs=1e-9)
    np.testing.assert_allclose(result.solution.numpy(), x.value, rtol=0, atol=1e-5)
    if isinstance(groups, int):
        peer = skglm.GroupLasso(groups=5, alpha=weight, fit_intercept=False, tol=1e-12, max_iter=500)
        found = peer.fit(np.asfortranarray(design.numpy()), target.numpy()).coef_
        np.testing.assert_allclose(result.solution.numpy(), found, rtol=0, atol=1e-8)


def test_bounds_give_what_scipy_gives() -> None:
    design, target = data(80, 30)
    result = solve(LinearModel(design, target, "squared", Nonnegative()), 1e-12)
    np.testing.assert_allclose(
        result.solution.numpy(), scipy.optimize.nnls(design.numpy(), target.numpy())[0], atol=1e-9
    )
    result = solve(LinearModel(design, target, "squared", Box(-0.2, 0.3)))
    assert result.success
    peer = scipy.optimize.lsq_linear(design.numpy(), target.numpy(), (-0.2, 0.3), method="bvls", tol=1e-14).x
    np.testing.assert_allclose(result.solution.numpy(), peer, atol=1e-8)


@pytest.mark.parametrize("part", [0.3, 0.03])
@pytest.mark.parametrize("sparse", [False, True])
def test_sparse_logistic_regression_is_that_of_skglm_and_scikit_learn(part: float, sparse: bool) -> None:
    design, target = data(200, 50)
    sign = torch.where(target > 0, 1.0, -1.0).double()
    weight = part * largest(design, sign) / 2
    result = solve(LinearModel(csr(design) if sparse else design, sign, "logistic", L1(weight)))
    assert result.success, result
    peer = skglm.SparseLogisticRegression(alpha=weight, fit_intercept=False, tol=1e-11)
    x = np.asfortranarray(design.numpy())
    np.testing.assert_allclose(result.solution.numpy(), peer.fit(x, sign.numpy()).coef_[0], atol=1e-7)
    other = sklearn.linear_model.LogisticRegression(
        l1_ratio=1.0, C=1 / (200 * weight), solver="saga", fit_intercept=False, tol=1e-10, max_iter=20_000
    )
    np.testing.assert_allclose(result.solution.numpy(), other.fit(x, sign.numpy()).coef_[0], atol=1e-5)


@pytest.mark.parametrize("loss", ["huber", "squared-hinge", "logistic"])
@pytest.mark.parametrize("regularizer", [L1(0.02), ElasticNet(0.02, 0.1), GroupL2(0.03, 4), SquaredL2(0.1)])
def test_other_losses_close_the_gap(loss: str, regularizer: Regularizer) -> None:
    design, target = data(90, 40)
    target = target if loss == "huber" else torch.where(target > 0, 1.0, -1.0).double()
    result = solve(LinearModel(design, target, loss, regularizer), 1e-11)
    assert result.success, result


def test_without_a_regularizer_it_is_newtons_method() -> None:
    design, target = data(90, 20)
    result = WorkingSetNewton(start_size=20).run(
        LinearModel(design, target, "squared", Zero()), torch.zeros(20).double(), budget="2steps", tolerance=1e-12
    )
    assert (result.reason, result.steps) == (Reason.CONVERGED, 1)
    torch.testing.assert_close(result.solution, torch.linalg.lstsq(design, target[:, None]).solution[:, 0])
    sign = torch.where(target + 3 * torch.cos(torch.arange(90.0)) > 0, 1.0, -1.0).double()
    problem = LinearModel(design, sign, "logistic", Zero())
    states: list[Any] = []
    result = WorkingSetNewton(start_size=20).run(
        problem, torch.zeros(20).double(), budget="4steps", callbacks=[lambda r: states.append(r.state.point)]
    )
    x = torch.zeros(20).double()
    for state in states:
        x = x - torch.linalg.solve(problem.hessian(x), problem.smooth_gradient(x))
        torch.testing.assert_close(state, x, rtol=0, atol=1e-7)


def test_an_orthogonal_design_takes_one_step() -> None:
    basis = torch.linalg.qr(torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    target = 3 * basis.sum(1) + torch.sin(torch.arange(50.0)).double()
    result = solve(LinearModel(basis, target, "squared", L1(0.4), scale="sum"), 1e-12)
    assert result.steps == 1
    expected = (basis.mT @ target).sign() * ((basis.mT @ target).abs() - 0.4).clamp_min(0)
    torch.testing.assert_close(result.solution, expected)


def test_the_working_set_of_the_squared_loss_grows_until_the_run_ends() -> None:
    design, target = data(60, 300)
    sizes: list[int] = []
    problem = LinearModel(design, target, "squared", L1(0.05 * largest(design, target)))
    WorkingSetNewton(start_size=3).run(
        problem,
        torch.zeros(300).double(),
        budget="99steps",
        tolerance=1e-12,
        callbacks=[lambda r: sizes.append(len(r.state.working))],
    )
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 3
    # On its working set every iterate is optimal.
    state = WorkingSetNewton(start_size=3).run(problem, torch.zeros(300).double(), budget="2steps").state
    scores = SeparableForm.of(problem.regularizer, state.point).violation(state.point, state.gradient)
    assert float(scores[state.working].max()) < 1e-12
    assert float(scores.max()) > 1e-3


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_degenerate_data(loss: str) -> None:
    design, target = data(40, 10)
    design = torch.cat([design, design[:, :5], torch.zeros(40, 1), torch.ones(40, 1)], 1)  # twice, nothing, constant
    target = target if loss == "squared" else torch.where(target > 0.3, 1.0, -1.0).double()
    for regularizer in (L1(0.02), GroupL2(0.02, [[0, 10, 15], [1, 2], [3, 4, 5, 6, 7, 8, 9], [11, 12, 13, 14, 16]])):
        result = solve(LinearModel(design, target, loss, regularizer), 1e-11)
        assert result.success, (regularizer, result)
        twice = torch.cat([design, design])
        again = solve(LinearModel(twice, torch.cat([target, target]), loss, regularizer), 1e-11)
        assert again.value == pytest.approx(result.value, abs=1e-10)


def test_a_penalty_of_nothing_and_of_everything() -> None:
    design, target = data(50, 12)
    huge = solve(LinearModel(design, target, "squared", L1(1e6)))
    assert huge.success
    assert not bool(huge.solution.any())
    none = WorkingSetNewton().run(
        LinearModel(design, target, "squared", L1(0.0)), torch.zeros(12).double(), budget="20steps"
    )
    torch.testing.assert_close(none.solution, torch.linalg.lstsq(design, target[:, None]).solution[:, 0])
    wide, short = data(20, 50)
    none = WorkingSetNewton().run(
        LinearModel(wide, short, "squared", L1(0.0)), torch.zeros(50).double(), budget="20steps"
    )
    assert none.value == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tolerance_below_rounding_ends_as_stalled(loss: str, dtype: torch.dtype) -> None:
    design, target = data(100, 30)
    target = target if loss == "squared" else target.sign()
    problem = LinearModel(design.to(dtype), target.to(dtype), loss, L1(0.03))
    result = WorkingSetNewton().run(problem, torch.zeros(30, dtype=dtype), budget="200steps", tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    assert result.stationarity <= 100 * torch.finfo(dtype).eps


def test_a_warm_start_needs_no_step_back() -> None:
    design, target = data(100, 60)
    first = solve(LinearModel(design, target, "squared", L1(0.1)))
    problem = LinearModel(design, target, "squared", L1(0.09))
    warm = WorkingSetNewton().run(problem, first.solution, budget="20steps", tolerance=1e-12)
    torch.testing.assert_close(warm.solution, solve(problem).solution, rtol=0, atol=1e-9)
    assert warm.trace.value[0] <= 0.3 * float(problem.value(torch.zeros(60).double()))


def test_what_it_cannot_do_is_said() -> None:
    design, target = data(20, 5)
    start = torch.zeros(5).double()

    class Other(L1):
        pass

    with pytest.raises(TypeError, match="regularizer must be separable"):
        WorkingSetNewton().run(LinearModel(design, target, "squared", Other(0.1)), start, budget="1steps")
    with pytest.raises(TypeError, match="loss must be smooth, got Absolute"):
        WorkingSetNewton().run(LinearModel(design, target, "absolute", L1(0.1)), start, budget="1steps")
    with pytest.raises(ValueError, match="start must be a vector of 5 numbers"):
        WorkingSetNewton().run(LinearModel(design, target), torch.zeros(4).double(), budget="1steps")
    with pytest.raises(TypeError, match="dtype"):
        WorkingSetNewton().run(LinearModel(design, target), start.float(), budget="1steps")
    with pytest.raises(ValueError, match="target must be"):
        WorkingSetNewton().run(LinearModel(design, design), start, budget="1steps")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rank", [4, 12])
def test_the_subproblem_is_solved_to_the_last_digits(seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(rank, 12, dtype=torch.float64, generator=generator)
    matrix, linear = root.mT @ root, root.mT @ torch.randn(rank, dtype=torch.float64, generator=generator)
    start = torch.randn(12, dtype=torch.float64, generator=generator)
    for regularizer in (L1(0.3), ElasticNet(0.2, 0.5), Box(-0.1, 0.2), Nonnegative(), GroupL2(0.4, 3), SquaredL2(0.1)):
        g = SeparableForm.of(regularizer, start)
        found = minimize_quadratic(matrix, linear, g, torch.minimum(torch.maximum(start, g.low), g.high))
        assert float(g.violation(found, matrix @ found - linear).max()) < 1e-12, regularizer
        assert math.isfinite(float(regularizer.value(found)))


def test_newtons_direction_survives_a_singular_matrix() -> None:
    matrix = torch.ones(3, 3, dtype=torch.float64)
    direction = newton_direction(matrix, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(matrix @ direction, -torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    assert bool(torch.isfinite(newton_direction(torch.zeros(2, 2), torch.ones(2))).all())
