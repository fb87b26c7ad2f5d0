"""Losses against autograd, brute force, CVXPY-free closed forms, and the Moreau identity."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steepest.core.losses import LOSSES, Absolute, Hinge, Huber, Logistic, Loss, Squared, SquaredHinge, loss_of

ALL: list[Loss] = [Squared(), Absolute(), Huber(), Huber(0.3), Huber(5.0), Logistic(), Hinge(), SquaredHinge()]
every = pytest.mark.parametrize("loss", ALL, ids=repr)
SMOOTH = [loss for loss in ALL if math.isfinite(loss.curvature)]
smooth = pytest.mark.parametrize("loss", SMOOTH, ids=repr)


def draw(n: int, seed: int, size: float = 2.0) -> Tensor:
    return size * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets(loss: Loss, n: int, seed: int = 1) -> Tensor:
    y = draw(n, seed)
    return y.sign() if loss.margin else y


FORMULAS = {
    Squared(): lambda z, y: 0.5 * (z - y) ** 2,
    Absolute(): lambda z, y: abs(z - y),
    Huber(): lambda z, y: 0.5 * (z - y) ** 2 if abs(z - y) <= 1 else abs(z - y) - 0.5,
    Huber(0.3): lambda z, y: 0.5 * (z - y) ** 2 if abs(z - y) <= 0.3 else 0.3 * abs(z - y) - 0.5 * 0.09,
    Huber(5.0): lambda z, y: 0.5 * (z - y) ** 2 if abs(z - y) <= 5 else 5 * abs(z - y) - 12.5,
    Logistic(): lambda z, y: math.log1p(math.exp(-y * z)),
    Hinge(): lambda z, y: max(0.0, 1 - y * z),
    SquaredHinge(): lambda z, y: 0.5 * max(0.0, 1 - y * z) ** 2,
}


@every
def test_values_are_those_of_the_formula(loss: Loss) -> None:
    z, y = draw(50, 0, 3.0), targets(loss, 50)
    expected = [FORMULAS[loss](a, b) for a, b in zip(z.tolist(), y.tolist(), strict=True)]
    torch.testing.assert_close(loss.value(z, y), torch.tensor(expected, dtype=torch.float64))


@every
def test_the_derivative_is_that_of_autograd(loss: Loss) -> None:
    z, y = draw(200, 2).requires_grad_(), targets(loss, 200)
    (slope,) = torch.autograd.grad(loss.value(z, y).sum(), z)
    torch.testing.assert_close(loss.derivative(z.detach(), y), slope)


@smooth
def test_the_second_derivative_is_that_of_the_first_and_below_the_curvature(loss: Loss) -> None:
    z, y = draw(200, 3).requires_grad_(), targets(loss, 200)
    (slope,) = torch.autograd.grad(loss.derivative(z, y).sum(), z)
    second = loss.second_derivative(z.detach(), y)
    torch.testing.assert_close(second, slope)
    assert (second >= 0).all()
    assert (second <= loss.curvature).all()


@smooth
def test_the_curvature_bounds_the_slope_of_the_derivative_and_is_reached(loss: Loss) -> None:
    z = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    y = torch.ones_like(z)
    rise = loss.derivative(z, y).diff() / z.diff()
    assert rise.max() <= loss.curvature * (1 + 1e-9)
    assert rise.max() >= loss.curvature * (1 - 1e-6)


@pytest.mark.parametrize("loss", [Absolute(), Hinge()], ids=repr)
def test_nonsmooth_losses_say_so_and_give_subgradients_at_the_kink(loss: Loss) -> None:
    assert math.isinf(loss.curvature)
    with pytest.raises(NotImplementedError, match=f"{type(loss).__name__} is not a smooth loss"):
        loss.second_derivative(torch.zeros(1), torch.ones(1))
    kink = torch.ones(1, dtype=torch.float64)  # for the target 1
    slope = loss.derivative(kink, kink)
    around = kink + torch.linspace(-3, 3, 61, dtype=torch.float64)
    assert (loss.value(around, kink) >= loss.value(kink, kink) + slope * (around - kink) - 1e-15).all()


@every
def test_losses_are_convex(loss: Loss) -> None:
    a, b, y = draw(500, 4, 4.0), draw(500, 5, 4.0), targets(loss, 500)
    middle = loss.value(0.5 * (a + b), y)
    assert (middle <= 0.5 * (loss.value(a, y) + loss.value(b, y)) + 1e-14).all()


@every
def test_the_conjugate_is_the_supremum_found_by_search(loss: Loss) -> None:
    y = targets(loss, 12)
    grid = torch.linspace(-60, 60, 240_001, dtype=torch.float64)  # it holds the kinks of margin losses
    for target in y:
        for u in (-3.0, -1.0, -0.4, 0.0, 0.25, 0.9, 1.0, 2.0):
            conjugate = float(loss.conjugate(torch.tensor(u, dtype=torch.float64), target))
            score = u * grid - loss.value(grid, target)
            best, place = float(score.max()), int(score.argmax())
            if math.isinf(conjugate):
                assert place in (0, len(grid) - 1)  # it grows without end
            else:
                assert conjugate >= best - 1e-12
                assert conjugate == pytest.approx(best, abs=3e-4)  # the grid's spacing


@every
def test_fenchel_young_is_an_equality_at_the_derivative(loss: Loss) -> None:
    z, y = draw(200, 6), targets(loss, 200)
    u = loss.derivative(z, y)
    torch.testing.assert_close(loss.value(z, y) + loss.conjugate(u, y), z * u, rtol=1e-10, atol=1e-10)
    other = draw(200, 7)
    assert (loss.value(other, y) + loss.conjugate(u, y) >= other * u - 1e-12).all()


@every
@pytest.mark.parametrize("step", [1e-3, 0.4, 1.0, 30.0])
def test_the_prox_minimizes(loss: Loss, step: float) -> None:
    p, y = draw(20, 8, 3.0), targets(loss, 20)
    found = loss.prox(p, step, y)

    def objective(z: Tensor) -> Tensor:
        return loss.value(z, y) + (z - p).square() / (2 * step)

    for i in range(len(p)):
        peer = scipy.optimize.minimize_scalar(
            lambda z, i=i: FORMULAS[loss](z, float(y[i])) + (z - float(p[i])) ** 2 / (2 * step),
            bounds=(float(p[i]) - 40, float(p[i]) + 40),
            method="bounded",
            options={"xatol": 1e-12},
        )
        assert float(objective(found)[i]) <= peer.fun + 1e-12
        assert float(found[i]) == pytest.approx(peer.x, abs=1e-4)


@every
@given(
    p=st.lists(st.floats(-30, 30), min_size=1, max_size=8),
    step=st.sampled_from([1e-3, 0.1, 1.0, 7.0, 1e3]),
    sign=st.sampled_from([-1.0, 1.0]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_moreau_identity(loss: Loss, p: list[float], step: float, sign: float) -> None:
    """``p = z + t u`` with ``u`` a subgradient at ``z``, which Fenchel-Young's equality certifies."""
    point = torch.tensor(p, dtype=torch.float64)
    y = torch.full_like(point, sign)
    z = loss.prox(point, step, y)
    u = (point - z) / step
    u = torch.where(u.abs() < 1e-300, 0.0, u)
    # u carries the rounding of p - z; where the domain of the conjugate is bounded, that may lead out of it.
    inner = u * (1 - 1e-9)
    defect = loss.value(z, y) + loss.conjugate(inner, y) - z * u
    noise = 1e-13 * point.abs() / step
    scale = 1 + point.abs() + z.abs() * (1 + u.abs()) + loss.value(z, y)
    near = torch.isfinite(defect)
    assert (defect.abs()[near] <= (1e-8 * scale + noise * (1 + z.abs()))[near]).all()
    # Outside of the domain by rounding alone.
    low, high = DOMAINS[type(loss)](loss, sign)
    assert (u >= low - noise - 1e-9).all()
    assert (u <= high + noise + 1e-9).all()


DOMAINS = {
    Squared: lambda loss, sign: (-math.inf, math.inf),
    Absolute: lambda loss, sign: (-1.0, 1.0),
    Huber: lambda loss, sign: (-loss.delta, loss.delta),
    Logistic: lambda loss, sign: (min(0.0, -sign), max(0.0, -sign)),
    Hinge: lambda loss, sign: (min(0.0, -sign), max(0.0, -sign)),
    SquaredHinge: lambda loss, sign: (-math.inf, 0.0) if sign > 0 else (0.0, math.inf),
}


@every
def test_the_prox_takes_a_step_for_each_sample_and_keeps_float32(loss: Loss) -> None:
    p, y, step = draw(6, 9), targets(loss, 6), draw(6, 10).abs() + 0.1
    together = loss.prox(p, step, y)
    one_by_one = torch.stack([loss.prox(p[i], float(step[i]), y[i]) for i in range(6)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=1e-12)
    single = loss.prox(p.float(), step.float(), y.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), together, rtol=1e-5, atol=1e-5)
    for name in ("value", "derivative", "conjugate"):
        assert getattr(loss, name)(p.float(), y.float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_prox_of_the_logistic_loss_converges_where_newtons_method_cycles(dtype: torch.dtype) -> None:
    points = torch.linspace(-200, 200, 401, dtype=dtype)
    loss, y = Logistic(), torch.ones(401, dtype=dtype)
    for step in (1e-6, 0.1, 1.0, 30.0, 1e3, 1e4, 1e6, 1e9):
        z = loss.prox(points, step, y)
        residual = z - points + step * loss.derivative(z, y)
        slope = 1 + step * loss.second_derivative(z, y)
        scale = z.abs() + points.abs() + step * loss.derivative(z, y).abs() + 1
        assert (residual.abs() <= 10 * torch.finfo(dtype).eps * (scale + slope * z.abs())).all()


def test_the_logistic_loss_far_away() -> None:
    z = torch.tensor([1e4, -1e4, 800.0, -800.0], dtype=torch.float64)
    y = torch.ones(4, dtype=torch.float64)
    loss = Logistic()
    torch.testing.assert_close(loss.value(z, y), torch.tensor([0.0, 1e4, 0.0, 800.0], dtype=torch.float64))
    for found in (loss.derivative(z, y), loss.second_derivative(z, y), loss.prox(z, 1.0, y), loss.prox(z, 1e6, y)):
        assert torch.isfinite(found).all()
    torch.testing.assert_close(loss.prox(z, 1.0, y), z + torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64))
    ends = loss.conjugate(torch.tensor([0.0, -1.0, -1.0001, 0.0001], dtype=torch.float64), y)
    assert ends.tolist() == [0.0, 0.0, math.inf, math.inf]
    np.testing.assert_allclose(float(loss.conjugate(torch.tensor(-0.5), torch.tensor(1.0))), -math.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_by_name(name: str) -> None:
    loss = loss_of(name)
    assert type(loss) is LOSSES[name]
    assert loss_of(loss) is loss


def test_bad_losses_and_targets_are_named() -> None:
    with pytest.raises(ValueError, match=r"one of \['absolute', .*got 'logit'"):
        loss_of("logit")
    with pytest.raises(TypeError, match="got 3 of type int"):
        loss_of(3)  # type: ignore[arg-type]
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="delta must be a positive finite number"):
            Huber(bad)
    for loss in ALL:
        if loss.margin:
            loss.check_target(torch.tensor([1, -1]))
            with pytest.raises(
                ValueError, match=rf"{type(loss).__name__} must be -1 or 1, got values such as \[0, 1\]"
            ):
                loss.check_target(torch.tensor([0, 1, 1]))
        else:
            loss.check_target(torch.tensor([0.3, 7.0]))
