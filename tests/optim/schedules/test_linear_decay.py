"""Linear decay, and slow start with fast decay: against compositions of torch's schedulers, step by step."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, LRScheduler, PolynomialLR, SequentialLR

from steepest.optim.schedules import LinearDecay, SlowStartFastDecay


def optimizer(*rates: float) -> Optimizer:
    return SGD([{"params": [torch.zeros(2, requires_grad=True)], "lr": lr} for lr in rates or (0.3,)])


def rates(opt: Optimizer, scheduler: LRScheduler, count: int) -> list[list[float]]:
    found = []
    for _ in range(count):
        found.append([float(group["lr"]) for group in opt.param_groups])
        opt.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR of some versions of torch calls step(epoch)
            scheduler.step()
    return found


def flat(values: list[list[float]]) -> Any:
    return pytest.approx([v for row in values for v in row], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0), (20, 5), (20, 19), (1, 0), (2, 1)])
def test_linear_decay_is_a_composition_of_linear_schedulers(steps: int, warmup: int) -> None:
    ours, theirs = optimizer(0.3, 1.0), optimizer(0.3, 1.0)
    down = LinearLR(theirs, 1.0, 0.0, total_iters=steps - warmup)
    expected: LRScheduler = down
    if warmup:
        theirs = optimizer(0.3, 1.0)
        up = LinearLR(theirs, 1 / (warmup + 1), 1.0, total_iters=warmup)
        down = LinearLR(theirs, 1.0, 0.0, total_iters=steps - warmup)
        expected = SequentialLR(theirs, [up, down], milestones=[warmup])
    found = rates(ours, LinearDecay(ours, steps, warmup), steps + 3)
    assert [v for row in found for v in row] == flat(rates(theirs, expected, steps + 3))
    assert found[-1] == [0.0, 0.0]
    assert all(v > 0 for row in found[:steps] for v in row)


def test_linear_decay_is_torchs_polynomial_of_degree_one() -> None:
    ours, theirs = optimizer(), optimizer()
    found, expected = (
        rates(o, s, 15) for o, s in ((ours, LinearDecay(ours, 12)), (theirs, PolynomialLR(theirs, 12, power=1.0)))
    )
    assert [v for row in found for v in row] == flat(expected)


def test_slow_start_fast_decay_is_a_composition_with_an_exponential() -> None:
    ours, theirs = optimizer(0.05, 0.01), optimizer(0.05, 0.01)
    up = LinearLR(theirs, 0.1, 1.0, total_iters=6)
    down = ExponentialLR(theirs, 1e-3 ** (1 / 24))
    expected = rates(theirs, SequentialLR(theirs, [up, down], milestones=[6]), 31)
    scheduler = SlowStartFastDecay(ours, 30, warmup=6, start_factor=0.1, end_factor=1e-3)
    found = rates(ours, scheduler, 34)
    assert [v for row in found[:31] for v in row] == flat(expected)
    assert found[0] == pytest.approx([0.005, 0.001])
    assert found[6] == [0.05, 0.01]
    assert found[30] == found[33] == pytest.approx([5e-5, 1e-5])


def test_slow_start_fast_decay_warms_up_for_a_tenth_by_default() -> None:
    assert SlowStartFastDecay(optimizer(), 50).warmup == 5
    assert SlowStartFastDecay(optimizer(), 5).warmup == 0


MAKERS = {
    "linear": lambda o: LinearDecay(o, 10, 3),
    "slow-start": lambda o: SlowStartFastDecay(o, 10, 3),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_resumed_run_goes_on_and_keeps_its_schedule(name: str) -> None:
    whole = optimizer(0.3, 1.0)
    expected = rates(whole, MAKERS[name](whole), 10)
    first = optimizer(0.3, 1.0)
    scheduler = MAKERS[name](first)
    found = rates(first, scheduler, 4)
    second = optimizer(0.3, 1.0)
    resumed = type(scheduler)(second, 99)  # the number of steps comes from the saved state
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    assert found + rates(second, resumed, 6) == expected


@pytest.mark.parametrize("name", MAKERS)
def test_a_learning_rate_that_is_a_tensor_stays_one(name: str) -> None:
    x = torch.zeros(2, requires_grad=True)
    opt = Adam([x], lr=torch.tensor(0.3), foreach=False)
    held = opt.param_groups[0]["lr"]
    plain = optimizer()
    found = rates(opt, MAKERS[name](opt), 10)
    assert opt.param_groups[0]["lr"] is held
    assert [v for row in found for v in row] == pytest.approx(
        [v for row in rates(plain, MAKERS[name](plain), 10) for v in row], rel=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: LinearDecay(o, 0), "LinearDecay: steps must be an integer >= 1, got 0"),
        (lambda o: LinearDecay(o, 10, 10), "LinearDecay: warmup must be an integer >= 0 and <= 9, got 10"),
        (lambda o: LinearDecay(o, 10, -1), "LinearDecay: warmup must be an integer >= 0 and <= 9, got -1"),
        (lambda o: SlowStartFastDecay(o, 10, 10), "SlowStartFastDecay: warmup must be an integer >= 0 and <= 9"),
        (lambda o: SlowStartFastDecay(o, 10, start_factor=0), r"start_factor must be a finite number in \(0, 1\]"),
        (lambda o: SlowStartFastDecay(o, 10, end_factor=2), r"end_factor must be a finite number in \(0, 1\], got 2"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(optimizer())
    with pytest.raises(TypeError, match="steps must be an integer"):
        LinearDecay(optimizer(), 2.5)  # type: ignore[arg-type]
