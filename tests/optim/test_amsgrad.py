"""AMSGrad against the paper's rule, torch, optax, the invariant of its proof, and the problems Adam fails on."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import gradients, parameters, run
from oracle_helpers import against_numpy, peer_run

from steepest.optim import AMSGrad

WHERE = pytest.mark.parametrize("where", ["after", "before", "none"])


def paper(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, betas: Any, eps: float, weight_decay: float, **_: Any
) -> Any:
    """Algorithm 2 without projection: no correction anywhere."""
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    s["top"] = np.maximum(s.get("top", 0.0), s["v"])
    return x * (1 - lr * weight_decay) - lr * s["m"] / (np.sqrt(s["top"]) + eps)


def corrected(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, betas: Any, eps: float, weight_decay: float, **where: Any
) -> Any:
    """All second moments so far are kept, and the maximum is taken over them."""
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    past = s.setdefault("past", [])
    if where["bias_correction"] == "before":
        past.append(s["v"] / (1 - b2**t))
        second = np.max(past, axis=0)
    else:
        past.append(s["v"])
        second = np.max(past, axis=0) / (1 - b2**t)
    return x * (1 - lr * weight_decay) - lr * (s["m"] / (1 - b1**t)) / (np.sqrt(second) + eps)


@WHERE
@pytest.mark.parametrize("betas", [(0.9, 0.7), (0.9, 0.99), (0.0, 0.5)], ids=str)
def test_equations(where: str, betas: Any) -> None:
    oracle = paper if where == "none" else corrected
    chosen = {"lr": 0.01, "betas": betas, "eps": 1e-3, "weight_decay": 0.1, "bias_correction": where}
    against_numpy(AMSGrad, oracle, chosen)


@pytest.mark.parametrize("betas", [(0.9, 0.7), (0.9, 0.999)], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_torch(betas: Any, weight_decay: float) -> None:
    settings = {"lr": 0.01, "betas": betas, "eps": 1e-8, "weight_decay": weight_decay}
    peer_run(AMSGrad, torch.optim.AdamW, settings, {"amsgrad": True})
    if not weight_decay:
        peer_run(AMSGrad, torch.optim.Adam, settings, {"amsgrad": True})


@pytest.mark.parametrize("where", ["before", "none"])
def test_optax(where: str) -> None:
    pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    from oracle_helpers import optax_run

    corrects = where == "before"
    settings = {"lr": 0.01, "betas": (0.9, 0.7), "eps": 1e-8, "bias_correction": where}
    optax_run(AMSGrad, optax.amsgrad, settings, eps=1e-8, bias_correction_mu=corrects, bias_correction_nu=corrects)


def falls(make: Callable[[Any], Any], rate: Callable[[int], float], beta2: float) -> float:
    """The smallest relative change of ``sqrt(second moment) / lr`` from step to step.

    It is read off the step itself: with ``beta1 = 0`` and no epsilon it is ``g / step``.
    """
    [x] = params = parameters(((40,),))
    opt = make([{"params": params, "betas": (0.0, beta2), "eps": 1e-300}])
    found = []
    for t, [g] in enumerate(gradients(params, 60), start=1):
        opt.param_groups[0]["lr"] = rate(t)
        before = x.detach().clone()
        run(opt, params, [[g]])
        found.append((g / (before - x.detach())).abs())
    return min(float((b / a - 1).min()) for a, b in itertools.pairwise(found))


def falling(t: int) -> float:
    return 1 / math.sqrt(t)


def constant(t: int) -> float:
    return 1.0


@pytest.mark.parametrize("rate", [constant, falling])
@pytest.mark.parametrize("where", ["before", "none"])
def test_the_denominator_over_the_step_size_never_falls(where: Any, rate: Any) -> None:
    """The quantity whose sign the proof needs, and Adam's violates."""
    assert falls(lambda p: AMSGrad(p, bias_correction=where), rate, 0.7) > -1e-9
    assert falls(torch.optim.Adam, rate, 0.7) < -0.1


def test_the_correction_after_the_maximum_breaks_the_promise_at_a_constant_rate() -> None:
    assert falls(AMSGrad, constant, 0.99) < -0.1
    # With lr / sqrt(t) it is kept, for t / (1 - beta2^t) grows.
    assert falls(AMSGrad, falling, 0.99) > -1e-9


def test_without_the_maximum_it_is_adam() -> None:
    """Growing gradients: the newest second moment is the largest, and the three choices are those of Adam's."""
    params, twins = parameters(), parameters()
    grads = [[(1 + t) * torch.ones_like(p) for p in params] for t in range(20)]
    run(AMSGrad(params, lr=0.01, betas=(0.9, 0.9)), params, grads)
    run(torch.optim.Adam(twins, lr=0.01, betas=(0.9, 0.9)), twins, grads)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("where", "height"), [("none", 0.01), ("after", 0.01), ("before", 1.0)])
def test_a_spike_is_never_forgotten(where: Any, height: float) -> None:
    """A single gradient of 1000 at the first step: the maximum holds (1 - b2) of its square, corrected or not."""
    params = parameters(((3,),))
    opt = AMSGrad(params, betas=(0.9, 0.99), bias_correction=where)
    spike = torch.full((3,), 1000.0, dtype=torch.float64)
    run(opt, params, [[spike], *([0.001 * spike] for _ in range(2000))])
    expected = torch.full((3,), height * 1e6, dtype=torch.float64)
    torch.testing.assert_close(opt.state[params[0]]["max_exp_avg_sq"], expected, rtol=1e-12, atol=0)
    assert opt.state[params[0]]["exp_avg_sq"].max() < 1.01


def online(make: Callable[[Any], Any], gradient: Callable[[int], float], steps: int, rate: float) -> float:
    """Where an online method goes on [-1, 1] with ``lr = rate / sqrt(t)`` and projection, from 0."""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    opt = make([x])
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: rate / math.sqrt(t + 1))
    for t in range(1, steps + 1):
        x.grad = torch.tensor([gradient(t)], dtype=torch.float64)
        opt.step()
        x.data.clamp_(-1, 1)
        scheduler.step()
    return float(x.detach())


@pytest.mark.parametrize("c", [3.0, 10.0])
@WHERE
def test_the_counterexample(c: float, where: Any) -> None:
    """f_t = C x in every third step, else -x: the best point is -1. Adam goes to +1, the paper's Theorem 1."""
    betas = (0.0, 1 / (1 + c**2))

    def gradient(t: int) -> float:
        return c if t % 3 == 1 else -1.0

    adam = online(lambda p: torch.optim.Adam(p, lr=1.0, betas=betas), gradient, 3000, 0.5)
    ours = online(lambda p: AMSGrad(p, lr=1.0, betas=betas, bias_correction=where), gradient, 3000, 0.5)
    assert adam > 0.9
    assert ours < -0.9
