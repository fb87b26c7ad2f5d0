"""The unit of work that travels to a worker: one training run, self-contained, without access to the storage."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from steepest.core.card import MethodCard

from .results import CurvePoint
from .task import Task, load_task
from .train import Outcome, train

__all__ = ["PRUNERS", "Job", "PrunerKind", "Pruning", "perform", "portable"]

PrunerKind = Literal["median", "halving", "none"]
PRUNERS: tuple[PrunerKind, ...] = ("median", "halving", "none")


@dataclass(frozen=True)
class Earlier:
    """What the pruner sees of a trial that ended before this one began."""

    complete: bool
    values: Mapping[int, float]  # number of the evaluation -> validation metric
    memory: Mapping[str, Any]  # what the pruner itself noted


@dataclass(frozen=True)
class Pruning:
    """An Optuna pruner and the trials it compares with, as they were when the job began."""

    kind: PrunerKind
    higher_is_better: bool
    evaluations: int
    earlier: tuple[Earlier, ...]


@dataclass(frozen=True)
class Job:
    """One training run."""

    task: str | Task
    key: str  # identifies a task that is given as an object
    card: MethodCard
    settings: Mapping[str, Any]
    seed: int
    steps: int | None
    seconds: float | None
    device: str
    threads: int
    test: bool
    pruning: Pruning | None


def portable(card: MethodCard) -> MethodCard:
    """The card without what cannot be pickled and a worker does not need."""
    return dataclasses.replace(card, search={}, settings=dict(card.settings))


@cache
def _resident(key: str) -> dict[str, Task]:
    return {}


def perform(job: Job) -> Outcome:
    """Run a job in this process, with its number of threads."""
    if isinstance(job.task, Task):
        task = _resident(job.key).setdefault("task", job.task)
    else:
        task = load_task(job.task)
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    watch = None if job.pruning is None or job.pruning.kind == "none" else _Watch(job.pruning)
    try:
        outcome = train(
            task,
            job.card,
            job.settings,
            seed=job.seed,
            steps=job.steps,
            seconds=job.seconds,
            device=job.device,
            test=job.test,
            watch=watch,
        )
    finally:
        torch.set_num_threads(before)
    return outcome if watch is None else dataclasses.replace(outcome, extra=watch.memory())


class _Watch:
    """Asks an Optuna pruner, in a study in memory that holds the earlier trials."""

    def __init__(self, pruning: Pruning) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner: optuna.pruners.BasePruner
        if pruning.kind == "median":
            pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=pruning.evaluations // 4)
        else:
            pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=max(1, pruning.evaluations // 10), reduction_factor=3
            )
        study = optuna.create_study(direction="maximize" if pruning.higher_is_better else "minimize", pruner=pruner)
        states = optuna.trial.TrialState
        for e in pruning.earlier:
            last = e.values[max(e.values)] if e.values else None
            complete = e.complete and last is not None
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.COMPLETE if complete else states.PRUNED,
                    value=last if complete else None,
                    intermediate_values=dict(e.values),
                    system_attrs=dict(e.memory),
                )
            )
        self.study = study
        self.trial = study.ask()
        self.kind = pruning.kind
        self.evaluations = pruning.evaluations

    def __call__(self, number: int, point: CurvePoint) -> str | None:
        if point.validation_metric is None:
            return None
        self.trial.report(point.validation_metric, number)
        if not self.trial.should_prune():
            return None
        return f"hopeless at {number} of {self.evaluations} evaluations ({self.kind} pruner)"

    def memory(self) -> dict[str, Any]:
        """What the pruner noted of this trial."""
        return dict(self.study.get_trials(deepcopy=False)[-1].system_attrs)
