"""The sides of adversarial fine-tuning's claim: what they cost, and which steps they share."""

import pytest
import torch

from steepest.claims import Size
from steepest.claims import slow_start_fast_decay as claim
from steepest.claims.claim import Context


@pytest.mark.parametrize("size", [Size.LAPTOP, Size.FULL])
def test_sides_cost_what_their_names_say(size: Size) -> None:
    """In epochs, at one gradient per clean step and one more per step of the attack; rounding favours the rivals."""
    scale, price = claim._SCALES[size], claim.ATTACK_STEPS + 1
    ours = scale.natural + price * scale.tuning
    assert ours <= price * scale.equal < ours + price
    assert scale.natural + price * scale.long <= price * scale.adversarial
    assert ours <= claim.SHARE * price * scale.adversarial


def test_costs_count_natural_training_and_every_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    run = claim._Experiment(Context(Size.SMOKE))
    counted = 0

    def count(model: torch.nn.Module, *_: object) -> None:
        nonlocal counted
        counted += 1

    network = claim._network

    def hooked(images: str, seed: int) -> torch.nn.Module:
        model = network(images, seed)
        model.register_forward_hook(count)
        return model

    monkeypatch.setattr(claim, "_network", hooked)
    for side in (claim.SIDES[claim.OURS], claim.SIDES[claim.SCRATCH]):
        counted = 0
        trained = run.natural(0.1, seed=1)
        counted = counted if side.trained else 0
        run.robust(side, 0.1, 1, trained)
        assert counted == run.cost(side)


def test_schedules_differ_in_the_learning_rates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a constant factor of one in every schedule, all fine-tuned networks of a seed are the same."""
    run = claim._Experiment(Context(Size.SMOKE))
    trained = run.natural(0.1, seed=1)
    before = [p.clone() for p in trained.parameters()]
    schedule = claim._schedule
    monkeypatch.setattr(claim, "_schedule", lambda name, *rest: schedule("constant", *rest))
    found = [run.robust(claim.SIDES[name], 0.1, 1, trained)[0] for name in (claim.OURS, *claim.SCHEDULES)]
    first = list(found[0].parameters())
    for model in found[1:]:
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), first, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), before, strict=True))  # it starts them all
    assert not torch.equal(first[0], before[0])
