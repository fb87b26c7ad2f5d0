"""TNGD: a natural gradient whose linear system is left to relax, for a time, as an Ornstein-Uhlenbeck process."""

from typing import Any

import torch
from torch import Tensor, nn

from ..core import tree
from ..core.batch_optimizer import BatchOptimizer, Linearized
from ..core.card import Float, MethodCard, Paper
from ..core.gram import GramSpectrum
from ..core.operators import Loss
from ..core.optimizer import NonFinite
from ..core.output_loss import LossName
from ..core.random import normal
from ..core.ranges import MOMENTUM, STEP_SIZE, Flag, Integer, OneOf, Real

__all__ = ["CARD", "ThermodynamicNaturalGradient", "evolve", "evolve_euler"]


class ThermodynamicNaturalGradient(BatchOptimizer):
    r"""Thermodynamic natural gradient descent: between gradient descent and the natural gradient.

    On a mini-batch, with the generalized Gauss-Newton matrix :math:`G`, :math:`F = G + \lambda I` and the gradient
    :math:`g`, the process

    .. math::
        dy = -(F y - g)\, dt + \mathcal N(0, 2 \kappa\, dt), \qquad
        \mathbb E\, y_t = e^{-F t} (y_0 - F^{-1} g) + F^{-1} g, \qquad
        \operatorname{Cov} y_t = \kappa F^{-1} (I - e^{-2 F t})

    runs for a time :math:`t`, and :math:`x \leftarrow x - \eta\, y_t`. The authors have an analog device in mind that
    relaxes by itself; this simulates it. ``simulation="exact"`` draws :math:`y_t` from its law, through the
    eigenvalues of the matrix of the outputs' Gram matrix: as much work as solving for the natural gradient, whatever
    :math:`t`. ``"euler"`` takes steps of ``dt``, as the paper does.

    With ``warm_start``, :math:`y_0` is where the process was at the end of the last step (in the first step
    :math:`g`), which acts like momentum; without, it is :math:`g`, and :math:`t` goes exactly from gradient descent (0)
    to the natural gradient (infinity). With a ``delay`` the device goes on for that long on the old mini-batch before
    the next one reaches it.

    Args:
        model: see :class:`~steepest.core.batch_optimizer.BatchOptimizer`, as for ``loss``, ``chunk``, ``nonfinite``.
        loss: ``"squared"`` (half the sum of squares of a sample), ``"cross-entropy"``, ``"binary"``, or a function.
        lr: :math:`\eta \ge 0`.
        damping: :math:`\lambda > 0`; without it what no sample sees would never relax.
        time: :math:`t` in [0, inf], in units of the inverse of the curvature (the device's time constant).
        temperature: :math:`\kappa \ge 0`, the strength of the noise. What no sample sees relaxes to a variance of
            :math:`\kappa / \lambda` per parameter, of which the step takes :math:`\eta^2`.
        momentum: in [0, 1): :math:`m \leftarrow \mu m + y_t` is what is stepped along, as in SGD.
        warm_start: whether the process starts where it ended.
        delay: the time :math:`\ge 0` for which it runs on after the step; it has no effect without ``warm_start``.
        simulation: ``"exact"`` or ``"euler"``.
        dt: the step of Euler's method, > 0; it must be below two over the largest eigenvalue of :math:`F`.
        seed: of the noise, which depends on it and the count of the step alone.

    Raises:
        ValueError: ``simulation="euler"`` with an infinite time.
        RuntimeError: in a step, a batch norm is in training mode.

    Equation 25 of the paper prints the drift of Euler's step with the other sign. The paper also feeds :math:`y_t` to
    Adam in place of the gradient, which is not offered here.

    Source: Donatella, Duffield, Aifer, Melanson, Crooks, Coles (2024), Thermodynamic Natural Gradient Descent,
    arXiv 2405.13817.
    """

    ranges = {
        "lr": STEP_SIZE,
        "damping": Real(low=0.0, low_open=True),
        "time": Real(low=0.0, infinite=True),
        "temperature": Real(low=0.0),
        "momentum": MOMENTUM,
        "warm_start": Flag(),
        "delay": Real(low=0.0),
        "simulation": OneOf(("exact", "euler")),
        "dt": Real(low=0.0, low_open=True),
        "seed": Integer(low=0),
    }

    def __init__(
        self,
        model: nn.Module,
        loss: LossName | Loss = "cross-entropy",
        lr: float = 0.01,
        damping: float = 0.01,
        time: float = 50.0,
        temperature: float = 0.0,
        momentum: float = 0.0,
        warm_start: bool = True,
        delay: float = 0.0,
        simulation: str = "exact",
        dt: float = 0.1,
        seed: int = 0,
        chunk: int | None = None,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        settings = {
            "lr": lr,
            "damping": damping,
            "time": time,
            "temperature": temperature,
            "momentum": momentum,
            "warm_start": warm_start,
            "delay": delay,
            "simulation": simulation,
            "dt": dt,
            "seed": seed,
        }
        super().__init__(model, loss, settings, chunk=chunk, nonfinite=nonfinite)
        self.param_groups[0]["steps"] = 0

    def direction(self, at: Linearized, group: dict[str, Any]) -> Tensor:
        """Minus the state of the device."""
        if group["simulation"] == "euler" and group["time"] == torch.inf:
            raise ValueError(f"{type(self).__name__}: simulation='euler' needs a finite time, got {group['time']!r}")
        rows, gradient = at.rows, at.gradient
        root = at.loss.root(at.outputs, at.targets)
        if root is not None:  # the rows of S^T J, whose Gram matrix belongs to J^T Q J
            rows = torch.einsum("bij,bid->bjd", root, rows)
        rows = rows.flatten(0, 1)
        spectrum = GramSpectrum(rows, group["damping"], len(at.outputs)) if group["simulation"] == "exact" else None

        def run(y: Tensor, time: float, leg: int) -> Tensor:
            keys = (group["seed"], group["steps"], leg)
            if spectrum is not None:
                noise = normal(y, *keys) if group["temperature"] else None
                return evolve(spectrum, gradient, y, time, group["temperature"], noise)
            return evolve_euler(
                rows, len(at.outputs), group["damping"], gradient, y, time, group["temperature"], group["dt"], keys
            )

        start = gradient
        if group["warm_start"] and all("device" in self.state[p] for p in at.params):
            start = tree.ravel([self.state[p]["device"] for p in at.params])
        found = run(start, group["time"], 0)
        if group["warm_start"] and bool(found.isfinite().all()):
            after = run(found, group["delay"], 1) if group["delay"] else found
            for p, part in zip(at.params, tree.unravel(after, at.params), strict=True):
                self.state[p]["device"] = part.clone()
        group["steps"] += 1
        return -found

    def move(self, at: Linearized, direction: Tensor, group: dict[str, Any], evaluate: Any) -> None:
        """A step of SGD, with momentum."""
        if group["momentum"]:
            parts = []
            for p, part in zip(at.params, tree.unravel(direction, at.params), strict=True):
                held = self.state[p].setdefault("momentum", torch.zeros_like(p))
                parts.append(held.mul_(group["momentum"]).add_(part))
            direction = tree.ravel(parts)
        self.put(at, group["lr"], direction)


def evolve(
    spectrum: GramSpectrum,
    gradient: Tensor,
    start: Tensor,
    time: float,
    temperature: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """The Ornstein-Uhlenbeck process after a time, from its law.

    Args:
        spectrum: of ``F``.
        gradient, start: ``(d,)``.
        time: in [0, inf].
        temperature: the strength of the noise.
        noise: standard normal numbers ``(d,)``; None for the mean.
    """
    decayed = spectrum.apply(lambda f: torch.exp(-f * time), start)
    reached = spectrum.apply(lambda f: -torch.expm1(-f * time) / f, gradient)
    if noise is None:
        return decayed + reached
    return decayed + reached + spectrum.apply(lambda f: (-temperature * torch.expm1(-2 * f * time) / f).sqrt(), noise)


def evolve_euler(
    rows: Tensor,
    divisor: int,
    damping: float,
    gradient: Tensor,
    start: Tensor,
    time: float,
    temperature: float,
    dt: float,
    keys: tuple[int, ...],
) -> Tensor:
    """The same by Euler and Maruyama's method, in ``ceil(time / dt)`` equal steps of at most ``dt``."""
    count = int(-(-time // dt))
    size = time / max(count, 1)
    y = start
    for k in range(count):
        y = y - size * (damping * y + rows.mT @ (rows @ y) / divisor - gradient)
        if temperature:
            y = y + (2 * temperature * size) ** 0.5 * normal(y, *keys, k)
    return y


CARD = MethodCard(
    name="tngd",
    title="Thermodynamic natural gradient descent",
    room="optim",
    family="curvature",
    summary="Natural gradient from a linear system that relaxes for a time, between gradient descent and its solution.",
    target="steepest.optim.thermodynamic:ThermodynamicNaturalGradient",
    papers=(
        Paper(
            "Donatella, Duffield, Aifer, Melanson, Crooks, Coles",
            2024,
            "Thermodynamic Natural Gradient Descent",
            arxiv="2405.13817",
        ),
    ),
    needs=frozenset({"batch"}),
    buffers=1,
    search={"lr": Float(1e-3, 1.0, log=True), "time": Float(1.0, 100.0, log=True)},
    takes_model=True,
    claim="The training loss after equally many steps falls with the time towards that of the exact natural gradient, "
    "and weak noise does not matter.",
)
