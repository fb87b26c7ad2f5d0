"""AdamP and SGDP against the equations, a peer, and the geometry of scale-invariant weights."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy, peer_run
from torch import Tensor, nn

from steepest.core.projection import remove_radial
from steepest.optim import SGDP, AdamP


def project(p: Any, x: Any, g: Any, delta: float, eps: float) -> tuple[Any, bool]:
    if x.ndim < 2:
        return p, False
    for rows in (x.shape[0], 1):
        w, u, r = (a.reshape(rows, -1) for a in (x, g, p))
        norms = np.linalg.norm(w, axis=1)
        cosine = np.abs((w * u).sum(1)) / np.maximum(norms * np.linalg.norm(u, axis=1), eps)
        if cosine.max() < delta / np.sqrt(w.shape[1]):
            unit = w / (norms + eps)[:, None]
            return (r - (unit * r).sum(1, keepdims=True) * unit).reshape(x.shape), True
    return p, False


def adamp(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    betas: Any,
    eps: float,
    weight_decay: float,
    delta: float,
    wd_ratio: float,
    nesterov: bool,
) -> Any:
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    top = b1 * s["m"] + (1 - b1) * g if nesterov else s["m"]
    q, invariant = project(top / (np.sqrt(s["v"] / (1 - b2**t)) + eps), x, g, delta, eps)
    x = x * (1 - lr * weight_decay * (wd_ratio if invariant else 1.0))
    return x - lr / (1 - b1**t) * q


def sgdp(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    eps: float,
    delta: float,
    wd_ratio: float,
) -> Any:
    s["b"] = momentum * s.get("b", 0.0) + (1 - dampening) * g
    q, invariant = project(g + momentum * s["b"] if nesterov else s["b"], x, g, delta, eps)
    return x * (1 - lr * weight_decay * (wd_ratio if invariant else 1.0) / (1 - momentum)) - lr * q


def tangent(params: list[Tensor]) -> list[Tensor]:
    """Gradients of which some are orthogonal to every row, some to the whole tensor only, and some to neither."""
    found = []
    for index, x in enumerate(params):
        g = torch.randn(
            x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(int(1e6 * float(x.abs().sum())))
        )
        rows = [x.shape[0] if x.dim() > 1 else 1, 1, 0][index % 3]
        if rows:
            w, u = x.reshape(rows, -1), g.reshape(rows, -1)
            g = (u - (w * u).sum(1, keepdim=True) / (w * w).sum(1, keepdim=True) * w).reshape(x.shape)
        found.append(g)
    return found


SHAPES = [(5, 4), (3, 7), (6, 2), (9,), (4, 2, 3, 2), (2, 3, 4)]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("delta", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("given", [None, tangent], ids=["random", "tangent"])
def test_adamp_paper(nesterov: bool, delta: float, given: Any) -> None:
    chosen = {
        "lr": 0.01,
        "betas": (0.9, 0.99),
        "eps": 1e-8,
        "weight_decay": 0.3,
        "delta": delta,
        "wd_ratio": 0.2,
        "nesterov": nesterov,
    }
    against_numpy(AdamP, adamp, chosen, shapes=SHAPES, make_gradients=given)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("given", [None, tangent], ids=["random", "tangent"])
def test_sgdp_paper(nesterov: bool, given: Any) -> None:
    chosen = {
        "lr": 0.01,
        "momentum": 0.9,
        "dampening": 0.1,
        "weight_decay": 0.03,
        "nesterov": nesterov,
        "eps": 1e-8,
        "delta": 0.3,
        "wd_ratio": 0.2,
    }
    against_numpy(SGDP, sgdp, chosen, shapes=SHAPES, make_gradients=given)


def test_pytorch_optimizer() -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    chosen = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, "delta": 2.0, "wd_ratio": 0.1}
    peer_run(AdamP, peer.AdamP, chosen, {"weight_decouple": True}, tolerance=1e-7)


def test_without_projection_it_is_adamw() -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 30)
    run(AdamP(params, lr=0.01, delta=0.0, weight_decay=0.1), params, grads)
    run(torch.optim.AdamW(twins, lr=0.01, weight_decay=0.1), twins, grads)
    assert_close(params, twins)


def test_sgdp_without_projection_is_sgd() -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 30)
    run(SGDP(params, lr=0.01, momentum=0.9, nesterov=True, delta=0.0), params, grads)
    run(torch.optim.SGD(twins, lr=0.01, momentum=0.9, nesterov=True), twins, grads)
    assert_close(params, twins)


def test_vectors_are_never_projected() -> None:
    """However many there are, and also with gradients that would pass the test: only their full decay is left."""
    params = [nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (5, 7, 3000, 20000)]
    opt = AdamP(params, lr=0.1, weight_decay=0.5, delta=0.1)
    run(opt, params, [[torch.zeros_like(p) for p in params]])
    for p in params:
        assert torch.allclose(p, torch.full_like(p, 0.95), rtol=1e-14)


def test_projected_updates_are_orthogonal_to_the_rows() -> None:
    x, g, p = (t.detach() for t in parameters(((6, 9), (6, 9), (6, 9))))
    projected, passed = remove_radial(p, x, g, delta=100.0, eps=0.0)
    assert bool(passed)
    assert (projected * x).sum(1).abs().max() < 1e-14
    assert torch.allclose((projected - p) / x, ((projected - p) / x)[:, :1])  # only the radial part went
    unchanged, passed = remove_radial(p, x, x, delta=0.1, eps=0.0)  # a gradient along the weight
    assert not bool(passed)
    assert torch.equal(unchanged, p)


def norms_squared(opt: torch.optim.Optimizer, w: nn.Parameter, steps: int) -> tuple[list[float], list[float]]:
    """Squared norms of a scale-invariant weight, and of its steps, under gradients of unit length tangent to it."""
    generator = torch.Generator().manual_seed(5)
    norms, moves = [], []
    for _ in range(steps):
        g = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        unit = w.detach() / w.detach().norm()
        g -= (g * unit).sum() * unit
        w.grad = g / g.norm()
        before = w.detach().clone()
        opt.step()
        norms.append(float(w.detach().square().sum()))
        moves.append(float((w.detach() - before).square().sum()))
    return norms, moves


def weight() -> nn.Parameter:
    return nn.Parameter(torch.nn.functional.normalize(parameters(((1, 50),))[0].detach()))


def test_projected_steps_let_the_norm_grow_by_their_own_length_only() -> None:
    """||w_T||^2 = ||w_0||^2 + sum of ||steps||^2, exactly, for SGDP; and for plain gradient descent."""
    for make in (
        lambda w: SGDP([w], lr=0.1, momentum=0.9, eps=0.0),
        lambda w: torch.optim.SGD([w], lr=0.1),
        lambda w: AdamP([w], lr=0.01, eps=1e-30),
    ):
        w = weight()
        norms, moves = norms_squared(make(w), w, 200)
        np.testing.assert_allclose(norms, 1 + np.cumsum(moves), rtol=1e-10)


def test_momentum_makes_the_norm_grow_as_the_paper_says() -> None:
    """||w_T||^2 = ||w_0||^2 + lr^2 sum_t (||p_t||^2 + 2 sum_{k<t} b^{t-k} ||p_k||^2), without projection."""
    w, lr, beta = weight(), 0.01, 0.9
    generator = torch.Generator().manual_seed(5)
    opt = torch.optim.SGD([w], lr=lr, momentum=beta)
    expected, tail, gaps = 1.0, 0.0, []
    for _ in range(200):
        g = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        unit = w.detach() / w.detach().norm()
        w.grad = g - (g * unit).sum() * unit
        opt.step()
        length = float(opt.state[w]["momentum_buffer"].square().sum())
        expected += lr**2 * (length + 2 * tail)
        tail = beta * (tail + length)
        gaps.append(abs(float(w.detach().square().sum()) - expected))
    assert max(gaps) < 1e-10
    projected = weight()
    norms, _ = norms_squared(SGDP([projected], lr=0.01, momentum=0.9), projected, 200)
    assert norms[-1] - 1 < 0.2 * (expected - 1)
