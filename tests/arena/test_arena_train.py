"""One run: budget, schedule, pairing, evaluations, and every way to end."""

import itertools
import math
import time

import pytest
import torch
from arena_helpers import ADAMW, BROKEN, LBFGS, SGD, WILD, card, tiny_task
from torch import nn
from torch.nn import functional

from steepest.arena.measure import PeakMemory
from steepest.arena.train import evaluate, factor, train
from steepest.catalogue import card as find_card
from steepest.core.card import Float
from steepest.core.memory import state_bytes


class Recorder(torch.optim.SGD):
    """Keeps the learning rates and gradients that it sees."""

    seen: list[tuple[float, torch.Tensor]] = []

    def step(self, closure=None):
        Recorder.seen.append((self.param_groups[0]["lr"], self.param_groups[0]["params"][0].grad.clone()))
        return super().step(closure)


RECORDER = card("recorder", f"{__name__}:Recorder", {"lr": Float(0.0, 1.0)})


def recorded(**options):
    train(tiny_task(), RECORDER, {"lr": 0.5}, **options)  # the first run of a process has a warm-up step more
    Recorder.seen = []
    outcome = train(tiny_task(), RECORDER, {"lr": 0.5}, **options)
    return outcome, Recorder.seen


def test_schedule_warms_up_linearly_and_ends_at_zero():
    _, seen = recorded(seed=0, steps=100)
    rates = [rate / 0.5 for rate, _ in seen]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # The cosine from step 5 to step 100: half way at step 52.5.
    assert rates[52] == pytest.approx(0.5 * (1 + math.cos(math.pi * 47 / 95)))
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert 0 < rates[99] < 1e-3


def test_schedule_factor_at_the_ends():
    assert factor(0.0, 0.05) == 1.0
    assert factor(1.0, 1.01) == pytest.approx(0.0)
    assert factor(0.0, 0.025) == 0.5
    assert factor(0.0, 1.0) == 1.0  # a budget of a single step trains at the full rate


def test_same_seed_gives_every_method_the_same_model_and_batches():
    losses = {}
    for method in (ADAMW, SGD):
        outcome = train(tiny_task(), method, {"lr": 1e-12}, seed=3, steps=10)
        losses[method.name] = [p.train_loss for p in outcome.curve]
    assert losses["adamw"] == pytest.approx(losses["sgd"], rel=1e-6)
    other = train(tiny_task(), SGD, {"lr": 1e-12}, seed=4, steps=10)
    assert other.curve[0].train_loss != pytest.approx(losses["sgd"][0], rel=1e-3)


def test_run_is_repeatable_and_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    first = train(tiny_task(), ADAMW, {"lr": 0.05}, seed=1, steps=20, test=True)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    second = train(tiny_task(), ADAMW, {"lr": 0.05}, seed=1, steps=20, test=True)
    assert (first.metric, first.test_metric) == (second.metric, second.test_metric)
    assert [p.train_loss for p in first.curve] == [p.train_loss for p in second.curve]


def test_every_epoch_sees_every_row_once():
    task = tiny_task()
    train(task, RECORDER, {"lr": 0.0}, seed=0, steps=1)
    Recorder.seen = []
    train(task, RECORDER, {"lr": 0.0}, seed=0, steps=4)  # 64 rows in 4 batches; the weights stay where they are
    mean = torch.stack([g for _, g in Recorder.seen]).mean(0)
    model = task.build(0)
    functional.mse_loss(model(task.splits().train.inputs), task.splits().train.targets).backward()
    assert torch.allclose(mean, model[0].weight.grad, atol=1e-5)


def test_evaluations_are_spread_over_the_budget():
    outcome = train(tiny_task(evaluations=4), SGD, {"lr": 0.01}, seed=0, steps=10)
    assert [p.step for p in outcome.curve] == [0, 3, 5, 8, 10]
    assert outcome.steps == 10
    assert outcome.metric == outcome.curve[-1].validation_metric


def test_more_evaluations_than_steps():
    outcome = train(tiny_task(evaluations=20), SGD, {"lr": 0.01}, seed=0, steps=3)
    assert [p.step for p in outcome.curve] == [0, 1, 2, 3]


def test_seconds_are_those_of_training_alone():
    def slow(outputs, targets):
        time.sleep(0.02)
        return functional.mse_loss(outputs, targets)

    task = tiny_task(metric=slow, evaluations=10)
    began = time.perf_counter()
    outcome = train(task, SGD, {"lr": 0.01}, seed=0, seconds=0.3)
    wall = time.perf_counter() - began
    assert outcome.status == "complete"
    assert 0.3 <= outcome.seconds < 1.0  # the last step may be a slow one
    assert wall > outcome.seconds + 10 * 0.02
    assert len(outcome.curve) == 11


def test_scores_are_means_over_rows_whatever_the_batches():
    model = tiny_task().build(0)
    split = tiny_task().splits().test
    whole = evaluate(tiny_task(eval_batch_size=32), model, split)
    assert evaluate(tiny_task(eval_batch_size=5), model, split) == pytest.approx(whole, rel=1e-6)
    assert whole[1] == pytest.approx(float(functional.mse_loss(model(split.inputs), split.targets).detach()), rel=1e-6)


def test_test_split_is_scored_only_on_request():
    assert train(tiny_task(), SGD, {"lr": 0.01}, seed=0, steps=5).test_metric is None
    final = train(tiny_task(), SGD, {"lr": 0.01}, seed=0, steps=5, test=True)
    assert final.test_metric is not None
    assert final.test_metric != final.metric


def test_closure_methods_train_and_count_gradients_as_steps():
    outcome = train(tiny_task(), LBFGS, {"lr": 0.5, "history_size": 5, "max_iter": 4}, seed=0, steps=20)
    assert outcome.status == "complete"
    assert 20 <= outcome.steps < 20 + 5
    assert outcome.metric < outcome.curve[0].validation_metric / 5


def test_methods_that_take_the_batch_are_given_the_task_s_loss_and_count_a_gradient_per_output():
    """A linear regression is solved by a few damped Gauss-Newton steps; five outputs cost five gradients."""
    egn = find_card("egn")
    outcome = train(tiny_task(), egn, {"lr": 1.0, "damping": 0.01}, seed=0, steps=20)
    assert (outcome.status, outcome.steps) == ("complete", 20)
    assert outcome.metric < outcome.curve[0].validation_metric / 5
    wide = tiny_task(model=lambda: nn.Linear(5, 5), loss=lambda z, y: (z - y[:, None]).square().mean())
    assert train(wide, egn, {"lr": 1.0}, seed=0, steps=20).steps == 20
    assert train(wide, egn, {"lr": 1.0}, seed=0, steps=21).steps == 25
    surrogate = find_card("target-surrogate")
    outcome = train(tiny_task(), surrogate, {"lr": 0.1, "inner_steps": 5}, seed=0, steps=20)
    assert (outcome.status, outcome.steps) == ("complete", 20)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        # Every step but the first evaluates two gradients and a product; the first has ten products.
        ("oasis", {}, 11 + 3 * 4),
        ("oasis-momentum", {"lr": 1e-3}, 11 + 2 * 6),
        ("smb", {"lr": 0.01}, 24),  # every step tries its result
        ("sania-newton", {"max_products": 1, "tolerance": 0.0}, 24),
        ("sania", {}, 23),
    ],
)
def test_methods_that_differentiate_the_loss_are_counted_by_their_work(name, settings, expected):
    outcome = train(tiny_task(), find_card(name), settings, seed=0, steps=23)
    assert (outcome.status, outcome.steps) == ("complete", expected)


def test_divergence_is_an_outcome_with_a_reason():
    outcome = train(tiny_task(), WILD, {"lr": 1e8}, seed=0, steps=50)
    assert outcome.status == "diverged"
    assert "loss" in outcome.reason
    assert outcome.metric is None
    assert 0 < outcome.steps <= 50


def test_exploding_but_finite_loss_is_divergence():
    outcome = train(tiny_task(evaluations=50), SGD, {"lr": 3.0}, seed=0, steps=50)
    assert outcome.status == "diverged"
    assert "100 times the first" in outcome.reason


def test_exceptions_are_outcomes_with_a_reason():
    outcome = train(tiny_task(), BROKEN, {"lr": -1.0}, seed=0, steps=5)
    assert (outcome.status, outcome.steps) == ("failed", 0)
    assert outcome.reason.startswith("ValueError: Invalid learning rate")


def test_ctrl_c_is_not_an_outcome():
    def stop(number, point):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_task(), SGD, {"lr": 0.01}, seed=0, steps=5, watch=stop)


def test_pruning_keeps_the_cost():
    outcome = train(tiny_task(), SGD, {"lr": 0.01}, seed=0, steps=10, watch=lambda n, p: "enough" if n == 2 else None)
    assert (outcome.status, outcome.reason, outcome.steps) == ("pruned", "enough", 4)
    assert outcome.metric is None


def test_state_is_counted_once():
    weight = nn.Parameter(torch.zeros(10))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    shared = torch.zeros(10)
    optimizer.state[weight] = {"a": shared, "b": shared, "c": [torch.zeros(5, dtype=torch.float64)], "d": 3}
    assert state_bytes(optimizer) == 40 + 40
    adam = train(tiny_task(), ADAMW, {"lr": 0.01}, seed=0, steps=2, test=True)
    assert adam.state_bytes_per_parameter == pytest.approx((2 * 6 * 4 + 2 * 4) / 6)  # two moments, a count per tensor


def test_peak_memory_sees_a_large_allocation():
    memory = PeakMemory(torch.device("cpu"))
    if memory.start is None:
        pytest.skip("this system does not tell")
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    del block
    assert 60 * 2**20 < memory.peak() < 100 * 2**20
