"""Lion against its paper's equations, peers, and the properties that follow from the sign."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assert_same, gradients, parameters, run
from oracle_helpers import against_numpy, peer_run

from steepest.optim import Lion


def lion(x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, betas: Any, weight_decay: float) -> Any:
    m = s.get("m", np.zeros_like(x))
    c = betas[0] * m + (1 - betas[0]) * g
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return x - lr * (np.sign(c) + weight_decay * x)


@pytest.mark.parametrize("seed", range(3))
def test_paper(seed: int) -> None:
    against_numpy(Lion, lion, {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.3}, seed)


def test_pytorch_optimizer() -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    peer_run(Lion, peer.Lion, {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}, {"weight_decouple": True})


def test_optax() -> None:
    pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    from oracle_helpers import optax_run

    optax_run(Lion, optax.lion, {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1})


def test_equal_betas_are_signum() -> None:
    """With one beta the direction is the sign of the plain moving average."""
    params, twins = parameters(), [p.detach().clone() for p in parameters()]
    grads = gradients(params, 25)
    run(Lion(params, lr=0.01, betas=(0.9, 0.9), weight_decay=0.1), params, grads)
    averages = [torch.zeros_like(p) for p in twins]
    for step in grads:
        for m, x, g in zip(averages, twins, step, strict=True):
            m.mul_(0.9).add_(g, alpha=0.1)
            x.mul_(1 - 0.01 * 0.1).sub_(0.01 * m.sign())
    assert_close(params, twins)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**30])
def test_scale_of_the_loss_does_not_matter(scale: float) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 25)
    run(Lion(params, lr=0.01), params, grads)
    run(Lion(twins, lr=0.01), twins, [[scale * g for g in step] for step in grads])
    assert_same([p.detach() for p in params], [p.detach() for p in twins])


def test_every_coordinate_moves_by_the_learning_rate() -> None:
    params = parameters()
    before = [p.detach().clone() for p in params]
    run(Lion(params, lr=0.25), params, gradients(params, 1))
    for p, q in zip(params, before, strict=True):
        assert torch.allclose((p - q).abs(), torch.full_like(q, 0.25))


def test_untouched_coordinates_stay() -> None:
    params = parameters(((3,),))
    before = params[0].detach().clone()
    g = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    run(Lion(params, lr=0.25), params, [[g], [0 * g]])
    assert torch.equal(params[0][1:], before[1:])
    assert params[0][0] == before[0] - 0.5  # the momentum remembers
