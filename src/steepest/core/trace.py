"""The history of a run, in plain numbers."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from steepest.core.stopping import Measures

__all__ = ["Trace"]

_MEASURES = ("value", "stationarity", "feasibility")


class Trace:
    """What was measured at recorded steps: parallel columns of plain numbers.

    Attributes:
        step: the number of steps done, beginning with 0 for the start.
        seconds: time spent in the method (``init`` and ``step``) so far.
        value, stationarity, feasibility: the measures, ``None`` where there is none.
        calls: oracle calls so far, by name; one list per name, as long as ``step``.
    """

    def __init__(self) -> None:
        self.step: list[int] = []
        self.seconds: list[float] = []
        self.value: list[float | None] = []
        self.stationarity: list[float | None] = []
        self.feasibility: list[float | None] = []
        self.calls: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.step)

    def append(self, step: int, seconds: float, measures: Measures, calls: Mapping[str, int]) -> None:
        """Add a row; a name of an oracle that was not called before counts zero in the rows above."""
        for name in calls:
            self.calls.setdefault(name, [0] * len(self))
        for name, column in self.calls.items():
            column.append(calls.get(name, column[-1] if column else 0))
        self.step.append(step)
        self.seconds.append(seconds)
        self.value.append(measures.value)
        self.stationarity.append(measures.stationarity)
        self.feasibility.append(measures.feasibility)

    def drop_last(self) -> None:
        """Remove the last row, and the columns of oracles that were first called in it."""
        for column in (self.step, self.seconds, self.value, self.stationarity, self.feasibility):
            column.pop()
        for column in self.calls.values():
            column.pop()
        self.calls = {name: column for name, column in self.calls.items() if any(column)}

    def to_dict(self) -> dict[str, Any]:
        """Lists by column name; ``"calls"`` holds a dict of lists."""
        columns: dict[str, Any] = {"step": list(self.step), "seconds": list(self.seconds)}
        columns |= {name: list(getattr(self, name)) for name in _MEASURES}
        columns["calls"] = {name: list(column) for name, column in self.calls.items()}
        return columns

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row per record; oracle calls in columns ``calls.<name>``.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("Trace.to_pandas needs pandas: pip install pandas") from error
        columns = self.to_dict()
        calls = columns.pop("calls")
        columns |= {name: self._packed(name) for name in _MEASURES}  # None becomes NaN
        return pandas.DataFrame(columns | {f"calls.{name}": column for name, column in calls.items()})

    def pack(self) -> dict[str, Any]:
        """The columns as tensors, for a checkpoint: reading a million Python numbers back takes seconds."""
        packed: dict[str, Any] = {"step": torch.tensor(self.step, dtype=torch.int64)}
        packed["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        packed |= {name: torch.tensor(self._packed(name), dtype=torch.float64) for name in _MEASURES}
        packed["calls"] = {name: torch.tensor(column, dtype=torch.int64) for name, column in self.calls.items()}
        return packed

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "Trace":
        """The inverse of :meth:`pack`."""
        trace = cls()
        trace.step, trace.seconds = packed["step"].tolist(), packed["seconds"].tolist()
        for name in _MEASURES:  # a recorded measure is never NaN: a run that loses its way ends before recording
            setattr(trace, name, [None if item != item else item for item in packed[name].tolist()])
        trace.calls = {name: column.tolist() for name, column in packed["calls"].items()}
        return trace

    def _packed(self, name: str) -> list[float]:
        return [float("nan") if item is None else item for item in getattr(self, name)]

    def __repr__(self) -> str:
        last = f", value {self.value[-1]} at step {self.step[-1]}" if len(self) else ""
        return f"Trace({len(self)} records{last})"
