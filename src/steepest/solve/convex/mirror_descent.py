"""Mirror descent."""

from dataclasses import dataclass, field

import torch

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Measures
from steepest.core.tree import Point
from steepest.solve.convex.geometry import Entropy, Geometry
from steepest.solve.convex.minorant import Minorant
from steepest.solve.convex.problem import CompositeProblem

__all__ = ["CARD", "MirrorDescent", "MirrorState", "begin_mirror", "move_mirror"]

CARD = MethodCard(
    name="mirror-descent",
    title="Mirror descent",
    room="convex",
    family="nonsmooth",
    summary="The subgradient method in another geometry: on the simplex its rate depends on log d only.",
    target="steepest.solve.convex.mirror_descent:MirrorDescent",
    papers=(
        Paper(
            "A. S. Nemirovsky, D. B. Yudin",
            1983,
            "Problem complexity and method efficiency in optimization",
            venue="Wiley",
        ),
        Paper("S. Bubeck", 2015, "Convex optimization: algorithms and complexity", arxiv="1405.4980"),
    ),
    needs=frozenset({"value", "subgradient", "prox"}),
    buffers=4,
    claim="On the simplex with the entropy the error is sqrt(2 log d / k) in the unit of the largest slope, where the "
    "projected subgradient method's may grow with sqrt(d).",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class MirrorState(State):
    """The iterate, its value, the duality gap as ``stationarity`` where there is one, and:

    Attributes:
        dual: the mirror image of ``point``; for dual averaging that of the start.
        subgradient: a subgradient of ``f`` at ``point``.
        minorant: the average, and what bounds the minimum from below.
        steps: steps so far.
    """

    dual: Point
    subgradient: Point
    minorant: Minorant
    steps: int = 0


@dataclass(frozen=True)
class MirrorDescent(Solver[CompositeProblem, MirrorState]):
    """Mirror descent.

    It solves ``min_{x in C} f(x)`` for a convex ``f``, which may have kinks, with a mirror map ``P`` on ``C`` by::

        grad P(y_{k+1}) = grad P(x_k) - t_k g_k,             g_k a subgradient of f at x_k
        x_{k+1}         = the Bregman projection of y_{k+1} onto C,            t_k = step_size / (k + 1)**power

    With the entropy this is ``x_i <- x_i exp(-t g_i)``, normalized. The answer is the average of ``x_0, ..., x_{k-1}``
    with the step sizes as weights. With ``P`` ``s``-strongly convex in a norm, ``|g_i| <= G`` in its dual norm, and the
    Bregman distance ``D`` from the start to a minimizer: ``f(average) - f* <= (D + G^2 sum t_i^2 / (2 s)) / sum t_i``;
    with ``t = sqrt(2 s D / k) / G`` for ``k`` steps it is ``G sqrt(2 D / (s k))``.

    Stationarity is a duality gap where the set is bounded (the problem offers ``"lmo"``; see
    :mod:`steepest.solve.convex.minorant`), else it is not measured: give ``Tolerance(value=...)`` or no tolerance. A
    step costs one subgradient and, on a bounded set, one linear minimization.

    Args:
        geometry: the mirror map and its set, of :mod:`steepest.solve.convex.geometry`: ``Entropy`` (default; the
            simplex, which has to be the problem's set), ``PNorm`` (the whole space) or ``Euclidean`` (the problem's
            set).
        step_size: the first step size, > 0. Default 1.
        power: in [0, 1]; 0 for a constant step size. Default 1/2.

    Raises:
        ValueError, TypeError: an argument is not what it should be, or the start is not in the interior of the set.

    Source: S. Bubeck (2015), "Convex optimization: algorithms and complexity", arXiv 1405.4980, section 4.2 (A. S.
        Nemirovsky
    and D. B. Yudin, 1983).
    """

    geometry: Geometry = field(default_factory=Entropy)
    step_size: float = 1.0
    power: float = 0.5

    needs = frozenset({"value", "subgradient", "prox"})
    ranges = {"step_size": Real(low=0.0, low_open=True), "power": Real(low=0.0, high=1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.geometry, Geometry):
            raise TypeError(f"MirrorDescent: geometry must be a Geometry, such as Entropy(), got {self.geometry!r}")

    def init(self, problem: CompositeProblem, start: Point, generator: torch.Generator) -> MirrorState:
        """Value and subgradient at the start."""
        return begin_mirror(problem, start, self.geometry)

    def step(self, problem: CompositeProblem, state: MirrorState) -> MirrorState:
        """One step in the dual space, and one subgradient where it leads."""
        size = self.step_size / (state.steps + 1) ** self.power
        dual = tree.add_scaled(state.dual, -size, state.subgradient)
        point = self.geometry.primal(problem, dual)
        return move_mirror(problem, state, point, self.geometry.settle(dual, point), size)

    def solution(self, problem: CompositeProblem, state: MirrorState) -> Point:
        """The average."""
        return state.minorant.average

    def measure(self, problem: CompositeProblem, state: MirrorState) -> Measures:
        """The value at the average, not at the iterate."""
        return Measures.of(problem.value(state.minorant.average), state.stationarity)


def begin_mirror(problem: CompositeProblem, start: Point, geometry: Geometry) -> MirrorState:
    """The first state of mirror descent and of dual averaging."""
    geometry.check(start)
    value, subgradient = problem.value_and_subgradient(start)
    value = float(value) + float(problem.regularizer_value(start))
    minorant = Minorant.begin(problem, start, value, subgradient)
    return MirrorState(
        point=start,
        value=value,
        stationarity=minorant.gap(value),
        dual=geometry.dual(start),
        subgradient=subgradient,
        minorant=minorant,
    )


def move_mirror(problem: CompositeProblem, state: MirrorState, point: Point, dual: Point, weight: float) -> MirrorState:
    """The state at a new point; the one before enters the average with ``weight``."""
    assert state.value is not None
    minorant = state.minorant.add(problem, weight, state.point, float(state.value), state.subgradient)
    value, subgradient = problem.value_and_subgradient(point)
    value = float(value) + float(problem.regularizer_value(point))
    return MirrorState(
        point=point,
        value=value,
        stationarity=minorant.gap(value),
        dual=dual,
        subgradient=subgradient,
        minorant=minorant,
        steps=state.steps + 1,
    )
