"""Comparisons as JSON files: ``results.json`` in the output folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steepest.core.files import write_text

from .errors import BadInput
from .results import Comparison, CurvePoint, MethodInfo, RunRecord, TaskInfo, TrialRecord

__all__ = ["RESULTS", "SCHEMA", "from_json", "load", "save", "to_json"]

#: Version of the layout of ``results.json``.
SCHEMA = 1
#: The file's name in the output folder.
RESULTS = "results.json"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain dictionaries, lists, strings and numbers, with the layout's version under ``"schema"``."""
    return {"schema": SCHEMA, **dataclasses.asdict(comparison)}


def from_json(data: Mapping[str, Any]) -> Comparison:
    """The comparison that :func:`to_json` wrote; lists inside settings come back as tuples.

    Raises:
        BadInput: the layout's version is unknown or a part is missing.
    """
    version = data.get("schema") if isinstance(data, Mapping) else None
    if version != SCHEMA:
        raise BadInput(f"results of layout version {version!r} cannot be read; this steepest reads version {SCHEMA}")
    try:
        return Comparison(
            tasks=tuple(TaskInfo(**t) for t in data["tasks"]),
            methods=tuple(MethodInfo(**m) for m in data["methods"]),
            trials=tuple(TrialRecord(**_settings(t)) for t in data["trials"]),
            runs=tuple(_run(r) for r in data["runs"]),
            baseline=data["baseline"],
            plan=data["plan"],
            environment=data["environment"],
            complete=data["complete"],
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"results are not what steepest writes: {error}") from error


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "settings": {k: tuples(v) for k, v in record["settings"].items()}}


def _run(record: Mapping[str, Any]) -> RunRecord:
    return RunRecord(**{**_settings(record), "curve": tuple(CurvePoint(**p) for p in record["curve"])})


def tuples(value: Any) -> Any:
    """Lists, which JSON made of tuples, as tuples again."""
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value


def save(comparison: Comparison, out: Path | str) -> Path:
    """Write ``results.json`` into the folder ``out``, atomically; returns its path."""
    path = Path(out) / RESULTS
    write_text(path, json.dumps(to_json(comparison), indent=1, allow_nan=False))
    return path


def load(out: Path | str) -> Comparison:
    """Read ``results.json`` from the folder ``out`` (or the file itself).

    Raises:
        BadInput: there is no such file, or it is not one of ours.
    """
    path = Path(out)
    path = path / RESULTS if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"no {RESULTS} in {str(out)!r}; a folder that `steepest compare --out` wrote is expected")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    return from_json(data)
