"""Regularized Newton methods that keep a Hessian, decomposed, for many steps."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Flag, Integer, OneOf, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point, ravel
from steepest.solve.convex.second_order import Spectrum, Trial, trial

__all__ = ["CARD", "LazyNewton", "LazyNewtonState"]

CARD = MethodCard(
    name="lazy-hessian",
    title="Lazy Newton",
    room="convex",
    family="second order",
    summary="Cubic or quadratic regularization of Newton's method with one Hessian for a whole phase of steps.",
    target="steepest.solve.convex.lazy_newton:LazyNewton",
    papers=(
        Paper(
            "N. Doikov, E. M. Chayti, M. Jaggi",
            2022,
            "Second-order optimization with lazy Hessians",
            arxiv="2212.00781",
        ),
    ),
    needs=frozenset({"value", "gradient", "hessian"}),
    buffers=1,
    claim=(
        "Updating the Hessian only once in d steps keeps the global rates of the cubic Newton method and lowers its "
        "total arithmetic cost by a factor of up to sqrt(d)."
    ),
)

#: The share of the decrease that theory promises per step; see the class's docstring.
_CUBIC, _QUADRATIC = 0.2, 1.0 / 6.0
#: The constant is never less than this.
_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class LazyNewtonState(State):
    """The iterate, its value, and:

    Attributes:
        gradient: the gradient at ``point``, as a vector.
        eigenvalues, eigenvectors: of the Hessian at the last snapshot; ``None`` before the first.
        age: steps since the snapshot.
        constant: ``M`` that the next step tries first; where it is adapted, half of the last.
        decrease: how much the value has decreased since the snapshot.
        promised: how much it had to decrease by the promise of each step.
    """

    gradient: Tensor
    eigenvalues: Tensor | None = None
    eigenvectors: Tensor | None = None
    age: int = 0
    constant: float = 1.0
    decrease: float = 0.0
    promised: float = 0.0


@dataclass(frozen=True)
class LazyNewton(Solver[SmoothProblem, LazyNewtonState]):
    r"""Newton's method with cubic or quadratic regularization and a Hessian that is renewed every ``every`` steps.

    It solves ``min_x f(x)`` for a twice differentiable ``f``. With the gradient ``g_k`` at ``x_k`` and the Hessian
    ``H`` at the last snapshot ``z``, the iterate of the last step whose number ``every`` divides::

        cubic:      x_{k+1} = x_k + argmin_d <g_k, d> + <H d, d> / 2 + (M / 6) |d|^3
        quadratic:  x_{k+1} = x_k - (H + sqrt(M |g_k|) I)^-1 g_k                            (convex f)

    Each Hessian is decomposed into eigenvalues once; then every step, for any ``M``, costs ``O(d^2)``, and the cubic
    model is minimized globally, also where ``H`` is indefinite or singular.

    Let the Hessian of ``f`` be ``L``-Lipschitz and ``m = every``. With a fixed ``M >= 6 m L`` (cubic) or, for convex
    ``f``, ``M >= 3 m L`` (quadratic), the value has decreased at the ``j``-th step of each phase by at least ::

        cubic:      sum_{i <= j} |g_i|^{3/2} / (5 sqrt(M))
        quadratic:  sum_{i <= j} |g_i|^2 / (6 sqrt(M |g_{i-1}|))

    with ``g_i`` after the ``i``-th step of the phase. So ``min_{i <= k} |g_i|`` is at most
    ``(5 sqrt(M) (f(x_0) - min f) / k)^{2/3}`` for the cubic method, without convexity; with it, the gap falls as
    ``O(M D^3 / k^2)``, ``D`` the diameter of the level set. One Hessian is worth about ``d`` gradients; in this unit
    the total is least at ``m = d``, by a factor of the order ``sqrt(d)`` less than at ``m = 1``. Where ``f`` is
    ``mu``-strongly convex, the cubic step has
    ``|g_{k+1}| <= ((M + L) / 2 |g_k| + L (|g_z| + |g_k|)) |g_k| / mu^2``: locally superlinear over the phases.

    With ``adaptive``, ``L`` need not be known: ``M`` is doubled, and the step repeated with the same decomposition,
    until this inequality holds and the value does not rise; the next step begins with half of it. (The paper tests a
    phase at its end, repeats it whole, and lowers ``M`` between phases. With the same sum, here each step is tested,
    and only that one is repeated: with ``m = d`` a phase is long, and an ``M`` that is too large wastes all of it.)

    A phase costs one Hessian over the flattened point and one ``"factorization"`` (about ``9 d^3`` operations); a step
    one value and one gradient per trial. Memory: ``d^2``. Stationarity is the Euclidean norm of the gradient.

    Args:
        every: steps per Hessian, >= 1; ``None`` for the dimension ``d``, the paper's choice. Default ``None``.
        regularization: ``"cubic"`` (default) or ``"quadratic"`` (for convex functions; cheaper by a few products of
            vectors).
        constant: ``M`` (of the first step where ``adaptive``), > 0, in units of ``f`` per cubed unit of ``x``.
            Default 1.
        adaptive: whether ``M`` is adapted. Default true.
        max_trials: values of ``M`` that a step tries, >= 1. Default 60.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.

    A run ends as ``stalled`` where no ``M`` decreases the value enough, or where neither value nor gradient can be made
    smaller for rounding, even with a new Hessian.

    Source: N. Doikov, E. M. Chayti and M. Jaggi (2022), "Second-order optimization with lazy Hessians",
    arXiv:2212.00781, Algorithms 1 to 3. The constants above are derived for this rule; the tests hold them to account.
    """

    every: int | None = None
    regularization: Literal["cubic", "quadratic"] = "cubic"
    constant: float = 1.0
    adaptive: bool = True
    max_trials: int = 60

    needs = frozenset({"value", "gradient", "hessian"})
    ranges = {
        "every": Integer(low=1, optional=True),
        "regularization": OneOf(("cubic", "quadratic")),
        "constant": Real(low=0.0, low_open=True),
        "adaptive": Flag(),
        "max_trials": Integer(low=1),
    }

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> LazyNewtonState:
        """The value and the gradient at the start."""
        value, gradient = problem.value_and_gradient(start)
        flat = ravel(gradient)
        return LazyNewtonState(
            point=start,
            value=float(value),
            gradient=flat,
            stationarity=float(torch.linalg.vector_norm(flat)),
            constant=float(self.constant),
        )

    def step(self, problem: SmoothProblem, state: LazyNewtonState) -> LazyNewtonState:
        """One step, with a new Hessian where one is due.

        Raises:
            Stalled: the Hessian is not finite, or no progress is possible.
        """
        due = state.eigenvalues is None or state.age >= (self.every or len(state.gradient))
        if not due:
            found = self._advance(problem, state)
            if found is not None:
                return found
        fresh = self._snapshot(problem, state)
        found = self._advance(problem, fresh)
        if found is None:
            raise Stalled(f"no constant made progress in {self.max_trials} trials, or it is lost in rounding")
        return found

    def _snapshot(self, problem: SmoothProblem, state: LazyNewtonState) -> LazyNewtonState:
        """The state with a Hessian of its own point."""
        hessian = problem.hessian(state.point)
        if not bool(torch.isfinite(hessian).all()):
            raise Stalled("the Hessian is not finite")
        values, vectors = Spectrum.of(hessian)
        return LazyNewtonState(
            point=state.point,
            value=state.value,
            gradient=state.gradient,
            stationarity=state.stationarity,
            eigenvalues=values,
            eigenvectors=vectors,
            constant=state.constant,
        )

    def _advance(self, problem: SmoothProblem, state: LazyNewtonState) -> LazyNewtonState | None:
        """The state after a step with the Hessian that there is; ``None`` where it makes no progress."""
        assert state.value is not None
        assert state.stationarity is not None
        assert state.eigenvalues is not None
        assert state.eigenvectors is not None
        spectrum, norm = Spectrum(state.eigenvalues, state.eigenvectors), float(state.stationarity)
        constant = state.constant
        for _ in range(self.max_trials if self.adaptive else 1):
            direction = self._direction(spectrum, state.gradient, norm, constant)
            if direction is not None:
                if not float(torch.linalg.vector_norm(direction)) > 0:
                    return None
                found = trial(problem, state.point, float(state.value), state.gradient, direction)
                if found.lost and not found.norm < norm:
                    return None
                decrease = state.decrease - found.change
                promised = state.promised + self._promise(found, norm, constant)
                if not self.adaptive or (found.finite and found.change <= 0 and decrease >= promised):
                    return LazyNewtonState(
                        point=found.point,
                        value=found.value,
                        gradient=found.gradient,
                        stationarity=found.norm,
                        eigenvalues=state.eigenvalues,
                        eigenvectors=state.eigenvectors,
                        age=state.age + 1,
                        constant=max(0.5 * constant, _FLOOR) if self.adaptive else constant,
                        decrease=decrease,
                        promised=promised,
                    )
            constant *= 2.0
        return None

    def _direction(self, spectrum: Spectrum, gradient: Tensor, norm: float, constant: float) -> Tensor | None:
        """The step; ``None`` where the quadratic model has no minimum."""
        if self.regularization == "cubic":
            return spectrum.cubic(gradient, constant)
        shift = math.sqrt(constant * norm)
        return -spectrum.shifted(gradient, shift) if float(spectrum.values[0]) + shift > 0 else None

    def _promise(self, found: Trial, norm: float, constant: float) -> float:
        if self.regularization == "cubic":
            return _CUBIC * found.norm**1.5 / math.sqrt(constant)
        return _QUADRATIC * found.norm**2 / math.sqrt(constant * norm) if norm > 0 else 0.0
