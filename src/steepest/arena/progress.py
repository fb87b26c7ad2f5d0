"""What a person sees while a comparison runs: bars on a terminal, lines elsewhere; always on standard error."""

import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Bars", "Lines", "Progress", "Silent", "make_progress"]

Row = tuple[str, str]  # task, title of the method


class Progress(Protocol):
    """Told what happens."""

    def start(self, rows: Sequence[Row], total: int, done: Sequence[int]) -> None:
        """Begin: the rows, the number of trials and final runs of each, and those that are there already."""

    def advance(self, row: Row, stage: str, best: str) -> None:
        """A trial or a final run of a row ended; the best score so far, in words."""

    def say(self, text: str) -> None:
        """A line of text."""

    def stop(self) -> None:
        """End."""


def make_progress(show: bool | None) -> Progress:
    """Bars on a terminal, lines elsewhere; nothing where ``show`` is False."""
    if show is False:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()


class Silent:
    """Says nothing."""

    def start(self, rows: Sequence[Row], total: int, done: Sequence[int]) -> None:
        pass

    def advance(self, row: Row, stage: str, best: str) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def stop(self) -> None:
        pass


def _label(row: Row, rows: Sequence[Row]) -> str:
    return row[1] if len({task for task, _ in rows}) == 1 else f"{row[0]} {row[1]}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Lines:
    """A line now and then."""

    #: Seconds between two lines.
    EVERY = 10.0

    def start(self, rows: Sequence[Row], total: int, done: Sequence[int]) -> None:
        self.rows, self.total = list(rows), total * len(rows)
        self.before = self.done = sum(done)
        self.began = self.last = time.monotonic()
        if self.done:
            self.say(f"continuing: {self.done} of {self.total} runs are there already")

    def advance(self, row: Row, stage: str, best: str) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last < self.EVERY and self.done < self.total:
            return
        self.last = now
        left = (now - self.began) / (self.done - self.before) * (self.total - self.done)
        self.say(
            f"{self.done} of {self.total} runs, about {_duration(left)} left; {_label(row, self.rows)}: {stage}, {best}"
        )

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def stop(self) -> None:
        pass


class Bars:
    """A bar per method: stage, best so far; one for the whole with the time left."""

    def start(self, rows: Sequence[Row], total: int, done: Sequence[int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self.bars = RichProgress(*columns, console=Console(stderr=True))
        self.tasks = {
            row: self.bars.add_task(_label(row, rows), total=total, completed=n, note="")
            for row, n in zip(rows, done, strict=True)
        }
        self.whole = self.bars.add_task("all", total=total * len(rows), completed=sum(done), note="")
        self.bars.start()

    def advance(self, row: Row, stage: str, best: str) -> None:
        self.bars.update(self.tasks[row], advance=1, note=f"{stage}, {best}")
        self.bars.update(self.whole, advance=1)

    def say(self, text: str) -> None:
        if hasattr(self, "bars"):
            self.bars.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def stop(self) -> None:
        if hasattr(self, "bars"):
            self.bars.stop()
