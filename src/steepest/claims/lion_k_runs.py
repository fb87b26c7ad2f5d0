"""The runs behind Lion-K's claim: into the constraint, to its solution, down the Lyapunov function, and on digits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core.norms import dual_norm, value
from steepest.data import digits
from steepest.optim import Lion, LionK

__all__ = ["constrained", "lyapunov", "network", "outward"]

#: Of the dual ball; the inverse of the weight decay.
RADIUS = 1.0


def _quadratic(generator: torch.Generator, rows: int = 6, columns: int = 5) -> tuple[Tensor, Tensor]:
    """``f(x) = 1/2 <x - target, H (x - target)>`` with a target far outside every ball: Hessian and target."""
    n = rows * columns
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64), 3 * torch.randn(
        rows, columns, generator=generator, dtype=torch.float64
    )


def _gap(kappa: str, x: Tensor, gradient: Tensor, settings: Mapping[str, Any]) -> float:
    """The Frank-Wolfe gap over the ball of radius 1: an upper bound of ``f(x) - min f`` for x inside.

    The largest ``<-gradient, v>`` over the dual ball is the norm itself, so the bound needs no second solver.
    """
    return float((gradient * x).sum() + RADIUS * value(kappa, gradient, **settings))


def constrained(kappa: str, settings: Mapping[str, Any], steps: int, seed: int, scale: float) -> dict[str, Any]:
    """To the solution of the constrained problem from a start at ``scale`` times the radius."""
    generator = torch.Generator().manual_seed(seed)
    hessian, target = _quadratic(generator)

    def gradient(x: Tensor) -> Tensor:
        return (hessian @ (x - target).flatten()).reshape(x.shape)

    def violation(x: Tensor) -> float:
        return max(0.0, float(dual_norm(kappa, x, **settings)) - RADIUS)

    edge = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    edge = RADIUS * edge / dual_norm(kappa, edge, **settings)
    x = (scale * edge).requires_grad_()
    rate = 0.02
    optimizer = LionK([x], lr=rate, weight_decay=1 / RADIUS, kappa=kappa, **settings)  # type: ignore[arg-type]
    found = [violation(x.detach())]
    above = rise = 0.0
    factor = 1.0
    half = steps // 2
    for step in range(steps):
        # Constant while the ball is approached, then down to nothing: with a constant rate the iterates end in a band
        # around the solution as wide as the rate.
        now = rate if step < half else rate * (1 - (step - half) / (steps - half))
        optimizer.param_groups[0]["lr"] = now
        x.grad = gradient(x.detach())
        optimizer.step()
        factor *= 1 - now / RADIUS
        found.append(violation(x.detach()))
        above = max(above, found[-1] - factor * found[0])
        rise = max(rise, found[-1] - found[-2])
    gap = _gap(kappa, x.detach(), gradient(x.detach()), settings)
    return {
        "violation": found,
        "above_bound": above,
        "rise": rise,
        "gap": max(gap, 0.0) / _gap(kappa, edge, gradient(edge), settings),
    }


def outward(seed: int) -> float:
    """How far the violation is from ``(1 - lr lambda)^t`` times its start when the gradient pushes outwards."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.where(torch.rand(20, generator=generator) < 0.5, -1.0, 1.0).double()
    x = (sign * (1.5 + torch.rand(20, generator=generator, dtype=torch.float64))).requires_grad_()
    start = x.detach().abs() - RADIUS
    optimizer = LionK([x], lr=0.01, weight_decay=1 / RADIUS)
    error = 0.0
    for step in range(1, 301):
        x.grad = -sign
        optimizer.step()
        error = max(error, float(((x.detach().abs() - RADIUS) / (start * 0.99**step) - 1).abs().max()))
    return error


def _conjugate(kappa: str, y: Tensor, epsilon: float) -> Tensor:
    """``K*`` inside its domain."""
    return {"ridge": 0.5, "huber": 0.5 * epsilon, "l1": 0.0}[kappa] * (y * y).sum()


def lyapunov(kappa: str, rate: float, time: float, seed: int) -> tuple[list[float], float, float]:
    """H along Lion-K as the Euler scheme of its flow, on a random function that is not convex.

    Returns:
        H, all its rises over all its falls, and the same for the objective alone (H without its last term), which
        momentum lets rise.


    With step size ``h`` the flow ``x' = dK(m - e (f' + g m)) - l x``, ``m' = -a f' - g m`` (a = g) is LionK with
    ``beta1 = 1 - e g`` and ``beta2 = 1 - h g``; its ``m`` has the opposite sign.
    """
    dimension, decay, gamma, inner, epsilon = 8, 1.0, 1.0, 0.1, 0.5
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    phase = 3 * torch.randn(dimension, generator=generator, dtype=torch.float64)
    x = (0.5 * (2 * torch.rand(dimension, generator=generator, dtype=torch.float64) - 1)).requires_grad_()
    optimizer = LionK(
        [x], lr=rate, betas=(1 - inner * gamma, 1 - rate * gamma), weight_decay=decay, kappa=kappa, epsilon=epsilon
    )  # type: ignore[arg-type]
    weight = (1 - inner * gamma) / (1 + inner * decay)
    values, objective = [], []
    for _ in range(round(time / rate) + 1):
        x.grad = None
        loss = torch.sin(w @ x + phase).sum()
        loss.backward()
        with torch.no_grad():
            m = -optimizer.state[x]["momentum"] if optimizer.state[x] else torch.zeros_like(x)
            conjugate = _conjugate(kappa, decay * x, epsilon)
            pair = conjugate + value(kappa, m, epsilon=epsilon) - decay * (m * x).sum()
            objective.append(float(gamma * loss + gamma / decay * conjugate))
            values.append(objective[-1] + weight * float(pair))
        optimizer.step()
    return values, _rises(values), _rises(objective)


def _rises(values: list[float]) -> float:
    """The sum of all rises over the sum of all falls."""
    changes = np.diff(values)
    return float(changes[changes > 0].sum() / -changes[changes < 0].sum())


def network(decay: float, steps: int, seed: int) -> dict[str, Any]:
    """A perceptron on digits under Lion with a constant rate: its weights against the box, and its accuracy."""
    data = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    rate = 1e-3
    optimizer = Lion(model.parameters(), lr=rate, weight_decay=decay)
    generator = torch.Generator().manual_seed(seed)
    radius = 1 / decay if decay else None

    def largest() -> float:
        return max(float(p.detach().abs().max()) for p in model.parameters())

    start = max(largest() - radius, 0.0) if radius else 0.0
    worst = 0.0
    for step in range(1, steps + 1):
        rows = torch.randint(len(data.train.targets), (64,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data.train.inputs[rows]), data.train.targets[rows]).backward()
        optimizer.step()
        if radius:
            allowed = radius + start * (1 - rate * decay) ** step
            worst = max(worst, largest() / allowed - 1)
    weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.dim() == 2])
    with torch.no_grad():
        accuracy = float((model(data.test.inputs).argmax(1) == data.test.targets).float().mean())
    edge = float((weights.abs() > 0.98 * radius).float().mean()) if radius else 0.0
    limit = 1.05 * (radius if radius else float(weights.abs().max()))
    counts, edges = np.histogram(weights.numpy(), bins=61, range=(-limit, limit))
    return {
        "over_box": worst,
        "at_edge": edge,
        "accuracy": accuracy,
        "counts": (counts / counts.sum()).tolist(),
        "edges": edges.tolist(),
    }
