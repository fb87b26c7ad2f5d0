"""What a comparison is going to do, checked before any work, and written down so that it can be continued."""

import json
import math
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from steepest import catalogue
from steepest.core.budget import Budget
from steepest.core.card import MethodCard
from steepest.core.errors import did_you_mean
from steepest.core.files import write_text

from .errors import BadInput
from .execute import ENGINES, EngineKind
from .jobs import PRUNERS, PrunerKind
from .measure import now
from .results import TaskInfo
from .task import Task, check, load_task
from .tune import SAMPLERS, SamplerKind

__all__ = ["DEFAULT_METHODS", "Options", "Plan", "PlannedTask", "make_plan"]

#: The methods that ``steepest compare TASK`` compares unless told otherwise.
DEFAULT_METHODS = ("adamw", "sgd", "lion", "muon", "ademamix", "adabelief", "adamp", "diffgrad")
#: What every task can offer a method; a task with ``sample`` offers targets drawn from the model besides.
OFFERED = frozenset({"batch", "closure", "gradient", "graph", "hvp"})
#: Version of ``plan.json`` and of the studies' definitions.
SCHEMA = 1


@dataclass(frozen=True)
class Options:
    """How a comparison is made; the defaults of the command line.

    Args:
        trials: tuning trials per method.
        seeds: final runs per method.
        budget: of every single run, ``"300steps"`` or ``"30s"``; ``None``: what the task says.
        baseline: the method that the others are compared with; it always takes part.
        sampler: ``"qmc"`` (scrambled Sobol points) or ``"tpe"``.
        pruner: ``"median"``, ``"halving"`` (successive halving) or ``"none"``; stops hopeless trials.
        workers: processes that train at the same time.
        threads: per worker; ``None``: the cores divided by the workers.
        engine: ``"local"`` or ``"ray"``.
        address: of the Ray cluster; ``None`` makes a local one.
        storage: URL of the results database; ``None``: a SQLite file in the output folder.
        name: of the comparison in a shared database; ``None``: made from what is fixed.
        seed: the base seed.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    """

    trials: int = 12
    seeds: int = 5
    budget: str | Budget | None = None
    baseline: str = "adamw"
    sampler: SamplerKind = "qmc"
    pruner: PrunerKind = "median"
    workers: int = 1
    threads: int | None = None
    engine: EngineKind = "local"
    address: str | None = None
    storage: str | None = None
    name: str | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, low in (("trials", 1), ("seeds", 1), ("workers", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise BadInput(f"{name} must be an integer >= {low}, got {value!r}")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise BadInput(f"threads must be an integer >= 1, got {self.threads!r}")
        if self.seed >= 2**31:
            raise BadInput(f"seed must be below 2**31, got {self.seed!r}")
        for name, allowed in (("sampler", SAMPLERS), ("pruner", PRUNERS), ("engine", ENGINES)):
            if getattr(self, name) not in allowed:
                raise BadInput(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.address is not None and self.engine != "ray":
            raise BadInput(f"address is for engine ray only, got address={self.address!r} with engine {self.engine!r}")
        _check_device(self.device)


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise BadInput(f"device must be cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"device must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")


@dataclass(frozen=True)
class PlannedTask:
    """A task with its budget."""

    task: Task
    reference: str | Task  # what a worker makes the task from
    key: str
    budget: Budget
    info: TaskInfo
    signature: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """Everything decided; see :func:`make_plan`."""

    tasks: tuple[PlannedTask, ...]
    cards: tuple[MethodCard, ...]
    options: Options
    threads: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def final_seeds(self) -> range:
        """Seeds of the final runs; the tuning uses the base seed itself."""
        return range(self.options.seed + 1, self.options.seed + 1 + self.options.seeds)

    def fixed(self) -> dict[str, Any]:
        """What has to stay the same for results to be continued."""
        o = self.options
        return {
            "schema": SCHEMA,
            "seed": o.seed,
            "sampler": o.sampler,
            "pruner": o.pruner,
            "device": torch.device(o.device).type,
            "tasks": {t.info.name: {"budget": str(t.budget), **t.signature} for t in self.tasks},
        }

    def definition(self, task: PlannedTask, card: MethodCard) -> dict[str, Any]:
        """The same for the study of one method on one task."""
        rest = {k: v for k, v in self.fixed().items() if k != "tasks"}
        space = {name: d.describe() for name, d in card.search.items()}
        return {**rest, "task": {"budget": str(task.budget), **task.signature}, "search space": space}

    def summary(self) -> dict[str, Any]:
        """Flat and printable, for the results."""
        o = self.options
        budgets = {t.info.name: str(t.budget) for t in self.tasks}
        same = len(set(budgets.values())) == 1
        found: dict[str, Any] = {
            "tasks": ", ".join(budgets),
            "methods": ", ".join(c.name for c in self.cards),
            "trials": o.trials,
            "seeds": o.seeds,
            "budget": next(iter(budgets.values())) if same else ", ".join(f"{n} {b}" for n, b in budgets.items()),
            "sampler": o.sampler,
            "pruner": o.pruner,
            "baseline": o.baseline,
            "seed": o.seed,
            "workers": o.workers,
            "threads": self.threads,
            "engine": o.engine,
            "device": o.device,
            "storage": (o.storage or "sqlite").partition(":")[0].partition("+")[0],
            "command": command(),
        }
        if self.warnings:
            found["warning"] = " ".join(self.warnings)
        return found


def command() -> str:
    """The command line, without passwords; empty where Python was not started by ours."""
    if Path(sys.argv[0]).stem not in ("steepest", "__main__", "cli"):
        return ""
    shown = [shlex.quote(_masked(a)) for a in sys.argv[1:]]
    return " ".join(["steepest", *shown])


def _masked(argument: str) -> str:
    if "://" not in argument or "@" not in argument:
        return argument
    head, _, rest = argument.partition("://")
    user, _, host = rest.rpartition("@")
    return f"{head}://{user.partition(':')[0]}{':***' if ':' in user else ''}@{host}"


def make_plan(tasks: Sequence[str | Task], methods: Sequence[str | MethodCard] | str, options: Options) -> Plan:
    """Look everything up and check it.

    Args:
        tasks: names, ``path/to/task.py:function``, or tasks.
        methods: names or cards; ``"all"`` for every method that the arena can run.
        options: the rest.

    Raises:
        BadInput: something cannot be used.
        UnknownName: no such method or task; the message suggests the nearest.
    """
    if not tasks:
        raise BadInput(f"a task is needed; {did_you_mean('', _task_names())}")
    loaded = [load_task(task) for task in tasks]
    sampled = {"sampled targets"} if all(task.sample is not None for task in loaded) else set()
    cards, notes = _cards(methods, options.baseline, OFFERED | sampled)
    planned = tuple(_planned(t, options) for t in tasks)
    names = [t.info.name for t in planned]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"task {name!r} is given twice")
    import joblib

    cores = joblib.cpu_count()
    threads = options.threads or max(1, cores // options.workers)
    warnings = []
    if options.workers * threads > cores and options.engine == "local":
        shared = f"{options.workers} workers with {threads} threads share {cores} cores: "
        timed = any(t.budget.seconds is not None for t in planned)
        warnings.append(shared + ("timed budgets are not comparable." if timed else "times are not comparable."))
    return Plan(planned, cards, options, threads, tuple(warnings), notes)


def _task_names() -> list[str]:
    from .task import names

    return names()


def _cards(
    methods: Sequence[str | MethodCard] | str, baseline: str, offered: Set[str]
) -> tuple[tuple[MethodCard, ...], tuple[str, ...]]:
    if methods == "all" or list(methods) == ["all"]:
        cards = [c for c in catalogue.cards("optim").values() if c.needs <= offered]
    else:
        given = [methods] if isinstance(methods, str) else methods
        cards = [m if isinstance(m, MethodCard) else catalogue.card(m) for m in given]
    notes: tuple[str, ...] = ()
    cards = list({c.name: c for c in cards}.values())
    if baseline not in {c.name for c in cards}:
        cards.insert(0, catalogue.card(baseline))
        notes = (f"the baseline {baseline} takes part, too",)
    for card in cards:
        if card.room != "optim":
            raise BadInput(f"method {card.name!r} is a solver ({card.room}), not an optimizer that trains models")
        missing = sorted(card.needs - offered)
        if missing:
            raise BadInput(
                f"method {card.name!r} needs {', '.join(missing)}, which the task does not offer "
                f"(it offers {', '.join(sorted(offered))})"
            )
        if "/" in card.name:
            raise BadInput(f"method names must not contain '/', got {card.name!r}")
    return tuple(cards), notes


def _planned(given: str | Task, options: Options) -> PlannedTask:
    task = load_task(given)
    where = f"task {given!r}" if isinstance(given, str) else f"task {task.name!r}"
    check(task, where)
    asked = options.budget if options.budget is not None else task.budget
    try:
        budget = Budget.of(asked)
    except (TypeError, ValueError) as error:
        raise BadInput(str(error)) from error
    if (budget.steps is None) == (budget.seconds is None) or budget.calls:
        raise BadInput(f"budget must be either steps or seconds for the arena, got '{budget}'")
    reference: str | Task = task
    if isinstance(given, str):
        path, colon, function = given.rpartition(":")
        reference = f"{Path(path).resolve()}:{function}" if colon else given
    return PlannedTask(task, reference, secrets.token_hex(8), budget, task.info(), task.signature())


def differs(before: Any, now: Any, where: str = "") -> str | None:
    """The first difference between two nested definitions in words; floats may differ by 0.1 %, as machines do."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            why = differs(before.get(key), now.get(key), f"{where} {key}".strip())
            if why is not None:
                return why
        return None
    if isinstance(before, float) and isinstance(now, float):
        same = math.isclose(before, now, rel_tol=1e-3, abs_tol=1e-9)
    else:
        same = before == now
    return None if same else f"{where} was {before!r} and is now {now!r}"


def continue_plan(plan: Plan, out: Path) -> str:
    """Compare the plan with the one in the folder, if there is one, and write it down.

    Returns the time at which the comparison was first started.

    More trials, seeds, methods and tasks continue a comparison; anything else that changes what a trial means does not.

    Raises:
        BadInput: the folder holds another comparison.
    """
    path = out / "plan.json"
    fixed = plan.fixed()
    started = now()
    if path.exists():
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
            before, started = written["fixed"], str(written["started"])
            known = before["tasks"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} cannot be read ({error}); remove it or choose another --out") from error
        why = differs(
            {**before, "tasks": {n: t for n, t in known.items() if n in fixed["tasks"]}},
            {**fixed, "tasks": {n: t for n, t in fixed["tasks"].items() if n in known}},
        )
        if why is not None:
            raise BadInput(f"{out} holds a comparison that was made differently: {why}; choose another --out")
        fixed = {**fixed, "tasks": {**known, **fixed["tasks"]}}
    text = json.dumps({"started": started, "fixed": fixed, "asked": plan.summary()}, indent=1)
    write_text(path, text + "\n")
    return started
