"""What the contract tests see of a solver. A file in ``cases/`` defines ``CASES``, a tuple of :class:`Case`."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steepest.core.problem import Problem
from steepest.core.solver import Solver

__all__ = ["Case", "all_cases"]


@dataclass(frozen=True)
class Case:
    """One solver on one problem of which the answer is known from elsewhere.

    Args:
        name: the name on the method's card, with a variant after a slash: ``"fista/restart"``.
        solver: the solver.
        problem: makes the problem in a dtype. It is small: a run takes a second at most.
        start: makes the start in a dtype.
        optimum: the least value, from a closed form, another package or a very long run of another method; ``None``
            where the method looks for something else than a minimum (then give ``check``).
        accuracy: how far above the optimum (in the unit of the value) the run has to end in float64.
        steps: how many steps that takes.
        accuracy32: the same in float32.
        bounds: whether the stationarity is a certificate: never less than the value minus the optimum.
        check: a further check of the solution, raising ``AssertionError``.
    """

    name: str
    solver: Solver[Any, Any]
    problem: Callable[[torch.dtype], Problem]
    start: Callable[[torch.dtype], Any]
    optimum: float | None
    accuracy: float
    steps: int
    accuracy32: float = 1e-3
    bounds: bool = False
    check: Callable[[Any], None] | None = None

    @property
    def card(self) -> str:
        """The card's name."""
        return self.name.partition("/")[0]


def all_cases() -> list[Case]:
    """The cases of all files, in the order of their names."""
    found: list[Case] = []
    for path in sorted((Path(__file__).parent / "cases").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"solver_cases_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += module.CASES
    return found
