"""The foundation: update rules and their engines, problems that count their oracles, solvers, method cards.

Names load when they are first used. The parts most users meet are here; each module documents the rest.
"""

import importlib
from typing import Any

_HOMES = {
    "Budget": "budget",
    "CheckpointError": "checkpoint",
    "Functional": "functional",
    "Measures": "stopping",
    "MethodCard": "card",
    "MissingOracle": "problem",
    "OracleCounts": "oracle",
    "Paper": "card",
    "Problem": "problem",
    "Reason": "result",
    "Report": "run",
    "Result": "result",
    "Routing": "routing",
    "Rule": "rule",
    "RuleOptimizer": "optimizer",
    "SmoothProblem": "problem",
    "Solver": "solver",
    "Stalled": "stopping",
    "State": "solver",
    "Tolerance": "stopping",
    "Trace": "trace",
    "Transform": "transform",
    "UnknownName": "errors",
    "armijo": "linesearch",
    "counting": "oracle",
    "newton_schulz": "orthogonal",
    "oracle": "oracle",
    "polar": "orthogonal",
    "polar_express": "orthogonal",
    "route": "routing",
    "strong_wolfe": "linesearch",
    "tally": "oracle",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"steepest.core.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'steepest.core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
