"""``report.md``: the report as text tables, for a terminal or a code host."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .view import TaskView, View

__all__ = ["markdown", "table"]


def markdown(view: View) -> str:
    """The same content as the page, without the charts."""
    parts = [f"# {_text(view.title)}", *(_text(v) for v in view.verdict)]
    if view.caveats:
        parts.append("\n".join(f"> **Note:** {_text(c)}  " for c in view.caveats))
    parts.append(table(["", ""], view.glance, "lr"))
    for task in view.tasks:
        parts += _task(task, heading=len(view.tasks) > 1)
    parts.append("## How it was run")
    if view.command:
        parts.append(_code(view.command, "sh"))
    for title, facts in view.facts:
        parts += [f"### {_text(title)}", table(["", ""], facts, "ll")]
    parts += [
        "### Methods and what was tuned",
        table(
            ["Method", "Name", "What it does", "Source", "Search space"],
            [(m.title, m.name, m.summary, m.source, m.search.removeprefix("Tuned: ")) for m in view.methods],
            "lllll",
        ),
    ]
    if view.notes:
        parts += ["### How to read the numbers", "\n".join(f"- {_text(note)}" for note in view.notes)]
    parts.append("Numbers: " + ", ".join(f"`{f}`" for f in view.files) + ". The page with the charts: `report.html`.")
    return "\n\n".join(parts) + "\n"


def _task(t: TaskView, heading: bool) -> list[str]:
    level = "###" if heading else "##"
    parts = [f"## {_text(t.title)}", _text(t.verdict)] if heading else []
    titles = ["#", "Method", t.metric_heading, "Against " + t.baseline_title, "Steps to target", "Seconds to target"]
    titles += ["Peak memory", "State, B/param", "Runs"]
    rows: list[list[object]] = []
    for r in t.rows:
        name = r.method.title + (" (baseline)" if r.baseline else "")
        runs = f"{r.runs}, {r.runs_note}".rstrip(", ")
        rows.append([r.rank, name, r.metric, r.difference, r.steps, r.seconds, r.memory, r.state, runs])
    if not t.differences:
        del titles[3]
        rows = [row[:3] + row[4:] for row in rows]
    note = t.ranking_note.replace(f" The dashed line is {t.baseline_title}.", "")
    parts += [f"{level} Ranking", _text(note), table(titles, rows, "rl" + "r" * (len(titles) - 2))]
    if t.target_note:
        parts.append(_text(t.target_note))
    if t.sentences:
        parts += [f"{level} In words", "\n".join(f"- {_text(s)}" for s in t.sentences)]
    if t.differences:
        names = {"mean": "Difference", "pairs": "Pairs", "p": "p", "adjusted": "p, adjusted", "word": "Verdict"}
        parts += [f"{level} Paired differences against {_text(t.baseline_title)}", _listing(names, t.differences)]
    if t.lines:
        code = "\n".join(f"# {_one_line(line['method'].title)}\n{line['code']}" for line in t.lines)
        parts += [f"{level} Settings to copy", _code(code, "python")]
    names = {"seed": "Seed", "status": "Status", "metric": t.metric_heading, "loss": "Test loss"}
    names |= {"steps": "Steps", "seconds": "Seconds", "memory": "Peak memory", "reason": "Reason"}
    parts += [f"{level} Final runs", f"{t.runs_note}.", _listing(names, t.runs)]
    names = {"slot": "Slot", "status": "Status", "score": f"Validation {t.metric}", "settings": "Settings"}
    names |= {"steps": "Steps", "seconds": "Seconds", "reason": "Reason"}
    parts += [f"{level} Tuning trials", f"{t.trials_note}.", _listing(names, t.trials)]
    return [part for part in parts if part]


def _listing(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of records, the method first; nothing where there are none."""
    if not rows:
        return ""
    align = "l" + "".join("l" if key in ("status", "settings", "reason", "word") else "r" for key in names)
    return table(["Method", *names.values()], [[r["method"].title, *(r[k] for k in names)] for r in rows], align)


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], align: str) -> str:
    """A Markdown table whose columns line up in a terminal too; ``align`` holds ``l`` or ``r`` for each column."""
    lines = [[_text(str(c)) for c in row] for row in (titles, *rows)]
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if a == "l" else c.rjust(w) for c, w, a in zip(cells, widths, align, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|".join("-" * (w + 1) + ("-" if a == "l" else ":") for w, a in zip(widths, align, strict=True))
    return "\n".join([line(lines[0]), f"|{rule}|", *(line(cells) for cells in lines[1:])])


def _text(text: str) -> str:
    """Text that stays text: on one line, no cell ends, no HTML, no emphasis by accident."""
    escaped = re.sub(r"&(?=#|\w+;)", "&amp;", _one_line(text))
    escaped = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", escaped)  # only where it would begin a tag
    # An underscore inside a word, as in weight_decay, is none of Markdown's business.
    return re.sub(r"([\\|`*]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", escaped)


def _code(text: str, language: str) -> str:
    """A fenced block whose fence the text cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
