"""Oracle calls and how they are counted.

An *oracle* is anything that a method may ask of a problem: a value, a gradient, a Hessian-vector product, a proximal
step, a message to another worker. A method of a :class:`~steepest.core.problem.Problem` that is marked with
:func:`oracle` adds to every count that is open in the current context; :func:`tally` adds any other amount, such as
communicated bytes.

Counts belong to a run, not to a problem: two threads may run on one problem object at once, and each sees only its own
calls. A run inside a run (an inner solver) is counted in both. Threads that a method starts itself do not inherit the
context (a property of :mod:`contextvars`); start their work with ``contextvars.copy_context().run(...)``.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["OracleCounts", "counting", "oracle", "tally", "uncounted"]

F = TypeVar("F", bound=Callable[..., Any])


class OracleCounts:
    """Numbers of oracle calls by name; safe to share between threads.

    Args:
        initial: counts to begin with, for a run that is resumed.
    """

    def __init__(self, initial: Mapping[str, int] | None = None) -> None:
        self._lock = threading.Lock()
        self._counts = dict(initial or {})

    def add(self, name: str, amount: int = 1) -> None:
        """Add ``amount`` calls (or bytes, or samples) under ``name``."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + amount

    def snapshot(self) -> dict[str, int]:
        """The counts at this moment, by name in alphabetical order."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def __repr__(self) -> str:
        return f"OracleCounts({self.snapshot()})"


_open: ContextVar[tuple[OracleCounts, ...]] = ContextVar("steepest_open_oracle_counts", default=())


@contextmanager
def counting(counts: OracleCounts) -> Iterator[OracleCounts]:
    """Count the oracle calls made inside the ``with`` block, in ``counts`` and in all counts already open."""
    token = _open.set((*_open.get(), counts))
    try:
        yield counts
    finally:
        _open.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """Do not count inside the ``with`` block: for measurements that are no part of the method."""
    token = _open.set(())
    try:
        yield
    finally:
        _open.reset(token)


def tally(name: str, amount: int = 1) -> None:
    """Add ``amount`` under ``name`` to every open count; does nothing where none is open."""
    for counts in _open.get():
        counts.add(name, amount)


def oracle(*names: str) -> Callable[[F], F]:
    """Mark a method of a problem as an oracle that offers, and counts one call of, each of ``names``.

    Every call is counted, also one that is made by another oracle of the same problem: an oracle that should count
    once calls plain helpers, not other oracles.

    Raises:
        ValueError: no name is given.
    """
    if not names:
        raise ValueError("oracle: at least one name is needed, such as oracle('gradient')")

    def mark(function: F) -> F:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            for name in names:
                tally(name)
            return function(*args, **kwargs)

        counted.__oracles__ = names  # type: ignore[attr-defined]
        return counted  # type: ignore[return-value]

    return mark
