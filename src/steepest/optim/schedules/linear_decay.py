"""Linear decay of the learning rate to zero, after a linear warm-up."""

from torch.optim import Optimizer

from ...core.card import MethodCard, Paper
from .schedule import Schedule, check_warmup

__all__ = ["CARD", "LinearDecay"]


class LinearDecay(Schedule):
    r"""Rises linearly for some steps, then falls linearly to zero.

    With :math:`T` steps, :math:`w` of them warm-up, the step that :math:`k = 0, 1, \dots` steps went before has the
    learning rate

    .. math::
        \eta_k = \eta_{\max} \begin{cases} \dfrac{k + 1}{w + 1} & k < w \\[1ex] \dfrac{T - k}{T - w} & w \le k < T
        \end{cases}

    and 0 from step :math:`T` on. For convex Lipschitz functions, linear decay gives the last iterate of SGD the rate
    of the best possible method, where constant steps and steps :math:`\propto 1/\sqrt t` lose a factor
    :math:`\log T`; the theory's peak is :math:`D / (G \sqrt T)` with the distance :math:`D` to the solution and
    gradients of norm :math:`G`.

    Defazio et al. count iterates, the first included, and give the last one a step of length 0. Here every one of
    the ``steps`` moves: the sequence is theirs with :math:`T + 1` iterates, up to a constant factor in the peak.

    Call ``step()`` after every step of the optimizer, not once per epoch.

    Args:
        optimizer: its learning rates are the peaks.
        steps: :math:`T \ge 1`, of the optimizer, in the whole run.
        warmup: :math:`w` in [0, steps), how many of them warm up.
        last_epoch: steps taken so far less one; -1 for a new run.

    Raises:
        ValueError, TypeError: ``steps`` or ``warmup`` is out of its range.

    Source: Defazio, Cutkosky, Mehta, Mishchenko (2023), Optimal Linear Decay Learning Rate Schedules and Further
    Refinements, arXiv 2310.07831; Liu, Zhou (2024), arXiv 2312.08531.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: int = 0, last_epoch: int = -1) -> None:
        check_warmup("LinearDecay", steps, warmup)
        self.steps, self.warmup = int(steps), int(warmup)
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """The part of the peak in the step that ``step`` steps went before."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return max(0.0, (self.steps - step) / (self.steps - self.warmup))


CARD = MethodCard(
    name="linear-decay",
    title="Linear decay",
    room="schedules",
    family="learning rate",
    summary="Lets the learning rate fall linearly to zero over the run, after a warm-up.",
    target="steepest.optim.schedules.linear_decay:LinearDecay",
    papers=(
        Paper(
            "Defazio, Cutkosky, Mehta, Mishchenko",
            2023,
            "Optimal Linear Decay Learning Rate Schedules and Further Refinements",
            arxiv="2310.07831",
        ),
    ),
    buffers=0,
    usage="steepest.optim.schedules.LinearDecay(optimizer, steps=10_000, warmup=500)",
)
