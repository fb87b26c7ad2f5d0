"""The proximal gradient method, against its equations in numpy, its proved rates, closed forms and other packages."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from first_order import Box, Simplex, cvxpy_minimum, lasso, lasso_minimum, quadratic, states
from sklearn.linear_model import Lasso

from steepest.core.regularizer import L1
from steepest.core.result import Reason
from steepest.solve.convex import CompositeProblem, LinearModel, ProximalGradient
from steepest.solve.convex.proximal_gradient import CARD


def soft(x: Any, level: float) -> Any:
    return np.sign(x) * np.maximum(np.abs(x) - level, 0)


def test_it_equals_its_equations_in_numpy_with_backtracking() -> None:
    problem = lasso(20, 12)
    a, y, weight = problem.design.numpy(), problem.target.numpy(), problem.regularizer.weight  # type: ignore[attr-defined]
    size, shrink, grow = 3.0, 0.6, 1.3
    found = states(ProximalGradient(step_size=size, shrink=shrink, grow=grow), problem, torch.ones(12).double(), 12)
    assert len(found) == 13

    def f(x: Any) -> Any:
        return 0.5 * np.mean((a @ x - y) ** 2)

    x = np.ones(12)
    for state in found[1:]:
        gradient = a.T @ (a @ x - y) / len(y)
        while True:
            after = soft(x - size * gradient, size * weight)
            change = after - x
            if f(after) <= f(x) + gradient @ change + change @ change / (2 * size):
                break
            size *= shrink
        x = after
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-11, atol=1e-12)
        size *= grow
        assert state.step_size == pytest.approx(size)


@pytest.mark.parametrize(("first", "grow"), [(0.02, 1.0), (0.02, 1.2), (None, 1.0), (5.0, 1.1)])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_value_stays_under_the_proved_rate(first: float | None, grow: float, loss: str) -> None:
    problem = lasso(loss=loss)
    start = torch.zeros(100, dtype=torch.float64)
    least, point = lasso_minimum(loss)
    radius = float((start - point).square().sum())
    found = states(ProximalGradient(step_size=first, grow=grow), problem, start, 60)
    total, values = 0.0, []
    for before, state in itertools.pairwise(found):
        total += used(problem, before, state)
        assert state.value - least <= radius / (2 * total) * (1 + 1e-5)
        values.append(state.value)
    assert all(b <= a + 1e-13 for a, b in itertools.pairwise(values))


def used(problem: LinearModel, before: Any, after: Any) -> float:
    """The step size between two states, from the optimality of the prox at a coordinate that is not zero."""
    index = int(after.point.abs().argmax())
    slope = before.gradient[index] + problem.regularizer.weight * torch.sign(after.point[index])  # type: ignore[attr-defined]
    return float((before.point[index] - after.point[index]) / slope)


def test_the_distance_falls_linearly_where_f_is_strongly_convex() -> None:
    values = torch.linspace(1.0, 40.0, 15)
    problem, _, center = quadratic(values, L1(0.7))
    start = center + 5
    best = states(ProximalGradient(step_size=1 / 40), problem, start, 4000)[-1].point
    radius = float((start - best).square().sum())
    for steps, state in enumerate(states(ProximalGradient(step_size=1 / 40), problem, start, 150)):
        assert float((state.point - best).square().sum()) <= (1 - 1 / 40) ** steps * radius * (1 + 1e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_it_agrees_with_scikit_learn(sparse: bool) -> None:
    problem = lasso()
    weight = problem.regularizer.weight  # type: ignore[attr-defined]
    peer = Lasso(alpha=weight, fit_intercept=False, tol=1e-12, max_iter=100000)
    peer.fit(problem.design.numpy(), problem.target.numpy())
    design = problem.design.to_sparse_csr() if sparse else problem.design
    problem = LinearModel(design, problem.target, "squared", L1(weight))
    result = ProximalGradient(grow=1.2).run(
        problem, torch.zeros(100, dtype=torch.float64), budget="5000steps", tolerance=1e-12
    )
    assert result.success
    np.testing.assert_allclose(result.solution.numpy(), peer.coef_, atol=1e-5)
    value = float(problem.value(torch.as_tensor(peer.coef_)))
    assert result.value == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("regularizer", [Box(-0.2, 0.5), Simplex()], ids=["box", "simplex"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_it_agrees_with_clarabel_on_sets(regularizer: Any, loss: str) -> None:
    plain = lasso(30, 20, loss=loss)
    problem = LinearModel(plain.design, plain.target, loss, regularizer)
    start = torch.full((20,), 7.0, dtype=torch.float64)  # outside: it is projected first
    result = ProximalGradient(grow=1.2).run(problem, start, budget="20000steps", tolerance=1e-10)
    assert result.success
    assert result.value == pytest.approx(cvxpy_minimum(problem), abs=1e-8)
    assert float(regularizer.value(result.solution)) == 0


def test_the_gap_equals_the_problems_own_and_costs_no_product() -> None:
    class Counted(LinearModel):
        products = 0

        def predict(self, x: torch.Tensor) -> torch.Tensor:
            Counted.products += 1
            return super().predict(x)

    plain = lasso()
    problem = Counted(plain.design, plain.target, "squared", plain.regularizer)
    found = states(ProximalGradient(step_size=0.02), problem, torch.zeros(100, dtype=torch.float64), 10)
    assert Counted.products == 2 + 10  # the start, its gradient mapping, and one a step
    best = float("inf")
    for state in found:
        own = float(plain.gap(state.point))
        best = min(best, own)
        assert state.stationarity <= own * (1 + 1e-12)  # the best dual value so far, not only the present one
    assert found[0].stationarity == pytest.approx(float(plain.gap(found[0].point)))
    result = ProximalGradient(step_size=0.02).run(plain, torch.zeros(100).double(), budget="10steps")
    assert result.calls == {"prox": 11, "smooth gradient": 11, "smooth value": 22}


def test_without_a_regularizer_it_is_gradient_descent_and_measures_the_gradient() -> None:
    problem, matrix, center = quadratic(torch.linspace(1.0, 10.0, 6))
    x = center + 1
    for state in states(ProximalGradient(step_size=0.05), problem, x, 20)[1:]:
        gradient = matrix @ (x - center)
        x = x - 0.05 * gradient
        torch.testing.assert_close(state.point, x, rtol=1e-12, atol=1e-13)
        assert state.stationarity == pytest.approx(float(gradient.norm()), rel=1e-9)


def test_extreme_penalties() -> None:
    plain = lasso(40, 10)
    start = torch.ones(10, dtype=torch.float64)
    none = LinearModel(plain.design, plain.target, "squared", L1(0.0))
    result = ProximalGradient(grow=1.2).run(none, start, budget="5000steps", tolerance=1e-9)
    assert result.success
    exact = torch.linalg.lstsq(plain.design, plain.target[:, None]).solution[:, 0]
    torch.testing.assert_close(result.solution, exact, rtol=0, atol=1e-7)
    huge = LinearModel(plain.design, plain.target, "squared", L1(1e6))
    result = ProximalGradient().run(huge, start, budget="10steps", tolerance=1e-12)
    assert result.success
    assert not result.solution.any()


def test_degenerate_designs() -> None:
    plain = lasso(10, 30)
    design = plain.design.clone()
    design[:, 3] = 2.0  # constant
    design[:, 4] = design[:, 5]  # duplicate features
    design[1] = design[0]  # duplicate samples
    design[:, 6] = 0.0
    problem = LinearModel(design, plain.target, "squared", L1(0.05))
    result = ProximalGradient(grow=1.2).run(problem, torch.ones(30).double(), budget="20000steps", tolerance=1e-11)
    assert result.success
    assert result.value == pytest.approx(cvxpy_minimum(problem), abs=1e-8)
    assert result.solution[6] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grow", [1.0, 1.3])
def test_a_tolerance_below_rounding_ends(dtype: torch.dtype, grow: float) -> None:
    plain = lasso(60, 20)
    problem = LinearModel(plain.design.to(dtype), plain.target.to(dtype), "squared", plain.regularizer)
    result = ProximalGradient(grow=grow).run(problem, torch.zeros(20, dtype=dtype), budget="20000steps", tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    reference = lasso(60, 20)
    peer = Lasso(alpha=reference.regularizer.weight, fit_intercept=False, tol=1e-13, max_iter=100000)  # type: ignore[attr-defined]
    peer.fit(reference.design.numpy(), reference.target.numpy())
    accuracy = 1e-3 if dtype == torch.float32 else 1e-7
    np.testing.assert_allclose(result.solution.numpy(), peer.coef_, atol=accuracy)


def test_a_function_without_a_minimum_ends_honestly() -> None:
    problem = CompositeProblem(lambda x: x.sum())
    result = ProximalGradient(grow=2.0).run(problem, torch.zeros(2, dtype=torch.float64), budget="3000steps")
    assert result.reason in (Reason.DIVERGED, Reason.BUDGET)
    assert torch.isfinite(result.solution).all()
    wrong = CompositeProblem(lambda x: (x.detach() * 3 - 2 * x).sum())  # its value is x, its gradient is -2
    result = ProximalGradient(max_trials=5).run(wrong, torch.ones(1), budget="10steps")
    assert (result.reason, result.steps) == (Reason.STALLED, 0)
    assert "5 trials" in result.message


@pytest.mark.parametrize(
    ("name", "values"),
    [("step_size", [0.0, -1.0, float("inf")]), ("shrink", [0.0, 1.0]), ("grow", [0.5]), ("max_trials", [0])],
)
def test_bad_hyper_parameters_are_named(name: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"ProximalGradient: {name} must be"):
            ProximalGradient(**{name: value})  # type: ignore[arg-type]


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is ProximalGradient
