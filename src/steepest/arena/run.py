"""``compare``: the main job, from task and methods to results on disk."""

import contextlib
import importlib
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy

from steepest.core.card import MethodCard

from .conduct import Conductor
from .errors import BadInput, Interrupted
from .execute import make_executor
from .plan import DEFAULT_METHODS, Options, Plan, continue_plan, make_plan
from .progress import Progress, make_progress
from .results import Comparison
from .saved import save
from .storage import open_store, sqlite_path
from .task import Task

__all__ = ["compare"]


def compare(
    task: str | Task | Sequence[str | Task],
    methods: Sequence[str | MethodCard] | str = DEFAULT_METHODS,
    *,
    out: str | Path,
    report: bool = True,
    progress: bool | None = None,
    **options: Any,
) -> Comparison:
    """Find the best method for a task: tune each with the same number of trials, score the winners on the test split.

    The same call continues a comparison that was stopped, whatever stopped it; more trials, seeds, methods or tasks
    extend it. Nothing that has finished runs again.

    Args:
        task: one or several: names, ``"path/to/task.py:function"``, or :class:`~steepest.arena.Task` objects.
        methods: names or method cards; ``"all"`` for every method the arena can run.
        out: the output folder: results database, ``results.json``, and the report.
        report: whether to write the report (``report.html``, ``report.md``, tables).
        progress: ``None``: bars on a terminal, lines on standard error elsewhere; ``False``: nothing.
        **options: see :class:`~steepest.arena.plan.Options`.

    Raises:
        BadInput: an argument, the task, the folder or the database cannot be used; raised before any work.
        UnknownName: no such method or task.
        Interrupted: Ctrl-C or SIGTERM; what has finished is stored.
    """
    unknown = sorted(options.keys() - Options.__dataclass_fields__.keys())
    if unknown:
        raise TypeError(f"compare() has no option {unknown[0]!r}; it has {', '.join(Options.__dataclass_fields__)}")
    settings = Options(**options)
    folder = _writable(Path(out))
    tasks = [task] if isinstance(task, (str, Task)) else list(task)
    plan = make_plan(tasks, methods, settings)
    shown = make_progress(progress)
    for text in (*plan.notes, *(f"warning: {w}" for w in plan.warnings)):
        shown.say(text)
    with _locked(folder, plan.options.storage), _interruptible():
        started = continue_plan(plan, folder)
        found = _conduct(plan, folder, shown, started)
        if report:
            try:
                # The report is a room of its own with heavy imports (tables, charts).
                importlib.import_module("steepest.arena.report").write(found, folder)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped while writing the report; the results are saved, and `steepest report {folder}` writes it"
                ) from None
    return found


def _conduct(plan: Plan, folder: Path, shown: Progress, started: str) -> Comparison:
    o = plan.options
    store = open_store(o.storage, folder, _name(plan))
    executor = None
    conductor = None
    clean = False
    try:
        executor = make_executor(o.engine, o.workers, plan.threads, o.address)
        conductor = Conductor(plan, store, executor, shown, started)
        conductor.run()
        clean = True
        shown.stop()
        found = conductor.comparison()
        save(found, folder)
        return found
    except KeyboardInterrupt:
        shown.stop()
        if conductor is None:
            raise Interrupted("stopped before the first trial; the same command starts again") from None
        found = conductor.comparison()
        save(found, folder)
        raise Interrupted(
            f"stopped: {len(found.trials)} tuning trials and {len(found.runs)} final runs are saved in {folder}; "
            "the same command continues"
        ) from None
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise RuntimeError(
            f"the results database stopped working ({cause}); what finished before is stored, "
            "and the same command continues"
        ) from error
    finally:
        shown.stop()
        if executor is not None:
            executor.close(kill=not clean)
        store.give_up()
        store.close()


def _name(plan: Plan) -> str:
    """The name in a shared database: equal for equal commands, so that machines find each other."""
    if plan.options.name is not None:
        return plan.options.name
    import hashlib
    import json

    def exact(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: exact(v) for k, v in value.items() if not isinstance(v, float)}
        return value

    fixed = {k: v for k, v in plan.fixed().items() if k != "tasks"}
    budgets = sorted({str(t.budget) for t in plan.tasks})
    return hashlib.sha256(json.dumps([exact(fixed), budgets], sort_keys=True).encode()).hexdigest()[:8]


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(f"the output folder {str(folder)!r} cannot be written: {error.strerror or error}") from error
    return folder


@contextlib.contextmanager
def _locked(folder: Path, storage: str | None) -> Iterator[None]:
    """Keep a second run off the folder and its database; the system lets go of the lock when the process dies."""
    database = sqlite_path(storage, folder)
    paths = {folder / "compare.lock"} if database is None else {folder / "compare.lock", Path(f"{database}.lock")}
    with contextlib.ExitStack() as stack:
        for path in sorted(paths):
            try:
                stack.enter_context(filelock.FileLock(path, timeout=0))
            except filelock.Timeout as error:
                raise BadInput(
                    f"another steepest compare is at work in {path.parent} ({path.name} is locked)"
                ) from error
            except OSError as error:
                raise BadInput(f"{path} cannot be locked: {error.strerror or error}") from error
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM like Ctrl-C, while we work."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
