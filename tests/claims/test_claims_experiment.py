"""What the experiments share: equal tuning, paired differences, and how a verdict is told."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from steepest.arena.task import Data, Examples, Task
from steepest.arena.train import evaluate, train
from steepest.claims.claim import Context
from steepest.claims.evidence import Size
from steepest.claims.experiment import (
    Side,
    difference,
    grid,
    parts,
    percent,
    remembered,
    repeat,
    too_few,
    tune,
    watched,
)
from steepest.claims.pages import figure_rows
from steepest.data import DataNotFound

CONTEXT = Context(Size.SMOKE)


def _data() -> Data:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    return Data(Examples(x[:20], y[:20]), Examples(x[20:40], y[20:40]), Examples(x[40:], y[40:]))


def regression(**changes: Any) -> Task:
    settings: dict[str, Any] = {"data": _data, "batch_size": 10, "evaluations": 4, **changes}
    return Task("line", "A line", lambda: nn.Linear(3, 1), loss=nn.functional.mse_loss, **settings)


def sgd(*rates: float, **fixed: Any) -> Side:
    return Side("SGD", "sgd", grid(lr=rates), fixed)


def test_a_grid_is_every_combination() -> None:
    assert grid(lr=(1, 2), decay=(3, 4)) == (
        {"lr": 1, "decay": 3},
        {"lr": 1, "decay": 4},
        {"lr": 2, "decay": 3},
        {"lr": 2, "decay": 4},
    )


def test_tuning_takes_the_best_on_the_validation_split_and_tells_edges() -> None:
    tuned = tune(CONTEXT, regression(), sgd(1e-6, 0.03, 1e-5), 40)
    assert tuned.settings == {"lr": 0.03}
    assert tuned.at_edge
    assert tuned.score == min(s for s in tuned.scores if s is not None)
    assert not tune(CONTEXT, regression(), sgd(1e-6, 0.03, 50.0), 40).at_edge
    # A single rate is no range that could have been too narrow.
    assert not tune(CONTEXT, regression(), sgd(0.03), 40).at_edge


def test_tuning_goes_up_where_higher_is_better() -> None:
    task = regression(metric=lambda outputs, targets: -((outputs - targets) ** 2).mean(), higher_is_better=True)
    assert tune(CONTEXT, task, sgd(1e-6, 0.03), 40).settings == {"lr": 0.03}


def test_a_side_none_of_whose_settings_trains_is_an_error_with_the_reasons() -> None:
    with pytest.raises(RuntimeError, match=r"no setting of SGD trains line: .*(not finite|inf|times the first)"):
        tune(CONTEXT, regression(), sgd(1e6, 1e7), 40)


def test_missing_data_is_not_taken_for_a_failure_of_the_method() -> None:
    def missing() -> Data:
        raise DataNotFound("get it there")

    with pytest.raises(DataNotFound, match="get it there"):
        tune(CONTEXT, regression(data=missing), sgd(0.1), 4)


def test_final_runs_use_fresh_seeds_the_fixed_settings_and_the_test_split() -> None:
    context = Context(Size.SMOKE, seed=3)
    seeds = context.seeds(3)
    assert context.tuning_seed not in seeds
    assert len(set(seeds)) == 3
    runs = repeat(context, regression(), sgd(0.03, momentum=0.0, nesterov=False), {"lr": 0.03}, seeds, 20)
    assert len({r.test_loss for r in runs}) == 3
    # Without momentum plain SGD keeps no state: the fixed settings went over the card's own.
    assert all(r.state_bytes_per_parameter == 0 for r in runs)
    again = repeat(context, regression(), sgd(0.03, momentum=0.0, nesterov=False), {"lr": 0.03}, seeds, 20)
    assert [r.test_loss for r in runs] == [r.test_loss for r in again]


def test_a_watched_task_shows_the_model_in_training() -> None:
    seen: list[tuple[int, float]] = []
    task, watch = watched(regression(), lambda model, step: seen.append((step, float(model.weight.detach().norm()))))
    side = sgd(0.03)
    train(task, side.card(), {"lr": 0.03}, seed=1, steps=40, watch=watch)
    assert [step for step, _ in seen] == [10, 20, 30]
    assert len({norm for _, norm in seen}) == 3


def test_differences_are_paired() -> None:
    found = difference([1.0, 5.0, 9.0], [0.9, 4.9, 8.9])
    assert found is not None
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert difference([1.0, None], [1.0, 2.0]) is None
    assert difference([], []) is None
    single = difference([1.0], [0.5])
    assert single is not None
    assert (single.mean, single.low, single.high) == (0.5, None, None)


@pytest.mark.parametrize(
    ("holds", "told"),
    [
        ([True], "Part 1 holds."),
        ([True, True, True], "Parts 1, 2 and 3 hold."),
        ([True, False, True], "Parts 1 and 3 hold; part 2 does not hold."),
        ([False, True, False], "Part 2 holds; parts 1 and 3 do not hold."),
        ([False, False], "Parts 1 and 2 do not hold."),
    ],
)
def test_which_parts_hold(holds: list[bool], told: str) -> None:
    assert parts(holds, "So.") == f"{told} So."


def test_too_few_is_told_in_grammar() -> None:
    assert too_few(1).sentence == "One seed is too few to decide; 3 are needed."
    assert too_few(2).sentence == "2 seeds are too few to decide; 3 are needed."


def test_figures_stand_with_their_intervals() -> None:
    figures: Mapping[str, Any] = {"gap": -0.5, "gap_low": -1.0, "gap_high": 0.25, "seeds": 4, "lost": None}
    assert list(figure_rows(figures)) == [("gap", "-0.5 (-1 to 0.25)"), ("seeds", "4"), ("lost", "none")]


def test_gaps_in_per_cent_are_paired_and_need_every_score() -> None:
    found = percent("gap", [1.1, 2.4], [1.0, 2.0])
    assert found["gap"] == pytest.approx(15.0)
    assert found["gap_low"] == pytest.approx(10.0)
    assert found["gap_high"] == pytest.approx(20.0)
    nothing = {"gap": None, "gap_low": None, "gap_high": None}
    assert percent("gap", [1.1, None], [1.0, 2.0]) == percent("gap", [], []) == nothing


def test_a_task_remembers_the_model_that_was_trained() -> None:
    task, held = remembered(regression())
    first = train(task, sgd(0.03).card(), {"lr": 0.03}, seed=1, steps=40, test=True)
    assert evaluate(task, held[0], task.splits().test)[1] == first.test_loss
    again = train(task, sgd(0.03).card(), {"lr": 0.03}, seed=2, steps=40, test=True)
    assert evaluate(task, held[0], task.splits().test)[1] == again.test_loss != first.test_loss
