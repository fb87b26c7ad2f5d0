"""AdaMomentum against its equations, its special cases, and closed forms of its steps."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy

from steepest.optim import AdaMomentum


def adamomentum(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, betas: Any, eps: float, weight_decay: float
) -> Any:
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * s["m"] ** 2 + eps
    x = x * (1 - lr * weight_decay)
    return x - lr * (s["m"] / (1 - b1**t)) / np.sqrt(s["v"] / (1 - b2**t))


@pytest.mark.parametrize("eps", [1e-16, 1e-8, 1e-3])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.7)], ids=str)
def test_equations(eps: float, betas: Any) -> None:
    against_numpy(AdaMomentum, adamomentum, {"lr": 0.01, "betas": betas, "eps": eps, "weight_decay": 0.1})


def test_without_momentum_it_is_adam_with_another_epsilon() -> None:
    """m = g, so for a negligible epsilon both are the same method."""
    params, twins = parameters(), parameters()
    grads = gradients(params, 30)
    run(AdaMomentum(params, lr=0.01, betas=(0.0, 0.99), eps=1e-30), params, grads)
    run(torch.optim.Adam(twins, lr=0.01, betas=(0.0, 0.99), eps=1e-30), twins, grads)
    assert_close(params, twins)


def last_step(opt: Any, params: Any, grads: list[Any]) -> Any:
    run(opt, params, grads[:-1])
    before = params[0].detach().clone()
    run(opt, params, grads[-1:])
    return params[0].detach() - before


def test_the_first_step_is_ten_times_the_rate() -> None:
    params = parameters(((4,),))
    grads = gradients(params, 1)
    move = last_step(AdaMomentum(params, lr=0.01, eps=1e-30), params, grads)
    torch.testing.assert_close(move, -0.1 * torch.sign(grads[0][0]), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("eps", "size"), [(1e-30, 3.0), (1e-6, 0.02)])
def test_alternating_gradients_take_full_steps(eps: float, size: float) -> None:
    """For +-G the momentum tends to +-a G with a = (1 - b1)/(1 + b1), and the step to lr a G / sqrt(a^2 G^2 + floor);
    Adam's is lr a."""
    params, twins = parameters(((1,),)), parameters(((1,),))
    g = torch.tensor([size], dtype=torch.float64)
    grads = [[g if t % 2 else -g] for t in range(4000)]
    settings = {"lr": 1e-3, "betas": (0.9, 0.99)}
    ours = last_step(AdaMomentum(params, eps=eps, **settings), params, grads)
    adam = last_step(torch.optim.Adam(twins, eps=1e-30, **settings), twins, grads)
    a = 0.1 / 1.9
    expected = 1e-3 * a * size / math.sqrt((a * size) ** 2 + eps / (1 - 0.99))
    assert abs(float(ours)) == pytest.approx(expected, rel=1e-9)
    assert abs(float(adam)) == pytest.approx(1e-3 * a, rel=1e-9)


def test_for_a_constant_gradient_it_becomes_adam() -> None:
    params = parameters(((3,),))
    grads = [[torch.tensor([3.0, -0.5, 1e-3], dtype=torch.float64)]] * 4000
    move = last_step(AdaMomentum(params, lr=0.01, betas=(0.9, 0.99), eps=1e-30), params, grads)
    torch.testing.assert_close(move, torch.tensor([-0.01, 0.01, -0.01], dtype=torch.float64), rtol=1e-9, atol=0)


def test_independent_noise_is_amplified_against_adam() -> None:
    """By sqrt((1 + b1)/(1 - b1)): the momentum's mean square is (1 - b1)/(1 + b1) of the gradient's."""
    params, twins = parameters(((20_000,),)), parameters(((20_000,),))
    grads = gradients(params, 301)
    settings = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-30}
    ours = last_step(AdaMomentum(params, **settings), params, grads)
    adam = last_step(torch.optim.Adam(twins, **settings), twins, grads)
    # Root mean squares of ratios with fluctuating denominators, the more so for ours, whose terms are correlated.
    assert float(ours.norm() / adam.norm()) == pytest.approx(math.sqrt(19), rel=0.1)


def test_epsilon_accumulates_to_its_floor_below_which_steps_are_linear() -> None:
    params = parameters(((2,),))
    small = torch.tensor([1e-9, -2e-9], dtype=torch.float64)
    opt = AdaMomentum(params, lr=1.0, betas=(0.9, 0.99), eps=1e-8)
    move = last_step(opt, params, [[small]] * 4000)
    floor = torch.full((2,), 1e-8 / (1 - 0.99), dtype=torch.float64)
    torch.testing.assert_close(opt.state[params[0]]["momentum_sq"], floor, rtol=1e-9, atol=0)
    torch.testing.assert_close(move, -small / math.sqrt(1e-6), rtol=1e-9, atol=1e-15)
