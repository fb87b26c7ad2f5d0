"""Step rules, against closed forms, their equations in numpy and their proved rates."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from first_order import quadratic, states

from steepest.core.problem import MissingOracle, Problem, SmoothProblem
from steepest.core.result import Reason
from steepest.solve.convex import GradientDescent, GradientMethod
from steepest.solve.convex.gradient_method import CARD
from steepest.solve.convex.step_rules import (
    Armijo,
    BarzilaiBorwein,
    ConstantStep,
    DecreasingStep,
    ExactStep,
    PolyakStep,
    StrongWolfe,
)


def bowl(condition: float, size: int = 10) -> tuple[SmoothProblem, torch.Tensor, torch.Tensor]:
    """A quadratic with eigenvalues from 1 to ``condition`` and least value 0; its matrix and minimizer."""
    composite, matrix, center = quadratic(torch.linspace(1.0, condition, size))
    return composite.smooth, matrix, center


def logistic(seed: int = 0) -> tuple[SmoothProblem, float, torch.Tensor]:
    """A logistic regression that is not strongly convex by construction, its Lipschitz constant and its minimizer."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(50, 4, dtype=torch.float64, generator=generator)
    sign = torch.sign(torch.randn(50, dtype=torch.float64, generator=generator))
    problem = SmoothProblem(lambda x: torch.nn.functional.softplus(-sign * (data @ x)).mean())
    lipschitz = 0.25 * float(torch.linalg.matrix_norm(data, 2)) ** 2 / 50
    x = torch.zeros(4, dtype=torch.float64)
    for _ in range(50):  # Newton's method, by hand
        p = torch.sigmoid(-sign * (data @ x))
        x = x + torch.linalg.solve(data.T @ ((p * (1 - p))[:, None] * data), data.T @ (p * sign))
    return problem, lipschitz, x


def test_constant_steps_stay_under_all_their_bounds() -> None:
    problem, lipschitz, best = logistic()
    start = torch.full((4,), 3.0, dtype=torch.float64)
    radius, least = float((start - best).square().sum()), float(problem.value(best))
    for size in (1 / lipschitz, 0.3 / lipschitz):
        for steps, state in enumerate(states(GradientMethod(ConstantStep(size)), problem, start, 200)):
            if steps:
                assert state.value - least <= radius / (2 * size * steps)
    problem, _, center = bowl(30.0)
    start = center + 2
    radius = float((start - center).square().sum())
    for steps, state in enumerate(states(GradientMethod(ConstantStep(1 / 30)), problem, start, 200)):
        assert float((state.point - center).square().sum()) <= (1 - 1 / 30) ** steps * radius * (1 + 1e-9)
    for steps, state in enumerate(states(GradientMethod(ConstantStep(2 / 31)), problem, start, 200)):
        assert state.value <= 15 * math.exp(-4 * steps / 31) * radius * (1 + 1e-9)


def test_constant_steps_are_exact_on_one_eigenvector_and_diverge_beyond_two_over_l() -> None:
    problem = SmoothProblem(lambda x: 2.0 * x.square().sum())  # L = 4
    start = torch.ones(3, dtype=torch.float64)
    for steps, state in enumerate(states(GradientMethod(ConstantStep(0.1)), problem, start, 20)):
        torch.testing.assert_close(state.point, start * 0.6**steps)
    result = GradientMethod(ConstantStep(0.6)).run(problem, start, budget="1000steps")
    assert result.reason is Reason.DIVERGED


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_decreasing_steps_equal_their_formula(power: float) -> None:
    problem, matrix, center = bowl(10.0)
    x = center + 1
    for steps, state in enumerate(states(GradientMethod(DecreasingStep(0.15, power)), problem, x, 30)):
        if steps:
            assert state.step_size == pytest.approx(0.15 / steps**power)
            x = x - 0.15 / steps**power * matrix @ (x - center)
        torch.testing.assert_close(state.point, x, rtol=1e-10, atol=1e-12)


def test_polyaks_steps_bring_every_minimizer_closer_and_keep_the_rate() -> None:
    problem, lipschitz, best = logistic()
    least = float(problem.value(best))
    start = torch.full((4,), 3.0, dtype=torch.float64)
    radius = float((start - best).square().sum())
    found = states(GradientMethod(PolyakStep(least)), problem, start, 300)
    lowest = math.inf
    for steps, (before, state) in enumerate(itertools.pairwise(found), start=1):
        assert state.step_size == pytest.approx((before.value - least) / float(before.gradient.square().sum()))
        lowest = min(lowest, before.value - least)
        assert lowest <= 2 * lipschitz * radius / steps
        if before.value - least > 1e-12:
            assert (state.point - best).norm() <= (before.point - best).norm() * (1 + 1e-9)
    result = GradientMethod(PolyakStep(5.0)).run(problem, start * 0, budget="10steps")
    assert result.reason is Reason.STALLED
    assert "optimum" in result.message


@pytest.mark.parametrize("condition", [3.0, 100.0])
def test_exact_steps_minimize_along_the_line_and_reach_kantorovichs_rate(condition: float) -> None:
    problem, _matrix, center = bowl(condition)
    found = states(GradientMethod(ExactStep()), problem, center + 1, 40)
    rate = ((condition - 1) / (condition + 1)) ** 2
    for before, state in itertools.pairwise(found):
        assert abs(float(before.gradient @ state.gradient)) <= 1e-9 * float(before.gradient.square().sum()) + 1e-20
        assert state.value <= rate * before.value * (1 + 1e-9)
    # The worst start, c + (condition, 1) on the two extreme eigenvectors, attains the rate in every step.
    worst = SmoothProblem(lambda x: 0.5 * (x[0] ** 2 + condition * x[1] ** 2))
    found = states(GradientMethod(ExactStep()), worst, torch.tensor([condition, 1.0], dtype=torch.float64), 5)
    for before, state in itertools.pairwise(found):
        assert state.value == pytest.approx(rate * before.value, rel=1e-9)
    flat = SmoothProblem(lambda x: x.sum())
    result = GradientMethod(ExactStep()).run(flat, torch.zeros(2), budget="3steps")
    assert result.reason is Reason.STALLED
    assert "curvature" in result.message


def test_exact_steps_need_hessian_products() -> None:
    class First(SmoothProblem):
        @property
        def offers(self) -> frozenset[str]:
            return super().offers - {"hvp"}

    with pytest.raises(MissingOracle, match=r"ExactStep.*hvp"):
        GradientMethod(ExactStep()).run(First(lambda x: x.square().sum()), torch.ones(2), budget="1steps")
    with pytest.raises(MissingOracle, match="GradientMethod"):
        GradientMethod(ExactStep()).run(Problem(), torch.ones(2), budget="1steps")


def test_armijos_rule_is_gradient_descent() -> None:
    problem, _, center = bowl(20.0)
    settings: dict[str, Any] = {"decrease": 0.3, "shrink": 0.7, "max_trials": 50}
    left = GradientMethod(Armijo(2.0, **settings)).run(problem, center + 1, budget="30steps")
    right = GradientDescent(2.0, **settings).run(problem, center + 1, budget="30steps")
    assert torch.equal(left.solution, right.solution)
    assert (left.trace.value, left.trace.calls) == (right.trace.value, right.trace.calls)


def test_wolfes_conditions_hold_at_every_step() -> None:
    for problem, start in ((bowl(50.0)[0], bowl(50.0)[2] + 1), (logistic()[0], torch.full((4,), 3.0).double())):
        found = states(GradientMethod(StrongWolfe(size=1e-3, decrease=0.01, curvature=0.2)), problem, start, 25)
        assert len(found) > 10
        for before, state in itertools.pairwise(found):
            square = float(before.gradient.square().sum())
            if square < 1e-12:
                break  # from here on rounding decides
            assert state.value <= before.value - 0.01 * state.step_size * square
            assert abs(float(state.gradient @ before.gradient)) <= 0.2 * square
            torch.testing.assert_close(state.point, before.point - state.step_size * before.gradient)


@pytest.mark.parametrize("kind", ["long", "short"])
def test_barzilai_and_borweins_steps_equal_numpy_and_beat_the_constant_step(kind: Any) -> None:
    problem, matrix, center = bowl(1000.0, 20)
    h, c = matrix.numpy(), center.numpy()
    x, size, values = c + 1.0, 1e-3, []
    found = states(GradientMethod(BarzilaiBorwein(size=1e-3, kind=kind)), problem, center + 1, 250)
    for state in found[1:40]:
        g = h @ (x - c)
        values.append(0.5 * (x - c) @ g)
        while True:
            after = x - size * g
            if 0.5 * (after - c) @ h @ (after - c) <= max(values[-10:]) - 1e-4 * size * g @ g:
                break
            size *= 0.5
        s, y = after - x, h @ (after - x)
        x, size = after, s @ s / (s @ y) if kind == "long" else s @ y / (y @ y)
        np.testing.assert_allclose(state.point.numpy() - c, x - c, rtol=1e-6, atol=1e-9)
    constant = states(GradientMethod(ConstantStep(2 / 1001)), problem, center + 1, 250)
    assert found[-1].value < 1e-3 * constant[-1].value
    recent = [found[0].value]
    for state in found[1:]:
        assert state.value <= max(recent[-10:])
        recent.append(state.value)


def test_steps_that_no_longer_move_the_iterate_end_the_run() -> None:
    problem, _, center = bowl(30.0)
    result = GradientMethod(ConstantStep(1 / 30)).run(problem, center + 1, budget="20000steps", tolerance=0.0)
    assert result.reason is Reason.STALLED
    torch.testing.assert_close(result.solution, center, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [ConstantStep(0.4), ExactStep(), Armijo(), StrongWolfe(), BarzilaiBorwein()])
def test_a_tolerance_below_rounding_ends(rule: Any, dtype: torch.dtype) -> None:
    problem = SmoothProblem(lambda x: 1.0 + (x - 0.3).square().sum())
    result = GradientMethod(rule).run(problem, torch.ones(3, dtype=dtype), budget="3000steps", tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    torch.testing.assert_close(result.solution, torch.full((3,), 0.3, dtype=dtype), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (ConstantStep, "size", 0.0),
        (DecreasingStep, "size", -1.0),
        (PolyakStep, "optimum", math.inf),
        (Armijo, "decrease", 1.0),
        (StrongWolfe, "curvature", 0.0),
        (BarzilaiBorwein, "window", 0),
        (BarzilaiBorwein, "kind", "middle"),
    ],
)
def test_bad_settings_are_named(rule: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{rule.__name__}: {name} must be"):
        rule(**{name: value})
    with pytest.raises(ValueError, match="decrease must be less than curvature"):
        StrongWolfe(decrease=0.5, curvature=0.1)
    with pytest.raises(TypeError, match="rule must be a StepRule"):
        GradientMethod(0.1)  # type: ignore[arg-type]


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is GradientMethod
