"""Learning-rate schedules, and what else follows the course of a run: freezing, batch sizes, averages of iterates."""

from . import grades as _grades
from .grades import GradES

__all__ = ["GradES"]

CARDS = (_grades.CARD,)
