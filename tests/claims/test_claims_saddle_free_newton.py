"""The sides of saddle-free Newton's claim: derivatives, a real saddle, what tells the Newton methods apart."""

import pytest
import torch
from planted import saddle_free_newton as planted

from steepest.claims import saddle_free_newton as claim
from steepest.claims.claim import Context, Size
from steepest.core.budget import Budget
from steepest.core.problem import SmoothProblem
from steepest.core.stopping import Tolerance
from steepest.solve.convex import SaddleFreeNewton

SCALE = claim._SCALES[Size.SMOKE]


@pytest.fixture
def network() -> claim.Network:
    return claim._problem(SCALE, 3)


def test_derivatives_by_formulas_are_those_of_automatic_differentiation(network: claim.Network) -> None:
    x = network.start(torch.Generator().manual_seed(1)) * 2
    peer = SmoothProblem(network.function)
    torch.testing.assert_close(network.hessian(x), peer.hessian(x), rtol=0, atol=1e-13)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network.hvp(x, direction), peer.hvp(x, direction), rtol=0, atol=1e-12)
    other = -x  # another point, after the Hessian of the first was kept
    torch.testing.assert_close(network.hessian(other), peer.hessian(other), rtol=0, atol=1e-13)
    rows = torch.arange(SCALE.images).expand(2, -1)
    both = torch.stack([x, other])
    torch.testing.assert_close(network.slopes(both, rows), torch.stack([peer.gradient(x), peer.gradient(other)]))
    torch.testing.assert_close(network.objectives(both), torch.stack([peer.value(x), peer.value(other)]))


def test_the_saddle_is_one(network: claim.Network) -> None:
    at = claim.saddle(network, torch.Generator().manual_seed(3))
    assert float(network.gradient(at).norm()) < 1e-7
    assert float(torch.linalg.eigvalsh(network.hessian(at))[0]) < -1e-4


def test_damped_newtons_step_solves_the_raised_system(network: claim.Network) -> None:
    x = network.start(torch.Generator().manual_seed(4))
    hessian, gradient = network.hessian(x), network.gradient(x)
    lowest = float(torch.linalg.eigvalsh(hessian)[0])
    assert lowest < 0
    ends = {}
    for solver in (claim.DampedNewton(), SaddleFreeNewton()):
        state = solver.run(network, x, budget=Budget(steps=1), progress=False).state
        ends[type(solver)] = state.point
        if isinstance(solver, claim.DampedNewton):
            raised = hessian + (state.damping - lowest) * torch.eye(len(x), dtype=x.dtype)
            torch.testing.assert_close(raised @ (state.point - x), -gradient, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(*ends.values())


def test_gradient_descent_is_pytorchs(network: claim.Network) -> None:
    starts = torch.stack([network.start(torch.Generator().manual_seed(seed)) for seed in (1, 2)])
    rates = torch.tensor([0.1, 0.03], dtype=torch.float64)
    _, values = claim.gradient_descent(network, starts, rates, 3, SCALE.images, [1, 2], decay=False)
    for run in range(2):
        p = torch.nn.Parameter(starts[run].clone())
        opt = torch.optim.SGD([p], lr=float(rates[run]), momentum=claim.MOMENTUM)
        for epoch in range(3):
            loss = network.function(p)
            assert float(loss.detach()) == pytest.approx(float(values[epoch, run]), rel=1e-12)
            opt.zero_grad()
            loss.backward()
            opt.step()
        assert float(network.function(p).detach()) == pytest.approx(float(values[3, run]), rel=1e-12)


def test_gradient_descent_returns_the_best_point_that_it_looked_at(network: claim.Network) -> None:
    starts = network.start(torch.Generator().manual_seed(1))[None]
    rates = torch.tensor([30.0], dtype=torch.float64)
    best, values = claim.gradient_descent(network, starts, rates, 5, 20, [1])
    assert float(values.max()) > float(values.min())
    assert float(network.objectives(best)) == float(values.min())


def test_a_run_that_reaches_its_target_ends_there(network: claim.Network) -> None:
    x = network.start(torch.Generator().manual_seed(1))
    target = 0.9 * float(network.value(x))
    end, values = claim._newton(SaddleFreeNewton(), network, x, Budget(steps=50), Tolerance(value=target))
    assert values[-1] <= target < values[-2]
    assert float(network.value(end)) == values[-1]


def test_the_experiment_measures_what_the_rule_reads() -> None:
    assert set(planted.WINNER) <= set(claim.measure(Context(Size.SMOKE)).figures)
