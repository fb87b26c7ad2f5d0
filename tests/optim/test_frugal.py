"""FRUGAL against its equations, AdamW and GaLore where it coincides with them, and the bytes that it keeps."""

import copy
import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import test_contract_errors as errors
import test_contract_state as state
import test_contract_step as step_contract
import test_contract_tensors as tensors
import torch
from optim_helpers import Case, assert_close, assert_same, gradients, parameters, run, snapshot
from oracle_helpers import against_numpy
from torch import Tensor, nn

from steepest.core.random import generator
from steepest.core.subspace import down, drawn, leading, rest
from steepest.optim import FRUGAL
from steepest.optim.frugal import is_active

SHAPES = [(4, 6), (9, 5), (4, 6), (3, 2, 3, 3), (8, 2, 2), (5, 5)]
PROJECTIONS = ("block", "columns", "random", "svd")


def bytes_held(opt: torch.optim.Optimizer) -> int:
    return sum(v.nbytes for entry in opt.state.values() for v in entry.values() if isinstance(v, Tensor))


# ------------------------------------------------------------------------------------------------ equations


def entries(rows: int, columns: int, count: int, seed: int, period: int, of: str) -> Any:
    """The mask of the active columns or entries, from the same random numbers."""
    source = generator(torch.device("cpu"), seed, period, rows, columns)
    size = columns if of == "columns" else rows * columns
    mask = np.zeros(size, dtype=bool)
    mask[torch.randperm(size, generator=source)[:count].numpy()] = True
    return np.broadcast_to(mask, (rows, columns)) if of == "columns" else mask.reshape(rows, columns)


def frugal(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    projection: str,
    density: float,
    gap: int,
    state_free: str,
    free_scale: float,
    seed: int,
) -> Any:
    """With full-sized statistics behind a mask, or behind a projector of the full size for singular vectors."""
    shape, g = g.shape, g.reshape(len(g), -1)
    rows, columns = g.shape
    period, since = (t - 1) // gap, (t - 1) % gap + 1
    if since == 1:
        s["m"], s["v"] = 0.0, 0.0
        if projection == "columns":
            s["on"] = entries(rows, columns, max(1, round(density * columns)), seed, period, "columns")
        elif projection == "random":
            s["on"] = entries(rows, columns, max(1, round(density * rows * columns)), seed, period, "random")
        else:
            u, _, vt = np.linalg.svd(g)
            rank = max(1, round(density * min(rows, columns)))
            s["left"] = np.eye(rows) if rows >= columns else u[:, :rank].T
            s["right"] = vt[:rank].T if rows >= columns else np.eye(columns)
    if projection == "svd":
        part = s["left"] @ g @ s["right"]
        rest = g - s["left"].T @ part @ s["right"].T
    else:
        part, rest = np.where(s["on"], g, 0.0), np.where(s["on"], 0.0, g)
    s["m"] = betas[0] * s["m"] + (1 - betas[0]) * part
    s["v"] = betas[1] * s["v"] + (1 - betas[1]) * part**2
    u = (s["m"] / (1 - betas[0] ** since)) / (np.sqrt(s["v"] / (1 - betas[1] ** since)) + eps)
    if projection == "svd":
        u = s["left"].T @ u @ s["right"].T
    free = {"sign": np.sign(rest), "sgd": rest, "none": 0 * rest}[state_free]
    return (1 - lr * weight_decay) * x - lr * u.reshape(shape) - lr * free_scale * free.reshape(shape)


@pytest.mark.parametrize("projection", ["columns", "random", "svd"])
@pytest.mark.parametrize("state_free", ["sign", "sgd", "none"])
def test_paper(projection: str, state_free: str) -> None:
    chosen = {
        "lr": 0.02,
        "betas": (0.8, 0.95),
        "eps": 1e-8,
        "weight_decay": 0.3,
        "projection": projection,
        "density": 0.4,
        "gap": 7,
        "state_free": state_free,
        "free_scale": 0.3,
        "seed": 5,
    }
    against_numpy(FRUGAL, frugal, chosen, shapes=SHAPES, tolerance=1e-9)


def adam(x: Any, g: Any, s: dict[str, Any], since: int, lr: float, betas: tuple[float, float], eps: float) -> Any:
    if since == 1:
        s["m"], s["v"] = 0.0, 0.0
    s["m"] = betas[0] * s["m"] + (1 - betas[0]) * g
    s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g**2
    return x - lr * (s["m"] / (1 - betas[0] ** since)) / (np.sqrt(s["v"] / (1 - betas[1] ** since)) + eps)


def test_paper_with_blocks() -> None:
    """Six matrices, a third of them per period: the last two, the two before them, the first two, and again."""
    params = parameters(SHAPES)
    chosen = {"lr": 0.02, "betas": (0.8, 0.95), "density": 1 / 3, "gap": 4, "free_scale": 0.3, "weight_decay": 0.1}
    opt = FRUGAL(params, **chosen)  # type: ignore[arg-type]
    numbers = [p.detach().numpy().copy() for p in params]
    memory: list[dict[str, Any]] = [{} for _ in params]
    turns = [(5, 4), (3, 2), (1, 0)]
    for t, step in enumerate(gradients(params, 30)):
        run(opt, params, [step])
        period, since = divmod(t, 4)
        for i, g in enumerate(step):
            x = numbers[i] * (1 - 0.02 * 0.1)
            if i in turns[period % 3]:
                numbers[i] = adam(x, g.numpy(), memory[i], since + 1, 0.02, (0.8, 0.95), 1e-8)
            else:
                numbers[i] = x - 0.02 * 0.3 * np.sign(g.numpy())
        held = [i for i, p in enumerate(params) if opt.state[p]["exp_avg"].numel()]
        assert held == sorted(turns[period % 3])
    for p, x in zip(params, numbers, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("projection", ["block", "columns", "random"])
def test_all_of_the_gradient_in_one_period_is_adamw(projection: Any) -> None:
    shapes = ((4, 6), (7, 3), (3, 2, 3, 2))
    params, twins = parameters(shapes), parameters(shapes)
    shared: Any = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    opt = FRUGAL(params, projection=projection, density=1.0, gap=10**9, **shared)
    adamw = torch.optim.AdamW(twins, **shared)
    for step in gradients(params, 40):
        run(opt, params, [step])
        run(adamw, twins, [step])
    assert_close(params, twins, 1e-13)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_no_state_is_the_sign_step(projection: Any) -> None:
    params = parameters(((4, 6), (7, 3), (3, 2, 3, 2)))
    expected = [p.detach().clone() for p in params]
    opt = FRUGAL(params, lr=0.01, density=0.0, projection=projection, gap=3)
    for step in gradients(params, 8):
        step[0][0, 0] = 0.0  # sign(0) = 0
        run(opt, params, [step])
        expected = [x - 0.01 * torch.sign(g) for x, g in zip(expected, step, strict=True)]
    assert_same([p.detach() for p in params], [e.detach() for e in expected])
    assert bytes_held(opt) == 0


def test_everything_that_is_no_matrix_follows_adamw() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    twins = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters()}
    opt = FRUGAL(net, lr=0.01, weight_decay=0.1, gap=3, density=0.5, projection="columns")
    assert [n for n, _ in opt.routing.named("matrix")] == ["1.weight"]  # type: ignore[union-attr]
    rest = [p for n, p in twins.items() if n != "1.weight"]
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.999), weight_decay=0.1)
    for step in gradients(list(net.parameters()), 25):
        for (n, p), g in zip(net.named_parameters(), step, strict=True):
            p.grad, twins[n].grad = g.clone(), g.clone()
        opt.step()
        adamw.step()
    assert_close([p for n, p in net.named_parameters() if n != "1.weight"], rest)


# ------------------------------------------------------------------------------------------------ peer


@pytest.mark.parametrize("shape", [(6, 4), (4, 9), (5, 5)])
def test_without_the_rest_and_on_singular_vectors_it_is_galore(shape: tuple[int, int]) -> None:
    """pytorch_optimizer's GaLore changes its projector at steps 1, gap, 2 gap and keeps the old statistics: the first
    gap - 1 steps agree. Its eps is under the bias correction, so it is 0 here. It has the SVD in float32."""
    from pytorch_optimizer import GaLore

    gap = 12
    params, twins = parameters((shape, shape)), parameters((shape, shape))
    opt = FRUGAL(params, lr=0.01, eps=0.0, projection="svd", density=0.5, gap=gap, state_free="none")
    rank = round(0.5 * min(shape))
    group = {"params": twins, "rank": rank, "update_proj_gap": gap, "scale": 1.0, "projection_type": "std"}
    galore = GaLore([group], lr=0.01, eps=0.0)
    grads = gradients(params, gap)
    run(opt, params, grads[:-1])
    run(galore, twins, grads[:-1])
    assert_close(params, twins, 2e-6)
    assert opt.state[params[0]]["exp_avg"].shape == galore.state[twins[0]]["exp_avg"].shape
    run(opt, params, grads[-1:])
    run(galore, twins, grads[-1:])
    assert (params[0] - twins[0]).abs().max() > 1e-4


# ------------------------------------------------------------------------------------------------ the split


def moved(g: Tensor, projection: Any, state_free: Any, free_scale: float = 1.0, **more: Any) -> Tensor:
    """What one step from zero does, per learning rate; plain gradient steps where Adam's two averages are left out."""
    p = nn.Parameter(torch.zeros_like(g))
    opt = FRUGAL([p], lr=1.0, projection=projection, state_free=state_free, free_scale=free_scale, eps=0.0, **more)
    run(opt, [p], [[g]])
    return -p.detach()


@pytest.mark.parametrize("projection", ["columns", "random", "svd"])
@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (5, 5)])
def test_the_split_is_orthogonal(projection: str, shape: tuple[int, int]) -> None:
    """The rest is what "sgd" adds to "none"; the projection is what that leaves of the gradient."""
    (g,) = gradients(parameters((shape,)), 1)[0]
    left = moved(g, projection, "sgd", density=0.4) - moved(g, projection, "none", density=0.4)
    part = g - left
    assert part.norm() > 0.1
    assert left.norm() > 0.1
    assert (part * left).sum().abs() < 1e-12
    assert float(part.square().sum() + left.square().sum()) == pytest.approx(float(g.square().sum()), rel=1e-12)
    if projection == "svd":
        values = torch.linalg.svdvals(g)
        rank = round(0.4 * min(shape))
        assert_close([torch.linalg.svdvals(part)[:rank]], [values[:rank]], 1e-10)
        assert_close([torch.linalg.svdvals(left)[: min(shape) - rank]], [values[rank:]], 1e-10)
    else:
        # A projection by a mask: applied to its own image (the same seed draws the same entries) it changes nothing.
        again = moved(part, projection, "sgd", density=0.4) - moved(part.clone(), projection, "none", density=0.4)
        assert torch.equal(again, torch.zeros_like(again))


def test_projector_is_idempotent_and_symmetric() -> None:
    for shape in ((6, 8), (8, 6)):
        (p,) = parameters((shape,))
        opt = FRUGAL([p], projection="svd", density=0.5)
        run(opt, [p], gradients([p], 1))
        basis = opt.state[p]["basis"]
        projector = basis.T @ basis if shape[0] >= shape[1] else basis @ basis.T
        assert_close([projector @ projector, projector.T], [projector, projector], 1e-12)
        assert int(torch.linalg.matrix_rank(projector)) == 3


@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (64, 200), (200, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_step_along_rounding_errors(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """A gradient of lower rank than the projection has no rest; the sign of its rounding error must not act."""
    torch.manual_seed(0)
    g = torch.randn(shape[0], 2, dtype=dtype) @ torch.randn(2, shape[1], dtype=dtype)
    full = torch.randn(shape, dtype=dtype)
    for matrix, rank in ((g, min(shape) // 2), (g, min(shape)), (full, min(shape)), (full, min(shape) - 1)):
        basis = leading(matrix, rank)
        left = rest(matrix, down(matrix, basis), basis)
        if rank == min(shape) - 1:
            assert left.count_nonzero() > 0.99 * left.numel()  # a genuine rest, nearly all of it, is kept
        else:
            assert left.count_nonzero() == 0


# ------------------------------------------------------------------------------------------------ choices


def test_columns_are_drawn_evenly_and_anew() -> None:
    like = torch.zeros(3, 10)
    seen: Counter[int] = Counter()
    for period in range(2000):
        chosen = drawn(10, 3, like, 7, period).tolist()
        assert len(set(chosen)) == 3
        seen.update(chosen)
    # Binomial with mean 600 and deviation 20.5: five deviations.
    assert set(seen) == set(range(10))
    assert max(abs(n - 600) for n in seen.values()) < 103
    assert drawn(10, 3, like, 7, 1).tolist() == drawn(10, 3, like, 7, 1).tolist()
    assert any(drawn(10, 3, like, 7, k).tolist() != drawn(10, 3, like, 8, k).tolist() for k in range(3))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 10])
@pytest.mark.parametrize("density", [0.1, 0.25, 0.3, 1 / 3, 0.5, 0.9, 1.0])
def test_blocks_visit_every_tensor_within_the_inverse_density(count: int, density: float) -> None:
    turns = math.ceil(1 / density)
    periods = [[place for place in range(count) if is_active(place, count, density, k)] for k in range(40 * turns)]
    for start in range(3 * turns):
        assert set(itertools.chain(*periods[start : start + turns])) == set(range(count))
    share = sum(map(len, periods)) / len(periods) / count
    assert share == pytest.approx(density, abs=1 / len(periods))
    assert all(len(period) <= math.ceil(round(count * density, 6)) for period in periods)
    if density == 0.25 and count == 8:
        assert periods[:4] == [[0, 1], [2, 3], [4, 5], [6, 7]]


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("density", [0.25, 0.5])
def test_bytes(projection: Any, density: float) -> None:
    """2 rho N statistics of 4 bytes at all times, and the singular vectors: measured."""
    shapes = ((64, 32),) * 4 + ((32, 64),) * 4
    params = parameters(shapes, torch.float32)
    count = sum(p.numel() for p in params)
    opt = FRUGAL(params, projection=projection, density=density, gap=2)
    basis = 8 * 4 * int(density * 32) * 32 if projection == "svd" else 0
    for step in gradients(params, 9):
        run(opt, params, [step])
        assert bytes_held(opt) == 2 * density * count * 4 + basis
    if projection == "block":
        held = [opt.state[p]["exp_avg"].numel() for p in params]
        assert sorted(set(held)) == [0, 64 * 32]


def test_blocks_never_hold_more_than_their_share() -> None:
    """Not even while the state is made: an optimizer that allocated all and then gave up most would not save memory."""
    made: list[int] = []
    original = FRUGAL.algorithm.state

    def counting(x: Tensor, settings: Any) -> Any:
        tensors = original(x, settings)  # type: ignore[operator]
        made.append(sum(t.numel() for t in tensors.values()))
        return tensors

    params = parameters(((8, 8),) * 8)
    opt = FRUGAL(params, gap=2)
    object.__setattr__(opt.algorithm, "state", counting)
    try:
        run(opt, params, gradients(params, 1))
    finally:
        object.__setattr__(opt.algorithm, "state", original)
    assert sum(made) == 2 * 2 * 64


# ------------------------------------------------------------------------------------------------ contract of blocks

BLOCKS = Case("frugal", {"lr": 0.01, "weight_decay": 0.1, "density": 0.5, "gap": 3, "free_scale": 0.3}, "blocks")


@pytest.mark.parametrize(
    "clause",
    [
        state.test_loaded_state_is_a_copy,
        state.test_state_dict_is_plain,
        step_contract.test_accumulated_gradients,
        step_contract.test_frozen_parameters_stay,
        step_contract.test_step_hooks,
        step_contract.test_mixed_dtypes_are_checked_together,
        tensors.test_broadcast_gradients,
        tensors.test_float32_follows_float64,
        tensors.test_only_empty_parameters,
        tensors.test_no_tensor_is_left_over,
        tensors.test_empty_and_scalar_parameters,
        errors.test_bad_parameters,
    ],
    ids=lambda f: f.__name__,
)
def test_blocks_keep_the_contract(clause: Any) -> None:
    clause(BLOCKS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_blocks_resume_and_copy(dtype: torch.dtype) -> None:
    state.test_resumes_bit_for_bit_from_a_file(BLOCKS, dtype)
    state.test_copies_continue_alike(BLOCKS, "pickle")
    state.test_copies_continue_alike(BLOCKS, "deepcopy")
    if dtype == torch.bfloat16:
        tensors.test_half_precision_is_the_float32_computation_rounded(BLOCKS, dtype)


@pytest.mark.parametrize("damage", state.DAMAGES, ids=lambda f: f.__name__.strip("_"))
def test_blocks_refuse_foreign_state(damage: Any) -> None:
    state.test_foreign_state_is_refused_and_nothing_changes(BLOCKS, damage)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("storage", ["float32", "8bit", "compensated"])
def test_resumes_within_a_period_bit_for_bit(projection: Any, at: int, storage: Any) -> None:
    shapes = ((64, 70), (6, 8), (64, 70), (5, 6), (8, 4))
    common: Any = {"gap": 3, "density": 0.4, "projection": projection, "lr": 0.01}
    common |= {"rounding": "compensated"} if storage == "compensated" else {"state_dtype": storage}
    dtype = torch.bfloat16 if storage == "compensated" else torch.float32
    params = parameters(shapes, dtype)
    opt = FRUGAL(params, **common)
    run(opt, params, gradients(params, at))
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = FRUGAL(twins, **{**common, "gap": 7, "density": 0.9})
    twin.load_state_dict(copy.deepcopy(state.through_file(opt.state_dict())))
    assert_same(snapshot(opt, params), snapshot(twin, twins))
    more = gradients(params, 7, seed=4)
    run(opt, params, more)
    run(twin, twins, more)
    assert_same(snapshot(opt, params), snapshot(twin, twins))


def test_what_rounding_lost_survives_a_change_of_blocks() -> None:
    """Compensated bfloat16 parameters follow float32 ones closer than a rounding of bfloat16, whatever the period."""
    twins = parameters(((6, 8),) * 4, torch.float32)
    params = [nn.Parameter(p.detach().bfloat16()) for p in twins]
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    common: Any = {"lr": 1e-4, "gap": 2, "density": 0.5}
    opt, twin = FRUGAL(params, rounding="compensated", **common), FRUGAL(twins, **common)
    for step in gradients(params, 60):
        run(opt, params, [step])
        run(twin, twins, [[g.float() for g in step]])
    for p, q in zip(params, twins, strict=True):
        exact = p.float() + opt.state[p]["parameter:compensation"].float()
        assert (exact - q).abs().max() < 0.02 * (p.float() - q).abs().max()


def test_functional_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="the functional form has no order of tensors"):
        FRUGAL.functional()
    FRUGAL.functional(projection="columns")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"density": 1.1}, r"FRUGAL: density must be a finite number in \[0, 1\], got 1.1"),
        ({"gap": 0}, "FRUGAL: gap must be an integer >= 1, got 0"),
        ({"projection": "rows"}, "FRUGAL: projection must be one of 'block', 'columns', 'random', 'svd', got 'rows'"),
        ({"state_free": "adam"}, "FRUGAL: state_free must be one of 'sign', 'sgd', 'none', got 'adam'"),
        ({"free_scale": -1.0}, r"FRUGAL: free_scale must be a finite number in \[0, inf\), got -1.0"),
    ],
)
def test_bad_settings(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FRUGAL([torch.zeros(2, 2)], **settings)
    with pytest.raises(ValueError, match=r"parameter 0 of shape \(3,\) is not a matrix; give .* rule='adamw'"):
        FRUGAL([torch.zeros(3)])
