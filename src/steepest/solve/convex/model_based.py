"""Stochastic model-based minimization of weakly convex functions."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer
from steepest.core.solver import State
from steepest.core.stopping import Measures
from steepest.solve.convex.model_steps import Model, ProxLinear, proximal_point
from steepest.solve.convex.problem import SumProblem
from steepest.solve.convex.sgd_steps import PowerDecay, StepRule
from steepest.solve.convex.stochastic import StochasticSolver
from steepest.solve.convex.weakly_convex import CompositeSum

__all__ = ["CARD", "ModelBased", "ModelBasedState"]

CARD = MethodCard(
    name="model-based",
    title="Stochastic model-based minimization",
    room="convex",
    family="stochastic",
    summary="Proximal steps on models of single samples, from subgradients to the proximal point, for h(c(x)).",
    target="steepest.solve.convex.model_based:ModelBased",
    papers=(
        Paper(
            "D. Davis, D. Drusvyatskiy",
            2018,
            "Stochastic model-based minimization of weakly convex functions",
            arxiv="1803.06523",
        ),
    ),
    needs=frozenset({"models", "samples", "sample values", "prox"}),
    buffers=1,
    claim="Prox-linear and proximal point models are far more robust to the step size than stochastic subgradients, "
    "and about as fast at their best.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelBasedState(State):
    """The iterate, and:

    Attributes:
        iteration: steps of the method done.
    """

    iteration: int = 0


@dataclass(frozen=True)
class ModelBased(StochasticSolver[ModelBasedState]):
    r"""Stochastic model-based minimization.

    It seeks stationary points of ``F = (1/n) sum_i f_i + g``, ``f_i(x) = loss(c_i(x), y_i)``, weakly convex, by::

        x_{k+1} = argmin_z  model of f_B around x_k (z) + g(z) + |z - x_k|^2 / (2 t_k)

    with one of the models :class:`~steepest.solve.convex.model_steps.Subgradient`, ``Clipped``, ``ProxLinear`` and
    ``ProxPoint``. Stationarity is the norm of the gradient of the Moreau envelope with parameter ``p = 1 / (2 rho)``::

        F_p(x) = min_z F(z) + |z - x|^2 / (2 p),        grad F_p(x) = (x - prox_{p F}(x)) / p

    to three digits. That takes a minimization over all samples, so it is measured apart, not counted, and only where
    the problem states its ``rho`` (``weak_convexity``; where that is 0, with ``p = 1``). With subgradients ``E |v|^2 <=
    G^2`` and an iterate ``x_t`` drawn with weights ``t_k``::

        E |grad F_p(x_t)|^2 <= 2 (F_p(x_0) - min F + rho G^2 sum t_k^2) / sum t_k

    hence ``O(K^{-1/2})`` for steps proportional to ``K^{-1/2}``; the other models have the same rate. The solution is
    the last iterate. One step of a run is ``inner`` steps of the method.

    Args:
        model: the model; default ``ProxLinear()``.
        step_rule: the step sizes ``t_k``, a :class:`~steepest.solve.convex.sgd_steps.StepRule` that does not look at
            the batch; default ``1 / sqrt(k + 1)``.
        batch: samples per step, >= 1. Default 1. More than one is a minimization in the dual, unless the model is
            ``Subgradient`` or ``Clipped``.
        replacement: whether the samples of a batch may repeat. Default True.
        inner: steps of the method per step of a run, >= 1; default an epoch, ``ceil(n / batch)``.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range or of another kind, or ``batch`` exceeds ``n``
            without replacement.

    Source: D. Davis and D. Drusvyatskiy (2018), "Stochastic model-based minimization of weakly convex functions", arXiv
    1803.06523; the clipped model: H. Asi and J. C. Duchi (2019), "Stochastic (Approximate) Proximal Point Methods:
    Convergence, Optimality, and Adaptivity", arXiv 1810.05633.
    """

    model: Model = field(default_factory=ProxLinear)
    step_rule: StepRule = field(default_factory=lambda: PowerDecay(1.0))
    inner: int | None = None

    needs = frozenset({"models", "samples", "sample values", "prox"})
    ranges = {"batch": Integer(low=1), "replacement": Flag(), "inner": Integer(low=1, optional=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, Model):
            raise TypeError(f"ModelBased: model must be a Model, got {self.model!r}")
        if not isinstance(self.step_rule, StepRule) or self.step_rule.looks:
            raise TypeError(f"ModelBased: step_rule must be a StepRule that needs no values, got {self.step_rule!r}")

    def init(self, problem: SumProblem, start: Tensor, generator: torch.Generator) -> ModelBasedState:
        """Nothing is asked of the problem yet."""
        self.check_batch(problem)
        return ModelBasedState(point=start, generator=generator)

    def step(self, problem: SumProblem, state: ModelBasedState) -> ModelBasedState:
        """``inner`` steps of the method."""
        assert isinstance(problem, CompositeSum)
        assert state.generator is not None
        x, count = state.point, self.inner or self.epoch(problem)
        for k, indices in enumerate(self.draw(problem, count, state.generator).unbind(), state.iteration):
            x = self.model.step(problem, x, indices, self.step_rule.size(k))
        return ModelBasedState(point=x, generator=state.generator, iteration=state.iteration + count)

    def measure(self, problem: SumProblem, state: ModelBasedState) -> Measures:
        """The value, and the norm of the gradient of the Moreau envelope where ``rho`` is known."""
        assert isinstance(problem, CompositeSum)
        x, rho = state.point, problem.weak_convexity
        value = problem.value(x)
        if rho is None or not bool(torch.isfinite(value)):
            return Measures.of(value)
        p = 1 / (2 * rho) if rho > 0 else 1.0
        every = torch.arange(problem.samples, device=x.device)
        return Measures.of(value, torch.linalg.vector_norm(x - proximal_point(problem, x, every, p, 50, 1e-6)) / p)
