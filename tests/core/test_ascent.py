"""The second evaluation of a mini-batch leaves no trace, and finds what the first one found."""

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from steepest.core.ascent import TwoPointTransform
from steepest.optim import SAM, GradientNoise, GradientRegularization, Lion, MARSAdamW, NormClip, Sophia, WeightDecay

DATA = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 1))
    return nn.Sequential(*layers).double()


def closure_of(net: nn.Module, opt: Optimizer, drawn: list[Any] | None = None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        opt.zero_grad()
        if drawn is not None:
            drawn.append((random.random(), torch.rand(()).item()))
        loss = net(DATA).square().mean()
        loss.backward()
        return loss

    return closure


def test_statistics_are_counted_once_masks_are_the_same_and_the_loss_is_the_one_here() -> None:
    net, twin = network(), network()
    opt, bare = SAM(SGD(net.parameters(), lr=0.0), 0.3), SGD(twin.parameters(), lr=0.0)
    ours: list[Any] = []
    theirs: list[Any] = []
    for step in range(3):
        for rows, (model, base, drawn) in enumerate(((net, opt, ours), (twin, bare, theirs))):
            torch.manual_seed(step)
            random.seed(step)
            loss = base.step(closure_of(model, base, drawn))
            after = (random.random(), torch.rand(()).item())
            if not rows:
                expected = loss, after
            else:
                assert torch.equal(loss, expected[0])
                assert after == expected[1]
        assert ours[-1] == ours[-2] == theirs[-1]
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
    assert len(ours) == 2 * len(theirs)
    for (name, b), c in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(b, c), name


def test_the_second_gradient_is_that_of_the_same_network_moved_there() -> None:
    """By hand on a copy: same mask, batch statistics of the moved network."""
    net = network()
    twin = copy.deepcopy(net)
    opt = SAM(SGD(net.parameters(), lr=1.0), 0.4)
    old = [p.detach().clone() for p in net.parameters()]
    torch.manual_seed(7)
    opt.step(closure_of(net, opt))
    other = SGD(twin.parameters(), lr=1.0)
    torch.manual_seed(7)
    closure_of(twin, other)()
    grads = [p.grad.clone() for p in twin.parameters()]
    norm = torch.cat([g.flatten() for g in grads]).norm()
    with torch.no_grad():
        for p, g in zip(twin.parameters(), grads, strict=True):
            p += 0.4 / norm * g
    torch.manual_seed(7)
    closure_of(twin, other)()
    for p, before, q in zip(net.parameters(), old, twin.parameters(), strict=True):
        torch.testing.assert_close(before - p.detach(), q.grad, rtol=1e-10, atol=1e-13)


def test_a_closure_is_required_and_checkpoint_tools_get_their_empty_step() -> None:
    p = nn.Parameter(torch.ones(2))
    opt = SAM(AdamW([p], lr=0.1))
    p.grad = torch.ones(2)
    with pytest.raises(TypeError, match=r"SAM evaluates two gradients per step: call step\(closure\)"):
        opt.step()
    assert not opt.state
    opt.param_groups[0]["lr"] = 0.0
    opt.step()
    assert opt.state
    opt.param_groups[0]["lr"] = 0.0
    with pytest.raises(TypeError, match="two gradients"):
        opt.step()


def test_a_closure_that_raises_leaves_everything_as_it_was() -> None:
    net = network()
    opt = SAM(SGD(net.parameters(), lr=0.1), 0.3)
    inner = closure_of(net, opt)
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("in the second call")
        return inner()

    before = copy.deepcopy(net.state_dict())
    with pytest.raises(KeyError):
        opt.step(closure)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name])
    with pytest.raises(TypeError, match="two gradients"):  # nothing of the failed step is left over
        opt.step()
    opt.step(closure)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [1, 2])
def test_a_gradient_that_is_not_finite_reaches_the_base(bad: float, place: int) -> None:
    """Of such a gradient here no second one is made: the closure never sees parameters that are not finite."""
    p = nn.Parameter(torch.ones(3))
    base = Lion([p], lr=0.1, nonfinite="skip")
    opt = SAM(base, 0.1)
    calls = []

    def closure() -> None:
        calls.append(1)
        assert p.isfinite().all()
        p.grad = torch.tensor([1.0, bad if len(calls) == place else 1.0, 1.0])

    opt.step(closure)
    assert len(calls) == place
    assert base.skipped_steps == 1
    assert torch.equal(p, torch.ones(3))
    opt.step(closure)
    assert len(calls) == place + 2
    assert base.skipped_steps == 1


def test_parameters_that_the_loss_does_not_reach() -> None:
    """Without a gradient here: left alone. Without one there: zero."""
    p, q, r = (nn.Parameter(torch.ones(1)) for _ in range(3))
    opt = SAM(SGD([p, q, r], lr=1.0), 0.5)
    calls = []

    def closure() -> None:
        calls.append(1)
        p.grad = torch.ones(1)
        q.grad = torch.ones(1) if len(calls) == 1 else None
        r.grad = None if len(calls) == 1 else torch.ones(1)

    opt.step(closure)
    assert (p.item(), q.item(), r.item()) == (0.0, 1.0, 1.0)
    assert q.grad.item() == 1.0
    assert r.grad is None


def test_transforms_outside_act_on_both_gradients_and_what_they_left_is_put_back() -> None:
    """L2 outside of SAM is SAM on the loss with the penalty; inside it is added to SAM's gradient."""
    h = torch.tensor([1.0, 4.0], dtype=torch.float64)
    start = torch.tensor([1.0, -0.5], dtype=torch.float64)
    for make, wanted in (
        (lambda b: WeightDecay(SAM(b, 0.2), 0.5, decoupled=False), "outside"),
        (lambda b: SAM(WeightDecay(b, 0.5, decoupled=False), 0.2), "inside"),
    ):
        p = nn.Parameter(start.clone())
        opt = make(SGD([p], lr=1.0))

        def closure(p: Any = p) -> None:
            p.grad = (torch.zeros_like(p) if p.grad is None else p.grad) + h * p.detach()  # accumulates

        opt.step(closure)
        g = h * start + (0.5 * start if wanted == "outside" else 0.0)
        there = start + 0.2 * g / g.norm()
        used = h * there + 0.5 * (there if wanted == "outside" else start)
        torch.testing.assert_close(start - p.detach(), used, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(p.grad, h * start, rtol=0, atol=0)


def test_bases_that_evaluate_by_themselves() -> None:
    """MARS looks back with SAM's gradient of the same batch; its closure is called twice at both points."""
    p = nn.Parameter(torch.ones(4, 2, dtype=torch.float64))
    opt = SAM(MARSAdamW([p], lr=0.01, exact=True, gamma=0.5), 0.1)
    calls = []

    def closure() -> None:
        calls.append(p.detach().clone())
        p.grad = p.detach() ** 3

    opt.step(closure)
    old = torch.ones(4, 2, dtype=torch.float64)
    opt.step(closure)
    assert len(calls) == 2 + 4
    assert torch.equal(calls[2], old)
    there = old + 0.1 * old**3 / (old**3).norm()
    torch.testing.assert_close(calls[3], there)


def test_bases_that_differentiate_the_loss_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="SAM: base must not be Sophia, which differentiates the loss itself"):
        SAM(NormClip(Sophia([nn.Parameter(torch.ones(2))], estimator="hutchinson"), 1.0))
    with pytest.raises(TypeError, match="SAM: base must be an optimizer"):
        SAM([nn.Parameter(torch.ones(2))])


def test_autocast_and_a_loss_scale_inside_the_closure() -> None:
    """The recipe of the docstring: with a power of two as scale nothing changes."""
    found = []
    for scale in (1.0, 2.0**10):
        net = network().float()
        opt = SAM(SGD(net.parameters(), lr=0.1), 0.2)
        for step in range(3):
            torch.manual_seed(step)

            def closure(net: Any = net, opt: Any = opt, scale: float = scale) -> Tensor:
                opt.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = net(DATA.float()).float().square().mean()
                (loss * scale).backward()
                for p in net.parameters():
                    p.grad.div_(scale)
                return loss

            opt.step(closure)
        found.append([p.detach().clone() for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_nothing_of_a_step_is_kept() -> None:
    net = network()
    opt = SAM(NormClip(GradientNoise(SGD(net.parameters(), lr=0.1), 0.1), 1.0))
    opt.step(closure_of(net, opt))
    assert opt._call is None
    copy.deepcopy(opt)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_gloo_available() or distributed.is_initialized():
        pytest.skip("needs a process group of its own")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("make", [lambda b: SAM(b, 0.3), lambda b: GradientRegularization(b, 0.2, 0.5)])
def test_gradients_that_are_views_of_ddp_buckets(
    make: Callable[[Optimizer], TwoPointTransform], one_process: None
) -> None:
    """The second backward pass writes over the memory of the first gradients; neither is lost."""
    net, twin = network(), network()
    parallel = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
    opt, bare = make(SGD(net.parameters(), lr=0.2)), make(SGD(twin.parameters(), lr=0.2))
    for step in range(4):
        for model, o in ((parallel, opt), (twin, bare)):
            torch.manual_seed(step)
            o.step(closure_of(model, o))
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)
