"""Checkpoints: resumed runs equal undisturbed ones bit for bit; damaged and foreign files are refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from steepest.core import checkpoint as files
from steepest.core.checkpoint import CheckpointError
from steepest.core.problem import Problem, SmoothProblem
from steepest.core.ranges import Real
from steepest.core.result import Reason, Result
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled


class Average(NamedTuple):
    """A running mean of the iterates."""

    mean: Any
    count: int


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyState(State):
    """Nested on purpose: a named tuple, a dict with ``None``, and a strided tensor."""

    average: Average
    memory: dict[str, Any]


@dataclass(frozen=True)
class NoisyDescent(Solver[SmoothProblem, NoisyState]):
    """Stochastic gradient descent with momentum and averaging: the gradient plus noise from the state's generator."""

    step_size: float = 0.05
    noise: float = 0.3

    needs = frozenset({"value", "gradient"})
    ranges = {"step_size": Real(low=0.0, low_open=True), "noise": Real(low=0.0)}

    def init(self, problem: SmoothProblem, start: Any, generator: torch.Generator) -> NoisyState:
        return NoisyState(
            point=start,
            value=problem.value(start),
            average=Average(start, 1),
            memory={"momentum": None},
            generator=generator,
        )

    def step(self, problem: SmoothProblem, state: NoisyState) -> NoisyState:
        x, generator = state.point, state.generator
        gradient = problem.gradient(x) + self.noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        if torch.rand((), generator=generator) < 0.1:  # a data-dependent number of draws
            gradient = gradient + torch.randn(x.shape, dtype=x.dtype, generator=generator)
        old = state.memory["momentum"]
        momentum = gradient if old is None else 0.9 * old + gradient
        point = x - self.step_size * momentum
        mean, count = state.average
        return NoisyState(
            point=point,
            value=problem.value(point),
            average=Average(mean + (point - mean) / (count + 1), count + 1),
            memory={"momentum": momentum.T.contiguous().T},
            generator=generator,
        )

    def solution(self, problem: SmoothProblem, state: NoisyState) -> Any:
        return state.average.mean


def least_squares(size: int = 6) -> SmoothProblem:
    generator = torch.Generator().manual_seed(11)
    a = torch.randn(size, size, dtype=torch.float64, generator=generator) / size**0.5
    return SmoothProblem(lambda x: (torch.sin(a @ x) ** 2).sum() + 0.1 * x.square().sum())


def begin(size: int = 6) -> torch.Tensor:
    return torch.linspace(-1, 1, size * 2, dtype=torch.float64).reshape(size, 2)


def fields(result: Result[NoisyState]) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    trace = result.trace.to_dict()
    del trace["seconds"]
    state = result.state
    assert state.generator is not None
    tensors = [result.solution, state.point, state.value, state.average.mean, state.memory["momentum"]]
    return {
        "tensors": [tensor.numpy().tobytes().hex() for tensor in tensors],
        "generator": state.generator.get_state().numpy().tobytes().hex(),
        "trace": trace,
        "calls": result.calls,
        "steps": result.steps,
        "count": state.average.count,
    }


@pytest.mark.parametrize("cut", [1, 7, 19])
@pytest.mark.parametrize("record_every", [1, 4])
def test_a_resumed_stochastic_run_is_bit_exact(tmp_path: Path, cut: int, record_every: int) -> None:
    path = tmp_path / "deep" / "run.pt"
    settings: dict[str, Any] = {"seed": 5, "record_every": record_every}
    whole = NoisyDescent().run(least_squares(), begin(), budget="20steps", **settings)
    part = NoisyDescent().run(least_squares(), begin(), budget=f"{cut}steps", checkpoint=path, **settings)
    assert (part.reason, part.steps) == (Reason.BUDGET, cut)
    rest = NoisyDescent().run(least_squares(), begin(), budget="20steps", checkpoint=path, resume="must", **settings)
    assert fields(rest) == fields(whole)
    assert rest.seconds > part.seconds
    again = NoisyDescent().run(least_squares(), begin(), budget="20steps", checkpoint=path, **settings)
    assert fields(again) == fields(whole)
    other = NoisyDescent().run(least_squares(), begin(), budget="20steps", seed=6)
    assert not torch.equal(other.solution, whole.solution)


def test_a_generator_of_the_caller_is_used_and_moved_to_the_saved_state(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    whole = NoisyDescent().run(least_squares(), begin(), budget="9steps", generator=torch.Generator().manual_seed(5))
    NoisyDescent().run(
        least_squares(), begin(), budget="4steps", checkpoint=path, generator=torch.Generator().manual_seed(5)
    )
    mine = torch.Generator().manual_seed(5)
    rest = NoisyDescent().run(least_squares(), begin(), budget="9steps", checkpoint=path, generator=mine)
    assert rest.state.generator is mine
    assert fields(rest) == fields(whole)


def test_an_exception_in_the_middle_costs_only_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def interrupt(report: Any) -> None:
        if report.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        NoisyDescent().run(
            least_squares(),
            begin(),
            budget="12steps",
            checkpoint=path,
            checkpoint_every="3steps",
            callbacks=[interrupt],
        )
    assert files.load(path)["steps"] == 6
    rest = NoisyDescent().run(least_squares(), begin(), budget="12steps", checkpoint=path)
    assert fields(rest) == fields(NoisyDescent().run(least_squares(), begin(), budget="12steps"))


def test_another_python_is_named_where_a_checkpoint_does_not_fit(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "run.pt"
    monkeypatch.setattr("steepest.core.run._versions", lambda: "Python 2.7")
    NoisyDescent().run(least_squares(), begin(), budget="2steps", checkpoint=path)
    monkeypatch.undo()
    assert NoisyDescent().run(least_squares(), begin(), budget="3steps", checkpoint=path).steps == 3
    monkeypatch.setattr("steepest.core.run._versions", lambda: "Python 2.8")
    with pytest.raises(CheckpointError, match="written under Python"):
        NoisyDescent().run(least_squares(5), begin(), budget="4steps", checkpoint=path)


def test_never_resume_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match=r"run\.pt"):
        NoisyDescent().run(least_squares(), begin(), budget="5steps", checkpoint=path, resume="must")
    NoisyDescent().run(least_squares(), begin(), budget="5steps", checkpoint=path)
    fresh = NoisyDescent(noise=0.1).run(least_squares(), begin(), budget="3steps", checkpoint=path, resume="never")
    assert fresh.steps == 3
    assert files.load(path)["steps"] == 3


@dataclass(frozen=True)
class OtherDescent(NoisyDescent):
    """Another class with the same settings."""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"solver": OtherDescent()}, "its solver is .*NoisyDescent, here it is .*OtherDescent"),
        ({"solver": NoisyDescent(noise=0.25)}, "noise is 0.3, here it is 0.25"),
        ({"start": begin(6).float()}, r"start is float64\[6, 2\], here it is float32\[6, 2\]"),
        ({"start": begin(6)[:, :1]}, r"start is float64\[6, 2\], here it is float64\[6, 1\]"),
        ({"start": begin(6) + 1e-12}, "starting point differs"),
        ({"problem": SmoothProblem(lambda x: x.square().sum())}, "problem differs"),
        ({"seed": 1}, "seed is 0, here it is 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "run.pt"
    NoisyDescent().run(least_squares(), begin(), budget="2steps", checkpoint=path)
    before = path.read_bytes()
    whole = {"solver": NoisyDescent(), "problem": least_squares(), "start": begin(), "seed": 0} | changed
    solver: Any = whole["solver"]
    with pytest.raises(CheckpointError, match=message):
        solver.run(whole["problem"], whole["start"], budget="4steps", checkpoint=path, seed=whole["seed"])
    assert path.read_bytes() == before


def test_every_damage_to_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    undisturbed = fields(NoisyDescent().run(least_squares(), begin(), budget="4steps", checkpoint=path))
    whole = path.read_bytes()
    chance = random.Random(0)
    damaged = [whole[: chance.randrange(len(whole))] for _ in range(40)] + [b"", b"hello", whole[1000:]]
    for _ in range(200):
        changed = bytearray(whole)
        changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(changed))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            # A bit of padding inside the archive may change nothing; then the run must be what it was.
            again = NoisyDescent().run(least_squares(), begin(), budget="4steps", checkpoint=path)
        except CheckpointError as error:
            assert "run.pt" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert fields(again) == undisturbed
    assert refused >= 100


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not written by a steepest run"):
        NoisyDescent().run(least_squares(), begin(), budget="1steps", checkpoint=path)
    torch.save(NoisyDescent(), path)  # needs code to load
    with pytest.raises(CheckpointError, match="cannot be read"):
        NoisyDescent().run(least_squares(), begin(), budget="1steps", checkpoint=path)


def test_a_checkpoint_is_plain_data_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "run[1].pt"
    stale, recent = tmp_path / ".run[1].pt.0.tmp", tmp_path / ".run[1].pt.1.tmp"
    for file in (stale, recent):
        file.write_bytes(b"left by a killed process")
    os.utime(stale, (0, 0))
    NoisyDescent().run(least_squares(), begin(), budget="3steps", checkpoint=path, checkpoint_every="1steps")
    content = torch.load(path, weights_only=True)
    assert content["identity"]["solver"].endswith(":NoisyDescent")
    assert content["identity"]["settings"] == {"step_size": "0.05", "noise": "0.3"}
    assert (content["steps"], content["calls"]) == (3, {"gradient": 3, "value": 4})
    assert sorted(file.name for file in tmp_path.iterdir()) == [recent.name, path.name]


def test_a_write_that_fails_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    files.save(path, {"steps": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.save(path, {"steps": 2})
    monkeypatch.undo()
    assert files.load(path) == {"steps": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_where_nothing_can_be_written_is_noticed_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen: list[Any] = []
    with pytest.raises(OSError, match="file"):
        NoisyDescent().run(
            least_squares(), begin(), budget="3steps", checkpoint=tmp_path / "file" / "run.pt", callbacks=[seen.append]
        )
    assert not seen


class Bilevel(Problem):
    """A problem inside a problem is seen by the fingerprint."""

    def __init__(self, lower: Problem) -> None:
        self.lower = lower


def test_the_fingerprint_looks_into_inner_problems() -> None:
    assert Bilevel(least_squares()).fingerprint() == Bilevel(least_squares()).fingerprint()
    assert Bilevel(least_squares()).fingerprint() != Bilevel(least_squares(5)).fingerprint()


@dataclass(frozen=True)
class StallsByChance(NoisyDescent):
    """Stalls with probability 0.2 in every step."""

    def step(self, problem: SmoothProblem, state: NoisyState) -> NoisyState:
        following = super().step(problem, state)
        if torch.rand((), generator=state.generator) < 0.2:
            raise Stalled("by chance")
        return following


def test_a_run_that_stalled_stays_so(tmp_path: Path) -> None:
    # Its generator has moved on within the step that failed: trying again would be another run.
    path = tmp_path / "run.pt"
    first = StallsByChance().run(least_squares(), begin(), budget="100steps", checkpoint=path)
    again = StallsByChance().run(least_squares(), begin(), budget="100steps", checkpoint=path)
    assert first.reason is again.reason is Reason.STALLED
    assert first.message == again.message == "by chance"
    assert fields(first) == fields(again)


@dataclass
class Box:
    """A record with a slot for anything."""

    content: Any


def test_states_of_every_kind_survive() -> None:
    generator = torch.Generator().manual_seed(1)
    big = torch.arange(10_000.0)
    value = {
        "numbers": (1, 2.5, True, None, 3 + 4j, "text", b"bytes", float("inf")),
        ("tuple", 1): [torch.tensor(2.0), torch.eye(3).T, torch.zeros(0, 2), torch.ones(2, dtype=torch.bfloat16)],
        "record": Box(Average(Box(generator), 7)),
        "generator": generator,
        "kind": (torch.float16, torch.device("cpu")),
        "view": big[10:12],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    met: list[torch.Generator] = []
    coded = files.encode(value, met)
    assert len(met) == 1
    assert coded[1][5][1].untyped_storage().nbytes() == 8  # not the whole storage that the view looks at
    made = torch.Generator()
    back = files.decode(coded, [made])
    assert back["numbers"] == value["numbers"]
    assert [type(x) for x in back["numbers"]] == [type(x) for x in value["numbers"]]
    for ours, theirs in zip(back["tuple", 1], value["tuple", 1], strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)
    assert back["record"].content.mean.content is back["generator"] is made
    assert isinstance(back["record"].content, Average)
    assert back["kind"] == value["kind"]
    assert torch.equal(back["view"], big[10:12])
    assert not back["parameter"].requires_grad


def test_what_cannot_be_saved_is_named() -> None:
    @dataclass
    class Local:
        x: int = 0

    with pytest.raises(TypeError, match=r"state\['a'\]\[1\].content cannot be saved.*type object"):
        files.encode({"a": [0, Box(object())]}, [])
    with pytest.raises(TypeError, match="not defined at the top of a module"):
        files.encode(Local(), [])


def test_records_unknown_to_this_program_are_refused() -> None:
    for name in ("no.such.module:State", "os:system", "steepest.core.budget:Budget.parse", f"{__name__}:Nothing"):
        with pytest.raises(CheckpointError, match="has not loaded"):
            files.decode(("record", name, {}), [])
    with pytest.raises(CheckpointError, match=r"with \['old'\]; here it has \['content'\]"):
        files.decode(("record", f"{__name__}:Box", {"old": 1}), [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_any_moment_resumes_bit_exactly(tmp_path: Path) -> None:
    """A fresh process forks runs that checkpoint every step, kills each with SIGKILL, and lets the last one finish."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path / "run.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] >= 20
    assert len(set(report["steps"])) >= 5  # they struck at different places
    assert report["resumed"] == report["undisturbed"]


def tell(pipe: int, report: Any) -> None:
    """A callback that writes a byte per step."""
    os.write(pipe, b".")


def kill_and_resume(path: Path) -> dict[str, Any]:
    """Runs in a process of its own, with one thread, so that forking is safe."""
    torch.set_num_threads(1)
    run = partial(NoisyDescent().run, least_squares(40), begin(40), budget="600steps", seed=3)
    undisturbed = run()
    chance = random.Random(time.time_ns())
    kills, steps = 0, []
    while kills < 20:
        steps_seen, step_done = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                run(checkpoint=path, checkpoint_every="1steps", callbacks=[partial(tell, step_done)])
            finally:
                os._exit(0)
        os.close(step_done)
        for _ in range(chance.randrange(8)):  # a number of steps, however slow the machine is, ...
            os.read(steps_seen, 1)
        os.close(steps_seen)
        time.sleep(chance.uniform(0.0, 0.005))  # ... and then anywhere within one, or within its checkpoint
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        if path.exists():
            steps.append(files.load(path)["steps"])  # whole at any time
            if steps[-1] == 600:
                path.unlink()
    resumed = run(checkpoint=path)
    return {"kills": kills, "steps": steps, "undisturbed": fields(undisturbed), "resumed": fields(resumed)}


if __name__ == "__main__":
    print(json.dumps(kill_and_resume(Path(sys.argv[1]))))
