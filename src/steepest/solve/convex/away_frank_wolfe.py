"""The Frank-Wolfe method with away steps or pairwise steps: linear convergence on polytopes."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import OneOf
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.solve.convex.frank_wolfe_steps import Backtracking, FrankWolfeStep, begin, travel
from steepest.solve.convex.problem import CompositeProblem
from steepest.solve.convex.proximal_step import has_moved

__all__ = ["CARD", "AwayFrankWolfe", "AwayFrankWolfeState"]

CARD = MethodCard(
    name="away-frank-wolfe",
    title="Away-step and pairwise Frank-Wolfe",
    room="convex",
    family="projection-free",
    summary="Frank-Wolfe that also moves away from bad vertices, which makes it converge linearly on polytopes.",
    target="steepest.solve.convex.away_frank_wolfe:AwayFrankWolfe",
    papers=(
        Paper(
            "S. Lacoste-Julien, M. Jaggi",
            2015,
            "On the global linear convergence of Frank-Wolfe optimization variants",
            arxiv="1511.05932",
        ),
    ),
    needs=frozenset({"smooth value", "smooth gradient", "lmo"}),
    buffers=2,
    claim="On a polytope a strongly convex function is minimized at a linear rate, where Frank-Wolfe's rate is 1/k.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class AwayFrankWolfeState(State):
    """The iterate, its value, its Frank-Wolfe gap as ``stationarity``, and:

    Attributes:
        image: the image of ``point`` (see :meth:`CompositeProblem.image`).
        gradient: the gradient of ``f`` at ``point``.
        vertex: the point of the set that the gradient points to.
        atoms: the active vertices, ``(m, ...)``.
        weights: their weights, ``(m,)``, positive, with sum 1: ``point`` is the combination.
        step_size: the step size that led here; 0 at the start.
        memory: what the step rule remembers.
        drops: how many steps took a vertex out at the end of their segment.
    """

    image: Tensor
    gradient: Tensor
    vertex: Tensor
    atoms: Tensor
    weights: Tensor
    step_size: float = 0.0
    memory: float = 0.0
    drops: int = 0


@dataclass(frozen=True)
class AwayFrankWolfe(Solver[CompositeProblem, AwayFrankWolfeState]):
    """Frank-Wolfe with away steps, or with pairwise steps.

    It solves ``min_{x in C} f(x)`` for a convex differentiable ``f`` and a polytope ``C``, whose indicator is the
    problem's regularizer. The iterate is kept as a combination ``x = sum_j w_j a_j`` of active vertices. With::

        s = argmin_{s in C} <grad f(x), s>,        v = the active vertex with the largest <grad f(x), v>

    a step goes along ``d = s - x`` (longest step 1) or ``d = x - v`` (longest step ``w_v / (1 - w_v)``), whichever
    descends faster; a pairwise step along ``d = s - v`` (longest step ``w_v``) moves weight from ``v`` to ``s``. A step
    that ends at its longest, other than 1, drops ``v``.

    Stationarity is the Frank-Wolfe gap ``<grad f(x), x - s>``, which bounds ``f(x) - f*`` from above. Where ``f`` is
    ``m``-strongly convex with an ``L``-Lipschitz gradient, and ``C`` has diameter ``D`` and pyramidal width ``W``, away
    steps with ``ShortStep`` or ``ExactQuadratic`` satisfy ``f(x_k) - f* <= (1 - r)^(k/2) (f(x_0) - f*)`` from a vertex,
    ``r = m W^2 / (4 L D^2)``. A step costs one gradient, one linear minimization, one product of the active vertices
    with the gradient, and what the rule asks; memory grows with the number of active vertices.

    Args:
        direction: ``"away"`` (default) or ``"pairwise"`` (often faster; its theory allows many steps that only swap).
        rule: the step rule, of :mod:`steepest.solve.convex.frank_wolfe_steps`: ``Backtracking`` (default),
            ``ShortStep`` or ``ExactQuadratic``. (``OpenLoop`` has no theory here.)

    Raises:
        ValueError, TypeError: an argument is not what it should be.

    A start inside the set is the first active vertex (and leaves by away steps, as others do); a start outside is
    replaced by the vertex that the gradient there points to. The point is one tensor. A run ends as ``stalled`` where
    the gap or the step drowns in rounding.

    Source: S. Lacoste-Julien and M. Jaggi (2015), "On the global linear convergence of Frank-Wolfe optimization
        variants",
    arXiv 1511.05932, algorithms 1 and 2, theorem 1.
    """

    direction: Literal["away", "pairwise"] = "away"
    rule: FrankWolfeStep = field(default_factory=Backtracking)

    needs = frozenset({"smooth value", "smooth gradient", "lmo"})
    ranges = {"direction": OneOf(("away", "pairwise"))}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rule, FrankWolfeStep):
            raise TypeError(f"AwayFrankWolfe: rule must be a FrankWolfeStep, such as ShortStep(1.0), got {self.rule!r}")

    def init(self, problem: CompositeProblem, start: Tensor, generator: torch.Generator) -> AwayFrankWolfeState:
        """Value, gap and vertex at the start, which is the one active vertex.

        Raises:
            TypeError: the start is not one tensor.
        """
        if not isinstance(start, Tensor):
            raise TypeError(f"AwayFrankWolfe: start must be one tensor, got {type(start).__name__}")
        point = begin(problem, start)
        return self._state(problem, point, problem.image(point), point[None], point.new_ones(1))

    def step(self, problem: CompositeProblem, state: AwayFrankWolfeState) -> AwayFrankWolfeState:
        """One step, and one gradient and linear minimization where it ends.

        Raises:
            Stalled: the gap is zero, or the step is no longer than the rounding error of the iterate.
        """
        assert state.value is not None
        assert state.stationarity is not None
        gap = float(state.stationarity)
        if gap <= 0:
            raise Stalled("the Frank-Wolfe gap is zero")
        x, gradient, weights = state.point, state.gradient, state.weights
        scores = state.atoms.flatten(1) @ gradient.flatten()
        worst = int(scores.argmax())
        away, weight = state.atoms[worst], float(weights[worst])
        away_gap = float(torch.vdot(gradient.flatten(), (away - x).flatten()))
        if self.direction == "pairwise":
            if torch.equal(state.vertex, away):
                raise Stalled("no pair of vertices descends: the gap is rounding")
            kind, direction, slope, longest = "pairwise", state.vertex - away, gap + away_gap, weight
        elif gap >= away_gap or len(weights) == 1:
            kind, direction, slope, longest = "towards", state.vertex - x, gap, 1.0
        else:
            kind, direction, slope, longest = "away", x - away, away_gap, weight / (1 - weight)
        size, point, image, memory = travel(
            problem, self.rule, x, state.image, direction, float(state.value), slope, longest, state.memory
        )
        if not has_moved(x, point):
            raise Stalled("the step is no longer than the rounding error of the iterate")
        end = size >= longest
        if kind == "away":
            weights = weights * (1 + size)
        elif kind == "towards":
            weights = weights * (1 - size)
        atoms = state.atoms
        keep = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
        if kind != "towards":
            weights = weights.index_add(0, torch.tensor([worst], device=weights.device), weights.new_tensor([-size]))
            keep[worst] = not end
        elif end:
            keep[:] = False
        if kind != "away":
            known = (atoms == state.vertex).flatten(1).all(1)
            if bool(known.any()):
                weights = torch.where(known, weights + size, weights)
                keep = keep | known
            else:
                atoms = torch.cat([atoms, state.vertex[None]])
                weights = torch.cat([weights, weights.new_tensor([size])])
                keep = torch.cat([keep, keep.new_ones(1)])
        keep = keep & (weights > 0)
        if not bool(keep.all()):
            atoms, weights = atoms[keep], weights[keep]
        drop = end and kind != "towards"
        return self._state(problem, point, image, atoms, weights / weights.sum(), size, memory, state.drops + drop)

    @staticmethod
    def _state(
        problem: CompositeProblem,
        point: Tensor,
        image: Tensor,
        atoms: Tensor,
        weights: Tensor,
        step_size: float = 0.0,
        memory: float = 0.0,
        drops: int = 0,
    ) -> AwayFrankWolfeState:
        value, gradient = problem.smooth_value_and_gradient_at(image)
        vertex = problem.lmo(gradient)
        gap = float(torch.vdot(gradient.flatten(), (point - vertex).flatten()))
        return AwayFrankWolfeState(
            point=point,
            value=float(value),
            stationarity=max(0.0, gap),
            image=image,
            gradient=gradient,
            vertex=vertex,
            atoms=atoms,
            weights=weights,
            step_size=step_size,
            memory=memory,
            drops=drops,
        )
