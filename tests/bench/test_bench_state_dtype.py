"""The comparison of state dtypes runs and prints a row for each."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "state_dtype.py"


def test_prints_a_row_for_every_kind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", "digits-mlp", "--methods", "lion", "--steps", "6", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["float32", "bfloat16", "8bit"]
    sizes = [float(row[5]) for row in rows]
    assert sizes[0] == 4.0
    assert sizes[1] == 2.0
    assert sizes[2] < 2.0  # small tensors stay in float32
