"""Block coordinate descent on forests of a sparse quadratic."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.oracle import tally
from steepest.core.ranges import OneOf
from steepest.core.regularizer import Zero
from steepest.core.solver import Solver
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.block_coordinate_descent import BlockCoordinateDescentState
from steepest.solve.convex.block_oracles import BlockOracles
from steepest.solve.convex.forest import color_classes, grow_forest, solve_forest
from steepest.solve.convex.quadratic import Quadratic

__all__ = ["CARD", "MessagePassingDescent"]

CARD = MethodCard(
    name="message-passing-descent",
    title="Message-passing descent",
    room="convex",
    family="coordinate",
    summary="A sparse quadratic: in every step the exact minimum over a forest of its variables, in linear time.",
    target="steepest.solve.convex.message_passing_descent:MessagePassingDescent",
    papers=(
        Paper(
            "J. Nutini, I. Laradji, M. Schmidt",
            2017,
            "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules, Message-Passing, Active-Set "
            "Complexity, and Superlinear Convergence",
            arxiv="1712.08859",
        ),
    ),
    needs=frozenset({"columns"}),
    buffers=3,
    claim="Forests that are grown greedily converge faster than fixed partitions into forests or colors.",
)


@dataclass(frozen=True)
class MessagePassingDescent(Solver[Quadratic, BlockCoordinateDescentState]):
    r"""Block coordinate descent whose blocks are forests in the graph of a sparse quadratic, solved exactly.

    It solves ``min_x x . A x / 2 - b . x`` with a sparse positive definite ``A`` (no regularizer), whose graph joins
    ``i`` and ``j`` where ``A_ij`` is not zero. A step takes a block ``F`` of variables among which the graph has no
    cycle and minimizes over all of them at once::

        x_F <- A_FF^{-1} (b_F - A_FR x_R),        R the other variables

    by Gaussian elimination from the leaves to the roots and back, which takes time linear in ``F``: messages passed
    along the edges. Such blocks can hold half of all variables and more. They are:

    - ``"greedy"``: grown anew in each step; variables are looked at by ``|grad_i| / sqrt(A_ii)``, the largest first,
      and join if they close no cycle;
    - ``"random"``: grown anew in a random order;
    - ``"forests"``: a fixed partition into forests, each grown from the variables that are left, in turn;
    - ``"colors"``: a fixed partition into color classes without edges inside (red and black of a lattice), in turn.

    Every step takes ``grad_F . A_FF^{-1} grad_F / 2`` off the value, the most that any update of the block can. Where
    the graph is a forest itself, one step ends. Stationarity is the largest entry of the gradient.

    Args:
        blocks: see above. Default ``"greedy"``.

    Raises:
        ValueError, TypeError: a setting is out of its range; the problem is not a :class:`Quadratic` with a CSR matrix
            and no regularizer; ``start`` is not a vector of the right length.

    A run ends as ``stalled`` when the value has not decreased, nor the point moved, in ten steps (of a fixed partition:
    ten times its length).

    Source: J. Nutini, I. Laradji, M. Schmidt (2017), "Let's Make Block Coordinate Descent Converge Faster: Faster
    Greedy Rules, Message-Passing, Active-Set Complexity, and Superlinear Convergence", arXiv 1712.08859, section 5.
    """

    blocks: str = "greedy"

    needs = frozenset({"columns"})
    ranges = {"blocks": OneOf(("greedy", "random", "forests", "colors"))}

    def init(self, problem: Quadratic, start: Point, generator: torch.Generator) -> BlockCoordinateDescentState:
        """Value and gradient at the start."""
        name = type(self).__name__
        if not isinstance(problem, Quadratic) or problem.design.layout is not torch.sparse_csr:
            raise TypeError(f"{name}: problem must be a Quadratic with a matrix in the CSR layout, got {problem!r}")
        if not isinstance(problem.regularizer, Zero):
            raise TypeError(f"{name}: regularizer must be none, got {problem.regularizer!r}")
        oracles = BlockOracles.of(problem)
        oracles.form(start, name)
        image = oracles.image(start)
        return BlockCoordinateDescentState(
            point=start,
            value=oracles.value(image, start),
            stationarity=float(oracles.gradient(image).abs().max()),
            image=image,
            gradient=oracles.gradient(image),
            block=torch.zeros(0, dtype=torch.long, device=start.device),
            generator=generator,
        )

    def step(self, problem: Quadratic, state: BlockCoordinateDescentState) -> BlockCoordinateDescentState:
        """One forest.

        Raises:
            Stalled: no progress in ten steps.
        """
        oracles, x = BlockOracles.of(problem), state.point
        assert state.value is not None
        fixed = self._fixed(oracles)
        if state.idle >= 10 * max(len(fixed), 1):
            raise Stalled("the value has not decreased, nor the point moved, in ten steps")
        block = fixed[state.done % len(fixed)] if fixed else self._grown(oracles, state)
        delta = solve_forest(problem.design, block, -state.gradient[block])
        following = x.index_add(0, block, delta)
        # A block may be half of all variables: the product with the whole matrix costs less than with its columns.
        image = oracles.image(following)
        gradient, value = oracles.gradient(image), oracles.value(image, following)
        tally("columns", len(block))
        moved = bool(delta.abs().max() > torch.finfo(x.dtype).eps ** 0.625 * following.abs().max())
        return BlockCoordinateDescentState(
            point=following,
            value=value,
            stationarity=float(gradient.abs().max()),
            image=image,
            gradient=gradient,
            block=block,
            generator=state.generator,
            done=state.done + 1,
            idle=0 if moved or value < float(state.value) else state.idle + 1,
        )

    def _fixed(self, oracles: BlockOracles) -> list[Tensor]:
        """The partition, found once per problem; empty where blocks are grown anew."""
        if self.blocks in ("greedy", "random"):
            return []
        memo, matrix = oracles.columns.memo, oracles.problem.design
        if self.blocks not in memo:
            memo[self.blocks] = color_classes(matrix) if self.blocks == "colors" else _forests(matrix)
        found: list[Tensor] = memo[self.blocks]
        return found

    def _grown(self, oracles: BlockOracles, state: BlockCoordinateDescentState) -> Tensor:
        if self.blocks == "random":
            order = torch.randperm(len(state.point), generator=state.generator, device=state.point.device)
        else:
            order = (state.gradient.abs() / oracles.lipschitz().sqrt()).argsort(descending=True, stable=True)
        return grow_forest(oracles.problem.design, order)


def _forests(matrix: Tensor) -> list[Tensor]:
    left = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
    found = []
    while bool(left.any()):
        found.append(grow_forest(matrix, left.nonzero()[:, 0]))
        left[found[-1]] = False
    return found
