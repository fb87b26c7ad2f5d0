"""Learning rates from curvature: dense eigenvalues, the heavy ball's rate, random matrices with a known outcome."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from steepest.core.operators import Hessian
from steepest.optim.schedules import (
    effective_batch,
    extreme_eigenvalue,
    hessian_noise,
    lanczos_learning_rate,
    linear_scaling,
    square_root_scaling,
    stable_learning_rate,
)


def network(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, torch.randn(40, 5).double(), torch.randint(3, (40,))


def dense(operator: Hessian) -> Tensor:
    return torch.stack([operator(unit) for unit in torch.eye(operator.size, dtype=operator.like.dtype)])


def test_the_ends_of_the_spectrum_are_the_dense_ones() -> None:
    model, x, y = network()
    found = lanczos_learning_rate(model, cross_entropy, [(x, y)], steps=57, weight_decay=0.01)
    values = torch.linalg.eigvalsh(dense(Hessian(model, cross_entropy, [(x, y)]))) + 0.01
    assert found.largest == pytest.approx(float(values[-1]), rel=1e-9)
    assert found.smallest == pytest.approx(float(values[0]), rel=1e-6)
    few = lanczos_learning_rate(model, cross_entropy, [(x, y)], steps=12, weight_decay=0.01)
    assert few.largest == pytest.approx(found.largest, rel=1e-2)
    assert few.largest <= found.largest + 1e-12
    assert all(p.grad is None for p in model.parameters())


class Quadratic(nn.Module):
    """``x' A x / 2`` as a squared error: rows of the inputs are the square roots of the eigenvalues."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(size, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.x


def test_on_a_quadratic_the_heavy_ball_has_the_optimal_rate() -> None:
    eigenvalues = torch.linspace(0.02, 4.0, 12, dtype=torch.float64)
    rows, model = torch.diag((eigenvalues * 6).sqrt()), Quadratic(12)
    found = lanczos_learning_rate(model, mse_loss, [(rows, torch.zeros(12, dtype=torch.float64))], steps=12)
    assert found.largest == pytest.approx(4.0)
    assert found.smallest == pytest.approx(0.02)
    root = math.sqrt(4.0 / 0.02)
    rate = (root - 1) / (root + 1)
    assert found.momentum == pytest.approx(rate**2)
    opt = torch.optim.SGD(model.parameters(), lr=found.lr, momentum=found.momentum)
    sizes = []
    for _ in range(240):
        opt.zero_grad()
        mse_loss(model(rows), torch.zeros(12, dtype=torch.float64)).backward()
        opt.step()
        sizes.append(float(model.x.detach().norm()))
    measured = (sizes[239] / sizes[119]) ** (1 / 120)
    assert measured == pytest.approx(rate, abs=0.02)


def test_momentum_and_rate_are_kept_stable() -> None:
    rows = torch.diag(torch.tensor([1e-4, 1.0], dtype=torch.float64))
    batch = [(rows, torch.zeros(2, dtype=torch.float64))]
    free = lanczos_learning_rate(Quadratic(2), mse_loss, batch, max_momentum=0.9999)
    assert free.momentum > 0.99
    found = lanczos_learning_rate(Quadratic(2), mse_loss, batch, max_momentum=0.9)
    assert found.momentum == 0.9
    assert found.lr == pytest.approx(min(free.lr, 2 * 1.9 / found.largest))


def test_the_outlier_formula_on_random_matrices() -> None:
    size, variance, rng = 400, 0.01, np.random.default_rng(0)
    edge = math.sqrt(size * variance)  # 2
    for eigenvalue in (10.0, 4.0, 0.5, -6.0):
        tops = []
        for _ in range(3):
            noise = rng.normal(scale=math.sqrt(variance), size=(size, size))
            noise = (np.triu(noise) + np.triu(noise, 1).T) + 0.0
            noise[0, 0] += eigenvalue
            values = np.linalg.eigvalsh(noise)
            tops.append(values[0] if eigenvalue < 0 else values[-1])
        predicted = extreme_eigenvalue(eigenvalue, noise=size * variance * 5, batch=5)
        assert np.mean(tops) == pytest.approx(predicted, rel=0.04)
        assert (abs(predicted) == 2 * edge) == (abs(eigenvalue) < edge)


def test_the_noise_is_what_the_hessians_of_single_samples_say() -> None:
    model, x, y = network()
    single = torch.stack([dense(Hessian(model, cross_entropy, [(x[i : i + 1], y[i : i + 1])])) for i in range(40)])
    size = single.shape[1]
    exact = float((single - single.mean(0)).square().sum()) / (39 * size)
    for batch in (4, 30):
        estimate = hessian_noise(model, cross_entropy, x, y, batch=batch, pairs=300, seed=1)
        assert estimate == pytest.approx(exact, rel=0.25)
    again = hessian_noise(model, cross_entropy, x, y, batch=4, pairs=5)
    assert again == hessian_noise(model, cross_entropy, x, y, batch=4, pairs=5)


def test_rates_scale_with_the_batch_and_level_off() -> None:
    assert effective_batch(10) == 10
    assert effective_batch(10, 40) == pytest.approx(10 / 0.75)
    assert effective_batch(40, 40) == math.inf
    # Without an outlier above the noise: the root; with one: linear while its noise dominates, then constant.
    edge = [stable_learning_rate(1e-9, 1.0, b) for b in (4, 16)]
    assert edge[1] / edge[0] == pytest.approx(2.0)
    outlier = [stable_learning_rate(1.0, 0.5, b) for b in (10**6, 10**7)]
    assert outlier[1] / outlier[0] == pytest.approx(1.0, abs=1e-5)
    assert stable_learning_rate(2.0, 5.0, 40, 40) == 1.0
    assert linear_scaling(0.1, 32, 256) == pytest.approx(0.8)
    assert square_root_scaling(0.1, 16, 256) == pytest.approx(0.4)
    for scale in (linear_scaling, square_root_scaling):
        assert scale(scale(0.3, 8, 50), 50, 8) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: lanczos_learning_rate(m, cross_entropy, [(x, y)], steps=0), "steps must be an integer >= 1"),
        (
            lambda m, x, y: lanczos_learning_rate(m, cross_entropy, [(x, y)], max_momentum=1.0),
            r"lanczos_learning_rate: max_momentum must be a finite number in \[0, 1\), got 1.0",
        ),
        (lambda m, x, y: lanczos_learning_rate(m, cross_entropy, []), "batches must hold at least one pair"),
        (
            lambda m, x, y: lanczos_learning_rate(m, lambda o, t: -o.square().mean(), [(x, y)], steps=1),
            "the largest eigenvalue must be positive",
        ),
        (
            lambda m, x, y: lanczos_learning_rate(m, lambda o, t: math.inf * o.square().mean(), [(x, y)]),
            "holds NaN or an infinity",
        ),
        (lambda m, x, y: hessian_noise(m, cross_entropy, x, y, batch=40), "batch must be an integer >= 1 and <= 39"),
        (lambda m, x, y: effective_batch(41, 40), "batch must be at most samples = 40, got 41"),
        (lambda m, x, y: extreme_eigenvalue(1.0, -1.0, 4), r"noise must be a finite number in \[0, inf\), got -1.0"),
        (lambda m, x, y: stable_learning_rate(0.0, 0.0, 4), "the extreme eigenvalue must be positive, got 0"),
        (lambda m, x, y: linear_scaling(0.1, 0, 4), "linear_scaling: batch must be an integer >= 1, got 0"),
        (lambda m, x, y: square_root_scaling(0.0, 1, 4), r"lr must be a finite number in \(0, inf\), got 0.0"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*network())
