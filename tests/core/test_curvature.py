"""Hessian-vector products, Hutchinson's estimate, and the optimizers that are fed with them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from steepest.core.curvature import hutchinson, hvp, twice_differentiable
from steepest.core.random import signs
from steepest.optim import AdaHessian, Sophia


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return net, torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,))


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x), y)


def dense_hessian(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    names = [n for n, _ in net.named_parameters()]
    sizes = [p.numel() for p in net.parameters()]
    shapes = [p.shape for p in net.parameters()]

    def flat_loss(flat: Tensor) -> Tensor:
        values = [f.view(s) for f, s in zip(flat.split(sizes), shapes, strict=True)]
        out = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))
        return nn.functional.cross_entropy(out, y)

    return torch.func.hessian(flat_loss)(torch.cat([p.detach().flatten() for p in net.parameters()]))


def test_products_against_the_dense_hessian_and_finite_differences() -> None:
    net, x, y = network()
    params = list(net.parameters())
    gradients = torch.autograd.grad(loss_of(net, x, y), params, create_graph=True)
    vectors = [torch.randn_like(p) for p in params]
    found = torch.cat([h.flatten() for h in hvp(gradients, params, vectors)])
    dense = dense_hessian(net, x, y) @ torch.cat([v.flatten() for v in vectors])
    torch.testing.assert_close(found, dense)
    step = 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(params, vectors, strict=True):
                p.add_(sign * step * v)
        ends.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(net, x, y), params)]))
        with torch.no_grad():
            for p, v in zip(params, vectors, strict=True):
                p.sub_(sign * step * v)
    torch.testing.assert_close(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_hutchinson_mean_and_second_moment() -> None:
    """The mean over probes is the diagonal; the mean square is the squared norm of a row."""
    net, x, y = network()
    params = list(net.parameters())
    gradients = torch.autograd.grad(loss_of(net, x, y), params, create_graph=True)
    drawn = []
    for seed in range(4000):
        z = [signs(p.detach(), seed, k) for k, p in enumerate(params)]
        drawn.append(torch.cat([d.flatten() for d in hutchinson(gradients, params, z)]))
    estimates = torch.stack(drawn)
    hessian = dense_hessian(net, x, y)
    error = (estimates.mean(0) - hessian.diagonal()).abs()
    assert (error < 5 * estimates.std(0) / 4000**0.5 + 1e-12).all()
    torch.testing.assert_close(estimates.square().mean(0), hessian.square().sum(1), rtol=0.15, atol=1e-6)


def test_products_where_the_gradient_does_not_depend_on_a_parameter() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    gradients = torch.autograd.grad(3 * a.sum() + b.square().sum(), [a, b], create_graph=True)
    first, second = hvp(gradients, [a, b], [torch.ones(2), torch.ones(3)])
    assert torch.equal(first, torch.zeros(2))
    assert torch.equal(second, torch.full((3,), 2.0))
    linear = torch.autograd.grad(a.sum(), [a], create_graph=True)
    assert torch.equal(hvp(linear, [a], [torch.ones(2)])[0], torch.zeros(2))


def test_attention_can_be_differentiated_twice() -> None:
    q = nn.Parameter(torch.randn(1, 1, 4, 8))
    with twice_differentiable():
        loss = scaled_dot_product_attention(q, q, q, is_causal=True).square().sum()
    gradients = torch.autograd.grad(loss, [q], create_graph=True)
    assert hvp(gradients, [q], [torch.ones_like(q)])[0].isfinite().all()


# ------------------------------------------------------------------------------------------------ the optimizers


def hutchinson_optimizers(net: nn.Module) -> list[Any]:
    return [
        AdaHessian(net.parameters(), lr=0.01),
        Sophia(net.parameters(), lr=0.01, estimator="hutchinson", update_every=1),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_backward_puts_the_same_gradients_and_adds_to_them(which: int) -> None:
    net, x, y = network()
    opt = hutchinson_optimizers(net)[which]
    expected = torch.autograd.grad(loss_of(net, x, y), list(net.parameters()))
    opt.backward(loss_of(net, x, y))
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
        assert not p.grad.requires_grad
    opt.backward(loss_of(net, x, y))
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)


@pytest.mark.parametrize("which", [0, 1])
def test_closure_and_backward_do_the_same(which: int) -> None:
    (net, x, y), (twin, _, _) = network(), network()
    opt, other = hutchinson_optimizers(net)[which], hutchinson_optimizers(twin)[which]
    for _ in range(3):
        value = opt.step(lambda: loss_of(net, x, y))
        other.zero_grad()
        loss = loss_of(twin, x, y)
        other.backward(loss)
        other.step()
        assert torch.equal(value, loss.detach())
        assert not value.requires_grad
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_frozen_or_unused_parameter_gets_no_estimate() -> None:
    net, x, y = network()
    extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    next(net.parameters()).requires_grad_(False)
    opt = AdaHessian([*net.parameters(), extra], lr=0.01)
    opt.step(lambda: loss_of(net, x, y))
    assert not opt.state.get(extra)
    assert not opt.state.get(next(net.parameters()))
    assert len(opt.state) == 3


def test_estimates_are_due_at_the_first_step_and_every_k() -> None:
    net, x, y = network()
    opt = Sophia(net.parameters(), update_every=3)
    due = []
    for _ in range(7):
        due.append(opt.wants_estimate)
        opt.zero_grad()
        loss_of(net, x, y).backward()
        opt.step()
    assert due == [True, False, False] * 2 + [True]


def test_no_graph_is_kept_alive() -> None:
    """The cycle between gradient and graph that backward(create_graph=True) leaves would show as growing memory."""
    import gc
    import weakref

    net, x, y = network()
    opt = AdaHessian(net.parameters(), lr=0.01)
    gc.disable()
    try:
        opt.zero_grad()
        loss = loss_of(net, x, y)
        opt.backward(loss)
        node = weakref.ref(loss)
        del loss
        assert node() is None
    finally:
        gc.enable()


def test_bad_input_is_named() -> None:
    net, x, y = network()
    opt = AdaHessian(net.parameters())
    loss_of(net, x, y).backward()
    with pytest.raises(RuntimeError, match="no curvature was estimated for parameter 0 of group 0; call opt"):
        opt.step()
    with pytest.raises(RuntimeError, match="must return the loss without calling backward"):
        opt.step(lambda: loss_of(net, x, y).detach())
    spent = loss_of(net, x, y)
    spent.backward()
    with pytest.raises(RuntimeError, match=r"AdaHessian differentiates the loss itself; return it from the closure"):
        opt.step(lambda: spent)
    with pytest.raises(TypeError, match="the loss must be a tensor with one element"):
        opt.backward(net(x))
    with pytest.raises(ValueError, match="there are 4 parameters, got 1 estimates"):
        opt.observe([None])
    with pytest.raises(ValueError, match=r"the estimate for parameter 1 of group 0 has shape \(3,\), expected \(4,\)"):
        opt.observe([None, torch.ones(3), None, None])
    sophia = Sophia(net.parameters())
    with pytest.raises(ValueError, match="samples must be an integer >= 1, got 0"):
        sophia.estimate(loss_of(net, x, y), samples=0)


def test_estimates_that_are_not_finite() -> None:
    for policy in ("skip", "raise"):
        net, _, _ = network()
        opt = AdaHessian(net.parameters(), nonfinite=policy)
        bad = [torch.full_like(p, torch.nan) for p in net.parameters()]
        if policy == "raise":
            with pytest.raises(FloatingPointError, match="an estimate of curvature is not finite; nothing was changed"):
                opt.observe(bad)
        else:
            opt.observe(bad)
        assert not opt.state
