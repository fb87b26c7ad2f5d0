"""Several ways to do one thing, timed in turns: how the benchmark of the oracles measures."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ..convex.contest import Promise

__all__ = ["OracleBenchmark", "Promise", "Row", "Way", "most", "turns"]


@dataclass(frozen=True)
class Way:
    """One way to do it.

    Args:
        name: what the table calls it.
        package: whose it is; ``"steepest"`` for ours.
        run: does it once.
        answer: from what it returns to one vector; of ways that have it, all must agree with the first that has.
    """

    name: str
    package: str
    run: Callable[[], Any]
    answer: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table; ``ratio`` is to the first way of the same setting, ``note`` says why there is none."""

    section: str
    setting: str
    name: str
    package: str
    milliseconds: float | None = None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class OracleBenchmark:
    """All that was measured, and on what."""

    rows: list[Row]
    promises: list[Promise]
    threads: int
    rounds: int
    processor: str
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return asdict(self)


def turns(section: str, setting: str, ways: Sequence[Way], rounds: int) -> list[Row]:
    """Time all in turns, after one untimed run each; medians, and their ratios to the first.

    Args:
        section, setting: the part of the benchmark, and on what it is measured.
        ways: the first is the reference.
        rounds: timed runs of each.
    """
    notes: dict[str, str] = {}
    expected: Tensor | None = None
    for way in ways:
        try:
            result = way.run()
            if way.answer is not None:
                found = way.answer(result).detach()
                expected = found if expected is None else expected
                error = float((found - expected).norm() / expected.norm())
                if not error < 1e-3:
                    raise ValueError(f"its answer is off by {error:.1e}")
        except Exception as error:  # a peer that cannot do it is a result too
            notes[way.name] = f"failed: {type(error).__name__}: {error}"[:200]
    taken: dict[str, list[float]] = {way.name: [] for way in ways if way.name not in notes}
    for _ in range(rounds):
        for way in ways:
            if way.name in taken:
                begun = time.perf_counter()
                way.run()
                taken[way.name].append(time.perf_counter() - begun)
    medians = {name: 1e3 * statistics.median(times) for name, times in taken.items()}
    reference = medians.get(ways[0].name)
    rows = []
    for way in ways:
        middle = medians.get(way.name)
        ratio = None if middle is None or reference is None else middle / reference
        rows.append(Row(section, setting, way.name, way.package, middle, ratio, notes.get(way.name, "")))
    return rows


def most(text: str, limit: float, ratios: Sequence[float | None], judged: bool = True) -> Promise:
    """A promise that no ratio is above a limit.

    Args:
        text: the promise in words.
        limit: the largest ratio allowed.
        ratios: what was measured; None where something failed.
        judged: False for sizes too small to say anything.
    """
    if not ratios or any(r is None for r in ratios):
        return Promise(text, "not measured", None)
    found = [r for r in ratios if r is not None]
    figure = f"{max(found):.2f}" if len(found) == 1 else f"{min(found):.2f} to {max(found):.2f}"
    return Promise(text, figure, max(found) <= limit if judged else None)
