"""SARAH: stochastic gradients corrected recursively."""

from dataclasses import dataclass

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer, Real
from steepest.core.regularizer import Zero
from steepest.core.solver import State
from steepest.core.tree import Point, add_scaled, tree_map
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.stochastic import StochasticSolver, step_or

__all__ = ["CARD", "SARAH"]

CARD = MethodCard(
    name="sarah",
    title="SARAH",
    room="convex",
    family="variance reduction",
    summary="Stochastic gradients corrected recursively, along the path: linear convergence of the gradient.",
    target="steepest.solve.convex.sarah:SARAH",
    papers=(
        Paper(
            "L. M. Nguyen, J. Liu, K. Scheinberg, M. Takac",
            2017,
            "SARAH: A Novel Method for Machine Learning Problems Using Stochastic Recursive Gradient",
            arxiv="1703.00102",
        ),
    ),
    needs=frozenset({"samples"}),
    buffers=2,
)


@dataclass(frozen=True)
class SARAH(StochasticSolver[State]):
    r"""The stochastic recursive gradient method.

    It solves ``min_x (1/n) sum_i f_i(x)``. An epoch begins with ``v_0 = grad f(x_0)`` and ``x_1 = x_0 - t v_0`` and
    goes on for ``k = 1, ..., inner - 1``::

        v_k = grad f_B(x_k) - grad f_B(x_{k-1}) + v_{k-1},        x_{k+1} = x_k - t v_k

    The next epoch begins at ``x_k`` with ``k`` drawn uniformly from ``0, ..., inner - 1``. For convex, ``L``-smooth
    ``f_i``, an ``m``-strongly convex ``f``, and ``t < 1 / L``, an epoch shrinks ``E |grad f|^2`` by the factor::

        1 / (m t inner) + t L / (2 - t L)

    and so it does with batches. One step of a run is one epoch: ``n + 2 batch (j - 1)`` samples, or none, where ``j <
    inner`` is the draw (what comes after it would be thrown away and is not computed). Stationarity is the norm of the
    gradient (measured apart and not counted).

    Args:
        step_size: > 0; default ``1 / (2 L)``, with ``L`` the smoothness of the roughest ``f_i``.
        batch: samples per inner step, >= 1. Default 1.
        replacement: whether the samples of a batch may repeat. Default True.
        inner: iterates per epoch, >= 2; default ``ceil(2 n / batch)``, at least 2.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, ``batch`` exceeds ``n`` without replacement, no
            step size is given and the problem does not state how smooth it is, or the problem has a regularizer (see
            :class:`~steepest.solve.convex.spider_boost.SpiderBoost` for one with a prox).

    Source: L. M. Nguyen, J. Liu, K. Scheinberg and M. Takac (2017), "SARAH: A Novel Method for Machine Learning
    Problems Using Stochastic Recursive Gradient", arXiv 1703.00102, theorem 4 (``inner`` is their ``m + 1``).
    """

    step_size: float | None = None
    inner: int | None = None

    needs = frozenset({"samples"})
    ranges = {
        "batch": Integer(low=1),
        "replacement": Flag(),
        "step_size": Real(low=0.0, low_open=True, optional=True),
        "inner": Integer(low=2, optional=True),
    }

    def init(self, problem: SumProblem, start: Point, generator: torch.Generator) -> State:
        """Nothing is asked of the problem yet."""
        self.check_batch(problem)
        if not isinstance(problem.regularizer, Zero):
            raise ValueError(f"SARAH has no proximal step: regularizer must be 0, got {problem.regularizer!r}")
        self.size(problem)
        return State(point=start, generator=generator)

    def size(self, problem: SumProblem) -> float:
        """The step size as given, or the default for a problem."""
        return step_or(self.step_size, 0.5, problem.sample_lipschitz, "SARAH: step_size")

    def step(self, problem: SumProblem, state: State) -> State:
        """One epoch, up to the iterate that begins the next."""
        assert state.generator is not None
        size, count = self.size(problem), self.inner or max(2, -(-2 * problem.samples // self.batch))
        device = state.generator.device
        stop = int(torch.randint(count, (), generator=state.generator, device=device))
        if stop == 0:
            return State(point=state.point, generator=state.generator)
        before, v = state.point, problem.full_gradient(state.point)
        x = add_scaled(before, -size, v)
        for indices in self.draw(problem, stop - 1, state.generator).unbind():
            here, there = problem.sample_gradient(x, indices), problem.sample_gradient(before, indices)
            v = tree_map(lambda a, b, c: a - b + c, here, there, v)
            before, x = x, add_scaled(x, -size, v)
        return State(point=x, generator=state.generator)
