"""``steepest reproduce`` and ``steepest claims``: what the command line calls. Both return an exit code."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from steepest.catalogue import cards
from steepest.core.errors import UnknownName
from steepest.data import DataNotFound

from .book import Entry, ledger, reproduce, rewrite_pages, writable, write_index
from .claim import check_size
from .entries import load, registry
from .evidence import Evidence, Verdict
from .pages import figure_rows

__all__ = ["claims_command", "reproduce_command"]

_COLOURS = {
    Verdict.REPRODUCED.value: "green",
    Verdict.PARTLY.value: "yellow",
    Verdict.NOT_REPRODUCED.value: "red",
    Verdict.INCONCLUSIVE.value: "cyan",
}


def reproduce_command(
    method: str, size: str = "laptop", out: str | Path = "claims", seed: int = 0, console: Console | None = None
) -> int:
    """Test one claim, print the verdict and write evidence, figure and page.

    Returns:
        0, whatever the verdict; 1 if data are missing that the claim needs (a line on standard error says which).

    Raises:
        UnknownName, BadInput: as :func:`~steepest.claims.book.reproduce`; the command line turns them into code 2.
    """
    console = Console() if console is None else console
    claim = load(method)
    console.print(f"[bold]{claim.title}[/]: {claim.statement}", highlight=False)
    console.print(f"{claim.paper}", style="dim", highlight=False)
    evidence = _attempt(method, size, Path(out), seed, console)
    if evidence is None:
        return 1
    _print(evidence, console)
    console.print(f"Evidence, figure and page: {Path(out) / method}.json, .svg, .md", highlight=False, soft_wrap=True)
    return 0


def claims_command(
    size: str = "laptop",
    room: str | None = None,
    out: str | Path = "claims",
    seed: int = 0,
    pages: bool = False,
    console: Console | None = None,
) -> int:
    """Test all claims, or those of one room, one after the other, and print the ledger.

    Args:
        size: ``"smoke"``, ``"laptop"`` or ``"full"``.
        room: only the methods of this room.
        out: where evidence, figures and pages go.
        seed: the base seed.
        pages: run nothing; print what the evidence in ``out`` says, and write its figures and pages anew.
        console: where to print.

    Returns:
        0, whatever the verdicts; 1 if a claim could not be run (the others are run all the same).

    Raises:
        UnknownName: no method of that room states a claim.
        BadInput: the size or the seed is not one, or ``out`` cannot be written.
    """
    console = Console() if console is None else console
    check_size(size)
    rooms = {card.room for card in cards().values() if card.claim}
    if room is not None and room not in rooms:
        raise UnknownName("room with claims", room, rooms)
    folder = writable(Path(out))
    lost = 0
    if pages:
        rewrite_pages(folder)
        for entry in ledger(folder, room):
            if entry.evidence is not None:
                _print(entry.evidence, console)
    for name in registry() if not pages else ():
        if room is not None and cards()[name].room != room:
            continue
        evidence = _attempt(name, size, folder, seed, console)
        lost += evidence is None
        if evidence is not None:
            _print(evidence, console)
    write_index(folder)
    console.print(_table(ledger(folder, room)))
    console.print(f"Ledger: {folder / 'index.md'}", highlight=False, soft_wrap=True)
    return 1 if lost else 0


def _attempt(name: str, size: str, folder: Path, seed: int, console: Console) -> Evidence | None:
    try:
        with _progress(console, name) as say:
            return reproduce(name, size, folder, seed, say)
    except (DataNotFound, ImportError) as error:
        print(f"steepest: {name}: {error}", file=sys.stderr)
        return None


@contextmanager
def _progress(console: Console, name: str) -> Iterator[Callable[[str], None]]:
    with console.status(name) as status:
        yield lambda text: status.update(f"{name}: {text}")


def _print(evidence: Evidence, console: Console) -> None:
    colour = _COLOURS[evidence.verdict.value]
    console.print(f"{evidence.method}: [bold {colour}]{evidence.verdict.value}[/]", highlight=False)
    console.print(evidence.sentence, highlight=False)
    table = Table("figure", "value", box=None, header_style="dim")
    for name, value in figure_rows(evidence.figures):
        table.add_row(name, value)
    console.print(table)
    console.print(
        f"size {evidence.size.value}, seeds: {len(evidence.seeds)}, threads: {evidence.threads}, {evidence.seconds} s",
        style="dim",
        highlight=False,
    )


def _table(entries: list[Entry]) -> Table:
    table = Table("method", "verdict", "date", "size", "claim", header_style="bold")
    for entry in entries:
        colour = _COLOURS.get(entry.verdict, "dim")
        ran = entry.evidence
        table.add_row(
            entry.method,
            f"[{colour}]{entry.verdict}[/]",
            ran.date if ran else "",
            ran.size.value if ran else "",
            entry.claim,
        )
    return table
