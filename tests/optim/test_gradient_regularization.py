"""Gradient regularization: finite differences and double backpropagation against each other and closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from steepest.optim import GradientRegularization, NormClip, gradient_regularized_sgd

MODES = ("forward", "backward", "double-backprop")
modes = pytest.mark.parametrize("mode", MODES)


def used(mode: str, gamma: float, eps: float, x: nn.Parameter, function: Any, **group: Any) -> Tensor:
    """The gradient that the base gets."""
    before = x.detach().clone()
    opt = GradientRegularization(SGD([x], lr=1.0, **group), gamma, eps, mode)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = function(x)
        opt.backward(loss) if mode == "double-backprop" else loss.backward()
        return loss

    opt.step(closure)
    found = before - x.detach()
    x.data.copy_(before)
    return found


@modes
@pytest.mark.parametrize("eps", [1e-2, 1.0, 30.0])
def test_for_quadratic_losses_all_are_the_hessian_times_the_gradient(mode: str, eps: float) -> None:
    a = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = a + a.T  # indefinite
    x = nn.Parameter(torch.linspace(-1, 2, 5, dtype=torch.float64))
    g = h @ x.detach()
    found = used(mode, 0.7, eps, x, lambda x: 0.5 * x @ h @ x)
    torch.testing.assert_close(found, g + 0.7 * h @ g, rtol=1e-11, atol=1e-11)


def test_a_cubic_has_the_known_difference() -> None:
    """L = x^3: R_F - R_B = eps L''' g^2 = 6 eps (3 x^2)^2, and their mean is exact."""
    x = nn.Parameter(torch.tensor([0.8], dtype=torch.float64))
    gamma, eps, g = 0.3, 0.2, 3 * 0.8**2
    forward, backward, exact = (used(mode, gamma, eps, x, lambda x: (x**3).sum()).item() for mode in MODES)
    assert forward - backward == pytest.approx(gamma * 6 * eps * g**2, rel=1e-12)
    assert (forward + backward) / 2 == pytest.approx(exact, rel=1e-12)
    assert exact == pytest.approx(g + gamma * 6 * 0.8 * g, rel=1e-12)


def test_small_steps_tend_to_double_backpropagation() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    x = nn.Parameter(torch.randn(3 * 4 + 4, dtype=torch.float64))

    def function(x: Tensor) -> Tensor:
        return (torch.tanh(inputs @ x[:12].reshape(3, 4)) @ x[12:] - targets).square().mean()

    exact = used("double-backprop", 0.5, 1.0, x, function)
    (penalized,) = torch.autograd.grad(
        function(x)
        + 0.25 * torch.autograd.grad(loss := function(x), x, create_graph=True)[0].square().sum()
        + 0 * loss,
        x,
    )
    torch.testing.assert_close(exact, penalized, rtol=1e-12, atol=1e-13)
    for mode in ("forward", "backward"):
        errors = [float((used(mode, 0.5, eps, x, function) - exact).norm()) for eps in (1e-2, 1e-3, 1e-4)]
        assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
        assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_flooding_is_the_forward_difference() -> None:
    """One step up and one step down move by -lr^2 R_F(lr)."""
    rate = 0.1
    x = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))

    def function(x: Tensor) -> Tensor:
        return x.pow(4).sum() + x.prod()

    up = x.detach() + rate * torch.autograd.grad(function(x), x)[0]
    up.requires_grad_()
    down = up.detach() - rate * torch.autograd.grad(function(up), up)[0]
    (g,) = torch.autograd.grad(function(x), x)
    penalty = used("forward", 1.0, rate, x, function) - g
    torch.testing.assert_close(down - x.detach(), -(rate**2) * penalty, rtol=1e-10, atol=1e-13)


@modes
def test_where_the_base_maximizes_the_penalty_still_falls(mode: str) -> None:
    """Maximizing f is minimizing -f, for all modes."""
    x = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))

    def function(x: Tensor) -> Tensor:
        return x.pow(4).sum() + x.prod()

    down = used(mode, 0.3, 0.2, x, lambda x: -function(x))
    up = used(mode, 0.3, 0.2, x, function, maximize=True)
    torch.testing.assert_close(up, down, rtol=1e-12, atol=1e-13)


@modes
def test_without_strength_it_is_the_base_and_no_second_evaluation_is_made(mode: str) -> None:
    x, y = (nn.Parameter(torch.tensor([0.5, -1.0])) for _ in range(2))
    opt = gradient_regularized_sgd([x], lr=0.1, gamma=0.0, mode=mode)
    bare = SGD([y], lr=0.1, momentum=0.9)
    calls = []

    def closure() -> None:
        calls.append(1)
        opt.zero_grad()
        loss = x.pow(4).sum()
        opt.backward(loss) if mode == "double-backprop" else loss.backward()

    for _ in range(3):
        opt.step(closure)
        bare.zero_grad()
        y.pow(4).sum().backward()
        bare.step()
    assert torch.equal(x, y)
    assert len(calls) == 3


def test_double_backpropagation_without_a_closure_and_its_products_are_used_once() -> None:
    x = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    unused = nn.Parameter(torch.ones(1))
    opt = GradientRegularization(AdamW([x, frozen, unused], lr=0.1), 0.5, mode="double-backprop")
    assert not opt.closure_required
    x.pow(2).sum().backward()
    with pytest.raises(TypeError, match="call optimizer"):
        opt.step()
    opt.zero_grad()
    opt.backward(x.pow(2).sum())
    assert x.grad.tolist() == [2.0, 4.0]
    assert unused.grad is None
    opt.step()
    assert x.grad.tolist() == [2.0, 4.0]
    with pytest.raises(TypeError, match="call optimizer"):
        opt.step()
    opt.zero_grad()
    opt.step()
    opt.backward(x.pow(2).sum())
    opt.zero_grad()
    assert "_products" not in opt.__dict__


def test_double_backpropagation_adds_up_over_parts_of_a_batch() -> None:
    """Gradients accumulate, and so do the products: each part is penalized by itself."""
    x = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    opt = NormClip(GradientRegularization(SGD([x], lr=1.0), 0.1, mode="double-backprop"), float("inf"))
    for power in (2, 3):
        opt.base.backward(x.pow(power).sum())
    x0 = x.detach().clone()
    opt.step()
    expected = 2 * x0 + 3 * x0**2 + 0.1 * (2 * 2 * x0 + 6 * x0 * 3 * x0**2)
    torch.testing.assert_close(x0 - x.detach(), expected)


def test_bad_settings() -> None:
    p = [nn.Parameter(torch.ones(2))]
    for settings, words in (
        ({"gamma": -1.0}, r"gamma must be a finite number in \[0, inf\), got -1.0"),
        ({"eps": 0.0}, r"eps must be a finite number in \(0, inf\), got 0.0"),
        ({"mode": "central"}, "mode must be one of 'forward', 'backward', 'double-backprop', got 'central'"),
    ):
        with pytest.raises(ValueError, match=f"GradientRegularization: {words}"):
            gradient_regularized_sgd(p, **settings)
    with pytest.raises(ValueError, match="backward is for mode='double-backprop'"):
        gradient_regularized_sgd(p).backward(p[0].sum())
