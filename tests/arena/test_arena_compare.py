"""The main job in small: equal plans, resuming, growing, refusing, stopping."""

import json
import signal
import subprocess
import sys
import time

import pytest
from arena_helpers import ADAM, ADAMW, BROKEN, LBFGS, SGD, WILD, tiny_task, write_task

from steepest.arena import BadInput, Interrupted, compare, load
from steepest.arena import conduct as conduct_room
from steepest.arena.execute import InProcess, Processes
from steepest.arena.jobs import perform
from steepest.arena.saved import from_json, to_json
from steepest.core.errors import UnknownName

QUICK = {
    "trials": 3,
    "seeds": 2,
    "budget": "10steps",
    "pruner": "none",
    "threads": 1,
    "report": False,
    "progress": False,
}


def run(out, methods=(ADAMW, SGD), task=None, **changes):
    return compare(task or tiny_task(), list(methods), out=out, **{**QUICK, **changes})


def essence(found):
    """What has to be equal between two runs of one plan: all but times and memory."""
    trials = [(t.task, t.method, t.slot, tuple(t.settings.items()), t.status, t.score, t.steps) for t in found.trials]
    runs = [(r.task, r.method, r.seed, tuple(r.settings.items()), r.status, r.test_metric, r.steps) for r in found.runs]
    curves = [[(p.step, p.train_loss, p.validation_metric) for p in r.curve] for r in found.runs]
    return sorted(trials), sorted(runs), curves


def test_every_method_gets_the_same(tmp_path):
    found = run(tmp_path, (ADAMW, SGD, ADAM, LBFGS))
    assert found.complete
    for method in ("adamw", "sgd", "adam", "lbfgs"):
        assert [t.slot for t in found.trials if t.method == method] == [0, 1, 2]
        assert [r.seed for r in found.runs if r.method == method] == [1, 2]
    assert {t.steps for t in found.trials if t.method != "lbfgs"} == {10}
    assert load(tmp_path) == found
    assert found.plan["storage"] == "sqlite"


def test_winner_is_the_best_on_validation_and_is_scored_on_test_with_fresh_seeds(tmp_path):
    found = run(tmp_path, (SGD,), baseline="sgd", trials=5)
    best = min(found.trials, key=lambda t: t.score)
    assert all(r.settings == best.settings for r in found.runs)
    assert found.methods[0].line["tiny"] == SGD.line(**best.settings)
    assert len({r.test_metric for r in found.runs}) == 2
    assert all(r.test_metric != r.curve[-1].validation_metric for r in found.runs)


def test_nothing_that_finished_runs_again(tmp_path, monkeypatch):
    first = run(tmp_path)

    def never(self, ticket, job):
        raise AssertionError("something ran again")

    monkeypatch.setattr(InProcess, "submit", never)
    assert essence(run(tmp_path)) == essence(first)


def test_growing_trials_seeds_and_methods_continues(tmp_path):
    small = run(tmp_path / "grown", (ADAMW,), trials=2, seeds=1)
    grown = run(tmp_path / "grown", (ADAMW, SGD), trials=4, seeds=3)
    straight = run(tmp_path / "straight", (ADAMW, SGD), trials=4, seeds=3)
    assert essence(grown) == essence(straight)
    assert set(essence(small)[0]) <= set(essence(grown)[0])
    seconds = {(t.method, t.slot): t.seconds for t in grown.trials}
    assert all(seconds[t.method, t.slot] == t.seconds for t in small.trials)  # the old ones, not new ones


def test_shrinking_shows_what_was_asked_for(tmp_path):
    run(tmp_path, trials=4, seeds=3)
    small = run(tmp_path, trials=2, seeds=1)
    assert essence(small) == essence(run(tmp_path / "fresh", trials=2, seeds=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": "11steps"}, "budget was '10steps' and is now '11steps'"),
        ({"seed": 5}, "seed was 0 and is now 5"),
        ({"pruner": "median"}, "pruner was 'none'"),
        ({"sampler": "tpe"}, "sampler was 'qmc'"),
        ({"task": tiny_task(batch_size=8)}, "tasks tiny batch_size was 16 and is now 8"),
    ],
)
def test_another_plan_on_the_same_folder_is_refused(tmp_path, changes, words):
    before = run(tmp_path, trials=1, seeds=1)
    with pytest.raises(BadInput, match=words):
        run(tmp_path, **{"trials": 1, "seeds": 1, **changes})
    assert load(tmp_path) == before


def test_changed_search_space_is_refused(tmp_path):
    import dataclasses

    from steepest.core.card import Float

    run(tmp_path, trials=1, seeds=1)
    wider = dataclasses.replace(SGD, search={**SGD.search, "lr": Float(1e-6, 1.0, log=True)})
    with pytest.raises(BadInput, match="search space lr was"):
        run(tmp_path, (ADAMW, wider), trials=1, seeds=1)


def test_tasks_may_be_added(tmp_path):
    run(tmp_path, trials=1, seeds=1)
    both = run(tmp_path, task=[tiny_task(), tiny_task(name="other", batch_size=8)], trials=1, seeds=1)
    assert [t.name for t in both.tasks] == ["tiny", "other"]
    assert len(both.runs) == 4


def test_diverged_and_failed_trials_are_kept_with_reason_and_cost(tmp_path):
    found = run(tmp_path, (ADAMW, WILD, BROKEN))
    wild = [t for t in found.trials if t.method == "wild"]
    assert [t.status for t in wild] == ["diverged"] * 3
    assert all(t.reason and t.score is None and t.steps > 0 for t in wild)
    broken = [t for t in found.trials if t.method == "broken"]
    assert [t.status for t in broken] == ["failed"] * 3
    assert all("Invalid learning rate" in t.reason for t in broken)
    assert found.complete
    assert {r.method for r in found.runs} == {"adamw"}
    assert [m.line for m in found.methods if m.name in ("wild", "broken")] == [{}, {}]
    from steepest.arena import analyze

    assert any("no final run of" in s or "nothing" in s for s in analyze(found).sentences)


def test_pruned_trials_count_and_are_kept(tmp_path):
    found = run(tmp_path, (SGD,), baseline="sgd", trials=12, pruner="median", budget="20steps")
    states = [t.status for t in found.trials]
    assert states.count("pruned") > 0
    assert len(states) == 12
    pruned = next(t for t in found.trials if t.status == "pruned")
    assert pruned.score is None
    assert 0 < pruned.steps < 20
    assert "median pruner" in pruned.reason


def test_tpe(tmp_path):
    found = run(tmp_path, (ADAMW,), sampler="tpe", trials=10)
    straight = run(tmp_path / "b", (ADAMW,), sampler="qmc", trials=10)
    settings = [[t.settings for t in f.trials] for f in (found, straight)]
    assert settings[0][:6] == settings[1][:6]
    assert settings[0][6:] != settings[1][6:]


def test_two_workers_give_the_same_results_as_one(tmp_path):
    alone = run(tmp_path / "one", (ADAMW, SGD, WILD), trials=4)
    together = run(tmp_path / "two", (ADAMW, SGD, WILD), trials=4, workers=2)
    assert essence(alone) == essence(together)


def test_results_go_to_json_and_back(tmp_path):
    found = run(tmp_path, (ADAM,), baseline="adam")
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
    assert isinstance(found.trials[0].settings["betas"], tuple)
    with pytest.raises(BadInput, match="layout version 99"):
        from_json({**to_json(found), "schema": 99})


def test_baseline_takes_part_even_when_it_is_not_named(tmp_path):
    found = compare(tiny_task(), ["sgd"], out=tmp_path, **{**QUICK, "trials": 1, "seeds": 1})
    assert [m.name for m in found.methods] == ["adamw", "sgd"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": "0steps"}, "budget must be"),
        ({"budget": "0s"}, "budget must be"),
        ({"budget": "10steps,3s"}, "either steps or seconds"),
        ({"trials": 0}, "trials must be an integer >= 1, got 0"),
        ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
        ({"workers": 0}, "workers must be"),
        ({"threads": 0}, "threads must be"),
        ({"seed": -1}, "seed must be"),
        ({"sampler": "grid"}, "sampler must be one of qmc, tpe, got 'grid'"),
        ({"pruner": "x"}, "pruner must be one of"),
        ({"engine": "dask"}, "engine must be one of"),
        ({"address": "auto"}, "address is for engine ray"),
        ({"device": "tpu"}, "device must be"),
        ({"device": "cuda:77"}, "is not there"),
        ({"storage": "mysql://x"}, "storage must be"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, changes, words):
    with pytest.raises(BadInput, match=words):
        run(tmp_path, **changes)
    assert not (tmp_path / "results.json").exists()


def test_unknown_names_suggest_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'adamw'"):
        compare(tiny_task(), ["adamww"], out=tmp_path, **QUICK)
    with pytest.raises(UnknownName, match="did you mean 'digits-mlp'"):
        compare("digits-mpl", ["adamw"], out=tmp_path, **QUICK)
    with pytest.raises(TypeError, match="no option 'trails'"):
        compare(tiny_task(), ["adamw"], out=tmp_path, trails=3)


def test_solvers_do_not_take_part(tmp_path):
    import dataclasses

    with pytest.raises(BadInput, match="is a solver"):
        run(tmp_path, (ADAMW, dataclasses.replace(SGD, room="convex")))
    with pytest.raises(BadInput, match="needs per-sample gradients"):
        run(tmp_path, (ADAMW, dataclasses.replace(SGD, needs=frozenset({"gradient", "per-sample gradients"}))))


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="cannot be written"):
            run(out)


def test_damaged_plan(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(BadInput, match=r"plan.json cannot be read"):
        run(tmp_path)


def test_ctrl_c_keeps_what_is_done_and_the_same_call_continues(tmp_path, monkeypatch):
    calls = []

    def interrupted(job):
        calls.append(job)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return perform(job)

    monkeypatch.setattr("steepest.arena.execute.perform", interrupted)
    with pytest.raises(Interrupted, match="4 tuning trials and 0 final runs are saved"):
        run(tmp_path / "a")
    assert not load(tmp_path / "a").complete
    monkeypatch.undo()
    assert essence(run(tmp_path / "a")) == essence(run(tmp_path / "b"))


def test_dead_worker_is_an_outcome_and_the_others_go_on():
    import os
    from dataclasses import replace

    from steepest.arena.jobs import Job, portable

    task = tiny_task()
    good = Job(task, "k", portable(SGD), {"lr": 0.01}, 0, 5, None, "cpu", 1, False, None)
    executor = Processes(1, 1)  # one worker, so that the good job is behind the one that kills it
    try:
        executor.submit(1, replace(good, key="other", task=tiny_task(data=lambda: os._exit(9))))
        executor.submit(0, good)
        ended = {}
        while len(ended) < 2:
            ended.update(executor.collect(10.0))
        assert ended[0].status == "complete"
        assert (ended[1].status, "worker process died" in ended[1].reason) == ("failed", True)
    finally:
        executor.close()


def command(task, out, *more):
    base = [sys.executable, "-m", "steepest.cli", "compare", f"{task}:make_task", "--out", str(out), "--threads", "1"]
    return [*base, "--methods", "adamw,sgd", "--trials", "60", "--seeds", "1", "--budget", "40steps", *more]


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_signal_and_second_run_on_the_command_line(tmp_path, workers):
    task = write_task(tmp_path, pause=0.02)
    process = subprocess.Popen(
        command(task, tmp_path / "out", "--workers", workers),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path / "training", process)
    second = subprocess.run(command(task, tmp_path / "out"), capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 2
    assert "another steepest compare is at work" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert not load(tmp_path / "out").complete


def test_conductor_asks_for_the_best_slot_by_score_then_loss_then_slot(tmp_path):
    from types import SimpleNamespace

    from steepest.arena.train import Outcome

    conductor = object.__new__(conduct_room.Conductor)
    conductor.plan = SimpleNamespace(options=SimpleNamespace(trials=4))
    info = SimpleNamespace(higher_is_better=True)
    tuned = {
        k: Outcome(s, None, 1, 1.0, (), metric=m, loss=loss)
        for k, (s, m, loss) in enumerate(
            [("complete", 0.8, 0.1), ("complete", 0.9, 0.5), ("complete", 0.9, 0.4), ("complete", 0.9, 0.4)]
        )
    }
    tuned[4] = Outcome("complete", None, 1, 1.0, (), metric=1.0, loss=0.0)  # beyond the plan
    entry = SimpleNamespace(planned=SimpleNamespace(info=info), tuned=tuned)
    assert conductor.winner(entry) == 2


def test_workers_that_share_cores_are_warned_of_and_it_is_recorded():
    from steepest.arena.plan import Options, make_plan

    crowded = {"workers": 512, "threads": 2, "baseline": "sgd"}
    timed = make_plan([tiny_task()], [SGD], Options(budget="1s", **crowded))
    assert "timed budgets are not comparable" in timed.summary()["warning"]
    counted = make_plan([tiny_task()], [SGD], Options(budget="5steps", **crowded))
    assert "times are not comparable" in counted.summary()["warning"]
    alone = make_plan([tiny_task()], [SGD], Options(budget="1s", workers=1, baseline="sgd"))
    assert "warning" not in alone.summary()


def test_timed_budget(tmp_path):
    found = run(tmp_path, (SGD,), baseline="sgd", budget="0.2s", trials=2, seeds=1)
    assert all(0.2 <= t.seconds < 1.0 for t in found.trials)
    assert found.plan["budget"] == "0.2s"
