"""Thermodynamic natural gradient descent against the laws of the Ornstein-Uhlenbeck process."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.core.gram import GramSpectrum
from steepest.optim import ExactGaussNewton, ThermodynamicNaturalGradient
from steepest.optim.thermodynamic import evolve, evolve_euler


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(6, 4, generator=g, dtype=torch.float64), torch.randint(3, (6,), generator=g)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def process(d: int = 5, m: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    rows = torch.randn(m, d, generator=g, dtype=torch.float64)
    F = 0.3 * torch.eye(d, dtype=torch.float64) + rows.T @ rows / m
    return rows, F, *torch.randn(2, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("time", [0.0, 0.7, 4.0, math.inf])
def test_mean_is_that_of_the_matrix_exponential(time: float) -> None:
    rows, F, g, y = process()
    decay = torch.matrix_exp(-F * time) if time < math.inf else torch.zeros_like(F)
    solution = torch.linalg.solve(F, g)
    found = evolve(GramSpectrum(rows, 0.3), g, y, time)
    torch.testing.assert_close(found, decay @ (y - solution) + solution)


@pytest.mark.parametrize("time", [0.5, math.inf])
def test_covariance_is_exact(time: float) -> None:
    """The noise is a linear map of standard normal numbers, whose square is the covariance."""
    rows, F, g, y = process()
    spectrum = GramSpectrum(rows, 0.3)
    mean = evolve(spectrum, g, y, time)
    units = torch.eye(5, dtype=torch.float64)
    root = torch.stack([evolve(spectrum, g, y, time, 0.2, e) - mean for e in units], 1)
    rest = torch.matrix_exp(-2 * F * time) if time < math.inf else torch.zeros_like(F)
    torch.testing.assert_close(root @ root.T, 0.2 * torch.linalg.solve(F, units - rest))


def test_many_runs_of_eulers_method_have_this_mean_and_covariance() -> None:
    rows, F, g, y = process()
    runs = torch.stack([evolve_euler(rows, 3, 0.3, g, y, 0.6, 0.2, 0.01, (0, k)) for k in range(600)])
    mean = evolve(GramSpectrum(rows, 0.3), g, y, 0.6)
    covariance = 0.2 * torch.linalg.solve(F, torch.eye(5).double() - torch.matrix_exp(-2 * F * 0.6))
    error = (runs.mean(0) - mean) / (covariance.diagonal() / len(runs)).sqrt()
    assert error.abs().max() < 3.5  # standard errors; the bias of dt = 0.01 is below one
    torch.testing.assert_close(torch.cov(runs.T), covariance, rtol=0.2, atol=0.02)


def test_euler_converges_to_the_exact_mean_at_first_order() -> None:
    rows, _, g, y = process()
    exact = evolve(GramSpectrum(rows, 0.3), g, y, 1.0)
    errors = [float((evolve_euler(rows, 3, 0.3, g, y, 1.0, 0.0, dt, ()) - exact).norm()) for dt in (0.02, 0.01, 0.005)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("simulation", ["exact", "euler"])
def test_no_time_is_gradient_descent(simulation: str) -> None:
    model, twin = net(), net()
    opt = ThermodynamicNaturalGradient(model, lr=0.1, time=0.0, warm_start=False, momentum=0.9, simulation=simulation)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    x, y = batch()
    for _ in range(3):
        opt.step(x, y)
        sgd.zero_grad()
        functional.cross_entropy(twin(x), y).backward()
        sgd.step()
    torch.testing.assert_close(flat(model), flat(twin))


@pytest.mark.parametrize("loss", ["cross-entropy", "squared", "binary", functional.cross_entropy])
@pytest.mark.parametrize("warm_start", [True, False])
def test_endless_time_is_exact_gauss_newton(loss: object, warm_start: bool) -> None:
    model, twin = net(), net()
    x, y = batch()
    if loss in ("squared", "binary"):
        y = functional.one_hot(y, 3).double()
    for opt in (
        ThermodynamicNaturalGradient(model, loss, lr=0.3, damping=0.05, time=math.inf, warm_start=warm_start),  # type: ignore[arg-type]
        ExactGaussNewton(twin, loss, lr=0.3, damping=0.05),  # type: ignore[arg-type]
    ):
        for _ in range(3):
            opt.step(x, y)
    torch.testing.assert_close(flat(model), flat(twin), rtol=1e-7, atol=1e-8)


def test_a_warm_start_continues_and_a_delay_runs_on() -> None:
    """At lr = 0 the problem stays: two steps of t, or one with a delay, are one of the total time."""
    x, y = batch()

    def last(times: int, **settings: float) -> Tensor:
        model = net()
        opt = ThermodynamicNaturalGradient(model, lr=0.0, damping=0.1, **settings)  # type: ignore[arg-type]
        for _ in range(times - 1):
            opt.step(x, y)
        opt.param_groups[0]["lr"] = 1.0
        start = flat(model)
        opt.step(x, y)
        return flat(model) - start

    whole = last(1, time=3.0)
    torch.testing.assert_close(last(3, time=1.0), whole)
    torch.testing.assert_close(last(2, time=1.0, delay=1.0), whole)
    torch.testing.assert_close(last(3, time=3.0, warm_start=False), whole)


def test_noise_depends_on_seed_and_step() -> None:
    def ends(**settings: float) -> Tensor:
        model = net()
        opt = ThermodynamicNaturalGradient(model, temperature=0.1, **settings)  # type: ignore[arg-type]
        for _ in range(2):
            opt.step(*batch())
        return flat(model)

    assert torch.equal(ends(), ends())
    assert not torch.equal(ends(), ends(seed=1))
    assert torch.equal(ends(simulation="euler", time=1.0), ends(simulation="euler", time=1.0))  # type: ignore[arg-type]


def test_every_step_and_the_delay_have_noise_of_their_own() -> None:
    """After an endless time the state is the solution and the noise, whatever it was before."""
    model = net()
    opt = ThermodynamicNaturalGradient(model, lr=0.0, damping=1.0, time=math.inf, temperature=0.5, delay=1e6)
    held = []
    for _ in range(2):
        opt.step(*batch())
        held.append(torch.cat([opt.state[p]["device"].reshape(-1) for p in model.parameters()]))
    start, opt.param_groups[0]["lr"] = flat(model), 1.0
    opt.step(*batch())
    held += [torch.cat([opt.state[p]["device"].reshape(-1) for p in model.parameters()]), start - flat(model)]
    for k, a in enumerate(held):
        for b in held[:k]:  # independent, of variances up to 1/2
            assert float((a - b).square().mean()) == pytest.approx(1.0, rel=0.5)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"ThermodynamicNaturalGradient: damping must be a finite number in \(0, inf\)"
    ):
        ThermodynamicNaturalGradient(net(), damping=0.0)
    with pytest.raises(ValueError, match=r"time must be a number in \[0, inf\], got -1"):
        ThermodynamicNaturalGradient(net(), time=-1.0)
    opt = ThermodynamicNaturalGradient(net(), time=math.inf, simulation="euler")
    with pytest.raises(ValueError, match="simulation='euler' needs a finite time, got inf"):
        opt.step(*batch())
