"""No test of this room touches the network or the user's own cache."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder and STEEPEST_OFFLINE; a test that serves its own files lifts the latter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("STEEPEST_OFFLINE", "1")
    return tmp_path / "xdg" / "steepest"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty data folder that STEEPEST_DATA names."""
    path = tmp_path / "data"
    path.mkdir()
    monkeypatch.setenv("STEEPEST_DATA", str(path))
    return path


@pytest.fixture
def real_data() -> Path:
    """The folder with the real files, or a skip."""
    named = os.environ.get("STEEPEST_DATA")
    if not named:
        pytest.skip("STEEPEST_DATA is not set: it must name the folder with mnist10k/, libsvm/, text/ and cora/")
    return Path(named)
