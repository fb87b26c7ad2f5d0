"""Slots: a pure function of seed, method and slot; inside the space; the same in Optuna's terms."""

import optuna
import pytest
from arena_helpers import ADAM, ADAMW, SGD

from steepest.arena.jobs import Earlier, Pruning, _Watch
from steepest.arena.results import CurvePoint
from steepest.arena.tune import decode, distributions, encode, quasi_random, suggest
from steepest.catalogue import card as find_card
from steepest.core.card import Choice, Float, Integers, MethodCard


def test_slot_depends_on_seed_method_and_slot_alone():
    assert quasi_random(ADAMW, 0, 5) == quasi_random(ADAMW, 0, 5)
    others = [quasi_random(ADAMW, 0, 4), quasi_random(ADAMW, 1, 5), quasi_random(SGD, 0, 5)]
    assert all(o != quasi_random(ADAMW, 0, 5) for o in others)


def test_slots_spread_evenly_on_the_logarithmic_scale():
    rates = [quasi_random(ADAMW, 0, k)["lr"] for k in range(16)]
    assert all(1e-3 <= r <= 1e-1 for r in rates)
    # A Sobol sequence puts as many of its first 2^k points into each half of an axis.
    assert sum(r < 1e-2 for r in rates) == 8


def test_a_card_without_a_space_has_empty_settings():
    assert quasi_random(MethodCard("x", "X", "optim", "f", "s", "t:T", ()), 0, 3) == {}


def test_a_method_that_sets_its_own_step_is_first_tried_as_it_comes():
    oasis = find_card("oasis")
    assert quasi_random(oasis, 3, 0) == {"truncation": 1e-4, "beta2": 0.99}
    assert quasi_random(oasis, 3, 1) != quasi_random(oasis, 4, 1)
    assert suggest(oasis, 3, 0, "tpe", False, []) == oasis.defaults()


@pytest.mark.parametrize("slot", range(8))
def test_settings_survive_optuna_and_the_database(slot, tmp_path):
    storage = f"sqlite:///{tmp_path / 'x.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage)
    settings = quasi_random(ADAM, 0, slot)
    assert isinstance(settings["betas"], tuple)
    study.add_trial(
        optuna.trial.create_trial(params=encode(ADAM, settings), distributions=distributions(ADAM), value=1.0)
    )
    stored = optuna.load_study(study_name=study.study_name, storage=storage).trials[0].params
    assert decode(ADAM, stored) == settings


def test_choices_keep_their_types():
    card = MethodCard("x", "X", "optim", "f", "s", "t:T", (), search={"a": Choice((None, True, 1.5, "s", (1, 2)))})
    for value in card.search["a"].values:
        again = decode(card, encode(card, {"a": value}))["a"]
        assert again == value
        assert type(again) is type(value)


def test_ranges_in_words():
    assert Float(1e-5, 1e-2, log=True).describe() == "1e-05 to 0.01, logarithmic"
    assert Integers(2, 9).describe() == "2 to 9"
    assert Choice((True, (0.9, 0.99))).describe() == "True | (0.9, 0.99)"


def test_tpe_learns_where_the_good_settings_are():
    space = MethodCard("x", "X", "optim", "f", "s", "t:T", (), search={"lr": Float(0.0, 1.0)})
    history = []
    for slot in range(30):
        settings = suggest(space, 0, slot, "tpe", higher_is_better=False, history=history)
        history.append((settings, (settings["lr"] - 0.8) ** 2))
    late = [abs(s["lr"] - 0.8) for s, _ in history[15:]]
    assert sum(late) / len(late) < 0.15  # uniform search: 0.34
    assert suggest(space, 0, 30, "tpe", False, history) == suggest(space, 0, 30, "tpe", False, history)


def earlier(final, complete=True):
    return Earlier(complete, {n: final * n / 4 for n in (1, 2, 3, 4)}, {})


@pytest.mark.parametrize("kind", ["median", "halving"])
def test_pruners_stop_the_hopeless_and_keep_the_best(kind):
    past = tuple(earlier(v) for v in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95))
    if kind == "halving":
        past = tuple(Earlier(True, e.values, {"completed_rung_0": e.values[1]}) for e in past)
    for final, expected in ((0.1, True), (0.99, False)):
        watch = _Watch(Pruning(kind, True, 4, past))
        words = [watch(n, CurvePoint(n, 0.0, None, final * n / 4)) for n in (1, 2, 3)]
        assert any(words) is expected
        if expected:
            assert f"{kind} pruner" in next(w for w in words if w)


def test_median_pruner_waits_for_something_to_compare_with():
    watch = _Watch(Pruning("median", True, 4, (earlier(0.9), earlier(0.95), earlier(0.9))))
    assert [watch(n, CurvePoint(n, 0.0, None, 0.0)) for n in (1, 2, 3)] == [None, None, None]
