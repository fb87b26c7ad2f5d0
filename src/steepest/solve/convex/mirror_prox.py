"""Mirror prox: the extragradient method in the geometry of mirror maps."""

import math
from dataclasses import dataclass, field

import torch
from torch.utils import _pytree as pytree

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Real
from steepest.core.solver import Solver, State
from steepest.core.tree import Point
from steepest.solve.convex.geometry import Euclidean, Geometry
from steepest.solve.convex.saddle_problem import MonotoneProblem

__all__ = ["CARD", "MirrorProx", "MirrorProxState"]

CARD = MethodCard(
    name="mirror-prox",
    title="Mirror prox",
    room="convex",
    family="saddle points",
    summary="Solves monotone variational inequalities and saddle points by a look ahead and a step, at the rate 1/k.",
    target="steepest.solve.convex.mirror_prox:MirrorProx",
    papers=(
        Paper(
            "A. Nemirovski",
            2004,
            "Prox-method with rate of convergence O(1/t) for variational inequalities with Lipschitz continuous "
            "monotone operators and smooth convex-concave saddle point problems",
            venue="SIAM Journal on Optimization 15(1), 229-251",
        ),
        Paper("S. Bubeck", 2015, "Convex optimization: algorithms and complexity", arxiv="1405.4980"),
    ),
    needs=frozenset({"operator", "prox"}),
    buffers=4,
    claim="The gap of a smooth saddle point falls as 1/k, where that of subgradient methods falls as 1/sqrt(k).",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class MirrorProxState(State):
    """The iterate, the gap as ``stationarity``, and:

    Attributes:
        dual: the mirror image of ``point``.
        average: the mean of the points that were looked ahead to.
        slope: the sum of the operator at them, and ``level`` that of ``<F(w_i), w_i>``.
        steps: steps so far.
    """

    dual: Point
    average: Point
    slope: Point
    level: float
    steps: int = 0


@dataclass(frozen=True)
class MirrorProx(Solver[MonotoneProblem, MirrorProxState]):
    """Mirror prox, for monotone variational inequalities and convex-concave saddle points.

    It looks for ``z`` in ``Z`` with ``<F(z), w - z> >= 0`` for all ``w`` in ``Z``, with a mirror map ``P`` on ``Z``,
    by::

        w_k     = argmin_{w in Z} t <F(z_k), w> + D(w, z_k)
        z_{k+1} = argmin_{z in Z} t <F(w_k), z> + D(z, z_k)

    ``D`` the Bregman distance of ``P``. The answer is the mean of ``w_0, ..., w_{k-1}`` where ``Z`` is bounded, else
    ``z_k``. Stationarity is ``max_{z in Z} 1/k sum_i <F(w_i), w_i - z>``, where ``Z`` is bounded (the problem offers
    ``"lmo"``); for a saddle point it bounds the gap ``max_y f(x_mean, y) - min_x f(x, y_mean)`` from above, and equals
    it where ``f`` is bilinear. Else it is the residual ``|z_k - w_k| / t`` of the first of the two steps, which is 0 at
    a solution.

    With ``P`` ``s``-strongly convex in a norm in which ``F`` is ``L``-Lipschitz, and ``t <= s / L``, the first is at
    most ``max_z D(z, z_0) / (t k)`` after ``k`` steps. A step costs two values of ``F``. With the Euclidean geometry it
    is Korpelevich's extragradient method.

    Args:
        step_size: ``t``, > 0. There is no default.
        geometry: one :class:`~steepest.solve.convex.geometry.Geometry` for all tensors of a point, or a tuple of one
            for each. Default ``Euclidean`` (projections onto the problem's sets); ``Entropy`` for simplices.

    Raises:
        ValueError, TypeError: an argument is not what it should be, or the start is not in the interior of the set.

    Source: A. Nemirovski (2004), "Prox-method with rate of convergence O(1/t) for variational inequalities with
        Lipschitz
    continuous monotone operators and smooth convex-concave saddle point problems", SIAM Journal on Optimization 15(1);
    S. Bubeck (2015), "Convex optimization: algorithms and complexity", arXiv 1405.4980, sections 4.5 and 5.2.3.
    """

    step_size: float
    geometry: Geometry | tuple[Geometry, ...] = field(default_factory=Euclidean)

    needs = frozenset({"operator", "prox"})
    ranges = {"step_size": Real(low=0.0, low_open=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.geometry if isinstance(self.geometry, tuple) else (self.geometry,)
        if not parts or not all(isinstance(item, Geometry) for item in parts):
            raise TypeError(f"MirrorProx: geometry must be a Geometry or a tuple of them, got {self.geometry!r}")

    def init(self, problem: MonotoneProblem, start: Point, generator: torch.Generator) -> MirrorProxState:
        """The gap at the start."""
        found = len(tree.leaves(start))
        if isinstance(self.geometry, tuple) and len(self.geometry) != found:
            raise ValueError(
                f"MirrorProx: geometry must name one for each of the {found} tensors, got {self.geometry!r}"
            )
        self._each("check", start)
        if self.geometry == Euclidean():
            start = problem.prox(start, 1.0)
        slope = problem.operator(start)
        level = float(tree.dot(slope, start))
        stationarity = _gap(problem, slope, level, 1)
        if stationarity is None:
            ahead = self._primal(problem, tree.add_scaled(self._each("dual", start), -self.step_size, slope))
            stationarity = float(tree.norm(tree.add_scaled(start, -1.0, ahead))) / self.step_size
        return MirrorProxState(
            point=start,
            stationarity=stationarity,
            dual=self._each("dual", start),
            average=start,
            slope=tree.zeros_like(start),
            level=0.0,
        )

    def step(self, problem: MonotoneProblem, state: MirrorProxState) -> MirrorProxState:
        """A look ahead, and a step from the same point with what was seen there."""
        size = self.step_size
        ahead = self._primal(problem, tree.add_scaled(state.dual, -size, problem.operator(state.point)))
        seen = problem.operator(ahead)
        dual = tree.add_scaled(state.dual, -size, seen)
        point = self._primal(problem, dual)
        slope = tree.add_scaled(state.slope, 1.0, seen)
        level, steps = state.level + float(tree.dot(seen, ahead)), state.steps + 1
        gap = _gap(problem, slope, level, steps)
        if gap is None:
            gap = float(tree.norm(tree.add_scaled(state.point, -1.0, ahead))) / size
        return MirrorProxState(
            point=point,
            stationarity=gap,
            dual=self._each("settle", dual, point),
            average=tree.tree_map(lambda mean, new: mean + (new - mean) / steps, state.average, ahead),
            slope=slope,
            level=level,
            steps=steps,
        )

    def solution(self, problem: MonotoneProblem, state: MirrorProxState) -> Point:
        """The mean of the points that were looked ahead to; on a set without bound the iterate."""
        return state.average if "lmo" in problem.offers else state.point

    def _each(self, method: str, *points: Point) -> Point:
        flats = [pytree.tree_flatten(point) for point in points]
        structure, size = flats[0][1], len(flats[0][0])
        parts = self.geometry if isinstance(self.geometry, tuple) else (self.geometry,) * size
        columns = zip(parts, *(flat for flat, _ in flats), strict=True)
        return pytree.tree_unflatten([getattr(part, method)(*leaves) for part, *leaves in columns], structure)

    def _primal(self, problem: MonotoneProblem, dual: Point) -> Point:
        """Every tensor by its geometry; the Euclidean one asks the problem for its projection."""
        flat, structure = pytree.tree_flatten(dual)
        parts = self.geometry if isinstance(self.geometry, tuple) else (self.geometry,) * len(flat)
        projected = tree.leaves(problem.prox(dual, 1.0)) if any(isinstance(p, Euclidean) for p in parts) else flat
        found = [
            near if isinstance(part, Euclidean) else part.primal(problem, leaf)  # type: ignore[arg-type]
            for part, leaf, near in zip(parts, flat, projected, strict=True)
        ]
        return pytree.tree_unflatten(found, structure)


def _gap(problem: MonotoneProblem, slope: Point, level: float, steps: int) -> float | None:
    if "lmo" not in problem.offers:
        return None
    found = (level - float(tree.dot(slope, problem.lmo(slope)))) / steps
    return max(0.0, found) if math.isfinite(found) else math.inf
