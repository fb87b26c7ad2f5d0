"""Optimistic AMSGrad against its equations, and the extrapolation against fixed points and least squares."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy
from torch import Tensor, nn

from steepest.optim import OptimisticAMSGrad
from steepest.optim.optimistic_amsgrad import extrapolate


def rmpe(vectors: list[Any], lam: float) -> Any:
    """By the constrained least squares that the solution of the linear system minimizes, over c = z0 + N y."""
    flat = [v.ravel() for v in vectors]
    u = np.stack([b - a for a, b in itertools.pairwise(flat)], axis=1)
    u = u / np.sqrt((u**2).sum())
    r = u.shape[1]
    start = np.full(r, 1 / r)
    null = np.linalg.svd(np.ones((1, r)))[2][1:].T  # directions that keep the sum
    stacked = np.concatenate([u, np.sqrt(lam) * np.eye(r)])
    y = np.linalg.lstsq(stacked @ null, -stacked @ start, rcond=None)[0] if r > 1 else np.zeros(0)
    c = start + null @ y
    return sum(w * v for w, v in zip(c, vectors[:-1], strict=True))


def optimistic(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    betas: Any,
    history: int,
    regularization: float,
    eps: float,
    weight_decay: float,
) -> Any:
    b1, b2 = betas
    if t == 1:
        s.update(theta=0 * x, v=eps + 0 * x, vhat=eps + 0 * x, half=x, m=0 * x, past=[])
    theta_before = s["theta"]
    s["theta"] = b1 * s["theta"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * (g - s["m"]) ** 2
    s["vhat"] = np.maximum(s["vhat"], s["v"])
    s["half"] = (1 - lr * weight_decay) * s["half"] - lr * s["theta"] / np.sqrt(s["vhat"])
    s["past"] = [*s["past"], g][-history - 1 :]
    s["m"] = rmpe(s["past"], regularization) if len(s["past"]) == history + 1 else g
    h = b1 * theta_before + (1 - b1) * s["m"]
    return s["half"] - lr * h / np.sqrt(s["vhat"])


@pytest.mark.parametrize("history", [1, 2, 5])
def test_paper(history: int) -> None:
    settings = {"lr": 0.01, "betas": (0.9, 0.97), "history": history, "regularization": 1e-2, "eps": 1e-6}
    against_numpy(OptimisticAMSGrad, optimistic, {**settings, "weight_decay": 0.1}, tolerance=1e-8)


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_the_extrapolation_of_a_linear_recursion_is_its_fixed_point(degree: int) -> None:
    """In twelve dimensions, with as many eigenvalues as the minimal polynomial has degrees."""
    source = torch.Generator().manual_seed(degree)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=source, dtype=torch.float64)).Q
    values = torch.tensor([0.9, -0.5, 0.3, 0.7, -0.2], dtype=torch.float64)[:degree].repeat(12)[:12]
    matrix, shift = basis @ torch.diag(values) @ basis.T, torch.randn(12, generator=source, dtype=torch.float64)
    fixed = torch.linalg.solve(torch.eye(12, dtype=torch.float64) - matrix, shift)
    vectors = [torch.randn(12, generator=source, dtype=torch.float64)]
    for _ in range(degree + 1):
        vectors.append(matrix @ vectors[-1] + shift)
    found = extrapolate(vectors, 1e-15)
    assert (found - fixed).norm() < 1e-6 * fixed.norm()
    assert (vectors[-1] - fixed).norm() > 1e-2 * fixed.norm()


def test_the_extrapolation_ignores_scale_and_shape_and_of_constants_is_the_constant() -> None:
    source = torch.Generator().manual_seed(0)
    vectors = [torch.randn(3, 4, generator=source, dtype=torch.float64) for _ in range(4)]
    found = extrapolate(vectors, 1e-2)
    assert found.shape == (3, 4)
    assert_close([found], [torch.from_numpy(rmpe([v.numpy() for v in vectors], 1e-2))], 1e-10)
    assert_close([extrapolate([1e3 * v for v in vectors], 1e-2)], [1e3 * found], 1e-9)
    moved = extrapolate([v + 7 for v in vectors], 1e-2)
    assert_close([moved], [found + 7], 1e-9)
    assert_close([extrapolate([vectors[0]] * 4, 1e-2)], [vectors[0]])
    assert_close([extrapolate(vectors, 1e9)], [sum(vectors[:3]) / 3], 1e-6)  # type: ignore[list-item]


def test_a_perfect_prediction_leaves_the_second_moment_and_steps_twice() -> None:
    """A constant gradient is its own extrapolation: from the second step on v only decays, and each step is equal."""
    p = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    opt = OptimisticAMSGrad([p], lr=0.01, betas=(0.0, 0.9), eps=1e-4, history=3)
    g = torch.full((3, 4), 2.0, dtype=torch.float64)
    run(opt, [p], [[g]])
    first = opt.state[p]["exp_avg_sq"].clone()
    assert torch.allclose(first, torch.full_like(first, 0.9 * 1e-4 + 0.1 * 4))
    for t in range(2, 10):
        before = p.detach().clone()
        run(opt, [p], [[g]])
        assert_close([opt.state[p]["prediction"]], [g], 1e-9)
        assert_close([opt.state[p]["exp_avg_sq"]], [0.9 ** (t - 1) * first], 1e-9)
        assert_close([opt.state[p]["max_exp_avg_sq"]], [first])
        assert_close([p.detach() - before], [-0.01 * g / first.sqrt()])
    ahead = p.detach() - opt.state[p]["base"]
    assert_close([ahead], [-0.01 * g / first.sqrt()])


def test_without_predictions_it_is_amsgrad_with_shifted_iterates() -> None:
    """The second moment is that of the gradients and the base takes AMSGrad's steps (uncorrected); the gradient is
    taken ahead of it, by b1 theta_{t-1} / sqrt(vhat)."""
    rule = dataclasses.replace(
        OptimisticAMSGrad.algorithm,
        update=_without_predictions,
    )
    p = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    opt = OptimisticAMSGrad([p], lr=0.01, betas=(0.8, 0.9), eps=1e-6, history=2)
    opt.algorithm = rule  # type: ignore[misc]
    base, theta, v, vhat = p.detach().clone(), torch.zeros(4, 3).double(), torch.tensor(1e-6), torch.tensor(1e-6)
    for (g,) in gradients([p], 20):
        run(opt, [p], [[g]])
        old, theta = theta, 0.8 * theta + 0.2 * g
        v = 0.9 * v + 0.1 * g * g
        vhat = torch.maximum(vhat, v)
        base = base - 0.01 * theta / vhat.sqrt()  # AMSGrad
        assert_close([opt.state[p]["base"]], [base])
        assert_close([p], [base - 0.01 * 0.8 * old / vhat.sqrt()])


def _without_predictions(
    x: Tensor,
    g: Tensor,
    *state: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    regularization: float,
    weight_decay: float,
    predictable: bool,
) -> tuple[Tensor, ...]:
    """The rule, of which each prediction is replaced by zero after the step that made it."""
    settings: dict[str, Any] = {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay}
    x, *new = OptimisticAMSGrad.rule(x, g, *state, regularization=regularization, predictable=predictable, **settings)
    new[4], predicted = torch.zeros_like(g), new[4]
    return x + lr * (1 - beta1) * predicted / new[2].sqrt(), *new


def test_amsgrad_of_torch_is_the_base_without_predictions() -> None:
    """Up to torch's bias corrections, which a scheduled learning rate takes back."""
    p, q = parameters(((5, 4), (5, 4)))
    q.data.copy_(p.data)
    opt = OptimisticAMSGrad([p], lr=0.01, betas=(0.9, 0.99), eps=1e-30, history=2)
    opt.algorithm = dataclasses.replace(OptimisticAMSGrad.algorithm, update=_without_predictions)  # type: ignore[misc]
    twin = torch.optim.Adam([q], betas=(0.9, 0.99), eps=0.0, amsgrad=True)
    for t, (g,) in enumerate(gradients([p], 20), start=1):
        twin.param_groups[0]["lr"] = 0.01 * (1 - 0.9**t) / (1 - 0.99**t) ** 0.5
        run(opt, [p], [[g]])
        run(twin, [q], [[g]])
    assert_close([opt.state[p]["base"]], [q], 1e-9)


def test_a_rotating_gradient_is_predicted() -> None:
    """Gradients of a linear dynamic of degree two and a shift are a linear recursion: after enough of them, exact."""
    angle = torch.tensor(0.4, dtype=torch.float64)
    turn = 0.95 * torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    p = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
    opt = OptimisticAMSGrad([p], history=3, regularization=1e-12)
    g = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    for _ in range(6):
        run(opt, [p], [[g + 3]])
        g = turn @ g
    # What is extrapolated is the limit of the sequence, its fixed point.
    assert_close([opt.state[p]["prediction"]], [torch.full((2, 1), 3.0, dtype=torch.float64)], 1e-6)


def test_the_history_sets_the_memory() -> None:
    for history in (1, 4):
        p = nn.Parameter(torch.zeros(3))
        opt = OptimisticAMSGrad([p], history=history)
        run(opt, [p], gradients([p], 1))
        assert sum(name.startswith("gradient") for name in opt.state[p]) == history


def test_bad_settings() -> None:
    p = [torch.zeros(2, 2)]
    for settings, words in (
        ({"history": 0}, "history must be an integer >= 1, got 0"),
        ({"regularization": 0.0}, r"regularization must be a finite number in \(0, inf\), got 0.0"),
        ({"eps": 0.0}, r"eps must be a finite number in \(0, inf\), got 0.0"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"OptimisticAMSGrad: {words}"):
            OptimisticAMSGrad(p, **settings)  # type: ignore[arg-type]
