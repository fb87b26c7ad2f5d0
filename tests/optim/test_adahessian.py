"""AdaHessian against its equations, Adam, closed forms, and pytorch_optimizer with the same probes."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters
from oracle_helpers import random_shapes, schedule
from torch import nn

from steepest.optim import AdaHessian
from steepest.optim.adahessian import spatial_average

SETTINGS: dict[str, Any] = {
    "lr": 0.1,
    "betas": (0.9, 0.99),
    "eps": 1e-3,
    "weight_decay": 0.05,
    "hessian_power": 0.7,
    "block_size": 2,
}


def averaged(d: np.ndarray, block: int) -> np.ndarray:
    out = np.empty_like(d)
    if d.ndim > 2:
        for index in np.ndindex(d.shape[:2]):
            out[index] = d[index].mean()
    elif d.ndim == 2:
        for i in range(d.shape[0]):
            for j in range(d.shape[1]):
                start = j // block * block
                out[i, j] = d[i, start : start + block].mean()
    else:
        out[:] = d
    return out


def test_paper() -> None:
    params = parameters(random_shapes(3), seed=3)
    opt = AdaHessian([{"params": params[::2]}, {"params": params[1::2], "lr": 0.3}], **SETTINGS)
    order = [*params[::2], *params[1::2]]
    values = [p.detach().numpy().copy() for p in order]
    m, v = [np.zeros_like(x) for x in values], [np.zeros_like(x) for x in values]
    b1, b2 = SETTINGS["betas"]
    grads, diagonals = gradients(order, 30, 7), gradients(order, 30, 8)
    for t, (gs, ds) in enumerate(zip(grads, diagonals, strict=True), start=1):
        rates = [0.1 * schedule(t), 0.3 * schedule(t)]
        for group, rate in zip(opt.param_groups, rates, strict=True):
            group["lr"] = rate
        for p, g in zip(order, gs, strict=True):
            p.grad = g.clone()
        opt.observe(ds)
        opt.step()
        for i, (g, d) in enumerate(zip(gs, ds, strict=True)):
            rate = rates[0] if i < len(params[::2]) else rates[1]
            m[i] = b1 * m[i] + (1 - b1) * g.numpy()
            v[i] = b2 * v[i] + (1 - b2) * averaged(d.numpy(), 2) ** 2
            denominator = (np.sqrt(v[i]) / np.sqrt(1 - b2**t)) ** 0.7 + 1e-3
            values[i] = values[i] - rate * (m[i] / (1 - b1**t) / denominator + 0.05 * values[i])
    for p, x in zip(order, values, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-6, atol=1e-8)  # counts of estimates are in float32


def test_with_the_gradient_for_the_diagonal_it_is_adam() -> None:
    params, twins = parameters(((5, 3), (4,))), parameters(((5, 3), (4,)))
    opt, adam = AdaHessian(params, lr=0.01, eps=1e-4), torch.optim.Adam(twins, lr=0.01, eps=1e-4)
    for step in gradients(params, 20):
        for p, q, g in zip(params, twins, step, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        opt.observe(step)
        opt.step()
        adam.step()
    assert_close(params, twins, 1e-7)


def test_one_probe_is_exact_on_a_diagonal_hessian() -> None:
    """f = sum_i c_i x_i^2 / 2: the first step is lr in units where every coordinate's Newton step is x_i."""
    curvature = torch.tensor([100.0, 1.0, 0.01], dtype=torch.float64)
    x = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    start = x.detach().clone()
    opt = AdaHessian([x], lr=0.5, eps=0.0)
    opt.step(lambda: 0.5 * (curvature * x * x).sum())
    torch.testing.assert_close(opt.state[x]["hessian_sq"] / 0.001, curvature.square(), rtol=1e-6, atol=0)
    torch.testing.assert_close(x.detach(), 0.5 * start, rtol=1e-5, atol=0)


def test_probes_reduce_what_the_off_diagonal_adds() -> None:
    """v estimates the squared norm of a row; the mean of n probes leaves diag^2 plus 1/n of the off-diagonal part."""
    torch.manual_seed(0)
    a = torch.randn(6, 6, dtype=torch.float64)
    hessian = a @ a.T
    row, diagonal = hessian.square().sum(1), hessian.diagonal().square()
    for n in (1, 4):
        x = nn.Parameter(torch.zeros(6, dtype=torch.float64))
        opt = AdaHessian([x], lr=0.0, betas=(0.0, 0.999), n_probes=n)
        for _ in range(1500):
            opt.step(lambda p=x: 0.5 * p @ hessian @ p)
        found = opt.state[x]["hessian_sq"] / (1 - 0.999**1500)
        torch.testing.assert_close(found, diagonal + (row - diagonal) / n, rtol=0.15, atol=0)


def test_spatial_average() -> None:
    d = torch.arange(24.0).view(2, 3, 2, 2)
    assert torch.equal(spatial_average(d, 1)[1, 2], torch.full((2, 2), 21.5))
    m = torch.arange(10.0).view(2, 5)
    assert spatial_average(m, 2).tolist()[0] == [0.5, 0.5, 2.5, 2.5, 4.0]
    assert torch.equal(spatial_average(m, 1), m)
    assert torch.equal(spatial_average(m[0], 3), m[0])


def test_pytorch_optimizer_with_the_same_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its estimates are put where it keeps them; it averages convolutions of |D| where the paper averages D."""
    peer = pytest.importorskip("pytorch_optimizer")
    params, twins = parameters(((5, 3), (4,))), parameters(((5, 3), (4,)))
    opt = AdaHessian(params, lr=0.1, eps=1e-3, weight_decay=0.02)
    other = peer.AdaHessian(twins, lr=0.1, eps=1e-3, weight_decay=0.02, weight_decouple=True)
    estimates = gradients(params, 20, seed=5)
    for step, ds in zip(gradients(params, 20), estimates, strict=True):
        for p, q, g in zip(params, twins, step, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        opt.observe(ds)
        opt.step()
        other.step(hessian=ds)
    assert_close(params, twins, 1e-6)


def test_the_path_does_not_depend_on_the_conditioning() -> None:
    """On a diagonal quadratic every coordinate goes the same way, relative to its start, whatever its curvature."""
    curvature = torch.logspace(-3, 3, 7, dtype=torch.float64)
    x = nn.Parameter(torch.linspace(1.0, 2.0, 7, dtype=torch.float64))
    start = x.detach().clone()
    opt = AdaHessian([x], lr=0.1, eps=0.0)
    for _ in range(200):
        opt.step(lambda: 0.5 * (curvature * x * x).sum())
        relative = x.detach() / start
        torch.testing.assert_close(relative, relative[:1].expand(7), rtol=1e-6, atol=1e-12)
    assert relative.abs().max() < 1e-3
