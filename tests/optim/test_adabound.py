"""AdaBound and AMSBound against the equations, a peer, and the two methods between which they go."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy, peer_run

from steepest.optim import AdaBound, AMSBound


def adabound(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    betas: Any,
    final_lr: float,
    gamma: float,
    eps: float,
    weight_decay: float,
    base_lr: float,
    ams: bool = False,
) -> Any:
    b1, b2 = betas
    g = g + weight_decay * x
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    s["max"] = np.maximum(s.get("max", 0.0), s["v"])
    v = s["max"] if ams else s["v"]
    f = final_lr * lr / base_lr
    size = lr * np.sqrt(1 - b2**t) / (1 - b1**t) / (np.sqrt(v) + eps)
    return x - np.clip(size, f * (1 - 1 / (gamma * t + 1)), f * (1 + 1 / (gamma * t))) * s["m"]


def amsbound(*args: Any, **chosen: Any) -> Any:
    return adabound(*args, **chosen, ams=True)


BOTH = pytest.mark.parametrize(("cls", "oracle"), [(AdaBound, adabound), (AMSBound, amsbound)])


@BOTH
@pytest.mark.parametrize("gamma", [1e-3, 0.05, 10.0])
def test_equations(cls: Any, oracle: Any, gamma: float) -> None:
    chosen = {"lr": 0.01, "betas": (0.9, 0.99), "final_lr": 0.1, "gamma": gamma, "eps": 1e-8, "weight_decay": 0.1}
    against_numpy(cls, oracle, chosen)


@pytest.mark.parametrize("ams", [False, True])
def test_pytorch_optimizer(ams: bool) -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    chosen = {"lr": 0.01, "betas": (0.9, 0.99), "final_lr": 0.1, "gamma": 0.05, "weight_decay": 0.1}
    cls = AMSBound if ams else AdaBound
    # The peer divides eps differently, so it is made negligible.
    peer_run(cls, peer.AdaBound, {**chosen, "eps": 1e-20}, {"weight_decouple": False, "ams_bound": ams})


@pytest.mark.parametrize("ams", [False, True])
def test_wide_bounds_give_adam(ams: bool) -> None:
    """torch corrects eps too, so it is made negligible."""
    params, twins = parameters(), parameters()
    grads = gradients(params, 30)
    cls = AMSBound if ams else AdaBound
    # f / (gamma t) is the upper bound and f gamma t the lower: both out of reach.
    run(cls(params, lr=0.01, final_lr=1.0, gamma=1e-12, eps=1e-30, weight_decay=0.1), params, grads)
    adam = torch.optim.Adam(twins, lr=0.01, eps=1e-30, weight_decay=0.1, amsgrad=False)
    if ams:  # torch takes the maximum as here, before the correction
        adam = torch.optim.Adam(twins, lr=0.01, eps=1e-30, weight_decay=0.1, amsgrad=True)
    run(adam, twins, grads)
    assert_close(params, twins, 1e-9)


def test_late_it_is_sgd() -> None:
    """With closed bounds: momentum 0.9 and dampening 0.9 at the final rate."""
    params, twins = parameters(), parameters()
    grads = gradients(params, 30)
    opt = AdaBound(params, lr=0.01, final_lr=0.05, gamma=1e15, weight_decay=0.1)
    run(opt, params, grads)
    sgd = torch.optim.SGD(twins, lr=0.05, momentum=0.9, dampening=0.9, weight_decay=0.1)
    for p in twins:  # torch's first buffer is the whole gradient; this method starts from zero
        sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    run(sgd, twins, grads)
    assert_close(params, twins, 1e-10)


def test_the_rate_that_final_lr_goes_with_survives() -> None:
    params = parameters()
    opt = AdaBound([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.1)
    run(opt, params, gradients(params, 1))
    scheduler.step()
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([0.01, 0.05])
    assert [g["base_lr"] for g in opt.param_groups] == [0.1, 0.5]
    fresh = AdaBound([{"params": params[:2]}, {"params": params[2:]}], lr=0.3)
    fresh.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert [g["base_lr"] for g in fresh.param_groups] == [0.1, 0.5]
    fresh.add_param_group({"params": parameters(), "lr": 0.7})
    assert fresh.param_groups[2]["base_lr"] == 0.7
    given = AdaBound(parameters(), lr=0.0, base_lr=0.2)
    assert given.param_groups[0]["base_lr"] == 0.2


def test_a_schedule_scales_the_final_rate() -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 10)
    opt = AdaBound(params, lr=0.1, final_lr=0.2, gamma=1e15)
    opt.param_groups[0]["lr"] = 0.05
    run(opt, params, grads)
    run(AdaBound(twins, lr=0.1, final_lr=0.1, gamma=1e15), twins, grads)
    assert_close(params, twins)
