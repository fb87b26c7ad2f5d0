"""Line searches: their conditions hold, their counts are right, and scipy agrees."""

import math

import numpy as np
import pytest
import scipy.optimize

from steepest.core.linesearch import armijo, goldstein, strong_wolfe


def test_armijo_takes_the_first_trial_that_decreases_enough() -> None:
    # phi(t) = (t - 1)^2 * 4 has phi(0) = 4, phi'(0) = -8; decrease c holds up to t = 2 (1 - c).
    tried: list[float] = []

    def phi(t: float) -> float:
        tried.append(t)
        return 4 * (t - 1) ** 2

    for decrease in (0.1, 0.5, 0.9):
        tried.clear()
        step = armijo(phi, 4.0, -8.0, initial=8.0, decrease=decrease, shrink=0.7)
        expected = next(8.0 * 0.7**k for k in range(99) if 8.0 * 0.7**k <= 2 * (1 - decrease))
        assert math.isclose(step.size, expected, rel_tol=1e-12)
        assert step.found
        assert step.value == phi(step.size) <= 4.0 + decrease * step.size * -8.0
        assert tried[: step.trials] == pytest.approx([8.0 * 0.7**k for k in range(step.trials)])
        assert len(tried) == step.trials + 1  # the last one is this test's own


def test_armijo_backs_off_from_values_that_are_not_finite() -> None:
    step = armijo(lambda t: -math.log(1 - t) - 3 * t if t < 1 else math.nan, 0.0, -2.0, initial=16.0)
    assert step.found
    assert step.size < 1
    outside = armijo(lambda t: -math.inf, 0.0, -1.0, max_trials=3)
    assert (outside.found, outside.size, outside.trials) == (False, 0.0, 3)


def test_armijo_gives_up_on_a_false_slope_and_reports_the_best_trial() -> None:
    step = armijo(lambda t: 1.0 + t, 1.0, -1.0, max_trials=7)
    assert step == (0.0, 1.0, 7, False)
    # decreases, but never as much as the slope promises
    step = armijo(lambda t: -0.1 * t, 0.0, -1.0, decrease=0.5, max_trials=5)
    assert (step.found, step.size, step.value) == (False, 1.0, -0.1)


def test_armijo_does_not_take_a_step_lost_in_rounding() -> None:
    step = armijo(lambda t: 1.0, 1.0, -1e-30)
    assert not step.found
    assert step.size == 0.0


@pytest.mark.parametrize("initial", [1e-6, 0.3, 1.0, 1e5])
@pytest.mark.parametrize("decrease", [0.1, 0.25, 0.49])
def test_goldstein_on_a_quadratic_is_an_interval_around_the_minimizer(initial: float, decrease: float) -> None:
    """For ``4 (t - 1)^2`` the conditions say ``2 decrease <= t <= 2 (1 - decrease)``."""
    step = goldstein(lambda t: 4 * (t - 1) ** 2, 4.0, -8.0, initial=initial, decrease=decrease)
    assert step.found
    assert 2 * decrease <= step.size <= 2 * (1 - decrease)
    assert step.value == 4 * (step.size - 1) ** 2


def test_goldstein_holds_on_a_curve_that_is_no_quadratic() -> None:
    def phi(t: float) -> float:
        return math.exp(t) - 3 * t + 0.3 * math.sin(5 * t) if t < 20 else math.inf

    slope = 1 - 3 + 1.5
    for initial in (1e-4, 0.1, 1.0, 100.0):
        step = goldstein(phi, 1.0, slope, initial=initial)
        assert step.found
        assert 1 + 0.75 * step.size * slope <= phi(step.size) <= 1 + 0.25 * step.size * slope


def test_goldstein_gives_up_and_reports_the_best_trial() -> None:
    assert goldstein(lambda t: 1.0 + t, 1.0, -1.0, max_trials=7) == (0.0, 1.0, 7, False)
    unbounded = goldstein(lambda t: -t, 0.0, -1.0, max_size=8.0)  # falls as fast as promised, for ever
    assert (unbounded.size, unbounded.found) == (8.0, False)
    assert not goldstein(lambda t: 1.0, 1.0, -1e-30).found
    with pytest.raises(ValueError, match=r"decrease must be in \(0, 1/2\), got 0.5"):
        goldstein(lambda t: -t, 0.0, -1.0, decrease=0.5)


@pytest.mark.parametrize(
    ("slope", "settings", "message"),
    [
        (0.0, {}, "slope must be negative"),
        (math.nan, {}, "slope must be negative"),
        (-1.0, {"initial": 0.0}, "initial must be"),
        (-1.0, {"initial": math.inf}, "initial must be"),
        (-1.0, {"decrease": 1.0}, "decrease must be"),
    ],
)
def test_bad_arguments(slope: float, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        armijo(lambda t: -t, 0.0, slope, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        strong_wolfe(lambda t: (-t, -1.0), 0.0, slope, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        goldstein(lambda t: -t, 0.0, slope, **settings)  # type: ignore[arg-type]


def test_wolfe_fractions_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="decrease must be less than curvature"):
        strong_wolfe(lambda t: (-t, -1.0), 0.0, -1.0, decrease=0.5, curvature=0.3)


def rosenbrock_line(seed: int):
    """A line through the Rosenbrock function in five dimensions, downhill from a random point."""
    random = np.random.default_rng(seed)
    x = random.normal(size=5) * 2
    gradient = scipy.optimize.rosen_der(x)
    direction = -gradient * random.uniform(0.1, 2.0, size=5) / np.linalg.norm(gradient)
    return x, direction, gradient


@pytest.mark.parametrize("curvature", [0.9, 0.1, 0.01])
@pytest.mark.parametrize("initial", [1e-4, 1.0, 100.0])
def test_strong_wolfe_conditions_hold_on_rosenbrock_lines(curvature: float, initial: float) -> None:
    for seed in range(20):
        x, d, gradient = rosenbrock_line(seed)
        value, slope = scipy.optimize.rosen(x), gradient @ d
        calls = 0

        def phi(t: float) -> tuple[float, float]:
            nonlocal calls
            calls += 1
            return scipy.optimize.rosen(x + t * d), scipy.optimize.rosen_der(x + t * d) @ d  # noqa: B023

        step = strong_wolfe(phi, value, slope, initial=initial, curvature=curvature)
        assert step.found
        assert step.trials == calls
        here, there = phi(step.size)
        assert step.value == here <= value + 1e-4 * step.size * slope
        assert abs(there) <= curvature * abs(slope)


def test_strong_wolfe_is_no_slower_than_scipy() -> None:
    ours = theirs = 0
    for seed in range(30):
        x, d, gradient = rosenbrock_line(seed)

        def phi(t: float) -> tuple[float, float]:
            return scipy.optimize.rosen(x + t * d), scipy.optimize.rosen_der(x + t * d) @ d  # noqa: B023

        step = strong_wolfe(phi, scipy.optimize.rosen(x), gradient @ d, curvature=0.1)
        size, values, *_ = scipy.optimize.line_search(
            scipy.optimize.rosen, scipy.optimize.rosen_der, x, d, gradient, c1=1e-4, c2=0.1, maxiter=60
        )
        assert step.found
        if size is not None:
            ours, theirs = ours + step.trials, theirs + values
    assert theirs > 0
    assert ours <= 1.25 * theirs


def test_strong_wolfe_survives_the_edge_of_the_domain() -> None:
    def phi(t: float) -> tuple[float, float]:
        return (-math.log(1 - t) - 3 * t, 1 / (1 - t) - 3) if t < 1 else (math.nan, math.nan)

    step = strong_wolfe(phi, 0.0, -2.0, initial=0.9, curvature=0.01)
    assert step.found
    assert math.isclose(step.size, 2 / 3, rel_tol=0.02)
    assert strong_wolfe(phi, 0.0, -2.0, initial=50.0).found


def test_strong_wolfe_reports_a_function_without_a_bound() -> None:
    step = strong_wolfe(lambda t: (-t, -1.0), 0.0, -1.0, max_size=100.0)
    assert (step.found, step.size) == (False, 100.0)
