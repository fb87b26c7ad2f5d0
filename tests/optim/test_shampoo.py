"""Shampoo against its equations, a peer, AdaGrad, the polar factor; and what intervals and blocks may not change."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import STEPS, against_numpy
from torch import Tensor, nn

from steepest.core.orthogonal import polar
from steepest.optim import Shampoo


def root(a: Any, order: int, eps: float) -> Any:
    w, v = np.linalg.eigh(a)
    w = np.maximum(w, 0.0) + eps * max(w.max(), 0.0)
    return (v * np.where(w > 0, w, np.inf) ** (-1 / order)) @ v.T


def pieces(length: int, size: int) -> list[slice]:
    count = -(-length // size)
    each = -(-length // count)
    return [slice(i * each, min((i + 1) * each, length)) for i in range(count)]


def shampoo(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    momentum: float,
    beta2: float,
    weight_decay: float,
    graft: str,
    nesterov: bool,
    block_size: int,
    statistics_every: int,
    precondition_every: int,
    start: int,
    one_sided_above: int,
    eps: float,
    diagonal_eps: float,
) -> Any:
    """The equations, one block after the other."""
    weight = 1.0 if beta2 == 1 else 1 - beta2
    s["a"] = s.get("a", 0.0) + g**2
    diagonal = g if graft == "sgd" else g / (np.sqrt(s["a"]) + diagonal_eps)
    direction = diagonal.copy()
    if x.ndim > 1 and min(x.shape[0], x[0].size) > 1:
        matrix = g.reshape(x.shape[0], -1)
        sides = [n <= one_sided_above for n in matrix.shape]
        rows, columns = (
            pieces(n, block_size) if side else [slice(0, n)] for n, side in zip(matrix.shape, sides, strict=True)
        )
        found = np.zeros_like(matrix)
        for i, at in enumerate((r, c) for r in rows for c in columns):
            block = matrix[at]
            for side, gram in enumerate((block @ block.T, block.T @ block)):
                if sides[side]:
                    if (t - 1) % statistics_every == 0:
                        s[i, side] = beta2 * s.get((i, side), 0.0) + weight * gram
                    if t >= start and (t - start) % precondition_every == 0:
                        s["root", i, side] = root(s[i, side], 2 * sum(sides), eps)
            if t >= start and any(sides):
                left = s["root", i, 0] @ block if sides[0] else block
                found[at] = left @ s["root", i, 1] if sides[1] else left
        if t >= start and any(sides):
            direction = found.reshape(x.shape)
            if graft != "none":
                direction *= np.linalg.norm(diagonal) / np.linalg.norm(direction)
    direction = direction + weight_decay * x
    s["m"] = momentum * s.get("m", 0.0) + direction
    return x - lr * (momentum * s["m"] + direction if nesterov else s["m"])


SETTINGS: dict[str, Any] = {
    "lr": 0.02,
    "momentum": 0.8,
    "beta2": 1.0,
    "weight_decay": 0.1,
    "graft": "adagrad",
    "nesterov": True,
    "block_size": 4,
    "statistics_every": 1,
    "precondition_every": 1,
    "start": 1,
    "one_sided_above": 100,
    "eps": 1e-4,
    "diagonal_eps": 1e-6,
}
SHAPES: list[tuple[int, ...]] = [(4, 6), (9, 5), (7,), (3, 2, 2, 3), (1, 8), (10, 3), (3, 3)]


@pytest.mark.parametrize("graft", ["adagrad", "sgd", "none"])
@pytest.mark.parametrize(
    "over",
    [
        {},
        {"beta2": 0.9, "nesterov": False},
        {"block_size": 128, "statistics_every": 2, "precondition_every": 3, "start": 5},
        {"one_sided_above": 5, "precondition_every": 2},
        {"one_sided_above": 2, "weight_decay": 0.0},
    ],
    ids=["plain", "averaged", "intervals", "one-sided", "no factors"],
)
def test_paper(graft: str, over: dict[str, Any]) -> None:
    against_numpy(Shampoo, shampoo, {**SETTINGS, "graft": graft, **over}, shapes=SHAPES, tolerance=1e-7)


def plain(params: Any, **over: Any) -> Shampoo:
    """No momentum, no graft, no ridge, preconditioned from the first step on."""
    chosen = {"momentum": 0.0, "graft": "none", "start": 1, "precondition_every": 1, "eps": 0.0, "diagonal_eps": 0.0}
    return Shampoo(params, **{**chosen, **over})


def test_pytorch_optimizer() -> None:
    """Without momentum (theirs is mixed into the gradients of the factors) and blocks the definitions agree.

    Their ridge is added to the factors at the start, ours relative when the root is taken; both are made negligible.
    Vectors are left out, which theirs preconditions by a full matrix, and tensors of more than two dimensions, which
    have a factor for every dimension there.
    """
    peer = pytest.importorskip("pytorch_optimizer")
    shapes = ((4, 6), (7, 3), (5, 5))
    params, twins = parameters(shapes), parameters(shapes)
    grads = gradients(params, STEPS)
    run(plain(params, lr=0.05), params, grads)
    run(peer.Shampoo(twins, lr=0.05, momentum=0.0, matrix_eps=1e-30), twins, grads)
    assert_close(params, twins, 1e-6)


def test_pytorch_optimizer_with_intervals() -> None:
    """Their first refresh is at the end of the first interval, and there is no step worth the name before it."""
    peer = pytest.importorskip("pytorch_optimizer")
    shapes = ((4, 6), (7, 3))
    params, twins = parameters(shapes), parameters(shapes)
    before = [p.detach().clone() for p in params]
    grads = gradients(params, 12)
    opt = plain(params, lr=0.05, start=4, precondition_every=4, eps=1e-13)
    run(opt, params, grads[:3])
    for p, start in zip(params, before, strict=True):
        p.data.copy_(start)
    run(opt, params, grads[3:])
    run(peer.Shampoo(twins, lr=0.05, momentum=0.0, matrix_eps=1e-13, preconditioning_compute_steps=4), twins, grads)
    assert_close(params, twins, 1e-4)


@pytest.mark.parametrize("shape", [(4, 6), (7, 3), (5, 5), (3, 2, 2, 2)])
def test_first_step_is_the_polar_factor(shape: tuple[int, ...]) -> None:
    params = parameters((shape,))
    before = params[0].detach().clone()
    grads = gradients(params, 1)
    run(plain(params, lr=0.1), params, grads)
    matrix = grads[0][0].reshape(shape[0], -1)
    torch.testing.assert_close((before - params[0].detach()).reshape_as(matrix), 0.1 * polar(matrix), rtol=0, atol=1e-8)


def test_one_sided_first_step_is_the_polar_factor_too() -> None:
    """With one factor the exponent is -1/2, so the scales agree."""
    params = parameters(((12, 3),))
    before = params[0].detach().clone()
    grads = gradients(params, 1)
    opt = plain(params, lr=0.1, one_sided_above=5)
    run(opt, params, grads)
    assert sorted(opt.state[params[0]]) == ["momentum_buffer", "right", "right_root", "step", "sum_sq"]
    torch.testing.assert_close(before - params[0].detach(), 0.1 * polar(grads[0][0]), rtol=0, atol=1e-10)


def test_rank_one_gradients_are_normalized() -> None:
    params = parameters(((5, 4),))
    before = params[0].detach().clone()
    u, v = torch.arange(1.0, 6.0, dtype=torch.float64), torch.arange(1.0, 5.0, dtype=torch.float64)
    run(plain(params, lr=1.0), params, [[torch.outer(u, v)]])
    torch.testing.assert_close(before - params[0].detach(), torch.outer(u / u.norm(), v / v.norm()), rtol=0, atol=1e-7)


def test_diagonal_gradients_give_adagrad() -> None:
    params, twins = parameters(((6, 6),)), parameters(((6,),))
    params[0].data.copy_(torch.diag(twins[0].detach()))
    grads = gradients(twins, 25)
    run(plain(params, lr=0.1), params, [[torch.diag(g)] for (g,) in grads])
    run(torch.optim.Adagrad(twins, lr=0.1, eps=0.0), twins, grads)
    assert_close(params, [torch.diag(twins[0].detach())], 1e-9)


def test_vectors_and_single_rows_follow_adagrad() -> None:
    shapes = ((7,), (), (1, 5), (5, 1))
    params, twins = parameters(shapes), parameters(shapes)
    grads = gradients(params, 25)
    run(Shampoo(params, lr=0.1, momentum=0.0, diagonal_eps=1e-10), params, grads)
    run(torch.optim.Adagrad(twins, lr=0.1), twins, grads)
    assert_close(params, twins)


@pytest.mark.parametrize("nesterov", [False, True])
def test_before_the_start_it_is_the_grafted_method(nesterov: bool) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 10)
    common = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov}
    run(Shampoo(params, graft="sgd", start=11, **common), params, grads)
    run(torch.optim.SGD(twins, **common), twins, grads)
    assert_close(params, twins)


@pytest.mark.parametrize("graft", ["adagrad", "sgd"])
def test_grafting_keeps_the_length_and_the_direction(graft: Any) -> None:
    shapes = ((9, 6), (3, 2, 2, 2))
    names = ("grafted", "own", "diagonal")
    sets = {name: parameters(shapes) for name in names}
    starts = [p.detach().clone() for p in sets["own"]]
    common = {"momentum": 0.0, "eps": 1e-6, "block_size": 4, "lr": 0.1}
    opts = {
        "grafted": Shampoo(sets["grafted"], graft=graft, start=1, precondition_every=1, **common),
        "own": Shampoo(sets["own"], graft="none", start=1, precondition_every=1, **common),
        "diagonal": Shampoo(sets["diagonal"], graft=graft, start=1000, **common),
    }
    for step in gradients(sets["own"], 6):
        moves = {}
        for name in names:
            for p, start in zip(sets[name], starts, strict=True):
                p.data.copy_(start)
            run(opts[name], sets[name], [step])
            moves[name] = [(p.detach() - s).flatten() for p, s in zip(sets[name], starts, strict=True)]
        for grafted, own, diagonal in zip(*(moves[name] for name in names), strict=True):
            assert grafted.norm().item() == pytest.approx(diagonal.norm().item(), rel=1e-10)
            assert torch.cosine_similarity(grafted, own, dim=0).item() == pytest.approx(1.0, abs=1e-12)
            assert torch.cosine_similarity(own, diagonal, dim=0) < 0.999


def test_orthogonal_equivariance() -> None:
    """In rotated coordinates of either side the steps are the rotated steps: also with momentum and the SGD graft."""
    left, _ = torch.linalg.qr(parameters(((6, 6),), seed=5)[0].detach())
    right, _ = torch.linalg.qr(parameters(((4, 4),), seed=6)[0].detach())
    params = parameters(((6, 4),))
    twins = [nn.Parameter(left @ params[0].detach() @ right)]
    grads = gradients(params, 15)
    settings: dict[str, Any] = {"lr": 0.1, "graft": "sgd", "start": 2, "precondition_every": 3, "weight_decay": 0.1}
    run(Shampoo(params, **settings), params, grads)
    run(Shampoo(twins, **settings), twins, [[left @ g @ right] for (g,) in grads])
    assert_close([left @ params[0].detach() @ right], twins, 1e-9)


def test_without_a_graft_steps_do_not_depend_on_the_scale_of_the_loss() -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 10)
    run(plain(params, eps=1e-6), params, grads)
    run(plain(twins, eps=1e-6), twins, [[1e3 * g for g in step] for step in grads])
    assert_close(params, twins, 1e-9)


@pytest.mark.parametrize("every", [2, 5])
def test_refreshing_rarely_changes_nothing_where_the_factors_keep_their_direction(every: int) -> None:
    """On a constant gradient the sums only grow by a factor, which grafting removes."""
    shapes = ((6, 4), (5, 9))
    params, twins = parameters(shapes), parameters(shapes)
    grads = gradients(params, 1) * 20
    settings: dict[str, Any] = {"block_size": 5, "start": 1}
    run(Shampoo(params, precondition_every=every, **settings), params, grads)
    run(Shampoo(twins, precondition_every=1, **settings), twins, grads)
    assert_close(params, twins, 1e-9)


def test_roots_are_those_of_the_last_refresh() -> None:
    params = parameters(((6, 4),))
    opt = Shampoo(params, start=3, precondition_every=4, statistics_every=2, beta2=0.9)
    changes: dict[str, list[int]] = {"left": [], "left_root": []}
    for t, step in enumerate(gradients(params, 14), start=1):
        before = {name: opt.state[params[0]].get(name, torch.zeros(())).clone() for name in changes}
        run(opt, params, [step])
        for name, steps in changes.items():
            if t == 1 or not torch.equal(before[name], opt.state[params[0]][name]):
                steps.append(t)
    assert changes["left"] == [1, 3, 5, 7, 9, 11, 13]
    assert changes["left_root"] == [1, 3, 7, 11]  # the first is the zero that it starts from


def test_blocks_are_matrices_of_their_own() -> None:
    """Without a graft, a matrix in four blocks moves as four matrices do."""
    whole = parameters(((8, 6),))
    parts = [nn.Parameter(whole[0].detach()[i : i + 4, j : j + 3].clone()) for i in (0, 4) for j in (0, 3)]
    grads = gradients(whole, 12)
    cut = [[g[i : i + 4, j : j + 3] for i in (0, 4) for j in (0, 3)] for (g,) in grads]
    run(plain(whole, block_size=4, eps=1e-6), whole, grads)
    run(plain(parts, eps=1e-6), parts, cut)
    joined = torch.cat([torch.cat([p.detach() for p in parts[:2]], 1), torch.cat([p.detach() for p in parts[2:]], 1)])
    assert_close(whole, [joined], 1e-9)


def test_roots_by_products_agree_with_eigenvalues() -> None:
    params, twins = parameters(((6, 4), (12, 3))), parameters(((6, 4), (12, 3)))
    grads = gradients(params, 15)
    settings: dict[str, Any] = {"eps": 1e-3, "start": 2, "precondition_every": 2, "one_sided_above": 10}
    run(Shampoo(params, roots="products", **settings), params, grads)
    run(Shampoo(twins, **settings), twins, grads)
    assert_close(params, twins, 1e-4)


def test_rows_without_a_gradient_stay() -> None:
    """Of an embedding: one-sided on its width, and also in blocks in which nothing has been seen."""
    for settings in ({"one_sided_above": 10}, {"block_size": 4}):
        params = parameters(((16, 3),))
        before = params[0].detach().clone()
        opt = Shampoo(params, start=1, precondition_every=1, **settings)
        for (g,) in gradients(params, 8):
            g[5:] = 0
            run(opt, params, [[g]])
        assert torch.equal(params[0].detach()[5:], before[5:])
        assert (params[0].detach()[:5] != before[:5]).all()
        assert params[0].isfinite().all()


def test_any_model_trains_on_a_badly_scaled_quadratic_faster_than_adagrad() -> None:
    """f(W) = ||A W B - C||^2 / 2 with condition numbers of 100 on either side, the best of five rates each."""
    generator = torch.Generator().manual_seed(0)

    def scaled(n: int) -> Tensor:
        q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
        return (q * torch.logspace(0, -2, n, dtype=torch.float64)) @ q.mT

    a, b, aim = scaled(12), scaled(8), torch.randn(12, 8, generator=generator, dtype=torch.float64)

    def best(make: Any) -> float:
        losses = []
        for rate in (0.03, 0.1, 0.3, 1.0, 3.0):
            w = nn.Parameter(torch.zeros(12, 8, dtype=torch.float64))
            opt = make([w], rate)
            for _ in range(200):
                opt.zero_grad()
                loss = 0.5 * (a @ (w - aim) @ b).square().sum()
                loss.backward()
                opt.step()
            losses.append(float(loss.detach()))
        return min(losses)

    own = best(lambda p, lr: plain(p, lr=lr, eps=1e-9))
    assert own < 0.3 * best(lambda p, lr: torch.optim.Adagrad(p, lr=lr))


def test_bad_settings() -> None:
    p = [torch.zeros(2, 2)]
    for over, words in (
        ({"graft": "adam"}, "Shampoo: graft must be one of 'adagrad', 'sgd', 'none', got 'adam'"),
        ({"roots": "svd"}, "Shampoo: roots must be one of 'eigh', 'products', got 'svd'"),
        ({"block_size": 1}, "Shampoo: block_size must be an integer >= 2, got 1"),
        ({"precondition_every": 0}, "Shampoo: precondition_every must be an integer >= 1, got 0"),
        ({"start": 0}, "Shampoo: start must be an integer >= 1, got 0"),
        ({"beta2": 1.1}, r"Shampoo: beta2 must be a finite number in \[0, 1\], got 1.1"),
    ):
        with pytest.raises(ValueError, match=words):
            Shampoo(p, **over)  # type: ignore[arg-type]
