"""Optimization for machine learning, in PyTorch.

Three floors: published *methods* (:mod:`steepest.optim`, :mod:`steepest.solve`), the *arena* that compares them
(:mod:`steepest.arena`), and the *claims ledger* that tests what their papers say (:mod:`steepest.claims`).
Rooms load when they are first used, so ``import steepest`` costs little more than ``import torch``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("arena", "catalogue", "claims", "core", "data", "optim", "solve", "train")
_HOMES = {"minimize": "steepest.solve.convex"}
__all__ = ["__version__", *_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"steepest.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'steepest' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
