"""The arena: which method wins on a model, within a budget.

:func:`compare` tunes every method with the same number of trials, retrains the winners with fresh seeds, scores them
once on the test split, and says in words what the data show. ``steepest compare`` is the same on the command line.
"""

import importlib
from typing import Any

__all__ = [
    "BadInput",
    "Comparison",
    "Data",
    "Examples",
    "Interrupted",
    "Task",
    "analyze",
    "compare",
    "load",
    "load_task",
    "save",
]

_HOME = {
    "BadInput": "errors",
    "Comparison": "results",
    "Data": "task",
    "Examples": "task",
    "Interrupted": "errors",
    "Task": "task",
    "analyze": "analysis",
    "compare": "run",
    "load": "saved",
    "load_task": "task",
    "save": "saved",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module 'steepest.arena' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
