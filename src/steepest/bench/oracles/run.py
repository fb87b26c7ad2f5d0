"""All sections of the benchmark of oracles."""

import platform
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy
import torch

from ...core.errors import UnknownName
from ..contenders import installed
from ..step import processor
from . import derivatives, methods
from .turns import OracleBenchmark, Promise, Row

__all__ = ["SECTIONS", "run"]

#: The parts that can be asked for.
SECTIONS: dict[str, Callable[[bool, int], tuple[list[Row], list[Promise]]]] = {
    "hvp": derivatives.hvp,
    "per-sample": derivatives.per_sample,
    "spectrum": derivatives.spectra,
    "sam": methods.sam,
    "grades": methods.grades,
    "tract": methods.tracts,
    "mfac": methods.mfac,
    "egn": methods.egn,
}
_PEERS = ("curvlinops-for-pytorch", "backpack-for-pytorch", "opacus", "pyhessian")


def run(
    *,
    sections: Iterable[str] = (),
    threads: int = 2,
    rounds: int = 15,
    smoke: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> OracleBenchmark:
    """Measure.

    Args:
        sections: restrict to these of :data:`SECTIONS`; all when empty.
        threads: of PyTorch.
        rounds: timed runs of each way, in turns; medians count.
        smoke: tiny models and two rounds, to see that everything still runs.
        progress: called with a line of text before each part.

    Raises:
        UnknownName: there is no such section.
        ValueError: ``threads`` or ``rounds`` is below one.
    """
    wanted = tuple(sections) or tuple(SECTIONS)
    for name in wanted:
        if name not in SECTIONS:
            raise UnknownName("section of the benchmark of oracles", name, SECTIONS)
    for name, number in (("threads", threads), ("rounds", rounds)):
        if number < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {number}")
    torch.set_num_threads(threads)
    rounds = 2 if smoke else rounds
    rows: list[Row] = []
    promises: list[Promise] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers use what torch deprecates
        for name in wanted:
            progress(name)
            found, kept = SECTIONS[name](smoke, rounds)
            rows += found
            promises += kept
    versions: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    versions["numpy"] = numpy.__version__
    versions |= {name: found for name in _PEERS if (found := installed(name))}
    return OracleBenchmark(rows, promises, threads, rounds, processor(), versions)
