"""AdaBelief against its paper's equations, peers, and closed forms of its denominator."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import gradients, parameters, run
from oracle_helpers import against_numpy, peer_run

from steepest.optim import AdaBelief


def adabelief(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, betas: Any, eps: float, weight_decay: float
) -> Any:
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["s"] = b2 * s.get("s", 0.0) + (1 - b2) * (g - s["m"]) ** 2 + eps
    x = x * (1 - lr * weight_decay)
    return x - lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["s"] / (1 - b2**t)) + eps)


@pytest.mark.parametrize("eps", [1e-16, 1e-8, 1e-3])
def test_paper(eps: float) -> None:
    against_numpy(AdaBelief, adabelief, {"lr": 0.01, "betas": (0.9, 0.999), "eps": eps, "weight_decay": 0.1})


def test_pytorch_optimizer() -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-10, "weight_decay": 0.1}
    peer_run(AdaBelief, peer.AdaBelief, settings, {"weight_decouple": True, "rectify": False})


def test_optax() -> None:
    """optax adds ``eps`` to the denominator and ``eps_root`` inside the recursion: both are this eps."""
    pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    from oracle_helpers import optax_run

    settings = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-10}
    optax_run(AdaBelief, optax.adabelief, settings, eps=1e-10, eps_root=1e-10)


def test_the_first_deviation_uses_the_updated_average() -> None:
    params = parameters(((4,),))
    ((g,),) = gradients(params, 1)
    opt = AdaBelief(params, betas=(0.9, 0.99), eps=0.0)
    run(opt, params, [[g]])
    assert torch.allclose(opt.state[params[0]]["deviation"], (1 - 0.99) * (0.9 * g) ** 2, rtol=1e-12)


def test_epsilon_accumulates_to_its_floor() -> None:
    params = parameters(((2,),))
    opt = AdaBelief(params, lr=0.0, betas=(0.0, 0.9), eps=1e-4)
    run(opt, params, [[torch.ones(2, dtype=torch.float64)]] * 300)
    floor = torch.full((2,), 1e-4 / (1 - 0.9), dtype=torch.float64)
    assert torch.allclose(opt.state[params[0]]["deviation"], floor, rtol=1e-10)


def test_alternating_gradients_are_surprising() -> None:
    """For +-G the average tends to -+G(1-b1)/(1+b1) and the deviation to (2 b1 G / (1 + b1))^2."""
    params = parameters(((1,),))
    opt = AdaBelief(params, lr=0.0, betas=(0.9, 0.99), eps=0.0)
    g = torch.tensor([3.0], dtype=torch.float64)
    run(opt, params, [[g if t % 2 else -g] for t in range(4000)])
    expected = (2 * 0.9 * 3.0 / 1.9) ** 2
    assert opt.state[params[0]]["deviation"].item() == pytest.approx(expected, rel=1e-9)


def test_without_first_moment_nothing_is_nan() -> None:
    params = parameters()
    run(AdaBelief(params, betas=(0.0, 0.999)), params, gradients(params, 3))
    assert all(p.isfinite().all() for p in params)
