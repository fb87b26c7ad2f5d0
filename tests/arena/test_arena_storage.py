"""The database: what it refuses, what it releases, and that places are claimed once."""

import importlib.util
import sqlite3

import optuna
import pytest
from arena_helpers import SGD

from steepest.arena import BadInput
from steepest.arena.plan import differs
from steepest.arena.results import CurvePoint
from steepest.arena.storage import Mark, _dead, _process, masked, open_store
from steepest.arena.train import Outcome
from steepest.arena.tune import distributions, encode

SETTINGS = {"lr": 0.01, "momentum": 0.9}
DONE = Outcome("complete", None, 10, 1.5, (CurvePoint(0, 0.0, None, 0.1), CurvePoint(10, 1.5, 0.3, 0.8)), metric=0.8)


def claim(store, study, mark):
    return store.claim(study, mark, encode(SGD, SETTINGS), distributions(SGD))


@pytest.fixture
def opened(tmp_path):
    store = open_store(None, tmp_path, "")
    yield store, store.study("t", "sgd", "tuning", True)
    store.close()


def test_outcome_survives_the_database(opened):
    store, study = opened
    trial = claim(store, study, Mark(3))
    assert store.finish(trial, DONE)
    (stored,) = store.read(study)
    assert (stored.mark, stored.running, stored.outcome) == (Mark(3), False, DONE)
    assert dict(stored.parameters) == SETTINGS


def test_a_place_is_claimed_once(opened):
    store, study = opened
    trial = claim(store, study, Mark(0))
    assert claim(store, study, Mark(0)) is None  # running
    store.finish(trial, DONE)
    assert claim(store, study, Mark(0)) is None  # done
    assert claim(store, study, Mark(1)) is not None
    assert claim(store, study, Mark(0, seed=1)) is not None


@pytest.mark.parametrize(
    ("status", "state"), [("complete", "COMPLETE"), ("pruned", "PRUNED"), ("diverged", "FAIL"), ("failed", "FAIL")]
)
def test_optuna_sees_every_trial_with_its_reason(opened, tmp_path, status, state):
    store, study = opened
    done = DONE if status == "complete" else Outcome(status, "because", 4, 0.5, DONE.curve)
    store.finish(claim(store, study, Mark(0)), done)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    (trial,) = optuna.load_study(study_name=study, storage=url).trials
    assert trial.state.name == state
    assert trial.user_attrs["status"] == status
    assert trial.user_attrs.get("reason") == done.reason
    assert trial.intermediate_values == {1: 0.8}
    assert trial.params == SETTINGS
    assert trial.user_attrs["outcome"]["steps"] == done.steps


def test_running_trials_of_a_dead_run_are_released(tmp_path):
    first = open_store(None, tmp_path, "")
    study = first.study("t", "sgd", "tuning", True)
    lost = claim(first, study, Mark(0))
    first.close()  # as if killed: nobody finished the trial
    second = open_store(None, tmp_path, "")
    study = second.study("t", "sgd", "tuning", True)
    assert second.release_dead(study) == 1
    again = claim(second, study, Mark(0))
    assert again not in (None, lost)
    second.finish(again, DONE)
    kept = [s for s in second.read(study) if s.outcome is not None]
    assert [s.trial for s in kept] == [again]
    attributes = optuna.load_study(study_name=study, storage=f"sqlite:///{tmp_path / 'study.db'}").trials[0].user_attrs
    assert attributes["status"] == "interrupted"
    second.close()


def test_killed_between_outcome_and_end_is_run_again(opened):
    store, study = opened
    trial = claim(store, study, Mark(0))
    store.storage.set_trial_user_attr(trial, "outcome", {"curve": []})
    store.mine.clear()
    assert [s.outcome for s in store.read(study)] == [None]
    assert store.release_dead(study) == 1
    assert [s.outcome for s in store.read(study)] == [None]
    again = claim(store, study, Mark(0))
    store.finish(again, DONE)
    assert [s.outcome for s in store.read(study)] == [None, DONE]


def test_result_of_a_trial_that_was_taken_away_is_not_stored(opened):
    store, study = opened
    trial = claim(store, study, Mark(0))
    store.storage.set_trial_state_values(trial, optuna.trial.TrialState.FAIL)
    assert store.finish(trial, DONE) is False


def test_definition_is_kept(opened):
    store, study = opened
    store.agree(study, {"budget": "5steps", "loss": 0.5}, differs)
    store.agree(study, {"budget": "5steps", "loss": 0.50001}, differs)  # another machine's rounding
    with pytest.raises(BadInput, match="budget was '5steps' and is now '6steps'"):
        store.agree(study, {"budget": "6steps", "loss": 0.5}, differs)


def test_file_that_is_no_database(tmp_path):
    (tmp_path / "study.db").write_bytes(b"hello, I am text and no database")
    with pytest.raises(BadInput, match=r"study.db is not a SQLite database"):
        open_store(None, tmp_path, "")
    assert (tmp_path / "study.db").read_bytes().startswith(b"hello")


def test_damaged_database(tmp_path):
    store = open_store(None, tmp_path, "")
    study = store.study("t", "sgd", "tuning", True)
    for slot in range(20):
        store.finish(claim(store, study, Mark(slot)), DONE)
    store.close()
    path = tmp_path / "study.db"
    data = bytearray(path.read_bytes())
    data[5000:60000] = b"\x5a" * 55000
    path.write_bytes(bytes(data))
    with pytest.raises(BadInput, match="damaged"):
        open_store(None, tmp_path, "")


def test_truncated_database(tmp_path):
    open_store(None, tmp_path, "").close()
    path = tmp_path / "study.db"
    path.write_bytes(path.read_bytes()[:10000])
    with pytest.raises(BadInput, match=r"study.db"):
        open_store(None, tmp_path, "")


def test_database_of_another_program(tmp_path):
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("create table recipes (name text)")
    connection.close()
    with pytest.raises(BadInput, match=r"not a results database of steepest .its tables are recipes"):
        open_store(None, tmp_path, "")


def test_optuna_database_of_something_else(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="my-model")
    with pytest.raises(BadInput, match=r"studies that steepest did not make .my-model"):
        open_store(None, tmp_path, "")


def test_unknown_and_unreachable_storage(tmp_path):
    with pytest.raises(BadInput, match="storage must be"):
        open_store("mongodb://x", tmp_path, "")
    # Without the extra that brings the driver, that is what is said.
    installed = importlib.util.find_spec("psycopg2") is not None
    with pytest.raises(BadInput, match="cannot be used" if installed else "needs a driver") as caught:
        open_store("postgresql://me:secret@127.0.0.1:1/nothing", tmp_path, "")
    assert "secret" not in str(caught.value)
    assert masked("postgresql://me:secret@h/d") == "postgresql://me:***@h/d"


def test_life_of_processes():
    me = _process()
    assert not _dead(me, me)
    host, pid, born = me.split("/")
    assert _dead(f"{host}/{pid}/{float(born) - 100:.2f}", me)  # the number was used by another process before
    assert _dead(f"{host}/4194304/{born}", me)  # beyond the largest process number
    assert not _dead(f"elsewhere/4194304/{born}", me)
    assert not _dead("", me)
