"""Muon against its equations, torch's Muon, AdamW for what is no matrix, and the trust region it steps in."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy
from torch import nn

from steepest.optim import Muon


def muon(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    scale: str,
    orthogonalization: str,
) -> Any:
    rows, columns = x.shape[0], int(np.prod(x.shape[1:]))
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * g
    look = momentum * s["m"] + (1 - momentum) * g if nesterov else s["m"]
    u, _, vt = np.linalg.svd(look.reshape(rows, columns), full_matrices=False)
    size = np.sqrt(max(1, rows / columns)) if scale == "spectral" else 0.2 * np.sqrt(max(rows, columns))
    return (1 - lr * weight_decay) * x - lr * size * (u @ vt).reshape(x.shape)


SHAPES = [(4, 6), (7, 3), (4, 6), (3, 2, 3, 3), (8, 2, 2), (5, 5)]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", ["spectral", "rms"])
def test_paper(nesterov: bool, scale: str) -> None:
    chosen = {
        "lr": 0.02,
        "momentum": 0.9,
        "weight_decay": 0.3,
        "nesterov": nesterov,
        "scale": scale,
        "orthogonalization": "exact",
    }
    against_numpy(Muon, muon, chosen, shapes=SHAPES, tolerance=1e-8)


@pytest.mark.parametrize(("kind", "allowed"), [("polar-express", 0.21), ("newton-schulz", 0.45)])
def test_iterations_step_nearly_like_the_exact_factor(kind: Any, allowed: float) -> None:
    params, twins = parameters(((12, 40), (40, 12))), parameters(((12, 40), (40, 12)))
    before = [p.detach().clone() for p in params]
    grads = gradients(params, 1)
    run(Muon(params, lr=0.1, orthogonalization=kind), params, grads)
    run(Muon(twins, lr=0.1, orthogonalization="exact"), twins, grads)
    for p, q, start in zip(params, twins, before, strict=True):
        assert (p - q).norm() < allowed * (q - start).norm()


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_torch_muon(adjust: str) -> None:
    """torch keeps its iterates in bfloat16, where singular values end anywhere in [0.68, 1.13]: equal up to that."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    shapes = ((24, 60), (60, 24), (32, 96))
    params, twins = parameters(shapes), parameters(shapes)
    before = [p.detach().clone() for p in params]
    grads = gradients(params, 1) * 5
    scale: Any = "spectral" if adjust == "original" else "rms"
    run(Muon(params, lr=0.02, weight_decay=0.1, scale=scale, orthogonalization="newton-schulz"), params, grads)
    run(torch.optim.Muon(twins, lr=0.02, weight_decay=0.1, adjust_lr_fn=adjust), twins, grads)
    for p, q, start in zip(params, twins, before, strict=True):
        ours, theirs = (p - start).flatten(), (q - start).flatten()
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.97
        assert 0.8 < ours.norm() / theirs.norm() < 1.25


def test_everything_that_is_no_matrix_follows_adamw() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    twins = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters()}
    opt = Muon(net, weight_decay=0.1, adamw_lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-6)
    assert [n for n, _ in opt.routing.named("matrix")] == ["1.weight"]  # type: ignore[union-attr]
    rest = [p for n, p in twins.items() if n != "1.weight"]
    adam = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    for step in gradients(list(net.parameters()), 25):
        for (n, p), g in zip(net.named_parameters(), step, strict=True):
            p.grad, twins[n].grad = g.clone(), g.clone()
        opt.step()
        adam.step()
    assert_close([p for n, p in net.named_parameters() if n != "1.weight"], rest)


def test_untouched_matrices_decay_only() -> None:
    """A zero gradient has no direction: no NaN, and nothing but decay."""
    params = parameters(((4, 6), (5, 5)))
    before = [p.detach().clone() for p in params]
    run(Muon(params, lr=0.1, weight_decay=0.5), params, [[torch.zeros_like(p) for p in params]])
    assert_close(params, [0.95 * p for p in before])


def test_every_step_has_the_size_of_the_trust_region() -> None:
    params = parameters(((4, 9),))
    for step in gradients(params, 5):
        before = params[0].detach().clone()
        opt = Muon(params, lr=0.3, orthogonalization="exact")
        run(opt, params, [step])
        move = params[0].detach() - before
        assert torch.linalg.matrix_norm(move, 2).item() == pytest.approx(0.3)
        nuclear = torch.linalg.matrix_norm(step[0], "nuc")
        assert (move * step[0]).sum().item() == pytest.approx(-0.3 * nuclear.item())


def test_decay_bounds_the_spectral_norm() -> None:
    params = [nn.Parameter(5 * p.detach()) for p in parameters(((4, 6),))]
    run(opt := Muon(params, lr=0.1, weight_decay=2.0, orthogonalization="exact"), params, gradients(params, 60))
    for step in gradients(params, 40, seed=9):
        run(opt, params, [step])
        assert torch.linalg.matrix_norm(params[0].detach(), 2) <= 0.5 + 1e-3


def test_large_stacks_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from steepest.core import engine

    shapes = ((4, 6),) * 5
    params, twins = parameters(shapes), parameters(shapes)
    grads = gradients(params, 3)
    run(Muon(params), params, grads)
    monkeypatch.setattr(engine, "STACK_ELEMENTS", 50)
    run(Muon(twins), twins, grads)
    assert_close(params, twins, 1e-9)
