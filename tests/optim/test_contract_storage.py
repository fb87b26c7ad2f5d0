"""The contract of every method, part 6: low-precision state and parameters."""

import copy
import io
from typing import Any

import pytest
import torch
from optim_helpers import CASES, Case, assert_same, gradients, parameters, run, snapshot
from torch import Tensor, nn

from steepest.optim import AdaBelief, AdEMAMix, Lion

cases = pytest.mark.parametrize("case", CASES, ids=str)
kinds = pytest.mark.parametrize("kind", ["bfloat16", "8bit"])
#: Large enough for 8 bits, also with a ragged end and as a convolution; and one that stays in float32.
SHAPES = ((72, 64), (5000,), (16, 8, 6, 6), (7, 3))


@cases
@kinds
def test_low_precision_state_resumes_bit_for_bit(case: Case, kind: str) -> None:
    params = parameters(SHAPES, torch.float32)
    opt = case.build(params, state_dtype=kind)
    run(opt, params, gradients(params, 3))
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = case.build(twins, state_dtype=kind)
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same(snapshot(opt, params), snapshot(twin, twins))
    more = gradients(params, 3, seed=2)
    run(opt, params, more)
    run(twin, twins, more)
    assert_same(snapshot(opt, params), snapshot(twin, twins))
    copied = copy.deepcopy(opt)
    assert copied.store == opt.store


@cases
@kinds
def test_low_precision_state_steps_like_float32(case: Case, kind: str) -> None:
    """The rounding is noise on the state: after twelve steps the way gone differs by a small part of its length."""
    params, twins = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
    starts = [p.detach().clone() for p in params]
    grads = [
        [0.5 * g + h for g, h in zip(first, step, strict=True)]
        for step in gradients(params, 12)
        for first in gradients(params, 1, seed=9)
    ]
    opt, twin = case.build(params, state_dtype=kind), case.build(twins)
    run(opt, params, grads)
    run(twin, twins, grads)
    for p, q, start in zip(params, twins, starts, strict=True):
        way = (q - start).norm()
        assert (p - q).norm() < (0.05 if kind == "bfloat16" else 0.5) * way
        if case.cls.algorithm.measure is None and all(s.dtype == torch.float32 for s in _tensors(opt.state[p])):
            assert torch.equal(p, q)


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    return [v for v in state.values() if isinstance(v, Tensor)]


@cases
def test_bytes_of_low_precision_state(case: Case) -> None:
    """Two bytes per number, or one and a scale per 256; Kronecker factors and small tensors stay in float32."""
    for kind, most in (("float32", 4.0), ("bfloat16", 2.0), ("8bit", 1 + 4 / 256)):
        params = parameters(((256, 256),), torch.float32)
        opt = case.build(params, state_dtype=kind)
        run(opt, params, gradients(params, 1))
        state = opt.state[params[0]]
        whole = case.cls.algorithm.make_state(params[0].detach(), opt.param_groups[0])
        rule = case.cls.algorithm
        coarse = {k: t.shape == params[0].shape and not k.startswith(rule.full_precision) for k, t in whole.items()}
        fixed = sum(t.numel() * 4 for k, t in whole.items() if not coarse[k])
        own = sum(t.numel() for k, t in whole.items() if coarse[k])
        held = sum(v.numel() * v.element_size() for v in _tensors(state))
        assert held - fixed == most * own


@cases
def test_state_of_another_storage_is_refused(case: Case) -> None:
    params = parameters(SHAPES, torch.float32)
    opt = case.build(params, state_dtype="8bit")
    run(opt, params, gradients(params, 1))
    if not any(":" in name for p in params for name in opt.state[p]):
        pytest.skip("no state of the parameter's size")
    twin = case.build(parameters(SHAPES, torch.float32))
    with pytest.raises(ValueError, match=r":scale"):
        twin.load_state_dict(opt.state_dict())


@cases
@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
def test_rounded_parameters_resume_bit_for_bit(case: Case, rounding: str) -> None:
    params = parameters(dtype=torch.bfloat16)
    opt = case.build(params, rounding=rounding)
    run(opt, params, gradients(params, 3))
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = case.build(twins, rounding=rounding)
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    more = gradients(params, 3, seed=2)
    run(opt, params, more)
    run(twin, twins, more)
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@cases
def test_compensated_parameters_follow_float32(case: Case) -> None:
    """Parameter and compensation together carry 16 bits; a plain bfloat16 parameter carries 8."""
    params = parameters(dtype=torch.bfloat16)
    twins = [nn.Parameter(p.detach().float()) for p in params]
    opt, twin = case.build(params, rounding="compensated", lr=1e-4), case.build(twins, lr=1e-4)
    grads = gradients(params, 30)
    run(opt, params, grads)
    run(twin, twins, [[g.float() for g in step] for step in grads])
    for p, q in zip(params, twins, strict=True):
        kept = p.detach().float() + opt.state[p]["parameter:compensation"].float()
        torch.testing.assert_close(kept, q.detach(), rtol=3e-4, atol=3e-4)


def test_small_updates_are_lost_act_in_the_mean_or_are_kept() -> None:
    """A thousand steps of 1e-4 from 1: bfloat16 below 1 has a spacing of 0.004."""
    found: dict[str, float] = {}
    for rounding in ("nearest", "stochastic", "compensated"):
        p = nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
        opt = Lion([p], lr=1e-4, rounding=rounding)
        p.grad = torch.ones_like(p)
        for _ in range(1000):
            opt.step()
        found[rounding] = p.detach().float().mean().item()
    assert found["nearest"] == 1.0
    assert found["stochastic"] == pytest.approx(0.9, abs=2e-3)
    assert found["compensated"] == pytest.approx(0.9, abs=3e-3)  # half the spacing of what can be seen


@pytest.mark.parametrize(("cls", "most"), [(AdaBelief, 2.1), (Lion, 1.1)])
def test_promised_bytes_per_parameter(cls: Any, most: float) -> None:
    net = nn.Sequential(nn.Linear(300, 500), nn.Linear(500, 300))
    opt = cls(net.parameters(), state_dtype="8bit")
    net(torch.ones(2, 300)).sum().backward()
    opt.step()
    held = sum(v.numel() * v.element_size() for state in opt.state.values() for v in _tensors(state))
    assert held / sum(p.numel() for p in net.parameters()) <= most


@pytest.mark.slow
def test_compiled_and_eager_storage_agree() -> None:
    params, twins = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
    grads = gradients(params, 4)
    settings: dict[str, Any] = {"lr": 0.01, "state_dtype": "8bit"}
    run(AdEMAMix(params, engine="compiled", **settings), params, grads)
    run(AdEMAMix(twins, engine="eager", **settings), twins, grads)
    for p, q in zip(params, twins, strict=True):
        assert (p - q).norm() < 1e-2 * q.norm()  # a code that rounding moves by one moves its element


def test_large_tensors_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from steepest.core import store

    params, twins = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
    grads = gradients(params, 3)
    run(AdaBelief(params, state_dtype="8bit"), params, grads)
    monkeypatch.setattr(store, "DECODED", 100)
    run(AdaBelief(twins, state_dtype="8bit"), twins, grads)
    assert_same([p.detach() for p in params], [q.detach() for q in twins])


def test_settings_are_checked() -> None:
    for setting, words in (
        ({"state_dtype": "4bit"}, "state_dtype must be one of"),
        ({"rounding": "up"}, "rounding must be"),
    ):
        with pytest.raises(ValueError, match=words):
            Lion([nn.Parameter(torch.ones(2))], **setting)  # type: ignore[arg-type]


def test_storage_goes_on_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from steepest.core import kernel

    def broken(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> None:
            raise OSError("no C++ compiler")

        return call

    monkeypatch.setattr(kernel.torch, "compile", broken)
    monkeypatch.setattr(kernel, "_compiled", {})
    monkeypatch.setattr(kernel, "_failed", set())
    monkeypatch.setattr(kernel, "_broken_compiler", False)
    kernel._compiled_function.cache_clear()
    params, twins = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
    grads = gradients(params, 2)
    with pytest.warns(RuntimeWarning, match="torch.compile failed") as caught:
        run(Lion(params, engine="compiled", state_dtype="8bit"), params, grads)
    kernel._compiled_function.cache_clear()
    assert len(caught) == 1
    run(Lion(twins, engine="eager", state_dtype="8bit"), twins, grads)
    assert_same([p.detach() for p in params], [q.detach() for q in twins])


@pytest.mark.parametrize(
    ("setting", "dtype"),
    [
        ({"state_dtype": "8bit"}, torch.float32),
        ({"state_dtype": "bfloat16"}, torch.float32),
        ({"rounding": "stochastic"}, torch.bfloat16),
    ],
)
def test_sharded_parameters_are_refused(
    setting: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steepest.core import store

    monkeypatch.setattr(store, "is_sharded", lambda t: True)
    params = parameters(SHAPES, dtype)
    opt = Lion(params, **setting)
    name, value = next(iter(setting.items()))
    with pytest.raises(RuntimeError, match=f"{name}='{value}' does not serve sharded parameters"):
        run(opt, params, gradients(params, 1))
    assert not any(opt.state[p] for p in params)
