"""``steepest bench step`` on the command line."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .step import StepBenchmark, StepRow, run

__all__ = ["step_command"]


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
        progress=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    broken = [r for r in found.rows if r.error and r.package == "steepest"]
    return 1 if broken else 0


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
    for column in ("ms", "x fused AdamW per byte", "goal", "first step s (cold)", "(warm)", "polar error"):
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
            _number(row.per_byte, 2),
            _goal(row),
            _number(row.first_step_cold, 1),
            _number(row.first_step_warm, 1),
            _number(row.orthogonality_error, 3),
        )
    console.print(table)
    console.print(
        f"Medians of {found.rounds} steps (of those made in 30 s where that is fewer), each contender in a fresh "
        "process and in alternation with torch.optim.AdamW(fused=True) on the same shapes. Bytes counted: gradient "
        "read, parameter and state read and written. Muon: the blocks' matrices alone. Polar error: relative distance "
        "of the first direction from the exact polar factor of a 512 x 512 Gaussian matrix.",
        style="dim",
    )
    console.print("Versions: " + ", ".join(f"{k} {v}" for k, v in found.versions.items()) + f"; {found.processor}")
    for goal, met in found.goals.items():
        console.print(f"{'met   ' if met else 'MISSED'}  {goal}", highlight=False, markup=False)


def _goal(row: StepRow) -> str:
    if row.goal is None:
        return ""
    return f"{row.goal:g} {'met' if row.met else 'missed'}"
