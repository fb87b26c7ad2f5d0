"""What was asked, what it ran on, and what the tasks are, as names and values to print."""

from collections.abc import Mapping
from typing import Any

from ..results import Comparison
from . import numbers as n

__all__ = ["Facts", "facts"]

#: Titles, each with its names and values.
Facts = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def facts(comparison: Comparison) -> Facts:
    """The plan, the environment, and each task, in groups."""
    hidden = {"command", "command line", "warning"}
    groups = [
        ("What was asked", [(k.replace("_", " "), _plain(v)) for k, v in comparison.plan.items() if k not in hidden]),
        ("What it ran on", [(k.replace("_", " "), _plain(v)) for k, v in comparison.environment.items()]),
    ]
    for t in comparison.tasks:
        sizes = ", ".join(f"{n.count(size)} {split}" for split, size in t.sizes.items())
        groups.append(
            (
                t.title,
                [
                    ("task", t.name),
                    ("parameters", n.count(t.parameters)),
                    ("examples", sizes),
                    ("batch size", n.count(t.batch_size)),
                    ("metric", f"{t.metric}, {'higher' if t.higher_is_better else 'lower'} is better"),
                    (
                        "seeds",
                        ", ".join(str(s) for s in sorted({r.seed for r in comparison.runs if r.task == t.name}))
                        or n.DASH,
                    ),
                ],
            )
        )
    return tuple((title, tuple(pairs)) for title, pairs in groups)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return n.DASH
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return n.setting(value)
