"""``steepest methods`` and ``steepest show``: the catalogue on the command line."""

import dataclasses
import inspect
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from .catalogue import card, cards
from .core.card import MethodCard
from .core.errors import UnknownName

__all__ = ["methods_command", "show_command"]


def methods_command(room: str | None = None, as_json: bool = False) -> int:
    """Print every method's card in a line, grouped by room and family.

    Raises:
        UnknownName: there is no such room.
    """
    rooms = {entry.room for entry in cards().values()}
    if room is not None and room not in rooms:
        raise UnknownName("room", room, rooms)
    chosen = cards(room)
    if as_json:
        print(json.dumps([_plain(entry) for entry in chosen.values()], indent=1))
        return 0
    console = Console()
    for name in sorted({entry.room for entry in chosen.values()}, key=lambda r: (r != "optim", r)):
        table = Table(title=f"room: {name}", title_justify="left", box=None, pad_edge=False)
        for column in ("method", "family", "summary", "source"):
            table.add_column(column, no_wrap=column != "summary")
        for entry in sorted(cards(name).values(), key=lambda e: (e.wraps, e.family, e.name)):
            paper = entry.papers[0]
            first = paper.authors.split(",")[0].split()[-1] if paper.authors else "?"
            table.add_row(entry.name, entry.family, entry.summary, entry.wraps or f"{first} {paper.year}")
        console.print(table)
        console.print()
    console.print("steepest show METHOD tells more.", style="dim")
    return 0


def show_command(name: str, as_json: bool = False) -> int:
    """Print one method: what it does, how to build it, what the arena tunes, its sources and its documentation.

    Raises:
        UnknownName: there is no such method; the message suggests the nearest.
    """
    entry = card(name)
    if as_json:
        print(json.dumps(_plain(entry), indent=1))
        return 0
    console = Console()
    console.print(f"[bold]{entry.title}[/]  ({entry.name}; room {entry.room}, {entry.family})", highlight=False)
    console.print(entry.summary)
    console.print(f"\n  {entry.line()}\n", highlight=False, markup=False)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column()
    facts.add_row("needs", ", ".join(sorted(entry.needs)))
    if entry.trains:
        facts.add_row(
            "state",
            f"{entry.buffers:g} times the parameter's size ({4 * entry.buffers:g} bytes per parameter in float32)",
        )
    for setting, distribution in entry.search.items():
        facts.add_row(f"tunes {setting}", distribution.describe())
    if entry.settings:
        facts.add_row("with", ", ".join(f"{k}={v!r}" for k, v in entry.settings.items()))
    for paper in entry.papers:
        facts.add_row("source", str(paper))
    if entry.claim:
        facts.add_row("claim", entry.claim)
    console.print(facts)
    if not entry.wraps:
        console.print()
        console.print(inspect.getdoc(entry.load()) or "", highlight=False, markup=False, soft_wrap=True)
    return 0


def _plain(entry: MethodCard) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "room": entry.room,
        "family": entry.family,
        "summary": entry.summary,
        "target": entry.target,
        "papers": [dataclasses.asdict(p) for p in entry.papers],
        "needs": sorted(entry.needs),
        "buffers": entry.buffers,
        "search": {k: v.describe() for k, v in entry.search.items()},
        "settings": dict(entry.settings),
        "claim": entry.claim,
        "wraps": entry.wraps,
        "line": entry.line(),
    }
