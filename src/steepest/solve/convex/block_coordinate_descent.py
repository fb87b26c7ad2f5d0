"""Block coordinate descent with greedy rules and three kinds of updates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.oracle import tally
from steepest.core.ranges import Integer, OneOf
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.block_oracles import BlockOracles
from steepest.solve.convex.problem import LinearModel
from steepest.solve.convex.quadratic import Quadratic
from steepest.solve.convex.quadratic_subproblem import minimize_quadratic
from steepest.solve.convex.separable import SeparableForm

__all__ = ["CARD", "BlockCoordinateDescent", "BlockCoordinateDescentState", "coordinate_decrease", "partition_of"]

CARD = MethodCard(
    name="block-coordinate-descent",
    title="Block coordinate descent",
    room="convex",
    family="coordinate",
    summary="A block of coordinates at a time, chosen greedily, moved by a gradient, matrix or Newton step.",
    target="steepest.solve.convex.block_coordinate_descent:BlockCoordinateDescent",
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
    claim="Better partitions, greedy rules that see curvature, and matrix or Newton updates each make block "
    "coordinate descent faster, by much with large blocks.",
)

_PARTITIONS = ("variable", "order", "average", "sorted")
_RULES = (
    "random",
    "cyclic",
    "lipschitz-sampling",
    "gauss-southwell",
    "gauss-southwell-lipschitz",
    "gauss-southwell-diagonal",
    "gauss-southwell-quadratic",
)
_NEEDS_FIXED = ("cyclic", "lipschitz-sampling", "gauss-southwell-lipschitz", "gauss-southwell-quadratic")


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockCoordinateDescentState(State):
    """The iterate, its value, and:

    Attributes:
        image: ``A x``: the predictions of a linear model, the product with the matrix of a quadratic.
        gradient: the gradient of the smooth part.
        block: the coordinates that moved last.
        done: updates so far.
        idle: updates since the value last decreased, or the point moved.
    """

    image: Tensor
    gradient: Tensor
    block: Tensor
    done: int = 0
    idle: int = 0


@dataclass(frozen=True)
class BlockCoordinateDescent(Solver[LinearModel | Quadratic, BlockCoordinateDescentState]):
    r"""Block coordinate descent: greedy rules, and updates that use the curvature of the block.

    It solves ``min_x f(x) + g(x)``, ``f`` a linear model with a smooth loss or a quadratic, ``g`` a sum over
    coordinates (nothing, L1, bounds, squares). A step takes a block ``b`` of ``size`` coordinates and minimizes a model
    of ``f`` on it, plus ``g``::

        d = argmin_d  grad_b f(x) . d + d . M d / 2 + g(x_b + d),      x_b <- x_b + t d

    - ``update="gradient"``: ``M = L_b I``, ``L_b`` the largest eigenvalue of ``H_b``, a bound on the block's Hessians
      (``c curvature A_b^T A_b`` for a linear model, ``A_bb`` for a quadratic); ``t = 1``: a proximal gradient step;
    - ``update="matrix"``: ``M = H_b``; ``t = 1``; with a regularizer it is a projected Newton step with a fixed matrix;
    - ``update="newton"``: ``M`` the block's Hessian at ``x``, ``t`` the first of 1, 1/2, 1/4, ... with Armijo's
      decrease (constant 1e-4); with a regularizer the projected (proximal) Newton step.

    Blocks are any ``size`` coordinates (``partition="variable"``), or those of a fixed partition: ``"order"``
    (consecutive), ``"sorted"`` (by the coordinates' Lipschitz constants ``L_i``; mixing large and small ones wastes
    progress), ``"average"`` (large with small, for comparison). With ``v_i`` the distance of ``-grad_i f`` to the
    subdifferential of ``g_i`` (``|grad_i f|`` where there is no ``g``), the rules take:

    - ``"random"``: any block; ``"cyclic"``: in turn; ``"lipschitz-sampling"``: with probabilities proportional to
      ``L_b``;
    - ``"gauss-southwell"`` (GS): the largest ``sum_i v_i^2``;
    - ``"gauss-southwell-lipschitz"`` (GSL): ``sum_i v_i^2 / L_b``;
    - ``"gauss-southwell-diagonal"`` (GSD): the largest decrease of the bound with the diagonal matrix
      ``D_i = size L_i >= H_b``, regularizer included; without one ``sum_i v_i^2 / L_i``;
    - ``"gauss-southwell-quadratic"`` (GSQ): the largest decrease of the bound with ``H_b`` itself, without a
      regularizer ``grad_b . H_b^{-1} grad_b / 2``: one small solve per block.

    Cyclic, Lipschitz sampling, GSL and GSQ need a fixed partition (over all blocks, the last two are intractable).

    Every step decreases ``f + g`` at least by what the model with ``M`` promises: without a regularizer by
    ``|grad_b|^2 / (2 L_b)`` (gradient) or ``grad_b . H_b^{-1} grad_b / 2`` (matrix). Where ``f`` is ``m``-strongly
    convex, GS with gradient updates and ``B`` fixed blocks has ``f(x_k) - min f`` shrink at least by
    ``1 - m / (B max L_b)`` in each step. With L1 or bounds, where no ``|grad_i f(x*)|`` of a zero coordinate is closer
    than ``delta`` to its threshold, an update sets all wrong coordinates of its block to their bound once
    ``|x - x*| <= delta / (2 L)``, so that the active set is found in finite time; from then on steps with
    ``update="newton"`` and a block that holds the support are Newton's: superlinear, and for the squared loss exact.

    A step takes the whole gradient, a product with ``A^T`` (for a quadratic nothing), and ``O(n size^2)`` for ``H_b``.
    Stationarity is the duality gap where there is one, else the largest ``v_i``.

    Args:
        size: coordinates per block, >= 1 (at most the number there is is taken). Default 5, the least in the paper.
        partition: see above. Default ``"variable"``.
        rule: see above. Default ``"gauss-southwell-diagonal"``.
        update: see above. Default ``"matrix"``.

    Raises:
        ValueError, TypeError: a setting is out of its range, a rule needs a fixed partition; the loss is not smooth,
            the regularizer not separable over coordinates, or ``start`` not a vector of the right length.

    A run ends as ``stalled`` when nothing has improved for as many updates as ten passes take.

    Source: J. Nutini, I. Laradji, M. Schmidt (2017), "Let's Make Block Coordinate Descent Converge Faster: Faster
    Greedy Rules, Message-Passing, Active-Set Complexity, and Superlinear Convergence", arXiv 1712.08859. Their code
    scores fixed blocks by sums of ``|v_i|``; this follows the paper, which squares. For blocks that are forests
    of a sparse quadratic see :class:`~steepest.solve.convex.MessagePassingDescent`.
    """

    size: int = 5
    partition: str = "variable"
    rule: str = "gauss-southwell-diagonal"
    update: str = "matrix"

    needs = frozenset({"columns"})
    ranges = {
        "size": Integer(low=1),
        "partition": OneOf(_PARTITIONS),
        "rule": OneOf(_RULES),
        "update": OneOf(("gradient", "matrix", "newton")),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partition == "variable" and self.rule in _NEEDS_FIXED:
            raise ValueError(
                f"BlockCoordinateDescent: rule={self.rule!r} needs a fixed partition, one of {_PARTITIONS[1:]}, "
                "got partition='variable'"
            )

    def init(
        self, problem: LinearModel | Quadratic, start: Point, generator: torch.Generator
    ) -> BlockCoordinateDescentState:
        """Value, gradient and certificate at the start, projected to the bounds."""
        oracles = BlockOracles.of(problem)
        form = oracles.form(start, type(self).__name__)
        if form.groups is not None:
            raise TypeError(
                "BlockCoordinateDescent: regularizer must be separable over coordinates (for groups, use "
                f"CoordinateDescent or WorkingSetNewton), got {problem.regularizer!r}"
            )
        x = torch.minimum(torch.maximum(start, form.low), form.high)
        image = oracles.image(x)
        gradient = oracles.gradient(image)
        value = oracles.value(image, x) + float(form.value(x))
        return BlockCoordinateDescentState(
            point=x,
            value=value,
            stationarity=oracles.certificate(form, x, image, gradient, value),
            image=image,
            gradient=gradient,
            block=torch.zeros(0, dtype=torch.long, device=x.device),
            generator=generator,
        )

    def step(self, problem: LinearModel | Quadratic, state: BlockCoordinateDescentState) -> BlockCoordinateDescentState:
        """One block.

        Raises:
            Stalled: no progress for as many updates as ten passes take.
        """
        x, gradient = state.point, state.gradient
        assert state.value is not None
        value = float(state.value)
        oracles = BlockOracles.of(problem)
        form = SeparableForm.of(problem.regularizer, x)
        size = min(self.size, len(x))
        passes = state.idle * size / len(x)
        # A rule that draws may just not have drawn the block that could still move.
        if passes >= 10 and (form.stands(x, gradient, oracles.lipschitz()) or passes >= 1000):
            raise Stalled("the value has not decreased, nor the point moved, in ten passes")
        block = self._choose(oracles, form, state, size)
        tally("columns", len(block))
        slope, here, part = gradient[block], x[block], form.take(block)
        if self.update == "gradient":
            step = 1.0 / largest_eigenvalue(oracles.bound(block))
            delta = part.prox(here - step * slope, step) - here
        else:
            newton = self.update == "newton"
            matrix = oracles.curvature(state.image, block) if newton else oracles.bound(block)
            delta = minimize_quadratic(matrix, matrix @ here - slope, part, here) - here
        promised = float(slope @ delta + (part.slope_between(here, here + delta) * delta).sum())
        rounding = 4 * torch.finfo(x.dtype).eps * abs(value)
        t = 1.0
        for _ in range(40):
            following = x.index_copy(0, block, here + t * delta)
            image = oracles.moved(state.image, block, t * delta)
            found = oracles.value(image, following) + float(form.value(following))
            if self.update != "newton" or found <= value + 1e-4 * t * promised + rounding:
                break
            t *= 0.5
        gradient = oracles.gradient(image)
        moved = bool(delta.abs().max() > torch.finfo(x.dtype).eps ** 0.625 * x.abs().max())
        return BlockCoordinateDescentState(
            point=following,
            value=found,
            stationarity=oracles.certificate(form, following, image, gradient, found),
            image=image,
            gradient=gradient,
            block=block,
            generator=state.generator,
            done=state.done + 1,
            idle=0 if moved or found < value else state.idle + 1,
        )

    def _choose(
        self, oracles: BlockOracles, form: SeparableForm, state: BlockCoordinateDescentState, size: int
    ) -> Tensor:
        x, gradient, generator = state.point, state.gradient, state.generator
        lipschitz = oracles.lipschitz()
        if self.rule == "gauss-southwell-diagonal":
            scores = coordinate_decrease(form, x, gradient, size * lipschitz)
        else:
            scores = form.violation(x, gradient).square()
        if self.partition == "variable":
            if self.rule == "random":
                return torch.randperm(len(x), generator=generator, device=x.device)[:size]
            return scores.topk(size).indices
        blocks = partition_of(self.partition, lipschitz, size)
        if self.rule == "cyclic":
            return blocks[state.done % len(blocks)]
        if self.rule == "random":
            return blocks[int(torch.randint(len(blocks), (1,), generator=generator, device=x.device))]
        if self.rule == "lipschitz-sampling":
            constants = _constants(oracles, self.partition, size, blocks)
            return blocks[int(torch.multinomial(constants, 1, generator=generator))]
        if self.rule == "gauss-southwell-quadratic":
            totals = torch.stack([_decrease(oracles, form, x, gradient, block) for block in blocks])
        else:
            totals = torch.stack([scores[block].sum() for block in blocks])
            if self.rule == "gauss-southwell-lipschitz":
                totals = totals / _constants(oracles, self.partition, size, blocks)
        return blocks[int(totals.argmax())]


def coordinate_decrease(form: SeparableForm, x: Tensor, gradient: Tensor, diagonal: Tensor) -> Tensor:
    """What each coordinate takes off ``grad . d + d . D d / 2 + g(x + d) - g(x)`` with a diagonal ``D``."""
    following = form.prox(x - gradient / diagonal, 1.0 / diagonal)
    delta = following - x
    return -((gradient + form.slope_between(x, following)) * delta + 0.5 * diagonal * delta.square())


def partition_of(kind: str, lipschitz: Tensor, size: int) -> list[Tensor]:
    """A fixed partition into blocks of ``size``, the last maybe smaller: ``"order"``, ``"sorted"`` or ``"average"``."""
    count = len(lipschitz)
    if kind == "order":
        order = torch.arange(count, device=lipschitz.device)
    else:
        order = lipschitz.argsort(descending=True, stable=True)
        if kind == "average":  # the largest, the smallest, the second largest, ...
            mixed = torch.empty_like(order)
            mixed[0::2], mixed[1::2] = order[: (count + 1) // 2], order[(count + 1) // 2 :].flip(0)
            order = mixed
    return list(order.split(size))


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    """The largest eigenvalue, rounded up, > 0."""
    top: Tensor = torch.linalg.eigvalsh(matrix)[-1] * (1 + 8 * torch.finfo(matrix.dtype).eps)
    return top.clamp_min(torch.finfo(matrix.dtype).tiny ** 0.5)


def _constants(oracles: BlockOracles, kind: str, size: int, blocks: list[Tensor]) -> Tensor:
    """The Lipschitz constant of each block of a partition, computed once per problem."""
    memo = oracles.columns.memo
    if (kind, size) not in memo:
        memo[kind, size] = torch.stack([largest_eigenvalue(oracles.bound(block)) for block in blocks])
    constants: Tensor = memo[kind, size]
    return constants


def _decrease(oracles: BlockOracles, form: SeparableForm, x: Tensor, gradient: Tensor, block: Tensor) -> Tensor:
    """What a matrix update of the block takes off its bound."""
    matrix, slope, here, part = oracles.bound(block), gradient[block], x[block], form.take(block)
    found = minimize_quadratic(matrix, matrix @ here - slope, part, here)
    delta = found - here
    return -((slope + part.slope_between(here, found) + 0.5 * (matrix @ delta)) @ delta)
