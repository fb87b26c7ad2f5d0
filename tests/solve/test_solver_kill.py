"""Every solver, killed with SIGKILL in the middle of a run and resumed, ends bit for bit as the undisturbed run."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from solver_case import Case, all_cases

from steepest.core import checkpoint as files
from steepest.core.budget import Budget

#: Kills per solver, and steps of each run (fewer where the solver ends by itself).
KILLS, STEPS = 2, 12


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """One fresh process, with one thread, forks all the runs: a fork from pytest's own process is not safe."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize("name", [case.name for case in all_cases()])
def test_a_killed_run_resumes_bit_exactly(report: dict[str, Any], name: str) -> None:
    found = report[name]
    assert len(found["steps"]) == KILLS
    assert found["resumed"] == found["undisturbed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_the_kills_struck_in_the_middle(report: dict[str, Any]) -> None:
    struck = [any(0 < step < found["end"] for step in found["steps"]) for found in report.values()]
    assert sum(struck) > 0.8 * len(struck)  # some solvers end in one step


def run(case: Case, **settings: Any) -> Any:
    """A run of a few steps from the case's start."""
    budget = Budget(steps=STEPS)
    return case.solver.run(
        case.problem(torch.float64), case.start(torch.float64), budget=budget, divergence=None, seed=3, **settings
    )


def digest(result: Any) -> Any:
    """All of a result that must be the same, exactly."""
    from steepest.core.fingerprint import fingerprint

    trace = result.trace
    columns = [trace.step, trace.value, trace.stationarity, trace.feasibility, dict(sorted(trace.calls.items()))]
    return [fingerprint(files.encode(result.state, [])), fingerprint(result.solution), fingerprint(columns)]


def tell(pipe: int, report: Any) -> None:
    """A callback that writes a byte per step, and takes its time."""
    os.write(pipe, b".")
    time.sleep(0.002)


def kill_and_resume(case: Case, path: Path, chance: random.Random) -> dict[str, Any]:
    """Kill runs in children at random moments, then let one finish here."""
    undisturbed = run(case)
    steps: list[int] = []
    while len(steps) < KILLS:
        steps_seen, step_done = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                told = [functools.partial(tell, step_done)]
                run(case, checkpoint=path, checkpoint_every="1steps", callbacks=told)
            finally:
                os.write(step_done, b"e" * STEPS)  # a run that ends by itself must not be waited for
                time.sleep(10)
                os._exit(0)
        os.close(step_done)
        for _ in range(chance.randrange(1, STEPS)):
            os.read(steps_seen, 1)
        time.sleep(chance.uniform(0.0, 0.004))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(steps_seen)
        steps.append(files.load(path)["steps"])  # whole at any time
    resumed = run(case, checkpoint=path)
    return {"steps": steps, "end": resumed.steps, "resumed": digest(resumed), "undisturbed": digest(undisturbed)}


def main() -> None:
    """Print a line of JSON: what became of every solver."""
    torch.set_num_threads(1)
    chance = random.Random(time.time_ns())
    with tempfile.TemporaryDirectory() as folder:
        found = {
            case.name: kill_and_resume(case, Path(folder) / f"{k}.pt", chance) for k, case in enumerate(all_cases())
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
