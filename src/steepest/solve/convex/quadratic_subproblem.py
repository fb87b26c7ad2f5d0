"""Minimize a quadratic in few variables plus a separable regularizer, to the last digits: Newton's method on the face
of the regularizer on which the iterate lies."""

import torch
from torch import Tensor

from steepest.solve.convex.separable import SeparableForm, one_sided

__all__ = ["minimize_quadratic", "newton_direction"]


def minimize_quadratic(
    matrix: Tensor, linear: Tensor, g: SeparableForm, start: Tensor, *, accuracy: float = 0.0, rounds: int = 100
) -> Tensor:
    """The minimizer of ``x . Q x / 2 - b . x + g(x)``.

    Without groups by projected Newton steps: on the cell of ``g`` that the directions of descent point into, where
    ``g`` is linear plus a quadratic, the free variables take a Newton step, which is clipped to the cell and shortened
    until it decreases enough. With groups, accelerated proximal gradient steps find the groups that are not zero, and
    Newton steps in these finish.

    Args:
        matrix: ``Q``, ``(k, k)``, symmetric and positive semidefinite.
        linear: ``b``, ``(k,)``.
        g: the regularizer of these ``k`` variables.
        start: where to begin, within the bounds.
        accuracy: the violation of the optimality conditions at which it stops, >= 0; it never goes below what rounding
            permits.
        rounds: Newton steps at most.

    Source: D. P. Bertsekas (1982), "Projected Newton methods for optimization problems with simple constraints", SIAM
    Journal on Control and Optimization 20(2), 221-246; for the alternation of proximal gradient and Newton steps,
    G. Bareilles, F. Iutzeler, J. Malick (2020), "Newton acceleration on manifolds identified by proximal gradient
    methods", arXiv 2012.12936.
    """
    if g.ridge:
        matrix = matrix + g.ridge * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        g = SeparableForm(g.l1, 0.0, g.low, g.high, g.groups, g.weight)
    method = _scalar if g.groups is None else _grouped
    return method(matrix, linear, g, start, accuracy, rounds)


def newton_direction(matrix: Tensor, slope: Tensor) -> Tensor:
    """``-H^{-1} slope`` by Cholesky; a matrix that is not positive definite is shifted by the least power of ten times
    its largest entry that makes it so."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    shift = 10 * torch.finfo(matrix.dtype).eps
    if not failed:  # a matrix that is singular up to rounding can pass; its factor then has tiny pivots
        pivots = factor.diagonal()
        failed = failed + (pivots.min() < (shift**0.5) * pivots.max()).int()
    while failed:
        # Not on the diagonal's own scale: the shift must hide what rounding did to the large entries.
        level = shift * matrix.diagonal().max().clamp_min(torch.finfo(matrix.dtype).tiny)
        factor, failed = torch.linalg.cholesky_ex(matrix + level * torch.eye(len(matrix)).to(matrix))
        shift *= 10
    return -torch.cholesky_solve(slope[:, None], factor)[:, 0]


def _scalar(matrix: Tensor, linear: Tensor, g: SeparableForm, x: Tensor, accuracy: float, rounds: int) -> Tensor:
    bound: Tensor | None = None
    for _ in range(rounds):
        gradient = matrix @ x - linear
        right, left = one_sided(g, x, gradient)
        up, down = right < 0, left > 0  # where descent leads: at most one of them, by convexity
        violation = float(torch.maximum(-right, left).max())
        if violation <= accuracy or violation <= _rounding(matrix, linear, x, violation):
            break
        free = (up | down).nonzero()[:, 0]
        slope = torch.where(up, right, left)[free]
        # The cell: a coordinate with an absolute value keeps its sign, or takes the one that it is drawn to.
        signed = g.l1 > 0
        plus = signed & ((x > 0) | ((x == 0) & up))
        minus = signed & ~plus
        low = torch.where(plus, g.low.clamp_min(0), g.low)[free]
        high = torch.where(minus, g.high.clamp_max(0), g.high)[free]
        here, part = x[free], matrix[free[:, None], free]
        direction = newton_direction(part, slope)
        size, moved = 1.0, None
        for _ in range(12):
            trial = torch.minimum(torch.maximum(here + size * direction, low), high)
            delta = trial - here
            promised = float(slope @ delta)
            change = promised + 0.5 * float(delta @ (part @ delta))
            if promised < 0 and change <= 1e-4 * promised:
                moved = trial
                break
            size *= 0.25
        if moved is None:  # a singular matrix has directions so long that they leave the cell at once
            moved = _to_the_first_bound(part, slope, here, direction, low, high)
        if moved is None:  # rounding
            if bound is None:
                bound = matrix.abs().sum(1).max()
            following = g.prox(x - gradient / bound, 1.0 / bound)
            delta = following - x
            if not bool((delta.abs() > 4 * torch.finfo(x.dtype).eps * x.abs()).any()):
                break
            x = following
        else:
            x = x.index_copy(0, free, moved)
    return x


def _to_the_first_bound(
    matrix: Tensor, slope: Tensor, here: Tensor, direction: Tensor, low: Tensor, high: Tensor
) -> Tensor | None:
    """The step along a direction to the least value before the first bound that it meets; ``None`` where there is none.
    Coordinates that stand at a bound and would leave the cell stay; they only took from the decrease."""
    out = ((here <= low) & (direction < 0)) | ((here >= high) & (direction > 0))
    direction = torch.where(out, 0.0, direction)
    downhill = float(slope @ direction)
    if not downhill < 0:
        return None
    bound = torch.where(direction > 0, high, low)
    distance = torch.where(direction != 0, (bound - here) / direction, torch.inf)
    curvature = float(direction @ (matrix @ direction))
    best = -downhill / curvature if curvature > 0 else float("inf")
    size = min(best, float(distance.min()))
    if not 0 < size < float("inf"):
        return None
    trial = torch.minimum(torch.maximum(here + size * direction, low), high)
    trial = torch.where(distance <= size, bound, trial)  # the bound itself, which rounding would miss
    return trial


def _grouped(matrix: Tensor, linear: Tensor, g: SeparableForm, x: Tensor, accuracy: float, rounds: int) -> Tensor:
    assert g.groups is not None
    assert g.weight is not None
    bound = _largest_eigenvalue(matrix)

    def value(point: Tensor) -> float:
        return float(0.5 * point @ (matrix @ point) - linear @ point + g.value(point))

    best = value(x)
    last = float("inf")
    for _ in range(rounds):
        # Accelerated proximal gradient steps, restarted here: they find the groups that are zero.
        momentum, ahead, old = 1.0, x, x
        for _ in range(8):
            new = g.prox(ahead - (matrix @ ahead - linear) / bound, 1.0 / bound)
            following = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
            ahead = new + ((momentum - 1) / following) * (new - old)
            momentum, old = following, new
        found = value(old)
        if found > best:  # acceleration is not monotone, and the bound an estimate: plain steps with more care
            bound = 1.5 * bound
            old = g.prox(x - (matrix @ x - linear) / bound, 1.0 / bound)
            found = value(old)
        if found <= best:
            x, best = old, found
        for _ in range(6):
            gradient = matrix @ x - linear
            norms = g.norms(x)
            free = (norms[g.groups] > 0).nonzero()[:, 0]
            if not len(free):
                break
            group = g.groups[free]
            here, size = x[free], norms[group]
            unit, weight = here / size, g.weight[group]
            slope = gradient[free] + weight * unit
            if float(slope.abs().max()) <= 0.5 * accuracy or not bool(slope.any()):
                break
            ratio = weight / size
            # Only the entries within groups change: whole matrices of corrections would cost more than the factor.
            row, column = (group[:, None] == group).nonzero(as_tuple=True)
            curve = matrix[free[:, None], free] if len(free) < len(x) else matrix.clone()
            curve.diagonal().add_(ratio)
            curve.index_put_((row, column), -ratio[row] * unit[row] * unit[column], accumulate=True)
            direction = newton_direction(curve, slope)
            step, moved = 1.0, False
            for _ in range(6):
                trial = here + step * direction
                # A group that would turn round is set to zero, as a coordinate that would change its sign.
                along = torch.zeros_like(norms).index_add(0, group, trial * unit)[group]
                trial = torch.where(along > 0, trial, 0.0)
                candidate = x.index_copy(0, free, trial)
                there = value(candidate)
                if there < best:
                    x, best, moved = candidate, there, True
                    break
                step *= 0.25
            if not moved:
                # At the end differences of values drown in rounding, while a full step still mends the gradient.
                candidate = x.index_copy(0, free, here + direction)
                better = g.violation(candidate, matrix @ candidate - linear).max() < g.violation(x, gradient).max()
                if better and there <= best + 1e-12 * max(1.0, abs(best)):
                    x, best = candidate, min(best, value(candidate))
                break
        violation = float(g.violation(x, matrix @ x - linear).max())
        rounding = _rounding(matrix, linear, x, violation)
        if violation <= max(accuracy, rounding) or (violation >= 0.9 * last and violation <= 1e3 * rounding):
            break
        last = min(last, violation)
    return x


def _rounding(matrix: Tensor, linear: Tensor, x: Tensor, violation: float) -> float:
    """How large an error rounding can make in the gradient; 0 where the violation is so large that it cannot matter."""
    eps, level = torch.finfo(x.dtype).eps, float(linear.abs().max())
    if violation > eps**0.5 * level:
        return 0.0
    return 4 * eps * (level + float((matrix.abs() @ x.abs()).max()))


def _largest_eigenvalue(matrix: Tensor) -> Tensor:
    """An estimate by power iteration, a tenth too large; steps that rely on it are checked."""
    vector = matrix.abs().sum(1)
    for _ in range(15):
        vector = vector / torch.linalg.vector_norm(vector).clamp_min(torch.finfo(matrix.dtype).tiny)
        vector = matrix @ vector
    return 1.1 * torch.linalg.vector_norm(vector).clamp_min(torch.finfo(matrix.dtype).tiny)
