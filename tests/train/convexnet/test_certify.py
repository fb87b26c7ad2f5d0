"""Certificates of networks that were trained by something else."""

import pytest
import torch

pytest.importorskip("cvxpy")
import reference

from steepest.train.convexnet import (
    ConvexProgram,
    TwoLayerGatedReLU,
    TwoLayerReLU,
    certify,
    enumerate_patterns,
    nonconvex_objective,
    sample_patterns,
    with_bias,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def train(network: TwoLayerReLU, x: torch.Tensor, y: torch.Tensor, loss: str, penalty: float, steps: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        nonconvex_objective(network, x, y, loss, penalty).backward()
        optimizer.step()


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge"])
def test_the_bound_lies_below_the_global_optimum_and_the_gap_closes_with_training(loss: str) -> None:
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    y = torch.sign(torch.sin(5 * x[:, 0]))
    patterns = enumerate_patterns(with_bias(x))
    optimum = reference.optimum(ConvexProgram(with_bias(x), y, patterns, loss, 0.1))
    torch.manual_seed(0)
    network = TwoLayerReLU(1, 40, bias=True, dtype=torch.float64)
    gaps = []
    for steps in (0, 30, 1500):
        train(network, x, y, loss, 0.1, steps)
        found = certify(network, x, y, loss, 0.1, patterns, budget="1500steps")
        assert found.patterns == len(patterns)
        assert found.bound <= optimum * (1 + 1e-6)
        assert found.best >= optimum * (1 - 1e-6)
        assert found.objective >= optimum * (1 - 1e-6)
        assert found.gap >= found.objective - optimum - 1e-6
        assert found.bound == pytest.approx(optimum, rel=0.02)
        gaps.append(found.gap)
    assert gaps[2] < gaps[1] < gaps[0]


def test_without_patterns_it_is_about_the_networks_own() -> None:
    x, y = normal(20, 3), normal(20, seed=1)
    torch.manual_seed(1)
    network = TwoLayerReLU(3, 6, dtype=torch.float64)
    own = certify(network, x, y, "squared", 0.5)
    more = certify(network, x, y, "squared", 0.5, sample_patterns(x, 20, torch.Generator().manual_seed(0)))
    assert own.patterns <= 6 < more.patterns
    assert own.objective == more.objective
    assert more.bound <= own.best + 1e-6
    assert own.excess > 0


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_a_gated_network_of_several_outputs(loss: str) -> None:
    x, y = normal(30, 3), torch.sign(normal(30, 2, seed=1))
    gates = normal(5, 3, seed=2)
    torch.manual_seed(0)
    network = TwoLayerGatedReLU(gates, 2)
    found = certify(network, x, y, loss, 0.5)
    from steepest.train.convexnet import activation_patterns

    program = ConvexProgram(x, y, activation_patterns(x, gates), loss, 0.5, gated=True, joint=True)
    optimum = reference.optimum(program)
    assert found.bound <= optimum * (1 + 1e-7)
    assert found.bound == pytest.approx(optimum, rel=1e-3)
    assert found.gap >= found.objective - optimum


def test_several_outputs_share_neurons_and_the_bound_allows_for_it() -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    wave = torch.sin(3 * x)
    y = torch.cat([wave, wave], 1)  # equal outputs: one neuron for both is cheaper than two
    patterns = enumerate_patterns(with_bias(x))
    torch.manual_seed(0)
    network = TwoLayerReLU(1, 30, 2, bias=True, dtype=torch.float64)
    train(network, x, y, "squared", 0.1, 3000)
    separate = reference.optimum(ConvexProgram(with_bias(x), y, patterns, "squared", 0.1))
    found = certify(network, x, y, "squared", 0.1, patterns)
    assert found.objective < separate  # so the program of separate outputs is no bound for such a network
    assert found.bound <= found.objective
    # Equal outputs are one output of sqrt(2) times the target and the output weights.
    single = reference.optimum(ConvexProgram(with_bias(x), wave * 2**0.5, patterns, "squared", 0.1))
    assert found.bound <= single * (1 + 1e-6)
    assert found.objective >= single * (1 - 1e-6)
    assert found.bound >= 0.5 * single
