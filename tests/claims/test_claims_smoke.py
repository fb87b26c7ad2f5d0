"""Every claim runs at its smallest size, so that none rots, and says honestly that so little decides nothing."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from steepest.arena.errors import BadInput
from steepest.claims import Evidence, Size, Verdict, load, registry, reproduce
from steepest.claims.commands import reproduce_command
from steepest.core.errors import UnknownName


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", sorted(registry()))
def test_smoke(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    state = torch.get_rng_state()
    evidence = reproduce(name, "smoke", tmp_path, say=said.append)
    assert torch.equal(torch.get_rng_state(), state), "torch's global random state is the caller's"
    assert evidence.size is Size.SMOKE
    assert evidence.verdict is Verdict.INCONCLUSIVE
    assert evidence.threads == 1
    assert evidence.versions["torch"] == torch.__version__
    assert said, "a long experiment tells what it does"
    assert Evidence.from_json((tmp_path / f"{name}.json").read_text()) == evidence
    claim = load(name)
    assert evidence.rule == claim.rule
    assert claim.decide(evidence.figures).verdict is evidence.verdict
    page = (tmp_path / f"{name}.md").read_text()
    assert claim.statement in page
    assert f"({name}.svg)" in page
    assert f"steepest reproduce {name}" in page
    assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert f"]({name}.md) | {claim.statement} | **inconclusive** |" in (tmp_path / "index.md").read_text()


def test_the_same_seed_gives_the_same_figures_and_another_gives_others() -> None:
    first, again, other = (load("adabound").run("smoke", seed) for seed in (0, 0, 1))
    assert first.figures == again.figures
    assert first.figures != other.figures
    assert not set(first.seeds) & set(other.seeds)


def test_bad_input_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown claim 'lyon'; did you mean 'lion'"):
        reproduce("lyon")
    with pytest.raises(BadInput, match="size must be one of smoke, laptop, full, got 'large'"):
        reproduce("lion", "large")
    for seed in (-1, 1.5, True):
        with pytest.raises(BadInput, match="seed must be an integer of at least 0"):
            load("lion").run("smoke", seed)  # type: ignore[arg-type]
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BadInput, match=r"out: cannot write into .*file"):
        reproduce("lion", "smoke", blocked / "folder")


def test_the_command_writes_where_it_is_told_and_says_the_verdict(tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    assert reproduce_command("lion", "smoke", tmp_path / "new", console=console) == 0
    text = console.export_text()
    assert "lion: inconclusive" in text
    assert load("lion").statement in " ".join(text.split())
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"index.md", "lion.json", "lion.md", "lion.svg"}


def test_missing_data_is_a_line_and_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEEPEST_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("STEEPEST_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # The size that needs MNIST fails when it loads its data, before it trains anything.
    assert reproduce_command("adabound", "full", tmp_path / "out", console=Console(file=io.StringIO())) == 1
    assert "MNIST could not be had" in capsys.readouterr().err
    assert not (tmp_path / "out" / "adabound.json").exists()
