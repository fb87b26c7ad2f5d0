"""The claims ledger: what the papers say, and what came out here.

:func:`reproduce` runs the smallest honest experiment that shows or refutes the headline claim of a method's paper and
states the verdict, by a rule that is fixed beforehand. ``steepest reproduce lion`` is the same on the command line.
"""

import importlib
from typing import Any

__all__ = ["Claim", "Evidence", "Size", "Verdict", "ledger", "load", "registry", "reproduce"]

_HOME = {
    "Claim": "claim",
    "Evidence": "evidence",
    "Size": "evidence",
    "Verdict": "evidence",
    "ledger": "book",
    "load": "entries",
    "registry": "entries",
    "reproduce": "book",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module 'steepest.claims' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
