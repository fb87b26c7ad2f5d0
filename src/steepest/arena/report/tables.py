"""The raw results as tidy tables: one row a run, a trial, or an evaluation."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..results import Comparison

__all__ = ["curves", "runs", "trials"]

_STRING, _INTEGER, _FLOAT = "string", "Int64", "Float64"  # pandas' types that can say "no value"

_RUNS = {
    "task": _STRING,
    "method": _STRING,
    "seed": _INTEGER,
    "status": _STRING,
    "reason": _STRING,
    "metric": _STRING,
    "test_metric": _FLOAT,
    "test_loss": _FLOAT,
    "steps": _INTEGER,
    "seconds": _FLOAT,
    "peak_memory_bytes": _INTEGER,
    "state_bytes_per_parameter": _FLOAT,
    "settings": _STRING,
}
_TRIALS = {
    "task": _STRING,
    "method": _STRING,
    "slot": _INTEGER,
    "status": _STRING,
    "reason": _STRING,
    "metric": _STRING,
    "score": _FLOAT,
    "steps": _INTEGER,
    "seconds": _FLOAT,
    "settings": _STRING,
}
_CURVES = {
    "task": _STRING,
    "method": _STRING,
    "seed": _INTEGER,
    "step": _INTEGER,
    "seconds": _FLOAT,
    "train_loss": _FLOAT,
    "metric": _STRING,
    "validation_metric": _FLOAT,
}


def runs(comparison: Comparison) -> pd.DataFrame:
    """The final runs, one row each; ``settings`` is JSON, ``metric`` names what ``test_metric`` measures."""
    return _frame(_RUNS, [_row(_RUNS, r, comparison) for r in comparison.runs])


def trials(comparison: Comparison) -> pd.DataFrame:
    """The tuning trials, one row each, those that diverged, failed or were pruned included."""
    return _frame(_TRIALS, [_row(_TRIALS, t, comparison) for t in comparison.trials])


def curves(comparison: Comparison) -> pd.DataFrame:
    """The evaluations on the way of the final runs, one row each."""
    metric = {task.name: task.metric for task in comparison.tasks}
    rows = [
        [r.task, r.method, r.seed, p.step, p.seconds, p.train_loss, metric.get(r.task), p.validation_metric]
        for r in comparison.runs
        for p in r.curve
    ]
    return _frame(_CURVES, rows)


def _row(columns: Mapping[str, str], record: Any, comparison: Comparison) -> list[Any]:
    special = {
        "metric": next((t.metric for t in comparison.tasks if t.name == record.task), None),
        "settings": json.dumps(dict(record.settings), default=str),
    }
    return [special[c] if c in special else getattr(record, c) for c in columns]


def _frame(columns: Mapping[str, str], rows: list[list[Any]]) -> pd.DataFrame:
    """Typed even when empty, so that every file of every comparison has the same schema."""
    transposed = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return pd.DataFrame(
        {
            name: pd.array(list(values), dtype=kind)
            for (name, kind), values in zip(columns.items(), transposed, strict=True)
        }
    )
