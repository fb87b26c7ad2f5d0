"""The report of a comparison: a page for the browser, text for the terminal, tables for everything else."""

import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from ..analysis import Analysis, analyze
from ..results import Comparison
from . import tables
from .charts import charts
from .markdown import markdown
from .page import render
from .view import view

__all__ = ["write"]

_TABLES: dict[str, Callable[[Comparison], pd.DataFrame]] = {
    "results": tables.runs,
    "trials": tables.trials,
    "curves": tables.curves,
}


def write(comparison: Comparison, out: Path | str, analysis: Analysis | None = None) -> dict[str, Path]:
    """Write the report of a comparison, finished or not, into the folder ``out`` (made if need be).

    ``report.html`` is one self-contained page that works offline; ``report.md`` holds the same as text. The numbers
    come as tidy tables, each as CSV and as Parquet: ``results`` (a row for each final run), ``trials`` (for each tuning
    trial) and ``curves`` (for each evaluation of a final run).

    All files are written aside first and then put in place one by one, each atomically: whatever fails while the report
    is made leaves the old one as it was.

    Args:
        comparison: what the arena measured.
        out: the folder.
        analysis: the comparison's analysis; computed where not given.

    Returns:
        The paths by file name, ``"report.html"`` first.

    Raises:
        OSError: the folder cannot be made or written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    analysis = analyze(comparison) if analysis is None else analysis
    frames = {name: build(comparison) for name, build in _TABLES.items()}
    names = [f"{name}.{kind}" for name in frames for kind in ("csv", "parquet")]
    shown = view(comparison, analysis, names)
    page = render(shown, charts(comparison, analysis, shown))
    text = markdown(shown)

    writers: dict[str, Callable[[Path], object]] = {
        "report.html": partial(_text, page),
        "report.md": partial(_text, text),
    }
    for name, frame in frames.items():
        writers[f"{name}.csv"] = partial(frame.to_csv, index=False, lineterminator="\n")
        writers[f"{name}.parquet"] = partial(frame.to_parquet, index=False)
    return _together(out, writers)


def _text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _together(out: Path, writers: dict[str, Callable[[Path], object]]) -> dict[str, Path]:
    """All files or none: every one is complete on the disk before the first is put in place."""
    mark = secrets.token_hex(4)  # two reports at once do not write into each other's files
    aside = {name: out / f".{name}.{mark}.part" for name in writers}
    try:
        for name, write_to in writers.items():
            write_to(aside[name])
            with aside[name].open("rb+") as file:
                os.fsync(file.fileno())
        for name, path in aside.items():
            os.replace(path, out / name)
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
    return {name: out / name for name in writers}
