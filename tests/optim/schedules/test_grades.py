"""GradES against a transcription, and its promises: bit-equal until the first freeze, and no work on what is frozen."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from steepest.optim import AdaBelief
from steepest.optim.schedules import GradES

STEPS = 12
BASES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.05, weight_decay=0.1),
    "adabelief": lambda groups: AdaBelief(groups, lr=0.05, weight_decay=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, stopping: GradES | None, steps: range = range(STEPS)
) -> list[dict[str, Tensor]]:
    """The state after each step."""
    states = []
    for step in steps:
        if stopping is not None and stopping.finished:
            break
        torch.manual_seed(100 + step)
        inputs, targets = batch(step)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if stopping is not None:
            stopping.step()
        optimizer.zero_grad()
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    return states


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    params = list(model.parameters())
    return [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("signal", ["grad", "grad_change", "weight_change"])
def test_threshold_zero_is_plain_training_to_the_bit(base: str, signal: Any) -> None:
    plain, ours = network(), network()
    expected = train(plain, BASES[base](grouped(plain)), None)
    stopping = GradES(ours, STEPS, 0.0, signal=signal)
    found = train(ours, BASES[base](grouped(ours)), stopping)
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not stopping.frozen
    assert not stopping.finished


@pytest.mark.parametrize("base", BASES)
def test_an_infinite_threshold_freezes_after_the_grace_period(base: str) -> None:
    """Until then all is plain; from then on the matrices keep every bit, and the rest trains on."""
    plain, ours = network(), network()
    expected = train(plain, BASES[base](grouped(plain)), None)
    stopping = GradES(ours, STEPS, math.inf, grace=0.5, routing={"6.weight": "matrix"})
    optimizer = BASES[base](grouped(ours))
    found = train(ours, optimizer, stopping, range(6))
    assert stopping.finished
    assert stopping.frozen == {"0.weight": 6, "4.weight": 6, "6.weight": 6}
    assert all(equal(a, b) for a, b in zip(found, expected[:6], strict=True))
    for step in range(6, STEPS):
        found += train(ours, optimizer, None, range(step, step + 1))
    for name in stopping.frozen:
        assert all(torch.equal(state[name], found[5][name]) for state in found[5:])
    assert not torch.equal(found[-1]["0.bias"], found[5]["0.bias"])
    assert not torch.equal(found[-1]["1.weight"], found[5]["1.weight"])


def test_what_is_not_frozen_has_the_plain_gradient() -> None:
    plain, ours = network().eval(), network().eval()
    stopping = GradES(ours, 2, math.inf, grace=0.0, routing={"0.weight": "vector"})
    inputs, targets = batch(0)
    for model in (plain, ours, ours):
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        if model is ours and not stopping.frozen:
            assert stopping.step() == ["4.weight"]
    for (name, p), q in zip(plain.named_parameters(), ours.named_parameters(), strict=True):
        assert q[1].grad is None if name == "4.weight" else torch.equal(p.grad, q[1].grad)


def test_the_backward_pass_leaves_out_what_is_frozen() -> None:
    """Counted floating-point operations: one product of three of each frozen layer, two of the lowest."""
    from torch.utils.flop_counter import FlopCounterMode

    model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(4)))
    x = torch.randn(8, 16)
    product = 2 * 8 * 16 * 16

    def operations() -> int:
        with FlopCounterMode(display=False) as counter:
            model(x).sum().backward()
        return counter.get_total_flops()

    assert operations() == product * (4 + 4 + 3)  # the input of the lowest has no gradient
    stopping = GradES(model, 1, math.inf, grace=0.0, routing={"1.*": "vector", "0.*": "vector"})
    stopping.step()
    assert set(stopping.frozen) == {"2.weight"}  # the last is the output layer
    assert operations() == product * (4 + 3 + 3)
    lower = GradES(model, 1, math.inf, grace=0.0)
    lower.step()
    assert operations() == product * (4 + 1)  # the pass ends at the lowest layer that trains


@pytest.mark.parametrize("signal", ["grad", "grad_change", "weight_change"])
@pytest.mark.parametrize(("interval", "patience"), [(1, 1), (2, 1), (1, 3)])
def test_it_is_the_papers_algorithm_step_by_step(signal: Any, interval: int, patience: int) -> None:
    """Two matrices by gradient descent, transcribed to numpy."""
    total, grace, rate = 60, 0.2, 0.2
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 3)), generator.normal(size=(20, 2))
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    weights = [generator.normal(size=(4, 3)), generator.normal(size=(2, 4))]
    for p, w in zip(model.parameters(), weights, strict=True):
        p.data = torch.tensor(w)
    threshold = {"grad": 0.5, "grad_change": 0.01 * interval, "weight_change": 0.1 * interval}[signal]
    stopping = GradES(
        model,
        total,
        threshold,
        signal=signal,
        grace=grace,
        interval=interval,
        patience=patience,
        routing={"1.*": "matrix"},
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    frozen: dict[int, int] = {}
    before: list[Any] = [None, None]
    below = [0, 0]
    for t in range(1, total + 1):
        model.zero_grad()
        loss = 0.5 * (model(torch.tensor(x)) - torch.tensor(y)).square().sum(1).mean()
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
        if not stopping.finished:
            stopping.step()
        hidden = x @ weights[0].T
        error = (hidden @ weights[1].T - y) / len(x)
        grads = [weights[1].T @ error.T @ x, error.T @ hidden]
        for k in range(2):
            if k in frozen:
                continue
            weights[k] = weights[k] - rate * grads[k]
            if t % interval:
                continue
            watched = weights[k] if signal == "weight_change" else grads[k]
            value = None
            if signal == "grad":
                value = np.abs(watched).sum()
            elif before[k] is not None:
                value = np.abs(watched - before[k]).sum()
            before[k] = watched.copy()
            if t >= grace * total and value is not None:
                below[k] = below[k] + 1 if value < threshold else 0
                if below[k] == patience:
                    frozen[k] = t
        for p, w in zip(model.parameters(), weights, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-10, atol=1e-12)
    assert frozen
    assert stopping.frozen == {f"{k}.weight": t for k, t in frozen.items()}


def test_patience_counts_checks_in_a_row() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    stopping = GradES(model, total_steps=10, threshold=1.0, grace=0.0, patience=2)
    name = "0.weight"
    for step, size in enumerate((0.1, 0.3, 0.1, 0.1), 1):  # four entries each: 0.4, 1.2, 0.4, 0.4
        model[0].weight.grad = torch.full((2, 2), size)
        assert stopping.step() == ([name] if step == 4 else [])
    assert stopping.frozen == {name: 4}


def test_a_frozen_matrix_stands_still_where_gradients_are_set_to_zero() -> None:
    """There a gradient that was left behind would keep momentum and weight decay going."""
    model = network()
    stopping = GradES(model, STEPS, math.inf, grace=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    inputs, targets = batch(0)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    frozen = stopping.step()
    assert frozen
    kept = {name: model.get_parameter(name).detach().clone() for name in frozen}
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    assert all(torch.equal(model.get_parameter(name), value) for name, value in kept.items())


@pytest.mark.parametrize(("grace", "total", "first"), [(0.55, 100, 55), (0.3, 10, 3), (0.07, 100, 7), (0.25, 10, 3)])
def test_the_grace_period_ends_with_its_part_of_the_steps(grace: float, total: int, first: int) -> None:
    """0.55 * 100 is 55 and a bit in floating point."""
    assert GradES(network(), total, grace=grace).grace_steps == first


def test_a_quantile_is_taken_of_each_matrixs_own_past() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    stopping = GradES(model, 10, quantile=0.25, grace=0.5)
    signals = [8.0, 4.0, 2.0, 6.0, 3.0, 2.2]
    for value in signals:
        for layer, scale in ((model[0], 1.0), (model[1], 100.0)):
            layer.weight.grad = torch.full((2, 2), scale * value / 4)
        stopping.step()
    limit = float(np.quantile(signals[:4], 0.25))
    assert stopping.thresholds == pytest.approx({"0.weight": limit, "1.weight": 100 * limit})
    assert stopping.frozen == {"0.weight": 5, "1.weight": 5}


def test_the_first_change_has_nothing_before_it() -> None:
    model = network()
    stopping = GradES(model, 4, math.inf, grace=0.0, signal="weight_change")
    train(model, BASES["sgd"](model.parameters()), stopping, range(1))
    assert not stopping.frozen
    train(model, BASES["sgd"](model.parameters()), stopping, range(1, 2))
    assert stopping.frozen_share == 1.0


@pytest.mark.parametrize("signal", ["grad", "grad_change", "weight_change"])
@pytest.mark.parametrize("limits", [{"threshold": None}, {"quantile": 0.5, "patience": 2}])
@pytest.mark.parametrize("cut", [2, 8])
def test_a_resumed_run_is_the_same_to_the_bit(signal: Any, limits: dict[str, Any], cut: int) -> None:
    if "threshold" in limits:
        limits = {"threshold": {"grad": 0.7, "grad_change": 1.05, "weight_change": 0.6}[signal]}
    settings = {"grace": 0.5, "signal": signal, **limits}
    whole = network()
    straight = GradES(whole, STEPS, **settings)
    expected = train(whole, BASES["adamw"](whole.parameters()), straight)
    first = network()
    optimizer, stopping = BASES["adamw"](first.parameters()), GradES(first, STEPS, **settings)
    train(first, optimizer, stopping, range(cut))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict(), stopping.state_dict()))
    second = network()
    optimizer, again = BASES["adamw"](second.parameters()), GradES(second, STEPS, **settings)
    for thing, state in zip((second, optimizer, again), saved, strict=True):
        thing.load_state_dict(state)
    assert again.frozen == stopping.frozen
    train(second, optimizer, again, range(cut, STEPS))
    assert straight.frozen
    assert again.frozen == straight.frozen
    assert equal(dict(second.state_dict()), expected[-1])


def test_an_earlier_state_thaws() -> None:
    model = network()
    stopping = GradES(model, 2, math.inf, grace=0.0)
    early = copy.deepcopy(stopping.state_dict())
    train(model, BASES["sgd"](model.parameters()), stopping, range(1))
    assert not model[0].weight.requires_grad
    stopping.load_state_dict(early)
    assert model[0].weight.requires_grad
    assert stopping.steps == 0
    train(model, BASES["sgd"](model.parameters()), stopping, range(1))
    stopping.release()
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"same matrices; '0.weight' is in one of the two only"):
        GradES(nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2)), 2).load_state_dict(early)


def test_what_has_no_gradient_or_a_bad_one_is_not_frozen() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    model[3].weight.requires_grad_(False)
    stopping = GradES(model, 1, 1.0, grace=0.0, max_frozen=0.3)
    model[0].weight.grad = torch.zeros(2, 2)
    model[1].weight.grad = torch.tensor([[0.0, float("nan")], [0.0, 0.0]])
    assert stopping.step() == ["0.weight"]
    assert stopping.finished  # a third
    assert stopping.frozen_share == pytest.approx(1 / 3)
    assert not model[3].weight.requires_grad


def test_half_precision_gradients_are_summed_in_float32() -> None:
    model = nn.Sequential(nn.Linear(256, 256, dtype=torch.float16), nn.Linear(256, 2, dtype=torch.float16))
    stopping = GradES(model, 1, 70000.0, grace=0.0)
    model[0].weight.grad = torch.full_like(model[0].weight, 1.05)  # the sum is 68,900: infinite in float16
    assert stopping.step() == ["0.weight"]


def test_a_compiled_model_follows() -> None:
    plain, ours = network(), network()
    compiled = torch.compile(ours, backend="aot_eager")
    one, other = (GradES(m, STEPS, math.inf, grace=0.2, routing={"4.*": "vector"}) for m in (plain, ours))
    torch.manual_seed(0)
    for step in range(4):
        inputs, targets = batch(step)
        for model, source, stopping in ((plain, plain, one), (compiled, ours, other)):
            source.eval().zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            stopping.step()
    assert one.frozen == other.frozen == {"0.weight": 3}
    for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_data_parallel_training_goes_on() -> None:
    plain, ours = network(), network()
    settings = {"grace": 0.3, "routing": {"4.*": "vector"}}
    expected = train(plain, BASES["adamw"](plain.parameters()), GradES(plain, 6, math.inf, **settings), range(6))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(ours, find_unused_parameters=True)
        stopping = GradES(ours, 6, math.inf, **settings, max_frozen=1.0)
        train(parallel, BASES["adamw"](ours.parameters()), stopping, range(6))
    finally:
        dist.destroy_process_group()
    assert stopping.frozen == {"0.weight": 2}
    assert equal(dict(ours.state_dict()), expected[-1])


BAD = [
    ({"total_steps": 0}, r"total_steps must be an integer >= 1, got 0"),
    ({"threshold": -1.0}, r"threshold must be a number in \[0, inf\] or None, got -1.0"),
    ({"quantile": 1.5}, r"quantile must be a finite number in \[0, 1\] or None, got 1.5"),
    ({"signal": "loss"}, r"signal must be one of 'grad', 'grad_change', 'weight_change', got 'loss'"),
    ({"grace": 1.5}, r"grace must be a finite number in \[0, 1\], got 1.5"),
    ({"interval": 0}, r"interval must be an integer >= 1, got 0"),
    ({"patience": 0}, r"patience must be an integer >= 1, got 0"),
    ({"max_frozen": 0.0}, r"max_frozen must be a finite number in \(0, 1\], got 0.0"),
    ({"threshold": 1.0, "quantile": 0.5}, r"give threshold or quantile, got 1.0 and 0.5"),
    ({"quantile": 0.5, "grace": 0.0}, r"a quantile needs checks before the end of the grace period"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"GradES: {message}"):
        GradES(network(), **{"total_steps": 10, **settings})


def test_misuse_is_told() -> None:
    model = network()
    stopping = GradES(model, 1, grace=0.0)
    with pytest.raises(RuntimeError, match="after backward and before zero_grad"):
        stopping.step()
    with pytest.raises(ValueError, match="must have a weight matrix that trains"):
        GradES(nn.Linear(2, 2).requires_grad_(False), 1)
