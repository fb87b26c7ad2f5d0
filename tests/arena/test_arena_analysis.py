"""The analysis against hand-computed cases, planted winners and data without any difference."""

import json

import numpy as np
import pytest

from steepest.arena.analysis import analyze
from steepest.arena.results import Comparison, CurvePoint, MethodInfo, RunRecord, TaskInfo


def run(method, seed, metric, *, task="t", curve=(), status="complete", seconds=1.0):
    return RunRecord(
        task=task,
        method=method,
        seed=seed,
        settings={},
        status=status,
        reason=None if status == "complete" else "why",
        test_metric=metric,
        test_loss=metric,
        steps=100,
        seconds=seconds,
        peak_memory_bytes=10 * seed,
        state_bytes_per_parameter=8.0,
        curve=tuple(CurvePoint(s, t, None, m) for s, t, m in curve),
    )


def comparison(runs, baseline="a", tasks=("t",), higher=True, methods=None):
    names = methods or sorted({r.method for r in runs})
    info = tuple(TaskInfo(t, t, "accuracy", higher, 10, {"train": 1, "validation": 1, "test": 1}, 1) for t in tasks)
    made = tuple(MethodInfo(n, n.upper(), "", "", {}, {}) for n in names)
    return Comparison(info, made, (), tuple(runs), baseline, {}, {}, True)


def scores(table, **more):
    return [run(m, s, v, **more) for m, values in table.items() for s, v in enumerate(values)]


def test_ranking_by_hand():
    task = analyze(comparison(scores({"a": [0.5, 0.7], "b": [0.9, 0.7], "c": [0.1, 0.2]}))).tasks[0]
    assert [(s.rank, s.method) for s in task.ranking] == [(1, "b"), (2, "a"), (3, "c")]
    best = task.ranking[0]
    assert (best.mean, best.median) == (pytest.approx(0.8), pytest.approx(0.8))
    assert best.deviation == pytest.approx(0.2 / 2**0.5)
    assert (best.low, best.high) == (0.7, 0.9)  # two values: their range
    assert best.peak_memory_bytes == 10


def test_lower_is_better_turns_the_ranking_and_the_words():
    table = {"a": [1.0, 1.1, 0.9, 1.05, 0.95], "b": [0.5, 0.62, 0.41, 0.56, 0.44]}
    task = analyze(comparison(scores(table), higher=False)).tasks[0]
    assert [s.method for s in task.ranking] == ["b", "a"]
    assert task.differences[0].word == "better"
    assert task.differences[0].mean == pytest.approx(-0.494)


def test_paired_differences_use_common_seeds_only():
    runs = [run("a", 0, 0.5), run("a", 1, 0.6), run("a", 2, 0.1), run("b", 0, 0.6), run("b", 1, 0.8), run("b", 9, 0.0)]
    d = analyze(comparison(runs)).tasks[0].differences[0]
    assert (d.method, d.other, d.pairs) == ("b", "a", 2)
    assert d.mean == pytest.approx(0.15)


def test_pairing_separates_what_means_alone_would_not():
    base = np.array([0.1, 0.4, 0.2, 0.9, 0.6])  # seeds differ far more than methods
    table = {"a": base, "b": base + 0.01 + 0.001 * np.array([1, -1, 0, 1, -1])}
    assert analyze(comparison(scores(table))).tasks[0].differences[0].word == "better"


def test_planted_winner_is_found_and_said():
    rng = np.random.default_rng(0)
    table = {m: 0.9 + 0.003 * rng.normal(size=5) for m in "abcd"}
    table["d"] = 0.97 + 0.003 * rng.normal(size=5)
    found = analyze(comparison(scores(table)))
    task = found.tasks[0]
    assert task.best == "d"
    assert task.tied == ()
    assert {d.method: d.word for d in task.differences} == {"b": "not separated", "c": "not separated", "d": "better"}
    assert "D has the best mean test accuracy" in found.verdict
    assert "separate it from every other method" in found.verdict


def test_tie_is_said_in_words():
    table = {"a": [0.90, 0.92, 0.91], "b": [0.91, 0.90, 0.92]}
    found = analyze(comparison(scores(table)))
    assert "do not separate it from" in found.verdict
    assert "3 seeds" in found.verdict


def test_null_data_are_rarely_separated():
    rng = np.random.default_rng(3)
    against_baseline = winners = 0
    rounds = 100
    for _ in range(rounds):
        seeds = rng.normal(size=5)  # common to all methods, as paired runs have it
        task = analyze(comparison(scores({m: seeds + rng.normal(size=5) for m in "abcde"}))).tasks[0]
        against_baseline += any(d.word != "not separated" for d in task.differences)
        winners += not task.tied
    # The family-wise error is 5 %; three standard deviations of 100 rounds above it are 11.5 %.
    assert against_baseline / rounds <= 0.115
    assert winners / rounds <= 0.02


def test_truly_best_method_is_rarely_called_worse_than_the_leader():
    rng = np.random.default_rng(4)
    rounds, wrong = 100, 0
    for _ in range(rounds):
        table = {m: rng.normal(0.5 if m == "a" else 0.0, 1.0, 5) for m in "abcd"}  # a is best, but hardly
        task = analyze(comparison(scores(table))).tasks[0]
        wrong += any(d.method == "a" and d.word == "worse" for d in task.against_best)
    assert wrong / rounds <= 0.115


def test_method_without_any_finished_run_comes_last_and_is_named():
    runs = scores({"a": [0.5, 0.6]}) + [run("b", s, None, status="diverged") for s in (0, 1)]
    found = analyze(comparison(runs))
    last = found.tasks[0].ranking[-1]
    assert (last.method, last.mean, last.seeds, last.lost) == ("b", None, 0, 2)
    assert found.tasks[0].differences[0].word == "worse"
    assert any("no final run of B finished" in s for s in found.sentences)


def test_method_that_lost_runs_is_not_said_to_be_as_good_as_the_leader():
    """Too few of its runs are left for a test; that it lost them puts it behind."""
    a, b = [0.90, 0.92, 0.91], [0.91, 0.90, 0.92]
    most = [run("c", 0, 0.95), *(run("c", s, None, status="diverged") for s in (1, 2))]
    found = analyze(comparison(scores({"a": a, "b": b}) + most))
    assert found.tasks[0].against_best[-1].word == "not separated"
    assert len(found.tasks[0].tied) == 1
    assert "C" not in found.verdict
    clear = analyze(comparison(scores({"a": a, "b": [0.60, 0.61, 0.60]}) + most))
    assert clear.verdict.endswith("separate it from every other method that lost no more runs.")
    assert any("diverged or failed: C (2)" in s for s in clear.sentences)


def test_method_that_was_never_run_is_not_called_worse():
    found = analyze(comparison(scores({"a": [0.5, 0.6]}), methods=["a", "b"]))
    assert found.tasks[0].differences[0].word == "not separated"


def test_lost_seeds_cannot_win():
    table = {"a": [0.5, 0.51, 0.49, 0.5, 0.5], "b": [0.9, 0.91, 0.89, 0.9]}
    runs = [*scores(table), run("b", 4, None, status="diverged")]
    task = analyze(comparison(runs)).tasks[0]
    assert task.ranking[0].method == "a"
    assert task.differences[0].word == "not separated"


def test_no_finished_run_at_all():
    found = analyze(comparison([run("a", 0, None, status="failed")]))
    assert found.tasks[0].best is None
    assert "no method finished" in found.verdict


CURVE = [(0, 0.0, 0.0), (50, 1.0, 0.5), (100, 2.0, 1.0)]


def test_target_and_times_by_hand():
    quick = [(0, 0.0, 0.0), (50, 3.0, 0.995), (100, 6.0, 1.0)]
    never = [(0, 0.0, 0.0), (50, 1.0, 0.5), (100, 2.0, 0.9)]
    runs = [run("a", s, 0.5, curve=CURVE) for s in (0, 1, 2)]
    runs += [run("b", s, 0.5, curve=quick) for s in (0, 1, 2)]
    runs += [run("c", s, 0.5, curve=never if s else CURVE) for s in (0, 1, 2)]
    task = analyze(comparison(runs)).tasks[0]
    assert task.target == pytest.approx(0.99)  # 1.0 less one percent of the way from 0.0
    times = {t.method: t for t in task.times}
    assert (times["a"].steps, times["a"].seconds, times["a"].reached) == (100, 2.0, 3)
    assert (times["b"].steps, times["b"].seconds) == (50, 3.0)
    # One of three reached it: the median lies among the censored runs.
    assert (times["c"].steps, times["c"].seconds, times["c"].reached, times["c"].runs) == (None, None, 1, 3)
    assert (times["c"].steps_low, times["c"].steps_high) == (100, None)
    assert any("fewest steps" in s and "B" in s for s in task.sentences)
    assert any("most runs of C did not reach" in s for s in task.sentences)


def test_ties_in_steps_to_the_target_are_all_named():
    slow = [(s, 3 * t, m) for s, t, m in CURVE]
    runs = [run(m, s, 0.5, curve=c) for m, c in (("a", CURVE), ("b", slow)) for s in (0, 1)]
    [said] = [s for s in analyze(comparison(runs)).tasks[0].sentences if "fewest steps" in s]
    assert "A and B reach the target" in said
    assert "A in the least time" in said
    alone = [
        run(m, s, 0.5, curve=c) for m, c in (("a", CURVE), ("b", [(0, 0.0, 0.0), (999, 9.0, 0.9)])) for s in (0, 1)
    ]
    [said] = [s for s in analyze(comparison(alone)).tasks[0].sentences if "fewest steps" in s]
    assert "A reaches the target" in said
    assert "and in the least time" in said


def test_performance_profile_by_hand():
    def curve(steps):
        return [(0, 0.0, 0.0), (steps, steps / 10, 1.0)]

    cost = {("a", "t"): 100, ("b", "t"): 50, ("a", "u"): 100, ("b", "u"): 400}
    runs = [run(m, 0, 0.5, task=t, curve=curve(c)) for (m, t), c in cost.items()]
    runs += [run("c", 0, 0.5, task=t, curve=[(0, 0.0, 0.0), (100, 1.0, 0.1)]) for t in "tu"]
    profiles = analyze(comparison(runs, tasks=("t", "u"))).profiles
    steps = profiles[0]
    assert (steps.measure, steps.problems, steps.ratios) == ("steps", 2, (1.0, 2.0, 4.0))
    assert steps.shares == {"a": (0.5, 1.0, 1.0), "b": (0.5, 0.5, 1.0), "c": (0.0, 0.0, 0.0)}


def test_one_task_has_no_profile_and_everything_goes_to_json():
    found = analyze(comparison(scores({"a": [0.5, 0.6], "b": [0.5, 0.7]})))
    assert found.profiles == ()
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["tasks"][0]["ranking"][0]["method"] == "b"


def test_single_seed_cannot_separate():
    found = analyze(comparison(scores({"a": [0.1], "b": [0.9]})))
    assert found.tasks[0].differences[0].word == "not separated"
    assert found.tasks[0].differences[0].p_value is None
    assert any("fewer than three seeds" in n for n in found.notes)
