"""Instruments against dense derivatives of small models and closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, mse_loss

from steepest.analyze import (
    ascent_sharpness,
    directional_sharpness,
    gradient_noise_scale,
    sharpness,
    spectrum,
)


def setting(n: int = 12) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    model[1].running_mean += 0.1
    x, y = torch.randn(n, 4).double(), torch.randint(3, (n,))
    return model, [(x[:5], y[:5]), (x[5:], y[5:])]


def exact(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    model.eval()
    x, y = (torch.cat(t) for t in zip(*batches, strict=True))
    named = dict(model.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def function(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in named.values()])
        values = {k: v.view_as(p) for (k, p), v in zip(named.items(), parts, strict=True)}
        return cross_entropy(functional_call(model, values, (x,)), y)

    found = hessian(function)(flat)
    model.train()
    return found


def test_spectrum_of_a_small_model_is_the_dense_one() -> None:
    model, batches = setting()
    dense = exact(model, batches)
    values = torch.linalg.eigvalsh(dense)
    found = spectrum(model.train(), cross_entropy, batches, steps=len(dense), probes=30)
    assert found.size == len(dense)
    assert found.largest == pytest.approx(float(values[-1]), rel=1e-6)
    assert found.smallest == pytest.approx(float(values[0]), rel=1e-6)
    assert found.trace == pytest.approx(float(dense.trace()), abs=4 * float(dense.norm()) * (2 / 30) ** 0.5)
    floor = -1e-3 * float(values.abs().max())
    assert found.negative_share == pytest.approx(float((values < floor).double().mean()), abs=0.15)
    assert all(part.training for part in model.modules())
    assert float(model[1].running_mean[0]) == pytest.approx(0.1)


def test_positive_matrices_have_no_negative_eigenvalues() -> None:
    model, batches = setting()
    for matrix in ("gauss-newton", "empirical-fisher"):
        found = spectrum(model, cross_entropy, batches, matrix=matrix, steps=20)
        assert found.smallest > -1e-10
        assert found.negative_share == 0
    axes = found.plot()
    assert axes.get_xlabel() == "eigenvalue of the empirical Fisher matrix"


def test_sharpness_is_the_largest_eigenvalue() -> None:
    model, batches = setting()
    dense = exact(model, batches)
    values, vectors = torch.linalg.eigh(dense)
    found = sharpness(model, cross_entropy, batches, tolerance=1e-8)
    assert found.converged
    assert found.largest == pytest.approx(float(values[-1]), rel=1e-7)
    assert found.smallest == pytest.approx(float(values[0]), rel=1e-6)
    direction = torch.cat([v.reshape(-1) for v in found.direction.values()])
    assert list(found.direction) == [name for name, _ in model.named_parameters()]
    assert abs(float(direction @ vectors[:, -1])) == pytest.approx(1.0, abs=1e-6)


def test_directional_sharpness_is_the_quotient() -> None:
    model, batches = setting()
    dense = exact(model, batches)
    x, y = (torch.cat(t) for t in zip(*batches, strict=True))
    model.eval()
    params = list(model.parameters())
    directions = [[torch.randn_like(p) for p in params] for _ in range(3)]
    found = directional_sharpness(lambda: cross_entropy(model(x), y), params, directions)
    for u, value in zip(directions, found, strict=True):
        flat = torch.cat([v.reshape(-1) for v in u])
        assert value == pytest.approx(float(flat @ dense @ flat / flat.square().sum()), rel=1e-9)
    nothing = [[torch.zeros_like(p) for p in params]]
    assert math.isnan(directional_sharpness(lambda: cross_entropy(model(x), y), params, nothing)[0])


def test_ascent_sharpness_of_a_quadratic() -> None:
    """For ``f(w) = mean (x w - y)^2`` the rise is ``rho |g| + rho^2 u'Hu / 2``."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    x, y = torch.randn(20, 3).double(), torch.randn(20, 1).double()
    start = model.weight.detach().clone()
    residual = x @ start.mT - y
    g = 2 * (residual.mT @ x)[0] / 20
    u = g / g.norm()
    expected = 0.3 * g.norm() + 0.5 * 0.09 * (2 * (x @ u).square().mean())
    assert ascent_sharpness(model, mse_loss, [(x, y)], rho=0.3) == pytest.approx(float(expected))
    assert torch.equal(model.weight, start)
    with pytest.raises(ValueError, match="rho must be"):
        ascent_sharpness(model, mse_loss, [(x, y)], rho=0.0)


def test_the_noise_scale_of_a_known_distribution() -> None:
    """Gradients ``w - a`` of ``|w - a|^2 / 2`` with ``a`` normal: the covariance is that of ``a``."""
    rng = np.random.default_rng(0)
    model = nn.Linear(1, 4, bias=False).double()  # on the input 1, the weights are the outputs
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
    scale = np.array([1.0, 2.0, 0.5, 0.1])
    batches = []
    for _ in range(2000):
        a = torch.from_numpy(rng.normal(size=(8, 4)) * scale)
        batches.append((torch.ones(8, 1).double(), a))
    found = gradient_noise_scale(model, lambda out, a: 0.5 * (out - a).square().sum(1).mean(), batches)
    assert found.variance == pytest.approx(float((scale**2).sum()), rel=0.05)
    assert found.square == pytest.approx(1.0, abs=0.05)
    assert found.batch_size == pytest.approx(float((scale**2).sum()), rel=0.1)
    assert found.samples == 16_000
    with pytest.raises(ValueError, match="at least two pairs"):
        gradient_noise_scale(model, mse_loss, batches[:1])
    short = (batches[1][0][:3], batches[1][1][:3])
    with pytest.raises(ValueError, match=r"of one size, got the sizes \[3, 8\]"):
        gradient_noise_scale(model, mse_loss, [batches[0], short])


def test_a_gradient_hidden_by_noise_has_an_infinite_scale() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    ones = torch.ones(1, 1).double()
    with torch.no_grad():
        model.weight.zero_()
    batches = [(ones, ones), (ones, -ones)]
    assert gradient_noise_scale(model, mse_loss, batches).batch_size == float("inf")


def test_bad_input() -> None:
    model, batches = setting()
    with pytest.raises(ValueError, match="matrix must be one of"):
        spectrum(model, cross_entropy, batches, matrix="fisher")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        spectrum(model, cross_entropy, batches, steps=0)
