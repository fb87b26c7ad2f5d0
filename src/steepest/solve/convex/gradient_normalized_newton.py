"""Newton's method with any approximate Hessian, regularized by the norm of the gradient."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point, ravel
from steepest.solve.convex.curvatures import Curvature, ExactHessian
from steepest.solve.convex.second_order import trial

__all__ = ["CARD", "GradientNormalizedNewton", "GradientNormalizedNewtonState"]

CARD = MethodCard(
    name="grad-normalized-newton",
    title="Gradient-normalized Newton",
    room="convex",
    family="second order",
    summary="Steps with any approximate Hessian, regularized by the norm of the gradient over an adapted radius.",
    target="steepest.solve.convex.gradient_normalized_newton:GradientNormalizedNewton",
    papers=(
        Paper(
            "A. Semenov, M. Jaggi, N. Doikov",
            2025,
            "Gradient-Normalized Smoothness for Optimization with Approximate Hessians",
            arxiv="2506.13710",
        ),
    ),
    needs=frozenset({"value", "gradient"}),
    buffers=1,
    claim=(
        "With Gauss-Newton and Fisher approximations of the Hessian, one adaptive rule converges globally at a linear "
        "rate on logistic and softmax problems, close to exact Newton steps and ahead of gradient methods."
    ),
)

#: An accepted radius is doubled up to this.
_LARGEST = 1e16


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientNormalizedNewtonState(State):
    """The iterate, its value, and:

    Attributes:
        gradient: the gradient at ``point``, as a vector.
        radius: the first trial of the next step.
        accepted: the radius that led here; 0 at the start.
        trials: how many radii the step tried; 0 at the start.
    """

    gradient: Tensor
    radius: float
    accepted: float = 0.0
    trials: int = 0


@dataclass(frozen=True)
class GradientNormalizedNewton(Solver[SmoothProblem, GradientNormalizedNewtonState]):
    """Newton's method with an approximate Hessian and a regularization normalized by the gradient.

    It solves ``min_x f(x)`` for a differentiable ``f``, with the gradient ``g_k`` and any symmetric approximation
    ``H_k`` of the Hessian::

        x_{k+1} = x_k - (H_k + s I)^-1 g_k,        s = |g_k| / (radius + 1e-8)

    The radius is halved until ``f(x_k) - f(x_{k+1}) >= |g_{k+1}|^2 / (8 s)``, and doubled after each step. It estimates
    the gradient-normalized smoothness of ``f`` at ``x_k``: how far the gradient is linear, up to the approximation of
    ``H_k``, relative to its own length. So one rule serves Hoelder continuous Hessians, quasi-self-concordant functions
    and inexact Hessians, without their constants. Multiplying ``f`` by a number changes no step.

    Any radius is accepted with which the error of the linear model of the gradient along the step is at most ``s``
    times the step's length, where ``f`` is convex. With the exact Hessian, ``L``-Lipschitz, these are all radii up to
    ``sqrt(2 |g_k| / L)``; hence the accepted ones are never below half of the least of these numbers so far (or below
    the first radius). With ``H = 0`` steps are normalized gradients, ``-radius * g / |g|``.

    A step costs one approximation of the Hessian and, per trial (two on average at most, in the long run), one value,
    one gradient and one system (a ``"factorization"`` for a dense matrix). Stationarity is the Euclidean norm of the
    gradient.

    Args:
        curvature: the approximation: :class:`~steepest.solve.convex.curvatures.ExactHessian` (default),
            ``DiagonalHessian``, ``GaussNewton``, ``Fisher``, or ``Supplied`` with a function of one's own.
        radius: the first radius, > 0, in units of ``x``. Default 1, the paper's.
        max_trials: radii that a step tries, >= 1. Default 60.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, or ``curvature`` is no Curvature.
        MissingOracle: the problem does not offer what the curvature needs.

    Where ``H_k + s I`` is not positive definite, the radius is halved too. A run ends as ``stalled`` where no radius is
    accepted, or where neither value nor gradient can be made smaller for rounding; the point before is kept.

    Source: A. Semenov, M. Jaggi and N. Doikov (2025), "Gradient-Normalized Smoothness for Optimization with Approximate
    Hessians", arXiv:2506.13710, Algorithm 1 with the Euclidean norm. The authors' code moves to the last trial also
    where 40 halvings have failed; this one does not.
    """

    curvature: Curvature = field(default_factory=ExactHessian)
    radius: float = 1.0
    max_trials: int = 60

    needs = frozenset({"value", "gradient"})
    ranges = {"radius": Real(low=0.0, low_open=True), "max_trials": Integer(low=1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.curvature, Curvature):
            raise TypeError(
                "GradientNormalizedNewton: curvature must be a Curvature, such as ExactHessian() or "
                f"Supplied(function), got {self.curvature!r} of type {type(self.curvature).__name__}"
            )

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> GradientNormalizedNewtonState:
        """The value and the gradient at the start."""
        problem.require(self.curvature.needs, by=f"{type(self).__name__} with {type(self.curvature).__name__}")
        value, gradient = problem.value_and_gradient(start)
        flat = ravel(gradient)
        return GradientNormalizedNewtonState(
            point=start,
            value=float(value),
            gradient=flat,
            stationarity=float(torch.linalg.vector_norm(flat)),
            radius=float(self.radius),
        )

    def step(self, problem: SmoothProblem, state: GradientNormalizedNewtonState) -> GradientNormalizedNewtonState:
        """One approximation of the Hessian and the search for a radius.

        Raises:
            Stalled: the gradient is zero, or no radius made progress.
        """
        assert state.value is not None
        assert state.stationarity is not None
        x, value, norm = state.point, float(state.value), float(state.stationarity)
        if norm == 0:
            raise Stalled("the gradient is zero")
        hessian = self.curvature.at(problem, x, value, state.gradient)
        radius = state.radius
        for count in range(1, self.max_trials + 1):
            shift = norm / (radius + 1e-8)
            solution = hessian.solve(shift, state.gradient)
            if solution is not None and bool(torch.isfinite(solution).all()):
                found = trial(problem, x, value, state.gradient, -solution)
                if found.lost and not found.norm < norm:
                    raise Stalled("the decrease of the value and of the gradient is lost in rounding")
                if found.finite and -found.change >= found.norm**2 / (8 * shift):
                    return GradientNormalizedNewtonState(
                        point=found.point,
                        value=found.value,
                        gradient=found.gradient,
                        stationarity=found.norm,
                        radius=min(max(2 * radius, 1e-9), _LARGEST),
                        accepted=radius,
                        trials=count,
                    )
            radius *= 0.5
        raise Stalled(f"no radius decreased the value enough in {self.max_trials} trials")
