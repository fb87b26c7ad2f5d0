"""Learning-rate schedules, and what else follows the course of a run: freezing, batch sizes, averages of iterates."""

from . import batch_scaling, grades, langevin_averaging, linear_decay, refined_schedule, slow_start_fast_decay
from .batch_scaling import (
    LearningRate,
    effective_batch,
    extreme_eigenvalue,
    hessian_noise,
    lanczos_learning_rate,
    linear_scaling,
    square_root_scaling,
    stable_learning_rate,
)
from .grades import GradES
from .langevin_averaging import LangevinAveraging
from .linear_decay import LinearDecay
from .refined_schedule import GradientNorms, RefinedSchedule, minimize_bound, refine, subgradient_bound
from .slow_start_fast_decay import SlowStartFastDecay

__all__ = [
    "GradES",
    "GradientNorms",
    "LangevinAveraging",
    "LearningRate",
    "LinearDecay",
    "RefinedSchedule",
    "SlowStartFastDecay",
    "effective_batch",
    "extreme_eigenvalue",
    "hessian_noise",
    "lanczos_learning_rate",
    "linear_scaling",
    "minimize_bound",
    "refine",
    "square_root_scaling",
    "stable_learning_rate",
    "subgradient_bound",
]

CARDS = (
    linear_decay.CARD,
    refined_schedule.CARD,
    batch_scaling.CARD,
    slow_start_fast_decay.CARD,
    langevin_averaging.CARD,
    grades.CARD,
)
