"""A progress bar for runs that a person watches."""

import sys
import time
from types import TracebackType
from typing import Any

from steepest.core.stopping import Measures

__all__ = ["ProgressBar"]


class ProgressBar:
    """A bar on standard error that follows the part of the budget in use.

    Args:
        title: the text before the bar.
        enabled: ``None`` shows the bar where standard error is a terminal and ``rich`` is installed; ``True`` shows it
            in any case; ``False`` never.

    Raises:
        ModuleNotFoundError: ``enabled=True`` and ``rich`` is not installed.
    """

    def __init__(self, title: str, enabled: bool | None = None) -> None:
        self._bar: Any = None
        self._next = 0.0
        if enabled is False or (enabled is None and not sys.stderr.isatty()):
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        except ModuleNotFoundError as error:
            if enabled is None:
                return
            raise ModuleNotFoundError("progress=True needs rich: pip install rich") from error
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._task = self._bar.add_task(title, total=1.0, note="")

    def __enter__(self) -> "ProgressBar":
        if self._bar is not None:
            self._bar.start()
        return self

    def update(self, fraction: float, step: int, measures: Measures) -> None:
        """Move the bar, at most ten times a second."""
        if self._bar is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.1
        parts = [f"{name} {x:.4g}" for name, x in measures._asdict().items() if x is not None]
        self._bar.update(self._task, completed=fraction, note=", ".join([f"step {step}", *parts]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
