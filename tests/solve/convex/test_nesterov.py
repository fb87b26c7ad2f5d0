"""Nesterov's method, against Bubeck's form of it, its rates, and FISTA."""

import math

import pytest
import torch
from first_order import quadratic, states

from steepest.core.result import Reason
from steepest.solve.convex import FISTA, Nesterov
from steepest.solve.convex.nesterov import CARD


def test_it_equals_bubecks_form() -> None:
    composite, matrix, center = quadratic(torch.linspace(0.1, 10.0, 8))
    y = x = center + 1
    weight = 0.0
    for state in states(Nesterov(0.1), composite.smooth, x, 40):
        torch.testing.assert_close(state.point, y, rtol=1e-10, atol=1e-12)
        assert state.momentum == pytest.approx(weight)
        lam = (1 + math.sqrt(1 + 4 * weight**2)) / 2  # lambda_1 = 1 from lambda_0 = 0
        following = (1 + math.sqrt(1 + 4 * lam**2)) / 2
        gamma = (1 - lam) / following
        after = x - 0.1 * matrix @ (x - center)
        x = (1 - gamma) * after + gamma * y
        y, weight = after, lam


def test_it_is_fista_without_a_regularizer() -> None:
    composite, _, center = quadratic(torch.linspace(1.0, 10.0, 8), strong_convexity=1.0)
    ours = states(Nesterov(0.1, strong_convexity=1.0), composite.smooth, center + 1, 30)
    for left, right in zip(ours, states(FISTA(step_size=0.1), composite, center + 1, 30), strict=True):
        torch.testing.assert_close(left.point, right.point, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("modulus", [0.0, 1.0])
def test_the_value_stays_under_the_proved_rates(modulus: float) -> None:
    composite, _, center = quadratic(torch.logspace(0, 2, 20))
    start = center + 2
    radius, product = float((start - center).square().sum()), 1.0
    for steps, state in enumerate(states(Nesterov(0.01, modulus), composite.smooth, start, 150)):
        if steps:
            product *= 1 - modulus * 0.01 * state.momentum
            assert state.value <= 2 * radius / (0.01 * (steps + 1) ** 2)
            assert state.value <= product * radius / (2 * 0.01 * state.momentum**2) * (1 + 1e-9)
    if modulus:
        assert state.value <= (100 + 1) / 2 * radius * math.exp(-150 / 10)


def test_bad_hyper_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="Nesterov: step_size must be"):
        Nesterov(0.0)
    with pytest.raises(ValueError, match="strong_convexity must be less than 1 / step_size"):
        Nesterov(0.5, strong_convexity=2.0)


def test_a_stationary_start_stalls_and_a_step_too_long_diverges() -> None:
    composite, _, center = quadratic(torch.ones(3))
    assert Nesterov(0.5).run(composite.smooth, center, budget="5steps").reason is Reason.STALLED
    assert Nesterov(3.0).run(composite.smooth, center + 1, budget="500steps").reason is Reason.DIVERGED


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is Nesterov
