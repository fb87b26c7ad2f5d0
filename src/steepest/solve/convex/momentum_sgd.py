"""Stochastic gradient descent with momentum, as a moving average of iterates."""

from dataclasses import dataclass
from typing import Any

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer, Real
from steepest.core.regularizer import Zero
from steepest.core.solver import State
from steepest.core.tree import Point, add_scaled, tree_map
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.stochastic import StochasticSolver, smoothness, step_or

__all__ = ["CARD", "MomentumSGD", "MomentumSGDState"]

CARD = MethodCard(
    name="momentum-sgd",
    title="SGD with growing momentum",
    room="convex",
    family="stochastic",
    summary="Momentum whose weight grows, so that the last iterate is as good as an average of SGD's.",
    target="steepest.solve.convex.momentum_sgd:MomentumSGD",
    papers=(
        Paper(
            "O. Sebbouh, R. M. Gower, A. Defazio",
            2021,
            "Almost sure convergence rates for Stochastic Gradient Descent and Stochastic Heavy Ball",
            arxiv="2006.07867",
        ),
        Paper(
            "G. Garrigos, R. M. Gower",
            2023,
            "Handbook of Convergence Theorems for (Stochastic) Gradient Methods",
            arxiv="2301.11235",
        ),
    ),
    needs=frozenset({"samples"}),
    buffers=2,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class MomentumSGDState(State):
    """The iterate, and:

    Attributes:
        average: ``z``, the point that takes the gradient steps.
        iteration: steps of the method done.
    """

    average: Any
    iteration: int = 0


@dataclass(frozen=True)
class MomentumSGD(StochasticSolver[MomentumSGDState]):
    r"""Stochastic gradient descent with momentum.

    It solves ``min_x (1/n) sum_i f_i(x)`` by a moving average of iterates, from ``z_{-1} = x_0``::

        z_k = z_{k-1} - step_size grad f_B(x_k),        x_{k+1} = (w_{k+1} x_k + z_k) / (w_{k+1} + 1)

    with ``w_k = k / 2``, or ``w = momentum / (1 - momentum)`` where a momentum is given. It is the same as::

        m_k = w_k / (1 + w_k) m_{k-1} + grad f_B(x_k),        x_{k+1} = x_k - step_size / (1 + w_{k+1}) m_k

    for a constant momentum the usual buffer with step size ``step_size (1 - momentum)``. For growing weights, convex
    ``f_i``, ``L`` and ``s`` as in
    :class:`~steepest.solve.convex.sgd.SGD`, and a step size of at most ``1 / (4 L)``, the *last* iterate has::

        E f(x_k) - min f <= |x_0 - x*|^2 / (step_size (k + 1)) + 2 step_size s

    One step of a run is ``inner`` steps of the method. Stationarity is the norm of the gradient (measured apart and not
    counted).

    Args:
        step_size: > 0; default ``1 / (4 L)``.
        momentum: in [0, 1); default ``None``, the growing weights of the theory. 0 is plain SGD.
        batch: samples per step, >= 1. Default 1.
        replacement: whether the samples of a batch may repeat. Default True.
        inner: steps of the method per step of a run, >= 1; default an epoch, ``ceil(n / batch)``.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, ``batch`` exceeds ``n`` without replacement, no
            step size is given and the problem does not state how smooth it is, or the problem has a regularizer.

    Source: O. Sebbouh, R. M. Gower and A. Defazio (2021), "Almost sure convergence rates for Stochastic Gradient
    Descent and Stochastic Heavy Ball", arXiv 2006.07867; the bound as in G. Garrigos and R. M. Gower (2023), "Handbook
    of Convergence Theorems for (Stochastic) Gradient Methods", arXiv 2301.11235, section 7.
    """

    step_size: float | None = None
    momentum: float | None = None
    inner: int | None = None

    needs = frozenset({"samples"})
    ranges = {
        "batch": Integer(low=1),
        "replacement": Flag(),
        "step_size": Real(low=0.0, low_open=True, optional=True),
        "momentum": Real(low=0.0, high=1.0, high_open=True, optional=True),
        "inner": Integer(low=1, optional=True),
    }

    def init(self, problem: SumProblem, start: Point, generator: torch.Generator) -> MomentumSGDState:
        """Nothing is asked of the problem yet."""
        self.check_batch(problem)
        if not isinstance(problem.regularizer, Zero):
            raise ValueError(f"MomentumSGD has no proximal step: regularizer must be 0, got {problem.regularizer!r}")
        self.size(problem)
        return MomentumSGDState(point=start, average=start, generator=generator)

    def size(self, problem: SumProblem) -> float:
        """The step size as given, or the default for a problem."""
        constant = smoothness(problem, self.batch, replacement=self.replacement)
        return step_or(self.step_size, 0.25, constant, "MomentumSGD: step_size")

    def weight(self, k: int) -> float:
        """``w_k``."""
        return 0.5 * k if self.momentum is None else self.momentum / (1 - self.momentum)

    def step(self, problem: SumProblem, state: MomentumSGDState) -> MomentumSGDState:
        """``inner`` steps of the method."""
        assert state.generator is not None
        size, count = self.size(problem), self.inner or self.epoch(problem)
        x, z = state.point, state.average
        for k, indices in enumerate(self.draw(problem, count, state.generator).unbind(), state.iteration):
            z = add_scaled(z, -size, problem.sample_gradient(x, indices))
            share = 1 / (1 + self.weight(k + 1))
            x = tree_map(lambda a, b, share=share: torch.lerp(a, b, share), x, z)
        return MomentumSGDState(point=x, average=z, generator=state.generator, iteration=state.iteration + count)
