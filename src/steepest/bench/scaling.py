"""``steepest bench scaling``: the time of a step over the size of the model."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import UnknownName
from .contenders import CONTENDERS, REFERENCE, Contender
from .step import measured

__all__ = ["draw", "run", "sizes"]


def sizes(smallest: float, largest: float) -> list[int]:
    """Sizes from ``smallest`` to ``largest`` in steps of about 3.

    Raises:
        ValueError: ``smallest`` is below 1,000 or above ``largest``.
    """
    if not 1000 <= smallest <= largest:
        raise ValueError(f"smallest must be from 1,000 to largest={largest:g}, got {smallest:g}")
    count = round(2 * math.log10(largest / smallest)) + 1
    if count == 1:
        return [int(smallest)]
    ratio = (largest / smallest) ** (1 / (count - 1))
    return [int(smallest * ratio**k) for k in range(count)]


def run(
    methods: Sequence[str],
    smallest: float,
    largest: float,
    threads: int,
    rounds: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Measure the compiled form of each method at every size, in alternation with fused AdamW.

    Returns:
        A row per method and size: ``method``, ``elements``, ``milliseconds``, ``reference_milliseconds``, and
        ``exponent``: the slope of log time over log size since the size before.

    Raises:
        UnknownName: a method has no compiled form in the benchmark.
        ValueError: the sizes are in the wrong order.
    """
    compiled = {c.method: c for c in CONTENDERS if c.package == "steepest" and c.variant == "compiled"}
    for name in methods:
        if name not in compiled:
            raise UnknownName("compiled method", name, compiled)
    rows: list[dict[str, Any]] = []
    for name in methods:
        previous: dict[str, Any] | None = None
        for size in sizes(smallest, largest):
            progress(f"{name}, {size / 1e6:g} M parameters")
            row = _row(compiled[name], size, threads, rounds)
            if previous is not None and row["elements"] > previous["elements"]:
                rise = math.log(row["milliseconds"] / previous["milliseconds"])
                row["exponent"] = rise / math.log(row["elements"] / previous["elements"])
            rows.append(row)
            previous = row
    return rows


def _row(contender: Contender, size: int, threads: int, rounds: int) -> dict[str, Any]:
    found = measured(contender, size, threads, rounds)
    kept = ("elements", "milliseconds", "reference_milliseconds")
    return {"method": contender.method, **{name: found[name] for name in kept}, "exponent": None}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A figure of time over size, with lines of slope one behind."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    names = list(dict.fromkeys(row["method"] for row in rows))
    for marker, name in zip("os^vD", names, strict=False):
        own = [row for row in rows if row["method"] == name]
        axes.plot([r["elements"] for r in own], [r["milliseconds"] for r in own], marker=marker, label=name)
    first = [row for row in rows if row["method"] == names[0]]
    axes.plot(
        [r["elements"] for r in first],
        [r["reference_milliseconds"] for r in first],
        color="0.4",
        marker="x",
        label=f"torch {REFERENCE.method}, {REFERENCE.variant}",
    )
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="milliseconds per step")
    low, high = axes.get_xlim()
    last = first[-1]
    for factor in (0.1, 1.0, 10.0):
        slope = factor * last["milliseconds"] / last["elements"]
        axes.plot([low, high], [slope * low, slope * high], color="0.85", linewidth=1, zorder=0)
    ends = [row["milliseconds"] for row in rows] + [row["reference_milliseconds"] for row in rows]
    axes.set_ylim(min(ends) / 2, max(ends) * 2)
    axes.set_xlim(low, high)
    axes.set_title("Step time over model size (grey: proportional)")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
