"""The contract of methods that take the model and the batch: saving, copies, schedules, bad numbers."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from steepest.catalogue import cards
from steepest.core.batch_optimizer import BatchOptimizer

BATCH = {name: entry for name, entry in cards("optim").items() if "batch" in entry.needs}
#: Settings under which every part of the state counts.
SETTINGS: dict[str, dict[str, Any]] = {
    "egn": {"momentum": 0.8, "line_search": True, "adaptive_damping": True, "lr": 0.5},
    "tngd": {"momentum": 0.8, "time": 2.0, "temperature": 1e-3, "delay": 0.3},
    "target-surrogate": {"momentum": 0.8, "inner_steps": 3, "decay": 0.5},
}
methods = pytest.mark.parametrize("name", BATCH)
linearizing = pytest.mark.parametrize(
    "name", [n for n, e in BATCH.items() if isinstance(e.load(), type) and issubclass(e.load(), BatchOptimizer)]
)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3)).double()


def build(name: str, model: nn.Module, **over: Any) -> Any:
    return BATCH[name].build(model, **{**SETTINGS.get(name, {}), **over})


def batches(count: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(6, 4, generator=g, dtype=torch.float64), torch.randint(3, (6,), generator=g)) for _ in range(count)
    ]


def steps(opt: Any, data: list[tuple[Tensor, Tensor]]) -> None:
    for number, (x, y) in enumerate(data):
        torch.manual_seed(number)
        opt.step_on(x, y)


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@methods
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_resumes_bit_for_bit_from_a_file(name: str, dtype: torch.dtype) -> None:
    model, twin = net().to(dtype), net().to(dtype)
    opt = build(name, model)
    data = [(x.to(dtype), y) for x, y in batches(6)]
    steps(opt, data[:3])
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    twin.load_state_dict(model.state_dict())
    other = build(name, twin)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    steps(opt, data[3:])
    steps(other, data[3:])
    assert_equal(model, twin)


@methods
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_copies_continue_alike(name: str, way: str) -> None:
    model = net()
    opt = build(name, model)
    steps(opt, batches(2))
    both = (model, opt)
    twin, other = pickle.loads(pickle.dumps(both)) if way == "pickle" else copy.deepcopy(both)
    steps(opt, batches(2, seed=3))
    steps(other, batches(2, seed=3))
    assert_equal(model, twin)
    assert twin[0].weight is not model[0].weight


@methods
def test_a_schedule_ends_at_rest(name: str) -> None:
    model = net()
    opt = build(name, model)
    scheduler = CosineAnnealingLR(opt, 3)
    for x, y in batches(3):
        opt.step_on(x, y)
        scheduler.step()
    assert opt.param_groups[0]["lr"] == 0
    before = copy.deepcopy(model)
    steps(opt, batches(1))
    assert_equal(model, before)


@methods
def test_frozen_parameters_stay(name: str) -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    opt = build(name, model)
    steps(opt, batches(2))
    model[3].bias.requires_grad_(False)  # after the optimizer was made
    kept = model[3].bias.detach().clone()
    steps(opt, batches(2))
    assert torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[3].bias, kept)
    assert not torch.equal(model[0].bias, before[0].bias)
    with pytest.raises(ValueError, match="no trainable parameters"):
        build(name, model.requires_grad_(False))


@methods
def test_parameters_of_any_shape(name: str) -> None:
    """A scalar, and one without elements."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = net(), nn.Parameter(torch.tensor(1.5).double())
            self.nothing = nn.Parameter(torch.zeros(0, 3).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * self.scale + self.nothing.sum()

    model = Scaled()
    steps(build(name, model), batches(2))
    assert model.scale.isfinite()
    assert float(model.scale) != 1.5


@methods
def test_gradients_and_step_hooks(name: str) -> None:
    model = net()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    opt = build(name, model)
    seen: list[int] = []
    opt.register_step_post_hook(lambda *_: seen.append(1))
    steps(opt, batches(2))
    assert len(seen) == 2
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[0].bias.grad is None
    assert opt.gradient_evaluations >= 1


@linearizing
def test_what_is_not_finite_is_skipped_or_raised(name: str) -> None:
    [(x, y)] = batches(1)
    x[0, 0] = math.nan
    for policy in ("skip", "raise", "propagate"):
        model = net()
        opt = build(name, model, nonfinite=policy)
        steps(opt, batches(1, seed=2))
        before = copy.deepcopy(model)
        if policy == "raise":
            with pytest.raises(FloatingPointError, match="the step is not finite"):
                opt.step(x, y)
        else:
            opt.step(x, y)
        assert opt.skipped_steps == (policy == "skip")
        if policy != "propagate":
            assert_equal(model, before)
            steps(opt, batches(1))
            assert not torch.equal(model[0].weight, before[0].weight)


@linearizing
def test_there_is_one_group(name: str) -> None:
    opt = build(name, net())
    with pytest.raises(ValueError, match="has one group, of all trainable parameters of its model"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@linearizing
def test_every_declared_setting_is_checked(name: str) -> None:
    cls = BATCH[name].load()
    for argument in (*cls.ranges, "chunk", "nonfinite"):
        with pytest.raises((TypeError, ValueError), match=f"{cls.__name__}: {argument} must be"):
            cls(net(), **{argument: object()})
