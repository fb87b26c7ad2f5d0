"""The contract of every method, part 2: groups, schedulers, closures, hooks, gradients that are missing or bad."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim_helpers import CASES, Case, assert_close, assert_same, assign, gradients, parameters, run, snapshot
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR

cases = pytest.mark.parametrize("case", CASES, ids=str)


@cases
def test_groups_with_their_own_settings_equal_separate_optimizers(case: Case) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 8)
    if case.groups_coupled:  # then groups of one setting are one group
        run(case.cls([case.group(p) for p in params], **case.settings), params, grads)
        run(case.build(twins), twins, grads)
        assert_close(params, twins)
        return
    rates = [0.01 * (index + 1) for index in range(len(params))]
    opt = case.cls([case.group(p, lr=r, weight_decay=r) for p, r in zip(params, rates, strict=True)], **case.settings)
    run(opt, params, grads)
    for index, (p, rate) in enumerate(zip(twins, rates, strict=True)):
        alone = case.cls([case.group(p, lr=rate, weight_decay=rate)], **case.settings)
        run(alone, [p], [[step[index]] for step in grads])
    assert_close(params, twins)


@cases
def test_parameters_do_not_influence_each_other(case: Case) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 8)
    run(case.build(params), params, grads)
    if case.coupled:  # then what must not matter is their order
        run(case.build(twins[::-1]), twins[::-1], [step[::-1] for step in grads])
        assert_close(params, twins)
        return
    for index, p in enumerate(twins):
        alone = case.cls([case.group(p)], **case.settings)
        run(alone, [p], [[step[index]] for step in grads])
    # Muon's fallback has a learning rate of its own in either case, so nothing but the company differs.
    assert_close(params, twins)


@cases
def test_add_param_group_later(case: Case) -> None:
    if case.groups_coupled:
        pytest.skip("a late group changes the steps of the others; see the method's own tests")
    params, twins = parameters(), parameters()
    grads = gradients(params, 8)
    opt = case.build(params[:2])
    run(opt, params[:2], [step[:2] for step in grads[:3]])
    for p in params[2:]:
        opt.add_param_group(case.group(p, lr=0.05))
    run(opt, params, grads[3:])
    first = case.build(twins[:2])
    run(first, twins[:2], [step[:2] for step in grads])
    late = case.cls([case.group(p, lr=0.05) for p in twins[2:]], **case.settings)
    run(late, twins[2:], [step[2:] for step in grads[3:]])
    assert_close(params, twins)


def _plateau(opt: torch.optim.Optimizer) -> Any:
    return schedules.ReduceLROnPlateau(opt, patience=1, factor=0.5)


def _sequence(opt: torch.optim.Optimizer) -> Any:
    warm = schedules.LinearLR(opt, 0.1, total_iters=3)
    return schedules.SequentialLR(opt, [warm, schedules.CosineAnnealingLR(opt, 9)], milestones=[3])


def _has_momentum(opt: torch.optim.Optimizer) -> bool:
    """Whether a group has a momentum that a scheduler can cycle."""
    return "momentum" in opt.defaults or "betas" in opt.defaults


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: schedules.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 5], 0.3),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 12),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, max_lr=0.05, total_steps=14, cycle_momentum=_has_momentum(o)),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.001, 0.02, step_size_up=3, cycle_momentum=_has_momentum(o)),
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda t: min(1.0, t / 5)),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda t: 0.9),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 12, 2.0),
    "ReduceLROnPlateau": _plateau,
    "SequentialLR": _sequence,
    "SWALR": lambda o: SWALR(o, swa_lr=0.002, anneal_epochs=5),
}


@cases
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers(case: Case, schedule: str) -> None:
    """A scheduled run equals one whose settings are written into the groups by hand."""
    params, twins = parameters(), parameters()
    grads = gradients(params, 12)
    opt, twin = case.build(params), case.build(twins)
    scheduler = SCHEDULES[schedule](opt)
    rates = []
    for step in grads:
        for own, given in zip(twin.param_groups, opt.param_groups, strict=True):
            own.update({k: copy.copy(v) for k, v in given.items() if k in own and k != "params"})
        rates.append(opt.param_groups[0]["lr"])
        before = snapshot(opt, params)[: len(params)]
        run(opt, params, [step])
        run(twin, twins, [step])
        if rates[-1] == 0:
            assert_same(before, snapshot(opt, params)[: len(params)])
        scheduler.step(*((1.0,) if schedule == "ReduceLROnPlateau" else ()))
    assert len(set(rates)) > 1
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@cases
def test_a_resumed_schedule_goes_on_alike(case: Case) -> None:
    def begin() -> tuple[Any, Any, Any]:
        params = parameters()
        opt = case.build(params)
        return params, opt, schedules.CosineAnnealingLR(opt, 10)

    def advance(params: Any, opt: Any, scheduler: Any, grads: Any) -> None:
        for step in grads:
            run(opt, params, [step])
            scheduler.step()

    params, opt, scheduler = begin()
    grads = gradients(params, 10)
    advance(params, opt, scheduler, grads[:4])
    twins, twin, twin_scheduler = begin()
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    twin.load_state_dict(opt.state_dict())
    twin_scheduler.load_state_dict(scheduler.state_dict())
    advance(params, opt, scheduler, grads[4:])
    advance(twins, twin, twin_scheduler, grads[4:])
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@cases
def test_closure(case: Case) -> None:
    params, twins = parameters(), parameters()
    opt, twin = case.build(params), case.build(twins)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        opt.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    for _ in range(3):
        expected = sum((p**2).sum() for p in twins)
        assert torch.equal(opt.step(closure), expected)
        twin.zero_grad()
        expected.backward()
        assert twin.step() is None
    assert calls == [True] * 3
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@cases
def test_maximizing_is_minimizing_the_negative(case: Case) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 8)
    up, down = case.build(params, maximize=True), case.build(twins)
    run(up, params, grads)
    run(down, twins, [[-g for g in step] for step in grads])
    assert_same(snapshot(up, params), snapshot(down, twins))


@cases
def test_maximize_in_one_group(case: Case) -> None:
    if "maximize" in case.cls.uniform:
        with pytest.raises(ValueError, match=f"{case.cls.__name__}: parameter group 1: maximize must be the same in"):
            case.cls([case.group(p, maximize=k > 0) for k, p in enumerate(parameters())], **case.settings)
        return
    params, twins = parameters(((3, 4), (4, 3))), parameters(((3, 4), (4, 3)))
    grads = gradients(params, 4)
    opt = case.cls([case.group(params[0], maximize=True), case.group(params[1])], **case.settings)
    twin = case.cls([case.group(twins[0]), case.group(twins[1])], **case.settings)
    run(opt, params, grads)
    run(twin, twins, [[-a, b] for a, b in grads])
    assert_close(params, twins)


@cases
def test_grad_scaler(case: Case) -> None:
    """Scaled by powers of two, the steps are the same; a step with an infinite gradient is left out whole."""
    params, twins = parameters(), parameters()
    opt, twin = case.build(params), case.build(twins)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for step in range(6):
        opt.zero_grad()
        loss = sum((p**3).sum() for p in params)
        scaler.scale(loss).backward()
        if step == 2:
            params[1].grad[0, 0, 0, 0] = math.inf
        before = snapshot(opt, params)
        scaler.step(opt)
        scaler.update()
        if step == 2:
            assert_same(before, snapshot(opt, params))
            continue
        twin.zero_grad()
        sum((p**3).sum() for p in twins).backward()
        twin.step()
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@cases
def test_accumulated_gradients(case: Case) -> None:
    params, twins = parameters(), parameters()
    opt, twin = case.build(params), case.build(twins)
    for _ in range(4):
        opt.zero_grad()
        twin.zero_grad()
        for weight in (1.0, 2.0):
            (weight * sum((p**2).sum() for p in params)).backward()
        (3.0 * sum((p**2).sum() for p in twins)).backward()
        opt.step()
        twin.step()
    assert_close(params, twins)


@cases
@pytest.mark.parametrize("set_to_none", [True, False])
def test_both_ways_to_zero_gradients(case: Case, set_to_none: bool) -> None:
    """A rule that kept the gradient tensor itself would see zeros with set_to_none=False."""
    params, twins = parameters(), parameters()
    grads = gradients(params, 6)
    opt, twin = case.build(params), case.build(twins)
    for step in grads:
        opt.zero_grad(set_to_none=set_to_none)
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone() if p.grad is None else p.grad.add_(g)
        opt.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params, step, strict=True))  # gradients are left alone
    run(twin, twins, grads)
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@cases
def test_step_hooks(case: Case) -> None:
    params = parameters()
    opt = case.build(params)
    seen: list[Any] = []
    pre = opt.register_step_pre_hook(lambda o, args, kwargs: seen.append(("pre", params[0].detach().clone())))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append(("post", params[0].detach().clone())))
    start = params[0].detach().clone()
    run(opt, params, gradients(params, 1))
    assert [name for name, _ in seen] == ["pre", "post"]
    assert torch.equal(seen[0][1], start)
    assert torch.equal(seen[1][1], params[0])
    assert not torch.equal(start, params[0])
    pre.remove()
    run(opt, params, gradients(params, 1))
    assert [name for name, _ in seen] == ["pre", "post", "post"]


@cases
def test_a_missing_gradient_stops_that_parameter_only(case: Case) -> None:
    if case.groups_coupled:
        pytest.skip("a gradient that is missing is felt by all; see the method's own tests")
    params, twins = parameters(), parameters()
    grads = gradients(params, 9)
    has = [[(step + index) % 3 > 0 for index in range(len(params))] for step in range(9)]
    # A gradient that is missing from a norm of the group's would be felt by the others.
    opt = case.cls([case.group(p) for p in params], **case.settings) if case.coupled else case.build(params)
    run(opt, params, [[g if h else None for g, h in zip(*row, strict=True)] for row in zip(grads, has, strict=True)])
    for index, p in enumerate(twins):
        own = [[step[index]] for step, row in zip(grads, has, strict=True) if row[index]]
        run(case.cls([case.group(p)], **case.settings), [p], own)
        assert opt.state[params[index]]["step"] == len(own)
    assert_close(params, twins)


@cases
def test_frozen_parameters_stay(case: Case) -> None:
    params = parameters()
    params[0].requires_grad_(False)
    opt = case.build(params)
    before = params[0].detach().clone()
    for _ in range(3):
        opt.zero_grad()
        sum((p**2).sum() for p in params).backward()
        opt.step()
    assert torch.equal(before, params[0])
    assert not opt.state.get(params[0])
    (moved,) = (p for p in params[1:2])
    assert opt.state[moved]["step"] == 3


@cases
def test_a_parameter_used_twice_in_a_model(case: Case) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4, bias=False).double(), nn.Linear(4, 4, bias=False).double()
    second.weight = first.weight
    net = nn.Sequential(first, nn.Tanh(), second, nn.Linear(4, 2).double(), nn.Linear(2, 1).double())
    weight = nn.Parameter(first.weight.detach().clone())
    others = [nn.Parameter(p.detach().clone()) for p in net.parameters() if case.coupled and p is not first.weight]
    opt, twin = case.cls(net, **case.settings), case.build([weight, *others])
    x = torch.randn(5, 4, dtype=torch.float64)
    for _ in range(4):
        opt.zero_grad()
        net(x).square().sum().backward()
        weight.grad = first.weight.grad.clone()
        for p, q in zip([p for p in net.parameters() if p is not first.weight], others, strict=False):
            q.grad = p.grad.clone()
        opt.step()
        twin.step()
    assert opt.state[first.weight]["step"] == 4
    assert_close([first.weight], [weight])


@cases
@pytest.mark.parametrize("named", [False, True])
def test_sparse_gradients_are_refused(case: Case, named: bool) -> None:
    table = nn.Embedding(6, 3, sparse=True)
    other = nn.Parameter(torch.ones(2, 2))
    both = [("table", table.weight), ("other", other)] if named else [table.weight, other]
    opt = case.cls(both, **case.settings)
    (table(torch.tensor([1, 2])).sum() + other.sum()).backward()
    before = snapshot(opt, [table.weight, other])
    label = "'table'" if named else "0 of group 0"
    with pytest.raises(RuntimeError, match=f"{case.cls.__name__} does not take sparse gradients .parameter {label}"):
        opt.step()
    assert_same(before, snapshot(opt, [table.weight, other]))


# ------------------------------------------------------------------------------------------------ non-finite gradients


@cases
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_nonfinite_gradients_change_nothing(case: Case, policy: str, value: float) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 6)
    bad = [g.clone() for g in grads[0]]
    bad[-1][1] = value
    opt, twin = case.build(params, nonfinite=policy), case.build(twins)
    for when, step in enumerate(grads):
        if when in (0, 3):  # before there is any state, and later
            before = snapshot(opt, params)
            if policy == "raise":
                with pytest.raises(FloatingPointError, match=r"gradient of parameter .* has 1 non-finite of 2 entries"):
                    run(opt, params, [bad])
            else:
                run(opt, params, [bad])
            assert_same(before, snapshot(opt, params))
        run(opt, params, [step])
        run(twin, twins, [step])
    assert_same(snapshot(opt, params), snapshot(twin, twins))
    assert opt.skipped_steps == (2 if policy == "skip" else 0)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.variant not in ("nuclear", "spectral", "exact", "svd")], ids=str
)  # the SVD of a NaN raises by itself
def test_nonfinite_gradients_propagate_by_default(case: Case) -> None:
    params = parameters()
    opt = case.build(params)
    grads = gradients(params, 1)
    grads[0][0][0, 0] = math.nan
    run(opt, params, grads)
    states = [v for v in opt.state[params[0]].values() if isinstance(v, torch.Tensor)]
    assert any(s.isnan().any() for s in states)
    assert case.coupled or all(p.isfinite().all() for p in params[1:])
    assert opt.skipped_steps == 0


@cases
def test_mixed_dtypes_are_checked_together(case: Case) -> None:
    params = [
        nn.Parameter(torch.ones(3, 3, dtype=d)) for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ]
    opt = case.build(params, nonfinite="skip")
    assign(params, [torch.ones_like(p) for p in params])
    params[3].grad[0, 0] = math.inf
    opt.step()
    assert opt.skipped_steps == 1
    assert not opt.state
    params[3].grad[0, 0] = 1.0
    opt.step()
    assert opt.skipped_steps == 1
    assert all(opt.state[p]["step"] == 1 for p in params)
