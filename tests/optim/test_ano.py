"""Ano and Anolog against their equations, a peer, RMSprop, and what holds for their second moment."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import STEPS, against_numpy, peer_run

from steepest.optim import Ano, Anolog


def step(x: Any, g: Any, s: dict[str, Any], t: int, b1: float, b2: float, lr: float, eps: float, decay: float) -> Any:
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    old = s.get("v", np.zeros_like(g))
    s["v"] = np.where(g**2 > old, b2 * old + (1 - b2) * g**2, b2 * old - (1 - b2) * g**2)
    vhat = s["v"] / (1 - b2**t)
    return x * (1 - lr * decay) - lr / np.sqrt(vhat + eps) * np.abs(g) * np.sign(s["m"])


def ano(x: Any, g: Any, s: Any, t: int, *, lr: float, betas: Any, eps: float, weight_decay: float) -> Any:
    return step(x, g, s, t, *betas, lr, eps, weight_decay)


def anolog(x: Any, g: Any, s: Any, t: int, *, lr: float, beta2: float, eps: float, weight_decay: float) -> Any:
    return step(x, g, s, t, 1 - 1 / math.log(t + 2), beta2, lr, eps, weight_decay)


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("beta2", [0.5, 0.7, 0.99])
def test_equations(eps: float, beta2: float) -> None:
    chosen = {"lr": 0.01, "eps": eps, "weight_decay": 0.1}
    against_numpy(Ano, ano, {**chosen, "betas": (0.92, beta2)})
    against_numpy(Anolog, anolog, {**chosen, "beta2": beta2})


def test_pytorch_optimizer() -> None:
    """The peer adds ``eps`` outside the root, so it is made negligible."""
    peer = pytest.importorskip("pytorch_optimizer")
    settings = {"lr": 0.01, "betas": (0.92, 0.9), "eps": 1e-30, "weight_decay": 0.1}
    peer_run(Ano, peer.Ano, settings)


def test_anolog_is_a_peers_ano_with_a_scheduled_beta() -> None:
    """The peer's own schedule is that of the author's code, which starts at -0.44."""
    peer = pytest.importorskip("pytorch_optimizer")
    params, twins = parameters(), parameters()
    settings = {"lr": 0.01, "eps": 1e-30, "weight_decay": 0.1}
    opt, other = Anolog(params, beta2=0.9, **settings), peer.Ano(twins, **settings)
    for t, grads in enumerate(gradients(params, STEPS), start=1):
        other.param_groups[0]["betas"] = (1 - 1 / math.log(t + 2), 0.9)
        run(opt, params, [grads])
        run(other, twins, [grads])
    assert_close(params, twins, 1e-10)


def test_the_window_of_anolog() -> None:
    betas = [Anolog.coefficients(t, {"beta2": 0.9})["beta1"] for t in (1, 1000, 100_000)]
    assert betas == pytest.approx([0.0898, 0.8553, 0.9131], abs=5e-4)


def test_without_momentum_and_with_growing_gradients_it_is_adam() -> None:
    """|g| sign(g) = g, and a second moment below g^2 grows as Adam's."""
    params, twins = parameters(), parameters()
    grads = [[(1 + t) * (-1) ** t * g for g in gradients(params, 1)[0]] for t in range(20)]
    run(Ano(params, lr=0.01, betas=(0.0, 0.9), eps=1e-30), params, grads)
    run(torch.optim.Adam(twins, lr=0.01, betas=(0.0, 0.9), eps=1e-30), twins, grads)
    assert_close(params, twins)


def test_direction_of_the_momentum_and_size_of_the_gradient() -> None:
    """After twenty steps up, a gradient against them still moves up, twice as far when it is twice as large."""
    moves = []
    for last in (-0.05, -0.1):
        [x] = params = parameters(((1,),))
        opt = Ano(params, lr=0.01)
        run(opt, params, [[torch.full((1,), -1.0, dtype=torch.float64)]] * 20)
        before = float(x.detach())
        run(opt, params, [[torch.full((1,), -last, dtype=torch.float64)]])
        moves.append(float(x.detach()) - before)
    assert moves[0] > 0
    assert moves[1] / moves[0] == pytest.approx(2, rel=1e-3)  # the second moment differs a little


@pytest.mark.parametrize("beta2", [0.5, 0.51, 0.9])
def test_the_second_moment_stays_positive(beta2: float) -> None:
    params = parameters(((50,),))
    opt = Ano(params, betas=(0.9, beta2))
    previous = None
    for grads in gradients(params, 200):
        run(opt, params, [grads])
        v = opt.state[params[0]]["exp_avg_sq"].clone()
        assert (v >= 0).all()
        if previous is not None:
            assert (v >= (2 * beta2 - 1) * previous * (1 - 1e-12)).all()
        previous = v
    assert params[0].isfinite().all()


def test_steps_for_a_constant_gradient() -> None:
    """The second moment jumps around g^2, by the factor 2 b2 - 1 at most, so steps come to lr within its root."""
    [x] = params = parameters(((3,),))
    opt = Ano(params, lr=0.01, betas=(0.9, 0.99), eps=0.0)
    g = torch.tensor([3.0, -0.5, 1e-3], dtype=torch.float64)
    run(opt, params, [[g]] * 3000)
    for _ in range(5):
        before = x.detach().clone()
        run(opt, params, [[g]])
        ratio = (before - x.detach()) / (0.01 * torch.sign(g))
        assert (ratio >= 1 - 1e-9).all()
        assert (ratio <= 1 / math.sqrt(2 * 0.99 - 1) + 1e-9).all()


def test_a_second_beta_below_one_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Ano: betas\[1\] must be a finite number in \[0.5, 1\), got 0.4"):
        Ano(parameters(), betas=(0.9, 0.4))
    with pytest.raises(ValueError, match=r"Anolog: beta2 must be a finite number in \[0.5, 1\), got 0.4"):
        Anolog(parameters(), beta2=0.4)
    opt = Ano(parameters())
    with pytest.raises(ValueError, match=r"Ano: betas\[1\] must be"):
        opt.add_param_group({"params": parameters(), "betas": (0.9, 0.1)})
    assert len(opt.param_groups) == 1
