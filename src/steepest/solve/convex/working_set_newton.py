"""Working sets with Newton's method inside: sparse linear models to high accuracy."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.losses import Squared
from steepest.core.oracle import tally
from steepest.core.ranges import Integer
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.columns import Columns
from steepest.solve.convex.problem import LinearModel
from steepest.solve.convex.quadratic_subproblem import minimize_quadratic
from steepest.solve.convex.separable import SeparableForm

__all__ = ["CARD", "WorkingSetNewton", "WorkingSetNewtonState"]

CARD = MethodCard(
    name="working-set-newton",
    title="Working-set Newton",
    room="convex",
    family="coordinate",
    summary="Sparse linear models: Newton steps on the few features that matter, found by their optimality violation.",
    target="steepest.solve.convex.working_set_newton:WorkingSetNewton",
    papers=(
        Paper(
            "M. Massias, A. Gramfort, J. Salmon",
            2018,
            "Celer: a fast solver for the Lasso with dual extrapolation",
            arxiv="1802.07481",
        ),
        Paper(
            "Q. Bertrand, Q. Klopfenstein, P.-A. Bannier, G. Gidel, M. Massias",
            2022,
            "Beyond L1: faster and better sparse models with skglm",
            arxiv="2204.07826",
        ),
    ),
    needs=frozenset({"columns"}),
    buffers=2,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkingSetNewtonState(State):
    """The iterate, its value, and:

    Attributes:
        prediction: the predictions ``A x``.
        gradient: the gradient of the smooth part.
        bound: the best value of the dual found so far, a lower bound on the minimum.
        working: the features in the working set, in the order in which they came.
        gram: for the squared loss their Gram matrix (times the problem's ``scale``), else empty.
    """

    prediction: Tensor
    gradient: Tensor
    bound: float
    working: Tensor
    gram: Tensor


@dataclass(frozen=True)
class WorkingSetNewton(Solver[LinearModel, WorkingSetNewtonState]):
    r"""Working sets with proximal Newton steps inside, for linear models with separable regularizers.

    It solves ``min_x c sum_i loss(a_i . x, y_i) + g(x)`` for a smooth loss, where ``g`` is a sum over coordinates or
    over groups of them. A step:

    1. scores every feature (every group) by how far it is from optimal, the distance of ``-grad_j f(x)`` to the
       subdifferential of ``g_j``, and adds the worst ``max(start_size, 2 |support|) - |working|``, at least
       ``start_size``, to the working set ``W``;
    2. minimizes the quadratic model of ``f`` on ``W`` plus ``g``, to the last digits, by Newton steps in the variables
       that are free::

           p = argmin_p  grad_W f(x) . p + p . A_W^T D A_W p / 2 + g(x_W + p),        D = c diag(loss''(A x, y))

    3. moves by ``t p``, the first ``t`` of 1, 1/2, 1/4, ... with ``F(x + t p) <= F(x) + 1e-4 t delta``, ``delta`` the
       change of the linear part of ``f`` plus that of ``g``. For the squared loss the model is exact and ``t = 1``.

    The working set of the squared loss only grows (its Gram matrix is kept), that of another loss holds the support and
    the violators. For the squared loss a run is finite: a step makes ``x`` optimal on ``W``, so each adds a feature or
    ends. For other losses the rate is that of the proximal Newton method, quadratic once ``W`` holds the support.
    A step costs one product with ``A^T`` and ``O(n |W|^2)`` for the matrix; it pays where the solution is sparse.

    Stationarity is the duality gap, taken with the best dual point so far. Where no scaling makes a dual point feasible
    (a coordinate with neither penalty nor two bounds), it is the largest score instead.

    Args:
        start_size: the least number of features that join in a step, >= 1. Default 20.

    Raises:
        TypeError: the loss is not smooth, or the regularizer is not separable.
        ValueError: ``start`` is not a vector with one number per feature.

    A run ends as ``stalled`` where rounding forbids any progress.

    Source: working sets by violation with a doubling size are from M. Massias, A. Gramfort, J. Salmon (2018), "Celer: a
    fast solver for the Lasso with dual extrapolation", arXiv 1802.07481, and Q. Bertrand et al. (2022), "Beyond L1:
    faster and better sparse models with skglm", arXiv 2204.07826, who solve the inner problem by coordinate descent
    with Anderson's extrapolation. Here it is solved by Newton's method on its Gram matrix instead, which runs at the
    speed of matrix products and leaves an inner problem solved so exactly that the dual point needs no extrapolation.
    Proximal Newton: J. D. Lee, Y. Sun, M. A. Saunders (2014), "Proximal Newton-type methods for minimizing composite
    functions", arXiv 1206.1623.
    """

    start_size: int = 20

    needs = frozenset({"columns"})
    ranges = {"start_size": Integer(low=1)}

    def init(self, problem: LinearModel, start: Point, generator: torch.Generator) -> WorkingSetNewtonState:
        """Value, gradient and gap at the start, projected to the bounds; the working set is empty."""
        g = separable_of(problem, start, type(self).__name__)
        x = torch.minimum(torch.maximum(start, g.low), g.high)
        empty = torch.zeros(0, dtype=torch.long, device=x.device)
        tally("product")
        return _state(problem, g, x, problem.predict(x), -torch.inf, empty, x.new_zeros((0, 0)))

    def step(self, problem: LinearModel, state: WorkingSetNewtonState) -> WorkingSetNewtonState:
        """One working set and one proximal Newton step on it.

        Raises:
            Stalled: no direction decreases the value.
        """
        x, value = state.point, float(state.value or 0.0)
        g = SeparableForm.of(problem.regularizer, x)
        scores = g.violation(x, state.gradient)
        if not bool((scores > 0).any()):
            raise Stalled("the optimality conditions hold exactly")
        columns, squared = Columns.of(problem), isinstance(problem.loss, Squared)
        before = state.working if squared else (x != 0).nonzero()[:, 0]
        before = whole_groups(g, before)
        joining = self._joining(g, x, scores, before)
        working = torch.cat([before, joining])
        if squared:
            gram = _extended(columns, state.gram, before, joining, problem.scale)
        else:
            weight = problem.scale * problem.loss.second_derivative(state.prediction, problem.target)
            features = columns.gather(working)
            gram = Columns.gram(features, features, weight)
        tally("columns", len(joining) if squared else len(working))
        part, here = g.take(working), x[working]
        # The model of another loss is not exact, so that its minimizer need not be: a violation that shrinks with its
        # own square keeps the quadratic rate.
        worst = float(scores.max())
        accuracy = 0.0 if squared else 0.1 * worst * min(0.1, worst / float(state.gradient.abs().max()))
        found = minimize_quadratic(gram, gram @ here - state.gradient[working], part, here, accuracy=accuracy)
        delta = found - here
        promised = float(state.gradient[working] @ delta + part.value(found) - part.value(here))
        rounding = 4 * torch.finfo(x.dtype).eps * abs(value)
        size = 1.0
        for _ in range(30):
            following = x.index_copy(0, working, found if size == 1.0 else here + size * delta)
            prediction = problem.predict(following)
            tally("product")
            made = _state(problem, g, following, prediction, state.bound, working, gram if squared else state.gram)
            # Where the decrease drowns in rounding, a step still mends the gradient, and with it the gap.
            if squared or float(made.value or 0.0) <= value + 1e-4 * size * promised + rounding:
                break
            size *= 0.5
        gain = value - float(made.value or 0.0)
        closer = float(made.stationarity or 0.0) < float(state.stationarity or 0.0)
        if not closer and gain <= rounding and not (squared and len(joining)):
            raise Stalled("no step decreases the value any more")
        return made

    def _joining(self, g: SeparableForm, x: Tensor, scores: Tensor, before: Tensor) -> Tensor:
        """The features that join the working set: the worst violators outside."""
        scores = scores.clone()
        own = before if g.groups is None else g.groups[before]
        scores[own] = 0.0
        support = int((x != 0).sum() if g.groups is None else (g.norms(x) > 0).sum())
        inside = len(before) if g.groups is None else len(torch.unique(own))
        size = max(self.start_size, 2 * support - inside)
        worst = scores.topk(min(size, len(scores)))
        chosen = worst.indices[worst.values > 0]
        return chosen if g.groups is None else torch.isin(g.groups, chosen).nonzero()[:, 0]


def separable_of(problem: LinearModel, start: Point, name: str) -> SeparableForm:
    """The regularizer of a problem as coordinate methods want it, after a check of problem and start."""
    if problem.target.dim() != 1:
        raise ValueError(f"{name}: target must be (n,), got {list(problem.target.shape)}")
    if not torch.isfinite(torch.tensor(problem.loss.curvature)):
        raise TypeError(f"{name}: loss must be smooth, got {type(problem.loss).__name__}")
    if not isinstance(start, Tensor) or tuple(start.shape) != (problem.design.shape[1],):
        shape = list(start.shape) if isinstance(start, Tensor) else type(start).__name__
        raise ValueError(f"{name}: start must be a vector of {problem.design.shape[1]} numbers, got {shape}")
    if start.dtype != problem.design.dtype:
        raise TypeError(f"{name}: start must be of the design's dtype {problem.design.dtype}, got {start.dtype}")
    return SeparableForm.of(problem.regularizer, start)


def whole_groups(g: SeparableForm, indices: Tensor) -> Tensor:
    """The coordinates, completed to whole groups; unchanged where there are none."""
    if g.groups is None or not len(indices):
        return indices
    wanted = torch.isin(g.groups, g.groups[indices])
    wanted[indices] = False
    return torch.cat([indices, wanted.nonzero()[:, 0]])


def _extended(columns: Columns, gram: Tensor, old: Tensor, new: Tensor, scale: float) -> Tensor:
    """The Gram matrix of the columns ``old`` and ``new``, from that of ``old``."""
    if not len(new):
        return gram
    added = columns.gather(new)
    corner = scale * Columns.gram(added, added)
    if not len(old):
        return corner
    strip = scale * Columns.gram(columns.gather(old), added)
    return torch.cat([torch.cat([gram, strip], 1), torch.cat([strip.mT, corner], 1)])


def _state(
    problem: LinearModel, g: SeparableForm, x: Tensor, prediction: Tensor, bound: float, working: Tensor, gram: Tensor
) -> WorkingSetNewtonState:
    slope = problem.loss.derivative(prediction, problem.target)
    gradient = problem.scale * (Columns.of(problem).transposed @ slope)
    tally("product")
    value = float(problem.scale * problem.loss.value(prediction, problem.target).sum() + g.value(x))
    if "gap" in problem.offers and g.has_dual():
        bound = max(bound, dual_value(problem, slope, gradient))
        stationarity = max(value - bound, 0.0)
    else:
        stationarity = float(g.violation(x, gradient).max())
    return WorkingSetNewtonState(
        point=x,
        value=value,
        stationarity=stationarity,
        prediction=prediction,
        gradient=gradient,
        bound=bound,
        working=working,
        gram=gram,
    )


def dual_value(problem: LinearModel, slope: Tensor, gradient: Tensor) -> float:
    """Fenchel's dual objective at the slopes of the loss, scaled until they are feasible: a lower bound on the minimum.

    Args:
        slope: the derivative of the loss in each sample.
        gradient: the gradient of the smooth part, ``scale * A^T slope``.
    """
    shrink = problem.regularizer.dual_scale(-gradient)
    # What is scaled onto the boundary of the domain must not fall outside by rounding.
    shrink = torch.where(shrink < 1, shrink * (1 - 4 * torch.finfo(shrink.dtype).eps), shrink)
    conjugate = problem.scale * problem.loss.conjugate(shrink * slope, problem.target).sum()
    return -float(conjugate + problem.regularizer.conjugate(-shrink * gradient))
