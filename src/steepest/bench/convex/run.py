"""All sections of the convex benchmark."""

import platform
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from ...core.errors import UnknownName
from ..contenders import installed
from ..step import processor
from . import lazy, logistic, networks, sparse
from .contest import ConvexBenchmark, Outcome, Promise

__all__ = ["SECTIONS", "run"]

#: The parts that can be asked for.
SECTIONS = ("networks", "sparse", "logistic", "lazy")
_PACKAGES = ("numpy", "scipy", "scikit-learn", "skglm", "celer", "cvxpy", "clarabel", "pyscnn")


def run(
    *,
    sections: Iterable[str] = (),
    threads: int = 2,
    rounds: int = 3,
    smoke: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> ConvexBenchmark:
    """Measure.

    Args:
        sections: restrict to these of :data:`SECTIONS`; all when empty.
        threads: of PyTorch (and of what its BLAS shares with the peers).
        rounds: timed runs of each solver on each problem, in turns; medians count.
        smoke: tiny problems, one round, to see that everything still runs.
        progress: called with a line of text before each part.

    Raises:
        UnknownName: there is no such section.
        ValueError: ``threads`` or ``rounds`` is below one.
    """
    wanted = tuple(sections) or SECTIONS
    for name in wanted:
        if name not in SECTIONS:
            raise UnknownName("section of the convex benchmark", name, SECTIONS)
    for name, number in (("threads", threads), ("rounds", rounds)):
        if number < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {number}")
    torch.set_num_threads(threads)
    rounds = 1 if smoke else rounds
    outcomes: list[Outcome] = []
    promises: list[Promise] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn when they are stopped early, which is how they are measured
        if "networks" in wanted:
            found, kept, more = networks.measure(smoke, rounds, progress)
            outcomes, promises = outcomes + found, promises + kept
            tables |= more
        for name, part in (("sparse", sparse), ("logistic", logistic)):
            if name in wanted:
                found, kept = part.measure(smoke, rounds, progress)
                outcomes, promises = outcomes + found, promises + kept
        if "lazy" in wanted:
            tables["factorizations"], kept = lazy.measure(smoke, rounds, progress)
            promises = promises + kept
    for promise in promises:
        progress(f"{promise.text}: {promise.figure}")
    if smoke:  # times of milliseconds are overhead: they say nothing about what was promised
        promises = [replace(promise, met=None) for promise in promises]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: version for name in _PACKAGES if (version := installed(name)) is not None}
    return ConvexBenchmark(outcomes, promises, tables, threads, rounds, processor(), versions)
