"""Schedules refined with the gradient norms of an earlier run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim import Optimizer

from ...core.card import MethodCard, Paper
from ...core.ranges import OneOf, Real, check_settings
from ...core.sharding import full
from .schedule import STEPS, Schedule

__all__ = ["CARD", "GradientNorms", "RefinedSchedule", "minimize_bound", "refine", "subgradient_bound"]

_ORDER = OneOf((1, 2))
_SMOOTHING = Real(low=0.0, high=1.0)
Numbers = Sequence[float] | npt.NDArray[np.float64]


class GradientNorms:
    """Records the norm of the gradient in every step of a run, for :class:`RefinedSchedule` of the next.

    Call :meth:`record` after ``backward()`` and *before* the gradients are clipped (and after a gradient scaler's
    ``unscale_``); where nothing is clipped outside the optimizer, :meth:`attach` does it in every ``optimizer.step()``.
    The norm is over all parameters of all groups together. Nothing waits for the device until the norms are read.

    Args:
        optimizer: whose parameters are watched.
        order: 2 for SGD and its relatives, 1 for Adam and its relatives.

    Raises:
        ValueError: ``order`` is neither.

    Source: Defazio et al. (2023), arXiv 2310.07831.
    """

    def __init__(self, optimizer: Optimizer, order: int = 2) -> None:
        check_settings("GradientNorms", {"order": order}, {"order": _ORDER})
        self.optimizer, self.order = optimizer, order
        self._recorded: list[Tensor] = []

    @torch.no_grad()
    def record(self, *_: Any) -> None:
        """Append the norm of the present gradients; parameters without one count as zero."""
        total: Tensor | None = None
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
                # Powers are summed, in float64: squares of half-precision gradients overflow.
                norm = full(torch.linalg.vector_norm(g, self.order, dtype=_wide(g))).double() ** self.order
                total = norm if total is None else total + norm.to(total.device)
        self._recorded.append(torch.zeros((), dtype=torch.float64) if total is None else total ** (1 / self.order))

    def attach(self) -> Any:
        """Record at the beginning of every ``optimizer.step()``; the handle that is returned has ``remove()``.

        With a closure the gradients at that moment are those of the call before: use :meth:`record` inside of it.
        """
        return self.optimizer.register_step_pre_hook(self.record)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The norms so far, one per step."""
        self._recorded = [t.cpu() for t in self._recorded]
        return np.array([float(t) for t in self._recorded])

    def __len__(self) -> int:
        return len(self._recorded)

    def state_dict(self) -> dict[str, Any]:
        """The order and the norms, as numbers."""
        return {"order": self.order, "values": self.values.tolist()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        check_settings("GradientNorms", {"order": state_dict["order"]}, {"order": _ORDER})
        self.order = state_dict["order"]
        self._recorded = [torch.tensor(v, dtype=torch.float64) for v in state_dict["values"]]


def _wide(g: Tensor) -> torch.dtype:
    return torch.complex128 if g.is_complex() else torch.float64


def _usable(norms: Numbers, owner: str) -> npt.NDArray[np.float64]:
    """Norms without infinities, NaN and zeros: these are interpolated between their neighbours in time."""
    values = np.asarray(norms, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{owner}: norms must be a sequence of at least one number, got the shape {values.shape}")
    if (values < 0).any():
        raise ValueError(f"{owner}: norms must not be negative, got {values.min()!r}")
    good = np.isfinite(values) & (values > 0)
    if not good.any():
        raise ValueError(f"{owner}: norms must hold a positive finite number, got none among {len(values)}")
    places = np.arange(len(values))
    return np.interp(places, places[good], values[good])


def refine(norms: Numbers, order: int = 2, smoothing: float = 0.1) -> npt.NDArray[np.float64]:
    r"""The schedule for a run whose gradients have these norms: as many factors, the largest of them 1.

    See :class:`RefinedSchedule` for the equations and the arguments.

    Source: Defazio et al. (2023), arXiv 2310.07831.
    """
    from scipy.ndimage import median_filter

    check_settings("refine", {"order": order, "smoothing": smoothing}, {"order": _ORDER, "smoothing": _SMOOTHING})
    values = _usable(norms, "refine")
    width = int(smoothing * len(values)) // 2 * 2 + 1
    if width > 1:
        padded = np.pad(values, (0, 2 * width), mode="reflect")
        values = median_filter(padded, width, mode="nearest")[: len(values)]
    weights = (values / values.min()) ** -order
    after = np.cumsum(weights[::-1])[::-1] - weights + weights[-1]
    factors = weights * after
    return np.asarray(factors / factors.max())


class RefinedSchedule(Schedule):
    r"""The learning rates that suit the gradient norms which an earlier run of the same training had.

    The norms :math:`G_1, \dots, G_T` are smoothed by a running median and turned into weights and learning rates

    .. math::
        w_t = \hat G_t^{-p}, \qquad \eta_t \propto w_t \sum_{s = t + 1}^{T + 1} w_s, \qquad w_{T + 1} = w_T,

    with the largest :math:`\eta_t` the optimizer's own learning rate. For SGD the norm is :math:`\ell_2` and
    :math:`p = 2`, for Adam :math:`\ell_1` and :math:`p = 1`; one argument, ``order``, says both. Constant norms give
    linear decay. Norms that fall at first give a warm-up, norms that grow at the end an early, fast decay; a
    warm-up is part of what comes out and needs no setting. The peak must be tuned for this schedule as for any.

    Defazio et al. count iterates and give the last one a step of length 0; here every step moves, and the iterate that
    the last step leads to is taken to have the last norm. The median's window is reflected at the end.

    Record with :class:`GradientNorms`, in a run with any schedule (and a warm-up where the training needs one).

    Args:
        optimizer: its learning rates are the peaks.
        norms: of the gradients, one per step, before clipping. Zeros, NaN and infinities are interpolated.
        order: 2 for SGD, 1 for Adam: the norm, and the power :math:`p`.
        smoothing: the width of the median's window in parts of the run, in [0, 1]; 0 smooths nothing.
        steps: of the new run, >= 1; by default as many as there are norms. Otherwise the schedule is stretched.
        last_epoch: steps taken so far less one; -1 for a new run.

    Raises:
        ValueError, TypeError: a setting is out of its range, or no norm is usable.

    Source: Defazio, Cutkosky, Mehta, Mishchenko (2023), Optimal Linear Decay Learning Rate Schedules and Further
    Refinements, arXiv 2310.07831.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        norms: Numbers | GradientNorms,
        order: int = 2,
        smoothing: float = 0.1,
        steps: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        if isinstance(norms, GradientNorms):
            if norms.order != order:
                raise ValueError(
                    f"RefinedSchedule: order must be that of the recorded norms, {norms.order}, got {order!r}"
                )
            norms = norms.values
        factors = refine(norms, order, smoothing)
        if steps is not None and steps != len(factors):
            check_settings("RefinedSchedule", {"steps": steps}, {"steps": STEPS})
            old, new = ((np.arange(n) + 0.5) / n for n in (len(factors), steps))
            factors = np.interp(new, old, factors)
            factors = factors / factors.max()
        self.factors = factors.tolist()
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """The part of the peak in the step that ``step`` steps went before; 0 after the end."""
        return self.factors[step] if step < len(self.factors) else 0.0


def subgradient_bound(step_sizes: Numbers, norms: Numbers | float, distance: float = 1.0) -> float:
    r"""What the subgradient method is proved to reach at its last iterate, for given step sizes and gradient norms.

    For convex :math:`f` and :math:`x_{t + 1} = x_t - \eta_t g_t` from a point at distance :math:`D` of a minimizer,
    with :math:`S_t = \sum_{s = t}^T \eta_s`,

    .. math::
        f(x_T) - f^* \le \frac{D^2}{2 S_1} + \frac12 \sum_{t = 1}^{T - 1} \frac{\eta_t^2 G_t^2}{S_{t + 1}}
        + \frac12 \eta_T G_T^2.

    The last step size belongs to the bound alone: :math:`x_T` does not depend on it. The paper writes the same bound as
    a double sum. With stochastic gradients it holds in expectation for :math:`G_t^2 = \mathbb E \|g_t\|^2`.

    Args:
        step_sizes: :math:`\eta_1, \dots, \eta_T`, all positive.
        norms: :math:`G_1, \dots, G_T`, or one number for all.
        distance: :math:`D \ge 0`.

    Raises:
        ValueError, TypeError: an argument is out of its range, or there are not as many norms as steps.

    Source: Defazio et al. (2023), arXiv 2310.07831.
    """
    sizes = _positive("subgradient_bound", step_sizes)
    values = np.asarray(norms, dtype=np.float64)
    if values.shape not in ((), sizes.shape) or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            f"subgradient_bound: norms must be a non-negative finite number, or one for each of {len(sizes)} steps, "
            f"got {norms!r}"
        )
    check_settings("subgradient_bound", {"distance": distance}, {"distance": Real(low=0.0)})
    squares = np.broadcast_to(values**2, sizes.shape)
    return _bound_and_slope(sizes, squares, distance)[0]


def _positive(owner: str, step_sizes: Numbers) -> npt.NDArray[np.float64]:
    sizes = np.asarray(step_sizes, dtype=np.float64)
    if sizes.ndim != 1 or not len(sizes) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"{owner}: step_sizes must be a sequence of positive finite numbers, got {step_sizes!r}")
    return sizes


def _bound_and_slope(
    sizes: npt.NDArray[np.float64], squares: npt.NDArray[np.float64], distance: float
) -> tuple[float, npt.NDArray[np.float64]]:
    tails = np.cumsum(sizes[::-1])[::-1]
    behind = np.append(tails[1:], sizes[-1])  # the last term divides by its own step size
    terms = sizes**2 * squares / behind
    value = 0.5 * (distance**2 / tails[0] + terms.sum())
    # Step size s is in S_1, in its own term, and in S_{t+1} of every earlier t.
    pull = terms / behind
    earlier = np.append(0.0, np.cumsum(pull[:-1]))
    slope = 0.5 * (-((distance / tails[0]) ** 2) + 2 * sizes * squares / behind - earlier)
    slope[-1] -= 0.5 * pull[-1]
    return float(value), slope


def minimize_bound(norms: Numbers, distance: float = 1.0) -> npt.NDArray[np.float64]:
    """The step sizes that minimize :func:`subgradient_bound`, found numerically (L-BFGS-B).

    A slower and more exact alternative to :func:`refine`, for a few thousand steps at most; the step sizes are
    absolute, in the units of ``distance`` over those of the norms.

    Args:
        norms: of the gradients, as in :class:`RefinedSchedule`; they are not smoothed.
        distance: from the start to the solution, > 0; the result is proportional to it.

    Source: Defazio et al. (2023), arXiv 2310.07831.
    """
    from scipy.optimize import minimize

    check_settings("minimize_bound", {"distance": distance}, {"distance": Real(low=0.0, low_open=True)})
    values = _usable(norms, "minimize_bound")
    scale = float(np.sqrt(np.mean(values**2)))
    squares, steps = (values / scale) ** 2, len(values)
    start = np.linspace(1.0, 1.0 / steps, steps) / steps**0.5

    # In logarithms step sizes stay positive and those of the last steps, which are small, count like the others.
    def function(logarithms: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        sizes = np.exp(logarithms)
        value, slope = _bound_and_slope(sizes, squares, 1.0)
        return steps**0.5 * value, steps**0.5 * slope * sizes

    floor = np.log(1e-8 * start[0])
    found = minimize(
        function,
        np.log(start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(floor, None)] * steps,
        options={"maxiter": 5000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30},
    )
    return np.asarray(np.exp(found.x) * distance / scale)


CARD = MethodCard(
    name="refined-schedule",
    title="Refined learning-rate schedule",
    room="schedules",
    family="learning rate",
    summary="Computes the learning-rate schedule from the gradient norms of an earlier run.",
    target="steepest.optim.schedules.refined_schedule:RefinedSchedule",
    papers=(
        Paper(
            "Defazio, Cutkosky, Mehta, Mishchenko",
            2023,
            "Optimal Linear Decay Learning Rate Schedules and Further Refinements",
            arxiv="2310.07831",
        ),
    ),
    buffers=0,
    usage="steepest.optim.schedules.RefinedSchedule(optimizer, norms, order=1)",
    claim="Linear decay matches or beats the other usual schedules, and refining it with the gradient norms of an "
    "earlier run gains a little more.",
)
