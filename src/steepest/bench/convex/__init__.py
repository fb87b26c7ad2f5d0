"""``steepest bench convex``: the convex rooms' solvers against other packages, at equal accuracy, in one run."""

from .contest import ConvexBenchmark, Outcome, Promise, Side, contest
from .run import SECTIONS, run

__all__ = ["SECTIONS", "ConvexBenchmark", "Outcome", "Promise", "Side", "contest", "run"]
