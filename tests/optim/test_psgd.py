"""PSGD in its three groups: against the equations with explicit matrices, a peer, and what it must not depend on."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assert_same, gradients, parameters, run, snapshot
from oracle_helpers import against_numpy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from steepest.core.random import normal
from steepest.optim import PSGD, PSGDLRA, PSGDXMat
from steepest.optim.lie_optimizer import LieOptimizer, _refits

F64 = torch.float64
ALL = pytest.mark.parametrize("cls", [PSGD, PSGDLRA, PSGDXMat], ids=lambda c: c.__name__)
SETTINGS: dict[str, Any] = {
    "lr": 0.05,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "precond_lr": 0.2,
    "update_probability": 0.7,
    "lipschitz_beta": 0.85,
    "damping": 0.1,
    "clip_rms": 1.2,
    "clip_value": 1.4,
    "seed": 3,
}


# ------------------------------------------------------------------------------------------------ the equations


def pair(g: Any, m: Any, t: int, s: dict[str, Any]) -> tuple[Any, Any]:
    v = normal(torch.empty(g.size), s["seed"], t).numpy().astype(float)
    h = (m if s.get("curvature") == "momentum" else g).reshape(-1)
    return v, h + s["damping"] * v


def refits(t: int, p: float) -> bool:
    return math.ceil(round(t * p, 9)) > math.ceil(round((t - 1) * p, 9))


def scale_of(h: Any) -> float:
    return float(np.mean(h**4) ** (-1 / 8))


def running(state: dict[str, Any], key: str, seen: float, beta: float) -> float:
    state[key] = max(beta * state.get(key, 0.0) + (1 - beta) * seen, seen)
    return float(state[key])


def power(a: Any) -> float:
    """Four rounds of power iteration from the largest row."""
    x = a[np.argmax((a**2).sum(1))]
    for _ in range(4):
        x = a @ (x / np.linalg.norm(x))
    return float(np.linalg.norm(x))


def stepped(x: Any, m: Any, q: Any, s: dict[str, Any]) -> Any:
    """Clip and descend, with P = Q'Q explicit."""
    u = q.T @ (q @ m.reshape(-1))
    u = u * min(1.0, s["clip_rms"] / math.sqrt(np.mean(u**2)))
    u = np.clip(u, -s["clip_value"], s["clip_value"])
    return (1 - s["lr"] * s["weight_decay"]) * x - s["lr"] * u.reshape(x.shape)


def average(g: Any, state: dict[str, Any], t: int, s: dict[str, Any]) -> Any:
    beta = min((t - 1) / t, s["momentum"])
    state["m"] = beta * state.get("m", np.zeros_like(g)) + (1 - beta) * g
    return state["m"]


def kron_oracle(x: Any, g: Any, state: dict[str, Any], t: int, **s: Any) -> Any:
    m = average(g, state, t, s)
    dims = [n for n in x.shape if n > 1] or [1]
    dense = [n > 1 and n * n <= s.get("max_skew", 1.0) * x.size for n in dims]
    if t == 1:
        state["q"] = [np.eye(n) for n in dims]
    if refits(t, s["update_probability"]):
        v, h = pair(g, m, t, s)
        if t == 1:
            state["q"][0] = state["q"][0] * scale_of(h)  # all in one factor: how it is shared out must not matter
        q = product(state["q"])
        a, b = (q @ h).reshape(dims), (np.linalg.inv(q).T @ v).reshape(dims)
        for i, n in enumerate(dims):
            left, right = (np.moveaxis(z, i, 0).reshape(n, -1) for z in (a, b))
            total, error = left @ left.T + right @ right.T, left @ left.T - right @ right.T
            seen = power(total) if dense[i] else np.diag(total).max()
            rate = s["precond_lr"] / running(state, f"l{i}", seen, s["lipschitz_beta"])
            change = np.triu(error) if dense[i] else np.diag(np.diag(error))
            state["q"][i] = state["q"][i] - rate * change @ state["q"][i]
    return stepped(x, m, product(state["q"]), s)


def product(factors: Any) -> Any:
    full = np.ones((1, 1))
    for q in factors:
        full = np.kron(full, q)
    return full


def lra_oracle(x: Any, g: Any, state: dict[str, Any], t: int, **s: Any) -> Any:
    m, d = average(g, state, t, s), x.size
    r = min(s["rank"], d - 1)
    identity = np.eye(d)
    if t == 1:
        for name in ("left", "right"):
            drawn = normal(torch.empty(d * r), s["seed"], name).numpy().astype(float).reshape(d, r)
            state[name] = drawn * (0.1 / max(d * r, 1)) ** 0.5
        state["s"], state["count"] = np.ones(d), 0
    u, w, diagonal = state["left"], state["right"], state["s"]
    if refits(t, s["update_probability"]):
        state["count"] += 1
        v, h = pair(g, m, t, s)
        if t == 1:
            diagonal = diagonal * scale_of(h)
        if r:
            rho = math.sqrt(np.linalg.norm(u) / np.linalg.norm(w))
            u, w = u / rho, w * rho
        q = (identity + u @ w.T) @ np.diag(diagonal)
        p = q.T @ q
        a, b = q @ h, np.linalg.inv(q).T @ v
        hph, vpv = h * (p @ h), v * (np.linalg.inv(p) @ v)
        beta = s["lipschitz_beta"]
        bound = running(state, "ls", np.abs(hph).max() + np.abs(vpv).max(), beta)
        diagonal = diagonal * (1 - s["precond_lr"] / bound * (hph - vpv))
        if r:
            error, first = np.outer(a, a) - np.outer(b, b), state["count"] % 2 == 0
            other = w if first else u
            gram = other @ other.T
            seen = sum(np.linalg.norm(z) * np.linalg.norm(gram @ z) for z in (a, b))
            rate = s["precond_lr"] / running(state, f"l{first}", seen, beta)
            if first:
                u = u - rate * error @ w @ (np.eye(r) + w.T @ u)
            else:
                w = w - rate * (identity + w @ u.T) @ error @ u
        state |= {"left": u, "right": w, "s": diagonal}
    return stepped(x, m, (identity + u @ w.T) @ np.diag(diagonal), s)


def xmat_oracle(x: Any, g: Any, state: dict[str, Any], t: int, **s: Any) -> Any:
    """With Q as a matrix: the error's projection is its diagonal and anti-diagonal."""
    m, d = average(g, state, t, s), x.size
    shape = np.eye(d) + np.fliplr(np.eye(d)) > 0
    q = state.setdefault("q", np.eye(d))
    if refits(t, s["update_probability"]):
        v, h = pair(g, m, t, s)
        if t == 1:
            q = q * scale_of(h)
        a, b = q @ h, np.linalg.inv(q).T @ v
        rate = s["precond_lr"] / running(state, "l", (a**2 + b**2).max(), s["lipschitz_beta"])
        state["q"] = q = q - rate * np.where(shape, np.outer(a, a) - np.outer(b, b), 0.0) @ q
    return stepped(x, m, q, s)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("cls", "oracle", "more"),
    [
        (PSGD, kron_oracle, {}),
        (PSGD, kron_oracle, {"max_skew": 100.0, "curvature": "momentum"}),
        (PSGD, kron_oracle, {"max_skew": 0.0, "update_probability": 1.0}),
        (PSGDLRA, lra_oracle, {"rank": 2}),
        (PSGDLRA, lra_oracle, {"rank": 0, "curvature": "momentum"}),
        (PSGDXMat, xmat_oracle, {}),
        (PSGDXMat, xmat_oracle, {"curvature": "momentum", "update_probability": 0.25}),
    ],
    ids=lambda v: v.__name__ if callable(v) else "-".join(map(str, v.values())) if isinstance(v, dict) else v,
)
def test_the_equations_with_explicit_matrices(cls: Any, oracle: Any, more: dict[str, Any], seed: int) -> None:
    against_numpy(cls, oracle, {**SETTINGS, **more}, seed, tolerance=1e-9)


@pytest.mark.parametrize(("skew", "mode"), [(0.0, "all_diag"), (1e9, None)])
def test_against_pytorch_optimizer(monkeypatch: pytest.MonkeyPatch, skew: float, mode: str | None) -> None:
    """Step by step, with what is not the algorithm made equal.

    That is: the random vectors, the estimate of the spectral norm, no running curvature, no momentum (theirs is
    corrected, ours a plain average at first), no balancing (which must not matter; ours balances). They solve in
    float32 and clip at 1.1 over a root mean square that has 1e-6 added.
    """
    from pytorch_optimizer.optimizer import psgd as peer

    from steepest.core.lie import largest_eigenvalue

    shapes = ((4, 6), (5, 3), (2, 3, 4))
    params, twins = parameters(shapes), parameters(shapes)
    opt = PSGD(
        params,
        lr=0.05,
        momentum=0.0,
        weight_decay=0.1,
        damping=0.0,
        update_probability=1.0,
        lipschitz_beta=0.0,
        init_scale=1.0,
        clip_rms=1.1,
        clip_value=None,
        max_skew=skew,
    )
    other = peer.Kron(
        twins,
        lr=0.05,
        momentum=0.0,
        weight_decay=0.1,
        pre_conditioner_update_probability=1.0,
        memory_save_mode=mode,
        balance_prob=0.0,
        precondition_dtype=F64,
    )
    monkeypatch.setattr(peer, "norm_lower_bound", largest_eigenvalue)
    step = 0
    draw = lambda like, **_: normal(torch.empty(like.numel()), 0, step).double().reshape(like.shape)  # noqa: E731
    monkeypatch.setattr(peer.torch, "randn_like", draw)
    for step, grads in enumerate(gradients(params, 25), start=1):  # noqa: B007
        run(opt, params, [[0.3 * g for g in grads]])
        run(other, twins, [[0.3 * g for g in grads]])
    assert_close(params, twins, 1e-5)


@ALL
def test_numbers_alone_are_treated_alike_in_all_groups(cls: Any) -> None:
    """The groups meet in tensors of one element, and there P^-2 is the running mean square, so steps follow signs."""
    shapes = ((), (1,), (1, 1))
    params, twins = parameters(shapes), parameters(shapes)
    opt, twin = cls(params, lr=0.1), PSGD(twins, lr=0.1, update_probability=1.0)
    opt.param_groups[0]["update_probability"] = 1.0
    grads = gradients(params, 20)
    run(opt, params, grads)
    run(twin, twins, grads)
    assert_close(params, twins, 1e-12)


@ALL
@pytest.mark.parametrize("curvature", ["gradient", "momentum"])
def test_steps_do_not_depend_on_the_unit_of_the_loss(cls: Any, curvature: str) -> None:
    ends = []
    for unit in (1.0, 1e-6, 1e6):
        params = parameters()
        opt = cls(params, lr=0.1, curvature=curvature, damping=0.0)
        run(opt, params, [[unit * g for g in step] for step in gradients(params, 20)])
        ends.append([p.detach() for p in params])
    assert_close(ends[0], ends[1], 1e-8)
    assert_close(ends[0], ends[2], 1e-8)


# ------------------------------------------------------------------------------------------------ when it is fitted


def test_steps_that_refit() -> None:
    def steps(probability: float | None, until: int) -> list[int]:
        return [t for t in range(1, until + 1) if _refits(t, probability) > _refits(t - 1, probability)]

    assert steps(0.1, 40) == [1, 11, 21, 31]
    assert steps(1.0, 5) == [1, 2, 3, 4, 5]
    assert steps(0.4, 10) == [1, 3, 6, 8]
    assert steps(None, 500) == list(range(1, 501))
    late = steps(None, 20_000)
    assert len([t for t in late if t > 10_000]) == pytest.approx(300, abs=1)


def test_the_schedule_is_the_peers() -> None:
    from pytorch_optimizer.optimizer.psgd import precondition_update_prob_schedule

    theirs = precondition_update_prob_schedule()
    expected = sum(float(theirs(n)) for n in range(6000))
    assert _refits(6000, None) == pytest.approx(expected, abs=2)


@ALL
def test_the_preconditioner_stands_still_between(cls: Any) -> None:
    params = parameters()
    opt = cls(params, lr=0.1, update_probability=0.25)
    grads = gradients(params, 6)
    kept: list[list[Tensor]] = []
    for step in grads:
        run(opt, params, [step])
        state = opt.state[params[0]]
        kept.append([v.clone() for k, v in state.items() if k not in ("step", "momentum")])
    same = [all(torch.equal(a, b) for a, b in zip(*kept[i : i + 2], strict=True)) for i in range(5)]
    assert same == [True, True, True, False, True]


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@ALL
def test_applying_it_takes_products_alone(cls: Any) -> None:
    """Steps that do not refit solve nothing, decompose nothing and draw nothing; those that do, do not invert."""
    params = parameters(((6, 6), (3, 4, 5), (7,)))
    opt = cls(params, lr=0.1, update_probability=0.5)
    seen = []
    for step in gradients(params, 2):
        with Recorder() as recorder:
            run(opt, params, [step])
        seen.append(recorder.seen)
    costly = ("solve", "lu_", "_qr", "eig", "svd", "inv", "cholesky", "randn", "normal_")
    assert not [name for name in seen[1] if any(word in name for word in costly)]
    assert "randn" in seen[0]
    assert not [name for name in seen[0] if any(word in name for word in ("eig", "svd", "inv", "_qr"))]


# ------------------------------------------------------------------------------------------------ Hessians


def quadratic(shape: tuple[int, ...], seed: int, cls: Any) -> tuple[Tensor, Tensor]:
    """A Hessian of the group's form, with eigenvalues of both signs, and its absolute inverse."""
    g = torch.Generator().manual_seed(seed)
    d = math.prod(shape)
    if cls is PSGD:
        roots = [torch.eye(n, dtype=F64) + 0.4 * torch.randn(n, n, generator=g, dtype=F64).triu() for n in shape]
        q = torch.kron(roots[0], roots[1])
    elif cls is PSGDXMat:
        q = torch.diag(0.5 + torch.rand(d, generator=g, dtype=F64)) + 0.3 * torch.eye(d, dtype=F64).flip(1)
    else:
        u, v = (0.5 * torch.randn(d, 1, generator=g, dtype=F64) for _ in range(2))
        q = (torch.eye(d, dtype=F64) + u @ v.T) * (0.5 + torch.rand(d, generator=g, dtype=F64))
    inverse = q.T @ q
    values, vectors = torch.linalg.eigh(inverse)
    values[0] = -values[0]
    return (vectors / values) @ vectors.T, inverse


@ALL
def test_observed_products_give_newton_steps(cls: Any) -> None:
    """With P = |H|^-1 a step of length one solves along positive curvature and leaves along negative curvature."""
    hessian, inverse = quadratic((2, 3), 1, cls)
    p = nn.Parameter(torch.zeros(2, 3, dtype=F64))
    more = {PSGD: {"max_skew": 10.0}, PSGDLRA: {"rank": 1}, PSGDXMat: {}}[cls]
    opt = cls([p], lr=1.0, momentum=0.0, curvature="hessian", clip_rms=None, clip_value=None, **more)
    for k in range(2500):
        opt.param_groups[0]["precond_lr"] = 0.3 * 0.01 ** (k / 2500)
        (v,) = opt.probes()
        opt.observe([v], [(hessian @ v.reshape(-1)).reshape(2, 3)])
    assert opt.state[p]["step"] == 0
    found = []
    for e in torch.eye(6, dtype=F64):
        twin = copy.deepcopy(opt)
        (q,) = twin.param_groups[0]["params"]
        q.grad = e.reshape(2, 3)
        twin.step()
        found.append(-q.detach().reshape(-1))
    error = torch.linalg.matrix_norm(torch.stack(found) - inverse) / torch.linalg.matrix_norm(inverse)
    assert error < 0.08


@ALL
def test_products_of_autograd_solve_least_squares(cls: Any) -> None:
    """Badly scaled features; the loss does not depend on one of the parameters, which stays."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=g, dtype=F64) * torch.tensor([3.0, 1.0, 0.3], dtype=F64)
    y = torch.randn(40, 2, generator=g, dtype=F64)
    weight, bias, unused = (nn.Parameter(torch.zeros(s, dtype=F64)) for s in ((3, 2), (2,), (4,)))
    params = [weight, bias, unused]
    opt = cls(params, lr=0.2, momentum=0.0, curvature="hessian", clip_rms=None, clip_value=None)
    for _ in range(600):
        loss = (x @ weight + bias - y).square().mean()
        grads = torch.autograd.grad(loss, [weight, bias], create_graph=True)
        probes = opt.probes()
        products = torch.autograd.grad(grads, params, probes[:2], allow_unused=True)
        opt.observe(probes, products)
        weight.grad, bias.grad = (t.detach() for t in grads)
        opt.step()
    exact = torch.linalg.lstsq(torch.cat([x, torch.ones(40, 1, dtype=F64)], 1), y).solution
    torch.testing.assert_close(torch.cat([weight, bias[None]]).detach(), exact, rtol=1e-4, atol=1e-4)
    assert unused not in opt.state
    assert torch.equal(unused.detach(), torch.zeros(4, dtype=F64))
    assert opt.param_groups[0]["observations"] == 600


@ALL
def test_observations_resume_bit_for_bit(cls: Any) -> None:
    def advance(opt: LieOptimizer, params: list[Any], count: int, seed: int) -> None:
        for grads in gradients(params, count, seed):
            probes = opt.probes()
            opt.observe(probes, [v**3 for v in probes])
            run(opt, params, [grads])

    params, twins = parameters(dtype=torch.bfloat16), parameters(dtype=torch.bfloat16)
    opt, twin = cls(params, curvature="hessian"), cls(twins, curvature="hessian")
    advance(opt, params, 4, 1)
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    assert_same(opt.probes(), twin.probes())
    advance(opt, params, 4, 2)
    advance(twin, twins, 4, 2)
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@ALL
def test_before_anything_is_observed_it_is_momentum(cls: Any) -> None:
    params, twins = parameters(), parameters()
    opt = cls(params, lr=0.1, momentum=0.0, curvature="hessian", clip_rms=None, clip_value=None)
    sgd = torch.optim.SGD(twins, lr=0.1)
    grads = gradients(params, 3)
    run(opt, params, grads)
    run(sgd, twins, grads)
    # The directions that low rank begins with are small, but not zero.
    assert_close(params, twins, 0.03 if cls is PSGDLRA else 1e-12)


@ALL
def test_probes_are_fresh_after_each_observation(cls: Any) -> None:
    params = parameters()
    opt = cls(params, curvature="hessian")
    first = opt.probes()
    assert_same(first, opt.probes())
    opt.observe(first, first)
    assert not torch.equal(first[0], opt.probes()[0])
    many = torch.cat([t.reshape(-1) for _ in range(60) for t in (opt.observe(first, first), opt.probes())[1]])
    assert abs(float(many.mean())) < 0.08
    assert abs(float(many.std()) - 1) < 0.05


@ALL
def test_bad_observations_are_refused(cls: Any) -> None:
    name = cls.__name__
    p = nn.Parameter(torch.zeros(2, 3))
    good = torch.ones(2, 3)
    with pytest.raises(ValueError, match=f"{name}: observe needs curvature='hessian', got 'gradient'"):
        cls([p]).observe([good], [good])
    opt = cls([("w", p)], curvature="hessian")
    with pytest.raises(ValueError, match=f"{name}: products must be 1 tensors, one per parameter, got 2"):
        opt.observe([good], [good, good])
    with pytest.raises(
        ValueError, match=rf"{name}: probes of parameter 'w' must have its shape \(2, 3\), got \(3, 2\)"
    ):
        opt.observe([good.T], [good])
    assert not opt.state
    for argument, value in (("curvature", "fisher"), ("precond_lr", 1.0), ("update_probability", 0.0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: {argument} must be"):
            cls([p], **{argument: value})


def test_bfloat16_products_are_for_whitening_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from steepest.core import lie

    monkeypatch.setattr(lie, "fast_dtype", lambda q: torch.bfloat16)
    ends = {}
    for curvature in ("gradient", "hessian"):
        for fast in (False, True):
            p = nn.Parameter(torch.zeros(160, 160))
            opt = PSGD([p], lr=1.0, curvature=curvature, fast_products=fast, clip_rms=None)
            if curvature == "hessian":
                opt.observe(opt.probes(), [v**3 for v in opt.probes()])
            run(opt, [p], gradients([p], 1))
            ends[curvature, fast] = p.detach()
    assert torch.equal(ends["hessian", False], ends["hessian", True])
    error = (ends["gradient", True] - ends["gradient", False]).norm() / ends["gradient", False].norm()
    assert 1e-5 < float(error) < 1e-2


@ALL
@pytest.mark.parametrize("kind", ["bfloat16", "8bit"])
def test_low_precision_is_for_the_momentum_alone(cls: Any, kind: Any) -> None:
    """Rounded factors would leave the group; square matrices have factors of their own shape."""
    params = parameters(((64, 64), (5000,)), torch.float32)
    opt = cls(params, state_dtype=kind, curvature="hessian")
    opt.observe(opt.probes(), [v**3 for v in opt.probes()])
    run(opt, params, gradients(params, 2))
    for p in params:
        dtypes = {k: v.dtype for k, v in opt.state[p].items() if isinstance(v, Tensor)}
        coarse = {torch.bfloat16} if kind == "bfloat16" else {torch.int8}
        assert {dtypes.pop("momentum")} == coarse
        assert set(dtypes.values()) == {torch.float32}
