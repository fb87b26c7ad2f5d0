"""SANIA against its equations, rescaled features, the model that it solves, Polyak's step and Newton's method."""

import copy
import math
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters
from torch import Tensor, nn

from steepest.optim import SANIA, SANIANewton
from steepest.optim.sania import polyak_factor

FEATURES = torch.randn(60, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SIGNS = torch.sign(FEATURES[:, 0] - FEATURES[:, 3])


def logistic(design: Tensor, x: Tensor, rows: Any = slice(None)) -> Tensor:
    return nn.functional.softplus(-SIGNS[rows] * (design[rows] @ x)).mean()


def vector(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["adam", "adagrad", "identity"])
def test_paper(kind: Any) -> None:
    """Thirty steps in float64; two groups with factors and decays of their own, and one decrement of both."""
    params = parameters(((3, 4), (5,)))
    own = ({"lr": 0.5, "weight_decay": 0.1}, {"lr": 1.0, "weight_decay": 0.0})
    opt = SANIA(
        [{"params": [p], **o} for p, o in zip(params, own, strict=True)], preconditioner=kind, f_star=0.2, cap=0.9
    )
    numbers = [p.detach().numpy().copy() for p in params]
    v: list[Any] = [0.0, 0.0]
    losses = np.random.default_rng(0).uniform(0.0, 4.0, 30)
    losses[4] = 100.0
    for t, (grads, loss) in enumerate(zip(gradients(params, 30), losses, strict=True), start=1):
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        opt.step(loss=float(loss))
        gs = [g.numpy() for g in grads]
        if kind == "adagrad":
            v = [a + g**2 for a, g in zip(v, gs, strict=True)]
            b = v
        elif kind == "adam":
            v = [0.999 * a + 0.001 * g**2 for a, g in zip(v, gs, strict=True)]
            b = [a / (1 - 0.999**t) for a in v]
        else:
            b = [np.ones_like(g) for g in gs]
        decrement = sum((g**2 / m).sum() for g, m in zip(gs, b, strict=True))
        u = max(0.0, loss - 0.2) / decrement
        factor = u if kind == "identity" else (1 - math.sqrt(1 - 2 * u) if 2 * u <= 1 else 1.0)
        for k in range(2):
            step = min(factor, 0.9) * gs[k] / b[k] + own[k]["weight_decay"] * numbers[k]
            numbers[k] = numbers[k] - own[k]["lr"] * step
            np.testing.assert_allclose(params[k].detach().numpy(), numbers[k], rtol=1e-9)


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_the_scales_of_the_features_do_not_matter(kind: Any) -> None:
    """Columns times 10^U(-4, 4): the same losses to rounding, on mini-batches of a linear model from zero."""
    generator = torch.Generator().manual_seed(2)
    scales = 10.0 ** (8 * torch.rand(8, generator=generator, dtype=torch.float64) - 4)
    found = []
    for design in (FEATURES, FEATURES * scales):
        x = vector(*[0.0] * 8)
        opt = SANIA([x], preconditioner=kind)
        losses = []
        for step in range(60):
            rows = slice(step % 5 * 12, step % 5 * 12 + 12)
            opt.zero_grad()
            loss = logistic(design, x, rows)
            loss.backward()
            losses.append(float(opt.step(loss=loss)))
        found.append(losses)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    assert found[0][-1] < 0.5 * found[0][0]


def test_the_model_is_zero_at_the_step() -> None:
    """f + <g, d> + <d, B d> / 2 = f* for d = x' - x, and d is the shortest such step: a multiple of B^-1 g."""
    x = vector(0.3, -0.2, 0.7)
    opt = SANIA([x], preconditioner="adagrad", f_star=0.05)
    v = torch.zeros(3, dtype=torch.float64)
    for step in range(5):
        before = x.detach().clone()
        g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) * (step + 1)
        loss = 0.3 + 0.05 * step
        x.grad = g.clone()
        opt.step(loss=loss)
        v += g * g
        d = x.detach() - before
        assert float(loss + g @ d + 0.5 * d @ (v * d)) == pytest.approx(0.05, abs=1e-14)
        ratio = d * v / g
        torch.testing.assert_close(ratio, ratio[:1].expand(3), rtol=1e-9, atol=0)


def test_the_root_has_its_digits_for_small_losses() -> None:
    getcontext().prec = 60
    for u in (1e-15, 1e-9, 1e-4, 0.3, 0.5):
        exact = 1 - (1 - 2 * Decimal(u)).sqrt()
        assert float(polyak_factor(torch.tensor(u, dtype=torch.float64), torch.ones(1).double())) == pytest.approx(
            float(exact), rel=1e-13
        )
    assert polyak_factor(torch.tensor(0.7), torch.tensor(1.0)) == 1
    assert polyak_factor(torch.tensor(0.7), torch.tensor(0.0)) == 0
    assert polyak_factor(torch.tensor(-0.7), torch.tensor(1.0)) == 0


def test_identity_is_the_stochastic_polyak_step() -> None:
    x, y = vector(*[0.0] * 8), torch.zeros(8, dtype=torch.float64)
    opt = SANIA([x], preconditioner="identity", cap=3.0)
    for step in range(20):
        rows = slice(step % 5 * 12, step % 5 * 12 + 12)
        loss, g = (f(lambda z, rows=rows: logistic(FEATURES, z, rows))(y) for f in (lambda f: f, torch.func.grad))

        def closure(rows: slice = rows) -> Tensor:
            opt.zero_grad()
            value = logistic(FEATURES, x, rows)
            value.backward()
            return value

        opt.step(closure)
        y = y - min(3.0, float(loss / g.square().sum())) * g
        assert_close([x], [y], 1e-10)


def test_coordinates_that_were_never_touched_stay() -> None:
    x = vector(1.0, 2.0, 3.0)
    opt = SANIA([x])
    for _ in range(3):
        x.grad = torch.tensor([0.5, 0.0, 1e-200], dtype=torch.float64)  # the square of the last one is zero
        opt.step(loss=1.0)
    assert x[0] < 1
    assert torch.equal(x[1:], torch.tensor([2.0, 3.0], dtype=torch.float64))
    for g in (torch.zeros(3, dtype=torch.float64), None):
        before = x.detach().clone()
        x.grad = g
        opt.step(loss=1.0)
        assert torch.equal(x, before)


def test_at_the_target_it_stays_and_maximizing_is_minimizing_the_negative() -> None:
    x, y = vector(1.0, 2.0), vector(1.0, 2.0)
    down, up = SANIA([x], f_star=0.5), SANIA([y], f_star=-0.5, maximize=True)
    for loss in (2.0, 1.0, 0.6):
        x.grad, y.grad = torch.ones(2).double(), -torch.ones(2).double()
        down.step(loss=loss)
        up.step(loss=torch.tensor(-loss, dtype=torch.float64))
        assert torch.equal(x, y)
    before = x.detach().clone()
    down.step(loss=0.5)
    down.step(loss=0.1)
    assert torch.equal(x, before)


def test_a_group_that_comes_later_and_a_gradient_that_is_missing() -> None:
    """The decrement is of the tensors that have gradients; the bias correction counts the optimizer's steps."""
    x, y = vector(1.0), vector(5.0)
    opt = SANIA([x], beta2=0.9)
    x.grad = torch.ones(1).double()
    opt.step(loss=0.1)
    opt.add_param_group({"params": [y], "lr": 0.5})
    before = x.detach().clone()
    x.grad, y.grad = torch.ones(1).double(), torch.full((1,), 2.0).double()
    opt.step(loss=0.3)
    weight = 1 - 0.9**2
    metric = (1.0, 0.1 * 4 / weight)
    decrement = 1 + 4 / metric[1]
    factor = 1 - math.sqrt(1 - 2 * 0.3 / decrement)
    assert float(before - x) == pytest.approx(factor)
    assert float(5 - y) == pytest.approx(0.5 * factor * 2 / metric[1])
    x.grad = None
    before = x.detach().clone()
    opt.step(loss=0.3)
    assert torch.equal(x, before)


def test_needs_the_loss() -> None:
    x = vector(1.0)
    x.grad = torch.ones(1).double()
    with pytest.raises(TypeError, match=r"SANIA needs the loss: call step\(closure\) .* or step\(loss=loss\)"):
        SANIA([x]).step()
    with pytest.raises(
        ValueError, match="SANIA: preconditioner must be one of 'adam', 'adagrad', 'identity', got 'rms'"
    ):
        SANIA([x], preconditioner="rms")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"SANIA: cap must be a number in \(0, inf\], got 0"):
        SANIA([x], cap=0)


# ------------------------------------------------------------------------------------------------ Newton


def spd(size: int = 6) -> Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("probes", [0, 3])
def test_one_step_solves_a_quadratic(probes: int) -> None:
    h, best = spd(), torch.arange(6.0, dtype=torch.float64)
    x, y = vector(0.0, 0.0), vector(1.0, 2.0, 3.0, 4.0)  # two groups
    opt = SANIANewton([{"params": [x]}, {"params": [y]}], max_products=60, tolerance=1e-13, probes=probes)

    def closure() -> Tensor:
        d = torch.cat([x, y]) - best
        return 0.5 * d @ h @ d

    opt.step(closure)
    # The square root in the factor has only half of the digits where it is zero.
    assert_close([torch.cat([x, y])], [best], 1e-6)
    assert 6 <= opt.hessian_products <= 12 + probes


def test_damping_is_added_to_the_hessian() -> None:
    h, x = spd(), vector(*range(6))
    start = x.detach().clone()
    SANIANewton([x], max_products=60, tolerance=1e-13, damping=0.7, f_star=-1e9).step(lambda: 0.5 * x @ h @ x)
    whole = torch.linalg.solve(h + 0.7 * torch.eye(6).double(), h @ start)  # the factor is 1
    assert_close([start - x.detach()], [whole], 1e-9)


def test_linear_maps_of_the_parameters_do_not_matter() -> None:
    mix = spd(8) + torch.triu(torch.ones(8, 8, dtype=torch.float64))
    found = []
    for v in (torch.eye(8, dtype=torch.float64), mix):
        x = vector(*[0.0] * 8)
        opt = SANIANewton([x], max_products=40, tolerance=1e-12)
        found.append([float(opt.step(lambda v=v, x=x: logistic(FEATURES @ v, x))) for _ in range(6)])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert found[0][-1] < 0.3 * found[0][0]


def test_negative_curvature_is_guarded() -> None:
    """At a maximum along the gradient the step goes along the gradient, with the absolute curvature."""
    x = vector(0.5, 0.0)
    opt = SANIANewton([x], f_star=-10.0)
    opt.step(lambda: -(x[0] ** 2) + x[1] ** 2)
    # g = -1, |curvature| = 2: s = -1/2, the decrement 1/2; 2u > 1, so the factor is 1.
    assert_close([x], [torch.tensor([1.0, 0.0], dtype=torch.float64)])
    flat = vector(1.0)
    SANIANewton([flat], f_star=0.5).step(lambda: flat.sum())  # no curvature: the gradient itself; u = 1/2
    assert float(flat.detach()) == pytest.approx(0.0)


def test_the_preconditioner_is_hutchinsons_and_the_state_resumes() -> None:
    x, y = vector(*[0.0] * 8), vector(*[0.0] * 8)
    opt = SANIANewton([x], probes=2, max_products=2)

    def run(p: nn.Parameter, o: SANIANewton, count: int) -> None:
        for _ in range(count):
            o.step(lambda: logistic(FEATURES, p))

    run(x, opt, 3)
    y.data.copy_(x.data)
    twin = SANIANewton([y], probes=2, max_products=2)
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    run(x, opt, 3)
    run(y, twin, 3)
    assert torch.equal(x, y)
    # Preconditioned CG with the exact diagonal of a diagonal matrix needs one product.
    scales = 10.0 ** torch.linspace(-3, 3, 8, dtype=torch.float64)
    z = vector(*[1.0] * 8)
    once = SANIANewton([z], probes=1, max_products=1)
    once.step(lambda: 0.5 * (scales * z.square()).sum())
    assert float(z.detach().abs().max()) < 1e-6


def test_newton_errors_frozen_and_bad_values() -> None:
    x, frozen = vector(1.0, 2.0), vector(3.0)
    frozen.requires_grad_(False)
    opt = SANIANewton([x, frozen])
    with pytest.raises(TypeError, match=r"SANIANewton differentiates the loss itself: call step\(closure\)"):
        opt.step()

    def backward() -> Tensor:
        loss = (x.square() + frozen).sum().square()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="SANIANewton differentiates the loss itself"):
        opt.step(backward)
    opt.step(lambda: (x * frozen).square().sum())
    assert float(frozen) == 3.0
    assert float(opt.step(lambda: (vector(2.0) ** 2).sum())) == 4.0  # of none of its parameters
    assert opt.skipped_steps == 0
    skipping = SANIANewton([x], nonfinite="skip")
    before = x.detach().clone()
    skipping.step(lambda: (x * math.nan).sum())
    assert skipping.skipped_steps == 1
    assert torch.equal(x, before)
    with pytest.raises(ValueError, match="SANIANewton: parameter group 1: damping must be the same in all groups"):
        SANIANewton([{"params": [x]}, {"params": [frozen], "damping": 1.0}])
