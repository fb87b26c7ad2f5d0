r"""Certificates: how far a point, or a network, can be from the global optimum.

The dual of the convex program (:class:`~steepest.train.convexnet.program.ConvexProgram`) is

.. math:: \max_r\; -\sum_k \ell^*(r_k, y_k) \quad\text{such that}\quad
          \max_{v \in C_i, \|v\| \le 1} \mp r^T D_i X v \le \beta \;\text{ for every pattern } i

so every ``r`` that meets the constraints is a lower bound on the optimum. The maximum on the left is the length of the
projection of :math:`g = \mp X^T D_i r` onto the cone :math:`C_i = \{v : E_i X v \ge 0\}`, and by Moreau's decomposition

.. math:: \|\Pi_{C_i}(g)\| = \min_{\lambda \ge 0} \|g + X^T E_i \lambda\|

so *any* :math:`\lambda \ge 0` gives a valid bound of it; the multipliers of a solver are a good one. The left sides
grow in proportion to ``r``, so that a scaled ``r`` is feasible, and the best scale is found by a line search.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.losses import Absolute, Hinge, Huber, Logistic, Loss, Squared, SquaredHinge
from steepest.train.convexnet.cones import project
from steepest.train.convexnet.losses import CallableLoss
from steepest.train.convexnet.program import ConvexProgram

__all__ = ["LowerBound", "dual_value", "lower_bound", "project_on_cones"]

#: Up to this many multipliers the cone projections are solved exactly.
_EXACT = 20_000_000


@dataclass(frozen=True, eq=False)
class LowerBound:
    """A proved lower bound on the optimum of a convex program.

    Attributes:
        value: the bound.
        dual: the feasible dual point ``r`` that proves it, ``(n, outputs)``.
        multipliers: the ``lambda >= 0`` of each cone, ``(n, copies, P, outputs)``; ``None`` without cones.
        length: the largest left side of the constraints at ``r``, at most the penalty.
    """

    value: float
    dual: Tensor
    multipliers: Tensor | None
    length: float


def lower_bound(
    program: ConvexProgram,
    dual: Tensor,
    multipliers: Tensor | None = None,
    *,
    refine: int = 0,
    shared: bool = False,
) -> LowerBound:
    """A lower bound on the optimum from any dual vector.

    Args:
        program: the convex program.
        dual: any ``(n, outputs)``; the slope of the loss at a good prediction is a good one.
        multipliers: of the cones, ``(n, copies, P, outputs)``, ``>= 0`` (negative ones count as 0); default 0.
        refine: how many rounds of projection to spend on the cones of patterns that are in the way; 0 for none. On
            small designs a round is exact.

    The bound is subject to rounding in the dtype of the program, no more.
    """
    dual = into_domain(program.loss, dual, program.target)
    blocks = -program.adjoint(dual)
    if not program.gated and multipliers is not None:
        multipliers = multipliers.clamp_min(0)
        blocks = blocks + program.margins_adjoint(multipliers)
    if refine and not program.gated:
        if multipliers is None:
            multipliers = dual.new_zeros(len(dual), *program.shape[:2], program.shape[3])
        multipliers, blocks = project_on_cones(
            program, -program.adjoint(dual), multipliers, program.penalty, rounds=refine
        )
    if shared and not program.joint:
        each = _lengths(program, blocks).amax(0)  # (P, outputs): the worse of both signs
        spectral = torch.linalg.matrix_norm(program.adjoint(dual)[0], 2)
        length = float(torch.minimum(spectral, torch.linalg.vector_norm(each, dim=1)).max())
    else:
        length = float(_lengths(program, blocks).max())
    limit = program.penalty / length if length > 0 else math.inf
    scale, value = dual_value(program, dual, limit)
    kept = None if multipliers is None else scale * multipliers
    return LowerBound(value, scale * dual, kept, scale * length)


def into_domain(loss: Loss, dual: Tensor, target: Tensor) -> Tensor:
    """The nearest point of the domain of the conjugate: a solver's dual is outside of it by its tolerance."""
    if isinstance(loss, (Hinge, Logistic)):
        return target * (target * dual).clamp(-1, 0)
    if isinstance(loss, SquaredHinge):
        return target * (target * dual).clamp_max(0)
    if isinstance(loss, (Absolute, Huber)):
        largest = loss.delta if isinstance(loss, Huber) else 1.0
        return dual.clamp(-largest, largest)
    return dual


def _lengths(program: ConvexProgram, blocks: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(blocks, 2) if program.joint else torch.linalg.vector_norm(blocks, dim=2)


def dual_value(program: ConvexProgram, dual: Tensor, limit: float) -> tuple[float, float]:
    """The best scale ``s`` in ``[0, limit]`` and the dual value ``-sum_k loss*(s r_k, y_k)`` there."""
    loss, target = program.loss, program.target
    if isinstance(loss, Squared):
        square = float(dual.square().sum())
        inner = float((dual * target).sum())
        scale = min(max(-inner / square, 0.0), limit) if square > 0 else 0.0
        return scale, -scale * inner - 0.5 * scale * scale * square

    def value(scale: float) -> float:
        found = -float(loss.conjugate(scale * dual, target).sum())
        return found if math.isfinite(found) else -math.inf

    # Concave in the scale: golden section between 0 and the largest useful one. The dual is of the right size to begin
    # with, so a few times 1 is enough.
    low, high = 0.0, min(limit, 4.0)
    if isinstance(loss, CallableLoss):
        high = min(high, 1.0)
    golden = (math.sqrt(5) - 1) / 2
    candidates = [(value(s), s) for s in {0.0, high, min(1.0, high)}]
    left, right = high - golden * (high - low), low + golden * (high - low)
    value_left, value_right = value(left), value(right)
    for _ in range(12 if isinstance(loss, CallableLoss) else 40):
        candidates += [(value_left, left), (value_right, right)]
        if value_left > value_right or value_right == -math.inf:
            high, right, value_right = right, left, value_left
            left = high - golden * (high - low)
            value_left = value(left)
        else:
            low, left, value_left = left, right, value_right
            right = low + golden * (high - low)
            value_right = value(right)
        if high - low <= 1e-9 * high:
            break
    best, scale = max(candidates)
    return scale, best


def project_on_cones(
    program: ConvexProgram, blocks: Tensor, multipliers: Tensor, level: float, rounds: int = 100
) -> tuple[Tensor, Tensor]:
    r"""Multipliers that bring :math:`\|g + X^T E_i \lambda\|` down where it is above ``level``.

    Args:
        program: a program with cones.
        blocks: ``g``, of the shape of a point.
        multipliers: where to begin, ``>= 0``.
        level: blocks below it are left as they are.
        rounds: steps of accelerated projected gradient descent, where the exact projection would be too large.

    Returns:
        The multipliers, and ``g + X^T E_i lambda``, whose norms are upper bounds on those of the projections.
    """
    image = blocks + program.margins_adjoint(multipliers)
    length = torch.linalg.vector_norm(image, dim=2)
    copy, pattern, output = torch.nonzero(length > level * (1 + 1e-12), as_tuple=True)
    if len(copy) == 0:
        return multipliers, image
    sign = program._active[:, pattern] * 2 - 1  # (n, J)
    goal = blocks.movedim(2, 3)[copy, pattern, output]  # (J, d)
    start = multipliers[:, copy, pattern, output]
    rows = program.rows
    if len(rows) * len(copy) <= _EXACT and len(copy) * rows.shape[1] ** 3 <= 100 * _EXACT:
        reached, found = project(rows, sign, goal)
    else:
        step = 1 / float(torch.linalg.matrix_norm(rows.mT @ rows, 2))
        found, ahead, momentum = start, start, 1.0
        for _ in range(rounds):
            gradient = sign * (rows @ (goal.mT + rows.mT @ (sign * ahead)))
            following = (ahead - step * gradient).clamp_min(0)
            if float(((ahead - following) * (following - found)).sum()) > 0:  # restart where momentum leads uphill
                momentum = 1.0
            grown = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
            ahead = following + (momentum - 1) / grown * (following - found)
            found, momentum = following, grown
        reached = goal + (rows.mT @ (sign * found)).mT
    better = torch.linalg.vector_norm(reached, dim=1) < length[copy, pattern, output]
    chosen = copy[better], pattern[better], output[better]
    multipliers, image = multipliers.clone(), image.movedim(2, 3).clone()
    multipliers[:, chosen[0], chosen[1], chosen[2]] = found[:, better]
    image[chosen] = reached[better]
    return multipliers, image.movedim(3, 2)
