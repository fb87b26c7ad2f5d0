"""MkDocs hooks: the pages that are generated, so that they cannot fall behind the code.

``catalogue.md`` comes from the method cards, ``reference/<room>.md`` from the modules found in the source tree, and
``comparisons/NAME-report.html`` from the results of a comparison beside it.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from steepest.arena.report import write
from steepest.arena.saved import load
from steepest.catalogue import cards
from steepest.core.card import Choice, Distribution, Float, Integers, MethodCard

SOURCE = Path(__file__).resolve().parent.parent / "src" / "steepest"
ROOMS = {
    "core": "the foundation: rules and engines, routing, solvers, oracles, method cards",
    "optim": "optimizers for training, drop-in for `torch.optim`",
    "solve": "solvers for problem classes other than training a network",
    "train": "ways of training that wrap a whole model",
    "analyze": "instruments that explain a run",
    "data": "data sets and their loaders",
    "catalogue": "finding methods by name",
    "bench": "step-time benchmarks",
    "arena": "comparing methods on a task",
    "claims": "testing what papers say",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: the generated reference pages, and the ledger's page of every claim."""
    reference: list[Any] = [{room: f"reference/{room}.md"} for room in ROOMS if any(modules(room))]
    claims = sorted(path.name for path in Path(config.docs_dir, "claims").glob("*.md"))
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"] = reference
        if "Claims" in entry:
            entry["Claims"] = ["claims/index.md", *(f"claims/{name}" for name in claims if name != "index.md")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "catalogue.md", content=catalogue_page()))
    for room, purpose in ROOMS.items():
        names = list(modules(room))
        if names:
            content = f"# `steepest.{room}`\n\n{purpose[0].upper()}{purpose[1:]}.\n\n"
            content += "\n".join(f"::: {name}\n" for name in names)
            files.append(File.generated(config, f"reference/{room}.md", content=content))
    for results in sorted(Path(config.docs_dir, "comparisons").glob("*.json")):
        name = f"comparisons/{results.stem}-report.html"
        files.append(File.generated(config, name, content=report(results)))
    return files


def report(results: Path) -> str:
    """The report of a comparison as one HTML page, made anew from its results."""
    with tempfile.TemporaryDirectory() as folder:
        return write(load(results), folder)["report.html"].read_text(encoding="utf-8")


def modules(room: str) -> Iterator[str]:
    """The public modules of a room that hold something: ``steepest.core.card``, ..."""
    folder = SOURCE / room
    paths = [SOURCE / f"{room}.py"] if not folder.is_dir() else sorted(folder.rglob("*.py"))
    for path in paths:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if not path.is_file() or path.stat().st_size == 0:
            continue
        if any(part.startswith("_") for part in parts):  # __init__.py lists what the modules beside it define
            continue
        yield ".".join(("steepest", *parts))


def catalogue_page() -> str:
    """All methods, in a table for the overview and an entry each for the details."""
    everything = sorted(cards().values(), key=lambda card: (card.room != "optim", card.room, card.family, card.name))
    lines = [
        "---",
        "hide: [toc]",
        "---",
        "",
        "# Catalogue",
        "",
        "Generated from the method cards; `steepest methods` and `steepest show NAME` print the same.",
        "*State* counts the tensors of the parameter's size that the method keeps. Methods that belong to",
        "another package take part in comparisons unchanged.",
    ]
    for room, group in itertools.groupby(everything, key=lambda card: card.room):
        lines += ["", f"## {room}", ""]
        lines += ["| method | family | what it does | state | needs | paper |", "| --- | --- | --- | --- | --- | --- |"]
        for card in group:
            cells = [
                f"[{card.title}](#{card.name})" + (f" ({card.wraps})" if card.wraps else ""),
                card.family,
                card.summary,
                f"{card.buffers:g}",
                ", ".join(sorted(card.needs)),
                "; ".join(_short(paper) for paper in card.papers),
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## Every method", ""]
    for card in everything:
        lines += ["", *_entry(card)]
    return "\n".join(lines) + "\n"


def _entry(card: MethodCard) -> Iterator[str]:
    yield f"### {card.title} {{ #{card.name} }}"
    yield ""
    yield f"{card.summary}"
    yield ""
    # Optimizers are built from a model; a solver's page in the reference says what it is built from.
    yield f"`{card.line()}`" if card.room == "optim" else f"`{card.target.replace(':', '.')}`"
    yield ""
    for paper in card.papers:
        yield f"- {paper}" + (f" ([read]({paper.url}))" if paper.url else "")
    if card.claim:
        yield f"- The paper's claim: {card.claim}"
    if card.search:
        yield "- Tuned by the arena: " + "; ".join(f"`{name}` {_range(space)}" for name, space in card.search.items())


def _short(paper: Any) -> str:
    label = f"{paper.authors.split(',')[0]} {paper.year}"
    return f"[{label}]({paper.url})" if paper.url else label


def _range(space: Distribution) -> str:
    match space:
        case Float(low, high, log):
            return f"from {low:g} to {high:g}" + (", logarithmic" if log else "")
        case Integers(low, high):
            return f"an integer from {low} to {high}"
        case Choice(values):
            return "one of " + ", ".join(f"`{value!r}`" for value in values)
