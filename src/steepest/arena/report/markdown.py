"""``report.md``: the report as text tables, for a terminal or a code host."""

import re
from collections.abc import Iterable, Sequence

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
    parts += ["### Methods and what was tuned", table(["Method", "Name", "What it does", "Source", "Search space"],
              [(m.title, m.name, m.summary, m.source, m.search.removeprefix("Tuned: ")) for m in view.methods], "lllll")]  # fmt: skip
    if view.notes:
        parts += ["### How to read the numbers", "\n".join(f"- {_text(note)}" for note in view.notes)]
    parts.append("Numbers: " + ", ".join(f"`{f}`" for f in view.files) + ". The page with the charts: `report.html`.")
    return "\n\n".join(parts) + "\n"


def _task(t: TaskView, heading: bool) -> list[str]:
    level = "###" if heading else "##"
    parts = [f"## {_text(t.title)}", _text(t.verdict)] if heading else []
    titles = [
        "#",
        "Method",
        t.metric_heading,
        "Steps to target",
        "Seconds to target",
        "Peak memory",
        "State, B/param",
        "Runs",
    ]
    rows = [
        [r.rank, r.method.title + (" (baseline)" if r.baseline else ""), r.metric, r.steps, r.seconds, r.memory, r.state, f"{r.runs} {r.runs_note}".strip()]
        for r in t.rows
    ]  # fmt: skip
    if t.differences:
        titles.insert(3, f"Against {t.baseline_title}")
        for cells, row in zip(rows, t.rows, strict=True):
            cells.insert(3, row.difference)
    note = t.ranking_note.partition(" The dashed line")[0]
    parts += [f"{level} Ranking", _text(note), table(titles, rows, "rl" + "r" * (len(titles) - 2))]
    if t.target_note:
        parts.append(_text(t.target_note))
    if t.sentences:
        parts += [f"{level} In words", "\n".join(f"- {_text(s)}" for s in t.sentences)]
    if t.differences:
        rows = [(d["method"].title, d["mean"], d["pairs"], d["p"], d["adjusted"], d["word"]) for d in t.differences]
        titles = ["Method", "Difference", "Pairs", "p", "p, adjusted", "Verdict"]
        parts += [f"{level} Paired differences against {_text(t.baseline_title)}", table(titles, rows, "lrrrrl")]
    if t.lines:
        code = "\n".join(f"# {_one_line(line['method'].title)}\n{line['code']}" for line in t.lines)
        parts += [f"{level} Settings to copy", _code(code, "python")]
    rows = [(r["method"].title, r["seed"], r["status"], r["metric"], r["loss"], r["steps"], r["seconds"], r["memory"], r["reason"]) for r in t.runs]  # fmt: skip
    titles = ["Method", "Seed", "Status", f"Test {t.metric}", "Test loss", "Steps", "Seconds", "Peak memory", "Reason"]
    parts += [f"{level} Final runs", f"{t.runs_note}.", *([table(titles, rows, "lrlrrrrrl")] if rows else [])]
    rows = [
        (r["method"].title, r["slot"], r["status"], r["score"], r["settings"], r["steps"], r["seconds"], r["reason"])
        for r in t.trials
    ]
    titles = ["Method", "Slot", "Status", f"Validation {t.metric}", "Settings", "Steps", "Seconds", "Reason"]
    parts += [f"{level} Tuning trials", f"{t.trials_note}.", *([table(titles, rows, "lrlrlrrl")] if rows else [])]
    return parts


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], align: str) -> str:
    """A Markdown table whose columns line up in a terminal too; ``align`` holds ``l`` or ``r`` for each column."""
    lines = [[_text(str(c)) for c in row] for row in (titles, *rows)]
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if a == "l" else c.rjust(w) for c, w, a in zip(cells, widths, align, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|"
        + "|".join(("-" * (w + 2)) if a == "l" else "-" * (w + 1) + ":" for w, a in zip(widths, align, strict=True))
        + "|"
    )
    return "\n".join([line(lines[0]), rule, *(line(cells) for cells in lines[1:])])


def _text(text: str) -> str:
    """Text that stays text: on one line, no cell ends, no HTML, no emphasis by accident."""
    escaped = _one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    # An underscore inside a word, as in weight_decay, is none of Markdown's business.
    return re.sub(r"([\\|`*]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", escaped)


def _code(text: str, language: str) -> str:
    """A fenced block whose fence the text cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
