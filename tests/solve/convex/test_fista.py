"""FISTA, against its equations in numpy, its proved rates, special cases and other packages."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from first_order import Box, Simplex, cvxpy_minimum, lasso, lasso_minimum, quadratic, states
from sklearn.linear_model import Lasso

from steepest.core.regularizer import L1
from steepest.core.result import Reason
from steepest.solve.convex import FISTA, CompositeProblem, LinearModel, ProximalGradient
from steepest.solve.convex.fista import CARD


def soft(x: Any, level: float) -> Any:
    return np.sign(x) * np.maximum(np.abs(x) - level, 0)


def test_it_equals_beck_and_tebolles_equations_in_numpy() -> None:
    problem = lasso(20, 12)
    a, y, weight = problem.design.numpy(), problem.target.numpy(), problem.regularizer.weight  # type: ignore[attr-defined]
    size = 1 / float(problem.lipschitz or 0)
    x, z, t = np.ones(12), np.ones(12), 1.0
    for state in states(FISTA(step_size=size), problem, torch.ones(12).double(), 40)[1:]:
        after = soft(z - size * a.T @ (a @ z - y) / len(y), size * weight)
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        z = after + (t - 1) / following * (after - x)
        x, t = after, following
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-10, atol=1e-12)


def test_its_momentum_for_strong_convexity_equals_chambolle_and_pocks_and_tends_to_nesterovs() -> None:
    values = torch.linspace(1.0, 50.0, 9)
    problem, matrix, center = quadratic(values, strong_convexity=1.0)
    size, x, before, t = 1 / 50, center.numpy() + 2, center.numpy() + 2, 0.0
    found = states(FISTA(step_size=size), problem, center + 2, 60)
    h, c, q = matrix.numpy(), center.numpy(), 1.0 / 50
    for state in found[1:]:
        following = (1 - q * t * t + math.sqrt((1 - q * t * t) ** 2 + 4 * t * t)) / 2
        factor = (t - 1) / following * (1 - following * q) / (1 - q)
        y = x + factor * (x - before)
        before, x, t = x, y - size * h @ (y - c), following
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-9, atol=1e-12)
    assert factor == pytest.approx((1 - math.sqrt(q)) / (1 + math.sqrt(q)), abs=1e-4)


@pytest.mark.parametrize(("first", "grow"), [(0.02, 1.0), (0.02, 1.1), (None, 1.0), (5.0, 1.3), (1e-4, 1.5)])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_value_stays_under_the_proved_rate(first: float | None, grow: float, loss: str) -> None:
    problem = lasso(loss=loss)
    start = torch.zeros(100, dtype=torch.float64)
    least, point = lasso_minimum(loss)
    radius = float((start - point).square().sum())
    found = states(FISTA(step_size=first, grow=grow), problem, start, 80)
    assert len(found) > 40
    total = 0.0
    for steps, state in enumerate(found):
        assert state.value - least <= state.stationarity + 1e-12  # the gap, also between the iterates' gradients
        if steps:
            total += math.sqrt(state.used)
            if grow > 1:
                assert state.used * state.momentum**2 >= (total / 2) ** 2 * (1 - 1e-9)
            assert state.momentum >= (steps + 1) / 2 or grow > 1
            assert state.value - least <= radius / (2 * state.used * state.momentum**2) * (1 + 1e-9)


def test_with_one_step_size_it_stays_under_the_textbook_bound_and_near_it_on_nesterovs_worst_function() -> None:
    size = 201  # x' T x / 2 - x_1 with the tridiagonal T of 2 and -1, all over 4: 1-smooth
    matrix = (
        torch.diag(torch.full((size,), 2.0))
        - torch.diag(torch.ones(size - 1), 1)
        - torch.diag(torch.ones(size - 1), -1)
    )
    matrix = matrix.double() / 4
    problem = CompositeProblem(lambda x: 0.5 * x @ (matrix @ x) - 0.25 * x[0])
    best = torch.linalg.solve(matrix, torch.eye(size, dtype=torch.float64)[0] / 4)
    least, radius = float(problem.value(best)), float(best.square().sum())
    for steps, state in enumerate(states(FISTA(step_size=1.0), problem, torch.zeros(size, dtype=torch.float64), 100)):
        if steps:
            above = state.value - least
            assert above <= 2 * radius / (steps + 1) ** 2
    assert above >= 3 * radius / (32 * 102**2)  # after 100 steps no first-order method is better (Bubeck, theorem 3.14)


@pytest.mark.parametrize("grow", [1.0, 1.2])
@pytest.mark.parametrize("first", [1 / 60, 0.9, None])
def test_the_linear_rate_of_strong_convexity(grow: float, first: float | None) -> None:
    values = torch.logspace(0, math.log10(60), 20)
    problem, _, center = quadratic(values, L1(0.3), strong_convexity=1.0)
    start = center + 3
    best = states(ProximalGradient(step_size=1 / 60), problem, start, 6000)[-1]
    radius = float((start - best.point).square().sum())
    product = 1.0
    found = states(FISTA(step_size=first, grow=grow), problem, start, 100)
    for state in found[1:]:
        product *= 1 - state.used * state.momentum
        bound = product * radius / (2 * state.used * state.momentum**2)
        assert state.value - best.value <= bound * (1 + 1e-9) + 1e-12
    if grow == 1.0 and first == 1 / 60:
        assert product <= (1 - math.sqrt(1 / 60)) ** 99 * 1.01 * 60  # what "linear" means: sqrt of the condition
        assert found[-1].value - best.value <= (60 + 1) / 2 * radius * math.exp(-99 / math.sqrt(60))  # Bubeck, 3.18


@pytest.mark.parametrize("restart", ["function", "gradient"])
def test_restarts_happen_exactly_when_they_should_and_recover_the_linear_rate(restart: Any) -> None:
    values = torch.logspace(0, 4, 20)
    problem, _, center = quadratic(values)
    start = center + 1
    plain = states(FISTA(step_size=1e-4), problem, start, 3000)
    found = states(FISTA(step_size=1e-4, restart=restart), problem, start, 3000)
    assert found[-1].value < 1e-9 * plain[-1].value
    assert found[-1].restarts > 3
    for before, state in itertools.pairwise(found):
        factor = (before.momentum - 1) / (0.5 * (1 + math.sqrt(1 + 4 * before.momentum**2)))
        y = before.point + factor * (before.point - before.previous)
        rose = state.value > before.value
        uphill = float((y - state.point) @ (state.point - before.point)) > 0
        assert (state.restarts > before.restarts) == (rose if restart == "function" else uphill)
    index = next(i for i, state in enumerate(found) if state.restarts)
    again = states(FISTA(step_size=1e-4), problem, found[index].point, 3)
    torch.testing.assert_close(found[index + 3].point, again[3].point, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sparse", [False, True])
def test_it_agrees_with_scikit_learn(sparse: bool) -> None:
    problem = lasso()
    weight = problem.regularizer.weight  # type: ignore[attr-defined]
    peer = Lasso(alpha=weight, fit_intercept=False, tol=1e-12, max_iter=100000)
    peer.fit(problem.design.numpy(), problem.target.numpy())
    design = problem.design.to_sparse_csr() if sparse else problem.design
    problem = LinearModel(design, problem.target, "squared", L1(weight))
    start = torch.zeros(100, dtype=torch.float64)
    result = FISTA(restart="gradient").run(problem, start, budget="5000steps", tolerance=1e-12)
    assert result.success
    np.testing.assert_allclose(result.solution.numpy(), peer.coef_, atol=1e-5)
    assert result.value == pytest.approx(float(problem.value(torch.as_tensor(peer.coef_))), abs=1e-10)


@pytest.mark.parametrize("regularizer", [Box(-0.2, 0.5), Simplex()], ids=["box", "simplex"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_it_agrees_with_clarabel_on_sets(regularizer: Any, loss: str) -> None:
    plain = lasso(30, 20, loss=loss)
    problem = LinearModel(plain.design, plain.target, loss, regularizer)
    start = torch.full((20,), 7.0, dtype=torch.float64)
    result = FISTA(restart="gradient", grow=1.1).run(problem, start, budget="20000steps", tolerance=1e-10)
    assert result.success
    assert result.value == pytest.approx(cvxpy_minimum(problem), abs=1e-8)
    assert float(regularizer.value(result.solution)) == 0


def test_a_step_costs_one_pair_of_products_and_one_more_per_refused_trial() -> None:
    class Counted(LinearModel):
        products = 0

        def predict(self, x: torch.Tensor) -> torch.Tensor:
            Counted.products += 1
            return super().predict(x)

    plain = lasso()
    start = torch.zeros(100, dtype=torch.float64)
    problem = Counted(plain.design, plain.target, "squared", plain.regularizer)
    size = 1 / float(plain.lipschitz or 0)
    states(FISTA(step_size=size), problem, start, 10)
    assert Counted.products == 2 + 10
    result = FISTA(step_size=size).run(plain, start, budget="10steps")
    assert result.calls == {"prox": 11, "smooth gradient": 11, "smooth value": 22}
    result = FISTA(step_size=size * 2**7.5).run(plain, start, budget="10steps")
    refused = result.calls["prox"] - 11
    assert 2 < refused <= 8
    assert result.calls == {"prox": 11 + refused, "smooth gradient": 11, "smooth value": 22 + refused}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("grow", "restart"), [(1.0, "gradient"), (1.1, "gradient"), (1.0, "none")])
def test_a_tolerance_below_rounding_ends(dtype: torch.dtype, grow: float, restart: Any) -> None:
    reference = lasso(60, 20)
    problem = LinearModel(reference.design.to(dtype), reference.target.to(dtype), "squared", reference.regularizer)
    solver = FISTA(grow=grow, restart=restart)
    result = solver.run(problem, torch.zeros(20, dtype=dtype), budget="20000steps", tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    peer = Lasso(alpha=reference.regularizer.weight, fit_intercept=False, tol=1e-13, max_iter=100000)  # type: ignore[attr-defined]
    peer.fit(reference.design.numpy(), reference.target.numpy())
    np.testing.assert_allclose(result.solution.numpy(), peer.coef_, atol=1e-3 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("step_size", [0.0, -1.0, float("inf")]),
        ("shrink", [0.0, 1.0]),
        ("grow", [0.5]),
        ("max_trials", [0]),
        ("strong_convexity", [-1.0]),
        ("restart", ["always", None]),
    ],
)
def test_bad_hyper_parameters_are_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"FISTA: {name} must be"):
            FISTA(**{name: value})


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is FISTA
