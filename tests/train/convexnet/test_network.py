"""Networks, and recovery of one from blocks: its objective must equal the convex one."""

import math

import pytest
import torch

from steepest.train.convexnet import (
    TwoLayerReLU,
    activation_patterns,
    nonconvex_objective,
    recover,
    recover_gated,
    sample_patterns,
    with_bias,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bias", [False, True])
def test_the_network_is_what_its_formula_says(bias: bool) -> None:
    network = TwoLayerReLU(3, 5, 2, bias=bias, dtype=torch.float64)
    x = normal(7, 3)
    u, a = network.hidden.weight, network.output.weight
    expected = torch.zeros(7, 2, dtype=torch.float64)
    for j in range(5):
        inner = x @ u[j, :3] + (u[j, 3] if bias else 0)
        expected = expected + inner.clamp_min(0)[:, None] * a[:, j]
    torch.testing.assert_close(network(x), expected)
    assert u.shape == (5, 3 + bias)
    torch.testing.assert_close(network.squared_weights(), (u**2).sum() + (a**2).sum())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge"])
def test_the_recovered_networks_objective_equals_the_convex_one(bias: bool, outputs: int | None, loss: str) -> None:
    x, penalty = normal(25, 4), 0.3
    design = with_bias(x, bias)
    patterns = sample_patterns(design, 9, torch.Generator().manual_seed(1))
    # A positive multiple of the gate lies in the cone; so do combinations of gates that share the pattern.
    scale = normal(2, len(patterns), outputs or 1, seed=2).clamp_min(0)
    v, w = scale[:, :, None, :] * patterns.gates[None, :, :, None]
    target = torch.sign(normal(25, outputs or 1, seed=3))
    if outputs is None:
        v, w, target = v[..., 0], w[..., 0], target[:, 0]
    network = recover(v, w, bias=bias)
    fit = torch.einsum("np,nd,pdk->nk", patterns.active.double(), design, (v - w).reshape(len(patterns), 4 + bias, -1))
    y = target.reshape(25, -1)
    value = {
        "squared": 0.5 * (fit - y).square(),
        "logistic": torch.log1p(torch.exp(-y * fit)),
        "hinge": (1 - y * fit).clamp_min(0),
    }[loss].sum()
    norms = sum(torch.linalg.vector_norm(b.reshape(len(patterns), 4 + bias, -1), dim=1).sum() for b in (v, w))
    found = float(nonconvex_objective(network, x, target, loss, penalty).detach())
    assert found == pytest.approx(float(value + penalty * norms), rel=1e-12)
    torch.testing.assert_close(network(x), fit)
    assert network.width == int((scale > 0).sum())


def test_recovery_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    recover(torch.ones(4, 3), torch.ones(4, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_zero_blocks_give_a_zero_network_of_one_neuron() -> None:
    zero = torch.zeros(4, 3)
    network = recover(zero, zero)
    assert (network.width, float(network.squared_weights())) == (1, 0.0)
    assert torch.equal(network(torch.ones(2, 3)), torch.zeros(2, 1))
    assert recover_gated(zero, torch.ones(4, 3)).width == 1


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_gated_networks_objective_has_the_nuclear_norms(outputs: int) -> None:
    x, penalty = normal(20, 5), 0.7
    patterns = sample_patterns(x, 6, torch.Generator().manual_seed(1))
    blocks = normal(len(patterns), 5, outputs, seed=4)
    blocks[2] = 0
    network = recover_gated(blocks, patterns.gates)
    fit = torch.einsum("np,nd,pdk->nk", patterns.active.double(), x, blocks)
    torch.testing.assert_close(network(x), fit)
    y = normal(20, outputs, seed=5)
    expected = 0.5 * (fit - y).square().sum() + penalty * torch.linalg.matrix_norm(blocks, "nuc").sum()
    assert float(nonconvex_objective(network, x, y, "squared", penalty)) == pytest.approx(float(expected), rel=1e-12)
    if outputs == 1:
        assert float(network.squared_weights()) / 2 == pytest.approx(float(blocks.norm(dim=1).sum()), rel=1e-12)


def test_the_balanced_scaling_is_the_best_one() -> None:
    # No rescaling of a neuron (u -> c u, a -> a / c) lowers the objective of a recovered network.
    x = normal(10, 3)
    gate = normal(1, 3, seed=1)
    network = recover(2.5 * gate, 0 * gate)
    y = network(x).detach()
    best = float(nonconvex_objective(network, x, y, "squared", 1.0))
    assert best == pytest.approx(2.5 * float(gate.norm()))
    for c in (0.5, 0.9, 1.1, 3.0):
        with torch.no_grad():
            other = recover(2.5 * gate, 0 * gate)
            other.hidden.weight.mul_(c)
            other.output.weight.div_(c)
        assert float(nonconvex_objective(other, x, y, "squared", 1.0)) > best


def test_the_objective_takes_any_elementwise_loss_and_has_gradients() -> None:
    network = TwoLayerReLU(2, 4, dtype=torch.float64)
    x, y = normal(6, 2), normal(6, seed=1)
    own = nonconvex_objective(network, x, y, lambda z, t: 0.5 * (z - t) ** 2, 0.1)
    assert float(own) == float(nonconvex_objective(network, x, y, "squared", 0.1))
    own.backward()
    assert network.hidden.weight.grad is not None


def test_bad_input_is_named() -> None:
    network = TwoLayerReLU(2, 4)
    with pytest.raises(ValueError, match="target must fit"):
        nonconvex_objective(network, torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="penalty"):
        nonconvex_objective(network, torch.ones(3, 2), torch.ones(3), penalty=math.nan)
    with pytest.raises(ValueError, match="elementwise"):
        nonconvex_objective(network, torch.ones(3, 2), torch.ones(3), lambda z, t: z.sum())
    with pytest.raises(ValueError, match="v and w"):
        recover(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="width"):
        TwoLayerReLU(2, 0)
    assert len(activation_patterns(torch.ones(3, 2), torch.ones(1, 2))) == 1
