"""SVRG: stochastic gradients corrected by a full gradient at a snapshot, with a prox."""

from dataclasses import dataclass
from typing import Literal

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer, OneOf, Real
from steepest.core.solver import State
from steepest.core.tree import Point, add_scaled, tree_map
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.stochastic import StochasticSolver, spread, step_or

__all__ = ["CARD", "SVRG"]

CARD = MethodCard(
    name="svrg",
    title="SVRG",
    room="convex",
    family="variance reduction",
    summary="Stochastic gradients corrected by a full gradient at a snapshot: linear convergence without a table.",
    target="steepest.solve.convex.svrg:SVRG",
    papers=(
        Paper(
            "R. Johnson, T. Zhang",
            2013,
            "Accelerating Stochastic Gradient Descent using Predictive Variance Reduction",
            venue="NeurIPS 26",
        ),
        Paper(
            "L. Xiao, T. Zhang",
            2014,
            "A Proximal Stochastic Gradient Method with Progressive Variance Reduction",
            arxiv="1403.4699",
        ),
    ),
    needs=frozenset({"samples", "prox"}),
    buffers=2,
)


@dataclass(frozen=True)
class SVRG(StochasticSolver[State]):
    r"""The proximal stochastic variance reduced gradient method.

    It solves ``min_x (1/n) sum_i f_i(x) + g(x)``. An epoch begins with the full gradient ``v`` at the snapshot ``w``
    and goes on, from ``x_0 = w``, for ``k = 0, ..., inner - 1``::

        d_k = grad f_B(x_k) - grad f_B(w) + v,        x_{k+1} = prox_{t g}(x_k - t d_k)

    The next snapshot is the mean of ``x_1, ..., x_inner``, or the last of them. With ``L`` the smoothness of the
    roughest ``f_i``, ``m`` the strong convexity of ``f + g``, ``a = spread`` the part of a sample's variance that a
    batch keeps (1 for a single sample, 0 for all), the mean as snapshot, and ``t <= 1 / L``, ``4 t L a < 1``, an epoch
    shrinks ``E F(w) - min F`` by the factor::

        1 / (m t (1 - 4 t L a) inner) + 4 t L a (inner + 1) / ((1 - 4 t L a) inner)

    One step of a run is one epoch: ``n + 2 batch inner`` samples. Stationarity is the norm of the gradient mapping
    (measured apart and not counted).

    Args:
        step_size: > 0; default ``min(1 / L_f, 1 / (10 L a))`` with ``L_f`` the smoothness of ``f``; the papers suggest
            ``1 / (10 L)`` for single samples.
        snapshot: the next snapshot: ``"average"`` (default), as the rate asks, or ``"last"``, which is often faster.
        batch: samples per inner step, >= 1. Default 1.
        replacement: whether the samples of a batch may repeat. Default True.
        inner: inner steps per epoch, >= 1; default ``ceil(2 n / batch)``, the papers'.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, ``batch`` exceeds ``n`` without replacement, or no
            step size is given and the problem does not state how smooth it is.

    Source: R. Johnson and T. Zhang (2013), "Accelerating Stochastic Gradient Descent using Predictive Variance
    Reduction", NeurIPS 26; L. Xiao and T. Zhang (2014), "A Proximal Stochastic Gradient Method with Progressive
    Variance Reduction", arXiv 1403.4699, theorem 3.1; with ``a`` for batches, whose variance is that part.
    """

    step_size: float | None = None
    snapshot: Literal["average", "last"] = "average"
    inner: int | None = None

    needs = frozenset({"samples", "prox"})
    ranges = {
        "batch": Integer(low=1),
        "replacement": Flag(),
        "step_size": Real(low=0.0, low_open=True, optional=True),
        "snapshot": OneOf(("average", "last")),
        "inner": Integer(low=1, optional=True),
    }

    def init(self, problem: SumProblem, start: Point, generator: torch.Generator) -> State:
        """Nothing is asked of the problem yet."""
        self.check_batch(problem)
        self.size(problem)
        return State(point=start, generator=generator)

    def size(self, problem: SumProblem) -> float:
        """The step size as given, or the default for a problem."""
        worst, whole = problem.sample_lipschitz, problem.lipschitz
        part = spread(problem.samples, self.batch, replacement=self.replacement)
        constant = None if worst is None else max(worst if whole is None else min(whole, worst), 10 * part * worst)
        return step_or(self.step_size, 1.0, constant, "SVRG: step_size")

    def step(self, problem: SumProblem, state: State) -> State:
        """One epoch."""
        assert state.generator is not None
        size, count = self.size(problem), self.inner or -(-2 * problem.samples // self.batch)
        anchor, x, total = state.point, state.point, None
        full = problem.full_gradient(anchor)
        for indices in self.draw(problem, count, state.generator).unbind():
            here, there = problem.sample_gradient(x, indices), problem.sample_gradient(anchor, indices)
            direction = tree_map(lambda a, b, c: a - b + c, here, there, full)
            x = problem.prox(add_scaled(x, -size, direction), size)
            if self.snapshot == "average":
                total = x if total is None else add_scaled(total, 1.0, x)
        point = x if total is None else tree_map(lambda leaf: leaf / count, total)
        return State(point=point, generator=state.generator)
