"""The contract of every method, part 1: what is saved comes back bit for bit, and what is foreign is refused."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optim_helpers import CASES, Case, assert_same, gradients, parameters, run, snapshot
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from steepest.catalogue import card
from steepest.optim import AdaBelief, AdaBound, Lion, Muon

cases = pytest.mark.parametrize("case", CASES, ids=str)
STATIC = {"lr": 0.003}


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def started(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[list[Any], Any]:
    """An optimizer with two kinds of groups after five steps, in some of which a gradient is missing."""
    params = parameters(dtype=dtype, seed=seed)
    opt = case.build(params[:3])
    for p in params[3:]:
        opt.add_param_group(case.group(p, **STATIC))
    grads = gradients(params, 5)
    grads[1][0] = grads[3][2] = None  # type: ignore[call-overload]
    run(opt, params, grads)
    return params, opt


@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_resumes_bit_for_bit_from_a_file(case: Case, dtype: torch.dtype) -> None:
    params, opt = started(case, dtype)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = case.build(twins[:3], lr=0.5)
    for p in twins[3:]:
        twin.add_param_group(case.group(p))
    twin.load_state_dict(through_file(opt.state_dict()))
    assert_same(snapshot(opt, params), snapshot(twin, twins))
    more = gradients(params, 5, seed=2)
    run(opt, params, more)
    run(twin, twins, more)
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@cases
def test_loaded_state_is_a_copy(case: Case) -> None:
    params, opt = started(case)
    state = opt.state_dict()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = case.build(twins[:3])
    for p in twins[3:]:
        twin.add_param_group(case.group(p))
    twin.load_state_dict(state)
    before = snapshot(opt, params)
    run(twin, twins, gradients(twins, 2))
    assert_same(before, snapshot(opt, params))


@cases
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_copies_continue_alike(case: Case, way: str) -> None:
    _, opt = started(case)
    opt.nonfinite = "skip"
    twin = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
    twins = [p for group in twin.param_groups for p in group["params"]]
    order = [p for group in opt.param_groups for p in group["params"]]
    more = gradients(order, 4, seed=3)
    more[1][0] = torch.full_like(more[1][0], torch.nan)
    run(opt, order, more)
    run(twin, twins, more)
    assert_same(snapshot(opt, order), snapshot(twin, twins))
    assert twin.skipped_steps == opt.skipped_steps == 1
    assert type(twin) is type(opt)


@cases
def test_state_dict_is_plain(case: Case) -> None:
    _, opt = started(case)

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, (str, int)) and plain(v) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or type(value) in (int, float, bool, str, torch.Tensor)

    assert plain(opt.state_dict())


@cases
def test_card_tells_the_buffers(case: Case) -> None:
    """State in units of the parameter's size, of a square matrix that no block or rank is too large for."""
    params = parameters(((256, 256),))
    opt = case.build(params)
    run(opt, params, gradients(params, 1))
    held = sum(v.numel() for p in params for v in opt.state[p].values() if isinstance(v, torch.Tensor))
    buffers = card(case.method).buffers if case.buffers is None else case.buffers
    assert held / params[0].numel() == pytest.approx(buffers, rel=0.005)


@cases
def test_distributed_checkpoint(case: Case, tmp_path: Any) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)).double()

    def steps(net: nn.Module, opt: torch.optim.Optimizer, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            opt.zero_grad()
            net(torch.randn(6, 3, generator=generator, dtype=torch.float64)).square().sum().backward()
            opt.step()

    net, other = model(), model()
    opt, twin = (case.cls(m, **case.settings) for m in (net, other))
    steps(net, opt, 4, seed=0)
    other.load_state_dict(net.state_dict())
    options = StateDictOptions(full_state_dict=True)
    saved = {"optimizer": get_optimizer_state_dict(net, opt, options=options)}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    template = {"optimizer": get_optimizer_state_dict(other, twin, options=options)}
    assert_same(list(net.parameters()), list(other.parameters()))  # making a template changes nothing
    dcp.load(template, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, twin, template["optimizer"], options=options)
    assert_same(snapshot(opt, list(net.parameters())), snapshot(twin, list(other.parameters())))
    steps(net, opt, 3, seed=1)
    steps(other, twin, 3, seed=1)
    assert_same(snapshot(opt, list(net.parameters())), snapshot(twin, list(other.parameters())))


@cases
def test_hooks_around_state_dicts(case: Case) -> None:
    params, opt = started(case, torch.bfloat16)
    seen: list[Any] = []
    opt.register_state_dict_post_hook(lambda _, state: {**state, "note": "mine"})
    state = opt.state_dict()
    assert state["note"] == "mine"
    renamed = {"old": state}
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = case.build(twins[:3])
    for p in twins[3:]:
        twin.add_param_group(case.group(p))
    twin.register_load_state_dict_pre_hook(lambda _, given: given["old"])  # a conversion of old checkpoints
    twin.register_load_state_dict_post_hook(lambda o: seen.extend(snapshot(o, twins)))
    twin.load_state_dict(renamed)
    assert_same(snapshot(opt, params), snapshot(twin, twins))
    assert_same(seen, snapshot(twin, twins))  # the post-hook saw the final, float32 state
    assert not [h for h in twin._optimizer_load_state_dict_pre_hooks.values() if "check" in h.__qualname__]


# ------------------------------------------------------------------------------------------------ refusals


def _drop_group(state: dict[str, Any]) -> None:
    state["param_groups"].pop()


def _other_rule(state: dict[str, Any]) -> None:
    state["param_groups"][0]["rule"] = "adam"


def _no_rule(state: dict[str, Any]) -> None:
    del state["param_groups"][0]["rule"]


def _no_lr(state: dict[str, Any]) -> None:
    del state["param_groups"][0]["lr"]


def _fewer_parameters(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"].pop()


def _other_shape(state: dict[str, Any]) -> None:
    entry = state["state"][0]
    name = next(k for k, v in entry.items() if isinstance(v, torch.Tensor))
    entry[name] = torch.zeros(9, 9)


def _other_entries(state: dict[str, Any]) -> None:
    state["state"][0]["exp_inf"] = torch.zeros(4, 6)


def _not_a_tensor(state: dict[str, Any]) -> None:
    entry = state["state"][0]
    entry[next(k for k, v in entry.items() if isinstance(v, torch.Tensor))] = [0.0]


def _bad_step(state: dict[str, Any]) -> None:
    state["state"][0]["step"] = "five"


def _state_is_a_list(state: dict[str, Any]) -> None:
    state["state"] = []


def _no_state(state: dict[str, Any]) -> None:
    del state["state"]


DAMAGES = {
    _drop_group: "parameter groups",
    _other_rule: "adam",
    _no_rule: "another optimizer",
    _no_lr: "'lr'",
    _fewer_parameters: "parameters",
    _other_shape: r"\(9, 9\)",
    _other_entries: "exp_inf",
    _not_a_tensor: "list",
    _bad_step: "five",
    _state_is_a_list: "mapping",
    _no_state: "'state'",
}


@cases
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__.strip("_"))
def test_foreign_state_is_refused_and_nothing_changes(case: Case, damage: Any) -> None:
    params, opt = started(case)
    state = copy.deepcopy(opt.state_dict())
    damage(state)
    before, groups = snapshot(opt, params), copy.deepcopy(opt.state_dict()["param_groups"])
    with pytest.raises(ValueError, match=DAMAGES[damage]) as caught:
        opt.load_state_dict(state)
    assert type(opt).__name__ in str(caught.value)
    assert_same(before, snapshot(opt, params))
    assert groups == opt.state_dict()["param_groups"]


@pytest.mark.parametrize("garbage", [None, 3, "state", [], {}], ids=repr)
def test_garbage_is_refused(garbage: Any) -> None:
    opt = Lion(parameters())
    with pytest.raises(ValueError, match="Lion: a state dict must be a mapping"):
        opt.load_state_dict(garbage)


def test_state_of_another_method_is_refused() -> None:
    params = parameters()
    belief, adam = AdaBelief(params), torch.optim.AdamW(params)
    for opt in (belief, adam):
        run(opt, params, gradients(params, 2))
    with pytest.raises(ValueError, match="Lion: group 0 of the state dict was saved by the rule 'adabelief'"):
        Lion(params).load_state_dict(belief.state_dict())
    with pytest.raises(ValueError, match="Lion: group 0 of the state dict was saved by another optimizer"):
        Lion(params).load_state_dict(adam.state_dict())


def test_state_of_an_optimizer_that_never_stepped_loads() -> None:
    opt = AdaBound(parameters(), lr=0.3)
    twin = AdaBound(parameters())
    twin.load_state_dict(through_file(opt.state_dict()))
    assert twin.param_groups[0]["lr"] == twin.param_groups[0]["base_lr"] == 0.3


def test_the_copy_of_a_routed_optimizer_knows_where_its_own_parameters_went() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net2, opt2 = copy.deepcopy((net, Muon(net)))
    assert opt2.routing is not None
    assert [id(p) for _, p in opt2.routing.named("matrix")] == [id(net2[0].weight)]
    assert pickle.loads(pickle.dumps(opt2)).routing.role("1.weight") == "head"
