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
    known = [s for s in ranking if s.mean is not None]
    if not known:
        return Scale("", "", None), {}
    means = [s.mean for s in known if s.mean is not None]
    best = means[0]
    far = _FAR * median(abs(m - best) for m in means)
    near = [s for s in known if far == 0 or abs(s.mean - best) <= far] or known[:1]
    ends = [v for s in near for v in (s.low, s.mean, s.high) if v is not None]
    low, high = min(ends), max(ends)
    if low == high:
        low, high = low - (abs(low) * 0.01 or 1.0), high + (abs(high) * 0.01 or 1.0)

    def place(value: float) -> float:
        x = _MARGIN + (WIDTH - 2 * _MARGIN) * (value - low) / (high - low)
        return round(min(WIDTH - 1, max(1.0, x)), 1)

    bars = {}
    for s in known:
        assert s.mean is not None
        outside = "left" if s.mean < low else "right" if s.mean > high else None
        shown = outside is None and s.low is not None and s.high is not None
        label = f"{n.fixed(s.mean, places)} {n.interval(s.low, s.high, places)}".strip()
        bars[s.method] = Bar(
            place(s.mean), place(s.low) if shown else None, place(s.high) if shown else None, outside, label
        )
    base = next((s.mean for s in known if s.method == baseline), None)
    inside = base is not None and low <= base <= high
    return Scale(n.fixed(low, places), n.fixed(high, places), place(base) if inside else None), bars
