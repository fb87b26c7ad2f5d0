"""``steepest bench oracles``: derivatives, curvature methods and wrappers against peers and promises, in one run."""

from .run import SECTIONS, run
from .turns import OracleBenchmark, Promise, Row, Way, turns

__all__ = ["SECTIONS", "OracleBenchmark", "Promise", "Row", "Way", "run", "turns"]
