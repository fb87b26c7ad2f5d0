"""The package as a whole: what importing it costs and loads, and what the wheel carries."""

import ast
import importlib.metadata
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import steepest

ROOT = Path(__file__).resolve().parent.parent
#: Import names of everything that is not a dependency of the bare library.
OPTIONAL = (
    "accelerate",
    "filelock",
    "heavyball",
    "jax",
    "jinja2",
    "joblib",
    "lightning",
    "matplotlib",
    "optuna",
    "optuna_dashboard",
    "pandas",
    "playwright",
    "plotly",
    "psutil",
    "psycopg2",
    "pyarrow",
    "pytorch_optimizer",
    "ray",
    "rich",
    "sklearn",
    "transformers",
    "typer",
)
#: Rooms that an installation without extras can use.
BARE_ROOMS = ("core", "data", "optim", "solve", "catalogue")
#: What `import steepest` may add to `import torch`, in seconds.
IMPORT_BUDGET = 0.100

# Refuses every optional package, whether or not it is installed, as an installation without extras would. Whoever
# tests with `importlib.util.find_spec` gets an honest "not there" too.
REFUSE_OPTIONAL = """
import sys, importlib.abc
import torch
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL and name.partition(".")[0] not in before:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
before = {name.partition(".")[0] for name in sys.modules}
sys.meta_path.insert(0, Refuse())
"""


def run_python(code: str, *arguments: str, python: str = sys.executable) -> str:
    """Standard output of a fresh interpreter; its error text goes into the failure."""
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_costs_little_on_top_of_torch() -> None:
    # A fresh process per sample, and the median of several: one cold file cache or a busy neighbour must not decide.
    code = "import torch, time; t = time.perf_counter(); import steepest; print(time.perf_counter() - t)"
    samples = [float(run_python(code)) for _ in range(3)]
    if statistics.median(samples) > IMPORT_BUDGET:  # look again before accusing anyone
        samples += [float(run_python(code)) for _ in range(4)]
    seconds = statistics.median(samples)
    assert seconds <= IMPORT_BUDGET, f"import steepest took {1000 * seconds:.0f} ms after import torch"


@pytest.mark.parametrize("statement", ["import steepest", "import steepest.core, steepest.optim, steepest.catalogue"])
def test_importing_loads_no_optional_package(statement: str) -> None:
    # What torch itself pulls in is not ours to answer for, hence the difference.
    code = (
        "import sys, json, torch; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    loaded = set(json.loads(run_python(code).splitlines()[-1]))
    assert loaded.isdisjoint(OPTIONAL), f"{statement} loaded {sorted(loaded & set(OPTIONAL))}"


def test_every_module_of_the_bare_rooms_imports_without_extras() -> None:
    code = (
        f"OPTIONAL = {OPTIONAL!r}\n{REFUSE_OPTIONAL}\n"
        "import importlib, json, pkgutil\n"
        f"names = ['steepest.' + room for room in {BARE_ROOMS!r}]\n"
        "for name in list(names):\n"
        "    room = importlib.import_module(name)\n"
        "    if hasattr(room, '__path__'):\n"
        "        names += [m.name for m in pkgutil.walk_packages(room.__path__, name + '.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(json.dumps(names))"
    )
    imported = json.loads(run_python(code).splitlines()[-1])
    assert {"steepest.core.card", "steepest.optim.lion"} <= set(imported)


def test_the_refusal_that_the_previous_test_relies_on_works() -> None:
    code = (
        f"OPTIONAL = {OPTIONAL!r}\n{REFUSE_OPTIONAL}\n"
        "try: import optuna\nexcept ModuleNotFoundError: print('refused')\nelse: print('imported')"
    )
    assert run_python(code).strip() == "refused"


def test_every_module_says_what_it_is() -> None:
    # Read, not imported: a module with an optional dependency is documented too.
    files = sorted((ROOT / "src" / "steepest").rglob("*.py"))
    assert len(files) > 50
    silent = [str(f.relative_to(ROOT)) for f in files if not ast.get_docstring(ast.parse(f.read_text("utf-8")))]
    assert not silent, f"without a docstring: {silent}"


def test_the_version_is_semantic_and_the_one_installed() -> None:
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?", steepest.__version__)
    assert importlib.metadata.version("steepest") == steepest.__version__


def test_the_package_declares_its_types() -> None:
    assert Path(steepest.__file__).with_name("py.typed").is_file()


def test_a_room_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'kitchen'"):
        _ = steepest.kitchen


def test_the_constraints_pin_every_dependency_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    loose = [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[^+\s]+", line)]
    assert not loose, f"not exact, or with a local tag: {loose}"
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set()
    for requirement in [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None
        declared.add(re.sub(r"[-_.]+", "-", name.group()).lower())
    assert declared - {"steepest"} <= pinned, f"not pinned: {sorted(declared - {'steepest'} - pinned)}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout with the backend that the environment has."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", str(folder), str(ROOT)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("steepest-*.whl")
    return built


@pytest.mark.integration
def test_the_wheel_carries_every_file_of_the_package(wheel: Path) -> None:
    source = ROOT / "src"
    tracked = subprocess.run(
        ["git", "ls-files", "--", "src/steepest"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {str((ROOT / name).relative_to(source)) for name in tracked if (ROOT / name).is_file()}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected <= names, f"missing from the wheel: {sorted(expected - names)}"
    assert "steepest/py.typed" in names
    assert any(name.startswith("steepest/arena/") and name.endswith((".html", ".j2", ".html.j2")) for name in names), (
        "the report's template is not in the wheel"
    )
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]


@pytest.mark.integration
def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    # An empty environment that borrows the dependencies of this one: the wheel's own files are all that is new, and
    # the checkout (installed in editable form next door) is kept out of sight.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run_python("import sysconfig; print(sysconfig.get_path('purelib'))", python=str(python)).strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    borrowed = Path(importlib.metadata.distribution("torch").locate_file("")).resolve()
    # A plain PYTHONPATH entry does not run the .pth file through which the editable checkout is found.
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{borrowed}", "OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [str(python), "-c", "import steepest; print(steepest.__file__)"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert Path(where.stdout.strip()).is_relative_to(site), where.stderr
    command = "from steepest.cli import main; main()"
    arguments = ["compare", "digits-mlp", "--methods", "adamw,lion", "--out", "report"]
    arguments += ["--trials", "2", "--seeds", "2", "--budget", "5s"]
    done = subprocess.run(
        [str(python), "-c", command, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "lion" in page.lower()
