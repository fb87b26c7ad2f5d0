"""The results database: Optuna's, on an embedded SQLite file or a PostgreSQL server.

One study per task, method and role (tuning or final). A trial carries its place in the plan (slot, and the seed of a
final run), is RUNNING while somebody works on it, and gets its outcome as one attribute just before it is finished: a
trial without that attribute never ended, whatever its state says. Only the coordinating process touches the database.
"""

import contextlib
import datetime
import importlib.util
import os
import socket
import sqlite3
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from .errors import BadInput
from .results import CurvePoint
from .train import Outcome

__all__ = ["Mark", "Store", "Stored", "open_store"]

#: Study names begin with it; a SQLite file with other studies is not ours.
PREFIX = "steepest"
#: Seconds between signs of life of running trials, and of silence after which they count as dead (PostgreSQL).
HEARTBEAT, GRACE = 15, 90

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


@dataclass(frozen=True)
class Mark:
    """A place in the plan: a slot of the tuning, or a seed of the final runs of the slot that won."""

    slot: int
    seed: int | None = None


@dataclass(frozen=True)
class Stored:
    """A trial as the database has it."""

    trial: int
    mark: Mark
    parameters: Mapping[str, Any]
    running: bool
    outcome: Outcome | None  # None: running, or interrupted


def _process() -> str:
    """This process, so that another on the same machine can tell whether it lives."""
    with contextlib.suppress(OSError):
        host = f"{socket.gethostname()}-{os.stat('/proc/self/ns/pid').st_ino}"
        return f"{host}/{os.getpid()}/{psutil.Process().create_time():.2f}"
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def _dead(owner: str, me: str) -> bool:
    """Whether the owner ran on this machine and is gone."""
    try:
        (host, pid, born), here = owner.split("/"), me.split("/")[0]
    except ValueError:
        return False
    if host != here:
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(born)) > 1.0
    except psutil.NoSuchProcess:
        return True


def _pack(outcome: Outcome) -> dict[str, Any]:
    data = asdict(outcome)
    data["curve"] = [[p.step, p.seconds, p.train_loss, p.validation_metric] for p in outcome.curve]
    return data


def _unpack(data: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**data, "curve": tuple(CurvePoint(*p) for p in data["curve"])})


class Store:
    """An open results database.

    Args:
        storage: Optuna's.
        shared: whether other machines may work on it at the same time (PostgreSQL).
        name: distinguishes comparisons in one database; empty for a file of its own.
    """

    def __init__(self, storage: optuna.storages.RDBStorage, shared: bool, name: str) -> None:
        self.storage = storage
        self.shared = shared
        self.name = name
        self.me = _process()
        self.studies: dict[str, int] = {}
        self.mine: set[int] = set()
        self._stop = threading.Event()
        if shared:
            threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            for trial in list(self.mine):
                # A database that is away for a moment is not this thread's business: the main one will notice.
                with contextlib.suppress(Exception):
                    self.storage.record_heartbeat(trial)
            self.storage.remove_session()

    def close(self) -> None:
        """Let go of the database."""
        self._stop.set()
        self.storage.remove_session()
        self.storage.engine.dispose()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Only one coordinator at a time decides what comes next; a file of its own has only one anyway."""
        if not self.shared:
            yield
            return
        key = zlib.crc32(f"{PREFIX}/{self.name}".encode())
        with self.storage.engine.connect() as connection:
            connection.execute(sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": key})
            try:
                yield
            finally:
                connection.execute(sqlalchemy.text("select pg_advisory_unlock(:key)"), {"key": key})

    def study(self, task: str, method: str, role: str, higher_is_better: bool) -> str:
        """The study's name, made if need be."""
        name = " / ".join(p for p in (PREFIX, self.name, task, method, role) if p)
        if name not in self.studies:
            direction = (
                optuna.study.StudyDirection.MAXIMIZE if higher_is_better else optuna.study.StudyDirection.MINIMIZE
            )
            try:
                number = self.storage.get_study_id_from_name(name)
            except KeyError:
                try:
                    number = self.storage.create_new_study([direction], name)
                except optuna.exceptions.DuplicatedStudyError:  # another machine was quicker
                    number = self.storage.get_study_id_from_name(name)
            self.studies[name] = number
        return name

    def agree(self, study: str, definition: Mapping[str, Any], differ: Callable[[Any, Any], str | None]) -> None:
        """Note what the study's trials mean, or refuse to mix them with trials that mean something else."""
        number = self.studies[study]
        before = self.storage.get_study_user_attrs(number).get("definition")
        if before is None:
            self.storage.set_study_user_attr(number, "definition", dict(definition))
            return
        why = differ(before, definition)
        if why is not None:
            raise BadInput(f"the stored results of {study!r} were made differently: {why}; use another --out or --name")

    def read(self, study: str) -> list[Stored]:
        """All trials of a study, in the order of their creation."""
        found = []
        for t in self.storage.get_all_trials(self.studies[study], deepcopy=False):
            if "slot" not in t.user_attrs:
                continue
            mark = Mark(t.user_attrs["slot"], t.user_attrs.get("seed"))
            data = t.user_attrs.get("outcome")
            # One that was killed between its outcome and its end has both, and is run again.
            ended = t.state.is_finished() and t.user_attrs.get("status") != "interrupted"
            outcome = _unpack(data) if data is not None and ended else None
            found.append(Stored(t._trial_id, mark, t.params, t.state == TrialState.RUNNING, outcome))
        return found

    def release_dead(self, study: str) -> int:
        """Fail trials whose process is gone, so that their places can be run again; returns their number.

        In a file of our own, which is locked, every running trial is a dead one. In a shared database it is dead when
        its process ran on this machine and is gone, or its heartbeat has stopped.
        """
        count = 0
        for t in self.storage.get_all_trials(self.studies[study], deepcopy=False, states=(TrialState.RUNNING,)):
            if t._trial_id in self.mine:
                continue
            if not self.shared or _dead(t.user_attrs.get("owner", ""), self.me):
                count += self._interrupt(t._trial_id)
        if self.shared:
            for trial in self.storage._get_stale_trial_ids(self.studies[study]):
                if trial not in self.mine:
                    count += self._interrupt(trial)
        return count

    def _interrupt(self, trial: int) -> int:
        try:
            self.storage.set_trial_user_attr(trial, "status", "interrupted")
            return int(self.storage.set_trial_state_values(trial, TrialState.FAIL))
        except optuna.exceptions.UpdateFinishedTrialError:
            return 0

    def claim(
        self,
        study: str,
        mark: Mark,
        parameters: Mapping[str, Any],
        space: Mapping[str, optuna.distributions.BaseDistribution],
    ) -> int | None:
        """Take a place of the plan, under :meth:`lock`; ``None`` where it is done or somebody works on it."""
        if any(s.mark == mark and (s.running or s.outcome is not None) for s in self.read(study)):
            return None
        attributes: dict[str, Any] = {"slot": mark.slot, "owner": self.me}
        if mark.seed is not None:
            attributes["seed"] = mark.seed
        # Not RUNNING before it has a heartbeat: without one, nobody could ever tell that it is dead.
        template = FrozenTrial(
            number=-1,
            state=TrialState.WAITING if self.shared else TrialState.RUNNING,
            value=None,
            datetime_start=None if self.shared else datetime.datetime.now(),
            datetime_complete=None,
            params=dict(parameters),
            distributions=dict(space),
            user_attrs=attributes,
            system_attrs={},
            intermediate_values={},
            trial_id=-1,
        )
        trial = self.storage.create_new_trial(self.studies[study], template)
        if self.shared:
            self.storage.record_heartbeat(trial)
            self.storage.set_trial_state_values(trial, TrialState.RUNNING)
        self.mine.add(trial)
        return trial

    def finish(self, trial: int, outcome: Outcome) -> bool:
        """Store how a trial ended; False where it was taken from us meanwhile, because we seemed dead."""
        try:
            for number, point in enumerate(outcome.curve):
                if number and point.validation_metric is not None:
                    self.storage.set_trial_intermediate_value(trial, number, point.validation_metric)
            self.storage.set_trial_user_attr(trial, "status", outcome.status)
            if outcome.reason:
                self.storage.set_trial_user_attr(trial, "reason", outcome.reason)
            self.storage.set_trial_user_attr(trial, "outcome", _pack(outcome))
            value = outcome.test_metric if outcome.test_metric is not None else outcome.metric
            values = [value] if outcome.status == "complete" and value is not None else None
            self.storage.set_trial_state_values(trial, _STATES.get(outcome.status, TrialState.FAIL), values)
            return True
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        finally:
            self.mine.discard(trial)

    def give_up(self) -> None:
        """Fail what this process has running, as interrupted."""
        for trial in list(self.mine):
            with contextlib.suppress(Exception):
                self._interrupt(trial)
            self.mine.discard(trial)


def open_store(url: str | None, out: Path, name: str) -> Store:
    """Open the results database, or make it.

    Args:
        url: ``None`` for ``study.db`` in ``out``; ``sqlite:///path`` or ``postgresql://user:password@host/database``.
        out: the output folder.
        name: distinguishes comparisons in a shared database.

    Raises:
        BadInput: the file is damaged or not ours, the server does not answer, the kind of database is unknown.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        return Store(_sqlite(out / "study.db"), shared=False, name="")
    if url.startswith("sqlite:///"):
        return Store(_sqlite(Path(url.removeprefix("sqlite:///"))), shared=False, name="")
    if url.startswith(("postgresql://", "postgresql+psycopg2://", "postgresql+psycopg://")):
        return Store(_postgresql(url), shared=True, name=name)
    raise BadInput(f"storage must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE, got {masked(url)!r}")


def sqlite_path(url: str | None, out: Path) -> Path | None:
    """The file behind a storage, or ``None`` for a server."""
    if url is None:
        return out / "study.db"
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def masked(url: str) -> str:
    """A storage URL without its password."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url.rpartition("@")[2]


def _sqlite(path: Path) -> optuna.storages.RDBStorage:
    if path.exists():
        _inspect(path)
    else:
        # Made under another name: whoever dies in between leaves no half-made database.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fresh = optuna.storages.RDBStorage(f"sqlite:///{draft}")
            fresh.remove_session()
            fresh.engine.dispose()
            with contextlib.closing(sqlite3.connect(draft)) as connection:
                # Readers (optuna-dashboard) and the writer do not wait for each other; survives SIGKILL.
                connection.execute("pragma journal_mode=wal")
            os.replace(draft, path)
        except (OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            raise BadInput(f"the results database {path} cannot be made: {error}") from error
        finally:
            draft.unlink(missing_ok=True)
    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}",
            engine_kwargs={"connect_args": {"timeout": 60, "check_same_thread": False}},
            skip_table_creation=True,
        )
    except (RuntimeError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise BadInput(f"{path} is not a results database of this Optuna version: {error}") from error

    def settle(connection: Any, record: Any) -> None:
        connection.execute("pragma synchronous=normal")

    sqlalchemy.event.listen(storage.engine, "connect", settle)
    with storage.engine.connect():  # the pool may hold a connection from before the listener
        storage.engine.dispose()
    return storage


def _inspect(path: Path) -> None:
    """Refuse a file that is damaged or somebody else's, before anything writes to it."""
    advice = "move it away or choose another --out"
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head and head != b"SQLite format 3\x00":
            raise BadInput(f"{path} is not a SQLite database; {advice}")
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            state = connection.execute("pragma quick_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
            if state != "ok":
                raise BadInput(f"{path} is damaged ({state}); {advice}")
            if not {"studies", "trials", "version_info"} <= tables:
                what = f"its tables are {', '.join(sorted(tables)[:5])}" if tables else "it is empty"
                raise BadInput(f"{path} is not a results database of steepest ({what}); {advice}")
            names = [row[0] for row in connection.execute("select study_name from studies")]
    except (OSError, sqlite3.Error) as error:
        raise BadInput(f"{path} is damaged or cannot be read ({error}); {advice}") from error
    foreign = [n for n in names if not n.startswith(f"{PREFIX} / ")]
    if foreign:
        raise BadInput(f"{path} holds Optuna studies that steepest did not make ({', '.join(foreign[:3])}); {advice}")


def _postgresql(url: str) -> optuna.storages.RDBStorage:
    if url.startswith("postgresql://"):
        # SQLAlchemy's own choice of driver depends on its version.
        driver = "psycopg2" if importlib.util.find_spec("psycopg2") else "psycopg"
        url = url.replace("postgresql://", f"postgresql+{driver}://", 1)
    try:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        # Machines that start at once would make the tables twice, and fail; the lock ends with the connection.
        with engine.connect() as connection, warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            connection.execute(sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": zlib.crc32(PREFIX.encode())})
            return optuna.storages.RDBStorage(
                url, engine_kwargs={"pool_pre_ping": True}, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
    except ImportError as error:
        raise BadInput("postgresql:// needs a driver: pip install 'steepest[postgresql]'") from error
    except (RuntimeError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        text = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise BadInput(f"the storage {masked(url)} cannot be used: {text}") from error
