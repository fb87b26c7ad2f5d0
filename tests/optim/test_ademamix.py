"""AdEMAMix against its paper's equations, peers, AdamW, and the weights it gives past gradients."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy, peer_run

from steepest.optim import AdEMAMix


def ademamix(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    betas: Any,
    alpha: float,
    warmup: Any,
    eps: float,
    weight_decay: float,
) -> Any:
    b1, b2, b3 = betas
    if warmup is not None:
        alpha = min(t * alpha / warmup, alpha)
        share = t / warmup
        b3 = (
            min(math.exp(math.log(b1) * math.log(b3) / ((1 - share) * math.log(b3) + share * math.log(b1))), b3)
            if share < 1
            else b3
        )
    s["m1"] = b1 * s.get("m1", 0.0) + (1 - b1) * g
    s["m2"] = b3 * s.get("m2", 0.0) + (1 - b3) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    step = (s["m1"] / (1 - b1**t) + alpha * s["m2"]) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)
    return x - lr * (step + weight_decay * x)


@pytest.mark.parametrize("warmup", [None, 1, 17, 300])
def test_paper(warmup: int | None) -> None:
    chosen = {"lr": 0.01, "betas": (0.9, 0.99, 0.999), "alpha": 5.0, "warmup": warmup, "eps": 1e-8, "weight_decay": 0.1}
    against_numpy(AdEMAMix, ademamix, chosen)


def test_pytorch_optimizer() -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    chosen = {"lr": 0.01, "betas": (0.9, 0.99, 0.999), "alpha": 4.0, "weight_decay": 0.1}
    peer_run(AdEMAMix, peer.AdEMAMix, chosen, {"weight_decouple": True})


def test_optax() -> None:
    pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    from oracle_helpers import optax_run

    chosen = {"lr": 0.01, "betas": (0.9, 0.99, 0.999), "alpha": 4.0, "weight_decay": 0.1}
    optax_run(AdEMAMix, optax.contrib.ademamix, chosen, alpha=4.0, eps=1e-8, eps_root=0.0)


@pytest.mark.parametrize("warmup", [None, 10])
def test_without_the_slow_average_it_is_adamw(warmup: int | None) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 30)
    run(AdEMAMix(params, lr=0.01, alpha=0.0, weight_decay=0.1, warmup=warmup), params, grads)
    run(torch.optim.AdamW(twins, lr=0.01, weight_decay=0.1), twins, grads)
    assert_close(params, twins)


@given(st.floats(0.05, 0.95), st.floats(0.96, 0.999999), st.integers(2, 10_000), st.floats(0.0, 1.0, exclude_max=True))
@settings(deadline=None, max_examples=60)
def test_the_half_life_grows_linearly(beta1: float, beta3: float, warmup: int, share: float) -> None:
    step = max(1, int(share * warmup))
    chosen = {"beta1": beta1, "beta2": 0.99, "beta3": beta3, "alpha": 2.0, "warmup": warmup}
    found = AdEMAMix.coefficients(step, chosen)

    def half_life(beta: float) -> float:
        return math.log(0.5) / math.log(beta)

    expected = half_life(beta1) + step / warmup * (half_life(beta3) - half_life(beta1))
    assert half_life(found["beta3"]) == pytest.approx(expected, rel=1e-6)
    assert found["alpha"] == pytest.approx(2.0 * step / warmup)
    assert AdEMAMix.coefficients(warmup, chosen)["beta3"] == beta3
    assert AdEMAMix.coefficients(10 * warmup, chosen)["alpha"] == 2.0


def test_warm_up_from_no_memory() -> None:
    params = parameters()
    run(AdEMAMix(params, betas=(0.0, 0.9, 0.99), warmup=5), params, gradients(params, 8))
    assert all(p.isfinite().all() for p in params)
    half = AdEMAMix.coefficients(3, {"beta1": 0.0, "beta2": 0.9, "beta3": 0.99, "alpha": 1.0, "warmup": 6})
    assert math.log(0.5) / math.log(half["beta3"]) == pytest.approx(0.5 * math.log(0.5) / math.log(0.99))


def test_weights_of_past_gradients_sum_to_one_plus_alpha() -> None:
    """One unit gradient, then nothing: the numerators of all later steps add up to its total weight, 1 + alpha."""
    params = parameters(((1,),))
    chosen = {"beta1": 0.9, "beta3": 0.99, "alpha": 5.0}
    opt = AdEMAMix(params, lr=0.0, betas=(0.9, 0.999, 0.99), alpha=5.0)
    one = torch.ones(1, dtype=torch.float64)
    total = 0.0
    for t in range(3000):
        run(opt, params, [[one if t == 0 else 0 * one]])
        state = opt.state[params[0]]
        total += float(state["exp_avg"] + chosen["alpha"] * state["exp_avg_slow"])
    assert total == pytest.approx(1 + chosen["alpha"], rel=1e-9)
