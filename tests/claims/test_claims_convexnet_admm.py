"""What the claim of ADMM for convex ReLU networks measures is what it says."""

import math

import pytest
import torch

from steepest.claims import convexnet_admm as claim
from steepest.train.convexnet import TwoLayerReLU, nonconvex_objective, with_bias


def _part(samples: int = 30, features: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, features, dtype=torch.float64, generator=source)
    return inputs, torch.sign(inputs[:, 0] * inputs[:, 1])


@pytest.mark.parametrize("who", ["SGD", "Adam", "L-BFGS"])
def test_inits_side_by_side_are_as_if_alone(who: str) -> None:
    setting = {"SGD": 0.01, "Adam": 0.01, "L-BFGS": 5}[who]
    together = claim.descend(who, setting, _part(), 6, [7, 8], 3)
    alone = claim.descend(who, setting, _part(), 6, [7], 3)
    assert together[0] == pytest.approx(alone[0], rel=1e-9)
    assert together[0] != pytest.approx(together[1], rel=1e-3)


def test_rivals_minimize_the_objective_of_the_network() -> None:
    part, width = _part(), 6
    found = claim.descend("SGD", 1e-12, part, width, [7], 1)[0]  # stands still
    source = torch.Generator().manual_seed(7)
    network = TwoLayerReLU(4, width, bias=True, dtype=torch.float64)
    with torch.no_grad():
        hidden = torch.randn(5, width, dtype=torch.float64, generator=source) * math.sqrt(2 / 5)
        network.hidden.weight.copy_(hidden.T)
        network.output.weight.copy_(torch.randn(1, width, dtype=torch.float64, generator=source) / math.sqrt(width))
    wanted = nonconvex_objective(network, *part, "squared", claim.PENALTY)
    assert found == pytest.approx(float(wanted.detach()), rel=1e-6)


def test_a_run_that_diverges_has_a_number() -> None:
    assert claim.descend("SGD", 1e3, _part(), 6, [7, 8], 3) == [claim.DIVERGED] * 2
    assert claim._spread([1.0, claim.DIVERGED]) == claim.DIVERGED


def test_the_program_has_a_bias_and_the_samples_asked_for() -> None:
    part = _part()
    found = claim.program(part, 20, 5, 3)
    assert torch.equal(found.design, with_bias(part[0][:20], True))
    assert found.shape[1] <= 5
    assert torch.equal(found.target[:, 0], part[1][:20])


def test_more_patterns_never_raise_the_optimum_and_known_ones_never_lower_it() -> None:
    pytest.importorskip("clarabel")
    optima, chances = claim.saturation(_part(12, 6), 12, (2, 8, 300), 1)
    assert optima[0] >= optima[1] * (1 - 1e-6) >= optima[2] * (1 - 2e-6)
    assert chances[0] > 0.2
    assert chances[2] < 0.1


def test_a_gap_of_no_network_is_told() -> None:
    pytest.importorskip("clarabel")
    reached, gaps = claim.rate(claim.program(_part(), 20, 5, 3), 15)
    assert reached[-1] is None
    assert [k for k, _ in gaps] == sorted(k for k, _ in gaps)
    assert all(gap > 0 for _, gap in gaps)
