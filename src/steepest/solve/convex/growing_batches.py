"""Proximal SGD with batches that grow geometrically."""

import math
from dataclasses import dataclass

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Measures
from steepest.core.tree import Point, add_scaled
from steepest.solve.convex import stochastic
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.stochastic import measure_sum, step_or

__all__ = ["CARD", "GrowingBatches", "GrowingBatchesState"]

CARD = MethodCard(
    name="large-scale-ml",
    title="SGD with growing batches",
    room="convex",
    family="stochastic",
    summary="A constant step and batches that grow geometrically: cheap steps at first, no noise in the end.",
    target="steepest.solve.convex.growing_batches:GrowingBatches",
    papers=(
        Paper(
            "L. Bottou, F. E. Curtis, J. Nocedal",
            2018,
            "Optimization Methods for Large-Scale Machine Learning",
            arxiv="1606.04838",
        ),
    ),
    needs=frozenset({"samples", "prox"}),
    buffers=1,
    claim="Stochastic gradients reach a low risk within an epoch or two, before full gradients get going; with a "
    "constant step they end in a noise ball, and growing batches or variance reduction take them on, linearly.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class GrowingBatchesState(State):
    """The iterate, and:

    Attributes:
        iteration: steps of the method done.
    """

    iteration: int = 0


@dataclass(frozen=True)
class GrowingBatches(Solver[SumProblem, GrowingBatchesState]):
    r"""Proximal SGD with batches that grow geometrically (a dynamic sample size).

    It solves ``min_x (1/n) sum_i f_i(x) + g(x)`` by::

        x_{k+1} = prox_{t g}(x_k - t grad f_B(x_k)),        |B| = min(n, ceil(batch growth^k))

    with batches of distinct samples, so that it ends as proximal gradient descent. For ``g = 0``, an ``m``-strongly
    convex ``f`` with an ``L``-Lipschitz gradient, single samples whose gradients have a variance of at most ``M`` at
    all iterates, and ``t <= 1 / L``::

        E f(x_k) - min f <= max{t L M / (m batch), f(x_0) - min f} max{1 - t m / 2, 1 / growth}^k

    While batches are smaller than ``n``, an accuracy ``eps`` takes ``O(1 / eps)`` samples for a growth below
    ``1 / (1 - t m / 2)``, as with single samples and decreasing steps, but without their schedule. One step of a run is
    ``inner`` steps of the method. Stationarity is the norm of the gradient mapping (measured apart and not counted).

    Args:
        step_size: > 0; default ``1 / L``.
        growth: the factor between batches, > 1. Default 1.1.
        batch: the first batch, >= 1. Default 1.
        inner: steps of the method per step of a run, >= 1. Default 1.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, or no step size is given and the problem does not
            state how smooth it is.

    Source: L. Bottou, F. E. Curtis and J. Nocedal (2018), "Optimization Methods for Large-Scale Machine Learning",
    arXiv 1606.04838, section 5.2, theorem 5.1.
    """

    step_size: float | None = None
    growth: float = 1.1
    batch: int = 1
    inner: int = 1

    needs = frozenset({"samples", "prox"})
    ranges = {
        "step_size": Real(low=0.0, low_open=True, optional=True),
        "growth": Real(low=1.0, low_open=True),
        "batch": Integer(low=1),
        "inner": Integer(low=1),
    }

    def init(self, problem: SumProblem, start: Point, generator: torch.Generator) -> GrowingBatchesState:
        """Nothing is asked of the problem yet."""
        self.size(problem)
        return GrowingBatchesState(point=start, generator=generator)

    def size(self, problem: SumProblem) -> float:
        """The step size as given, or the default for a problem."""
        constant = problem.lipschitz or problem.sample_lipschitz
        return step_or(self.step_size, 1.0, constant, "GrowingBatches: step_size")

    def batch_at(self, k: int, samples: int) -> int:
        """Samples in iteration ``k``."""
        if k * math.log(self.growth) >= math.log(samples):  # before a power overflows
            return samples
        return min(samples, math.ceil(self.batch * self.growth**k))

    def step(self, problem: SumProblem, state: GrowingBatchesState) -> GrowingBatchesState:
        """``inner`` steps of the method."""
        assert state.generator is not None
        size, n, x = self.size(problem), problem.samples, state.point
        for k in range(state.iteration, state.iteration + self.inner):
            batch = self.batch_at(k, n)
            if batch == n:
                gradient = problem.full_gradient(x)
            else:
                indices = stochastic.draw(n, batch, 1, state.generator, replacement=False)[0]
                gradient = problem.sample_gradient(x, indices)
            x = problem.prox(add_scaled(x, -size, gradient), size)
        return GrowingBatchesState(point=x, generator=state.generator, iteration=state.iteration + self.inner)

    def measure(self, problem: SumProblem, state: GrowingBatchesState) -> Measures:
        """The value, and the norm of the gradient mapping."""
        return measure_sum(problem, state.point)
