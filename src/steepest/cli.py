"""The command line: ``steepest compare digits-mlp --methods adamw,lion``."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="steepest",
    help="Optimization for machine learning, in PyTorch: find the best method for your model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Sampler(StrEnum):
    """How settings are chosen."""

    qmc = "qmc"
    tpe = "tpe"


class Pruner(StrEnum):
    """How hopeless trials are stopped."""

    median = "median"
    halving = "halving"
    none = "none"


class Engine(StrEnum):
    """Where trials run."""

    local = "local"
    ray = "ray"


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def compare(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Built-in name, or path/to/task.py:function.")],
    methods: Annotated[
        str | None, typer.Option(help="Names separated by commas, or 'all'.", show_default="eight common ones")
    ] = None,
    trials: Annotated[int, typer.Option(help="Tuning trials per method.")] = 12,
    seeds: Annotated[int, typer.Option(help="Final runs per method, each with a fresh seed.")] = 5,
    budget: Annotated[
        str | None, typer.Option(help="Of each run: 30s, 2m or 500steps.", show_default="the task's")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="TASK-report")] = None,
    baseline: Annotated[str, typer.Option(help="The method that the others are compared with.")] = "adamw",
    sampler: Annotated[Sampler, typer.Option(help="How settings are chosen.")] = Sampler.qmc,
    pruner: Annotated[Pruner, typer.Option(help="How hopeless trials are stopped.")] = Pruner.median,
    workers: Annotated[int, typer.Option(help="Processes that train at the same time.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Per worker.", show_default="cores divided by workers")] = None,
    engine: Annotated[Engine, typer.Option(help="Where trials run.")] = Engine.local,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster.", show_default="a local one is started")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="sqlite:///PATH or postgresql://...", show_default="OUT/study.db")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the comparison in a shared database.", show_default="from the plan")
    ] = None,
    seed: Annotated[int, typer.Option(help="The base seed.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results for machines on standard output.")] = False,
) -> None:
    """Tune each method alike, retrain the winners with fresh seeds, score them on the test split, write a report.

    The same command continues a comparison that was stopped.
    """
    from .arena.analysis import analyze
    from .arena.plan import DEFAULT_METHODS
    from .arena.run import compare as run

    folder = out if out is not None else Path(_folder(tasks))
    chosen = DEFAULT_METHODS if methods is None else [m.strip() for m in methods.split(",") if m.strip()]
    found = run(
        tasks,
        chosen,
        out=folder,
        trials=trials,
        seeds=seeds,
        budget=budget,
        baseline=baseline,
        sampler=sampler.value,
        pruner=pruner.value,
        workers=workers,
        threads=threads,
        engine=engine.value,
        address=address,
        storage=storage,
        name=name,
        seed=seed,
        device=device,
    )
    analysis = analyze(found)
    if as_json:
        print(json.dumps(_summary(found, analysis, folder), indent=1))
    else:
        print(_table(found, analysis))
        print(analysis.verdict)
        print(f"Report: {folder / 'report.html'}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `steepest compare` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the results for machines on standard output.")] = False,
) -> None:
    """Write the report of a comparison again, from its results.json."""
    from .arena import report as room
    from .arena.analysis import analyze
    from .arena.errors import BadInput
    from .arena.saved import load

    found = load(folder)
    where = folder if folder.is_dir() else folder.parent
    try:
        room.write(found, where)
    except OSError as error:
        raise BadInput(f"the report cannot be written into {str(where)!r}: {error.strerror or error}") from error
    analysis = analyze(found)
    print(json.dumps(_summary(found, analysis, where), indent=1) if as_json else analysis.verdict)
    print(f"Report: {where / 'report.html'}", file=sys.stderr if as_json else sys.stdout)


@app.command()
def methods(
    room: Annotated[str | None, typer.Option(help="Of one room only.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards for machines.")] = False,
) -> None:
    """List every method of the library."""
    from .show import methods_command

    raise typer.Exit(methods_command(room, as_json))


@app.command()
def show(
    method: Annotated[str, typer.Argument(help="A method's name; `steepest methods` lists them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card for machines.")] = False,
) -> None:
    """Tell what a method does, how to use it and where it comes from."""
    from .show import show_command

    raise typer.Exit(show_command(method, as_json))


class Size(StrEnum):
    """How large a claim's experiment is."""

    smoke = "smoke"
    laptop = "laptop"
    full = "full"


@app.command()
def reproduce(
    method: Annotated[str, typer.Argument(help="The method whose claim is tested; `steepest claims` lists them.")],
    size: Annotated[Size, typer.Option(help="smoke: seconds; laptop: minutes; full: the paper's scale.")] = Size.laptop,
    out: Annotated[Path, typer.Option(help="Folder for evidence, figure and page.")] = Path("claims"),
    seed: Annotated[int, typer.Option(help="The base seed.")] = 0,
) -> None:
    """Test the headline claim of a method's paper, and say what came out."""
    from .claims.commands import reproduce_command

    raise typer.Exit(reproduce_command(method, size.value, out, seed))


@app.command()
def claims(
    size: Annotated[Size, typer.Option(help="smoke: seconds; laptop: minutes; full: the paper's scale.")] = Size.laptop,
    room: Annotated[str | None, typer.Option(help="Of one room only.", show_default="all")] = None,
    out: Annotated[Path, typer.Option(help="Folder for evidence, figures and pages.")] = Path("claims"),
    seed: Annotated[int, typer.Option(help="The base seed.")] = 0,
    pages: Annotated[
        bool, typer.Option(help="Run nothing: print what the evidence in the folder says and write its pages again.")
    ] = False,
) -> None:
    """Test every claim, one after the other, and print the ledger."""
    from .claims.commands import claims_command

    raise typer.Exit(claims_command(size.value, room, out, seed, pages=pages))


bench = typer.Typer(help="Benchmarks: ratios against peers, measured in one run.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.callback()
def _bench() -> None:
    pass


@bench.command()
def step(
    parameters: Annotated[float, typer.Option(help="Of the GPT-shaped model.")] = 30e6,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 2,
    rounds: Annotated[int, typer.Option(help="Steps of each, in alternation; medians are shown.")] = 20,
    methods: Annotated[str | None, typer.Option(help="Names separated by commas.", show_default="all")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All methods, which is the default.")] = False,
    peers: Annotated[bool, typer.Option(help="Measure other installed packages too.")] = True,
    smoke: Annotated[bool, typer.Option(help="Only see that it runs: tiny model, two rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results for machines.")] = False,
) -> None:
    """Time an optimizer step against torch.optim.AdamW(fused=True) and against other packages."""
    from .bench.commands import step_command

    chosen = [m.strip() for m in (methods or "").split(",") if m.strip()]
    if chosen and everything:
        raise typer.BadParameter("--all and --methods exclude each other")
    raise typer.Exit(step_command(int(parameters), threads, rounds, chosen, peers, smoke, as_json))


@bench.command()
def scaling(
    methods: Annotated[str, typer.Option(help="Elementwise methods, separated by commas.")] = "lion,adabelief",
    smallest: Annotated[float, typer.Option(help="Parameters of the smallest model.")] = 1e6,
    largest: Annotated[float, typer.Option(help="Parameters of the largest; the reference needs 40 bytes each.")] = 3e8,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 2,
    rounds: Annotated[int, typer.Option(help="Steps at each size; medians are shown.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve into this file (.svg or .png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results for machines.")] = False,
) -> None:
    """Step time over model size, beside torch.optim.AdamW(fused=True)."""
    from .bench.commands import scaling_command

    chosen = [m.strip() for m in methods.split(",") if m.strip()]
    raise typer.Exit(scaling_command(chosen, smallest, largest, threads, rounds, plot, as_json))


@bench.command()
def convex(
    sections: Annotated[
        str | None, typer.Option(help="networks, sparse, logistic, lazy; separated by commas.", show_default="all")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 2,
    rounds: Annotated[int, typer.Option(help="Timed runs of each solver, in turns; medians are shown.")] = 3,
    smoke: Annotated[bool, typer.Option(help="Only see that it runs: tiny problems, one round.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results for machines.")] = False,
) -> None:
    """Time the convex solvers against other packages at equal accuracy."""
    from .bench.commands import convex_command

    chosen = [name.strip() for name in (sections or "").split(",") if name.strip()]
    raise typer.Exit(convex_command(chosen, threads, rounds, smoke, as_json))


@bench.command()
def oracles(
    sections: Annotated[
        str | None, typer.Option(help="hvp, per-sample, spectrum, ...; separated by commas.", show_default="all")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 2,
    rounds: Annotated[int, typer.Option(help="Timed runs of each, in turns; medians are shown.")] = 15,
    smoke: Annotated[bool, typer.Option(help="Only see that it runs: tiny models, two rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results for machines.")] = False,
) -> None:
    """Time derivatives, curvature methods and wrappers against other packages and against plain steps."""
    from .bench.commands import oracles_command

    chosen = [name.strip() for name in (sections or "").split(",") if name.strip()]
    raise typer.Exit(oracles_command(chosen, threads, rounds, smoke, as_json))


def _folder(tasks: list[str]) -> str:
    if len(tasks) > 1:
        return "comparison-report"
    path = tasks[0].rpartition(":")[0] or tasks[0]
    return f"{Path(path).stem or 'comparison'}-report"


def _summary(found: Any, analysis: Any, folder: Path) -> dict[str, Any]:
    """What ``--json`` prints: the analysis, the plan, and the settings that won."""
    winners = {(r.task, r.method): dict(r.settings) for r in found.runs}
    tuned: dict[str, dict[str, Any]] = {}
    for (task, method), settings in winners.items():
        tuned.setdefault(task, {})[method] = settings
    return {
        "complete": found.complete,
        "out": str(folder),
        "report": str(folder / "report.html"),
        "plan": dict(found.plan),
        "environment": dict(found.environment),
        "settings": tuned,
        **analysis.to_json(),
    }


def _table(found: Any, analysis: Any) -> str:
    """The ranking as plain text."""
    titles = {m.name: m.title for m in found.methods}
    lines = []
    for task in analysis.tasks:
        words = {d.method: d.word for d in task.differences}
        rows = [("", "method", f"test {task.metric}", "95 % interval", f"against {titles[analysis.baseline]}")]
        for s in task.ranking:
            mean = "-" if s.mean is None else f"{s.mean:.4f}"
            interval = "-" if s.low is None else f"{s.low:.4f} to {s.high:.4f}"
            word = "baseline" if s.method == analysis.baseline else words.get(s.method, "-")
            lost = f" ({s.lost} lost)" if s.lost else ""
            rows.append((str(s.rank), titles[s.method], mean + lost, interval, word))
        widths = [max(len(r[k]) for r in rows) for k in range(5)]
        lines += [
            task.task,
            *("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows),
            "",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 bad input, 130 stopped by Ctrl-C, 1 anything else that went wrong.

    Args:
        arguments: in place of those of the process.
    """
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        return int(app(args=arguments, standalone_mode=False) or 0)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except Exception as error:
        # Typer carries its own copy of Click since 0.20, so its errors are recognized by what they offer.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _fail(error.format_message(), 2)
        if type(error).__name__ == "Abort":
            return _fail("stopped", 130)
        from .arena.errors import BadInput, Interrupted
        from .core.errors import BadReference, UnknownName

        if isinstance(error, (BadInput, BadReference, UnknownName)):
            return _fail(str(error), 2)
        if isinstance(error, Interrupted):
            return _fail(str(error), 130)
        if isinstance(error, RuntimeError) and "results database" in str(error):
            return _fail(str(error), 1)
        raise


def _fail(message: str, code: int) -> int:
    text = " ".join(message.split())
    print(f"steepest: {text}" if text else "steepest: stopped", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
