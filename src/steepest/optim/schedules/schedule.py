"""What the schedules here share: the learning rate of a step is the peak times a factor of the step alone."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...core.ranges import Integer, check_settings

__all__ = ["STEPS", "Schedule"]

STEPS = Integer(low=1)


class Schedule(LRScheduler):
    """A learning-rate schedule in closed form: ``lr = factor(step) * peak``, with the peak of every group.

    A subclass sets what :meth:`factor` reads before it calls ``super().__init__``. All of it is in ``state_dict()``, so
    that a resumed run follows the schedule it was saved with.

    Args:
        optimizer: whose learning rates, as they stand, are the peaks.
        last_epoch: as in every scheduler of torch: the steps taken so far less one, -1 for a new run.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """The factor of the learning rate in the step that ``step`` steps went before."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        """The learning rate of every group for the next step."""
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    # With it, ``step(epoch)`` jumps to a step, as with the schedulers of torch.
    _get_closed_form_lr = get_lr


def check_warmup(owner: str, steps: int, warmup: int) -> None:
    """Refuse a number of steps, or of those that warm up, that is out of its range."""
    check_settings(owner, {"steps": steps}, {"steps": STEPS})
    check_settings(owner, {"warmup": warmup}, {"warmup": Integer(low=0, high=steps - 1)})
