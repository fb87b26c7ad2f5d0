"""Newton's method against closed forms, a transcription, SciPy, and the bounds proved for self-concordant functions."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import SquaredL2
from steepest.core.result import Reason
from steepest.solve.convex import LinearModel, Newton


def barrier(seed: int, n: int = 30, d: int = 5) -> tuple[SmoothProblem, torch.Tensor]:
    """The analytic centre of random half spaces (and a box): self-concordant, finite only inside; a start inside."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, dtype=torch.float64, generator=generator)
    eye = torch.eye(d, dtype=torch.float64)
    rows = torch.cat([rows, eye, -eye])
    bound = torch.cat([torch.rand(n, dtype=torch.float64, generator=generator) + 0.1, torch.ones(2 * d).double()])
    direction = torch.randn(d, dtype=torch.float64, generator=generator)
    reach = float((bound / (rows @ direction)).where(rows @ direction > 0, math.inf).min())
    return SmoothProblem(lambda x: -(bound - rows @ x).log().sum()), 0.999999 * reach * direction


def states(solver: Newton, problem: SmoothProblem, start: Any, steps: int, **settings: Any) -> tuple[Any, list[Any]]:
    found: list[Any] = []
    result = solver.run(
        problem, start, budget=f"{steps}steps", callbacks=[lambda report: found.append(report.state)], **settings
    )
    return result, found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("decrease", "shrink"), [(0.1, 0.5), (0.25, 0.8), (1e-4, 0.5)])
def test_self_concordant_bounds_hold_in_both_phases(seed: int, decrease: float, shrink: float) -> None:
    problem, start = barrier(seed)
    result, found = states(Newton(decrease=decrease, shrink=shrink), problem, start, 200, tolerance=1e-9)
    assert result.success
    values = [float(problem.value(start))] + [state.value for state in found]
    decrements = [state.decrement for state in found]  # at the point that each step left
    eta = (1 - 2 * decrease) / 4
    damped = quadratic = 0
    for (before, after), decrement, state in zip(itertools.pairwise(values), decrements, found, strict=True):
        if decrement > eta:
            damped += 1
            assert before - after >= decrease * shrink * decrement**2 / (1 + decrement)
        elif decrement > 1e-5:
            quadratic += 1
            assert state.step_size == 1.0
    for here, following in itertools.pairwise(decrements):
        if here <= eta:
            assert 2 * following <= (2 * here) ** 2 + 1e-9
    assert damped >= 3
    assert quadratic >= 1
    # The bound on the number of steps that follows (9.57 in Boyd and Vandenberghe).
    gamma = decrease * shrink * eta**2 / (1 + eta)
    assert result.steps <= (values[0] - values[-1]) / gamma + math.log2(math.log2(1e18)) + 1


def test_steps_equal_a_transcription_in_numpy() -> None:
    generator = np.random.default_rng(0)
    a, y = generator.normal(size=(30, 4)), np.sign(generator.normal(size=30))

    def value(x: np.ndarray) -> float:
        return float(np.logaddexp(0, -y * (a @ x)).mean() + 0.005 * x @ x)

    def gradient(x: np.ndarray) -> np.ndarray:
        return -a.T @ (y / (1 + np.exp(y * (a @ x)))) / 30 + 0.01 * x

    def hessian(x: np.ndarray) -> np.ndarray:
        s = 1 / (1 + np.exp(-(a @ x)))
        return (a.T * (s * (1 - s))) @ a / 30 + 0.01 * np.eye(4)

    model = LinearModel(torch.from_numpy(a), torch.from_numpy(y), "logistic", SquaredL2(0.01))
    start = 6 * generator.normal(size=4)
    _, found = states(Newton(decrease=0.2, shrink=0.7), model.as_smooth(), torch.from_numpy(start), 7)
    x, sizes = start, []
    for state in found:
        d = -np.linalg.solve(hessian(x), gradient(x))
        size = 1.0
        while value(x + size * d) > value(x) + 0.2 * size * gradient(x) @ d:
            size *= 0.7
        sizes.append(size)
        assert state.step_size == pytest.approx(size)
        assert state.decrement == pytest.approx(np.sqrt(-gradient(x) @ d), rel=1e-7)
        x = x + size * d
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-9, atol=1e-12)
    assert min(sizes) < 1.0  # the start makes the search work


def test_affine_invariance() -> None:
    problem, start = barrier(3)
    start = 0.9 * start  # so near to the boundary as the other tests begin, rounding is amplified
    change = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) + 2 * torch.eye(5)
    other = SmoothProblem(lambda z: problem.function(change @ z))
    _, ours = states(Newton(), problem, start, 8)
    _, theirs = states(Newton(), other, torch.linalg.solve(change, start), 8)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(change @ right.point, left.point, rtol=1e-7, atol=1e-7)


def test_a_quadratic_takes_one_step_and_the_counts_are_those_of_a_hand_count() -> None:
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    problem = SmoothProblem(lambda x: 0.5 * x @ matrix @ x - x.sum())
    result = Newton().run(problem, torch.tensor([5.0, -7.0]).double(), budget="5steps", tolerance=1e-13)
    assert (result.reason, result.steps) == (Reason.CONVERGED, 1)
    torch.testing.assert_close(result.solution, torch.linalg.solve(matrix, torch.ones(2).double()))
    assert result.calls == {"value": 2, "gradient": 2, "hessian": 1, "factorization": 1}


@pytest.mark.parametrize("name", ["trust-exact", "Newton-CG"])
def test_it_agrees_with_scipy_on_a_function_of_ten_variables(name: str) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()

    start = torch.full((10,), 0.5, dtype=torch.float64)
    problem = SmoothProblem(function)
    result = Newton().run(problem, start, budget="100steps", tolerance=1e-9)
    assert result.success
    peer = scipy.optimize.minimize(
        scipy.optimize.rosen,
        start.numpy(),
        jac=scipy.optimize.rosen_der,
        hess=scipy.optimize.rosen_hess,
        method=name,
        options={"xtol": 1e-10} if name == "Newton-CG" else {"gtol": 1e-9},
    )
    np.testing.assert_allclose(result.solution.numpy(), peer.x, atol=1e-6)
    np.testing.assert_allclose(problem.hessian(start).numpy(), scipy.optimize.rosen_hess(start.numpy()), atol=1e-10)


def test_gradients_get_as_small_as_they_can_be_computed_and_then_it_stalls() -> None:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(500, 6, dtype=torch.float64, generator=generator)
    target = torch.sign(design @ torch.ones(6).double() + torch.randn(500, dtype=torch.float64, generator=generator))
    problem = LinearModel(design, target, "logistic", SquaredL2(1e-3)).as_smooth()
    result = Newton().run(problem, torch.zeros(6).double(), budget="1000steps", tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    assert result.steps < 30
    assert result.stationarity is not None
    assert result.stationarity < 1e-15  # square roots of the precision would be 1e-8


def test_an_indefinite_hessian_gives_descent_and_a_singular_one_nearly_newtons_step() -> None:
    # x^4/4 - x^2/2 + y^2/2: negative curvature at the start, minima at (1, 0) and (-1, 0).
    problem = SmoothProblem(lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2)
    result, found = states(Newton(), problem, torch.tensor([0.1, 1.0]).double(), 50, tolerance=1e-10)
    assert result.success
    assert found[0].shift > 0.9
    torch.testing.assert_close(result.solution, torch.tensor([1.0, 0.0]).double())

    generator = torch.Generator().manual_seed(1)
    design = torch.randn(12, 20, dtype=torch.float64, generator=generator)  # n < d: the Hessian has rank 12
    target = torch.randn(12, dtype=torch.float64, generator=generator)
    least = LinearModel(design, target).as_smooth()
    result, found = states(Newton(), least, torch.zeros(20).double(), 10, tolerance=1e-10)
    assert result.success
    assert result.steps <= 3
    assert 0 < found[0].shift < 1e-7
    torch.testing.assert_close(result.solution, torch.linalg.pinv(design) @ target, rtol=0, atol=1e-6)


def test_separable_classes_have_no_minimizer_and_the_run_says_so() -> None:
    generator = torch.Generator().manual_seed(2)
    design = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    target = torch.sign(design @ torch.ones(4, dtype=torch.float64))
    problem = LinearModel(design, target, "logistic").as_smooth()
    result = Newton().run(problem, torch.zeros(4).double(), budget="300steps", tolerance=0.0)
    assert not result.success or result.stationarity == 0.0  # the infimum is 0, at infinity
    assert result.reason in (Reason.STALLED, Reason.BUDGET, Reason.CONVERGED)
    assert result.value is not None
    assert 0 <= result.value < 1e-10
    assert bool((design @ result.solution * target > 0).all())


def test_an_unbounded_function_ends_within_its_budget() -> None:
    problem = SmoothProblem(lambda x: -x.square().sum())
    result = Newton().run(problem, torch.ones(2).double(), budget="500steps")
    assert result.reason in (Reason.DIVERGED, Reason.BUDGET, Reason.STALLED)
    assert result.value is not None
    assert result.value < -1.0


def test_bad_starts_and_wrong_gradients_end_honestly() -> None:
    wrong = SmoothProblem(lambda x: (3 * x.detach() - 2 * x + 0.5 * (x - x.detach()).square()).sum())
    result = Newton(max_trials=4).run(wrong, torch.ones(1).double(), budget="5steps")
    assert (result.reason, result.steps) == (Reason.STALLED, 0)
    assert "4 trials" in result.message
    flat = Newton().run(SmoothProblem(lambda x: x.square().sum()), torch.zeros(2), budget="5steps")
    assert (flat.reason, flat.message) == (Reason.STALLED, "the gradient is zero")


@pytest.mark.parametrize(
    ("name", "value"), [("decrease", 0.5), ("decrease", 0.0), ("shrink", 1.0), ("shift", 0.0), ("max_trials", 0)]
)
def test_bad_hyper_parameters_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Newton: {name} must be"):
        Newton(**{name: value})  # type: ignore[arg-type]
