"""MARS against its equations, peers, and the methods it becomes: AdamW, Lion, Muon, STORM."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assert_same, assign, cosine, gradients, parameters, run, snapshot
from oracle_helpers import against_numpy, schedule
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from steepest.optim import Lion, MARSAdamW, MARSLion, MARSShampoo, Muon

MATRICES = [(4, 6), (7, 3), (4, 6), (3, 2, 3, 3), (8, 2, 2), (5, 5)]


def corrected(g: Any, s: dict[str, Any], t: int, b1: float, gamma: float, max_norm: float | None) -> Any:
    c = g if t == 1 else g + gamma * b1 / (1 - b1) * (g - s["g"])
    s["g"] = g
    size = np.sqrt((c**2).sum())
    return c / size * max_norm if max_norm is not None and size > max_norm else c


def adamw(x: Any, c: Any, s: dict[str, Any], t: int, lr: float, betas: Any, eps: float, weight_decay: float) -> Any:
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * c
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * c**2
    return x - lr * (s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps) + weight_decay * x)


def mars_adamw(x: Any, g: Any, s: Any, t: int, *, gamma: float, max_norm: float | None, betas: Any, **rest: Any) -> Any:
    c = corrected(g, s, t, betas[0], gamma, max_norm) if x.ndim > 1 else g
    return adamw(x, c, s, t, betas=betas, **rest)


def mars_lion(
    x: Any, g: Any, s: Any, t: int, *, lr: float, momentum: float, gamma: float, weight_decay: float, max_norm: Any
) -> Any:
    c = corrected(g, s, t, momentum, gamma, max_norm) if x.ndim > 1 else g
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * c
    return x - lr * (np.sign(s["m"]) + weight_decay * x)


def mars_shampoo(x: Any, g: Any, s: Any, t: int, *, lr: float, momentum: float, **rest: Any) -> Any:
    c = corrected(g, s, t, momentum, rest["gamma"], rest["max_norm"]).reshape(x.shape[0], -1)
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * c
    u, _, vt = np.linalg.svd(s["m"] / (1 - momentum), full_matrices=False)
    size = np.sqrt(max(1, c.shape[0] / c.shape[1]))
    return x - lr * (size * (u @ vt).reshape(x.shape) + rest["weight_decay"] * x)


@pytest.mark.parametrize("max_norm", [1.0, 3.0, None])
@pytest.mark.parametrize("gamma", [0.025, 0.5])
def test_paper(gamma: float, max_norm: float | None) -> None:
    shared = {"gamma": gamma, "max_norm": max_norm, "weight_decay": 0.1}
    against_numpy(MARSAdamW, mars_adamw, {"lr": 0.01, "betas": (0.9, 0.97), "eps": 1e-8, **shared})
    against_numpy(MARSLion, mars_lion, {"lr": 0.01, "momentum": 0.9, **shared}, seed=3)
    chosen = {"lr": 0.01, "momentum": 0.9, "orthogonalization": "exact", **shared}
    against_numpy(MARSShampoo, mars_shampoo, chosen, shapes=MATRICES, tolerance=1e-8)


@pytest.mark.parametrize("kind", ["adamw", "lion"])
def test_pytorch_optimizer(kind: str) -> None:
    """The peer starts from a previous gradient of zero: equal once the first gradient is zero, where both agree."""
    peer = pytest.importorskip("pytorch_optimizer")
    shapes = ((4, 6), (3, 2, 3, 2), (7, 3)) if kind == "lion" else ((4, 6), (3, 2, 3, 2), (5,), (7, 3))
    params, twins = parameters(shapes), parameters(shapes)
    common = {"gamma": 0.2, "weight_decay": 0.1}
    eps = 1e-20  # the peer adds it before it corrects the bias
    if kind == "adamw":
        opt: Any = MARSAdamW(params, lr=0.01, betas=(0.9, 0.97), eps=eps, **common)
    else:
        opt = MARSLion(params, lr=0.01, momentum=0.9, **common)
    own = {"lr_1d": 0.01, "betas_1d": (0.9, 0.97), "weight_decay_1d": 0.1}
    other = peer.MARS(twins, lr=0.01, betas=(0.9, 0.97), mars_type=kind, eps=eps, **common, **own)
    grads = gradients(params, 30)
    grads[0] = [torch.zeros_like(g) for g in grads[0]]
    for step in grads:
        run(opt, params, [step])
        run(other, twins, [step])
    assert_close(params, twins, 1e-9)


@pytest.mark.parametrize("exact", [False, True])
def test_without_correction_and_clip_it_is_adamw(exact: bool) -> None:
    params, twins = parameters(), parameters()
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.95, 0.99), "weight_decay": 0.1}
    opt = MARSAdamW(params, gamma=0.0, max_norm=None, exact=exact, **settings)
    twin = torch.optim.AdamW(twins, **settings)
    for step in gradients(params, 20):
        assign(params, step)
        opt.step(lambda: None)  # the gradients are there
        run(twin, twins, [step])
    assert_close(params, twins)


def test_vectors_follow_adamw() -> None:
    params, twins = parameters(((5,), ())), parameters(((5,), ()))
    grads = [[100 * g for g in step] for step in gradients(params, 20)]
    run(MARSAdamW(params, lr=0.01, gamma=0.5, betas=(0.9, 0.99)), params, grads)
    run(torch.optim.AdamW(twins, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0), twins, grads)
    assert_close(params, twins)


def test_lion_is_a_special_case() -> None:
    """With gamma = 1 - beta1 / beta2 and momentum beta2, after a first gradient of zero; small, so never clipped."""
    shapes = ((4, 6), (7, 3))
    params, twins = parameters(shapes), parameters(shapes)
    grads = [[1e-3 * g for g in step] for step in gradients(params, 30)]
    grads[0] = [torch.zeros_like(g) for g in grads[0]]
    opt = MARSLion(params, lr=0.01, momentum=0.98, gamma=1 - 0.9 / 0.98, weight_decay=0.1)
    run(opt, params, grads)
    run(Lion(twins, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1), twins, grads)
    assert_close(params, twins)


def test_muon_is_a_special_case() -> None:
    params, twins = parameters(MATRICES), parameters(MATRICES)
    grads = gradients(params, 10)
    shared: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    for kind in ("exact", "newton-schulz", "polar-express"):
        run(MARSShampoo(params, gamma=0.0, max_norm=None, orthogonalization=kind, **shared), params, grads)  # type: ignore[arg-type]
        run(Muon(twins, nesterov=False, orthogonalization=kind, **shared), twins, grads)  # type: ignore[arg-type]
        assert_close(params, twins, 1e-9)


def test_what_is_no_matrix_follows_adamw() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    twins = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters()}
    opt = MARSShampoo(net, weight_decay=0.1, adamw_lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-6, exact=True)
    assert [n for n, _ in opt.routing.named("matrix")] == ["1.weight"]  # type: ignore[union-attr]
    rest = [p for n, p in twins.items() if n != "1.weight"]
    adam = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    for step in gradients(list(net.parameters()), 25):
        for (n, p), g in zip(net.named_parameters(), step, strict=True):
            p.grad, twins[n].grad = g.clone(), g.clone()
        opt.step(lambda: None)
        adam.step()
    assert_close([p for n, p in net.named_parameters() if n != "1.weight"], rest)


def test_the_first_step_has_no_correction_and_each_tensor_is_clipped_by_itself() -> None:
    params = parameters(((4, 6), (3, 3), (5,)))
    grads = gradients(params, 2)
    grads[0] = [10 * grads[0][0], 0.01 * grads[0][1], 10 * grads[0][2]]
    opt = MARSAdamW(params, betas=(0.9, 0.99), gamma=0.5)
    run(opt, params, grads[:1])
    expected = [grads[0][0] / grads[0][0].norm(), *grads[0][1:]]
    assert_close([10 * opt.state[p]["exp_avg"] for p in params], expected)
    run(opt, params, grads[1:])
    c = grads[1][1] + 0.5 * 9 * (grads[1][1] - grads[0][1])
    assert c.norm() > 1
    assert_close([opt.state[params[1]]["exp_avg"]], [0.09 * grads[0][1] + 0.1 * c / c.norm()])


# ------------------------------------------------------------------------------------------------ the exact form


class Noisy:
    """Least squares on a mini-batch that each step draws anew, with a closure for each step."""

    def __init__(self, shape: tuple[int, int] = (3, 4), seed: int = 0, noise: float = 1.0) -> None:
        source = torch.Generator().manual_seed(seed)
        self.source, self.noise = source, noise
        self.aim = torch.randn(shape, generator=source, dtype=torch.float64)
        self.scale = 0.5 + torch.rand(shape, generator=source, dtype=torch.float64)
        self.sample = torch.zeros(shape, dtype=torch.float64)

    def draw(self) -> None:
        self.sample = 1 + self.noise * torch.randn(self.aim.shape, generator=self.source, dtype=torch.float64)

    def gradient(self, x: Tensor) -> Tensor:
        """Its noise depends on the point, so that a difference at equal samples differs from a stored one."""
        return self.scale * self.sample * (x - self.aim)

    def closure(self, p: Tensor, calls: list[Tensor] | None = None) -> Any:
        def closure() -> Tensor:
            p.grad = None
            loss = (0.5 * self.scale * self.sample * (p - self.aim) ** 2).sum()
            loss.backward()
            if calls is not None:
                calls.append(p.detach().clone())
            return loss

        return closure


@pytest.mark.parametrize("cls", [MARSAdamW, MARSLion, MARSShampoo])
@pytest.mark.parametrize("maximize", [False, True])
def test_exact_form(cls: Any, maximize: bool) -> None:
    """Against the equations, with both gradients taken by hand; also the calls: where, and how many."""
    problem = Noisy()
    p = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    own: dict[str, Any] = {"betas": (0.9, 0.97)} if cls is MARSAdamW else {"momentum": 0.9}
    own |= {"orthogonalization": "exact"} if cls is MARSShampoo else {}
    opt = cls([p], lr=0.02, gamma=0.3, weight_decay=0.1, exact=True, maximize=maximize, **own)
    x = previous = p.detach().numpy().copy()
    state: dict[str, Any] = {}
    rule = {MARSAdamW: mars_adamw, MARSLion: mars_lion, MARSShampoo: mars_shampoo}[cls]
    extra = {"eps": 1e-8} if cls is MARSAdamW else {}
    sign = -1 if maximize else 1
    for t in range(1, 31):
        problem.draw()
        calls: list[Tensor] = []
        opt.param_groups[0]["lr"] = rate = 0.02 * schedule(t)
        loss = opt.step(problem.closure(p, calls))
        assert len(calls) == (1 if t == 1 else 2)
        np.testing.assert_allclose(calls[0].numpy(), previous)
        np.testing.assert_allclose(calls[-1].numpy(), x)
        assert loss.item() == pytest.approx(
            (0.5 * problem.scale * problem.sample * (torch.from_numpy(x) - problem.aim) ** 2).sum().item()
        )
        state["g"] = sign * problem.gradient(torch.from_numpy(previous)).numpy()
        g = sign * problem.gradient(torch.from_numpy(x)).numpy()
        moved: Any = rule(
            x,
            g,
            state,
            t,
            lr=rate,
            gamma=0.3,
            weight_decay=0.1,
            max_norm=1.0,
            **{k: v for k, v in own.items() if k != "orthogonalization"},
            **extra,
        )
        x, previous = moved, x
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-9)


def test_exact_form_is_storm_at_gamma_one() -> None:
    """m_t = g(x_t; s_t) + beta (m_{t-1} - g(x_{t-1}; s_t)); without noise, the gradient itself for all t."""
    for noise in (1.0, 0.0):
        problem = Noisy(noise=noise)
        p = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
        opt = MARSAdamW([p], lr=0.02, betas=(0.9, 0.99), gamma=1.0, max_norm=None, exact=True)
        storm = previous = None
        for t in range(20):
            problem.draw()
            x = p.detach().clone()
            g = problem.gradient(x)
            # MARS starts its average from zero: the estimator starts from (1 - beta) g.
            storm = 0.1 * g if t == 0 else g + 0.9 * (storm - problem.gradient(previous))
            opt.step(problem.closure(p))
            assert_close([opt.state[p]["exp_avg"]], [storm])
            if not noise:
                assert_close([opt.state[p]["exp_avg"]], [g - 0.9 ** (t + 1) * problem.gradient(torch.zeros_like(x))])
            previous = x


def trained(opt_of: Any, steps: int = 6, *, set_to_none: bool = True) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.4), nn.Tanh(), nn.Linear(6, 2)).double()
    opt = opt_of(net)
    source = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randn(16, 3, generator=source, dtype=torch.float64)

        def closure(batch: Tensor = batch) -> Tensor:
            opt.zero_grad(set_to_none=set_to_none)
            loss = net(batch).square().mean()
            loss.backward()
            return loss

        opt.step(closure)
    return net, opt


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_extra_call_is_not_felt(set_to_none: bool) -> None:
    """With gamma = 0 the second gradient plays no part: dropout, batch norm and iterates are as without it."""
    exact, _ = trained(lambda n: MARSAdamW(n.parameters(), gamma=0.0, exact=True), set_to_none=set_to_none)
    state = torch.get_rng_state()
    plain, _ = trained(lambda n: MARSAdamW(n.parameters(), gamma=0.0))
    assert torch.equal(state, torch.get_rng_state())
    assert_same(list(exact.state_dict().values()), list(plain.state_dict().values()))
    assert exact[1].num_batches_tracked == 6
    felt, _ = trained(lambda n: MARSAdamW(n.parameters(), gamma=0.5, exact=True))
    assert not torch.equal(felt[0].weight, plain[0].weight)


@pytest.mark.parametrize("cls", [MARSAdamW, MARSLion, MARSShampoo])
def test_equal_dropout_masks_cancel(cls: Any) -> None:
    """At a learning rate of zero both points are the same, and so must be both gradients, whatever was dropped."""
    net, opt = trained(
        lambda n: cls(n, lr=0.0, exact=True, gamma=5.0, **({"adamw_lr": 0.0} if cls is MARSShampoo else {}))
    )
    twin, plain = trained(lambda n: cls(n, lr=0.0, gamma=0.0, **({"adamw_lr": 0.0} if cls is MARSShampoo else {})))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        for name in opt.state[p]:
            if name not in ("previous", "step"):
                assert torch.equal(opt.state[p][name], plain.state[q][name])


@pytest.mark.parametrize("cls", [MARSAdamW, MARSShampoo])
def test_exact_form_resumes(cls: Any) -> None:
    net, opt = trained(lambda n: cls(n, gamma=0.3, exact=True), 5)
    other, twin = trained(lambda n: cls(n, gamma=0.3), 2)
    other.load_state_dict(net.state_dict())
    if cls is MARSShampoo:  # its fallback remembers in the exact form only
        with pytest.raises(ValueError, match="'previous'"):
            cls(other).load_state_dict({**opt.state_dict(), "param_groups": twin.state_dict()["param_groups"]})
        twin = cls(other, exact=True)
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    x = torch.randn(16, 3, dtype=torch.float64)
    for n, o in ((net, opt), (other, twin)):
        torch.manual_seed(9)
        for _ in range(3):

            def closure(n: nn.Module = n, o: Any = o) -> Tensor:
                o.zero_grad()
                loss = n(x).square().mean()
                loss.backward()
                return loss

            o.step(closure)
    assert_same(snapshot(opt, list(net.parameters())), snapshot(twin, list(other.parameters())))


def test_checkpoint_tools_make_a_template_of_the_exact_form() -> None:
    net, opt = trained(lambda n: MARSAdamW(n, gamma=0.3, exact=True), 3)
    other = copy.deepcopy(net)
    twin = MARSAdamW(other, exact=True)
    options = StateDictOptions(full_state_dict=True)
    saved = copy.deepcopy(get_optimizer_state_dict(net, opt, options=options))
    assert get_optimizer_state_dict(other, twin, options=options)["state"].keys() == saved["state"].keys()
    set_optimizer_state_dict(other, twin, saved, options=options)
    assert_same(snapshot(opt, list(net.parameters())), snapshot(twin, list(other.parameters())))
    for group in twin.param_groups:
        group["lr"] = 0.0
    with pytest.raises(TypeError, match="call step"):
        twin.step()


@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize("where", ["here", "there"])
def test_a_bad_gradient_at_either_point_changes_nothing(policy: Any, where: str) -> None:
    problem, twin_problem = Noisy(), Noisy()
    p, q = (nn.Parameter(torch.zeros(3, 4, dtype=torch.float64)) for _ in range(2))
    opt = MARSAdamW([p], lr=0.02, gamma=0.3, exact=True, nonfinite=policy)
    twin = MARSAdamW([q], lr=0.02, gamma=0.3, exact=True)
    for t in range(6):
        problem.draw()
        twin_problem.draw()
        if t == 3:
            before, calls = snapshot(opt, [p]), []
            good = problem.closure(p)

            def bad(good: Any = good, calls: list[int] = calls) -> Tensor:
                loss = good()
                calls.append(1)
                if len(calls) == (1 if where == "there" else 2):
                    p.grad[0, 0] = torch.nan
                return loss

            if policy == "raise":
                with pytest.raises(FloatingPointError, match="parameter 0 of group 0 has 1 non-finite"):
                    opt.step(bad)
            else:
                opt.step(bad)
                assert opt.skipped_steps == 1
            assert_same(before, snapshot(opt, [p]))
        opt.step(problem.closure(p))
        twin.step(twin_problem.closure(q))
    assert_same(snapshot(opt, [p]), snapshot(twin, [q]))


def test_parameters_that_come_late_or_pause_look_back_rightly() -> None:
    """A parameter that did not move is at its previous value already, and one without state has no previous value."""
    always, sometimes = (nn.Parameter(torch.ones(2, 2, dtype=torch.float64)) for _ in range(2))
    opt = MARSAdamW([always, sometimes], lr=0.1, exact=True)
    seen: list[list[Tensor]] = []
    for t, used in enumerate([False, True, True, False, True]):
        here = [always.detach().clone(), sometimes.detach().clone()]
        calls: list[list[Tensor]] = []

        def closure(used: bool = used, calls: list[Any] = calls) -> Tensor:
            opt.zero_grad()
            calls.append([always.detach().clone(), sometimes.detach().clone()])
            loss = (always**2).sum() + ((sometimes**2).sum() if used else 0)
            loss.backward()
            return loss

        opt.step(closure)
        assert len(calls) == (2 if t else 1)
        assert_same(calls[-1], here)
        if t:
            assert_same(calls[0], seen[-1])
        seen.append(here)


def test_previous_half_precision_parameters_come_back_as_they_were() -> None:
    p = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16())
    opt = MARSAdamW([p], lr=0.1, exact=True)
    points: list[Tensor] = []
    calls: list[Tensor] = []

    def closure() -> Tensor:
        p.grad = None
        calls.append(p.detach().clone())
        loss = p.float().square().sum()
        loss.backward()
        return loss

    for _ in range(4):
        points.append(p.detach().clone())
        opt.step(closure)
    assert opt.state[p]["previous"].dtype == torch.float32
    assert_same(calls, [points[0], points[0], points[1], points[1], points[2], points[2], points[3]])


def test_what_the_exact_form_refuses() -> None:
    p = [nn.Parameter(torch.zeros(2, 2))]
    with pytest.raises(TypeError, match=r"MARSLion: exact=True evaluates two gradients per step: call step\(closure\)"):
        MARSLion(p, exact=True).step()
    with pytest.raises(ValueError, match=r"MARSAdamW: exact=True keeps the previous parameters, .*'8bit' would round"):
        MARSAdamW(p, exact=True, state_dtype="8bit")
    with pytest.raises(ValueError, match="MARSShampoo: exact=True has no functional form"):
        MARSShampoo.functional(exact=True)
    for wrong, words in (
        ({"gamma": -1}, "gamma must be"),
        ({"max_norm": 0.0}, r"max_norm must be a finite number in \(0, inf\) or None, got 0.0"),
        ({"exact": 1}, "exact must be True or False"),
    ):
        for cls in (MARSAdamW, MARSLion, MARSShampoo):
            with pytest.raises((TypeError, ValueError), match=f"{cls.__name__}: {words}"):
                cls(p, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="MARSShampoo: orthogonalization must be one of"):
        MARSShampoo(p, orthogonalization="svd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="MARSShampoo: adamw_lr must be"):
        MARSShampoo(p, adamw_lr=-1.0)


def test_correction_follows_a_scheduled_momentum() -> None:
    params, twins = parameters(((4, 6),)), parameters(((4, 6),))
    opt = MARSAdamW(params, gamma=0.3)
    state: dict[str, Any] = {}
    x = twins[0].detach().numpy().copy()
    for t, (g,) in enumerate(gradients(params, 8), start=1):
        betas = (0.8 + 0.1 * cosine(8)(t), 0.99)
        opt.param_groups[0]["betas"] = betas
        run(opt, params, [[g]])
        c = corrected(g.numpy(), state, t, betas[0], 0.3, 1.0)
        x = adamw(x, c, state, t, 3e-3, betas, 1e-8, 0.0)
    np.testing.assert_allclose(params[0].detach().numpy(), x, rtol=1e-11)
