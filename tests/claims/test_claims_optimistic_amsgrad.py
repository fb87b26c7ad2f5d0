"""Optimistic AMSGrad's claim: its control extrapolates nothing, and all sides choose the same floors."""

import math

import pytest
import torch

from steepest.claims import Size
from steepest.claims.optimistic_amsgrad import _SCALES, _sides, _tasks
from steepest.optim.optimistic_amsgrad import extrapolate


def test_the_prediction_of_the_control_is_the_gradient_before_the_last() -> None:
    former, last = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(extrapolate([former, last], 1e-3), former)


def test_all_sides_choose_the_same_rates_and_smallest_denominators() -> None:
    ours, *rivals = ([(s["lr"], s["eps"]) for s in side.grid] for side in _sides(_SCALES[Size.LAPTOP]))
    for theirs in rivals:
        for (rate, inside), (same, outside) in zip(ours, theirs, strict=True):
            assert rate == same
            assert math.sqrt(inside) == pytest.approx(outside, rel=1e-12)


def test_the_tasks_of_the_full_size_fit_their_data() -> None:
    tasks = _tasks(_SCALES[Size.FULL])
    inputs = (torch.zeros(2, 1, 28, 28), torch.zeros(2, 784), torch.zeros(2, 256, dtype=torch.long))
    shapes = [task.build(0)(x).shape for task, x in zip(tasks.values(), inputs, strict=True)]
    assert shapes == [(2, 10), (2, 784), (2, 256, 96)]
    assert not any(task.higher_is_better for task in tasks.values())
