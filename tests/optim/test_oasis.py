"""OASIS against its equations, AdGD (which it becomes), rescaled coordinates, and problems with known step sizes."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters
from torch import Tensor, nn

from steepest.core.random import signs
from steepest.optim import OASIS, OASISMomentum

DATA = torch.randn(40, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SIGNS = torch.sign(DATA @ torch.arange(1.0, 6.0, dtype=torch.float64) + 0.5)


def logistic(x: Tensor, rows: Any = slice(None)) -> Tensor:
    return torch.nn.functional.softplus(-SIGNS[rows] * (DATA[rows] @ x)).mean() + 0.01 * x.square().sum()


def zeros(size: int = 5) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size, dtype=torch.float64))


def gradient(f: Callable[[Tensor], Tensor], x: Any) -> Any:
    return torch.func.grad(f)(torch.as_tensor(x)).numpy()


def adgd(f: Callable[[Tensor], Tensor], x: Any, step: float, count: int) -> list[Any]:
    """Malitsky and Mishchenko's method, with the safety factor 1/2."""
    g, ratio, path = gradient(f, x), math.inf, []
    before, x = (x, g), x - step * g
    path.append(x)
    for _ in range(count - 1):
        g = gradient(f, x)
        local = np.linalg.norm(x - before[0]) / (2 * np.linalg.norm(g - before[1]))
        new = min(math.sqrt(1 + ratio) * step, local)
        ratio, step = new / step, new
        before, x = (x, g), x - step * g
        path.append(x)
    return path


def test_with_unit_curvature_it_is_adgd() -> None:
    p = zeros()
    opt = OASIS([p], initial_step=1e-3, truncation=1.0, exact=False)
    for expected in adgd(logistic, np.zeros(5), 1e-3, 40):
        p.grad = torch.func.grad(logistic)(p.detach())
        opt.observe([torch.zeros(5, dtype=torch.float64)])
        opt.step()
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-10)


def test_the_exact_diagonal_makes_it_covariant() -> None:
    """f(x) and f(Vx) give the same predictions, whatever the diagonal V."""
    scales = torch.tensor([1e-4, 1e-2, 1.0, 50.0, 1e4], dtype=torch.float64)
    paths = []
    for v in (torch.ones_like(scales), scales):

        def f(x: Tensor, v: Tensor = v) -> Tensor:
            return logistic(v * x)

        p, path = zeros(), []
        opt = OASIS([p], truncation=1e-300, beta2=0.7, exact=False)
        for _ in range(30):
            p.grad = torch.func.grad(f)(p.detach())
            opt.observe([torch.func.hessian(f)(p.detach()).diagonal().clone()])
            opt.step()
            path.append(v * p.detach())
        paths.append(path)
    for a, b in zip(*paths, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_diagonal_quadratic_is_halved_whatever_its_conditioning() -> None:
    """One probe gives the diagonal itself, and the step size is 1/2 from the second step on."""
    scales = 10.0 ** torch.linspace(-3, 3, 7, dtype=torch.float64)
    p = nn.Parameter(torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    opt = OASIS([p], beta2=0.0, truncation=1e-12, first_probes=1, exact=False)
    before = p.detach().clone()
    for step in range(12):
        opt.step(lambda: 0.5 * (scales * p.square()).sum())
        assert_close([opt.state[p]["hessian"]], [scales])
        assert_close([p], [before * (1 - 1e-3 if step == 0 else 0.5)], 1e-9)
        before = p.detach().clone()
    assert opt.param_groups[0]["shared"]["step_size"] == pytest.approx(0.5)


@pytest.mark.parametrize("exact", [True, False])
def test_paper(exact: bool) -> None:
    """Mini-batches in float64, two groups with factors and decays of their own, Hutchinson's estimates by hand."""
    cut = 2
    params = [nn.Parameter(torch.zeros(cut, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    own = ({"lr": 0.7, "weight_decay": 0.1}, {"lr": 1.0, "weight_decay": 0.03})
    opt = OASIS(
        [{"params": [p], **o} for p, o in zip(params, own, strict=True)],
        beta2=0.9, truncation=0.03, initial_step=0.01, exact=exact, first_probes=3, seed=5,
    )  # fmt: skip
    x = np.r_[np.zeros(cut), np.ones(3)]
    lr, decay = np.repeat([0.7, 1.0], [cut, 3]), np.repeat([0.1, 0.03], [cut, 3])
    d = np.zeros(5)
    before, step, ratio = x, 0.01, math.inf
    rng = np.random.default_rng(0)
    kept = None
    for k in range(12):
        rows = torch.from_numpy(rng.integers(0, 40, 12))

        def f(z: Tensor, rows: Tensor = rows) -> Tensor:
            return logistic(z, rows)

        count = 3 if k == 0 else 1
        hessian = torch.func.hessian(f)(torch.from_numpy(x)).numpy()
        estimate = np.zeros(5)
        for number in range(count):
            z = np.concatenate([signs(p.detach(), 5, k, number, index).numpy() for index, p in enumerate(params)])
            estimate += z * (hessian @ z) / count
        d = estimate if k == 0 else 0.9 * d + 0.1 * estimate
        metric = np.maximum(np.abs(d), 0.03)
        g = gradient(f, x)
        if k:
            change = g - (gradient(f, before) if exact else kept)
            local = math.sqrt(((x - before) ** 2 * metric).sum() / (change**2 / metric).sum()) / 2
            new = min(math.sqrt(1 + ratio) * step, local)
            ratio, step = new / step, new
        kept, before = g, x
        x = x - lr * step * (g / metric + decay * x)
        assert opt.step(lambda f=f: f(torch.cat(list(params)))) == pytest.approx(float(f(torch.from_numpy(before))))
        np.testing.assert_allclose(torch.cat(list(params)).detach().numpy(), x, rtol=1e-10, atol=1e-12)
    assert opt.hessian_products == 3 + 11


@pytest.mark.parametrize("exact", [True, False])
def test_maximizing_is_minimizing_the_negative(exact: bool) -> None:
    p, q = zeros(), zeros()
    down, up = OASIS([p], exact=exact), OASIS([q], exact=exact, maximize=True)
    for step in range(5):
        rows = slice(8 * step, 8 * step + 8)
        down.step(lambda rows=rows: logistic(p, rows))
        up.step(lambda rows=rows: -logistic(q, rows))
        assert_close([p], [q])
    assert p.detach().norm() > 1e-3


def test_momentum_form() -> None:
    params = parameters(((3, 4), (5,)))
    opt = OASISMomentum(params, lr=0.1, betas=(0.8, 0.9), truncation=0.2, weight_decay=0.05)
    numbers = [p.detach().numpy().copy() for p in params]
    m, d = [0.0, 0.0], [0.0, 0.0]
    for t, (grads, found) in enumerate(zip(gradients(params, 20), gradients(params, 20, seed=4), strict=True), 1):
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        opt.observe(found)
        opt.step()
        for k in range(2):
            m[k] = 0.8 * m[k] + 0.2 * grads[k].numpy()
            d[k] = found[k].numpy() if t == 1 else 0.9 * d[k] + 0.1 * found[k].numpy()
            direction = m[k] / (1 - 0.8**t) / np.maximum(np.abs(d[k]), 0.2)
            numbers[k] = numbers[k] - 0.1 * (direction + 0.05 * numbers[k])
            np.testing.assert_allclose(params[k].detach().numpy(), numbers[k], rtol=1e-11)


def test_without_a_change_of_the_gradient_the_step_size_grows_as_the_recursion_allows() -> None:
    p = zeros(2)
    opt = OASIS([p], initial_step=0.1, truncation=1.0, exact=False)
    sizes = []
    for _ in range(5):
        p.grad = torch.ones(2, dtype=torch.float64)
        opt.observe([torch.ones(2, dtype=torch.float64)])
        opt.step()
        sizes.append(opt.param_groups[0]["shared"]["step_size"])
    expected, ratio = [0.1, 0.1], 1.0  # the first bound is infinite, and there is nothing to compare with
    for _ in range(3):
        expected.append(expected[-1] * math.sqrt(1 + ratio))
        ratio = expected[-1] / expected[-2]
    assert sizes == pytest.approx(expected)


def test_standing_still_teaches_nothing() -> None:
    """A learning rate of zero, as a schedule may have it, leaves the step size as it is, and the method goes on."""
    p = zeros()
    opt = OASIS([p], exact=False)
    for _ in range(4):
        opt.step(lambda: logistic(p))
    where, opt.param_groups[0]["lr"] = p.detach().clone(), 0.0
    opt.step(lambda: logistic(p))  # still compares with the last movement
    held = dict(opt.param_groups[0]["shared"])
    for _ in range(3):
        opt.step(lambda: logistic(p))
    assert opt.param_groups[0]["shared"] == held
    assert torch.equal(p, where)
    opt.param_groups[0]["lr"] = 1.0
    for _ in range(20):
        opt.step(lambda: logistic(p))
    assert logistic(p.detach()) < logistic(where)


def test_a_tensor_that_was_absent_is_not_compared_with_its_past() -> None:
    """While the second tensor is away the first goes on; the step after its return is measured on the first alone."""
    p, q = zeros(), nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = OASIS([{"params": [p]}, {"params": [q]}], truncation=1.0, exact=False)
    sizes = []
    for step in range(8):
        away = step in (3, 4)
        g = torch.func.grad(logistic)(p.detach())
        if step == 5:
            state, x = opt.state[p], p.detach().clone()
            shared = dict(opt.param_groups[0]["shared"])
            local = float((x - state["previous"]).norm() / (2 * (g - state["previous_grad"]).norm()))
            expected = min(local, shared["step_size"] * math.sqrt(1 + shared["ratio"]))
        p.grad = g
        q.grad = None if away else 100.0 * (step + 1) * q.detach()
        opt.observe([torch.ones(5, dtype=torch.float64), None if away else torch.ones(3, dtype=torch.float64)])
        opt.step()
        sizes.append(opt.param_groups[0]["shared"]["step_size"])
    assert sizes[5] == pytest.approx(expected, rel=1e-12)


class Masked(nn.Module):
    """Remembers the dropout masks of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.last = nn.Linear(8, 1)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.ones(len(x), 8, dtype=x.dtype))
        self.masks.append(h)
        return self.last(torch.tanh(self.norm(self.first(x))) * h)[:, 0]


def masked() -> Masked:
    torch.manual_seed(0)
    return Masked().double()


def loss_of(net: nn.Module, rows: slice) -> Tensor:
    return (net(DATA[rows]) - SIGNS[rows]).square().mean()


def test_the_second_evaluation_sees_the_same_masks_and_leaves_no_trace() -> None:
    net = masked()
    opt = OASIS(net)
    for step in range(4):
        net.masks.clear()
        opt.step(lambda step=step: loss_of(net, slice(8 * step, 8 * step + 8)))
        assert len(net.masks) == (1 if step == 0 else 2)
        assert torch.equal(net.masks[0], net.masks[-1])
        assert int(net.norm.num_batches_tracked) == step + 1


def test_resumes_bit_for_bit() -> None:
    net, twin = masked(), masked()
    opt = OASIS(net)

    def train(net: nn.Module, opt: OASIS, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            opt.step(lambda step=step: loss_of(net, slice(4 * step, 4 * step + 8)))

    train(net, opt, range(4))
    twin.load_state_dict(net.state_dict())
    other = OASIS(twin)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(net, opt, range(4, 8))
    train(twin, other, range(4, 8))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_bad_second_evaluation_changes_nothing() -> None:
    calls = [0]

    def closure() -> Tensor:
        calls[0] += 1
        return logistic(p) * (math.nan if calls[0] == 3 else 1.0)

    for policy in ("skip", "raise"):
        calls[0], p = 0, zeros()
        opt = OASIS([p], nonfinite=policy)
        opt.step(closure)
        before = p.detach().clone()
        if policy == "raise":
            with pytest.raises(FloatingPointError, match="OASIS: a gradient at the previous parameters is not finite"):
                opt.step(closure)
        else:
            opt.step(closure)
            assert opt.skipped_steps == 1
        assert torch.equal(p, before)
        opt.step(closure)
        assert p.isfinite().all()


def test_errors() -> None:
    p = zeros()
    opt = OASIS([p])
    p.grad = torch.ones(5, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"OASIS: exact=True evaluates two gradients per step: call step\(closure\)"):
        opt.step()
    with pytest.raises(RuntimeError, match="OASIS: no curvature was estimated for parameter 0"):
        OASIS([p], exact=False).step()

    def backward() -> Tensor:
        loss = logistic(p)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="OASIS differentiates the loss itself"):
        opt.step(backward)
    with pytest.raises(ValueError, match="OASIS: parameter group 1: truncation must be the same in all groups"):
        OASIS([{"params": [p]}, {"params": [zeros()], "truncation": 1.0}])
    with pytest.raises(ValueError, match=r"OASIS: truncation must be a finite number in \(0, inf\), got 0"):
        OASIS([p], truncation=0)
    frozen = zeros()
    frozen.requires_grad_(False)
    opt = OASIS([p, frozen])
    for _ in range(3):
        opt.step(lambda: logistic(p + frozen))
    assert not frozen.any()
    assert not opt.state.get(frozen)
