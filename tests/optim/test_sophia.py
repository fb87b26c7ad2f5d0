"""Sophia against its equations, signed momentum, Newton's method, optax; its estimators against exact diagonals."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters
from oracle_helpers import random_shapes, schedule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest.optim import Lion, Sophia


def test_paper() -> None:
    settings: dict[str, Any] = {"betas": (0.9, 0.8), "gamma": 0.7, "eps": 1e-3, "weight_decay": 0.1, "update_every": 3}
    params = parameters(random_shapes(5), seed=5)
    opt = Sophia([{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.02}], lr=0.1, **settings)
    values = [p.detach().numpy().copy() for p in params]
    m, h = [np.zeros_like(x) for x in values], [np.zeros_like(x) for x in values]
    clipped = total = 0
    for t, (gs, ds) in enumerate(zip(gradients(params, 30, 7), gradients(params, 30, 8), strict=True), start=1):
        rate = 0.1 * schedule(t)
        for group in opt.param_groups:
            group["lr"] = rate
        if opt.wants_estimate:
            opt.observe(ds)
        for p, g in zip(params, gs, strict=True):
            p.grad = g.clone()
        opt.step()
        for i, (g, d) in enumerate(zip(gs, ds, strict=True)):
            m[i] = 0.9 * m[i] + 0.1 * g.numpy()
            if t % 3 == 1:
                h[i] = 0.8 * h[i] + 0.2 * d.numpy()
            values[i] = values[i] * (1 - rate * (0.1 if i < 3 else 0.02))
            ratio = m[i] / np.maximum(0.7 * h[i], 1e-3)
            clipped, total = clipped + (abs(ratio) > 1).sum(), total + ratio.size
            values[i] = values[i] - rate * np.clip(ratio, -1, 1)
    assert 0.1 < clipped / total < 0.95
    for p, x in zip(params, values, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-11, atol=1e-11)


def test_without_estimates_it_is_signed_momentum() -> None:
    """Lion with both betas alike takes the sign of the same average."""
    params, twins = parameters(), parameters()
    opt = Sophia(params, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, eps=1e-30)
    lion = Lion(twins, lr=0.01, betas=(0.9, 0.9), weight_decay=0.1)
    for step in gradients(params, 20):
        for p, q, g in zip(params, twins, step, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        opt.step()
        lion.step()
    assert_close(params, twins)


def test_unclipped_on_a_diagonal_quadratic_it_is_damped_newton() -> None:
    curvature = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
    x = nn.Parameter(torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64))
    opt = Sophia([x], lr=0.1, betas=(0.0, 0.0), gamma=1.0)
    expected = x.detach().clone()
    for _ in range(5):
        opt.observe([curvature])
        x.grad = (curvature * x).detach()
        opt.step()
        expected = 0.9 * expected
    torch.testing.assert_close(x.detach(), expected)


def linear_softmax() -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(2, 3).double(), torch.randn(4, 2, dtype=torch.float64)


def test_gauss_newton_bartlett_is_unbiased() -> None:
    """The mean over all label combinations, weighted by their probability, is the Gauss-Newton diagonal; for a linear
    softmax model that is the Hessian's."""
    net, x = linear_softmax()
    probabilities = net(x).softmax(-1).detach()
    mean = [torch.zeros_like(p) for p in net.parameters()]
    for labels in itertools.product(range(3), repeat=4):
        chance = torch.prod(probabilities[torch.arange(4), list(labels)])
        opt = Sophia(net.parameters(), betas=(0.9, 0.0))
        opt.estimate(cross_entropy(net(x), torch.tensor(labels)), samples=4)
        for total, p in zip(mean, net.parameters(), strict=True):
            total += chance * opt.state[p]["hessian"]

    def loss(w: Tensor, b: Tensor) -> Tensor:
        return cross_entropy(x @ w.T + b, torch.tensor([0, 1, 2, 0]))

    blocks = torch.func.hessian(loss, argnums=(0, 1))(net.weight.detach(), net.bias.detach())
    diagonal_w = blocks[0][0].reshape(6, 6).diagonal().view(3, 2)
    torch.testing.assert_close(mean[0], diagonal_w)
    torch.testing.assert_close(mean[1], blocks[1][1].diagonal())


def test_hutchinson_averages_to_the_hessian_diagonal() -> None:
    torch.manual_seed(1)
    a = torch.randn(5, 5, dtype=torch.float64)
    hessian = a + a.T  # indefinite
    x = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    opt = Sophia([x], lr=0.0, betas=(0.9, 0.9999), update_every=1, estimator="hutchinson")
    for _ in range(3000):
        opt.step(lambda: 0.5 * x @ hessian @ x)
    found = opt.state[x]["hessian"] / (1 - 0.9999**3000)
    spread = (hessian.square().sum(1) + hessian.diagonal().square()).sqrt() / 3000**0.5
    assert ((found - hessian.diagonal()).abs() < 5 * spread).all()


def test_estimates_leave_the_gradients_alone() -> None:
    net, x = linear_softmax()
    opt = Sophia(net.parameters())
    opt.estimate(cross_entropy(net(x), torch.tensor([0, 1, 2, 0])), samples=4)
    assert all(p.grad is None for p in net.parameters())


def test_the_sign_of_a_gauss_newton_estimate_does_not_change_when_maximizing() -> None:
    net, x = linear_softmax()
    opt = Sophia(net.parameters(), maximize=True)
    opt.estimate(cross_entropy(net(x), torch.tensor([0, 1, 2, 0])), samples=4)
    assert all(bool((opt.state[p]["hessian"] >= 0).all()) for p in net.parameters())


def test_the_authors_form_of_the_factor() -> None:
    """Averages of the squared gradient with the number of samples in the step: the same trajectory."""
    params, twins = parameters(((4, 3),)), parameters(((4, 3),))
    opt = Sophia(params, lr=0.01, betas=(0.9, 0.95), gamma=0.05, eps=1e-15)
    average, momentum = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    for t, (step, drawn) in enumerate(zip(gradients(params, 20), gradients(params, 20, seed=4), strict=True)):
        if t % 10 == 0:
            opt.observe([64 * drawn[0].square()])
            average = 0.95 * average + 0.05 * drawn[0].square()
        params[0].grad = step[0].clone()
        opt.step()
        momentum = 0.9 * momentum + 0.1 * step[0]
        ratio = (momentum.abs() / (0.05 * 64 * average + 1e-15)).clamp(None, 1)
        with torch.no_grad():
            twins[0] -= 0.01 * momentum.sign() * ratio
    assert_close(params, twins)


def test_optax() -> None:
    """optax corrects the momentum's bias, which the paper does not, and takes an estimate in only after the step.

    Without momentum, and fed after the step, both agree. Its Rademacher probes are exact on a diagonal Hessian.
    """
    jax = pytest.importorskip("jax")
    contrib = pytest.importorskip("optax").contrib
    import jax.numpy as jnp

    with jax.enable_x64(True):
        curvature = jnp.asarray([2.0, 0.3, 5.0, 0.01])

        def objective(x: Any) -> Any:
            return 0.5 * jnp.sum(curvature * x * x)

        transform = contrib.sophia(
            learning_rate=0.1, b1=0.0, b2=0.9, eps=1e-8, gamma=0.5, weight_decay=0.1, update_interval=1
        )
        x = jnp.asarray([1.0, -2.0, 0.5, 3.0])
        state = transform.init(x)
        advance = jax.jit(lambda s, x: transform.update(jax.grad(objective)(x), s, x, obj_fn=objective))
        p = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64))
        opt = Sophia([p], lr=0.1, betas=(0.0, 0.9), gamma=0.5, eps=1e-8, weight_decay=0.1, update_every=1)
        for _ in range(30):
            updates, state = advance(state, x)
            p.grad = torch.tensor(np.asarray(curvature)) * p.detach()
            opt.step()
            opt.observe([torch.tensor(np.asarray(curvature))])
            x = x + updates
        np.testing.assert_allclose(p.detach().numpy(), np.asarray(x), rtol=1e-8)


def toy(x: Tensor) -> Tensor:
    """The paper's landscape: a sharp, non-convex direction and a flat one; the minimum is at (1, 4)."""
    sharp = 8 * (x[0] - 1) ** 2 * (1.3 * x[0] ** 2 + 2 * x[0] + 1)
    return sharp + 0.5 * (x[1] - 4) ** 2


def test_the_toy_landscape() -> None:
    """From where the sharp direction has negative curvature Newton goes to the saddle, Sophia to the minimum."""

    def newton() -> Tensor:
        x = torch.tensor([-0.05, 0.0], dtype=torch.float64)
        for _ in range(50):
            gradient, hessian = torch.func.grad(toy)(x), torch.func.hessian(toy)(x)
            x = x - torch.linalg.solve(hessian, gradient)
        return x

    assert torch.func.hessian(toy)(newton()).diagonal()[0] < 0
    x = nn.Parameter(torch.tensor([0.2, 0.0], dtype=torch.float64))
    opt = Sophia([x], lr=0.3, betas=(0.0, 0.0), gamma=1.0, update_every=1, estimator="hutchinson")
    for _ in range(60):
        opt.observe([torch.func.hessian(toy)(x.detach()).diagonal()])
        x.grad = torch.func.grad(toy)(x.detach())
        opt.step()
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 4.0], dtype=torch.float64), rtol=0, atol=1e-3)
