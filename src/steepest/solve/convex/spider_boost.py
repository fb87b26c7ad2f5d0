"""SpiderBoost: the recursive gradient estimate of SPIDER with a constant step and a prox."""

import math
from dataclasses import dataclass

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer, Real
from steepest.core.solver import State
from steepest.core.tree import Point, add_scaled, tree_map
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.stochastic import StochasticSolver, step_or

__all__ = ["CARD", "SpiderBoost"]

CARD = MethodCard(
    name="spider-boost",
    title="SpiderBoost",
    room="convex",
    family="variance reduction",
    summary="SPIDER's recursive gradient estimate with a constant step and a prox: stationary points in few samples.",
    target="steepest.solve.convex.spider_boost:SpiderBoost",
    papers=(
        Paper(
            "Z. Wang, K. Ji, Y. Zhou, Y. Liang, V. Tarokh",
            2019,
            "SpiderBoost and Momentum: Faster Stochastic Variance Reduction Algorithms",
            arxiv="1810.10690",
        ),
        Paper(
            "C. Fang, C. J. Li, Z. Lin, T. Zhang",
            2018,
            "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential Estimator",
            arxiv="1807.01695",
        ),
    ),
    needs=frozenset({"samples", "prox"}),
    buffers=2,
)


@dataclass(frozen=True)
class SpiderBoost(StochasticSolver[State]):
    r"""SpiderBoost.

    It seeks stationary points of ``(1/n) sum_i f_i(x) + g(x)``, ``f_i`` smooth and ``g`` convex. An epoch begins with
    ``v_0 = grad f(x_0)``, and for ``k = 0, ..., inner - 1``::

        v_k = grad f_B(x_k) - grad f_B(x_{k-1}) + v_{k-1}  (k > 0),        x_{k+1} = prox_{t g}(x_k - t v_k)

    With ``L``-smooth ``f_i``, ``t = 1 / (2 L)`` and ``inner <= batch``, the gradient mapping ``G`` of step ``t`` has
    over the first ``K`` iterates, in whole epochs::

        (1/K) sum_k E |G(x_k)|^2 <= 40 L (F(x_0) - inf F) / K

    so that ``O(n + sqrt(n) / eps^2)`` samples give a norm of ``eps`` in the mean. (Proof: a step lowers ``F`` by
    ``(1/(2t) - L/2) |x_{k+1} - x_k|^2 - (t/2) |grad f(x_k) - v_k|^2`` at least, and the last square is in the mean at
    most ``L^2 / batch`` times the sum of the squared steps of its epoch; the sum leaves ``L/4`` of every squared step.)

    One step of a run is one epoch: ``n + 2 batch (inner - 1)`` samples. Stationarity is the norm of the gradient
        mapping
    with step ``1 / L_f`` (measured apart and not counted).

    Args:
        step_size: > 0; default ``1 / (2 L)``, the paper's, with ``L`` the smoothness of the roughest ``f_i``.
        batch: samples per inner step, >= 1; default ``ceil(sqrt(n))``, the paper's.
        replacement: whether the samples of a batch may repeat. Default True.
        inner: steps per epoch, >= 1; default ``ceil(sqrt(n))``, the paper's.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, ``batch`` exceeds ``n`` without replacement, or no
            step size is given and the problem does not state how smooth it is.

    Source: Z. Wang, K. Ji, Y. Zhou, Y. Liang and V. Tarokh (2019), "SpiderBoost and Momentum: Faster Stochastic
    Variance Reduction Algorithms", arXiv 1810.10690; the estimate: C. Fang, C. J. Li, Z. Lin and T. Zhang (2018),
    "SPIDER", arXiv 1807.01695, who normalize the step.
    """

    batch: int | None = None  # type: ignore[assignment]
    step_size: float | None = None
    inner: int | None = None

    needs = frozenset({"samples", "prox"})
    ranges = {
        "batch": Integer(low=1, optional=True),
        "replacement": Flag(),
        "step_size": Real(low=0.0, low_open=True, optional=True),
        "inner": Integer(low=1, optional=True),
    }

    def batch_size(self, problem: SumProblem) -> int:
        """Samples per batch."""
        return self.batch or math.ceil(math.sqrt(problem.samples))

    def init(self, problem: SumProblem, start: Point, generator: torch.Generator) -> State:
        """Nothing is asked of the problem yet."""
        self.check_batch(problem)
        self.size(problem)
        return State(point=start, generator=generator)

    def size(self, problem: SumProblem) -> float:
        """The step size as given, or the default for a problem."""
        return step_or(self.step_size, 0.5, problem.sample_lipschitz, "SpiderBoost: step_size")

    def step(self, problem: SumProblem, state: State) -> State:
        """One epoch."""
        assert state.generator is not None
        size, count = self.size(problem), self.inner or math.ceil(math.sqrt(problem.samples))
        before, v = state.point, problem.full_gradient(state.point)
        x = problem.prox(add_scaled(before, -size, v), size)
        for indices in self.draw(problem, count - 1, state.generator).unbind():
            here, there = problem.sample_gradient(x, indices), problem.sample_gradient(before, indices)
            v = tree_map(lambda a, b, c: a - b + c, here, there, v)
            before, x = x, problem.prox(add_scaled(x, -size, v), size)
        return State(point=x, generator=state.generator)
