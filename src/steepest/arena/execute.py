"""Where jobs run: in this process, in worker processes (loky), or on a Ray cluster. All give the same results."""

import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Literal

from .errors import BadInput
from .jobs import Job, perform
from .train import Outcome

__all__ = ["ENGINES", "EngineKind", "Executor", "make_executor"]

EngineKind = Literal["local", "ray"]
ENGINES: tuple[EngineKind, ...] = ("local", "ray")


class Executor(ABC):
    """Takes jobs, gives back outcomes in the order in which they end."""

    capacity: int

    @abstractmethod
    def submit(self, ticket: int, job: Job) -> None:
        """Accept a job; at most ``capacity`` are in flight."""

    @abstractmethod
    def collect(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Tickets and outcomes of the jobs that ended; waits up to ``timeout`` seconds for the first."""

    def close(self, kill: bool = False) -> None:  # noqa: B027  (nothing to do in this process)
        """Let go of the workers; ``kill`` does not wait for what they are doing."""


def make_executor(engine: EngineKind, workers: int, threads: int, address: str | None) -> Executor:
    """The executor for these options."""
    if engine == "ray":
        return RayCluster(workers, threads, address)
    return InProcess() if workers == 1 else Processes(workers, threads)


class InProcess(Executor):
    """One job at a time, here."""

    capacity = 1

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Job]] = []

    def submit(self, ticket: int, job: Job) -> None:
        self.waiting.append((ticket, job))

    def collect(self, timeout: float) -> list[tuple[int, Outcome]]:
        ticket, job = self.waiting.pop(0)
        return [(ticket, perform(job))]


def _prepare_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it does: after SIGKILL nobody else would tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _died(error: BaseException) -> Outcome:
    return Outcome("failed", f"the worker process died (out of memory?): {type(error).__name__}", 0, 0.0)


def _unable(error: BaseException) -> BadInput:
    """What a trial raises is its outcome; this came before it: no trial could run there."""
    text = str(error).strip().splitlines()
    return BadInput(f"a worker cannot load the task or the method: {type(error).__name__}: {text[-1] if text else ''}")


class Processes(Executor):
    """Worker processes on this machine."""

    def __init__(self, workers: int, threads: int) -> None:
        self.capacity = workers
        self.threads = threads
        self.futures: dict[Future[Outcome], tuple[int, Job]] = {}
        self.pool = self._pool()

    def _pool(self) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return ProcessPoolExecutor(
            max_workers=self.capacity,
            initializer=_prepare_worker,
            initargs=(os.getpid(),),
            env=dict.fromkeys(counts, str(self.threads)),
        )

    def submit(self, ticket: int, job: Job) -> None:
        self.futures[self.pool.submit(perform, job)] = (ticket, job)

    def collect(self, timeout: float) -> list[tuple[int, Outcome]]:
        from joblib.externals.loky import BrokenProcessPool

        done, _ = wait(self.futures, timeout=timeout, return_when=FIRST_COMPLETED)
        ended = []
        broken = False
        for future in done:
            try:
                ended.append((self.futures[future][0], future.result()))
                del self.futures[future]
            except BrokenProcessPool:
                broken = True
            except Exception as error:
                raise _unable(error) from error
        return ended + (self._recover() if broken else [])

    def _recover(self) -> list[tuple[int, Outcome]]:
        """A worker died and took the pool along: run what was in flight one by one, to find the culprit."""
        from joblib.externals.loky import BrokenProcessPool

        suspects = list(self.futures.values())
        self.futures.clear()
        ended = []
        self.pool = self._pool()
        for ticket, job in suspects:
            try:
                ended.append((ticket, self.pool.submit(perform, job).result()))
            except BrokenProcessPool as error:
                ended.append((ticket, _died(error)))
                self.pool = self._pool()
        return ended

    def close(self, kill: bool = False) -> None:
        self.pool.shutdown(wait=not kill, kill_workers=True)


class RayCluster(Executor):
    """Ray tasks: on a cluster at ``address``, or on a local one made for the purpose."""

    def __init__(self, workers: int, threads: int, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise BadInput("--engine ray needs Ray: pip install 'steepest[ray]'") from error
        self.ray = ray
        self.started = not ray.is_initialized()
        if self.started:
            local = {} if address else {"num_cpus": workers * threads, "include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise BadInput(f"no Ray cluster at --address {address!r}: {error}") from error
        cores = int(ray.cluster_resources().get("CPU", 1))
        self.capacity = max(1, cores // threads) if address else workers
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        self.remote = {
            d: ray.remote(perform).options(num_cpus=threads, num_gpus=g) for d, g in (("cpu", 0), ("cuda", gpus))
        }
        self.flying: dict[Any, int] = {}

    def submit(self, ticket: int, job: Job) -> None:
        self.flying[self.remote[job.device.partition(":")[0]].remote(job)] = ticket

    def collect(self, timeout: float) -> list[tuple[int, Outcome]]:
        done, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=timeout)
        ended = []
        for reference in done:
            ticket = self.flying.pop(reference)
            try:
                ended.append((ticket, self.ray.get(reference)))
            except self.ray.exceptions.RayTaskError as error:
                raise _unable(error.cause if isinstance(error.cause, Exception) else error) from error
            except self.ray.exceptions.RayError as error:
                ended.append((ticket, _died(error)))
        return ended

    def close(self, kill: bool = False) -> None:
        for reference in self.flying if kill else ():
            self.ray.cancel(reference, force=True)
        if self.started:
            self.ray.shutdown()
