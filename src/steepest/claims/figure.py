"""One look for all figures: colours that the colour-blind can tell apart, and a marker besides each colour."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "INK", "MARKERS", "band", "canvas", "save", "tuning"]

INK = "#3d444d"
#: Okabe and Ito's hues, darkened where the original is faint on white; the first is for the method under test.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#b8508f", "#c08a00", "#41a5dd", "#4b3a9e")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "steepest",
}


def canvas(columns: int = 2, rows: int = 1, height: float = 3.3) -> tuple["Figure", list["Axes"]]:
    """A figure of docs width with ``rows x columns`` axes, in reading order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # type: ignore[union-attr]
    return figure, list(axes.flat)


def save(draw: Callable[[], "Figure"], path: Path) -> None:
    """Draw a figure in this module's style and write it; the bytes of an SVG depend on its content alone."""
    import matplotlib as mpl

    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context(_STYLE), replacing(path) as part:
        draw().savefig(part, format=path.suffix.removeprefix("."), dpi=150, metadata=metadata, facecolor="white")


def band(
    axes: "Axes", x: Sequence[float], curves: Sequence[Sequence[float]], index: int, label: str, **style: Any
) -> None:
    """The mean of several curves with the band from the lowest to the highest."""
    import numpy as np

    values = np.asarray(curves, dtype=float)
    colour = COLOURS[index]
    axes.plot(x, values.mean(0), color=colour, label=label, **style)
    axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)


def tuning(axes: "Axes", landscape: Mapping[str, Sequence[Sequence[float | None]]], score: str) -> None:
    """What tuning saw: the score of every setting over its learning rate, and a line through the best at each.

    Args:
        landscape: for each side, pairs of learning rate and score (lower is better; None where a run failed).
        score: what the score is, for the axis.
    """
    for index, (name, points) in enumerate(landscape.items()):
        scored = [(rate, value) for rate, value in points if rate is not None and value is not None]
        rates = sorted({rate for rate, _ in scored})
        axes.plot(*zip(*scored, strict=True), MARKERS[index], color=COLOURS[index], alpha=0.4, markersize=4)
        best = [min(value for r, value in scored if r == rate) for rate in rates]
        axes.plot(rates, best, color=COLOURS[index], marker=MARKERS[index], label=name)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel(score)
    axes.set_title("Tuning (lines: the better second setting)")
    axes.legend()
