"""Lion-K against its equations, Lion, Muon, and its theory: constraint, fixed point, Lyapunov function."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assert_same, gradients, parameters, run
from oracle_helpers import against_numpy
from scipy.optimize import minimize
from torch import Tensor, nn

from steepest.core.norms import KAPPAS, dual_norm, subgradient, value
from steepest.optim import Lion, LionK, Muon

NORMS = ("l1", "l2", "lp", "rows", "top-k", "nuclear")


def kappa_gradient(kind: str, z: Any, p: float, epsilon: float, k: int) -> Any:
    size = np.abs(z)
    if kind == "l1":
        return np.sign(z)
    if kind == "l2":
        return z / np.linalg.norm(z)
    if kind == "lp":
        return np.sign(z) * size ** (p - 1) / (size**p).sum() ** ((p - 1) / p)
    if kind == "rows":
        rows = z.reshape(z.shape[0] if z.ndim > 1 else 1, -1)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).reshape(z.shape)
    if kind == "dead-zone":
        return np.sign(z) * (size > epsilon)
    if kind == "huber":
        return np.clip(z, -epsilon, epsilon) / epsilon
    if kind == "top-k":
        chosen = np.zeros(z.size)
        order = np.argsort(-size.ravel())[:k]
        chosen[order] = np.sign(z.ravel()[order])
        return chosen.reshape(z.shape)
    if kind == "nuclear":
        u, _s, vt = np.linalg.svd(z.reshape(z.shape[0] if z.ndim > 1 else 1, -1), full_matrices=False)
        return (u @ vt).reshape(z.shape)
    return z


def lion_k(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    betas: Any,
    weight_decay: float,
    kappa: str,
    p: float,
    epsilon: float,
    k: int,
) -> Any:
    m = s.get("m", np.zeros_like(x))  # the authors' sign: m averages the negative gradient
    s["m"] = betas[1] * m - (1 - betas[1]) * g
    return x + lr * (kappa_gradient(kappa, betas[0] * m - (1 - betas[0]) * g, p, epsilon, k) - weight_decay * x)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_paper(kappa: str) -> None:
    chosen = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.3, "kappa": kappa, "p": 3.0, "epsilon": 0.05, "k": 2}
    against_numpy(LionK, lion_k, chosen, tolerance=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_l1_is_lion_bit_for_bit(dtype: torch.dtype) -> None:
    params, twins = parameters(dtype=dtype), parameters(dtype=dtype)
    grads = gradients(params, 30)
    run(LionK(params, lr=0.01, weight_decay=0.3), params, grads)
    run(Lion(twins, lr=0.01, weight_decay=0.3), twins, grads)
    assert_same([p.detach() for p in params], [p.detach() for p in twins])


def test_nuclear_is_muon_with_decay() -> None:
    """Muon's look-ahead average mu M_t + (1 - mu) G is mu^2 M_{t-1} + (1 - mu^2) G: beta1 = mu^2, beta2 = mu."""
    shapes = ((4, 6), (3, 2, 3, 2), (5, 5))
    params, twins = parameters(shapes), parameters(shapes)
    grads = gradients(params, 30)
    run(LionK(params, lr=0.02, betas=(0.95**2, 0.95), weight_decay=0.3, kappa="nuclear"), params, grads)
    run(Muon(twins, lr=0.02, momentum=0.95, weight_decay=0.3, orthogonalization="exact"), twins, grads)
    assert_close(params, twins, 1e-10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(7,), (4, 6), (6, 4), (3, 2, 3)], ids=str)
@pytest.mark.parametrize("kappa", KAPPAS)
def test_subgradients(kappa: str, shape: tuple[int, ...], seed: int) -> None:
    """K(y) >= K(x) + <s, y - x> for all y; for norms also <s, x> = K(x) and ||s||_dual <= 1."""
    chosen = {"p": 1.0 + seed / 2, "k": 1 + seed}
    both = {**chosen, "epsilon": 0.3}
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kappa == "nuclear" and len(shape) == 3:
        x = x.reshape(shape[0], -1)
    s = subgradient(kappa, x, **both)
    assert s.shape == x.shape
    for scale in (1e-3, 1.0, 100.0):
        y = x + scale * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        assert value(kappa, y, **both) >= value(kappa, x, **both) + (s * (y - x)).sum() - 1e-10
    if kappa in NORMS:
        assert (s * x).sum().item() == pytest.approx(value(kappa, x, **both).item(), rel=1e-10)
        assert dual_norm(kappa, s, **chosen) <= 1 + 1e-10
    assert torch.equal(subgradient(kappa, torch.zeros_like(x), **both), torch.zeros_like(x))


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30])
@pytest.mark.parametrize("kappa", NORMS)
def test_direction_of_a_norm_ignores_the_scale(kappa: str, scale: float) -> None:
    x = parameters(((4, 6),), torch.float32)[0].detach()
    torch.testing.assert_close(
        subgradient(kappa, scale * x, p=3.0, k=2), subgradient(kappa, x, p=3.0, k=2), rtol=1e-5, atol=1e-5
    )


def test_a_function_that_is_no_norm_bounds_nothing() -> None:
    with pytest.raises(ValueError, match="'ridge' is not a norm"):
        dual_norm("ridge", torch.ones(2))


@pytest.mark.parametrize("kappa", NORMS)
def test_violation_decays_at_the_exact_rate_and_never_returns(kappa: str) -> None:
    """Outside, ||x|| - 1/lam shrinks at least by (1 - lr lam) per step; inside it stays, whatever the gradients."""
    lam, lr = 2.0, 0.05
    (p,) = params = [nn.Parameter(10 * parameters(((4, 6),))[0].detach())]
    opt = LionK(params, lr=lr, weight_decay=lam, kappa=kappa, p=3.0, k=5)

    def excess() -> float:
        return float(dual_norm(kappa, p.detach(), p=3.0, k=5)) - 1 / lam

    start, entered = excess(), False
    for t, step in enumerate(gradients(params, 150), start=1):
        run(opt, params, [step])
        now = excess()
        assert now <= start * (1 - lr * lam) ** t + 1e-12
        assert not entered or now <= 1e-12
        entered |= now <= 0
    assert entered


def test_violation_decays_exactly_without_gradients() -> None:
    lam, lr = 2.0, 0.05
    (p,) = params = [nn.Parameter(torch.full((5,), 3.0, dtype=torch.float64))]
    opt = LionK(params, lr=lr, weight_decay=lam)
    for t in range(1, 31):  # ever falling in value: the sign is -1 and the violation decays at the rate itself
        run(opt, params, [[-torch.ones(5, dtype=torch.float64)]])
        assert float(p[0]) - 1 / lam == pytest.approx((3.0 - 1 / lam) * (1 - lr * lam) ** t, rel=1e-10)


@pytest.mark.parametrize("lam", [0.5, 1.0, 4.0])
def test_fixed_point_solves_the_constrained_problem(lam: float) -> None:
    """A strongly convex function over the box |x| <= 1/lam, solved by L-BFGS-B."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((12, 6))
    b = rng.standard_normal(12) * 3
    solution = minimize(
        lambda x: 0.5 * ((a @ x - b) ** 2).sum(),
        np.zeros(6),
        jac=lambda x: a.T @ (a @ x - b),
        method="L-BFGS-B",
        bounds=[(-1 / lam, 1 / lam)] * 6,
        options={"ftol": 1e-15, "gtol": 1e-10},
    ).x
    mat, target = torch.from_numpy(a), torch.from_numpy(b)
    x = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    opt = LionK([x], weight_decay=lam)
    steps = 6000
    for t in range(steps):
        opt.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + math.cos(math.pi * t / steps))
        x.grad = mat.T @ (mat @ x.detach() - target)
        opt.step()
    np.testing.assert_allclose(x.detach().numpy(), solution, atol=2e-3)
    assert (np.abs(np.abs(solution) - 1 / lam) < 1e-6).any() or lam < 1


@pytest.mark.parametrize("seed", range(3))
def test_the_lyapunov_function_decreases(seed: int) -> None:
    """Continuous time with K = ||.||^2 / 2 (so K*(y) = ||y||^2 / 2), small steps, a random non-convex function:

    H = a f(x) + (g / lam) K*(lam x) + (1 - e g) / (1 + e lam) (K*(lam x) + K(m) - lam <m, x>) never rises.
    """
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    phases = torch.randn(3, generator=generator, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return torch.sin(waves @ x + phases).sum() + 0.05 * (x * x).sum()

    lam, alpha, gamma, epsilon, dt = 0.7, 1.0, 1.0, 0.1, 1e-3
    # Euler: beta1 = 1 - epsilon gamma, beta2 = 1 - dt gamma (with alpha = gamma).
    x = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
    opt = LionK([x], lr=dt, betas=(1 - epsilon * gamma, 1 - dt * gamma), weight_decay=lam, kappa="ridge")
    history = []
    for _ in range(1500):
        opt.zero_grad()
        f(x).backward()
        opt.step()
        at = x.detach()
        m = -opt.state[x]["momentum"]
        coupling = 0.5 * (lam * at).square().sum() + 0.5 * m.square().sum() - lam * (m * at).sum()
        history.append(
            float(
                alpha * f(at)
                + gamma / lam * 0.5 * (lam * at).square().sum()
                + (1 - epsilon * gamma) / (1 + epsilon * lam) * coupling
            )
        )
    falls = np.diff(history)
    assert falls.max() < 1e-6 * abs(falls).max() + 1e-9
    assert history[-1] < history[0] - 0.01
