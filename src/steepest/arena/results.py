"""What a comparison leaves behind: plain dataclasses that go to JSON and back.

:class:`Comparison` is the one structure that the statistics, the report, the command line and the claims read.
Numbers that do not exist are ``None``, never NaN: a diverged run has no test metric, an unreached target no steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Comparison", "CurvePoint", "MethodInfo", "RunRecord", "Status", "TaskInfo", "TrialRecord"]

Status = Literal["complete", "pruned", "diverged", "failed"]


@dataclass(frozen=True)
class TaskInfo:
    """A task as it was run."""

    name: str
    title: str
    metric: str  # "accuracy", "loss", "bits per character", ...
    higher_is_better: bool
    parameters: int
    sizes: Mapping[str, int]  # examples in "train", "validation", "test"
    batch_size: int


@dataclass(frozen=True)
class MethodInfo:
    """A method as it took part; ``line`` builds the tuned optimizer, per task."""

    name: str
    title: str
    summary: str
    source: str
    search: Mapping[str, str]  # setting -> its range in words
    line: Mapping[str, str]  # task -> Python line with the settings that won the tuning


@dataclass(frozen=True)
class TrialRecord:
    """One tuning trial: train with ``settings``, score on the validation split."""

    task: str
    method: str
    slot: int  # the place in the method's plan, 0 .. trials-1; the same in every run with the same seed
    settings: Mapping[str, Any]
    status: Status
    reason: str | None
    score: float | None  # the validation metric; None unless complete
    steps: int
    seconds: float


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation on the way."""

    step: int
    seconds: float  # training time alone, without evaluations
    train_loss: float | None
    validation_metric: float | None


@dataclass(frozen=True)
class RunRecord:
    """One final run: the winner's settings, a fresh seed, scored once on the untouched test split."""

    task: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    status: Status
    reason: str | None
    test_metric: float | None
    test_loss: float | None
    steps: int
    seconds: float
    peak_memory_bytes: int | None
    state_bytes_per_parameter: float | None
    curve: Sequence[CurvePoint] = field(default_factory=tuple)


@dataclass(frozen=True)
class Comparison:
    """Everything that one ``steepest compare`` found; ``complete`` is False while runs are missing.

    ``plan`` holds what was asked for (methods, trials, seeds, budget, sampler, pruner, baseline, base seed, workers,
    storage kind, command line); ``environment`` what it ran on (versions, processor, cores, threads, device, started,
    finished). Both are flat and printable.
    """

    tasks: Sequence[TaskInfo]
    methods: Sequence[MethodInfo]
    trials: Sequence[TrialRecord]
    runs: Sequence[RunRecord]
    baseline: str
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    complete: bool
