"""Slow start, fast decay: the learning rate for adversarial fine-tuning of a trained network."""

from torch.optim import Optimizer

from ...core.card import MethodCard, Paper
from ...core.ranges import Real, check_settings
from .schedule import Schedule, check_warmup

__all__ = ["CARD", "SlowStartFastDecay"]

_PART = Real(low=0.0, high=1.0, low_open=True)


class SlowStartFastDecay(Schedule):
    r"""Rises linearly from a small learning rate, then falls exponentially to a very small one.

    With :math:`T` steps, :math:`w` of them warm-up, the step that :math:`k` steps went before has the learning rate

    .. math::
        \eta_k = \eta_{\max} \begin{cases} s + (1 - s)\, k / w & k < w \\
        q^{(k - w) / (T - w)} & k \ge w \end{cases}

    constant at :math:`q\, \eta_{\max}` from step :math:`T` on. A network that was trained on clean data is fine-tuned
    with adversarial examples for about ten epochs: the slow start keeps what it has learnt, the fast decay stops
    before it fits the adversaries of the training data too closely.

    The paper describes this shape. The default values of ``warmup``, ``start_factor`` and ``end_factor`` are a
    reading of it, not its numbers.

    Args:
        optimizer: its learning rates are the peaks :math:`\eta_{\max}`.
        steps: :math:`T \ge 1`, of the optimizer, in the whole fine-tuning.
        warmup: :math:`w` in [0, steps); by default a tenth of the steps.
        start_factor: :math:`s` in (0, 1], the first learning rate in parts of the peak.
        end_factor: :math:`q` in (0, 1], the last one.
        last_epoch: steps taken so far less one; -1 for a new run.

    Raises:
        ValueError, TypeError: a setting is out of its range.

    Source: Jeddi, Shafiee, Wong (2020), A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via
    Adversarial Fine-tuning, arXiv 2012.13628.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        warmup: int | None = None,
        start_factor: float = 0.1,
        end_factor: float = 0.01,
        last_epoch: int = -1,
    ) -> None:
        check_warmup("SlowStartFastDecay", steps, 0)
        warmup = steps // 10 if warmup is None else warmup
        check_warmup("SlowStartFastDecay", steps, warmup)
        ratios = {"start_factor": start_factor, "end_factor": end_factor}
        check_settings("SlowStartFastDecay", ratios, dict.fromkeys(ratios, _PART))
        self.steps, self.warmup = int(steps), int(warmup)
        self.start_factor, self.end_factor = float(start_factor), float(end_factor)
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """The part of the peak in the step that ``step`` steps went before."""
        if step < self.warmup:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup
        decayed: float = self.end_factor ** min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return decayed


CARD = MethodCard(
    name="slow-start-fast-decay",
    title="Slow start, fast decay",
    room="schedules",
    family="learning rate",
    summary="A short linear rise, then a fast exponential decay, for adversarial fine-tuning of a trained network.",
    target="steepest.optim.schedules.slow_start_fast_decay:SlowStartFastDecay",
    papers=(
        Paper(
            "Jeddi, Shafiee, Wong",
            2020,
            "A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via Adversarial Fine-tuning",
            arxiv="2012.13628",
        ),
    ),
    buffers=0,
    usage="steepest.optim.schedules.SlowStartFastDecay(optimizer, steps=1000)",
    claim="Fine-tuning a trained network with adversarial examples for a few epochs is as robust as adversarial "
    "training from scratch, at a fraction of its cost.",
)
