"""The same small comparison on SQLite, on a real PostgreSQL server, and on a local Ray cluster."""

import concurrent.futures
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from arena_helpers import ADAMW, SGD, WILD, tiny_task, write_task

from steepest.arena import compare
from steepest.arena.storage import Mark, open_store

pytestmark = pytest.mark.integration

PLAN = {
    "trials": 4,
    "seeds": 2,
    "budget": "20steps",
    "pruner": "none",
    "threads": 1,
    "report": False,
    "progress": False,
}
METHODS = [ADAMW, SGD, WILD]


def essence(found):
    trials = [(t.task, t.method, t.slot, tuple(t.settings.items()), t.status, t.score, t.steps) for t in found.trials]
    runs = [(r.task, r.method, r.seed, tuple(r.settings.items()), r.status, r.test_metric, r.steps) for r in found.runs]
    return sorted(trials), sorted(runs)


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory):
    return essence(compare(tiny_task(), METHODS, out=tmp_path_factory.mktemp("sqlite"), **PLAN))


def as_postgres(*command):
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A PostgreSQL server on loopback; the address of its database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("no PostgreSQL server binaries here")
    binaries = found[-1].parent
    # Not below pytest's folders, which are closed to the other user.
    folder = Path(
        subprocess.run(
            as_postgres("mktemp", "-d", "/tmp/steepest-pg-XXXXXX"), capture_output=True, text=True, check=True, cwd="/"
        ).stdout.strip()
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(as_postgres(binaries / "initdb", "-D", data, "-U", "steepest", "-A", "trust", "--no-sync"), **quiet)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [binaries / "pg_ctl", "-D", data, "-w"]
    subprocess.run(as_postgres(*control, "-l", folder / "log", "-o", options, "start"), **quiet)
    yield f"postgresql://steepest@127.0.0.1:{port}/postgres"
    subprocess.run(as_postgres(*control, "-m", "immediate", "stop"), **quiet)
    subprocess.run(as_postgres("rm", "-rf", folder), **quiet)


def test_postgresql_gives_the_same_trials(server, tmp_path, on_sqlite):
    found = compare(tiny_task(), METHODS, out=tmp_path, storage=server, **PLAN)
    assert essence(found) == on_sqlite
    assert found.plan["storage"] == "postgresql"
    assert not (tmp_path / "study.db").exists()
    assert any(name.endswith("tiny / sgd / tuning") for name in optuna.get_all_study_names(sql(server)))


def sql(server):
    return server.replace("postgresql://", "postgresql+psycopg2://")


def command(task, out, storage):
    arguments = ["--methods", "adamw,sgd", "--trials", "6", "--seeds", "3", "--budget", "40steps", "--pruner", "none"]
    base = [sys.executable, "-m", "steepest.cli", "compare", f"{task}:make_task", "--out", str(out), "--threads", "1"]
    return [*base, "--storage", storage, "--name", task.parent.name, *arguments]


def test_machines_share_the_work_and_nothing_runs_twice(server, tmp_path):
    """Two processes stand for two machines; each has an output folder of its own."""
    from steepest.arena import load

    task = write_task(tmp_path, pause=0.004)

    def machine(name):
        return subprocess.run(
            command(task, tmp_path / name, server), capture_output=True, text=True, timeout=300, check=False
        )

    with concurrent.futures.ThreadPoolExecutor() as pool:
        ended = list(pool.map(machine, ("a", "b")))
    assert [e.returncode for e in ended] == [0, 0], ended
    assert essence(load(tmp_path / "a")) == essence(load(tmp_path / "b"))
    places, owners = [], set()
    for name in optuna.get_all_study_names(sql(server)):
        if f"/ {tmp_path.name} /" in name:
            for t in optuna.load_study(study_name=name, storage=sql(server)).trials:
                places.append((name, t.user_attrs["slot"], t.user_attrs.get("seed")))
                owners.add(t.user_attrs["owner"])
    assert len(places) == len(set(places)) == 2 * (6 + 3)
    assert len(owners) == 2


def test_killed_machine_on_postgresql_is_continued_at_once(server, tmp_path):
    from steepest.arena import load

    task = write_task(tmp_path, pause=0.02)
    process = subprocess.Popen(
        command(task, tmp_path / "a", server), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "training").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended = subprocess.run(
        command(task, tmp_path / "a", server), check=False, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert load(tmp_path / "a").complete
    assert len(load(tmp_path / "a").trials) == 12


def test_trial_of_a_silent_machine_is_released(server, tmp_path, monkeypatch):
    """Its process cannot be looked at from here; only its heartbeat can."""
    monkeypatch.setattr("steepest.arena.storage.GRACE", 1)
    monkeypatch.setattr("steepest.arena.storage._process", lambda: "elsewhere/1/0.0")
    there = open_store(server, tmp_path, "silent")
    study = there.study("t", "sgd", "tuning", True)
    assert there.claim(study, Mark(0), {}, {}) is not None
    monkeypatch.undo()
    monkeypatch.setattr("steepest.arena.storage.GRACE", 1)
    here = open_store(server, tmp_path, "silent")
    study = here.study("t", "sgd", "tuning", True)
    assert here.release_dead(study) == 0  # it may still be alive
    assert here.claim(study, Mark(0), {}, {}) is None
    time.sleep(2.5)
    assert here.release_dead(study) == 1
    assert here.claim(study, Mark(0), {}, {}) is not None
    there.close()
    here.close()


def test_ray_gives_the_same_trials(tmp_path, on_sqlite, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the workers find the tiny task
    try:
        found = compare(tiny_task(), METHODS, out=tmp_path, engine="ray", workers=2, **PLAN)
    finally:
        ray.shutdown()
    assert essence(found) == on_sqlite
    assert found.plan["engine"] == "ray"
    assert found.complete
