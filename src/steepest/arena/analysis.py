"""What a :class:`~steepest.arena.results.Comparison` says, in figures and in words.

Per task: the ranking by the final test metric, paired differences against the baseline and against the leader, and the
steps and seconds to a common target. Over several tasks: the Dolan-More performance profile. All of it is computed from
the final runs; the tuning trials decide nothing here.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .results import Comparison, RunRecord, TaskInfo
from .statistics import bonferroni, bootstrap_interval, holm, paired_p_value

__all__ = ["Analysis", "Difference", "Profile", "Standing", "TargetTime", "TaskAnalysis", "analyze", "verdict"]

Word = Literal["better", "worse", "not separated"]

#: Significance level of every statement, after the adjustment for several comparisons.
LEVEL = 0.05
#: The part of the baseline's improvement (first to last validation metric) that the common target gives away.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Standing:
    """A method's place on a task, by the mean final test metric over the seeds that finished.

    Methods with runs that diverged or failed stand behind every method without: the mean over the survivors flatters.
    """

    rank: int
    method: str
    seeds: int  # final runs that finished
    lost: int  # final runs that diverged or failed
    mean: float | None
    median: float | None
    deviation: float | None  # over seeds, ddof=1
    low: float | None  # 95 % bootstrap interval of the mean
    high: float | None
    seconds: float | None  # mean training time of a finished run
    peak_memory_bytes: int | None  # the largest over the runs
    state_bytes_per_parameter: float | None


@dataclass(frozen=True)
class Difference:
    """The paired difference ``method - other`` of the test metric over the seeds that both finished."""

    method: str
    other: str
    pairs: int
    mean: float | None
    low: float | None  # 95 % bootstrap interval of the mean difference, not adjusted for several comparisons
    high: float | None
    p_value: float | None  # paired t-test
    p_adjusted: float | None  # for the number of comparisons: see TaskAnalysis
    word: Word  # of ``method`` seen from ``other``


@dataclass(frozen=True)
class TargetTime:
    """Steps and seconds until the validation metric first reached the common target, at the evaluations' resolution.

    Runs that never reached it are censored: they count as longer than every run that did. A median or an end of an
    interval that falls among them is ``None``: "not within the budget".
    """

    method: str
    runs: int
    reached: int
    steps: float | None  # median
    steps_low: float | None  # 95 % bootstrap interval of the median
    steps_high: float | None
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None


@dataclass(frozen=True)
class TaskAnalysis:
    """Everything said about one task."""

    task: str
    metric: str
    higher_is_better: bool
    ranking: tuple[Standing, ...]
    differences: tuple[Difference, ...]  # every other method against the baseline; Holm over these
    against_best: tuple[Difference, ...]  # every other method against the leader; Bonferroni over these
    target: float | None  # validation metric
    times: tuple[TargetTime, ...]
    best: str | None  # the leader of the ranking
    tied: tuple[str, ...]  # methods that lost no more runs than the leader and are not separated from it
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """Dolan and More's performance profile: the part of the problems (task and seed) that a method brings to the target
    within ``ratio`` times the cost of the cheapest method on that problem. Unreached problems never count."""

    measure: Literal["steps", "seconds"]
    problems: int
    ratios: tuple[float, ...]
    shares: dict[str, tuple[float, ...]]  # method -> share at each ratio


@dataclass(frozen=True)
class Analysis:
    """The whole comparison, analyzed."""

    baseline: str
    tasks: tuple[TaskAnalysis, ...]
    profiles: tuple[Profile, ...]  # empty for a single task
    verdict: str  # the main result in one or two sentences
    sentences: tuple[str, ...]
    notes: tuple[str, ...]  # how the numbers were made, and what limits them

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def verdict(comparison: Comparison) -> str:
    """The main result in one or two sentences."""
    return analyze(comparison).verdict


def analyze(comparison: Comparison) -> Analysis:
    """Rank, compare and put into words.

    Args:
        comparison: what the arena measured; it may be incomplete.
    """
    tasks = tuple(_task(comparison, task) for task in comparison.tasks)
    profiles: tuple[Profile, ...] = ()
    if len(tasks) > 1:
        profiles = (profile(comparison, tasks, "steps"), profile(comparison, tasks, "seconds"))
    sentences = tuple(s for t in tasks for s in t.sentences)
    heads = [t.sentences[0] for t in tasks]
    missing = "" if comparison.complete else " The comparison is not finished: runs are missing."
    return Analysis(
        baseline=comparison.baseline,
        tasks=tasks,
        profiles=profiles,
        verdict=" ".join(heads) + missing,
        sentences=sentences,
        notes=_notes(comparison),
    )


def _notes(comparison: Comparison) -> tuple[str, ...]:
    seeds = len({r.seed for r in comparison.runs})
    notes = [
        f"Intervals are 95 % expanded percentile bootstrap intervals over {seeds} seed{'s' * (seeds != 1)}; "
        "they describe the variation of initialization and mini-batches on one test split, not that of the data.",
        "Words come from paired t-tests over the same seeds at the 5 % level, adjusted for the number of comparisons: "
        "Holm against the baseline, Bonferroni against the leader.",
        f"The target is the baseline's median final validation metric, less {TOLERANCE:.0%} of its improvement.",
    ]
    if seeds < 3:
        notes.append("With fewer than three seeds hardly any difference can be separated from chance.")
    extra = comparison.plan.get("warning")
    if extra:
        notes.append(str(extra))
    return tuple(notes)


def _names(comparison: Comparison) -> dict[str, str]:
    return {m.name: m.title for m in comparison.methods}


def _task(comparison: Comparison, task: TaskInfo) -> TaskAnalysis:
    methods = [m.name for m in comparison.methods]
    runs = {m: [r for r in comparison.runs if r.task == task.name and r.method == m] for m in methods}
    ranking = _ranking(task, runs)
    sign = 1.0 if task.higher_is_better else -1.0
    baseline = comparison.baseline
    others = [s.method for s in ranking if s.method != baseline]
    differences = _family([(m, baseline) for m in others], runs, sign, holm) if baseline in runs else ()
    best = ranking[0].method if ranking and ranking[0].mean is not None else None
    rest = [(s.method, best) for s in ranking if s.method != best] if best is not None else []
    against = _family(rest, runs, sign, bonferroni)
    # A method that lost more runs stands behind by that alone: that too few of its runs are left to tell its mean from
    # the leader's does not make it as good.
    whole = {s.method for s in ranking if s.lost <= ranking[0].lost}
    tied = tuple(d.method for d in against if d.word == "not separated" and d.method in whole)
    target = _target(task, runs, baseline, best)
    times = tuple(_time(m, runs[m], target, sign) for m in (s.method for s in ranking))
    draft = TaskAnalysis(
        task.name, task.metric, task.higher_is_better, ranking, differences, against, target, times, best, tied, ()
    )
    return dataclasses.replace(draft, sentences=_sentences(comparison, draft))


def _ranking(task: TaskInfo, runs: dict[str, list[RunRecord]]) -> tuple[Standing, ...]:
    rows: list[Standing] = []
    for method, mine in runs.items():
        done = [r for r in mine if r.status == "complete" and r.test_metric is not None]
        scores = [float(r.test_metric) for r in done if r.test_metric is not None]
        interval = bootstrap_interval(scores) or (None, None)
        memory = [r.peak_memory_bytes for r in done if r.peak_memory_bytes is not None]
        state = [r.state_bytes_per_parameter for r in done if r.state_bytes_per_parameter is not None]
        rows.append(
            Standing(
                rank=0,
                method=method,
                seeds=len(done),
                lost=len(mine) - len(done),
                mean=float(np.mean(scores)) if scores else None,
                median=float(np.median(scores)) if scores else None,
                deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
                low=interval[0],
                high=interval[1],
                seconds=float(np.mean([r.seconds for r in done])) if done else None,
                peak_memory_bytes=max(memory, default=None),
                state_bytes_per_parameter=max(state, default=None),
            )
        )
    sign = -1.0 if task.higher_is_better else 1.0

    def place(row: Standing) -> tuple[bool, bool, float, str]:
        return row.mean is None, row.lost > 0, sign * (row.mean or 0.0), row.method

    return tuple(dataclasses.replace(row, rank=i + 1) for i, row in enumerate(sorted(rows, key=place)))


def _family(
    pairs: Sequence[tuple[str, str]],
    runs: dict[str, list[RunRecord]],
    sign: float,
    adjust: Callable[[Sequence[float | None]], list[float | None]],
) -> tuple[Difference, ...]:
    """Paired differences of all ``pairs``, adjusted for their number.

    Against the leader, which the data themselves chose, Bonferroni's adjustment over the other methods is enough for
    this statement: the method that is truly best is called worse than the leader with a probability of at most 5 %
    (one of its own comparisons would have to err).
    """
    raw = []
    for method, other in pairs:
        mine, theirs = ({r.seed: r.test_metric for r in runs[m] if r.test_metric is not None} for m in (method, other))
        raw.append([mine[s] - theirs[s] for s in sorted(mine.keys() & theirs.keys())])
    p_values = [paired_p_value(d) for d in raw]
    found = []
    for (method, other), values, p, adjusted in zip(pairs, raw, p_values, adjust(p_values), strict=True):
        mean = float(np.mean(values)) if values else None
        low, high = bootstrap_interval(values) or (None, None)
        word: Word = "not separated"
        if adjusted is not None and adjusted < LEVEL and mean is not None:
            word = "better" if sign * mean > 0 else "worse"
        lost = [sum(r.test_metric is None for r in runs[m]) for m in (method, other)]
        # A mean over the surviving seeds flatters the method that lost some: it cannot win by it.
        if (word == "better" and lost[0] > lost[1]) or (word == "worse" and lost[1] > lost[0]):
            word = "not separated"
        for k, (name, loser) in enumerate(((method, "worse"), (other, "better"))):
            if runs[name] and lost[k] == len(runs[name]) and lost[1 - k] == 0 and runs[(other, method)[k]]:
                word = "worse" if loser == "worse" else "better"
        found.append(Difference(method, other, len(values), mean, low, high, p, adjusted, word))
    return tuple(found)


def _target(task: TaskInfo, runs: dict[str, list[RunRecord]], baseline: str, best: str | None) -> float | None:
    for method in (baseline, best):
        ends = []
        starts = []
        for r in runs.get(method or "", []):
            metrics = [p.validation_metric for p in r.curve if p.validation_metric is not None]
            if r.status == "complete" and len(metrics) > 1:
                starts.append(metrics[0])
                ends.append(metrics[-1])
        if ends:
            start, end = float(np.median(starts)), float(np.median(ends))
            improved = end > start if task.higher_is_better else end < start
            return end - TOLERANCE * (end - start) if improved else end
    return None


def _first(run: RunRecord, target: float, sign: float) -> tuple[float, float]:
    """Steps and seconds of the first evaluation at or beyond the target; infinite where there is none."""
    for point in run.curve:
        if point.validation_metric is not None and sign * point.validation_metric >= sign * target:
            return float(point.step), point.seconds
    return math.inf, math.inf


def _time(method: str, runs: list[RunRecord], target: float | None, sign: float) -> TargetTime:
    if target is None or not runs:
        return TargetTime(method, len(runs), 0, None, None, None, None, None, None)
    firsts = [_first(r, target, sign) for r in runs]
    columns: list[float | None] = []
    for k in (0, 1):
        values = [f[k] for f in firsts]
        # The higher of the two middle values for an even count: the mean with an infinite one has no meaning.
        low, high = bootstrap_interval(values, statistic=_upper_median) or (None, None)
        columns += [_finite(float(_upper_median(np.asarray(values)))), _finite(low), _finite(high)]
    reached = sum(math.isfinite(f[0]) for f in firsts)
    return TargetTime(method, len(runs), reached, *columns)


def _upper_median(values: Any, axis: int = -1) -> Any:
    return np.take(np.sort(values, axis=axis), values.shape[axis] // 2, axis=axis)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def profile(comparison: Comparison, tasks: Sequence[TaskAnalysis], measure: Literal["steps", "seconds"]) -> Profile:
    """The performance profile over all tasks and seeds (Dolan and More, 2002)."""
    methods = [m.name for m in comparison.methods]
    column = 0 if measure == "steps" else 1
    ratios: dict[str, list[float]] = {m: [] for m in methods}
    problems = 0
    for task in tasks:
        if task.target is None:
            continue
        sign = 1.0 if task.higher_is_better else -1.0
        mine = [r for r in comparison.runs if r.task == task.task]
        for seed in sorted({r.seed for r in mine}):
            costs = {r.method: _first(r, task.target, sign)[column] for r in mine if r.seed == seed}
            cheapest = min(costs.values(), default=math.inf)
            problems += 1
            for m in methods:
                cost = costs.get(m, math.inf)
                if math.isfinite(cost):
                    # A target met at the very start costs nothing: every method that meets it there is as good.
                    ratios[m].append(1.0 if cost <= cheapest else cost / cheapest if cheapest > 0 else math.inf)
    grid = tuple(sorted({1.0, *(r for rs in ratios.values() for r in rs if math.isfinite(r))}))
    shares = {m: tuple(sum(r <= x for r in ratios[m]) / problems if problems else 0.0 for x in grid) for m in methods}
    return Profile(measure, problems, grid, shares)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _sentences(comparison: Comparison, task: TaskAnalysis) -> tuple[str, ...]:
    titles = _names(comparison)
    lost = [s.method for s in task.ranking if s.seeds == 0]
    if task.best is None:
        return (f"On {task.task} no method finished a final run, so there is nothing to rank.",)
    leader = task.ranking[0]
    interval = "" if leader.low is None else f", 95 % interval {_figure(leader.low)} to {_figure(leader.high)}"
    seeds = f"{leader.seeds} seed{'s' * (leader.seeds != 1)}"
    figures = f"{_figure(leader.mean)}{interval}, {seeds}"
    head = f"On {task.task}, {titles[task.best]} has the best mean test {task.metric} ({figures})"
    if not task.against_best:
        head += "; there is no other method to compare it with."
    elif not task.tied:
        lossy = any(d.word == "not separated" for d in task.against_best)
        head += f", and the data separate it from every other method{' that lost no more runs' * lossy}."
    else:
        head += f", but the data do not separate it from {_listed([titles[m] for m in task.tied])}."
    said = [head]
    base = titles.get(comparison.baseline, comparison.baseline)
    for word, phrase in (("better", "better than"), ("worse", "worse than"), ("not separated", "not separated from")):
        group = [titles[d.method] for d in task.differences if d.word == word and d.method not in lost]
        if group:
            said.append(f"On {task.task}, {phrase} the baseline {base}: {_listed(group)}.")
    ready = [t for t in task.times if t.steps is not None]
    if task.target is not None and ready:
        least = min(t.steps or 0.0 for t in ready)
        quick = [t.method for t in ready if t.steps == least]  # evaluations are few, so ties are common
        fast = min(ready, key=lambda t: (t.seconds or 0.0, t.method))
        first = f"On {task.task}, {_listed([titles[m] for m in quick])} {'reaches' if len(quick) == 1 else 'reach'} "
        first += f"the target {task.metric} of {_figure(task.target)} in the fewest steps (median {least:.0f})"
        if quick == [fast.method]:
            said.append(f"{first} and in the least time ({fast.seconds:.2g} s).")
        else:
            said.append(f"{first}, {titles[fast.method]} in the least time ({fast.seconds:.2g} s).")
    never = [titles[t.method] for t in task.times if t.runs and t.steps is None and t.method not in lost]
    if task.target is not None and never:
        said.append(f"On {task.task}, most runs of {_listed(never)} did not reach that target within the budget.")
    if lost:
        said.append(f"On {task.task}, no final run of {_listed([titles[m] for m in lost])} finished.")
    partly = [f"{titles[s.method]} ({s.lost})" for s in task.ranking if s.lost and s.seeds]
    if partly:
        said.append(f"On {task.task}, final runs diverged or failed: {_listed(partly)}.")
    return tuple(said)
