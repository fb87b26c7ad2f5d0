"""Dual averaging."""

from dataclasses import dataclass, field

import torch

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Real
from steepest.core.solver import Solver
from steepest.core.stopping import Measures
from steepest.core.tree import Point
from steepest.solve.convex.geometry import Entropy, Geometry
from steepest.solve.convex.mirror_descent import MirrorState, begin_mirror, move_mirror
from steepest.solve.convex.problem import CompositeProblem

__all__ = ["CARD", "DualAveraging"]

CARD = MethodCard(
    name="dual-averaging",
    title="Dual averaging",
    room="convex",
    family="nonsmooth",
    summary="Mirror descent that adds up all subgradients with equal weights and projects once.",
    target="steepest.solve.convex.dual_averaging:DualAveraging",
    papers=(
        Paper(
            "Y. Nesterov",
            2009,
            "Primal-dual subgradient methods for convex problems",
            venue="Mathematical Programming 120(1), 221-259",
        ),
        Paper("S. Bubeck", 2015, "Convex optimization: algorithms and complexity", arxiv="1405.4980"),
    ),
    needs=frozenset({"value", "subgradient", "prox"}),
    buffers=4,
)


@dataclass(frozen=True)
class DualAveraging(Solver[CompositeProblem, MirrorState]):
    """Dual averaging, also known as lazy mirror descent.

    It solves ``min_{x in C} f(x)`` for a convex ``f``, which may have kinks, with a mirror map ``P`` on ``C`` by::

        x_{k+1} = argmin_{x in C} P(x) - <grad P(x_0), x> + t_k <g_0 + ... + g_k, x>,       t_k = step_size / (k +
        1)**power

    So late subgradients count as much as early ones. The answer is the average of ``x_0, ..., x_{k-1}``, with equal
    weights. With ``P`` ``s``-strongly convex in a norm, ``|g_i| <= G`` in its dual norm, and the Bregman distance ``D``
    from the start to a minimizer, a constant ``t = sqrt(s D / (2 k)) / G`` gives ``f(average) - f* <= 2 G sqrt(2 D / (s
    k))`` after ``k`` steps; ``power = 1/2`` gives the same order for all ``k``, without knowing ``k``.

    Stationarity is a duality gap where the set is bounded (the problem offers ``"lmo"``; see
    :mod:`steepest.solve.convex.minorant`), else it is not measured: give ``Tolerance(value=...)`` or no tolerance. A
    step costs one subgradient and, on a bounded set, one linear minimization.

    Args:
        geometry: the mirror map and its set, of :mod:`steepest.solve.convex.geometry`: ``Entropy`` (default; the
            simplex, which has to be the problem's set), ``PNorm`` (the whole space) or ``Euclidean`` (the problem's
            set).
        step_size: > 0. Default 1.
        power: in [0, 1]; 0 for a constant step size. Default 1/2.

    Raises:
        ValueError, TypeError: an argument is not what it should be, or the start is not in the interior of the set.

    Source: Y. Nesterov (2009), "Primal-dual subgradient methods for convex problems", Mathematical Programming 120; S.
        Bubeck
    (2015), "Convex optimization: algorithms and complexity", arXiv 1405.4980, section 4.4.
    """

    geometry: Geometry = field(default_factory=Entropy)
    step_size: float = 1.0
    power: float = 0.5

    needs = frozenset({"value", "subgradient", "prox"})
    ranges = {"step_size": Real(low=0.0, low_open=True), "power": Real(low=0.0, high=1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.geometry, Geometry):
            raise TypeError(f"DualAveraging: geometry must be a Geometry, such as Entropy(), got {self.geometry!r}")

    def init(self, problem: CompositeProblem, start: Point, generator: torch.Generator) -> MirrorState:
        """Value and subgradient at the start."""
        return begin_mirror(problem, start, self.geometry)

    def step(self, problem: CompositeProblem, state: MirrorState) -> MirrorState:
        """One sum in the dual space, and one subgradient where it leads."""
        size = self.step_size / (state.steps + 1) ** self.power
        total = tree.add_scaled(state.minorant.slope, 1.0, state.subgradient)  # the minorant's weights are all 1
        point = self.geometry.primal(problem, tree.add_scaled(state.dual, -size, total))
        return move_mirror(problem, state, point, state.dual, 1.0)

    def solution(self, problem: CompositeProblem, state: MirrorState) -> Point:
        """The average."""
        return state.minorant.average

    def measure(self, problem: CompositeProblem, state: MirrorState) -> Measures:
        """The value at the average, not at the iterate."""
        return Measures.of(problem.value(state.minorant.average), state.stationarity)
