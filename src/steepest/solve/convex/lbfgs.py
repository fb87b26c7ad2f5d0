"""The limited-memory BFGS method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.linesearch import change_of_value, rounding_of, strong_wolfe
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point

__all__ = ["CARD", "LBFGS", "LBFGSState", "two_loop"]

CARD = MethodCard(
    name="l-bfgs",
    title="L-BFGS",
    room="convex",
    family="second order",
    summary="Quasi-Newton steps from the last few changes of the gradient, with a strong Wolfe line search.",
    target="steepest.solve.convex.lbfgs:LBFGS",
    papers=(
        Paper(
            "D. C. Liu, J. Nocedal",
            1989,
            "On the limited memory BFGS method for large scale optimization",
            venue="Mathematical Programming 45, 503-528",
        ),
    ),
    needs=frozenset({"value", "gradient"}),
    buffers=21,
)

#: Steps in the rounding of the value without a smaller gradient, after which nothing more is to be gained.
_PATIENCE = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class LBFGSState(State):
    """The iterate, its value, and:

    Attributes:
        gradient: the gradient at ``point``, as a vector.
        steps: the last changes of the point, oldest first.
        changes: the changes of the gradient that belong to them.
        smallest: the least norm of a gradient so far.
        idle: steps since then in which the change of the value was lost in rounding.
        step_size: the step size that led here; 0 at the start.
    """

    gradient: Tensor
    steps: tuple[Tensor, ...] = ()
    changes: tuple[Tensor, ...] = ()
    smallest: float = float("inf")
    idle: int = 0
    step_size: float = 0.0


def two_loop(gradient: Tensor, steps: tuple[Tensor, ...], changes: tuple[Tensor, ...]) -> Tensor:
    r"""The product :math:`B g` of the BFGS inverse :math:`B` and a vector.

    :math:`B` starts as :math:`\gamma I`, :math:`\gamma = s^\top y / y^\top y` of the last pair (1 where there is none),
    and is updated by every pair :math:`(s, y)` from the oldest to the last:
    :math:`B \leftarrow (I - \rho s y^\top) B (I - \rho y s^\top) + \rho s s^\top`, :math:`\rho = 1 / y^\top s`.

    Args:
        gradient: the vector.
        steps, changes: pairs with :math:`s^\top y > 0`, oldest first.

    Source: J. Nocedal (1980), "Updating quasi-Newton matrices with limited storage", Mathematics of Computation 35,
    773-782.
    """
    if not steps:
        return gradient.clone()
    result = gradient.clone()
    weights = []
    products = [torch.dot(s, y) for s, y in zip(steps, changes, strict=True)]
    for s, y, product in zip(reversed(steps), reversed(changes), reversed(products), strict=True):
        weight = torch.dot(s, result) / product
        weights.append(weight)
        result = torch.sub(result, weight * y)
    result = result * (products[-1] / torch.dot(changes[-1], changes[-1]))
    for s, y, product, weight in zip(steps, changes, products, reversed(weights), strict=True):
        result = torch.add(result, (weight - torch.dot(y, result) / product) * s)
    return result


@dataclass(frozen=True)
class LBFGS(Solver[SmoothProblem, LBFGSState]):
    """The limited-memory BFGS method with a line search for the strong Wolfe conditions.

    It solves ``min_x f(x)`` for a differentiable ``f``::

        x_{k+1} = x_k - t_k B_k g_k

    where ``B_k`` is the BFGS approximation of the inverse Hessian from the last ``memory`` pairs of changes
    ``s_i = x_{i+1} - x_i``, ``y_i = g_{i+1} - g_i`` on top of ``(s'y / y'y) I``, never formed but applied by the
    two-loop recursion (:func:`two_loop`), and ``t_k`` satisfies the strong Wolfe conditions with ``decrease`` and
    ``curvature``. The first trial is 1; in the first step ``min(1, 1 / |g|)``.

    For a twice differentiable, uniformly convex ``f`` it converges R-linearly from any start (Liu and Nocedal, Theorem
    6.1). On a quadratic with exact line searches it makes the steps of conjugate gradients and ends in at most ``d``.

    A step costs a value and a gradient per trial (mostly one trial) and ``4 memory d`` operations; the memory is
    ``2 memory`` vectors. Stationarity is the Euclidean norm of the gradient.

    Args:
        memory: the number of pairs kept, >= 1. Default 10.
        decrease: Armijo's constant, in (0, 1/2). Default 1e-4.
        curvature: the curvature constant, in (decrease, 1). Default 0.9.
        max_trials: trials of a line search, >= 1. Default 30.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, or ``curvature <= decrease``.

    A pair without positive curvature (possible where rounding ends a search early) is left out. A search that fails is
    tried once more along the negative gradient with an empty memory; where that fails too, the run ends as ``stalled``.
    Where differences of values drown in rounding, slopes are compared instead (see
    :func:`~steepest.core.linesearch.change_of_value`), so that gradients get as small as they can be computed; ten such
    steps without a smaller gradient end the run as ``stalled``.

    Source: D. C. Liu and J. Nocedal (1989), "On the limited memory BFGS method for large scale optimization",
    Mathematical Programming 45, 503-528; the constants are those of J. Nocedal and S. J. Wright (2006), "Numerical
    Optimization", section 7.2.
    """

    memory: int = 10
    decrease: float = 1e-4
    curvature: float = 0.9
    max_trials: int = 30

    needs = frozenset({"value", "gradient"})
    ranges = {
        "memory": Integer(low=1),
        "decrease": Real(low=0.0, high=0.5, low_open=True, high_open=True),
        "curvature": Real(low=0.0, high=1.0, low_open=True, high_open=True),
        "max_trials": Integer(low=1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decrease < self.curvature:
            raise ValueError(
                f"LBFGS: curvature must be greater than decrease={self.decrease!r}, got {self.curvature!r}"
            )

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> LBFGSState:
        """The value and the gradient at the start."""
        value, gradient = problem.value_and_gradient(start)
        flat = tree.ravel(gradient)
        norm = float(torch.linalg.vector_norm(flat))
        return LBFGSState(point=start, value=float(value), gradient=flat, stationarity=norm, smallest=norm)

    def step(self, problem: SmoothProblem, state: LBFGSState) -> LBFGSState:
        """One direction and one line search.

        Raises:
            Stalled: the gradient is zero, or no further progress is possible.
        """
        if state.stationarity == 0:
            raise Stalled("the gradient is zero")
        if state.idle >= _PATIENCE:
            raise Stalled(f"{state.idle} steps without a smaller gradient, with values that differ by rounding alone")
        found = self._search(problem, state, state.steps, state.changes)
        if found is None and state.steps:
            found = self._search(problem, state, (), ())
        if found is None:
            raise Stalled(f"no step size met the Wolfe conditions or decreased the value in {self.max_trials} trials")
        return found

    def _search(
        self, problem: SmoothProblem, state: LBFGSState, steps: tuple[Tensor, ...], changes: tuple[Tensor, ...]
    ) -> LBFGSState | None:
        """The next state by these pairs, or ``None``."""
        assert state.value is not None
        x, gradient, value = state.point, state.gradient, float(state.value)
        direction = -two_loop(gradient, steps, changes)
        slope = float(torch.dot(gradient, direction))
        if not slope < 0:
            return None
        shaped = tree.unravel(direction, x)
        rounding = rounding_of(value, torch.finfo(gradient.dtype).eps)
        seen: dict[float, tuple[Point, float, Tensor]] = {}

        def phi(size: float) -> tuple[float, float]:
            point = tree.add_scaled(x, size, shaped)
            here, slopes = problem.value_and_gradient(point)
            flat = tree.ravel(slopes)
            seen[size] = (point, float(here), flat)
            here_slope = float(torch.dot(flat, direction))
            change = change_of_value(value, slope, size, float(here), here_slope, rounding)
            return (change, here_slope) if abs(change) < 1e300 else (float(here), here_slope)

        assert state.stationarity is not None
        first = 1.0 if steps else min(1.0, 1.0 / float(state.stationarity))
        # The search sees changes of the value, which do not drown where the value is large.
        result = strong_wolfe(
            phi,
            0.0,
            slope,
            initial=first,
            decrease=self.decrease,
            curvature=self.curvature,
            max_trials=self.max_trials,
        )
        if result.size == 0 or not (result.found or result.value < 0):
            return None
        point, here, following = seen[result.size]
        norm = float(torch.linalg.vector_norm(following))
        s, y = result.size * direction, following - gradient
        if float(torch.dot(s, y)) > torch.finfo(s.dtype).eps * float(torch.dot(y, y)):
            steps, changes = (*steps, s)[-self.memory :], (*changes, y)[-self.memory :]
        lost = abs(here - value) < rounding and not norm < state.smallest
        return LBFGSState(
            point=point,
            value=here,
            gradient=following,
            stationarity=norm,
            steps=steps,
            changes=changes,
            smallest=min(norm, state.smallest),
            idle=state.idle + 1 if lost else 0,
            step_size=result.size,
        )
