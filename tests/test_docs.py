"""The documentation keeps its promises: its Python runs, and its command lines exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from steepest.cli import app

ROOT = Path(__file__).resolve().parent.parent
# Pages that are generated come from code, and are tested where that code is.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "claims" not in p.relative_to(ROOT).parts),
]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.DOTALL | re.MULTILINE
)
#: What makes a browser fetch something from elsewhere when the page opens.
REMOTE = re.compile(
    r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+"|<link[^>]+rel="stylesheet"[^>]+href="(?:https?:)?//[^"]+"'
)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language on a page, without their indentation."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        if fence["language"] == language:
            width = len(fence["indent"])
            found.append("".join(line[width:] for line in fence["body"].splitlines(keepends=True)))
    return found


def command_lines() -> list[tuple[str, list[str]]]:
    """Every ``steepest ...`` command in the bash blocks: (page, words), continuation lines joined."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("steepest "):
                    found.append((page.name, shlex.split(line, comments=True)))
    return found


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_the_python_on_a_page_runs(page: Path, tmp_path: Path) -> None:
    # One process per page, blocks in order, in an empty folder: as a reader who pastes them one after the other. Each
    # block keeps its line numbers of the joined script, so that a failure can be found.
    script = tmp_path / f"{page.stem.replace('-', '_')}.py"
    script.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(("page", "words"), command_lines())
def test_the_command_lines_exist(page: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest, f"{page}: {shlex.join(words)!r} names no command"
        assert rest[0] in command.commands, f"{page}: {shlex.join(words)!r} names no command of {command.name}"
        command, rest = command.commands[rest[0]], rest[1:]
    options = {name: parameter for parameter in command.params for name in parameter.opts}
    places = sum(parameter.param_type_name == "argument" for parameter in command.params)
    given = 0
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if not word.startswith("--"):
            given += 1
            continue
        assert name in options, f"{page}: {command.name} has no option {name}"
        if not equals and not options[name].is_flag:
            assert rest, f"{page}: {name} needs a value"
            rest.pop(0)
    assert not given or places, f"{page}: {shlex.join(words)!r} has an argument too many"


def test_every_make_target_that_the_docs_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    named = {
        match
        for page in PAGES
        for match in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named <= targets, f"no such make target: {sorted(named - targets)}"


@pytest.mark.integration
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    catalogue = (tmp_path / "site" / "catalogue.html").read_text(encoding="utf-8")
    assert 'id="lion"' in catalogue
    # Nothing on the pages is fetched from another machine when a reader opens them.
    for page in (tmp_path / "site").rglob("*.html"):
        remote = REMOTE.findall(page.read_text(encoding="utf-8"))
        assert not remote, f"{page.name} loads {remote}"
