"""Newton's method with a line search."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point, ravel
from steepest.solve.convex.second_order import cholesky, trial

__all__ = ["CARD", "Newton", "NewtonState"]

CARD = MethodCard(
    name="newton",
    title="Newton's method (damped)",
    room="convex",
    family="second order",
    summary="Newton's method with Armijo's line search, shifted where the Hessian is not positive definite.",
    target="steepest.solve.convex.newton:Newton",
    papers=(
        Paper("S. Boyd, L. Vandenberghe", 2004, "Convex Optimization", venue="Cambridge University Press, section 9.5"),
    ),
    needs=frozenset({"value", "gradient", "hessian"}),
    buffers=1,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class NewtonState(State):
    """The iterate, its value, and:

    Attributes:
        gradient: the gradient at ``point``, as a vector.
        decrement: Newton's decrement ``sqrt(g' H^-1 g)`` at the point before; 0 at the start.
        step_size: the step size that led here; 0 at the start.
        shift: what was added to the diagonal of the Hessian for that.
    """

    gradient: Tensor
    decrement: float = 0.0
    step_size: float = 0.0
    shift: float = 0.0


@dataclass(frozen=True)
class Newton(Solver[SmoothProblem, NewtonState]):
    """Newton's method with a backtracking line search (damped Newton), the reference of the second-order methods.

    It solves ``min_x f(x)`` for a twice differentiable ``f``::

        d_k = -(H_k + s_k I)^-1 g_k,        x_{k+1} = x_k + t_k d_k

    with gradient ``g_k``, Hessian ``H_k``, and ``t_k`` the first of ``1, shrink, shrink**2, ...`` that meets
    ``f(x_k + t d_k) <= f(x_k) + decrease * t * <g_k, d_k>``. The shift ``s_k`` is zero where ``H_k`` is numerically
    positive definite; otherwise the first of ``shift * 10**j * max|H_ii|``, j = 0, 1, ..., for which the sum is: a
    singular but convex problem keeps nearly Newton's step, an indefinite one gets a descent direction.

    For a strictly convex self-concordant ``f`` that is bounded below, with decrement ``l_k = sqrt(g' H^-1 g)`` and
    ``decrease < 1/2``: while ``l_k`` is above ``(1 - 2 decrease) / 4``, each step lowers ``f`` by at least a constant
    ``decrease * shrink * l^2 / (1 + l)``; below, full steps are taken and ``2 l_{k+1} <= (2 l_k)^2`` (Boyd and
    Vandenberghe, section 9.6.4). The method is affine invariant where ``s_k = 0``.

    A step costs one Hessian over the flattened point, one ``"factorization"`` per shift tried (d^3 / 3), and a value
    and a gradient per trial. Stationarity is the Euclidean norm of the gradient.

    Args:
        decrease: the demanded part of the decrease that the slope promises, in (0, 1/2). Default 1e-4.
        shrink: the factor between trials, in (0, 1). Default 1/2.
        shift: the first shift, relative to the largest diagonal entry, > 0. Default 1e-10.
        max_trials: trials before a search gives up, >= 1. Default 60.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.

    A run ends as ``stalled`` where no trial decreases ``f`` enough, or where rounding hides any progress: near a
    minimizer, where differences of values drown in it, slopes are compared instead, and the gradient must shrink.

    Source: S. Boyd and L. Vandenberghe (2004), "Convex Optimization", Algorithm 9.5; the shifts as in J. Nocedal and
    S. J. Wright (2006), "Numerical Optimization", Algorithm 3.3.
    """

    decrease: float = 1e-4
    shrink: float = 0.5
    shift: float = 1e-10
    max_trials: int = 60

    needs = frozenset({"value", "gradient", "hessian"})
    ranges = {
        "decrease": Real(low=0.0, high=0.5, low_open=True, high_open=True),
        "shrink": Real(low=0.0, high=1.0, low_open=True, high_open=True),
        "shift": Real(low=0.0, low_open=True),
        "max_trials": Integer(low=1),
    }

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> NewtonState:
        """The value and the gradient at the start."""
        value, gradient = problem.value_and_gradient(start)
        flat = ravel(gradient)
        return NewtonState(
            point=start, value=float(value), gradient=flat, stationarity=float(torch.linalg.vector_norm(flat))
        )

    def step(self, problem: SmoothProblem, state: NewtonState) -> NewtonState:
        """One Hessian, one system, one line search.

        Raises:
            Stalled: the gradient is zero, the Hessian is not finite, or no trial made progress.
        """
        assert state.value is not None
        assert state.stationarity is not None
        if state.stationarity == 0:
            raise Stalled("the gradient is zero")
        direction, shift = self._direction(problem.hessian(state.point), state.gradient)
        slope = float(state.gradient @ direction)
        size = 1.0
        for _ in range(self.max_trials):
            found = trial(problem, state.point, float(state.value), state.gradient, size * direction)
            progress = found.finite and (not found.lost or found.norm < float(state.stationarity))
            if progress and found.change <= self.decrease * size * slope:
                return NewtonState(
                    point=found.point,
                    value=found.value,
                    gradient=found.gradient,
                    stationarity=found.norm,
                    decrement=(-slope) ** 0.5,
                    step_size=size,
                    shift=shift,
                )
            if found.lost:  # a shorter step would be lost even more
                raise Stalled("the decrease of the value and of the gradient is lost in rounding")
            size *= self.shrink
        raise Stalled(f"no step size decreased the value enough in {self.max_trials} trials")

    def _direction(self, hessian: Tensor, gradient: Tensor) -> tuple[Tensor, float]:
        """Newton's direction and the shift that it needed."""
        scale = float(hessian.diagonal().abs().max())
        if not bool(torch.isfinite(hessian).all()):
            raise Stalled("the Hessian is not finite")
        shift, unit = 0.0, max(scale, torch.finfo(hessian.dtype).tiny)
        # In low precision the smallest shifts change nothing.
        first = max(self.shift, 10 * len(hessian) * torch.finfo(hessian.dtype).eps)
        for attempt in range(400):
            factor = cholesky(hessian, shift)
            if factor is not None:
                direction = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
                if bool(torch.isfinite(direction).all()) and float(gradient @ direction) < 0:
                    return direction, shift
            shift = first * unit * 10.0**attempt
        raise Stalled("no shift makes the Hessian positive definite")  # pragma: no cover
