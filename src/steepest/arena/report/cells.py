"""Numbers of the results and their analysis as table cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..analysis import Difference, TargetTime
from ..results import RunRecord, TrialRecord
from . import numbers as n
from .palette import Style

__all__ = ["Cell", "MethodView", "difference_row", "gap", "reached", "run_row", "trial_row"]


@dataclass(frozen=True)
class Cell:
    """A number in a table: what is shown, its interval, a remark, and what it sorts by (``None``: last)."""

    text: str
    sort: float | None = None
    interval: str = ""
    note: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.text, self.interval, self.note) if part)


@dataclass(frozen=True)
class MethodView:
    """A method and its look."""

    index: int
    name: str
    title: str
    summary: str
    source: str
    search: str
    style: Style


def gap(d: Difference | None, places: int) -> Cell:
    """The paired difference against the baseline, with its word."""
    if d is None or (d.mean is None and d.word == "not separated"):
        return Cell(n.DASH)
    return Cell(n.signed(d.mean, places), d.mean, n.interval(d.low, d.high, places, sign=True), d.word)


def reached(time: TargetTime | None, measure: str) -> Cell:
    """Steps or seconds (``measure``) to the target."""
    if time is None or not time.runs or (time.steps is None and not time.reached):
        return Cell("not reached" if time is not None and time.runs else n.DASH)
    show = n.count if measure == "steps" else n.significant
    middle, low, high = (getattr(time, measure + end) for end in ("", "_low", "_high"))
    note = f"{time.reached} of {time.runs} runs" if time.reached < time.runs else ""
    if middle is None:
        return Cell("not reached", None, "", f"by most: {note}")
    width = f"[{show(low)}, {show(high) if high is not None else 'never'}]" if low is not None and low != high else ""
    return Cell(show(middle), middle, width, note)


def difference_row(d: Difference, method: MethodView, places: int) -> Mapping[str, Any]:
    """A line of the table of paired differences."""
    return {
        "method": method,
        "mean": Cell(n.signed(d.mean, places), d.mean, n.interval(d.low, d.high, places, sign=True)),
        "pairs": d.pairs,
        "p": Cell(_p(d.p_value), d.p_value),
        "adjusted": Cell(_p(d.p_adjusted), d.p_adjusted),
        "word": d.word,
    }


def trial_row(t: TrialRecord, method: MethodView) -> Mapping[str, Any]:
    """A line of the table of tuning trials."""
    settings = ", ".join(f"{name}={n.setting(value)}" for name, value in t.settings.items())
    return {
        "method": method,
        "slot": t.slot,
        "status": t.status,
        "score": Cell(n.significant(t.score, 4), t.score),
        "settings": settings,
        "steps": Cell(n.count(t.steps), t.steps),
        "seconds": Cell(n.significant(t.seconds), t.seconds),
        "reason": t.reason or "",
    }


def run_row(r: RunRecord, method: MethodView) -> Mapping[str, Any]:
    """A line of the table of final runs."""
    return {
        "method": method,
        "seed": r.seed,
        "status": r.status,
        "reason": r.reason or "",
        "metric": Cell(n.significant(r.test_metric, 4), r.test_metric),
        "loss": Cell(n.significant(r.test_loss, 4), r.test_loss),
        "steps": Cell(n.count(r.steps), r.steps),
        "seconds": Cell(n.significant(r.seconds), r.seconds),
        "memory": Cell(n.memory(r.peak_memory_bytes), r.peak_memory_bytes),
    }


def _p(value: float | None) -> str:
    return "< 0.0001" if value is not None and value < 1e-4 else n.significant(value, 2)
