"""Training with the metric that the loss surface inherits from the space around it: shorter steps where it is steep."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Real
from ..core.rule import compute_dtype, lerp
from ..core.sharding import total

__all__ = ["CARDS", "InducedMetric", "InducedMetricLog", "InducedMetricRMS"]

Pieces = Sequence[tuple[Tensor, ...]]
Measured = tuple[dict[str, Any], dict[str, Any]]
#: The smallest loss whose logarithm is taken.
_TINY = 1e-12


def _smoothed(value: Tensor, settings: Mapping[str, Any], memory: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The bias-corrected moving average with this value, and the memory of it."""
    count = memory.get("count", 0) + 1
    average = lerp(memory.get("average", 0.0), value, 1 - settings["smoothing"])
    return average / (1 - settings["smoothing"] ** count), {"count": count, "average": average}


class InducedMetric(RuleOptimizer):
    r"""Steepest descent in the metric that the graph of the loss inherits from the space around it.

    The graph :math:`(x, \sqrt\xi f(x))` carries the metric :math:`I + \xi\, \nabla f \nabla f^\top`, in which the
    steepest descent is :math:`\nabla f / (1 + \xi \|\nabla f\|^2)`: gradient descent whose steps shrink smoothly where
    the gradient is large. With momentum and a smoothed metric, :math:`t` from 1:

    .. math::
        s_t &= \beta s_{t-1} + (1 - \beta)\, \xi \|g_t\|^2, \qquad c_t = \frac{1}{1 + s_t / (1 - \beta^t)} \\
        m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad
        x_t = (1 - \eta\lambda)\, x_{t-1} - \eta\, c_t\, \frac{m_t}{1 - \mu^t}

    The norm is that of all tensors of a parameter group, so each group has a metric of its own (the metric's diagonal
    blocks); put all parameters in one group for the metric of the paper. :math:`\xi` has the units of
    :math:`1/\|g\|^2` and must be tuned to the size of the model. Where the norm hardly changes, this is SGD at another
    learning rate. With :math:`\xi = 0` it is SGD with bias-corrected momentum; its learning rate is :math:`1/(1 - \mu)`
    times that of ``torch.optim.SGD``, which sums gradients.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        momentum: :math:`\mu` in [0, 1).
        xi: :math:`\xi \ge 0`, the weight of the loss in the metric.
        smoothing: :math:`\beta` in [0, 1), decay of the average of the squared norm.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        common: ``maximize``, ``engine``, ``nonfinite``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Source: Harvey (2025), The Optimiser Hidden in Plain Sight: Training with the Loss Landscape's Induced Metric,
    arXiv 2509.03594. The authors' code keeps one average for all groups, outside the groups and their state dict; with
    one group it is the same.
    """

    state_tensors = {"exp_avg": torch.zeros_like}
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "xi": Real(low=0.0),
        "smoothing": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.1,
        momentum: float = 0.9,
        xi: float = 0.1,
        smoothing: float = 0.8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "xi": xi, "smoothing": smoothing, "weight_decay": weight_decay}
        super().__init__(params, settings, **common)

    @staticmethod
    def coefficients(step: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {"correction": 1 - settings["momentum"] ** step}

    @staticmethod
    def measure(pieces: Pieces, settings: Mapping[str, Any], memory: Mapping[str, Any], loss: Any) -> Measured:
        smoothed, memory = _smoothed(_squared_norm(pieces, settings), settings, memory)
        return {"coupling": 1 / (1 + smoothed)}, memory

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        coupling: float,
        correction: float,
    ) -> tuple[Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - momentum)
        return x - lr * ((coupling / correction) * exp_avg + weight_decay * x), exp_avg


def _squared_norm(pieces: Pieces, settings: Mapping[str, Any]) -> Tensor:
    squares = [g.to(compute_dtype(g.dtype)).square() for _, g, *_ in pieces]
    return settings["xi"] * total(squares)


class InducedMetricLog(InducedMetric):
    r""":class:`InducedMetric` on the graph of :math:`\log f`.

    With the loss :math:`L_t > 0` of the mini-batch, everything is as there but for

    .. math:: c_t = \frac{L_t}{L_t^2 + s_t / (1 - \beta^t)}

    which is the coupling of :math:`\log f` times :math:`1/L_t`, the factor from its gradient to that of :math:`f`. The
    step needs the loss: ``step(closure)`` or ``step(loss=loss)``. It is that of the whole batch, so with several
    processes the mean over them (DDP averages gradients, not losses). Losses below 1e-12 are taken as that, so a loss
    that can be negative is not for this method.

    Args:
        params, lr, momentum, xi, smoothing, weight_decay, common: as for :class:`InducedMetric`; :math:`\xi` has no
            unit here.

    Raises:
        TypeError: ``step`` is told no loss.

    Source: Harvey (2025), arXiv 2509.03594.
    """

    def advance(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Take one step; parameters without a gradient are left alone.

        Args:
            closure: re-evaluates the model with gradients enabled and returns the loss; or
            loss: the loss whose gradients are present, a number or a tensor with one element.

        Returns:
            The loss.
        """
        if closure is None and loss is None:
            # Checkpoint tools make state by a step at a learning rate of zero, of a new optimizer.
            if self.state or any(group["lr"] != 0 for group in self.param_groups):
                raise TypeError(_NO_LOSS)
            loss = 1.0
        return super().advance(closure, loss)

    @staticmethod
    def measure(pieces: Pieces, settings: Mapping[str, Any], memory: Mapping[str, Any], loss: Any) -> Measured:
        if loss is None:
            raise TypeError(_NO_LOSS)
        norm = _squared_norm(pieces, settings)
        value = torch.as_tensor(loss, dtype=norm.dtype, device=norm.device).clamp_min(_TINY)
        smoothed, memory = _smoothed(norm, settings, memory)
        return {"coupling": value / (value * value + smoothed)}, memory

    rule = staticmethod(InducedMetric.rule)


_NO_LOSS = "InducedMetricLog needs the loss: call step(closure) with a closure that returns it, or step(loss=loss)"


class InducedMetricRMS(RuleOptimizer):
    r""":class:`InducedMetric` with Adam's diagonal metric in place of the identity.

    .. math::
        v_t &= \rho v_{t-1} + (1 - \rho) g_t^2, \qquad d_t = \sqrt{v_t / (1 - \rho^t)} + \varepsilon \\
        s_t &= \beta s_{t-1} + (1 - \beta)\, \xi \sum_i g_{t,i}^2 / d_{t,i}, \qquad
        c_t = \frac{1}{1 + s_t / (1 - \beta^t)} \\
        m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad
        x_t = (1 - \eta\lambda)\, x_{t-1} - \eta\, c_t\, \frac{m_t / (1 - \mu^t)}{d_t}

    With :math:`\xi = 0` this is AdamW. In :math:`s_t`, :math:`t` counts the group's steps, also for a tensor whose
    gradient has been missing.

    Args:
        params, lr, momentum, xi, smoothing, weight_decay, common: as for :class:`InducedMetric`; the learning rate is
            of Adam's size (the authors' code has 0.1 here too, and searches from 1e-5).
        rms_decay: :math:`\rho` in [0, 1).
        eps: :math:`\varepsilon \ge 0`.

    Source: Harvey (2025), arXiv 2509.03594.
    """

    state_tensors = {"exp_avg": torch.zeros_like, "exp_avg_sq": torch.zeros_like}
    nonnegative = ("exp_avg_sq",)
    ranges = {**InducedMetric.ranges, "rms_decay": MOMENTUM, "eps": EPSILON}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.9,
        xi: float = 0.1,
        smoothing: float = 0.8,
        rms_decay: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "xi": xi,
            "smoothing": smoothing,
            "rms_decay": rms_decay,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def coefficients(step: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {"correction1": 1 - settings["momentum"] ** step, "correction2": 1 - settings["rms_decay"] ** step}

    @staticmethod
    def measure(pieces: Pieces, settings: Mapping[str, Any], memory: Mapping[str, Any], loss: Any) -> Measured:
        decay = settings["rms_decay"]
        correction = 1 - decay ** (memory.get("count", 0) + 1)
        parts = []
        for _, g, _, exp_avg_sq in pieces:
            square = g.to(compute_dtype(g.dtype)).square()
            root = torch.sqrt((decay * exp_avg_sq + (1 - decay) * square) / correction)
            # Where nothing has happened yet (and eps is 0) the ratio is zero, as is its limit.
            parts.append(square / torch.where(root > 0, root + settings["eps"], 1.0))
        smoothed, memory = _smoothed(settings["xi"] * total(parts), settings, memory)
        return {"coupling": 1 / (1 + smoothed)}, memory

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        lr: float,
        momentum: float,
        rms_decay: float,
        eps: float,
        weight_decay: float,
        coupling: float,
        correction1: float,
        correction2: float,
    ) -> tuple[Tensor, ...]:
        exp_avg = lerp(exp_avg, g, 1 - momentum)
        exp_avg_sq = rms_decay * exp_avg_sq + (1 - rms_decay) * g * g
        denominator = torch.sqrt((1 / correction2) * exp_avg_sq) + eps
        direction = (coupling / correction1) * exp_avg / denominator
        return x - lr * (direction + weight_decay * x), exp_avg, exp_avg_sq


_PAPER = Paper(
    "Harvey",
    2025,
    "The Optimiser Hidden in Plain Sight: Training with the Loss Landscape's Induced Metric",
    arxiv="2509.03594",
)

CARDS = (
    MethodCard(
        name="induced-metric",
        title="Induced metric",
        room="optim",
        family="metric",
        summary="SGD whose steps shrink smoothly where the gradient is large, by the metric of the loss surface.",
        target="steepest.optim.induced_metric:InducedMetric",
        papers=(_PAPER,),
        buffers=1,
        search={
            "lr": Float(1e-3, 3.0, log=True),
            "xi": Float(1e-4, 1.0, log=True),
            "weight_decay": Float(1e-6, 1e-2, log=True),
        },
        claim="Does better than SGD, on functions of two variables above all, and competes with Adam on networks.",
    ),
    MethodCard(
        name="induced-metric-log",
        title="Induced metric (log)",
        room="optim",
        family="metric",
        summary="The induced metric of the logarithm of the loss, whose value it needs.",
        target="steepest.optim.induced_metric:InducedMetricLog",
        papers=(_PAPER,),
        needs=frozenset({"gradient", "closure"}),
        buffers=1,
        search={
            "lr": Float(1e-3, 3.0, log=True),
            "xi": Float(1e-4, 1.0, log=True),
            "weight_decay": Float(1e-6, 1e-2, log=True),
        },
    ),
    MethodCard(
        name="induced-metric-rms",
        title="Induced metric (RMS)",
        room="optim",
        family="metric",
        summary="Adam whose steps shrink with the norm of the gradient in Adam's own metric.",
        target="steepest.optim.induced_metric:InducedMetricRMS",
        papers=(_PAPER,),
        buffers=2,
        search={
            "lr": Float(1e-5, 3e-2, log=True),
            "xi": Float(1e-4, 1.0, log=True),
            "weight_decay": Float(1e-4, 0.3, log=True),
        },
    ),
)
