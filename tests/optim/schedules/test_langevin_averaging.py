"""Langevin averaging: the closed form of Brownian motion on the sphere, the drift's average, and the contract."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from steepest.optim import GradientNoise, NormClip
from steepest.optim.gradient_noise import gaussian
from steepest.optim.schedules import LangevinAveraging


def points(count: int, size: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=draw, dtype=torch.float64).requires_grad_()


def run(opt: Any, x: Tensor, gradient: Any, steps: int) -> None:
    for _ in range(steps):
        x.grad = gradient(x.detach())
        opt.step()


def test_a_step_is_the_equations() -> None:
    x = points(4, 3)
    opt = LangevinAveraging(SGD([x], lr=0.06), drift=3.0, seed=7)
    theta, total = x.detach().numpy().copy(), 0.0
    assert np.allclose((theta**2).sum(1), 1)
    for step in range(5):
        g = np.cos(3 * theta + step)
        x.grad = torch.tensor(g)
        xi = gaussian([x.grad], 7, step)[0].numpy()
        h = 0.06 / 3.0
        v = -h * 3.0 * g + math.sqrt(h) * xi
        v -= theta * (theta * v).sum(1, keepdims=True)
        theta = (theta + v) / np.linalg.norm(theta + v, axis=1, keepdims=True)
        total = total + h * theta
        opt.step()
        assert np.allclose(x.detach().numpy(), theta, rtol=1e-12)
        assert np.allclose(opt.averages()[0].numpy(), total / (h * (step + 1)), rtol=1e-12)
    assert torch.allclose(x.norm(dim=-1), torch.ones(4, dtype=torch.float64))


def test_without_a_loss_it_is_brownian_motion_on_the_sphere() -> None:
    """There coordinates are an Ornstein-Uhlenbeck-like process: E theta(t) = exp(-(d - 1) t / 2) theta(0)."""
    size, h, steps = 4, 0.004, 80
    x = points(1, size).detach().repeat(8000, 1).requires_grad_()
    opt = LangevinAveraging(SGD([x], lr=h))
    start = x.detach()[0].clone()
    run(opt, x, torch.zeros_like, steps)
    time = h * steps
    middle = x.detach().mean(0)
    expected = math.exp(-(size - 1) * time / 2)
    assert float(middle @ start) == pytest.approx(expected, abs=0.015)
    assert float((middle - (middle @ start) * start).norm()) < 0.02
    # Along the start the second moment is 1/d + (1 - 1/d) exp(-d t).
    along = float((x.detach() @ start).square().mean())
    assert along == pytest.approx(1 / size + (1 - 1 / size) * math.exp(-size * time), abs=0.015)


def test_the_average_of_pure_noise_dies_like_two_over_the_root_of_size_and_time() -> None:
    size, h, steps = 8, 0.02, 1500
    x = points(400, size)
    opt = LangevinAveraging(SGD([x], lr=h))
    run(opt, x, torch.zeros_like, steps)
    squares = opt.averages()[0].square().sum(1)
    assert float(squares.mean()) == pytest.approx(4 / ((size - 1) * h * steps), rel=0.15)


def test_a_weak_drift_averages_to_its_mean_over_the_sphere() -> None:
    """For the loss -<u, theta>: d E theta = (-(d - 1)/2 E theta + eps E P u) dt, so the average is 2 eps u / d."""
    size, drift, h = 6, 0.5, 0.02
    u = torch.nn.functional.normalize(torch.arange(1.0, 1 + size, dtype=torch.float64), dim=0)
    x = points(300, size)
    opt = LangevinAveraging(SGD([x], lr=h * drift), drift=drift)
    run(opt, x, lambda theta: -u.expand_as(theta).clone(), 600)
    average = opt.averages()[0].mean(0)
    # E P u = (1 - 1/d) u up to order eps.
    assert float(average @ u) == pytest.approx(2 * drift / size, rel=0.1)
    assert float(torch.nn.functional.normalize(average, dim=0) @ u) > 0.99


def test_an_even_loss_needs_the_second_moment() -> None:
    size, drift, h = 5, 1.0, 0.02
    u = torch.nn.functional.normalize(torch.tensor([3.0, -1.0, 2.0, 0.5, 1.0], dtype=torch.float64), dim=0)
    x = points(100, size)
    opt = LangevinAveraging(SGD([x], lr=h * drift), drift=drift, second_moment=True)
    run(opt, x, lambda theta: -2 * (theta @ u)[:, None] * u, 800)
    moment = opt.second_moments()[0]
    assert torch.allclose(moment.diagonal(dim1=-2, dim2=-1).sum(-1), torch.ones(100, dtype=torch.float64))
    pooled = torch.linalg.eigh(moment.mean(0)).eigenvectors[:, -1]
    assert abs(float(pooled @ u)) > 0.98
    assert float(opt.averages()[0].mean(0).norm()) < 0.1
    directions = opt.directions()[0]
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(100, dtype=torch.float64))
    found = torch.einsum("ni,nij,nj->n", directions, moment, directions)
    torch.testing.assert_close(found, torch.linalg.eigvalsh(moment)[:, -1])


def test_it_goes_with_groups_schedules_other_transforms_and_frozen_parameters() -> None:
    first, second, still = points(1, 3).detach()[0].requires_grad_(), points(2, 4), points(1, 5)
    opt = LangevinAveraging(NormClip(SGD([{"params": [first]}, {"params": [second], "lr": 0.0}], lr=0.1), math.inf))
    opt.add_param_group({"params": [still]})
    assert float(still.detach().norm()) == pytest.approx(1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: 1.0 / (1 + k))
    path = []
    for _ in range(3):
        first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
        opt.step()
        path.append(first.detach().clone())
        schedule.step()
    second_state = opt.state[second]["time"]
    assert float(second_state) == 0
    assert torch.allclose(second, torch.nn.functional.normalize(points(2, 4).detach(), dim=1))
    with pytest.raises(RuntimeError, match="parameter 0 of group 1 has not been moved yet"):
        opt.averages()
    weights = torch.tensor([1.0, 1 / 2, 1 / 3], dtype=torch.float64)
    expected = (weights[:, None] * torch.stack(path)).sum(0) / weights.sum()
    state = opt.state[first]
    assert torch.allclose(state["integral"] / state["time"], expected)


def test_save_and_resume_is_bit_exact() -> None:
    def make(x: Tensor) -> LangevinAveraging:
        return LangevinAveraging(SGD([x], lr=0.05), drift=2.0, second_moment=True, seed=3)

    def gradient(theta: Tensor) -> Tensor:
        return torch.sin(4 * theta)

    x = points(3, 4)
    opt = make(x)
    run(opt, x, gradient, 4)
    y = x.detach().clone().requires_grad_()
    other = LangevinAveraging(SGD([y], lr=1.0))
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    state = torch.get_rng_state()
    run(opt, x, gradient, 5)
    run(other, y, gradient, 5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, y)
    assert torch.equal(opt.averages()[0], other.averages()[0])
    assert torch.equal(opt.directions()[0], other.directions()[0])


def test_the_noise_is_that_of_gradient_noise() -> None:
    x = torch.zeros(5, requires_grad=True)
    opt = GradientNoise(SGD([x], lr=1.0), eta=4.0, gamma=0.0, seed=11)
    x.grad = torch.zeros(5)
    opt.step()
    assert torch.equal(x.detach(), -2.0 * gaussian([torch.zeros(5)], 11, 0)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: LangevinAveraging(SGD([x], lr=0.1, momentum=0.9)), "must be torch.optim.SGD with momentum=0"),
        (lambda x: LangevinAveraging(torch.optim.Adam([x])), "must be torch.optim.SGD"),
        (lambda x: LangevinAveraging(SGD([x], lr=0.1), drift=0.0), r"drift must be a finite number in \(0, inf\)"),
        (lambda x: LangevinAveraging(SGD([x], lr=0.1), seed=-1), "seed must be an integer >= 0"),
        (lambda x: LangevinAveraging(SGD([x.detach().half()], lr=0.1)), "in float32 or float64"),
        (lambda x: LangevinAveraging(SGD([torch.ones(3, 1)], lr=0.1)), "at least two dimensions"),
        (lambda x: LangevinAveraging(SGD([torch.zeros(3)], lr=0.1)), "a point must not be 0 or NaN"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(points(2, 3))
    with pytest.raises(TypeError, match="second_moment must be True or False"):
        LangevinAveraging(SGD([points(2, 3)], lr=0.1), second_moment=1)  # type: ignore[arg-type]


def test_second_moments_must_have_been_asked_for() -> None:
    x = points(2, 3)
    opt = LangevinAveraging(SGD([x], lr=0.1))
    run(opt, x, torch.zeros_like, 1)
    with pytest.raises(RuntimeError, match="second moments are averaged with second_moment=True only"):
        opt.second_moments()


def test_a_nonfinite_gradient_harms_its_own_point_alone() -> None:
    x, y = points(3, 4), points(3, 4)
    opt, other = (LangevinAveraging(SGD([p], lr=0.1), seed=2) for p in (x, y))
    run(other, y, torch.cos, 2)
    x.grad = torch.cos(x.detach())
    x.grad[1, 0] = math.nan
    opt.step()
    x.grad = torch.cos(x.detach())
    opt.step()
    assert torch.equal(x[[0, 2]], y[[0, 2]])
    assert torch.equal(opt.averages()[0][[0, 2]], other.averages()[0][[0, 2]])
    assert x[1].isnan().all()
