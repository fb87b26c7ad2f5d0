"""The command line: exit codes, one-line errors, output for people and for machines."""

import json
import subprocess
import sys

import pytest
from arena_helpers import write_task

from steepest import __version__
from steepest.cli import _folder, main

SMALL = ["--methods", "adamw,sgd", "--trials", "2", "--seeds", "2", "--budget", "10steps", "--threads", "1"]


def call(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison: its folder, the task's file, and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    task = write_task(folder)
    command = [
        sys.executable,
        "-m",
        "steepest.cli",
        "compare",
        f"{task}:make_task",
        "--out",
        str(folder / "out"),
        *SMALL,
    ]
    return folder / "out", task, subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)


def test_json_alone_on_standard_output(compared):
    out, _, ended = compared
    found = json.loads(ended.stdout)
    assert found["complete"] is True
    assert [s["rank"] for s in found["tasks"][0]["ranking"]] == [1, 2]
    assert set(found["settings"]["slow"]) == {"adamw", "sgd"}
    assert found["out"] == str(out)
    assert "8 of 8 runs" in ended.stderr
    for name in ("results.json", "report.html", "report.md", "study.db", "plan.json"):
        assert (out / name).is_file()


def test_same_command_for_people(compared, capsys):
    out, task, _ = compared
    code, printed, said = call(["compare", f"{task}:make_task", "--out", out, *SMALL], capsys)
    assert code == 0
    assert "has the best mean test error" in printed
    assert f"Report: {out / 'report.html'}" in printed
    assert "8 of 8 runs are there already" in said


def test_report_is_written_again(compared, capsys):
    out, _, _ = compared
    (out / "report.html").unlink()
    code, printed, _ = call(["report", out], capsys)
    assert code == 0
    assert (out / "report.html").is_file()
    assert "best mean test error" in printed
    code, printed, _ = call(["report", out, "--json"], capsys)
    assert json.loads(printed)["complete"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "digits-mpl"], "unknown task 'digits-mpl'; did you mean 'digits-mlp'?"),
        (["compare", "digits-mlp", "--methods", "lyon"], "unknown method 'lyon'; did you mean 'lion'?"),
        (["compare", "digits-mlp", "--budget", "0s"], "budget must be"),
        (["compare", "digits-mlp", "--trials", "0"], "trials must be an integer >= 1, got 0"),
        (["compare", "digits-mlp", "--trials", "x"], "'--trials'"),
        (["compare", "digits-mlp", "--sampler", "grid"], "grid"),
        (["compare", "nothing.py:make_task"], "does not exist"),
        (["compare", "digits-mlp", "--device", "cuda:99"], "cuda:99"),
        (["compare"], "TASK"),
        (["compare", "digits-mlp", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["report", "nowhere"], "no results.json in 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, said = call(arguments, capsys)
    assert code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert said.startswith("steepest: ")
    assert printed == ""


def test_unwritable_folder_and_foreign_database(tmp_path, capsys):
    task = write_task(tmp_path)
    code, _, said = call(["compare", f"{task}:make_task", "--out", task, *SMALL], capsys)
    assert (code, "cannot be written" in said) == (2, True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.db").write_text("not a database, sorry")
    code, _, said = call(["compare", f"{task}:make_task", "--out", tmp_path / "out", *SMALL], capsys)
    assert (code, "is not a SQLite database" in said) == (2, True)


def test_damaged_results(tmp_path, capsys):
    (tmp_path / "results.json").write_text("{}")
    code, _, said = call(["report", tmp_path], capsys)
    assert (code, "layout version" in said) == (2, True)


def test_ctrl_c_is_130(monkeypatch, capsys, tmp_path):
    from steepest.arena import Interrupted

    def stopped(*args, **more):
        raise Interrupted("stopped: the same command continues")

    monkeypatch.setattr("steepest.arena.run.compare", stopped)
    code, _, said = call(["compare", "digits-mlp", "--out", tmp_path], capsys)
    assert (code, said.strip()) == (130, "steepest: stopped: the same command continues")


def test_help_and_version(capsys):
    assert call(["--version"], capsys)[:2] == (0, f"{__version__}\n")
    code, printed, _ = call(["compare", "--help"], capsys)
    assert code == 0
    assert "--budget" in printed


def test_default_folder():
    assert _folder(["digits-mlp"]) == "digits-mlp-report"
    assert _folder(["some/where/mine.py:make"]) == "mine-report"
    assert _folder(["a", "b"]) == "comparison-report"
