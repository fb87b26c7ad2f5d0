"""A closure's gradients elsewhere leave no trace: parameters, gradients, random numbers, buffers."""

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.core.twopoint import RandomState, gradients_at


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 1))
    return nn.Sequential(*layers).double()


DATA = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def closure_of(net: nn.Module, drawn: list[Any] | None = None, set_to_none: bool = True) -> Any:
    def closure() -> Tensor:
        net.zero_grad(set_to_none=set_to_none)
        if drawn is not None:
            drawn.append((random.random(), torch.rand(()).item()))
        loss = net(DATA).square().mean()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_gradients_are_those_there_and_nothing_else_changes(set_to_none: bool) -> None:
    net, twin = network(), network()
    params = list(net.parameters())
    for p in params:
        p.grad = torch.randn_like(p)
    points = [torch.randn_like(p.detach()) for p in params]
    held, grads = [p.grad for p in params], [p.grad.clone() for p in params]
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    random.seed(5)
    start = RandomState(params)
    drawn: list[Any] = []
    loss, found = gradients_at(closure_of(net, drawn, set_to_none), params, points)
    assert not loss.requires_grad
    # As the twin, whose parameters are really there, has them with the same random numbers.
    start.restore()
    for p, point in zip(twin.parameters(), points, strict=True):
        p.data.copy_(point)
    there: list[Any] = []
    expected = closure_of(twin, there)()
    assert drawn == there
    assert torch.equal(loss, expected)
    for g, p in zip(found, twin.parameters(), strict=True):
        assert torch.equal(g, p.grad)
    assert not torch.equal(twin[1].running_mean, net[1].running_mean)
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["1.num_batches_tracked"] == 0
    for p, same, value in zip(params, held, grads, strict=True):
        assert p.grad is same
        assert torch.equal(p.grad, value)
    start.restore()
    assert drawn[0] == (random.random(), torch.rand(()).item())


def test_the_random_state_is_put_back_and_can_be_replayed() -> None:
    net = network()
    params = list(net.parameters())
    torch.manual_seed(3)
    start = RandomState(params)
    loss = closure_of(net)().detach()
    own = [p.grad.clone() for p in params]
    after = torch.get_rng_state()
    again, grads = gradients_at(closure_of(net), params, [None] * len(params), start)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(own, grads, strict=True))
    other, _ = gradients_at(closure_of(net), params, [None] * len(params))
    assert not torch.equal(loss, other)


def test_a_closure_that_raises_leaves_no_trace() -> None:
    net = network()
    params = list(net.parameters())
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()

    def broken() -> Tensor:
        closure_of(net)()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gradients_at(broken, params, [torch.zeros_like(p) for p in params])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in params)
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_buffers_that_a_module_replaces_come_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("nothing", None)

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + 1
            return self.weight * x

    net = nn.Sequential(Counting(), Counting())
    own = net[0].seen
    params = list(net.parameters())

    def closure() -> Tensor:
        loss = net(torch.ones(2)).sum()
        loss.backward()
        return loss

    gradients_at(closure, params, [None, None])
    assert net[0].seen is own
    assert own == 0
    closure()
    assert net[0].seen == 1


def test_parameters_without_a_gradient_have_none() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def closure() -> Tensor:
        loss = used.square().sum()
        loss.backward()
        return loss

    loss, (one, other) = gradients_at(closure, [used, unused], [torch.full((2,), 3.0), None])
    assert loss == 18
    assert torch.equal(one, torch.full((2,), 6.0))
    assert other is None


def test_compiled_modules() -> None:
    net, twin = network(), network()
    params = list(net.parameters())
    run = torch.compile(net, backend="eager")
    points = [torch.zeros_like(p) for p in params]

    def closure() -> Tensor:
        net.zero_grad()
        loss = run(DATA).square().mean()
        loss.backward()
        return loss

    closure()
    before = copy.deepcopy(net.state_dict())
    loss, _ = gradients_at(closure, params, points)
    assert loss == 0
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    closure()
    assert net[1].num_batches_tracked == 2
    assert twin[1].num_batches_tracked == 0
