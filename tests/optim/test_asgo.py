"""ASGO and DASGO against their equations, the polar factor, AdaGrad, and the geometry of one side."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy
from torch import Tensor, nn

from steepest.core.orthogonal import polar
from steepest.optim import ASGO, DASGO, Muon


def rescaled(u: Any) -> Any:
    return u * 0.2 * np.sqrt(u.size) / np.linalg.norm(u)


def asgo(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    momentum: float,
    beta: float,
    eps: float,
    weight_decay: float,
    rescale: bool,
    precondition_every: int,
) -> Any:
    g = g.reshape(x.shape[0], -1)
    left = g.shape[0] < g.shape[1]
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * g
    s["v"] = beta * s.get("v", 0.0) + (1.0 if beta == 1 else 1 - beta) * (g @ g.T if left else g.T @ g)
    if (t - 1) % precondition_every == 0:
        w, q = np.linalg.eigh(s["v"])
        s["r"] = (q / np.sqrt(np.maximum(w, 0) + eps * w.max())) @ q.T
    u = s["r"] @ s["m"] if left else s["m"] @ s["r"]
    return (1 - lr * weight_decay) * x - lr * (rescaled(u) if rescale else u).reshape(x.shape)


def dasgo(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    momentum: float,
    beta: float,
    eps: float,
    weight_decay: float,
    rescale: bool,
) -> Any:
    g = g.reshape(x.shape[0], -1)
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * g
    s["v"] = beta * s.get("v", 0.0) + (1.0 if beta == 1 else 1 - beta) * (g**2).sum(0)
    u = s["m"] / np.sqrt(s["v"] + eps)
    return (1 - lr * weight_decay) * x - lr * (rescaled(u) if rescale else u).reshape(x.shape)


SHAPES: list[tuple[int, ...]] = [(4, 6), (7, 3), (4, 6), (3, 2, 3, 3), (8, 2, 2), (5, 5)]
SETTINGS: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "eps": 1e-5, "weight_decay": 0.3}


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("beta", [0.8, 1.0])
@pytest.mark.parametrize("every", [1, 4])
def test_paper(rescale: bool, beta: float, every: int) -> None:
    chosen = {**SETTINGS, "beta": beta, "rescale": rescale, "precondition_every": every}
    against_numpy(ASGO, asgo, chosen, shapes=SHAPES, tolerance=1e-8)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("beta", [0.95, 1.0])
def test_diagonal_paper(rescale: bool, beta: float) -> None:
    against_numpy(DASGO, dasgo, {**SETTINGS, "beta": beta, "rescale": rescale}, shapes=SHAPES)


def theory(params: Any, lr: float = 0.1, **over: Any) -> ASGO:
    chosen = {"momentum": 0.0, "beta": 1.0, "eps": 0.0, "weight_decay": 0.0, "rescale": False}
    return ASGO(params, lr, **{**chosen, **over})


@pytest.mark.parametrize("shape", [(4, 6), (7, 3), (5, 5), (3, 2, 2, 2)])
def test_first_step_is_the_polar_factor(shape: tuple[int, ...]) -> None:
    params = parameters((shape,))
    before = params[0].detach().clone()
    grads = gradients(params, 1)
    run(theory(params), params, grads)
    matrix = grads[0][0].reshape(shape[0], -1)
    torch.testing.assert_close((before - params[0].detach()).reshape_as(matrix), 0.1 * polar(matrix), rtol=0, atol=1e-8)


def test_without_memory_it_is_exact_muon() -> None:
    """A polar factor of rank r has the norm sqrt(r), so both scales are 0.2 sqrt(max(m, n))."""
    params, twins = parameters(((4, 6), (7, 3))), parameters(((4, 6), (7, 3)))
    grads = gradients(params, 10)
    run(ASGO(params, 0.02, momentum=0.0, beta=0.0, eps=0.0, weight_decay=0.1), params, grads)
    muon = Muon(twins, 0.02, momentum=0.0, weight_decay=0.1, nesterov=False, scale="rms", orthogonalization="exact")
    run(muon, twins, grads)
    assert_close(params, twins, 1e-8)


def test_diagonal_gradients_give_adagrad() -> None:
    params, twins = parameters(((6, 6),)), parameters(((6,),))
    params[0].data.copy_(torch.diag(twins[0].detach()))
    grads = gradients(twins, 25)
    run(theory(params), params, [[torch.diag(g)] for (g,) in grads])
    run(torch.optim.Adagrad(twins, lr=0.1, eps=0.0), twins, grads)
    assert_close(params, [torch.diag(twins[0].detach())], 1e-9)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_a_single_row_or_column_gives_adagrad_norm(shape: tuple[int, int]) -> None:
    params = parameters((shape,))
    expected, total, opt = params[0].detach().clone(), 0.0, theory(params)
    for (g,) in gradients(params, 15):
        run(opt, params, [[g]])
        total += float(g.square().sum())
        expected -= 0.1 * g / total**0.5
    assert_close(params, [expected], 1e-10)


def test_orthogonal_equivariance_on_both_sides() -> None:
    left, _ = torch.linalg.qr(parameters(((4, 4),), seed=5)[0].detach())
    right, _ = torch.linalg.qr(parameters(((6, 6),), seed=6)[0].detach())
    params = parameters(((4, 6),))
    twins = [nn.Parameter(left @ params[0].detach() @ right)]
    grads = gradients(params, 15)
    for opt, own, turned in ((ASGO(params), params, False), (ASGO(twins), twins, True)):
        run(opt, own, [[left @ g @ right] if turned else [g] for (g,) in grads])
    assert_close([left @ params[0].detach() @ right], twins, 1e-9)


def test_dasgo_is_equivariant_in_its_columns_only() -> None:
    left, _ = torch.linalg.qr(parameters(((4, 4),), seed=5)[0].detach())
    params = parameters(((4, 6),))
    twins = [nn.Parameter(left @ params[0].detach())]
    grads = gradients(params, 15)
    run(DASGO(params), params, grads)
    run(DASGO(twins), twins, [[left @ g] for (g,) in grads])
    assert_close([left @ params[0].detach()], twins, 1e-10)


def test_dasgo_is_asgo_where_the_columns_are_orthogonal() -> None:
    """Gradients with G^T G diagonal: a fixed orthonormal frame with other column lengths in every step."""
    frame, _ = torch.linalg.qr(parameters(((7, 3),), seed=4)[0].detach())
    params, twins = parameters(((7, 3),)), parameters(((7, 3),))
    grads = [[frame * lengths] for (lengths,) in gradients(parameters(((3,),)), 15)]
    run(ASGO(params, beta=0.9, eps=0.0), params, grads)
    run(DASGO(twins, beta=0.9, eps=0.0), twins, grads)
    assert_close(params, twins, 1e-9)


@pytest.mark.parametrize("cls", [ASGO, DASGO])
def test_steps_have_the_root_mean_square_of_adamw(cls: Any) -> None:
    params = parameters(((4, 6), (7, 3)))
    opt = cls(params, lr=0.1, weight_decay=0.0)
    for step in gradients(params, 5):
        before = [p.detach().clone() for p in params]
        run(opt, params, [step])
        for p, start in zip(params, before, strict=True):
            assert (p.detach() - start).square().mean().sqrt().item() == pytest.approx(0.02)


@pytest.mark.parametrize("cls", [ASGO, DASGO])
def test_untouched_matrices_decay_only(cls: Any) -> None:
    params = parameters(((4, 6), (5, 5)))
    before = [p.detach().clone() for p in params]
    run(cls(params, lr=0.1, weight_decay=0.5, eps=0.0), params, [[torch.zeros_like(p) for p in params]])
    assert_close(params, [0.95 * p for p in before])


@pytest.mark.parametrize("every", [3, 7])
def test_refreshing_rarely_changes_nothing_on_a_constant_gradient(every: int) -> None:
    """The factor only grows by a number, which rescaling removes."""
    params, twins = parameters(((4, 6), (7, 3))), parameters(((4, 6), (7, 3)))
    grads = gradients(params, 1) * 20
    run(ASGO(params, precondition_every=every), params, grads)
    run(ASGO(twins), twins, grads)
    assert_close(params, twins, 1e-9)


def test_regret_bound_of_the_theory() -> None:
    r"""Regret is at most :math:`(D^2 / (2\eta) + \eta) \operatorname{tr} V_T^{1/2}`.

    With D the largest spectral distance of an iterate from the rival, and :math:`V_T` the sum of all
    :math:`G G^\top`: mirror descent with :math:`V_t^{1/2} / \eta`. Here on random linear losses.
    """
    params = [nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))]
    grads = gradients(params, 60)
    opt, total, cost, farthest = theory(params, lr=0.2), torch.zeros(4, 4, dtype=torch.float64), 0.0, 0.0
    rival = -0.3 * polar(sum(g for (g,) in grads))  # the best of all fixed points of that spectral norm
    for (g,) in grads:
        at = params[0].detach().clone()
        cost += float((g * (at - rival)).sum())
        farthest = max(farthest, float(torch.linalg.matrix_norm(at - rival, 2)))
        total += g @ g.mT
        run(opt, params, [[g]])
    trace = float(torch.linalg.eigvalsh(total).clamp_min(0).sqrt().sum())
    assert 0 < cost <= farthest**2 * trace / (2 * 0.2) + 0.2 * trace


def test_everything_that_is_no_matrix_follows_adamw() -> None:
    torch.manual_seed(0)
    for cls in (ASGO, DASGO):
        net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
        twins: dict[str, Tensor] = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters()}
        opt: Any = cls(net, weight_decay=0.1, adamw_lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-6)
        assert [n for n, _ in opt.routing.named("matrix")] == ["1.weight"]
        rest = [p for n, p in twins.items() if n != "1.weight"]
        adam = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
        for step in gradients(list(net.parameters()), 25):
            for (n, p), g in zip(net.named_parameters(), step, strict=True):
                p.grad, twins[n].grad = g.clone(), g.clone()
            opt.step()
            adam.step()
        assert_close([p for n, p in net.named_parameters() if n != "1.weight"], rest)


def test_bad_settings() -> None:
    p = [torch.zeros(2, 2)]
    for make, words in (
        (lambda: ASGO(p, beta=1.5), r"ASGO: beta must be a finite number in \[0, 1\], got 1.5"),
        (lambda: ASGO(p, precondition_every=0), "ASGO: precondition_every must be an integer >= 1, got 0"),
        (lambda: ASGO(p, adamw_betas=(0.9, 1.0)), r"ASGO: adamw_betas\[1\] must be"),
        (lambda: DASGO(p, adamw_lr=-1.0), "DASGO: adamw_lr must be"),
        (lambda: DASGO(p, eps=-1.0), "DASGO: eps must be"),
        (lambda: ASGO([torch.zeros(3)]), r"ASGO: parameter 0 of shape \(3,\) is not a matrix; give .* rule='adamw'"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
