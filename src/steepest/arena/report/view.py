"""What the report shows, as text and positions: the one place that knows both the results and their analysis.

The HTML page and the Markdown file are written from the same :class:`View`; statistics are taken from
:mod:`steepest.arena.analysis` as they are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis import Analysis, Difference, Standing, TargetTime, TaskAnalysis
from ..results import Comparison, MethodInfo, TaskInfo
from . import numbers as n
from .cells import Cell, MethodView, difference_row, gap, reached, run_row, trial_row
from .facts import Facts, facts
from .palette import Style, styles
from .scale import Bar, Scale, scale

__all__ = ["Row", "TaskView", "View", "view"]


@dataclass(frozen=True)
class Row:
    """A line of the ranking."""

    method: MethodView
    order: int
    rank: str
    baseline: bool
    tied: bool  # the data do not separate it from the leader, but do separate another
    metric: Cell
    bar: Bar | None
    difference: Cell
    steps: Cell
    seconds: Cell
    memory: Cell
    state: Cell
    complete: int
    runs: str
    runs_note: str


@dataclass(frozen=True)
class TaskView:
    """One task's part of the report; lists of mappings are table rows whose keys the templates name."""

    name: str
    anchor: str
    title: str
    metric: str
    verdict: str
    sentences: tuple[str, ...]
    caveats: tuple[str, ...]
    baseline_title: str
    metric_heading: str
    ranking_note: str
    target_note: str
    curves_note: str
    scale: Scale
    rows: tuple[Row, ...]
    differences: tuple[Mapping[str, Any], ...]
    lines: tuple[Mapping[str, Any], ...]
    trials: tuple[Mapping[str, Any], ...]
    trials_note: str
    runs: tuple[Mapping[str, Any], ...]
    runs_note: str


@dataclass(frozen=True)
class View:
    """The whole report."""

    title: str
    verdict: tuple[str, ...]
    caveats: tuple[str, ...]
    glance: tuple[tuple[str, str], ...]
    methods: tuple[MethodView, ...]
    tasks: tuple[TaskView, ...]
    notes: tuple[str, ...]
    facts: Facts
    command: str
    files: tuple[str, ...]


def view(comparison: Comparison, analysis: Analysis, files: Sequence[str]) -> View:
    """Turn results and their analysis into what is shown; ``files`` are the data files named at the end."""
    look = styles([m.name for m in comparison.methods], comparison.baseline)
    methods = {m.name: _method(i, m, look[m.name]) for i, m in enumerate(comparison.methods)}
    infos = {t.name: t for t in comparison.tasks}
    asked = _asked(comparison)
    tasks = tuple(_task(comparison, infos[t.task], t, methods, asked) for t in analysis.tasks)
    warning = str(comparison.plan.get("warning") or "")
    return View(
        title=" · ".join(t.title for t in comparison.tasks),
        verdict=_verdict(analysis),
        caveats=_caveats(comparison, tasks, warning, asked),
        glance=_glance(comparison, asked),
        methods=tuple(methods.values()),
        tasks=tasks,
        notes=tuple(text for text in analysis.notes if text != warning),
        facts=facts(comparison),
        command=str(comparison.plan.get("command") or comparison.plan.get("command line") or ""),
        files=tuple(files),
    )


def _method(index: int, info: MethodInfo, style: Style) -> MethodView:
    search = "; ".join(f"{name}: {space}" for name, space in info.search.items())
    return MethodView(
        index, info.name, info.title, info.summary, info.source, f"Tuned: {search}" if search else "", style
    )


def _asked(comparison: Comparison) -> int:
    """Seeds asked for, a method and task."""
    seeds = comparison.plan.get("seeds")
    if isinstance(seeds, int):
        return seeds
    if isinstance(seeds, list | tuple):
        return len(seeds)
    return len({r.seed for r in comparison.runs})


def _verdict(analysis: Analysis) -> tuple[str, ...]:
    """One sentence for each task, then what else the verdict says."""
    heads = [t.sentences[0] for t in analysis.tasks if t.sentences]
    joined = " ".join(heads)
    if not analysis.verdict.startswith(joined):
        return (analysis.verdict,)
    return (*heads, *filter(None, [analysis.verdict.removeprefix(joined).strip()]))


def _caveats(comparison: Comparison, tasks: Sequence[TaskView], warning: str, asked: int) -> tuple[str, ...]:
    found = []
    expected = asked * len(comparison.methods) * len(comparison.tasks)
    if not comparison.complete:
        found.append(
            f"Incomplete: {len(comparison.runs)} of {expected} final runs are here. "
            "The same command continues where it stopped."
        )
    if warning:
        found.append(warning)
    if asked == 1:
        found.append("One seed for each method: there are no intervals, and chance alone may decide the order.")
    shared: dict[str, list[str]] = {}  # a method that fails everywhere is said once
    for t in tasks:
        for text in t.caveats:
            shared.setdefault(text, []).append(t.name)
    found += [text + (f" ({', '.join(names)})" if len(tasks) > 1 else "") for text, names in shared.items()]
    return tuple(found)


def _glance(comparison: Comparison, asked: int) -> tuple[tuple[str, str], ...]:
    plan, environment = comparison.plan, comparison.environment
    spent = sum(t.seconds for t in comparison.trials) + sum(r.seconds for r in comparison.runs)
    pairs = [
        ("Methods", str(len(comparison.methods))),
        ("Tuning trials each", str(plan.get("trials", n.DASH))),
        ("Seeds each", str(asked)),
        ("Budget of a run", re.sub(r"(?<=\d)(?=[a-z])", " ", str(plan.get("budget", n.DASH)))),
        ("Training time in all", n.duration(spent)),
        (
            "Finished" if comparison.complete else "As of",
            str(environment.get("finished") or environment.get("started") or n.DASH),
        ),
    ]
    return tuple(pairs)


def _task(
    comparison: Comparison, info: TaskInfo, task: TaskAnalysis, methods: Mapping[str, MethodView], asked: int
) -> TaskView:
    base = methods.get(comparison.baseline)
    base_title = base.title if base else comparison.baseline
    halves = [(s.high - s.low) / 2 for s in task.ranking if s.low is not None and s.high is not None]
    places = n.decimals(halves, [s.mean for s in task.ranking])
    axis, bars = scale(task.ranking, comparison.baseline, places)
    differences = {d.method: d for d in task.differences}
    times = {t.method: t for t in task.times}
    trials = [t for t in comparison.trials if t.task == info.name]
    runs = [r for r in comparison.runs if r.task == info.name]
    rows = tuple(
        _row(s, methods, task, differences.get(s.method), times.get(s.method), bars, places, asked, comparison.baseline)
        for s in task.ranking
    )
    better = "higher" if info.higher_is_better else "lower"
    several = any(s.low is not None for s in task.ranking)
    what = f"Mean test {info.metric} with its 95 % interval" if several else f"Test {info.metric}"
    line = f" The dashed line is {base_title}." if axis.baseline is not None and len(bars) > 1 else ""
    if several and len(task.differences) > 1:
        line += (
            f" A method counts as better or worse than {base_title} only after correction (Holm) for "
            f"{len(task.differences)} comparisons; an interval that leaves out zero is not enough."
        )
    target = ""
    if task.target is not None:
        shown = "the median over seeds to the first evaluation" if several else "the first evaluation"
        width = ", with its 95 % interval" if several else ""
        target = (
            f"Target: a validation {info.metric} of {n.fixed(task.target, max(places, 3))}. Shown is {shown} "
            f"at or beyond it{width}; seconds are training time alone."
        )
    return TaskView(
        name=info.name,
        anchor="task-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in info.name),
        title=info.title,
        metric=info.metric,
        verdict=task.sentences[0] if task.sentences else "",
        sentences=tuple(_short(s, info.name) for s in task.sentences[1:]),
        caveats=_lost(task, methods),
        baseline_title=base_title,
        metric_heading=f"Test {info.metric}",
        ranking_note=f"{what}; {better} is better.{line}"
        + (" The data separate no other method from the first." if _level(task) else ""),
        target_note=target,
        curves_note="The line is the median over seeds, the band reaches from the lowest to the highest seed."
        if several
        else "One seed each: the lines have no band.",
        scale=axis,
        rows=rows,
        differences=tuple(difference_row(d, methods[d.method], places) for d in task.differences)
        if any(d.pairs for d in task.differences)
        else (),
        lines=tuple(
            {"method": methods[m.name], "code": m.line[info.name]}
            for m in sorted(comparison.methods, key=lambda m: [s.method for s in task.ranking].index(m.name))
            if info.name in m.line
        ),
        trials=tuple(trial_row(t, methods[t.method]) for t in trials),
        trials_note=_spent(trials),
        runs=tuple(run_row(r, methods[r.method]) for r in runs),
        runs_note=_spent(runs),
    )


def _level(task: TaskAnalysis) -> bool:
    """Whether nothing is separated from the leader: then a mark on every line would say nothing."""
    return len(task.ranking) > 1 and len(task.tied) == len(task.ranking) - 1


def _row(
    s: Standing,
    methods: Mapping[str, MethodView],
    task: TaskAnalysis,
    difference: Difference | None,
    time: TargetTime | None,
    bars: Mapping[str, Bar],
    places: int,
    asked: int,
    baseline: str,
) -> Row:
    total = max(asked, s.seeds + s.lost)
    return Row(
        method=methods[s.method],
        order=s.rank,
        rank=str(s.rank) if s.mean is not None else n.DASH,
        baseline=s.method == baseline,
        tied=s.method in task.tied and not _level(task),
        metric=Cell(n.fixed(s.mean, places), s.mean, n.interval(s.low, s.high, places)),
        bar=bars.get(s.method),
        difference=gap(difference, places),
        steps=reached(time, "steps"),
        seconds=reached(time, "seconds"),
        memory=Cell(n.memory(s.peak_memory_bytes), s.peak_memory_bytes),
        state=Cell(n.significant(s.state_bytes_per_parameter), s.state_bytes_per_parameter),
        complete=s.seeds,
        runs=f"{s.seeds} of {total}",
        runs_note=f"{s.lost} lost" if s.lost else "",
    )


def _lost(task: TaskAnalysis, methods: Mapping[str, MethodView]) -> tuple[str, ...]:
    return tuple(
        f"{methods[s.method].title}: {s.lost} of {s.lost + s.seeds} final runs diverged or failed"
        + ("; its mean is over the others, and it stands behind every method that lost none" if s.seeds else "")
        for s in task.ranking
        if s.lost
    )


def _short(sentence: str, task: str) -> str:
    """Inside a task's own section its name need not begin every sentence."""
    text = sentence.removeprefix(f"On {task}, ")
    return text[:1].upper() + text[1:]


def _spent(records: Sequence[Any]) -> str:
    """``96: 70 complete, 14 pruned, 12 diverged; 5 min 02 s of training``."""
    if not records:
        return "none yet"
    spent = n.duration(sum(r.seconds for r in records))
    parts = [(s, sum(r.status == s for r in records)) for s in ("complete", "pruned", "diverged", "failed")]
    counts = ", ".join(f"{k} {s}" for s, k in parts if k)
    return f"{len(records)}: {counts}; {spent} of training" if records else "none yet"
