"""Proved worst cases against brute force: grids, corners, sign patterns and attacks."""

import itertools
import math

import pytest
import torch

from steepest.train.convexnet import (
    TwoLayerGatedReLU,
    TwoLayerReLU,
    certified_accuracy,
    certified_radius,
    output_range,
    pgd,
    worst_case_loss,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network_of(inputs: int, width: int, seed: int = 0, bias: bool = True) -> TwoLayerReLU:
    network = TwoLayerReLU(inputs, width, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        network.hidden.weight.copy_(normal(width, inputs + bias, seed=seed))
        network.output.weight.copy_(normal(1, width, seed=seed + 1))
    return network


def grid(x: torch.Tensor, radius: float, clip: tuple[float, float] | None, points: int = 201) -> torch.Tensor:
    axes = [torch.linspace(float(v) - radius, float(v) + radius, points, dtype=x.dtype) for v in x]
    found = torch.cartesian_prod(*axes).reshape(-1, len(x))
    return found if clip is None else found.clamp(*clip)


@pytest.mark.parametrize("clip", [None, (-0.5, 0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_the_exact_range_is_that_of_a_fine_grid(clip: tuple[float, float] | None, seed: int) -> None:
    network, x = network_of(2, 7, seed), (normal(6, 2, seed=9) * 0.3).clamp(-0.5, 0.5)
    exact = output_range(network, x, 0.4, clip=clip, method="exact")
    linear = output_range(network, x, 0.4, clip=clip)
    assert bool(exact.exact.all())
    assert int(exact.unstable.sum()) > 5
    for k in range(len(x)):
        values = network(grid(x[k], 0.4, clip)).detach()
        # Extremes lie on vertices of a partition; a grid of step 0.004 is within slope times step of them.
        assert float(exact.low[k]) <= float(values.min()) <= float(exact.low[k]) + 0.05
        assert float(exact.high[k]) >= float(values.max()) >= float(exact.high[k]) - 0.05
    assert bool((linear.low <= exact.low + 1e-7).all() and (linear.high >= exact.high - 1e-7).all())


def test_the_exact_range_is_that_of_all_sign_patterns() -> None:
    from scipy.optimize import linprog

    network, x, r = network_of(4, 6, 5), normal(3, 4, seed=2), 0.6
    u, a = network.hidden.weight.detach().numpy(), network.output.weight.detach().numpy()[0]
    found = output_range(network, x, r, method="exact")
    for k, one in enumerate(x.numpy()):
        ends = []
        for signs in itertools.product((0, 1), repeat=6):
            rows = [(1 - 2 * s) * w[:4] for s, w in zip(signs, u, strict=True)]
            limits = [(2 * s - 1) * w[4] for s, w in zip(signs, u, strict=True)]
            cost = sum(s * c * w for s, c, w in zip(signs, a, u, strict=True))
            if not any(signs):
                cost = 0 * u[0]
            solved = linprog(cost[:4], A_ub=rows, b_ub=limits, bounds=[(v - r, v + r) for v in one])
            if solved.status == 0:
                ends.append(solved.fun + cost[4])
        assert float(found.low[k]) == pytest.approx(min(ends), abs=1e-7)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_where_no_neuron_changes_its_sign_the_lines_are_exact_for_every_norm(norm: float) -> None:
    network = network_of(3, 8, 1)
    x = normal(20, 3, seed=4)
    inner = network.design(x) @ network.hidden.weight.detach().mT
    radius = 0.9 * float((inner.abs().amin(1) / network.hidden.weight.detach()[:, :3].abs().sum(1).max()).median())
    found = output_range(network, x, radius, norm=norm)
    assert int(found.exact.sum()) >= 10
    for k in torch.nonzero(found.exact)[:, 0].tolist():
        moved = x[k].clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(moved).sum(), moved)
        q = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}[norm]
        reach = radius * float(torch.linalg.vector_norm(slope, ord=q))
        value = float(network(x[k]).detach())
        assert float(found.low[k]) == pytest.approx(value - reach, rel=1e-9)
        assert float(found.high[k]) == pytest.approx(value + reach, rel=1e-9)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0, 3.0])
def test_no_attack_gets_past_the_bounds(norm: float) -> None:
    network, x, y = network_of(5, 30, 3), normal(40, 5), torch.sign(normal(40, seed=1))
    for radius in (0.05, 0.3, 1.0):
        bound = worst_case_loss(network, x, y, radius, "logistic", norm=norm)
        found = pgd(network, x, y, radius, loss="logistic", norm=norm)
        attacked = torch.nn.functional.softplus(-y * network(found).detach()[:, 0])
        assert bool((attacked <= bound.each + 1e-12).all())
        certificate = certified_accuracy(network, x, y, radius, norm=norm)
        assert not bool((certificate.robust & (y * network(found).detach()[:, 0] <= 0)).any())
        assert certificate.method == "linear"


def test_the_exact_certificate_decides_every_sample_and_agrees_with_a_strong_attack() -> None:
    network, x, y = network_of(3, 10, 7), normal(30, 3), torch.sign(normal(30, seed=1))
    for radius in (0.05, 0.2):
        exact = certified_accuracy(network, x, y, radius, method="exact")
        linear = certified_accuracy(network, x, y, radius)
        assert exact.exact
        assert exact.accuracy >= linear.accuracy
        found = pgd(network, x, y, radius, loss="logistic", steps=100, restarts=20)
        broken = y * network(found).detach()[:, 0] <= 0
        assert torch.equal(~broken, exact.robust)
        assert exact.accuracy == float(exact.robust.double().mean())


def test_the_worst_squared_loss_looks_at_both_ends() -> None:
    # f(x) = relu(x) - relu(-x) = x in one dimension: worst residual |x - y| + r.
    network = TwoLayerReLU(1, 2, dtype=torch.float64)
    with torch.no_grad():
        network.hidden.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network.output.weight.copy_(torch.tensor([[1.0, -1.0]]))
    x, y = torch.tensor([[0.3], [-2.0]], dtype=torch.float64), torch.tensor([1.0, -2.5], dtype=torch.float64)
    found = worst_case_loss(network, x, y, 0.2, "squared")
    torch.testing.assert_close(found.each, torch.tensor([0.5 * 0.9**2, 0.5 * 0.7**2], dtype=torch.float64))
    assert found.total == pytest.approx(float(found.each.sum()))


def test_certified_radii_of_a_linear_classifier_are_distances() -> None:
    # relu(w.x + b) - relu(-w.x - b) = w.x + b, but its two neurons flip at the boundary, so it is linear before it.
    w, b = torch.tensor([0.6, -0.8], dtype=torch.float64), 0.25
    network = TwoLayerReLU(2, 2, bias=True, dtype=torch.float64)
    with torch.no_grad():
        network.hidden.weight.copy_(torch.stack([torch.cat([w, w.new_tensor([b])])] * 2) * torch.tensor([[1.0], [-1]]))
        network.output.weight.copy_(torch.tensor([[1.0, -1.0]]))
    x = normal(25, 2)
    f = x @ w + b
    y = torch.sign(f)
    y[:3] *= -1
    for norm, q in ((math.inf, 1.4), (2.0, 1.0)):
        found = certified_radius(network, x, y, largest=5.0, norm=norm, accuracy=1e-6)
        torch.testing.assert_close(found[3:], f.abs()[3:] / q, rtol=0, atol=1e-5)
        assert torch.equal(found[:3], torch.zeros(3, dtype=torch.float64))


def test_a_certified_radius_is_certified_and_capped() -> None:
    network, x, y = network_of(4, 20, 1), normal(30, 4), torch.sign(normal(30, seed=1))
    found = certified_radius(network, x, y, largest=0.2)
    for k in torch.nonzero(found)[:, 0].tolist():
        assert bool(certified_accuracy(network, x[k : k + 1], y[k : k + 1], float(found[k])).robust)
    assert float(found.max()) == 0.2


def test_too_few_parts_give_a_bound_that_is_not_called_exact() -> None:
    network, x = network_of(6, 30, 2), normal(2, 6)
    few, many = (output_range(network, x, 0.8, method="exact", parts=p) for p in (1, 5000))
    assert not bool(few.exact.any())
    assert bool((few.low <= many.low + 1e-9).all())
    assert bool((few.high >= many.high - 1e-9).all())


def test_zero_radius_is_the_output_itself() -> None:
    network, x = network_of(4, 10), normal(6, 4)
    found = output_range(network, x, 0.0)
    torch.testing.assert_close(found.low, network(x).detach()[:, 0])
    torch.testing.assert_close(found.high, found.low)
    assert bool(found.exact.all())


def test_bad_input_is_named() -> None:
    network, x, y = network_of(2, 3), normal(4, 2), torch.ones(4)
    with pytest.raises(ValueError, match="adversarial_radius"):
        output_range(network, x, -1.0)
    with pytest.raises(ValueError, match=r"exact.*norm=inf"):
        output_range(network, x, 0.1, norm=2.0, method="exact")
    with pytest.raises(ValueError, match="clip"):
        output_range(network, x, 0.1, clip=(0.0, 0.1))
    with pytest.raises(ValueError, match="-1 or 1"):
        certified_accuracy(network, x, 2 * y, 0.1)
    with pytest.raises(ValueError, match="one output"):
        output_range(TwoLayerReLU(2, 3, 2), x, 0.1)
    with pytest.raises(TypeError, match="gated"):
        output_range(TwoLayerGatedReLU(torch.ones(2, 2)), x, 0.1)
    with pytest.raises(ValueError, match="features must be"):
        output_range(network, normal(4, 3), 0.1)
    with pytest.raises(ValueError, match="4 samples"):
        worst_case_loss(network, x, torch.ones(3), 0.1)
