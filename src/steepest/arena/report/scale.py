"""Positions of means and intervals on the small axis inside the ranking table."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..analysis import Standing
from . import numbers as n

__all__ = ["WIDTH", "Bar", "Scale", "scale"]

WIDTH = 160.0  # of the drawing, in its own units
_MARGIN = 8.0
_FAR = 4.0  # multiples of the median distance to the best beyond which a method leaves the axis


@dataclass(frozen=True)
class Bar:
    """A mean and its interval in drawing units; ``outside`` names the end that a far mean lies beyond."""

    mean: float
    low: float | None
    high: float | None
    outside: str | None
    label: str


@dataclass(frozen=True)
class Scale:
    """The axis: the text at its ends, and where the baseline stands."""

    low_text: str
    high_text: str
    baseline: float | None


def scale(ranking: Sequence[Standing], baseline: str, places: int) -> tuple[Scale, dict[str, Bar]]:
    """An axis that shows the field: one hopeless method must not squeeze all others into a point."""
    known = [(s, s.mean) for s in ranking if s.mean is not None]
    if not known:
        return Scale("", "", None), {}
    best = known[0][1]
    far = _FAR * median(abs(mean - best) for _, mean in known)
    near = [(s, mean) for s, mean in known if far == 0 or abs(mean - best) <= far]
    ends = [v for s, mean in near for v in (s.low, mean, s.high) if v is not None]
    low, high = min(ends), max(ends)
    if low == high:
        low, high = low - (abs(low) * 0.01 or 1.0), high + (abs(high) * 0.01 or 1.0)

    def place(value: float) -> float:
        x = _MARGIN + (WIDTH - 2 * _MARGIN) * (value - low) / (high - low)
        return round(min(WIDTH - 1, max(1.0, x)), 1)

    bars = {}
    for s, mean in known:
        outside = "left" if mean < low else "right" if mean > high else None
        ends = [] if outside or s.low is None or s.high is None else [place(s.low), place(s.high)]
        label = f"{n.fixed(mean, places)} {n.interval(s.low, s.high, places)}".strip()
        bars[s.method] = Bar(place(mean), ends[0] if ends else None, ends[1] if ends else None, outside, label)
    base = next((mean for s, mean in known if s.method == baseline), None)
    inside = base is not None and low <= base <= high
    return Scale(
        n.fixed(low, places), n.fixed(high, places), place(base) if base is not None and inside else None
    ), bars
