"""The documentation keeps its promises: its Python runs, and its command lines exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
OPTION = re.compile(r"--[a-z][a-z-]*")


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
        timeout=120,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(("page", "words"), command_lines())
def test_the_command_lines_exist(page: str, words: list[str]) -> None:
    # The command itself is asked which sub-commands and options it has.
    names = []
    for word in words[1:3]:
        if not re.fullmatch(r"[a-z]+", word):
            break
        names.append(word)
    helps = {depth: _help(tuple(names[:depth])) for depth in range(1, len(names) + 1)}
    known = next((helps[depth] for depth in sorted(helps, reverse=True) if helps[depth]), "")
    assert known, f"{page}: no command {' '.join(words[:2])!r}"
    unknown = {m.group() for word in words for m in [OPTION.match(word)] if m} - set(OPTION.findall(known))
    assert not unknown, f"{page}: {' '.join(words)!r} has no option {', '.join(sorted(unknown))}"


_helps: dict[tuple[str, ...], str] = {}


def _help(names: tuple[str, ...]) -> str:
    """What ``steepest NAMES --help`` prints, or nothing when there is no such command."""
    if names not in _helps:
        # Wide enough that no option is cut short.
        environment = {**os.environ, "COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}
        command = [sys.executable, "-c", "from steepest.cli import main; main()", *names, "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=ROOT)
        _helps[names] = done.stdout if done.returncode == 0 else ""
    return _helps[names]


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
