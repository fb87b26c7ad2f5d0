"""SMB against the linear system that it solves, SGD (which it becomes), and a one-dimensional closed form."""

import copy
import math
from typing import Any

import pytest
import torch
from optim_helpers import assert_close
from torch import Tensor, nn

from steepest.optim import SMB
from steepest.optim.smb import corrected


def solved(g: Tensor, new: Tensor, lr: float, eta: float) -> Tensor:
    """The step by the dense matrix M, with nothing simplified."""
    s, y = -lr * g.flatten(), (new - g).flatten()
    ss, ys = s @ s, y @ s
    sigma = 0.5 * (s.norm() * (y.norm() + g.norm() / eta) - ys)
    m = (2 * sigma * torch.eye(len(s), dtype=s.dtype) + torch.outer(y, s) + torch.outer(s, y)) / ss
    smallest = float(g.norm() / (eta * s.norm()))  # the eigenvector is orthogonal to none, so not in one dimension
    found = float(torch.linalg.eigvalsh(m)[0])
    assert found == pytest.approx(smallest, abs=1e-13 * float(m.norm())) if len(s) > 1 else found >= smallest
    return -torch.linalg.solve(m, g.flatten()).view(g.shape)


@pytest.mark.parametrize("eta", [0.3, 0.99])
def test_the_corrected_step_solves_the_model(eta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for trial in range(20):
        g, y = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
        new = g + 10.0 ** (trial % 5 - 2) * y
        lr = 10.0 ** (trial % 3 - 1)
        direction = corrected(g, new, eta)
        torch.testing.assert_close(-lr * direction, solved(g, new, lr, eta), rtol=1e-9, atol=1e-12)
        assert direction.norm() <= eta * g.norm() * (1 + 1e-12)


def test_parallel_gradients_have_the_scalar_form_also_in_float32() -> None:
    """On a quadratic in one dimension s, y and g are parallel: s' = -g s^2 / (2 sigma + 2 y s)."""
    for overshoot in (-0.5, 0.0, 0.5, 2.0, 1e3, 1e8):
        g = torch.tensor([3e-8])
        direction = corrected(g, g - overshoot * g, 0.99)
        size, ys = 1.0, -1.0 * -overshoot  # in units of g, with s = -g
        sigma = 0.5 * (size * (abs(overshoot) + 1 / 0.99) - ys)
        expected = 1.0 / (2 * sigma + 2 * ys)
        # What is left of y is the rounding of the gradients: a few units in their last place, of the trial's length.
        assert float(direction / g) == pytest.approx(expected, rel=1e-6, abs=2e-7)
    assert not corrected(torch.zeros(3), torch.ones(3), 0.99).any()


DATA = torch.randn(32, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
TARGET = torch.sin(DATA.sum(1))


class Net(nn.Module):
    """With dropout, a batch norm, and a memory of its dropout masks."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)
        self.drop = nn.Dropout(drop)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        mask = self.drop(torch.ones(len(x), 8, dtype=x.dtype))
        self.masks.append(mask)
        return self.last(torch.tanh(self.norm(self.first(x))) * mask)[:, 0]


def net(drop: float = 0.0) -> Net:
    torch.manual_seed(0)
    return Net(drop).double()


def loss_of(model: nn.Module) -> Tensor:
    return (model(DATA) - TARGET).square().mean()


def test_where_trials_succeed_it_is_sgd() -> None:
    model, twin = net(), net()
    opt, sgd = SMB(model, lr=0.05, c=0.0), torch.optim.SGD(twin.parameters(), lr=0.05)
    for _ in range(20):
        expected = loss_of(twin)
        assert_close([opt.step(lambda: loss_of(model))], [expected])
        sgd.zero_grad()
        expected.backward()
        sgd.step()
        assert_close([p.grad for p in model.parameters()], [q.grad for q in twin.parameters()])
    assert opt.corrections == 0
    assert_close(model.parameters(), twin.parameters())
    assert_close(model.buffers(), twin.buffers())  # the trials have left no trace in the statistics


def reference(model: Net, rates: list[float], eta: float, c: float) -> bool:
    """A step by the dense systems, tensor by tensor; whether it was corrected. Without batch norm's statistics."""
    params = list(model.parameters())
    grads = torch.autograd.grad(loss_of(model), params)
    here = float(loss_of(model))
    olds = [p.detach().clone() for p in params]
    with torch.no_grad():
        for p, g, rate in zip(params, grads, rates, strict=True):
            p -= rate * g
    there = loss_of(model)
    if float(there) <= here - c * sum(r * float(g.square().sum()) for r, g in zip(rates, grads, strict=True)):
        return False
    after = torch.autograd.grad(there, params)
    with torch.no_grad():
        for p, old, g, new, rate in zip(params, olds, grads, after, rates, strict=True):
            p.copy_(old + (solved(g, new, rate, eta) if float(g.norm()) > 1e-12 else 0))
    return True


@pytest.mark.parametrize("lr", [0.2, 0.6, 1.2])
def test_paper_with_several_groups(lr: float) -> None:
    """Groups with learning rates of their own share one test and keep a model per tensor."""
    model, twin = net(), net()
    parts = [list(model.first.parameters()), list(model.norm.parameters()), list(model.last.parameters())]
    opt = SMB([{"params": part, "lr": lr * k} for k, part in enumerate(parts, 1)], eta=0.9)
    rates = [lr * k for k, part in enumerate(parts, 1) for _ in part]
    done = []
    for _ in range(8):
        done.append(reference(twin, rates, 0.9, 0.1))
        opt.step(lambda: loss_of(model))
    assert opt.corrections == sum(done)
    assert sum(done) > 0
    # The bias before a batch norm has no gradient but rounding, whose direction means nothing.
    names = [name for name, _ in model.named_parameters() if name != "first.bias"]
    own, other = dict(model.named_parameters()), dict(twin.named_parameters())
    assert_close([own[n] for n in names], [other[n] for n in names], 1e-7)
    together = net()
    one, several = SMB(together, lr=lr), net()
    split = SMB([{"params": [p]} for p in several.parameters()], lr=lr)
    for _ in range(5):
        one.step(lambda: loss_of(together))
        split.step(lambda: loss_of(several))
    assert_close(together.parameters(), several.parameters())


def test_the_trial_sees_the_same_masks_and_leaves_no_trace() -> None:
    model = net(0.5)
    opt = SMB(model, lr=3.0)
    for step in range(6):
        model.masks.clear()
        opt.step(lambda: loss_of(model))
        assert len(model.masks) == 2
        assert torch.equal(*model.masks)
        assert int(model.norm.num_batches_tracked) == step + 1
    assert opt.corrections > 0


def test_resumes_bit_for_bit() -> None:
    model, twin = net(0.3), net(0.3)

    def train(m: nn.Module, opt: SMB, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            opt.step(lambda: loss_of(m))

    opt = SMB(model, lr=2.0)
    train(model, opt, range(3))
    twin.load_state_dict(model.state_dict())
    other = SMB(twin)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(model, opt, range(3, 6))
    train(twin, other, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_maximizing_is_minimizing_the_negative() -> None:
    model, twin = net(), net()
    down, up = SMB(model, lr=3.0), SMB(twin, lr=3.0, maximize=True)
    for _ in range(4):
        down.step(lambda: loss_of(model))
        up.step(lambda: -loss_of(twin))
    assert down.corrections > 0
    assert_close(model.parameters(), twin.parameters())


def test_unused_frozen_and_bad_values() -> None:
    used, unused, frozen = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3))
    frozen.requires_grad_(False)
    opt = SMB([used, unused, frozen], lr=5.0)
    opt.step(lambda: (used * frozen).square().sum())
    assert opt.corrections == 1
    assert unused.grad is None
    assert torch.equal(unused, torch.ones(2))
    assert torch.equal(frozen, torch.ones(2))
    assert used.square().sum() < 2

    def spoiled(when: int) -> Any:
        calls = [0]

        def closure() -> Tensor:
            calls[0] += 1
            return used.square().sum() * (math.nan if calls[0] == when else 1.0)

        return closure

    for when in (1, 2):
        before = used.detach().clone()
        skipping = SMB([used], nonfinite="skip")
        skipping.step(spoiled(when))
        assert skipping.skipped_steps == 1
        with pytest.raises(FloatingPointError, match="SMB: "):
            SMB([used], nonfinite="raise").step(spoiled(when))
        assert torch.equal(used, before)


def test_errors() -> None:
    p = nn.Parameter(torch.ones(2))
    opt = SMB([p])
    with pytest.raises(TypeError, match=r"SMB differentiates the loss itself: call step\(closure\)"):
        opt.step()

    def backward() -> Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="SMB differentiates the loss itself"):
        opt.step(backward)
    with pytest.raises(TypeError, match="SMB: the loss must be a tensor"):
        opt.step(lambda: 1.0)
    for argument, value, allowed in (("eta", 1.0, r"\(0, 1\)"), ("c", 1.0, r"\[0, 1\)"), ("lr", -1, r"\[0, inf\)")):
        with pytest.raises(ValueError, match=f"SMB: {argument} must be a finite number in {allowed}, got {value}"):
            SMB([p], **{argument: value})
    with pytest.raises(ValueError, match="SMB: parameter group 1: c must be the same in all groups"):
        SMB([{"params": [p]}, {"params": [nn.Parameter(torch.ones(1))], "c": 0.5}])
    with pytest.raises(TypeError, match="SMB has no functional form"):
        SMB.functional()
