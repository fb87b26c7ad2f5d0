"""Proximal stochastic gradient descent."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer
from steepest.core.solver import State
from steepest.core.tree import Point, add_scaled, dot, tree_map
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.sgd_steps import Average, Constant, PolyakStep, StepRule
from steepest.solve.convex.stochastic import StochasticSolver, smoothness, step_or

__all__ = ["CARD", "SGD", "SGDState"]

CARD = MethodCard(
    name="convergence-handbook",
    title="Proximal SGD",
    room="convex",
    family="stochastic",
    summary="Stochastic gradient steps on a sum with any step rule, batches, averaging and a prox; with proved bounds.",
    target="steepest.solve.convex.sgd:SGD",
    papers=(
        Paper(
            "G. Garrigos, R. M. Gower",
            2023,
            "Handbook of Convergence Theorems for (Stochastic) Gradient Methods",
            arxiv="2301.11235",
        ),
        Paper(
            "L. Bottou, F. E. Curtis, J. Nocedal",
            2018,
            "Optimization Methods for Large-Scale Machine Learning",
            arxiv="1606.04838",
        ),
        Paper(
            "N. Loizou, S. Vaswani, I. Laradji, S. Lacoste-Julien",
            2021,
            "Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for Fast Convergence",
            arxiv="2002.10542",
        ),
    ),
    needs=frozenset({"samples", "prox"}),
    buffers=1,
    claim="The expected error of SGD lies under explicit bounds: a linear rate down to a noise ball whose size is "
    "proportional to the step size, which shrinks with the batch and vanishes under interpolation.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SGDState(State):
    """The iterate, and:

    Attributes:
        iteration: steps of the method done.
        average: the weighted mean of the iterates; ``None`` without averaging or before its first iterate.
        weight: the sum of its weights.
    """

    iteration: int = 0
    average: Any = None
    weight: float = 0.0


@dataclass(frozen=True)
class SGD(StochasticSolver[SGDState]):
    r"""Proximal stochastic gradient descent.

    It solves ``min_x (1/n) sum_i f_i(x) + g(x)`` by::

        x_{k+1} = prox_{t_k g}(x_k - t_k grad f_B(x_k)),        f_B the mean of f_i over a random batch B

    The solution is the last iterate, or a weighted mean of the iterates. With ``L`` the expected smoothness of the
    batches (:func:`~steepest.solve.convex.stochastic.smoothness`), ``s`` the variance of ``grad f_B`` at a minimizer
    ``x*``, and ``D = |x_0 - x*|``, for convex ``f_i``:

    - ``f`` ``m``-strongly convex, constant ``t <= 1 / (2 L)``: ``E |x_k - x*|^2 <= (1 - t m)^k D^2 + 2 t s / m``;
    - ``g = 0``, ``t_k < 1 / (2 L)``, :class:`~steepest.solve.convex.sgd_steps.StepAverage` with ``S = sum t_k (1 - 2
      t_k L)``: ``E f(average) - min f <= D^2 / (2 S) + s sum t_k^2 / S``;
    - ``f`` ``m``-strongly convex, ``g = 0``, :class:`~steepest.solve.convex.sgd_steps.Switching`, ``k >= 4
      ceil(L/m)``: ``E |x_k - x*|^2 <= 8 s / (m^2 k) + 16 ceil(L/m)^2 D^2 / (e^2 k^2)``;
    - interpolation (one ``x*`` minimizes all ``f_i``) is the case ``s = 0``.

    Where a loss has kinks, subgradients take the place of gradients (then give a step rule). One step of a run is
    ``inner`` steps of the method. Stationarity is the norm of the gradient mapping (measured apart and not counted).

    Args:
        step_rule: a :class:`~steepest.solve.convex.sgd_steps.StepRule`; default the constant ``1 / (4 L)``.
        average: an :class:`~steepest.solve.convex.sgd_steps.Average` of the iterates that is the solution; default
            ``None``, the last iterate.
        batch: samples per step, >= 1. Default 1.
        replacement: whether the samples of a batch may repeat. Default True.
        inner: steps of the method per step of a run, >= 1; default an epoch, ``ceil(n / batch)``.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, ``batch`` exceeds ``n`` without replacement, or no
            step rule is given and the problem does not state how smooth it is.

    Source: G. Garrigos and R. M. Gower (2023), "Handbook of Convergence Theorems for (Stochastic) Gradient Methods",
    arXiv 2301.11235, sections 5, 6 and 12; L. Bottou, F. E. Curtis and J. Nocedal (2018), "Optimization Methods for
    Large-Scale Machine Learning", arXiv 1606.04838; the switching rule: R. M. Gower et al. (2019), "SGD: General
    Analysis and Improved Rates", arXiv 1901.09401; Polyak's step: N. Loizou et al. (2021), arXiv 2002.10542.
    """

    step_rule: StepRule | None = None
    average: Average | None = None
    inner: int | None = None

    needs = frozenset({"samples", "prox"})
    ranges = {"batch": Integer(low=1), "replacement": Flag(), "inner": Integer(low=1, optional=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("step_rule", StepRule), ("average", Average)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                raise TypeError(f"SGD: {name} must be a {kind.__name__} or None, got {given!r}")

    def init(self, problem: SumProblem, start: Point, generator: torch.Generator) -> SGDState:
        """Nothing is asked of the problem yet."""
        self.check_batch(problem)
        rule = self.rule(problem)
        if isinstance(rule, PolyakStep) and isinstance(rule.optima, Tensor) and len(rule.optima) != problem.samples:
            raise ValueError(f"PolyakStep: optima must be {problem.samples} numbers, got {len(rule.optima)}")
        return SGDState(point=start, generator=generator)

    def rule(self, problem: SumProblem) -> StepRule:
        """The step rule as given, or the default for a problem."""
        if self.step_rule is not None:
            return self.step_rule
        constant = smoothness(problem, self.batch, replacement=self.replacement)
        return Constant(step_or(None, 0.25, constant, "SGD: step_rule"))

    def step(self, problem: SumProblem, state: SGDState) -> SGDState:
        """``inner`` steps of the method."""
        assert state.generator is not None
        rule = self.rule(problem)
        x, average, weight = state.point, state.average, state.weight
        count = self.inner or self.epoch(problem)
        for k, indices in enumerate(self.draw(problem, count, state.generator).unbind(), state.iteration):
            size: float | Tensor
            if rule.looks:
                value, gradient = problem.sample_value_and_gradient(x, indices)
                size = rule.size_at(k, value, dot(gradient, gradient), indices)
            else:
                gradient = problem.sample_gradient(x, indices)
                size = rule.size(k)
            if self.average is not None:
                share = self.average.weight(k, float(size))
                weight += share
                if share > 0:
                    average = x if average is None else _towards(average, x, share / weight)
            x = problem.prox(add_scaled(x, -size, gradient), size)
        return SGDState(
            point=x, generator=state.generator, iteration=state.iteration + count, average=average, weight=weight
        )

    def solution(self, problem: SumProblem, state: SGDState) -> Point:
        """The average where there is one, else the last iterate."""
        return state.point if state.average is None else state.average


def _towards(a: Point, b: Point, share: float) -> Point:
    return tree_map(lambda p, q: torch.lerp(p, q, share), a, b)
