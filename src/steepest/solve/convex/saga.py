"""SAGA: stochastic gradients corrected by a table of the last gradient of every sample, with a prox."""

from dataclasses import dataclass
from typing import Any

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer, Real
from steepest.core.solver import State
from steepest.core.tree import Point, add_scaled, tree_map
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.stochastic import StochasticSolver, smoothness, step_or

__all__ = ["CARD", "SAGA", "SAGAState"]

CARD = MethodCard(
    name="saga",
    title="SAGA",
    room="convex",
    family="variance reduction",
    summary="Stochastic gradients corrected by a table of past ones: linear convergence, one gradient per step.",
    target="steepest.solve.convex.saga:SAGA",
    papers=(
        Paper(
            "A. Defazio, F. Bach, S. Lacoste-Julien",
            2014,
            "SAGA: A Fast Incremental Gradient Method With Support for Non-Strongly Convex Composite Objectives",
            arxiv="1407.0202",
        ),
    ),
    needs=frozenset({"samples", "prox"}),
    buffers=2,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SAGAState(State):
    """The iterate, and:

    Attributes:
        table: the last gradient of every sample, in the problem's compact form.
        mean: their mean.
    """

    table: Any
    mean: Any


@dataclass(frozen=True)
class SAGA(StochasticSolver[SAGAState]):
    r"""SAGA.

    It solves ``min_x (1/n) sum_i f_i(x) + g(x)``. A table keeps a gradient ``h_i`` of every sample, at first those at
    the start. A step draws a batch ``B`` of distinct samples::

        d = mean_{i in B} (grad f_i(x) - h_i) + (1/n) sum_i h_i
        h_i = grad f_i(x)  for i in B,        x <- prox_{t g}(x - t d)

    A linear model keeps one number per sample and output; any other problem keeps ``n`` gradients. For single samples,
    ``f_i`` that are ``L``-smooth and ``m``-strongly convex, and ``t = 1 / (3 L)``::

        E |x_k - x*|^2 <= (1 - min{1 / (4 n), m / (3 L)})^k C
        C = |x_0 - x*|^2 + 2 n / (3 L) (f(x_0) - f(x*) - <grad f(x*), x_0 - x*>)

    With batches the default step uses their expected smoothness in the place of ``L``, which is ``1 / (3 L)`` for
    single samples and goes to that of gradient descent for all of them; the paper proves only the first (for the second
    see N. Gazagnadou, R. M. Gower and J. Salmon (2019), arXiv 1902.00071).

    One step of a run is ``inner`` steps of the method. The table costs ``n`` samples at the start. Stationarity is the
    norm of the gradient mapping (measured apart and not counted).

    Args:
        step_size: > 0; default ``1 / (3 L)``, the paper's.
        batch: samples per step, >= 1. Default 1.
        replacement: must be False (the default): a sample that came twice would have two rows in the table.
        inner: steps of the method per step of a run, >= 1; default an epoch, ``ceil(n / batch)``.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, ``batch`` exceeds ``n``, or no step size is given
            and the problem does not state how smooth it is.

    Source: A. Defazio, F. Bach and S. Lacoste-Julien (2014), "SAGA: A Fast Incremental Gradient Method With Support for
    Non-Strongly Convex Composite Objectives", arXiv 1407.0202, theorem 1.
    """

    replacement: bool = False
    step_size: float | None = None
    inner: int | None = None

    needs = frozenset({"samples", "prox"})
    ranges = {
        "batch": Integer(low=1),
        "replacement": Flag(),
        "step_size": Real(low=0.0, low_open=True, optional=True),
        "inner": Integer(low=1, optional=True),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replacement:
            raise ValueError("SAGA: replacement must be False, got True: a table has one row per sample")

    def init(self, problem: SumProblem, start: Point, generator: torch.Generator) -> SAGAState:
        """The table, from the gradients of all samples at the start."""
        self.check_batch(problem)
        self.size(problem)
        every = torch.arange(problem.samples, device=generator.device)
        table = problem.compact_gradients(start, every)
        return SAGAState(point=start, generator=generator, table=table, mean=problem.mean_of_compact(table, every))

    def size(self, problem: SumProblem) -> float:
        """The step size as given, or the default for a problem."""
        constant = smoothness(problem, self.batch, replacement=False)
        return step_or(self.step_size, 1 / 3, constant, "SAGA: step_size")

    def step(self, problem: SumProblem, state: SAGAState) -> SAGAState:
        """``inner`` steps of the method."""
        assert state.generator is not None
        size, count = self.size(problem), self.inner or self.epoch(problem)
        part = self.batch / problem.samples
        x, mean = state.point, state.mean
        table = tree_map(torch.clone, state.table)  # changed in place below, so that a step costs no copy of it
        for indices in self.draw(problem, count, state.generator).unbind():
            fresh = problem.compact_gradients(x, indices)
            change = problem.mean_of_compact(tree_map(lambda a, h, i=indices: a - h[i], fresh, table), indices)
            x = problem.prox(add_scaled(x, -size, add_scaled(mean, 1.0, change)), size)
            mean = add_scaled(mean, part, change)
            tree_map(lambda h, a, i=indices: h.index_copy_(0, i, a), table, fresh)
        return SAGAState(point=x, generator=state.generator, table=table, mean=mean)
