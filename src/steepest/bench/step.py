"""``steepest bench step``: the time of an optimizer step against fused AdamW and against other packages."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..core.errors import UnknownName
from .contenders import CONTENDERS, Contender, installed

__all__ = ["StepBenchmark", "StepRow", "measured", "processor", "run"]

#: Seconds allowed for the first step of a compiled rule.
COLD_GOAL, WARM_GOAL = 10.0, 2.0
#: The part of the speed of a large matrix product that orthogonalization must reach.
SHARE_GOAL = 0.7


@dataclass(frozen=True)
class StepRow:
    """One contender's figures; ``error`` says why there are none."""

    method: str
    package: str
    variant: str
    milliseconds: float | None = None
    per_step: float | None = None
    per_byte: float | None = None
    state_bytes: float | None = None
    first_step_cold: float | None = None
    first_step_warm: float | None = None
    recompilations: int | None = None
    orthogonality_error: float | None = None
    matmul_share: float | None = None
    rounds: int | None = None
    goal: float | None = None
    step_goal: float | None = None
    memory_goal: float | None = None
    lead: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class StepBenchmark:
    """All rows, and what they were measured on."""

    rows: list[StepRow]
    elements: int
    threads: int
    rounds: int
    versions: dict[str, str]
    processor: str
    goals: dict[str, bool] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return asdict(self)


def processor() -> str:
    """The name of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _fresh(
    contender: Contender, elements: int, threads: int, rounds: int, cache: str, timeout: float
) -> dict[str, Any]:
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "steepest.bench.worker", contender.key, str(elements), str(threads), str(rounds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])


def measured(contender: Contender, elements: int, threads: int, rounds: int, timeout: float = 600.0) -> dict[str, Any]:
    """The figures of one contender in a fresh process; see :func:`steepest.bench.worker.measure`.

    Raises:
        RuntimeError: the process failed; the message is its last line.
        subprocess.TimeoutExpired: it took too long.
    """
    with tempfile.TemporaryDirectory() as cache:
        return _fresh(contender, elements, threads, rounds, cache, timeout)


def _row(contender: Contender, elements: int, threads: int, rounds: int, timeout: float) -> StepRow:
    shown = {
        name: getattr(contender, name)
        for name in ("method", "package", "variant", "goal", "step_goal", "memory_goal", "lead")
    }
    compiles = contender.variant == "compiled"
    try:
        with tempfile.TemporaryDirectory() as cache:
            result = _fresh(contender, elements, threads, rounds, cache, timeout)
            warm = _fresh(contender, elements, threads, 2, cache, timeout) if compiles else None
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return StepRow(**shown, error=str(error))
    return StepRow(
        **shown,
        milliseconds=result["milliseconds"],
        per_step=result["per_step"],
        state_bytes=result["state_bytes"],
        per_byte=None if contender.matrices and contender.goal is None else result["per_byte"],
        first_step_cold=result["first_step_seconds"],
        first_step_warm=warm["first_step_seconds"] if warm else None,
        recompilations=result["recompilations"],
        orthogonality_error=result.get("orthogonality_error"),
        matmul_share=result.get("matmul_share"),
        rounds=result["rounds"],
    )


def run(
    *,
    elements: int = 30_000_000,
    threads: int = 2,
    rounds: int = 20,
    methods: Iterable[str] = (),
    peers: bool = True,
    timeout: float = 600.0,
    progress: Callable[[str], None] = lambda text: None,
) -> StepBenchmark:
    """Measure every contender, each in a fresh process and in alternation with ``torch.optim.AdamW(fused=True)``.

    Args:
        elements: parameters of the GPT-shaped model.
        threads: of PyTorch, the same for all.
        rounds: pairs of steps (contender, reference), fewer where they take longer than 30 s, but at least three;
            medians are reported.
        methods: restrict to these methods; all when empty.
        peers: also measure the other packages that are installed.
        timeout: seconds for one process.
        progress: called with a line of text before each contender.

    Raises:
        UnknownName: a method that no contender implements.
        ValueError: a size, thread or round count below one.
    """
    for name, number in (("elements", elements), ("threads", threads), ("rounds", rounds)):
        if number < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {number}")
    wanted = set(methods)
    known = {c.method for c in CONTENDERS}
    for name in sorted(wanted - known):
        raise UnknownName("benchmarked method", name, known)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    rows = []
    for contender in CONTENDERS:
        if wanted and contender.method not in wanted:
            continue
        ours = contender.package in ("steepest", "torch")
        if not ours and not peers:
            continue
        version = installed(contender.package)
        if version is None:
            progress(f"{contender.key}: not installed, left out")
            continue
        versions[contender.package] = version
        progress(contender.key)
        rows.append(_row(contender, elements, threads, rounds, timeout))
    return StepBenchmark(rows, elements, threads, rounds, versions, processor(), _goals(rows))


def _goals(rows: list[StepRow]) -> dict[str, bool]:
    """The promises in words, met or missed, for those whose rows were measured."""
    goals: dict[str, bool] = {}
    for row in rows:
        name = f"{row.method} ({row.variant})" if row.package == "steepest" else f"{row.package} {row.method}"
        if row.goal is not None and row.per_byte is not None:
            goals[f"{name}: at most {row.goal:g}x fused AdamW per byte"] = row.per_byte <= row.goal
        if row.step_goal is not None and row.per_step is not None:
            goals[f"{name}: at most {row.step_goal:g}x fused AdamW's step"] = row.per_step <= row.step_goal
        if row.memory_goal is not None and row.state_bytes is not None:
            goals[f"{name}: at most {row.memory_goal:g} bytes of state per parameter"] = (
                row.state_bytes <= row.memory_goal
            )
        if row.variant == "compiled" and row.first_step_cold is not None:
            goals[f"{name}: first step under {COLD_GOAL:g} s cold"] = row.first_step_cold < COLD_GOAL
            if row.first_step_warm is not None:
                goals[f"{name}: first step under {WARM_GOAL:g} s warm"] = row.first_step_warm < WARM_GOAL
            goals[f"{name}: no recompilation over 100 steps of a cosine schedule"] = row.recompilations == 0
        if row.matmul_share is not None:
            goals[f"{name}: at least {SHARE_GOAL:.0%} of the matrix product's FLOP/s"] = row.matmul_share >= SHARE_GOAL
        if row.lead is not None and row.milliseconds is not None:
            goals |= _against(row, name, rows)
    return goals


def _against(row: StepRow, name: str, rows: list[StepRow]) -> dict[str, bool]:
    """One of ours against every other package's contender of the same method."""
    goals: dict[str, bool] = {}
    assert row.lead is not None
    assert row.milliseconds is not None
    for peer in rows:
        if peer.method != row.method or peer.package in ("steepest",) or peer.milliseconds is None:
            continue
        rival = f"{peer.package} ({peer.variant})"
        faster = "faster than" if row.lead == 1 else f"at least {row.lead:g}x faster than"
        goals[f"{name}: {faster} {rival}"] = row.lead * row.milliseconds <= peer.milliseconds
        if row.orthogonality_error is not None and peer.orthogonality_error is not None:
            goals[f"{name}: at least as orthogonal as {rival}"] = row.orthogonality_error <= peer.orthogonality_error
    return goals
