"""SAM's diffusion: Ornstein-Uhlenbeck processes, finite differences, closed forms of the flow, and the optimizers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from steepest.analyze import SAMDiffusion
from steepest.optim import DNSAM, SAM, USAM

VARIANTS = ("SAM", "USAM", "DNSAM")
variants = pytest.mark.parametrize("variant", VARIANTS)
DRAW = torch.Generator().manual_seed(0)
ROWS, TARGETS = torch.randn(6, 3, generator=DRAW, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
DATA = {"rows": ROWS, "target": TARGETS}
POINTS = torch.randn(4, 3, generator=DRAW, dtype=torch.float64)


def loss(x: Tensor, sample: Any) -> Tensor:
    """With curvature that differs from sample to sample, and a third derivative."""
    z = sample["rows"] @ x
    return torch.log1p(torch.exp(-sample["target"] * z)) + 0.1 * z**2


H = torch.tensor([2.0, 0.5], dtype=torch.float64)


def bowl(x: Tensor, noise: Tensor) -> Tensor:
    """A quadratic with additive noise."""
    return 0.5 * (H * x * x).sum() + noise @ x


NOISE = torch.tensor([[1.0, 0.3], [-1.0, -0.3], [0.2, -0.6], [-0.2, 0.6]], dtype=torch.float64)
NOTHING = torch.zeros(1, 2, dtype=torch.float64)


def test_without_rho_it_is_an_ornstein_uhlenbeck_process() -> None:
    """Mean e^(-H t) x0, covariance eta S_ij (1 - e^(-(h_i + h_j) t)) / (h_i + h_j)."""
    eta, time, runs = 0.2, 1.5, 20_000
    start = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    diffusion = SAMDiffusion(bowl, NOISE, rho=0.0)
    end = diffusion.simulate(start.repeat(runs, 1), eta, time, substeps=10)
    s = NOISE.T @ NOISE / len(NOISE)
    torch.testing.assert_close(diffusion.covariance(start)[0], s)
    sums = H[:, None] + H[None]
    covariance = eta * s * (1 - torch.exp(-sums * time)) / sums
    mean = torch.exp(-H * time) * start[0]
    error = 4 * covariance.diagonal().sqrt() / math.sqrt(runs) + 0.02 * mean.abs()  # of sampling, and of the scheme
    assert ((end.mean(0) - mean).abs() < error).all()
    torch.testing.assert_close(torch.cov(end.T), covariance, rtol=0.06, atol=1e-3)


@variants
def test_drift_by_finite_differences_of_the_regularized_loss(variant: str) -> None:
    """SAM: f + rho E|g|; USAM: f + rho/2 E|g|^2; DNSAM with additive noise: f + rho |grad f|."""
    rho, step = 0.3, 1e-5
    additive = variant == "DNSAM"
    function, samples, points = (bowl, NOISE, POINTS[:, :2]) if additive else (loss, DATA, POINTS)
    diffusion = SAMDiffusion(function, samples, rho, variant)

    def regularized(x: Tensor) -> Tensor:
        g = diffusion.gradients(x)
        value = torch.func.vmap(torch.func.vmap(function, (None, 0)), (0, None))(x, samples).mean(1)
        return (
            value
            + {
                "SAM": rho * g.norm(dim=-1).mean(1),
                "USAM": rho / 2 * g.square().sum(-1).mean(1),
                "DNSAM": rho * g.mean(1).norm(dim=-1),
            }[variant]
        )

    slopes = [
        (regularized(points + step * e) - regularized(points - step * e)) / (2 * step)
        for e in torch.eye(points.shape[1], dtype=torch.float64)
    ]
    torch.testing.assert_close(-diffusion.drift(points), torch.stack(slopes, 1), rtol=1e-7, atol=1e-8)


@variants
def test_drift_and_noise_are_those_of_one_step_to_first_order(variant: str) -> None:
    """Mean and covariance of the method's move, over all samples, by autograd at the moved points."""
    x = POINTS[:1]
    errors = []
    for rho in (1e-2, 1e-3):
        diffusion = SAMDiffusion(loss, DATA, rho, variant)
        g = diffusion.gradients(x)[0]
        divisor = {"SAM": g.norm(dim=1, keepdim=True), "USAM": 1.0, "DNSAM": g.mean(0).norm()}[variant]
        moved = (x + rho * g / divisor).clone().requires_grad_()
        total = sum(loss(moved[i], {"rows": ROWS[i], "target": TARGETS[i]}) for i in range(6))
        (there,) = torch.autograd.grad(total, moved)
        spread = torch.cov(there.T, correction=0)
        errors.append(
            (
                float((diffusion.drift(x)[0] + there.mean(0)).norm()),
                float((diffusion.covariance(x)[0] - spread).norm()),
            )
        )
    for large, small in zip(*errors, strict=True):
        assert large / small == pytest.approx(100, rel=0.1)


def test_the_noise_that_is_drawn_has_that_covariance() -> None:
    """One step of the scheme from one point."""
    rho, eta, runs = 0.05, 0.1, 40_000
    diffusion = SAMDiffusion(loss, DATA, rho, "USAM")
    x = POINTS[:1]
    end = diffusion.simulate(x.repeat(runs, 1), eta, eta, substeps=1)
    torch.testing.assert_close(torch.cov(end.T) / eta**2, diffusion.covariance(x)[0], rtol=0.05, atol=0.01)
    assert torch.equal(end[:5], diffusion.simulate(x.repeat(runs, 1), eta, eta, substeps=1)[:5])
    assert not torch.equal(end, diffusion.simulate(x.repeat(runs, 1), eta, eta, substeps=1, seed=1))


def test_balanced_runs_have_the_same_law_and_means_without_noise() -> None:
    """On a quadratic the mean of balanced runs is that of the noiseless recursion, to rounding."""
    eta, runs = 0.1, 4000
    start = torch.tensor([[1.0, -2.0]], dtype=torch.float64).repeat(runs, 1)
    diffusion = SAMDiffusion(bowl, NOISE, 0.0)
    for make in (
        lambda balanced: diffusion.method(start, eta, 10, balanced=balanced),
        lambda balanced: diffusion.simulate(start, eta, 1.0, substeps=1, balanced=balanced),
    ):
        even, free = make(True), make(False)
        torch.testing.assert_close(even.mean(0), start[0] * (1 - eta * H) ** 10, rtol=1e-10, atol=1e-12)
        assert (free.mean(0) - even.mean(0)).abs().max() > 1e-5
        torch.testing.assert_close(torch.cov(even.T), torch.cov(free.T), rtol=0.15, atol=2e-3)
    once = torch.stack([diffusion.method(start[:1], eta, 1, seed=k, balanced=True)[0] for k in range(400)])
    assert len(once.unique(dim=0)) == 4  # of one run alone, too, all samples are drawn


@variants
def test_the_flow_of_a_quadratic(variant: str) -> None:
    """USAM: x e^(-h (1 + rho h) t); SAM in one dimension: h x + rho h sign(x), until it arrives."""
    rho, time = 0.2, 0.4
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    end = SAMDiffusion(bowl, NOTHING, rho, variant).flow(start, time, steps=30)[0]
    h = float(H[0])
    expected = math.exp(-h * (1 + rho * h) * time) if variant == "USAM" else (1 + rho) * math.exp(-h * time) - rho
    assert end[0].item() == pytest.approx(expected, rel=1e-7)
    assert end[1].item() == 0.0


@variants
def test_full_batches_follow_the_flow(variant: str) -> None:
    """With rho fixed up to the method's own O(rho^2), the difference is linear in the step size."""
    start = POINTS[:2, :2]
    rho = 0.05
    diffusion = SAMDiffusion(bowl, NOTHING, rho, variant)  # quadratic: the flow has no error in rho
    flow = diffusion.flow(start, 0.5, steps=30)
    errors = [float((diffusion.method(start, 0.5 / n, n) - flow).norm()) for n in (15, 30, 60)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


@variants
def test_the_method_is_the_optimizer(variant: str) -> None:
    """The same draws of samples: two runs side by side, and each by the optimizer."""
    rho, eta, steps = 0.3, 0.1, 6
    diffusion = SAMDiffusion(loss, DATA, rho, variant)
    together = diffusion.method(POINTS[:1], eta, steps, seed=3)
    from steepest.core.random import generator

    draw = generator(torch.device("cpu"), "sam", 3)
    x = nn.Parameter(POINTS[0].clone())
    base = SGD([x], lr=eta)
    opt = {"SAM": SAM, "USAM": USAM, "DNSAM": DNSAM}[variant](base, rho)
    for _ in range(steps):
        row = int(torch.randint(6, (1,), generator=draw))
        if variant == "DNSAM":
            opt.full_norm = float(diffusion.gradients(x.detach()[None])[0].mean(0).norm())

        def closure(row: int = row) -> Tensor:
            opt.zero_grad()
            value = loss(x, {"rows": ROWS[row], "target": TARGETS[row]})
            value.backward()
            return value

        opt.step(closure)
    torch.testing.assert_close(together[0], x.detach(), rtol=1e-10, atol=1e-12)


def test_bad_settings() -> None:
    for settings, words in (
        ({"rho": -1.0}, "rho must be a finite number"),
        ({"rho": 0.1, "variant": "ASAM"}, "variant must be one of 'SAM', 'USAM', 'DNSAM', got 'ASAM'"),
        ({"rho": 0.1, "samples": torch.zeros(0, 2)}, "samples must be tensors"),
    ):
        with pytest.raises(ValueError, match=f"SAMDiffusion: {words}"):
            SAMDiffusion(bowl, **{"samples": NOISE, **settings})
    diffusion = SAMDiffusion(bowl, NOISE, 0.1)
    start = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"step_size must be a finite number in \(0, inf\), got 0.0"):
        diffusion.simulate(start, 0.0, 1.0)
    for run in (diffusion.drift, lambda x: diffusion.method(x, 0.1, 1), lambda x: diffusion.simulate(x, 0.1, 1.0)):
        with pytest.raises(ValueError, match=r"points must have the shape \(runs, d\), got \(2,\)"):
            run(start[0])
    with pytest.raises(ValueError, match="substeps must be an integer >= 1, got 0"):
        diffusion.simulate(start, 0.1, 1.0, substeps=0)
    assert torch.equal(diffusion.flow(start + 1, 0.0, steps=3), start + 1)
