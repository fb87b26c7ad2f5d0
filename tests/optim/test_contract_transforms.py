"""The contract of every transform, over every kind of base."""

import copy
import gc
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optim_helpers import assert_close, assert_same, assign, gradients, parameters
from optim_helpers import run as run_plainly
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.optim import lr_scheduler as schedules

from steepest.core.transform import Transform
from steepest.optim import (
    DNSAM,
    SAM,
    SMB,
    USAM,
    AdaHessian,
    Cautious,
    CoordinateClip,
    ExactGaussNewton,
    GradientNoise,
    GradientRegularization,
    Lion,
    NormClip,
    SANIANewton,
    Sophia,
    WeightDecay,
)

BASES: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.0),
    "lion": lambda p: Lion(p, lr=0.01),
    "lbfgs": lambda p: LBFGS(p, lr=0.5, max_iter=4, history_size=3, line_search_fn="strong_wolfe"),
}


@dataclass(frozen=True)
class Way:
    """A transform, with settings that make it count, and with those that must change nothing."""

    name: str
    make: Callable[[Optimizer], Transform]
    neutral: Callable[[Optimizer], Transform] | None = None
    moves: bool = False
    closure: bool = False

    def __str__(self) -> str:
        return self.name


WAYS = (
    Way("coordinate-clip", lambda b: CoordinateClip(b, 0.3), lambda b: CoordinateClip(b, 0.0)),
    Way("norm-clip", lambda b: NormClip(b, 0.7), lambda b: NormClip(b, math.inf)),
    Way("noise", lambda b: GradientNoise(b, 0.3, seed=5), lambda b: GradientNoise(b, 0.0)),
    Way("decay", lambda b: WeightDecay(b, 0.1), lambda b: WeightDecay(b, 0.0), moves=True),
    Way("l2", lambda b: WeightDecay(b, 0.1, decoupled=False), lambda b: WeightDecay(b, 0.0, decoupled=False)),
    Way("cautious", Cautious, moves=True),
    Way(
        "nested",
        lambda b: NormClip(GradientNoise(CoordinateClip(b, 0.2), 0.1), 2.0),
        lambda b: NormClip(GradientNoise(CoordinateClip(b, 0.0), 0.0), math.inf),
    ),
    Way("sam", lambda b: SAM(b, 0.5), lambda b: SAM(b, 0.0), closure=True),
    Way("usam", lambda b: USAM(b, 0.1), lambda b: USAM(b, 0.0), closure=True),
    Way("dnsam", lambda b: DNSAM(b, 0.5), lambda b: DNSAM(b, 0.0), closure=True),
    Way(
        "gradient-regularization",
        lambda b: GradientRegularization(b, 0.05, 0.1),
        lambda b: GradientRegularization(b, 0.0),
        closure=True,
    ),
    Way("sam inside", lambda b: NormClip(SAM(b, 0.1), 2.0), lambda b: NormClip(SAM(b, 0.0), math.inf), closure=True),
    Way(
        "sam outside", lambda b: SAM(CoordinateClip(b, 0.2), 0.1), lambda b: SAM(CoordinateClip(b, 0), 0), closure=True
    ),
    Way("all", lambda b: WeightDecay(Cautious(NormClip(GradientNoise(b, 0.1), 2.0)), 0.1), moves=True),
)
PAIRS = [(way, base) for way in WAYS for base in BASES if not (way.moves and base == "lbfgs")]
pairs = pytest.mark.parametrize(("way", "base"), PAIRS, ids=str)
ways = pytest.mark.parametrize("way", WAYS, ids=str)


#: Those whose steps need no closure.
plain_ways = pytest.mark.parametrize("way", [way for way in WAYS if not way.closure], ids=str)


def _needs_closure(opt: Any) -> bool:
    return isinstance(opt, Transform) and (opt.closure_required or _needs_closure(opt.base))


def run(opt: Optimizer, params: Any, grads: Any, sign: int = 1) -> None:
    """Steps with these gradients; where a closure is needed, with gradients that depend on the parameters as well.

    Args:
        sign: -1 for the negative of what depends on the parameters.
    """
    if not _needs_closure(opt):
        run_plainly(opt, params, grads)
        return
    for step in grads:

        def closure(step: Any = step) -> None:
            for p, g in zip(params, step, strict=True):
                x = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
                slope = torch.view_as_complex(x.sin()) if p.is_complex() else x.sin()
                p.grad = None if g is None else g + sign * slope

        opt.step(closure)


def build(way: Way, base: str, params: Any) -> Transform:
    return way.make(BASES[base](params))


def steps(opt: Optimizer, params: Any, count: int, seed: int = 1) -> None:
    """Steps with closures, on a bowl that moves from step to step."""
    for targets in gradients(params, count, seed):

        def closure(targets: Any = targets) -> Tensor:
            opt.zero_grad()
            loss = sum((p - t).pow(2).sum() + (p - t).sin().sum() for p, t in zip(params, targets, strict=True))
            loss.backward()
            return loss

        opt.step(closure)


def values(opt: Optimizer, params: Any) -> list[Any]:
    """Parameters and all state, copied."""
    found: list[Any] = [p.detach().clone() for p in params]
    for p in params:
        state = opt.state.get(p, {})
        for name in sorted(state):
            value = state[name]
            many = value if isinstance(value, list) else [value]
            found += [v.clone() if isinstance(v, Tensor) else v for v in many]
    return found


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ------------------------------------------------------------------------------------------------ it is an optimizer


@pairs
def test_it_is_an_optimizer_with_the_bases_own_things(way: Way, base: str) -> None:
    params = parameters()
    opt = build(way, base, params)
    assert isinstance(opt, Optimizer)
    inner = opt.unwrapped
    assert not isinstance(inner, Transform)
    assert opt.param_groups is inner.param_groups
    assert opt.state is inner.state
    assert opt.defaults is inner.defaults
    assert type(opt).__name__ in repr(opt)
    assert type(inner).__name__ in repr(opt)
    fresh = SGD(parameters(), lr=0.1)
    assert set(fresh.__dict__) - {"defaults", "state", "param_groups"} <= {
        *opt.__dict__,
        "_warned_capturable_if_run_uncaptured",  # read with a default
    }, "torch gives its optimizers an attribute that transforms lack"


@pairs
def test_it_changes_something_and_neutral_settings_change_nothing(way: Way, base: str) -> None:
    params, twins, plain = parameters(), parameters(), parameters()
    bare, changed = BASES[base](plain), build(way, base, params)
    steps(bare, plain, 25)  # so many that Lion's signs show a clip
    steps(changed, params, 25)
    assert not all(torch.equal(p, q) for p, q in zip(params, plain, strict=True))
    if way.neutral is not None:
        same = way.neutral(BASES[base](twins))
        steps(same, twins, 25)
        assert_same(values(same, twins), values(bare, plain))


@plain_ways
def test_a_closure_is_a_backward_pass_and_a_step(way: Way) -> None:
    params, twins = parameters(), parameters()
    opt, twin = build(way, "adamw", params), build(way, "adamw", twins)
    for _ in range(4):

        def closure() -> Tensor:
            assert torch.is_grad_enabled()
            opt.zero_grad()
            loss = sum(p.pow(4).sum() for p in params)
            loss.backward()
            return loss

        twin.zero_grad()
        expected = sum(p.pow(4).sum() for p in twins)
        assert torch.equal(opt.step(closure), expected)
        expected.backward()
        assert twin.step() is None
        for p, q in zip(params, twins, strict=True):
            assert torch.equal(p.grad, q.grad)
    assert_same(values(opt, params), values(twin, twins))


@pairs
@pytest.mark.parametrize("closures", [False, True])
def test_gradients_are_left_as_they_were(way: Way, base: str, closures: bool) -> None:
    if way.closure and not closures:
        pytest.skip("needs a closure")
    params = parameters()
    opt = build(way, base, params)
    (grads,) = gradients(params, 1)
    assign(params, grads)
    before = [p.grad for p in params]

    def closure() -> Tensor:  # gradients as they are, without a zero_grad
        if params[0].grad is None:  # at a second point, where they start anew
            assign(params, [2 * g for g in grads])
        return sum((p.detach() * g).sum() for p, g in zip(params, grads, strict=True))

    opt.step(*([closure] if closures or base == "lbfgs" else []))
    for p, held, g in zip(params, before, grads, strict=True):
        assert p.grad is held
        assert torch.equal(p.grad, g)


def test_a_closure_that_accumulates_finds_its_own_gradients() -> None:
    """LBFGS evaluates again and again: what an earlier evaluation left must be the raw gradient, not the clipped."""
    seen = []
    p = nn.Parameter(torch.tensor([3.0, -4.0]))
    opt = NormClip(LBFGS([p], max_iter=3, line_search_fn=None), 1.0)

    def closure() -> Tensor:
        seen.append(None if p.grad is None else p.grad.clone())
        p.grad = torch.full_like(p, float(len(seen)))
        return torch.tensor(-float(len(seen)))

    opt.step(closure)
    assert seen[0] is None
    assert len(seen) == 3
    assert [s.tolist() for s in seen[1:]] == [[1.0, 1.0], [2.0, 2.0]]
    assert p.grad.tolist() == [3.0, 3.0]


def test_lbfgs_sees_the_transformed_function() -> None:
    """Coupled decay with LBFGS is LBFGS on the loss with the penalty: gradients of every evaluation have the decay."""
    a = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = a @ a.T + torch.eye(6, dtype=torch.float64)
    x, y = (nn.Parameter(torch.ones(6, dtype=torch.float64)) for _ in range(2))

    def loss(p: Tensor) -> Tensor:
        return 0.5 * p @ h @ p - p.sum()

    opt = WeightDecay(LBFGS([x], max_iter=30, tolerance_grad=1e-12, tolerance_change=1e-15), 0.5, decoupled=False)
    twin = LBFGS([y], max_iter=30, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure(opt: Any, p: Any, decay: float) -> Tensor:
        opt.zero_grad()
        (found := loss(p) + 0.5 * decay * p.square().sum()).backward()
        return found

    for _ in range(20):
        opt.step(lambda: closure(opt, x, 0.0))
        twin.step(lambda: closure(twin, y, 0.5))
    torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(x.detach(), torch.linalg.solve(h + 0.5 * torch.eye(6).double(), torch.ones(6).double()))


@pytest.mark.parametrize("make", [Cautious, lambda b: WeightDecay(b, 0.1), lambda b: Cautious(NormClip(b, 1.0))])
def test_transforms_that_move_parameters_refuse_lbfgs(make: Any) -> None:
    with pytest.raises(ValueError, match="base must not be LBFGS"):
        make(LBFGS(parameters()))


# ------------------------------------------------------------------------------------------------ order


def test_gradients_pass_from_the_outside_in() -> None:
    """Clip 10 to 1, then decay 0.5 * 4; or decay first and clip the sum."""
    for make, expected in (
        (lambda b: NormClip(WeightDecay(b, 0.5, decoupled=False), 1.0), 4 - (1 + 2)),
        (lambda b: WeightDecay(NormClip(b, 1.0), 0.5, decoupled=False), 4 - 1),
    ):
        p = nn.Parameter(torch.tensor([4.0], dtype=torch.float64))
        p.grad = torch.tensor([10.0], dtype=torch.float64)
        make(SGD([p], lr=1.0)).step()
        assert p.item() == pytest.approx(expected, abs=1e-5)


def test_decay_outside_of_the_mask_and_inside() -> None:
    for make, expected in (
        (lambda b: WeightDecay(Cautious(b), 0.5), 4 - 2),  # the update waits, the decay does not
        (lambda b: Cautious(WeightDecay(b, 0.5)), 4.0),  # both oppose the gradient and wait
    ):
        p = nn.Parameter(torch.tensor([4.0]))
        base = SGD([p], lr=1.0, momentum=0.9)
        base.state[p]["momentum_buffer"] = torch.tensor([2.0])
        p.grad = torch.tensor([-1.0])  # momentum 0.8 after it: against the gradient
        make(base).step()
        assert p.item() == expected


# ------------------------------------------------------------------------------------------------ saving


@pairs
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_resumes_bit_for_bit_from_a_file(way: Way, base: str, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    opt = build(way, base, params)
    steps(opt, params, 4)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = build(way, base, twins)
    saved = through_file(opt.state_dict())
    twin.load_state_dict(saved)
    steps(opt, params, 4, seed=2)
    steps(twin, twins, 4, seed=2)
    assert_same(values(opt, params), values(twin, twins))
    assert [r["transform"] for r in saved["param_groups"][0]["transforms"]] == _names(opt)
    assert "transforms" not in opt.param_groups[0]
    assert "transforms" not in twin.param_groups[0]


def _names(opt: Any) -> list[str]:
    return [type(opt).__name__, *_names(opt.base)] if isinstance(opt, Transform) else []


@pytest.mark.parametrize(("way", "base"), [p for p in PAIRS if p[1] != "lbfgs"], ids=str)  # torch cannot copy LBFGS
@pytest.mark.parametrize("manner", ["pickle", "deepcopy"])
def test_copies_continue_alike(way: Way, base: str, manner: str) -> None:
    params = parameters()
    opt = build(way, base, params)
    steps(opt, params, 3)
    twin = pickle.loads(pickle.dumps(opt)) if manner == "pickle" else copy.deepcopy(opt)
    twins = [p for group in twin.param_groups for p in group["params"]]
    assert twins[0] is not params[0]
    steps(opt, params, 3, seed=2)
    steps(twin, twins, 3, seed=2)
    assert_same(values(opt, params), values(twin, twins))
    twin.register_step_pre_hook(lambda *_: None)
    assert repr(twin) == repr(opt)


def test_settings_come_with_the_state() -> None:
    opt = NormClip(GradientNoise(SGD(parameters(), lr=0.1), eta=0.5, seed=3), 2.0)
    run(opt, (p := parameters()), gradients(p, 2))  # other parameters: nothing has a gradient
    twin = NormClip(GradientNoise(SGD(parameters(), lr=0.3)), 1.0)
    twin.load_state_dict(opt.state_dict())
    assert twin.max_norm == 2.0
    assert twin.base.settings == {"eta": 0.5, "gamma": 0.55, "seed": 3}
    assert twin.base.steps == 2
    assert twin.param_groups[0]["lr"] == 0.1


@ways
def test_distributed_checkpoint(way: Way, tmp_path: Any) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def train(net: nn.Module, opt: Optimizer, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            inputs = torch.randn(6, 3, generator=generator, dtype=torch.float64)

            def closure(inputs: Tensor = inputs) -> Tensor:
                opt.zero_grad()
                loss = net(inputs).square().sum()
                loss.backward()
                return loss

            opt.step(closure)

    net, other = model(), model()
    opt, twin = (build(way, "adamw", list(m.parameters())) for m in (net, other))
    train(net, opt, 4, seed=0)
    other.load_state_dict(net.state_dict())
    options = StateDictOptions(full_state_dict=True)
    dcp.save({"optimizer": get_optimizer_state_dict(net, opt, options=options)}, checkpoint_id=tmp_path, no_dist=True)
    template = {"optimizer": get_optimizer_state_dict(other, twin, options=options)}
    dcp.load(template, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, twin, template["optimizer"], options=options)
    train(net, opt, 3, seed=1)
    train(other, twin, 3, seed=1)
    assert_same(values(opt, list(net.parameters())), values(twin, list(other.parameters())))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: None, "must be a mapping with 'state' and 'param_groups'"),
        (lambda s: {"state": {}}, "must be a mapping with"),
        (lambda s: {**s, "param_groups": []}, "must be a list of mappings"),
        (lambda s: _without(s), "saved without this transform"),
        (lambda s: _records(s, lambda r: r[:1]), "GradientNoise: the state dict has no entry 'transforms'"),
        (lambda s: _records(s, lambda r: r[::-1]), "NormClip: .* by the transform 'GradientNoise'"),
        (lambda s: _records(s, lambda r: [r[0], r[0]]), "GradientNoise: .* by the transform 'NormClip'"),
        (lambda s: _records(s, lambda r: [{**r[0], "max_norm": -1.0}, r[1]]), "NormClip: max_norm must be"),
        (lambda s: _records(s, lambda r: [{**r[0], "max_norm": "1"}, r[1]]), "NormClip: max_norm must be"),
        (lambda s: _records(s, lambda r: [r[0], {**r[1], "steps": 1.5}]), "GradientNoise: steps .* must be an integer"),
        (lambda s: _records(s, lambda r: [r[0], {**r[1], "more": 1}]), "GradientNoise: the state dict holds"),
        (lambda s: _records(s, lambda r: [r[0], {**r[1], "base": "Adam"}]), "saved over Adam, this is over SGD"),
        (
            lambda s: _records(s, lambda r: [*r, r[1]]),
            "GradientNoise: .* transforms inside of this one",
        ),
        (lambda s: {**s, "param_groups": [*s["param_groups"], {"params": [0]}]}, "parameter groups"),
    ],
)
def test_foreign_state_is_refused_and_nothing_changes(damage: Any, words: str) -> None:
    params = parameters()
    opt = NormClip(GradientNoise(SGD(params, lr=0.1, momentum=0.9), eta=0.5), 2.0)
    steps(opt, params, 2)
    other = NormClip(GradientNoise(SGD(params, lr=0.3, momentum=0.9), eta=0.7), 1.0)
    state = damage(copy.deepcopy(other.state_dict()))
    before, settings = values(opt, params), repr(opt)
    with pytest.raises(ValueError, match=words):
        opt.load_state_dict(state)
    assert_same(before, values(opt, params))
    assert repr(opt) == settings
    assert opt.base.steps == 2


def _records(state: Any, change: Any) -> Any:
    state["param_groups"][0]["transforms"] = change(state["param_groups"][0]["transforms"])
    return state


def _without(state: Any) -> Any:
    del state["param_groups"][0]["transforms"]
    return state


def test_hooks_around_state_dicts() -> None:
    opt = NormClip(SGD(parameters(), lr=0.1), 2.0)
    seen = []
    opt.register_state_dict_pre_hook(lambda o: seen.append("pre"))
    opt.register_state_dict_post_hook(lambda o, state: {"old": state})
    state = opt.state_dict()
    twin = NormClip(SGD(parameters(), lr=0.1), 1.0)
    twin.register_load_state_dict_pre_hook(lambda o, given: given["old"])
    twin.register_load_state_dict_post_hook(lambda o: seen.append(o.max_norm))
    twin.load_state_dict(state)
    assert seen == ["pre", 2.0]


# ------------------------------------------------------------------------------------------------ the rest of torch


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 8),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, max_lr=0.05, total_steps=9),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.001, 0.02, step_size_up=3),
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda t: min(1.0, t / 5)),
}


@ways
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.filterwarnings("error")  # torch warns when it believes that the optimizer has not stepped
def test_schedulers(way: Way, schedule: str) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 8)
    opt, twin = build(way, "sgd", params), build(way, "sgd", twins)
    scheduler = SCHEDULES[schedule](opt)
    rates = []
    for step in grads:
        twin.param_groups[0].update({k: v for k, v in opt.param_groups[0].items() if k != "params"})
        rates.append(opt.param_groups[0]["lr"])
        run(opt, params, [step])
        run(twin, twins, [step])
        scheduler.step()
    assert len(set(rates)) > 1
    assert_same(values(opt, params), values(twin, twins))


@plain_ways
def test_grad_scaler(way: Way) -> None:
    """Scaled by powers of two, the steps are the same; a step with an infinite gradient is left out whole."""
    params, twins = parameters(), parameters()
    opt, twin = build(way, "adamw", params), build(way, "adamw", twins)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for step in range(6):
        opt.zero_grad()
        scaler.scale(sum((p**3).sum() for p in params)).backward()
        if step == 2:
            params[1].grad[0, 0, 0, 0] = math.inf
        if step == 4:
            scaler.unscale_(opt)
        before = values(opt, params)
        scaler.step(opt)
        scaler.update()
        if step == 2:
            assert_same(before, values(opt, params))
            continue
        twin.zero_grad()
        sum((p**3).sum() for p in twins).backward()
        twin.step()
    assert_same(values(opt, params), values(twin, twins))


@ways
def test_step_hooks(way: Way) -> None:
    params = parameters()
    opt = build(way, "sgd", params)
    seen: list[Any] = []
    opt.register_step_pre_hook(lambda o, args, kwargs: seen.append((o is opt, params[0].detach().clone())))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append((o is opt, params[0].detach().clone())))
    start = params[0].detach().clone()
    run(opt, params, gradients(params, 1))
    assert [mine for mine, _ in seen] == [True, True]
    assert torch.equal(seen[0][1], start)
    assert torch.equal(seen[1][1], params[0])
    assert not torch.equal(start, params[0])


@ways
def test_zero_grad_and_groups(way: Way) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 4)
    opt, twin = build(way, "sgd", params[:2]), build(way, "sgd", twins)
    opt.add_param_group({"params": params[2:]})
    assert len(opt.param_groups) == 2
    run(opt, params, grads)
    run(twin, twins, grads)
    assert_close(params, twins)
    opt.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in params)
    opt.zero_grad()
    assert all(p.grad is None for p in params)
    opt.step(*([lambda: None] if way.closure else []))
    assert_close(params, twins)


@ways
def test_a_parameter_without_gradient_stays(way: Way) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 4)
    opt = build(way, "sgd", params)
    run(opt, params, [[None, *step[1:]] for step in grads])
    assert torch.equal(params[0], parameters()[0])
    without = build(way, "sgd", twins[1:])
    run(without, twins[1:], [step[1:] for step in grads])
    assert_same(values(opt, params[1:]), values(without, twins[1:]))


@ways
@pytest.mark.parametrize("named", [False, True])
def test_sparse_gradients_are_refused(way: Way, named: bool) -> None:
    table = nn.Embedding(6, 3, sparse=True)
    opt = way.make(SGD([("table", table.weight)] if named else [table.weight], lr=0.1))
    before = table.weight.detach().clone()

    def closure() -> None:
        table(torch.tensor([1, 2])).sum().backward()

    label = "'table'" if named else "0 of group 0"
    with pytest.raises(RuntimeError, match=f"{type(opt).__name__} does not take sparse gradients .parameter {label}"):
        opt.step(closure)
    assert torch.equal(before, table.weight)
    assert table.weight.grad.is_sparse


def test_gradients_are_put_back_when_the_base_raises() -> None:
    params = parameters()
    opt = NormClip(Lion(params, nonfinite="raise"), 1.0)
    (grads,) = gradients(params, 1)
    grads[0][0, 0] = math.nan
    assign(params, grads)
    held = [p.grad for p in params]
    with pytest.raises(FloatingPointError, match="non-finite"):
        opt.step()
    assert all(p.grad is g for p, g in zip(params, held, strict=True))


@ways
def test_nonfinite_gradients_reach_the_base(way: Way) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        params = parameters()
        opt = way.make(base := Lion(params, nonfinite="skip"))
        (grads,) = gradients(params, 1)
        grads[2][1] = bad
        run(opt, params, [grads])
        assert base.skipped_steps == 1


@ways
@pytest.mark.parametrize("base", [SGD, Adam])
def test_maximizing_is_minimizing_the_negative(way: Way, base: Any) -> None:
    if way.name in ("noise", "nested", "all"):
        pytest.skip("noise is added to the gradient, not to its negative")
    params, twins = parameters(), parameters()
    grads = gradients(params, 6)
    momentum = {"momentum": 0.9} if base is SGD else {}
    up, down = way.make(base(params, lr=0.01, maximize=True, **momentum)), way.make(base(twins, lr=0.01, **momentum))
    run(up, params, grads)
    run(down, twins, [[-g for g in step] for step in grads], sign=-1)
    assert_close(params, twins)


@ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_follows_float32(way: Way, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    twins = [nn.Parameter(p.detach().float()) for p in params]
    opt, twin = build(way, "sgd", params), build(way, "sgd", twins)
    for step in gradients(params, 3):
        run(opt, params, [step])
        run(twin, twins, [[g.float() for g in step]])
    assert all(p.dtype == dtype for p in params)
    eps = torch.finfo(dtype).eps
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p.float(), q, rtol=8 * eps, atol=8 * eps * (100 if way.moves else 1))


@ways
def test_complex_parameters_are_pairs_of_reals(way: Way) -> None:
    params = parameters(dtype=torch.complex128)
    twins = [nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in params]
    grads = gradients(params, 5)
    opt, twin = build(way, "sgd", params), build(way, "sgd", twins)
    run(opt, params, grads)
    run(twin, twins, [[torch.view_as_real(g) for g in step] for step in grads])
    assert_close([torch.view_as_real(p) for p in params], twins)


@ways
def test_empty_scalar_and_oddly_laid_out_parameters(way: Way) -> None:
    shapes = ((), (0,), (3, 4), (2, 3, 4, 2), (1,))
    params, twins = parameters(shapes), parameters(shapes)
    params[2] = nn.Parameter(params[2].detach().mT.contiguous().mT)
    params[3] = nn.Parameter(params[3].detach().to(memory_format=torch.channels_last))
    opt, twin = build(way, "sgd", params), build(way, "sgd", twins)
    for step in gradients(params, 3):
        run(opt, params, [[*step[:2], step[2][:1].expand(3, 4), *step[3:]]])
        step[2] = step[2][:1].expand(3, 4).contiguous()
        run(twin, twins, [step])
    assert_close(params, twins)


@pairs
def test_no_tensor_is_left_over(way: Way, base: str) -> None:
    params = parameters()
    opt = build(way, base, params)

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(o, Tensor) for o in gc.get_objects())

    steps(opt, params, 5)
    before = tensors()
    steps(opt, params, 30)
    assert tensors() < before + 5  # LBFGS keeps some numbers now as tensors, now as floats


# ------------------------------------------------------------------------------------------------ bad settings


@pytest.mark.parametrize("make", [NormClip, CoordinateClip, GradientNoise, WeightDecay, Cautious])
@pytest.mark.parametrize("base", [None, nn.Linear(2, 2), [nn.Parameter(torch.zeros(2))]])
def test_the_base_must_be_an_optimizer(make: Any, base: Any) -> None:
    arguments = [1.0] if make in (NormClip, WeightDecay) else []
    with pytest.raises(TypeError, match=f"{make.__name__}: base must be an optimizer .*got {type(base).__name__}"):
        make(base, *arguments)


@ways
def test_bases_that_make_their_gradients_themselves_are_refused(way: Way) -> None:
    """What such a step differentiates never passes the transform, which would have no effect without a word."""
    model = nn.Linear(2, 1)
    for base in (SMB(model), SANIANewton(model), ExactGaussNewton(model)):
        with pytest.raises(ValueError, match=f"base must not be {type(base).__name__}, which makes its gradients"):
            way.make(base)


def test_bases_that_differentiate_the_closures_loss_are_driven_by_backward() -> None:
    p, q = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    bare, opt = AdaHessian([p], lr=0.1), NormClip(AdaHessian([q], lr=0.1), 1e-3)
    with pytest.raises(TypeError, match=r"NormClip: AdaHessian differentiates .* call backward\(loss\) of the AdaHess"):
        opt.step(lambda: q.pow(4).sum())
    assert bool((q == 1).all())
    for x, base, step in ((p, bare, bare.step), (q, opt.base, opt.step)):
        base.backward(x.pow(4).sum())
        step()
    # In its first step AdaHessian moves in proportion to the gradient, here clipped from a norm of 4 sqrt(3).
    shrunk = torch.full((3,), 1e-3 / (4 * 3**0.5), dtype=torch.float64)
    torch.testing.assert_close((1 - q.detach()) / (1 - p.detach()), shrunk, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("make", [lambda b: NormClip(b, 1e-3), lambda b: SAM(b, 0.3)])
def test_closures_of_sophia_with_the_gauss_newton_estimator_call_backward(make: Any) -> None:
    p, q = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    opt, bare = make(Sophia([p], lr=0.1)), Sophia([q], lr=0.1)
    for base in (opt.base, bare):
        x = base.param_groups[0]["params"][0]
        base.estimate(x.pow(2).sum(), samples=4)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = 1e-3 * p.pow(4).sum()
        loss.backward()
        return loss

    opt.step(closure)
    if isinstance(opt, SAM):
        q.grad = 4e-3 * (q.detach() + 0.3 / 3**0.5) ** 3
    else:
        q.grad = 1e-3 / 3**0.5 * torch.ones_like(q)
    bare.step()
    assert_close([p], [q], 1e-5)
    assert float(p.detach()[0]) != 1.0


BAD = [-1e-3, math.nan, "0.1", True, None, [0.1]]


@pytest.mark.parametrize(
    ("make", "argument", "bad", "words"),
    [
        (CoordinateClip, "fraction", [*BAD, 1.0, math.inf], r"a finite number in \[0, 1\)"),
        (CoordinateClip, "sample", [0, -1, 1.5, True, "2"], "an integer >= 1 or None"),
        (NormClip, "max_norm", [*BAD, 0.0, -math.inf], r"a number in \(0, inf\]"),
        (GradientNoise, "eta", [*BAD, math.inf], r"a finite number in \[0, inf\)"),
        (GradientNoise, "gamma", [*BAD, math.inf], r"a finite number in \[0, inf\)"),
        (GradientNoise, "seed", [-1, 0.5, None, True, 2**63], "an integer >= 0"),
        (WeightDecay, "weight_decay", [*BAD, math.inf], r"a finite number in \[0, inf\)"),
        (WeightDecay, "decoupled", [0, None, "yes"], "True or False"),
    ],
)
def test_settings_out_of_range(make: Any, argument: str, bad: list[Any], words: str) -> None:
    good = {"max_norm": 1.0} if make is NormClip else {"weight_decay": 0.1} if make is WeightDecay else {}
    opt = make(SGD(parameters(), lr=0.1), **good)
    before = opt.settings
    for value in bad:
        for attempt in (
            lambda value=value: make(SGD(parameters(), lr=0.1), **{**good, argument: value}),
            lambda value=value: setattr(opt, argument, value),
        ):
            with pytest.raises((TypeError, ValueError), match=f"{make.__name__}: {argument} must be {words}"):
                attempt()
    assert opt.settings == before


def test_decay_upon_decay_is_refused() -> None:
    p = parameters()
    for make, words in (
        (lambda: WeightDecay(AdamW(p), 0.1), r"parameter group 0 has weight_decay=0.01; build it with weight_decay=0"),
        (lambda: WeightDecay(NormClip(SGD(p, lr=0.1, weight_decay=1e-4), 1.0), 0.1), "parameter group 0"),
        (lambda: WeightDecay(NormClip(WeightDecay(SGD(p, lr=0.1), 0.2), 1.0), 0.1), "0.2 by a WeightDecay inside it"),
        (lambda: WeightDecay(SGD(p[:1], lr=0.1), 0.1).add_param_group({"params": p[1:], "weight_decay": 1}), "group 1"),
    ):
        with pytest.raises(ValueError, match=f"WeightDecay: base already decays: .*{words}"):
            make()
