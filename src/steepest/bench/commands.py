"""``steepest bench`` on the command line."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import scaling
from .convex import ConvexBenchmark
from .convex import run as run_convex
from .oracles import OracleBenchmark
from .oracles import run as run_oracles
from .step import StepBenchmark, StepRow, run

__all__ = ["convex_command", "oracles_command", "scaling_command", "step_command"]


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def step_command(
    elements: int = 30_000_000,
    threads: int = 2,
    rounds: int = 20,
    methods: Sequence[str] = (),
    peers: bool = True,
    smoke: bool = False,
    as_json: bool = False,
) -> int:
    """Measure, print the table with the goals met or missed, and return 0.

    Args:
        elements, threads, rounds, methods, peers: as :func:`steepest.bench.step.run`.
        smoke: a tiny model, two rounds and two methods, to see that everything still runs.
        as_json: print JSON on standard output instead.
    """
    if smoke:
        elements, rounds = min(elements, 300_000), 2
        methods = methods or ("adamw", "lion", "muon")
    found = run(
        elements=elements,
        threads=threads,
        rounds=rounds,
        methods=methods,
        peers=peers,
        progress=_say,
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    broken = [r for r in found.rows if r.error and r.package == "steepest"]
    return 1 if broken else 0


def scaling_command(
    methods: Sequence[str],
    smallest: float,
    largest: float,
    threads: int,
    rounds: int,
    plot: Path | None = None,
    as_json: bool = False,
) -> int:
    """Measure the step time over model size, print it, draw it where asked, and return 0."""
    rows = scaling.run(
        methods,
        smallest,
        largest,
        threads,
        rounds,
        progress=_say,
    )
    if plot is not None:
        scaling.draw(rows, plot)
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    table = Table(title=f"Step time over model size, {threads} threads", title_justify="left")
    for column in ("method", "parameters", "ms", "ns per parameter", "AdamW (fused) ms", "exponent"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['elements']:,}",
            f"{row['milliseconds']:.2f}",
            f"{1e6 * row['milliseconds'] / row['elements']:.2f}",
            f"{row['reference_milliseconds']:.2f}",
            _number(row["exponent"], 2),
        )
    console = Console()
    console.print(table)
    console.print("Exponent: slope of log time over log size; 1 is proportional.", style="dim")
    return 0


def convex_command(
    sections: Sequence[str] = (), threads: int = 2, rounds: int = 3, smoke: bool = False, as_json: bool = False
) -> int:
    """Measure the convex rooms, print the tables with the promises met or missed, and return 0.

    Args:
        sections, threads, rounds, smoke: as :func:`steepest.bench.convex.run`.
        as_json: print JSON on standard output instead.
    """
    found = run_convex(
        sections=sections,
        threads=threads,
        rounds=rounds,
        smoke=smoke,
        progress=_say,
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print_convex(found)
    broken = [o for o in found.outcomes if o.package == "steepest" and o.note.startswith("failed")]
    return 1 if broken else 0


def _print_convex(found: ConvexBenchmark) -> None:
    console = Console()
    table = Table(title=f"Time to equal accuracy, {found.threads} threads", title_justify="left")
    for column in ("solver", "package"):
        table.add_column(column)
    for column in ("seconds", "of best peer", "reached"):
        table.add_column(column, justify="right")
    previous = ""
    for row in found.outcomes:
        heading = f"{row.problem}; {row.target}"
        if heading != previous:
            table.add_section()
            table.add_row(f"[bold]{heading}[/bold]")
        previous = heading
        if row.seconds is None:
            table.add_row(f"  {row.name}", row.package, "", "", row.note[:60])
            continue
        reached = "" if row.reached is None else f"{row.reached:.1e}"
        ratio = "" if row.of_best_peer is None else f"{row.of_best_peer:.2f}"
        table.add_row(f"  {row.name}", row.package, f"{row.seconds:.3g}", ratio, reached)
    if found.outcomes:
        console.print(table)
    for title, rows in found.tables.items():
        extra = Table(title=title, title_justify="left")
        for column in rows[0]:
            extra.add_column(column, justify="right")
        for line in rows:
            extra.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in line.values()))
        console.print(extra)
    _print_promises(console, found)


def _print_promises(console: Console, found: ConvexBenchmark | OracleBenchmark) -> None:
    for promise in found.promises:
        word = {True: "[green]met[/green]   ", False: "[red]MISSED[/red]", None: "[yellow]open[/yellow]  "}[promise.met]
        console.print(f"{word} {promise.text}: {promise.figure}")
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    console.print(f"{found.processor}; {versions}; medians of {found.rounds} in turns", style="dim")


def oracles_command(
    sections: Sequence[str] = (), threads: int = 2, rounds: int = 15, smoke: bool = False, as_json: bool = False
) -> int:
    """Measure oracles and wrappers, print the table with the promises met or missed, and return 0.

    Args:
        sections, threads, rounds, smoke: as :func:`steepest.bench.oracles.run`.
        as_json: print JSON on standard output instead.
    """
    found = run_oracles(
        sections=sections,
        threads=threads,
        rounds=rounds,
        smoke=smoke,
        progress=_say,
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        console = Console()
        table = Table(title=f"Oracles and wrappers, {found.threads} threads", title_justify="left")
        for column in ("way", "package"):
            table.add_column(column)
        for column in ("ms", "of the first"):
            table.add_column(column, justify="right")
        previous = ""
        for row in found.rows:
            heading = f"{row.section}: {row.setting}"
            if heading != previous:
                table.add_section()
                table.add_row(f"[bold]{heading}[/bold]")
            previous = heading
            if row.milliseconds is None:
                table.add_row(f"  {row.name}", row.package, "", row.note[:60])
            else:
                table.add_row(f"  {row.name}", row.package, f"{row.milliseconds:.3g}", _number(row.ratio, 2))
        console.print(table)
        _print_promises(console, found)
    return 1 if any(r.note and r.package == "steepest" for r in found.rows) else 0


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _print(found: StepBenchmark) -> None:
    console = Console()
    table = Table(
        title=f"Optimizer step, {found.elements / 1e6:g} M float32 parameters of GPT shapes, {found.threads} threads",
        title_justify="left",
    )
    table.add_column("method")
    table.add_column("package")
    table.add_column("variant")
    for column in ("ms", "x AdamW", "per byte", "goal", "state B", "first s", "(warm)", "polar error", "of matmul"):
        table.add_column(column, justify="right")
    previous = ""
    for row in found.rows:
        if previous and row.method != previous:
            table.add_section()
        previous = row.method
        if row.error:
            table.add_row(row.method, row.package, row.variant, f"failed: {row.error[:60]}")
            continue
        table.add_row(
            row.method,
            row.package,
            row.variant,
            _number(row.milliseconds, 1),
            _number(row.per_step, 2),
            _number(row.per_byte, 2),
            _goal(row),
            _number(row.state_bytes, 2),
            _number(row.first_step_cold, 1),
            _number(row.first_step_warm, 1),
            _number(row.orthogonality_error, 3),
            "" if row.matmul_share is None else f"{row.matmul_share:.0%}",
        )
    console.print(table)
    console.print(
        f"Medians of {found.rounds} steps (of those made in 30 s where that is fewer), each contender in a fresh "
        "process and in alternation with torch.optim.AdamW(fused=True) on the same shapes. x AdamW: time per step; "
        "per byte: per byte moved (gradient read, parameter and state read and written). State: bytes per parameter. "
        "First: seconds of the first step with an empty compile cache, and with a warm one. Methods for matrices: the "
        "blocks' matrices alone. Polar error: relative distance of the first direction from the exact polar factor "
        "of a 512 x 512 Gaussian matrix. Of matmul: FLOP/s of orthogonalization over those of a large matrix product.",
        style="dim",
    )
    console.print("Versions: " + ", ".join(f"{k} {v}" for k, v in found.versions.items()) + f"; {found.processor}")
    for goal, met in found.goals.items():
        console.print(f"{'met   ' if met else 'MISSED'}  {goal}", highlight=False, markup=False)


def _goal(row: StepRow) -> str:
    if row.goal is None or row.per_byte is None:
        return ""
    return f"{row.goal:g} {'met' if row.per_byte <= row.goal else 'missed'}"
