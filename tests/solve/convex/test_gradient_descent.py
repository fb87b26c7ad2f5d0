"""Gradient descent with Armijo's line search, against closed forms, its proved rate, a hand count and scipy."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import scipy.optimize
import torch

from steepest.core.problem import SmoothProblem
from steepest.core.result import Reason
from steepest.solve.convex import GradientDescent
from steepest.solve.convex.gradient_descent import CARD


def quadratic(condition: float, size: int = 8, seed: int = 0) -> tuple[SmoothProblem, torch.Tensor, torch.Tensor]:
    """``f(x) = (x - c)' A (x - c) / 2`` with the eigenvalues of ``A`` from 1 to ``condition``; also ``A`` and ``c``."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    matrix = basis @ torch.diag(torch.linspace(1.0, condition, size, dtype=torch.float64)) @ basis.T
    center = torch.randn(size, dtype=torch.float64, generator=generator)
    return SmoothProblem(lambda x: 0.5 * (x - center) @ matrix @ (x - center)), matrix, center


@pytest.mark.parametrize("condition", [2.0, 10.0, 300.0])
@pytest.mark.parametrize("decrease", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("step_size", "shrink"), [(1.0, 0.5), (1e-3, 0.5), (50.0, 0.8)])
def test_the_value_stays_under_the_proved_linear_rate(
    condition: float, decrease: float, step_size: float, shrink: float
) -> None:
    problem, _, center = quadratic(condition)
    solver = GradientDescent(step_size=step_size, decrease=decrease, shrink=shrink)
    result = solver.run(problem, center + 3.0, budget="60steps", tolerance=1e-6)
    shortest = min(step_size, 2 * (1 - decrease) * shrink / condition)
    rate = 1 - 2 * 1.0 * decrease * shortest  # m = 1, L = condition, min f = 0
    values: list[Any] = result.trace.value
    assert len(values) > 2
    for before, after in itertools.pairwise(values):
        assert after <= rate * before * (1 + 1e-12)


def test_every_accepted_step_satisfies_the_condition_and_the_trial_before_does_not() -> None:
    problem, matrix, center = quadratic(50.0)
    decrease, shrink, first = 0.3, 0.6, 1.0
    states: list[Any] = []
    solver = GradientDescent(step_size=first, decrease=decrease, shrink=shrink)
    start = center + 1.0
    solver.run(problem, start, budget="20steps", callbacks=[lambda report: states.append(report.state)])

    def value(x: torch.Tensor) -> float:
        return float(0.5 * (x - center) @ matrix @ (x - center))

    x = start
    for state in states:
        gradient = matrix @ (x - center)
        # Along the negative gradient of a quadratic, decrease c holds exactly up to this step size.
        longest = 2 * (1 - decrease) * float(gradient @ gradient / (gradient @ matrix @ gradient))
        expected = first
        while expected > longest:
            expected *= shrink
        assert state.step_size == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(state.point, x - state.step_size * gradient)
        assert value(state.point) <= value(x) - decrease * state.step_size * float(gradient @ gradient) + 1e-12
        x = state.point


def test_oracle_calls_equal_a_hand_count() -> None:
    # f(x) = 2 x^2 from x = 1 with decrease 1/2 accepts t <= 1/4: trials 1, 1/2, 1/4, which lands on the minimizer.
    problem = SmoothProblem(lambda x: 2 * x.square().sum())
    start = torch.ones(1, dtype=torch.float64)
    result = GradientDescent().run(problem, start, budget="9steps", tolerance=0.0)
    assert (result.reason, result.steps, result.solution.item()) == (Reason.CONVERGED, 1, 0.0)
    assert result.calls == {"gradient": 2, "value": 1 + 3}
    # From 10 with shrink 0.9 the step size never fits exactly: count the trials by hand.
    solver = GradientDescent(step_size=10.0, shrink=0.9)
    trials = 1
    while 10.0 * 0.9 ** (trials - 1) > 0.25:
        trials += 1
    result = solver.run(problem, start, budget="4steps")
    assert result.calls == {"gradient": 5, "value": 1 + 4 * trials}


def test_minimizers_equal_the_closed_form_and_scipy() -> None:
    problem, _, center = quadratic(20.0)
    result = GradientDescent().run(problem, torch.zeros_like(center), budget="2000steps", tolerance=1e-7)
    assert result.success
    torch.testing.assert_close(result.solution, center, rtol=0, atol=1e-7)

    generator = torch.Generator().manual_seed(4)
    data = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    sign = torch.sign(torch.randn(40, dtype=torch.float64, generator=generator))

    def logistic(x: dict[str, torch.Tensor]) -> torch.Tensor:
        margins = sign * (data @ x["weight"] + x["bias"])
        return torch.nn.functional.softplus(-margins).mean() + 0.05 * x["weight"].square().sum()

    start = {"weight": torch.zeros(3, dtype=torch.float64), "bias": torch.zeros((), dtype=torch.float64)}
    result = GradientDescent(step_size=8.0).run(SmoothProblem(logistic), start, budget="2000steps", tolerance=1e-7)
    assert result.success

    def flat(x: Any) -> float:
        tensor = torch.as_tensor(x)
        return float(logistic({"weight": tensor[:3], "bias": tensor[3]}))

    peer = scipy.optimize.minimize(flat, [0.0] * 4, method="BFGS", options={"gtol": 1e-7})
    ours = [*result.solution["weight"].tolist(), result.solution["bias"].item()]
    assert ours == pytest.approx(peer.x.tolist(), abs=2e-5)
    assert result.value is not None
    assert result.value <= peer.fun + 1e-12


def test_it_ends_honestly_where_rounding_hides_every_decrease() -> None:
    problem = SmoothProblem(lambda x: 1.0 + (x - 0.3).square().sum())
    result = GradientDescent().run(problem, torch.ones(3), budget="1000steps", tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    torch.testing.assert_close(result.solution, torch.full((3,), 0.3), rtol=0, atol=1e-3)  # sqrt of float32 precision

    wrong = SmoothProblem(lambda x: (x.detach() * 3 - 2 * x).sum())  # its value is x, its gradient is -2
    result = GradientDescent(max_trials=5).run(wrong, torch.ones(1), budget="10steps")
    assert (result.reason, result.steps) == (Reason.STALLED, 0)
    assert result.calls == {"gradient": 1, "value": 6}
    assert "5 trials" in result.message


def test_a_stationary_start_stalls_without_a_tolerance() -> None:
    result = GradientDescent().run(SmoothProblem(lambda x: x.square().sum()), torch.zeros(2), budget="10steps")
    assert (result.reason, result.message) == (Reason.STALLED, "the gradient is zero")


def test_a_step_into_a_place_without_values_is_taken_back() -> None:
    problem = SmoothProblem(lambda x: (x - x.log()).sum())  # defined for x > 0, minimal at 1
    start = torch.full((2,), 5.0, dtype=torch.float64)
    result = GradientDescent(step_size=100.0).run(problem, start, budget="500steps", tolerance=1e-7)
    assert result.success
    torch.testing.assert_close(result.solution, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


def test_resumed_runs_are_bit_exact(tmp_path: Path) -> None:
    problem, _, center = quadratic(30.0)
    start = {"x": torch.zeros_like(center)}
    wrapped = SmoothProblem(lambda p: problem.function(p["x"]))
    whole = GradientDescent().run(wrapped, start, budget="25steps")
    path = tmp_path / "run.pt"
    for steps in (1, 10, 25):
        part = GradientDescent().run(wrapped, start, budget=f"{steps}steps", checkpoint=path)
    assert torch.equal(part.solution["x"], whole.solution["x"])
    assert torch.equal(part.state.gradient["x"], whole.state.gradient["x"])
    assert (part.trace.value, part.trace.calls) == (whole.trace.value, whole.trace.calls)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("step_size", [0.0, -1.0, float("inf"), float("nan")]),
        ("decrease", [0.0, 1.0, float("nan")]),
        ("shrink", [0.0, 1.0, 1.5]),
        ("max_trials", [0, -3]),
    ],
)
def test_bad_hyper_parameters_are_named(name: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"GradientDescent: {name} must be"):
            GradientDescent(**{name: value})  # type: ignore[arg-type]


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is GradientDescent
    assert CARD.needs == GradientDescent.needs
    assert CARD.room == "convex"
