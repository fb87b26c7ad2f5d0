"""The last iterate: the bound against its recursive derivation and against measured errors, and the worst case."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from steepest.analyze import WorstCase, last_iterate_bound, step_sizes

RNG = np.random.default_rng(0)


def test_step_sizes_are_their_formulas() -> None:
    assert step_sizes("1/sqrt(t)", 4, 2.0).tolist() == pytest.approx([2, 2 / 2**0.5, 2 / 3**0.5, 1])
    assert step_sizes("constant", 4).tolist() == [0.5] * 4
    assert step_sizes("linear", 4).tolist() == [0.5, 0.375, 0.25, 0.125]
    assert step_sizes("1/t", 4, 1.5).tolist() == pytest.approx([1.5, 0.75, 0.5, 0.375])
    assert step_sizes("heavy-tailed", 3, power=1.5).tolist() == pytest.approx([1, 2 ** (-2 / 3), 3 ** (-2 / 3)])
    assert step_sizes("heavy-tailed", 9).tolist() == pytest.approx(step_sizes("1/sqrt(t)", 9).tolist())
    assert step_sizes("1/sqrt(t)", 100, smoothness=4.0).max() == 0.125


def test_the_bound_as_the_recursion_that_proves_it() -> None:
    """From the average of the whole run to that of ever shorter ends of it."""
    sizes = RNG.uniform(0.1, 1.0, 7)
    constant = (2.0 + 0.5) ** 2 / 2
    value = 1.5**2 / (2 * sizes.sum()) + constant * (sizes**2).sum() / sizes.sum()
    for k in range(6):
        end, rest = sizes[k:].sum(), sizes[k + 1 :].sum()
        value += sizes[k] / end * constant * (sizes[k + 1 :] ** 2).sum() / rest
    assert last_iterate_bound(sizes, 1.5, 2.0, 0.5) == pytest.approx(value, rel=1e-12)


def test_linear_decay_has_no_logarithm_and_the_others_have() -> None:
    def scaled(rule: str) -> list[float]:
        return [
            math.sqrt(steps) * last_iterate_bound(step_sizes(rule, steps), 1.0, 1.0) for steps in (10**2, 10**4, 10**6)
        ]

    linear = scaled("linear")
    assert max(linear) <= 1.0 + 2 * 0.5  # D^2 / eta + 2 C eta
    for rule in ("1/sqrt(t)", "constant"):
        first, second, third = scaled(rule)
        assert second - first > 0.5
        assert third - second == pytest.approx(second - first, rel=0.2)  # proportional to log T


def soft(x: Any, threshold: Any) -> Any:
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


@pytest.mark.parametrize("rule", ["1/sqrt(t)", "constant", "linear"])
@pytest.mark.parametrize("case", ["smooth", "sharp"])
def test_the_bound_is_above_the_measured_error(rule: str, case: str) -> None:
    """A quadratic and a sum of absolute values, with an l1 term by its prox, and Gaussian noise."""
    size, runs, steps, noise, weight = 5, 400, 60, 0.5, 0.3
    target = np.array([2.0, -1.0, 0.5, 0.1, 0.0])
    if case == "smooth":
        best, smoothness, lipschitz = soft(target, weight), 1.0, 0.0
        value = lambda x: 0.5 * ((x - target) ** 2).sum(-1) + weight * np.abs(x).sum(-1)  # noqa: E731
        slope = lambda x: x - target  # noqa: E731
    else:
        best, smoothness, lipschitz = target, 0.0, 2 * math.sqrt(size)
        value = lambda x: np.abs(x - target).sum(-1) + weight * np.abs(x).sum(-1)  # noqa: E731
        slope = lambda x: np.sign(x - target)  # noqa: E731
    sizes = step_sizes(rule, steps, 0.8, smoothness=smoothness)
    x = np.zeros((runs, size))
    for eta in sizes:
        x = soft(x - eta * (slope(x) + noise / math.sqrt(size) * RNG.normal(size=x.shape)), eta * weight)
    error = float(value(x).mean() - value(best))
    distance = float(np.linalg.norm(best))
    assert -1e-9 < error <= last_iterate_bound(sizes, distance, lipschitz, noise, smoothness=smoothness)


def test_without_noise_on_a_smooth_function_it_is_the_rate_of_gradient_descent() -> None:
    assert last_iterate_bound([0.5] * 20, 2.0, 0.0, smoothness=1.0) == pytest.approx(4 / (2 * 0.5 * 20))


# ------------------------------------------------------------------------------------------------------- the worst case


def test_the_worst_case_is_the_maximum_of_its_pieces() -> None:
    problem, steps = WorstCase(6), 6
    rows = np.zeros((7, 6))
    for i in range(1, 8):
        for j in range(1, 7):
            a, b = 1 / (8 * (steps - j + 1)), math.sqrt(j) / (2 * math.sqrt(steps))
            rows[i - 1, j - 1] = a if j < i else -b if j == i else 0.0
    for _ in range(20):
        x = RNG.normal(size=6)
        assert problem.value(torch.tensor(x)) == pytest.approx((rows @ x).max())
        g = problem.subgradient(torch.tensor(x)).numpy()
        assert np.array_equal(g, rows[(rows @ x).argmax()])
        y = RNG.normal(size=6)  # a subgradient lies below the function
        assert (rows @ y).max() >= (rows @ x).max() + g @ (y - x) - 1e-12
    assert np.linalg.norm(rows, axis=1).max() <= 1


def test_its_minimum_is_zero_at_the_start() -> None:
    """Zero is a convex combination of the pieces: multipliers from the last one backwards."""
    problem = WorstCase(50)
    rows = np.zeros((51, 50))
    a, b = (t.numpy() for t in problem._coefficients())
    for i in range(51):
        rows[i, :i] = a[:i]
        if i < 50:
            rows[i, i] = -b[i]
    weights = np.ones(51)
    for j in reversed(range(50)):
        weights[j] = a[j] / b[j] * weights[j + 1 :].sum()
    assert np.allclose(weights @ rows / weights.sum(), 0, atol=1e-15)
    assert problem.value(torch.zeros(50, dtype=torch.float64)) == 0


@pytest.mark.parametrize("steps", [50, 400])
def test_the_last_iterate_is_as_bad_as_proved_and_linear_decay_is_not(steps: int) -> None:
    problem = WorstCase(steps)
    root = math.sqrt(steps)
    slow = problem.last_value(step_sizes("1/sqrt(t)", steps))
    assert slow >= math.log(steps) / (32 * root)
    linear = problem.last_value(step_sizes("linear", steps))
    assert linear < 0.04 / root < slow
    for rule, value in (("1/sqrt(t)", slow), ("linear", linear)):
        assert value <= last_iterate_bound(step_sizes(rule, steps), 0.0, 2.0)


def test_the_figures_with_200_steps() -> None:
    """Computed independently of this code."""
    found = [math.sqrt(200) * WorstCase(200).last_value(step_sizes(r, 200)) for r in ("1/sqrt(t)", "linear")]
    assert found == pytest.approx([0.296, 0.0342], rel=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: step_sizes("cosine", 10), "rule must be one of '1/sqrt\\(t\\)', 'constant', 'linear'"),
        (lambda: step_sizes("linear", 0), "step_sizes: steps must be an integer >= 1, got 0"),
        (lambda: step_sizes("linear", 5, 0.0), r"scale must be a finite number in \(0, inf\), got 0.0"),
        (lambda: step_sizes("heavy-tailed", 5, power=1.0), r"power must be a finite number in \(1, 2\], got 1.0"),
        (lambda: last_iterate_bound([], 1.0, 1.0), "step_sizes must be positive finite numbers"),
        (lambda: last_iterate_bound([1.0, -1.0], 1.0, 1.0), "step_sizes must be positive finite numbers"),
        (lambda: last_iterate_bound([1.0], 1.0, 1.0, smoothness=1.0), "step_sizes must be below 1 / smoothness = 1"),
        (lambda: last_iterate_bound([1.0], -1.0, 1.0), r"distance must be a finite number in \[0, inf\), got -1.0"),
        (lambda: WorstCase(0), "WorstCase: steps must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
