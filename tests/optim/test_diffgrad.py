"""diffGrad against its paper's equations, a peer, and Adam."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy, peer_run

from steepest.optim import DiffGrad


def diffgrad(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, betas: Any, eps: float, weight_decay: float
) -> Any:
    b1, b2 = betas
    g = g + weight_decay * x
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    xi = 1 / (1 + np.exp(-np.abs(s.get("g", 0.0) - g)))
    s["g"] = g.copy()
    return x - lr * xi * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)


@pytest.mark.parametrize("seed", range(3))
def test_paper(seed: int) -> None:
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-4, "weight_decay": 0.1}
    against_numpy(DiffGrad, diffgrad, settings, seed)


def test_pytorch_optimizer() -> None:
    """The peer follows the authors' code, whose epsilon is not bias-corrected; with eps = 0 the two are one."""
    peer = pytest.importorskip("pytorch_optimizer")
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 0.0, "weight_decay": 0.0}
    peer_run(DiffGrad, peer.DiffGrad, settings)


@pytest.mark.parametrize("size", [0.1, 5.0])
def test_a_constant_gradient_gives_adam_at_half_the_rate(size: float) -> None:
    """From the second step on; the first sees a jump from zero."""
    params = parameters()
    opt = DiffGrad(params, lr=0.02)
    grads = [size * torch.ones_like(p) for p in params]
    run(opt, params, [grads])
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    adam = torch.optim.Adam(twins, lr=0.0)
    run(adam, twins, [grads])
    adam.param_groups[0]["lr"] = 0.01
    run(opt, params, [grads] * 25)
    run(adam, twins, [grads] * 25)
    assert_close(params, twins)


def test_huge_changes_of_the_gradient_give_adam() -> None:
    params, twins = parameters(), parameters()
    grads = [[1e3 * (-1) ** t * (1 + g.abs()) for g in step] for t, step in enumerate(gradients(params, 25))]
    run(DiffGrad(params, lr=0.01), params, grads)
    run(torch.optim.Adam(twins, lr=0.01), twins, grads)
    assert_close(params, twins)


def test_the_step_lies_between_half_and_all_of_adams() -> None:
    params = parameters()
    adam = parameters()
    before = [p.detach().clone() for p in params]
    grads = gradients(params, 1)
    run(DiffGrad(params, lr=0.01), params, grads)
    run(torch.optim.Adam(adam, lr=0.01), adam, grads)
    for p, a, start, g in zip(params, adam, before, grads[0], strict=True):
        ratio = (p - start) / (a - start)
        assert torch.allclose(ratio, torch.sigmoid(g.abs()))
        assert ((ratio > 0.5) & (ratio < 1)).all()
