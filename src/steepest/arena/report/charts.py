"""The numbers that the page's charts draw, ready for JSON; how they look is ``report.js``'s business."""

import math
import textwrap
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from ..analysis import Analysis, Profile
from ..results import Comparison, CurvePoint, RunRecord, TaskInfo, TrialRecord
from . import numbers as n
from .view import View

__all__ = ["charts"]

_GRID = 80  # points of a curve whose seeds were evaluated at different places
_KEYS = ("lr", "learning_rate", "step_size")
_QUANTITIES = ("validation_metric", "train_loss")


def charts(comparison: Comparison, analysis: Analysis, view: View) -> dict[str, Any]:
    """``methods`` (name, title, dash), ``tasks`` (curves and landscape), ``profiles`` (by steps and by seconds)."""
    return {
        "methods": [{"name": m.name, "title": m.title, "dash": m.style.dash} for m in view.methods],
        "tasks": {t.name: _task(comparison, t) for t in comparison.tasks},
        "profiles": {p.measure: _profile(p) for p in analysis.profiles if p.problems},
    }


def _task(comparison: Comparison, task: TaskInfo) -> dict[str, Any]:
    runs = [r for r in comparison.runs if r.task == task.name]
    methods = [m.name for m in comparison.methods]
    curves = {
        x: {y: _curves(task, x, y, {m: [r for r in runs if r.method == m] for m in methods}) for y in _QUANTITIES}
        for x in ("step", "seconds")
    }
    return {
        "curves": {x: {y: c for y, c in found.items() if c["series"]} for x, found in curves.items()},
        "landscape": _landscape(comparison, task),
    }


def _curves(task: TaskInfo, x: str, y: str, runs: dict[str, list[RunRecord]]) -> dict[str, Any]:
    series = [s for method, mine in runs.items() if (s := _curve(method, mine, x, y)) is not None]
    higher = y == "validation_metric" and task.higher_is_better
    log, ends = _window(series, higher)
    name = f"validation {task.metric}" if y == "validation_metric" else "train loss"
    return {"title": name, "log": log, "range": ends, "series": series}


def _curve(method: str, runs: Sequence[RunRecord], x: str, y: str) -> dict[str, Any] | None:
    """The median over seeds, with the smallest and the largest as the band.

    A method that finished no run is drawn as far as its runs got.
    """
    done = [r for r in runs if r.status == "complete"]
    lines = [xy for r in (done or runs) if (xy := _points(r.curve, x, y))[0].size]
    if not lines:
        return None
    if all(np.array_equal(xs, lines[0][0]) for xs, _ in lines):
        grid, values = lines[0][0], np.stack([ys for _, ys in lines])
    else:
        grid = np.linspace(min(xs[0] for xs, _ in lines), max(xs[-1] for xs, _ in lines), _GRID)
        values = np.stack([np.interp(grid, xs, ys, left=np.nan, right=np.nan) for xs, ys in lines])
    kept = np.isfinite(values).sum(axis=0) * 2 >= len(lines)  # where at least half of the seeds have a value
    grid, values = grid[kept], values[:, kept]
    band = len(lines) > 1
    return {
        "method": method,
        "stopped": not done,
        "x": _list(grid),
        "mid": _list(np.nanmedian(values, axis=0)),
        "low": _list(np.nanmin(values, axis=0)) if band else [],
        "high": _list(np.nanmax(values, axis=0)) if band else [],
    }


def _points(curve: Sequence[CurvePoint], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(getattr(p, x), getattr(p, y)) for p in curve]
    known = [(a, b) for a, b in pairs if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]
    return np.array([a for a, _ in known], dtype=float), np.array([b for _, b in known], dtype=float)


def _window(series: Sequence[dict[str, Any]], higher: bool) -> tuple[bool, list[float] | None]:
    """The part of the y axis worth seeing at first: the first quarter of the training and wild curves may leave it.

    Returns whether the axis is logarithmic, and its ends (exponents of ten where it is).
    """
    late, tops = [], []
    for s in series:
        if s["stopped"] and len(series) > 1:
            continue
        start = s["x"][0] + 0.25 * (s["x"][-1] - s["x"][0])
        columns = (s["mid"], s["low"] or s["mid"], s["high"] or s["mid"])
        values = [v for column in columns for x, v in zip(s["x"], column, strict=True) if x >= start]
        late += values
        tops.append(min(values) if higher else max(values))
    if not late:
        return False, None
    best = max(late) if higher else min(late)
    # The worst end that most methods reach, doubled, bounds the view.
    usual = best + 2 * (sorted(tops, reverse=higher)[(len(tops) - 1) * 3 // 4] - best)
    worst = max(min(late), usual) if higher else min(max(late), usual)
    low, high = min(best, worst), max(best, worst)
    if low > 0 and high / low > 20:
        low, high = math.log10(low), math.log10(high)
        return True, [low - 0.05 * (high - low), high + 0.05 * (high - low)]
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    return False, [low - margin, high + margin]


def _landscape(comparison: Comparison, task: TaskInfo) -> dict[str, Any] | None:
    """Every trial at its learning rate and validation score; those without a score by how they ended.

    The trials of a method whose learning rate is not tuned stand in their order.
    """
    trials = [t for t in comparison.trials if t.task == task.name]
    key = next((k for k in _KEYS if any(k in t.settings for t in trials)), None)
    usable = [t for t in trials if key is not None and _positive(t.settings.get(key))]
    if key is None or not usable:
        return None
    winners = _winners(comparison, task)
    places = [math.log10(t.settings[key]) for t in usable]
    left, right = min(places), max(places)
    margin = 0.05 * (right - left) or 0.5
    ordered = [m.name for m in comparison.methods if not any(t.method == m.name for t in usable)]
    shown = [t for t in trials if t.method in ordered or _positive(t.settings.get(key))]
    slots = max((t.slot for t in shown), default=0)

    def place(trial: TrialRecord) -> float:
        if trial.method not in ordered:
            return float(trial.settings[key])
        return float(10 ** (left + (right - left) * trial.slot / slots if slots else left))

    scores = [t.score for t in shown if t.score is not None and math.isfinite(t.score)]
    log, ends, best = _heights(scores, task.higher_is_better)
    return {
        "key": key,
        "x": [left - margin, right + margin],
        "y": ends,
        "log": log,
        "best": best,
        "ordered": ordered,
        "points": {
            m.name: [
                {
                    "x": place(t),
                    "y": _finite(t.score),
                    "mark": _mark(t, log, ends),
                    "text": _about(t, task),
                    "best": t is winners.get(m.name),
                }
                for t in shown
                if t.method == m.name
            ]
            for m in comparison.methods
        },
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _winners(comparison: Comparison, task: TaskInfo) -> dict[str, TrialRecord]:
    """The best trial of each method; of those with equal scores the one whose settings went to the final runs."""
    sign = 1.0 if task.higher_is_better else -1.0
    final = {r.method: r.settings for r in comparison.runs if r.task == task.name}
    found: dict[str, tuple[float, bool, TrialRecord]] = {}
    for t in comparison.trials:
        if t.task == task.name and t.status == "complete" and t.score is not None:
            merit = (sign * t.score, t.settings == final.get(t.method))
            held = found.get(t.method)
            if held is None or merit > held[:2]:
                found[t.method] = (*merit, t)
    return {method: trial for method, (_, _, trial) in found.items()}


def _heights(scores: Sequence[float], higher: bool) -> tuple[bool, list[float] | None, float | None]:
    """Whether the score axis is logarithmic, its ends (exponents of ten where it is), and the best score.

    A learning rate that teaches nothing must not squeeze the differences that matter: the axis ends at four times the
    median trial's distance from the best, and what lies beyond is marked as off the scale.
    """
    if not scores:
        return False, None, None
    best = max(scores) if higher else min(scores)
    far = 4 * abs(median(scores) - best)
    kept = [s for s in scores if abs(s - best) <= far] if far else list(scores)
    low, high = min(kept), max(kept)
    if not higher and low > 0 and high / low > 20:
        ends = [math.log10(low), math.log10(high)]
        margin = 0.08 * (ends[1] - ends[0])
        return True, [ends[0] - margin, ends[1] + margin], best
    margin = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    return False, [low - margin, high + margin], best


def _mark(trial: TrialRecord, log: bool, ends: list[float] | None) -> str:
    """Where the trial's mark goes: among the scores ("complete"), or in a strip below with its name."""
    if trial.status != "complete":
        return trial.status
    if trial.score is None or not math.isfinite(trial.score) or ends is None:
        return "off scale"
    height = math.log10(trial.score) if log else trial.score
    return "complete" if ends[0] <= height <= ends[1] else "off scale"


def _about(trial: TrialRecord, task: TaskInfo) -> str:
    """The lines that appear over a trial's mark; escaped by the page."""
    head = f"{task.metric} {n.significant(trial.score, 4)}" if trial.score is not None else trial.status
    settings = [f"{k} = {n.setting(v)}" for k, v in trial.settings.items()]
    # A panel is narrow; the whole reason stands in the table of trials.
    reason = textwrap.wrap(textwrap.shorten(trial.reason, 96, placeholder=" ..."), 32) if trial.reason else []
    return "\n".join([head, *reason, *settings, f"trial {trial.slot}, {n.duration(trial.seconds)}"])


def _profile(profile: Profile) -> dict[str, Any]:
    end = max(1.5, profile.ratios[-1] * 1.05)
    return {
        "end": end,
        "x_title": f"{profile.measure} to the target, as a multiple of the fastest method's",
        "series": [
            {"method": m, "x": [*_list(profile.ratios), end], "y": [*_list(shares), shares[-1]]}
            for m, shares in profile.shares.items()
        ],
    }


def _list(values: Any) -> list[float]:
    """Seven digits are more than a screen shows and keep the page small."""
    return [float(f"{v:.7g}") for v in values]
