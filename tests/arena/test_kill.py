"""Must hold whatever happens: a comparison killed with SIGKILL again and again ends like one left in peace."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import optuna
import pytest
from arena_helpers import write_task

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KILLS = 22
ARGUMENTS = ["--methods", "adamw,sgd,lion", "--trials", "6", "--seeds", "3", "--budget", "40steps", "--pruner", "none"]


def start(task, out, *more):
    command = [
        sys.executable,
        "-m",
        "steepest.cli",
        "compare",
        f"{task}:make_task",
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *ARGUMENTS, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )


def finished(out):
    """Finished trials and final runs from the database itself."""
    storage = f"sqlite:///{out / 'study.db'}"
    found = []
    for name in optuna.get_all_study_names(storage):
        for t in optuna.load_study(study_name=name, storage=storage).trials:
            # One that was killed between its outcome and its end has both, and is run again.
            if "outcome" in t.user_attrs and t.state.is_finished() and t.user_attrs["status"] != "interrupted":
                place = (t.user_attrs["slot"], t.user_attrs.get("seed"))
                found.append((name, place, sorted(t.params.items()), t.user_attrs["status"], t.value))
    return sorted(found, key=repr)


def results(out):
    """``results.json`` without what differs between two runs: times and memory."""
    data = json.loads((out / "results.json").read_text())
    for record in [*data["trials"], *data["runs"]]:
        for key in ("seconds", "peak_memory_bytes"):
            record.pop(key, None)
        record["curve"] = [{k: v for k, v in p.items() if k != "seconds"} for p in record.get("curve", [])]
    return data["tasks"], data["methods"], data["trials"], data["runs"], data["complete"]


def test_killed_comparison_ends_like_an_undisturbed_one(tmp_path):
    task = write_task(tmp_path, pause=0.004)
    began = time.monotonic()
    calm = start(task, tmp_path / "calm")
    _, errors = calm.communicate(timeout=300)
    assert calm.returncode == 0, errors
    undisturbed = finished(tmp_path / "calm")
    assert len(undisturbed) == 3 * (6 + 3)
    print(f"undisturbed: {time.monotonic() - began:.0f} s")

    rng = random.Random(20240521)
    training = tmp_path / "training"
    out = tmp_path / "killed"
    in_training = before_the_end = 0
    for kill in range(KILLS):
        training.unlink(missing_ok=True)
        process = start(task, out)
        # Every fifth kill falls anywhere, the making of the database included; the others while something trains.
        deadline = time.monotonic() + (rng.uniform(0.0, 4.0) if kill % 5 == 0 else 120.0)
        while time.monotonic() < deadline and not training.exists() and process.poll() is None:
            time.sleep(0.005)
        if kill % 5:
            time.sleep(rng.uniform(0.0, 0.6))
        before_the_end += process.poll() is None
        in_training += training.exists()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert before_the_end >= 20, "the comparison was over before it could be killed"
    assert in_training >= 12
    partial = finished(out)
    assert set(map(repr, partial)) <= set(map(repr, undisturbed))

    last = start(task, out)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert finished(out) == undisturbed  # nothing lost, nothing changed, nothing twice
    assert results(out) == results(tmp_path / "calm")
    print(
        f"{before_the_end} kills, {in_training} of them in training, {len(partial)} runs done under fire; "
        f"{time.monotonic() - began:.0f} s in all"
    )
    states = [
        t.state
        for name in optuna.get_all_study_names(f"sqlite:///{out / 'study.db'}")
        for t in optuna.load_study(study_name=name, storage=f"sqlite:///{out / 'study.db'}").trials
    ]
    assert optuna.trial.TrialState.RUNNING not in states
