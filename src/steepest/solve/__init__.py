"""Solvers, a room per problem class.

Each room holds the problem class that it solves and one file per method:

- :mod:`steepest.solve.convex`: smooth minimization by first-order methods.
"""

import importlib
from types import ModuleType

_ROOMS = ("convex",)
__all__ = [*_ROOMS]


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"steepest.solve.{name}")
    raise AttributeError(f"module 'steepest.solve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
