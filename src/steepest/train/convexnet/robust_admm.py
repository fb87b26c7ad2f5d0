r"""The robust convex program by ADMM, in PyTorch alone: for more samples and patterns than an interior-point method
takes.

Blocks ``u = (v, w)`` are tied to three copies, each with a proximal operator in closed form or with one unknown:

- ``u`` itself, for the norms: shrinkage of blocks;
- the margins and the perturbed part of each block, ``(E X u_i, u_i)``, in the cone ``{(s, q): s_k >= r |q|}``: the
  projection is a soft threshold of ``q`` whose level solves one increasing equation;
- the prediction and the perturbed part of each slope, ``(x_k . z_k, z_k)``, in the worst loss: its proximal operator is
  again a soft threshold, with the level given by the slope of the loss.

The ``u``-step is a linear system that never changes: after a rotation to ``v + w`` and ``v - w``, one Cholesky factor
of a ``d x d`` matrix and one of ``P d x P d``. The duals of the copies lie in the domains that
:meth:`~steepest.train.convexnet.robust_program.RobustProgram.lower_bound` asks for, so that every check gives a proved
gap. Cones are thin, and convergence is slow where many patterns share them: expect a gap of a few per cent from
thousands of steps, where Clarabel gives 1e-6. The splitting is this library's own; the source solves the program by an
interior-point method.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from steepest.core.ranges import Integer, Real
from steepest.train.convexnet.robust_program import RobustProgram

__all__ = ["solve_admm"]

_LARGEST = 15_000
_HALVINGS = 34


def solve_admm(
    program: RobustProgram, *, steps: int = 2000, accuracy: float = 1e-3, weight: float = 0.1, every: int = 50
) -> tuple[Tensor, float, int]:
    """The best point in the cones that was seen, a proved lower bound on the optimum, and the number of steps.

    Args:
        program: with ``norm`` inf or 2.
        steps: at most so many. Default 2000.
        accuracy: end once ``value - bound <= accuracy * max(1, value)``; 0 for never. Default 1e-3.
        weight: the penalty of ADMM, > 0. Default 0.1, which suits data scaled to about 1. A larger one keeps the cones
            better, a smaller one gives better bounds; adapting it to the residuals was worse than keeping it.
        every: steps between looks at value and bound. Default 50.

    Raises:
        ValueError: the program has another norm, or patterns times columns exceed 15,000 (a factor of 1.8 GB).
    """
    Integer(low=1).check("steps", steps)
    Integer(low=1).check("every", every)
    Real(low=0.0).check("accuracy", accuracy)
    Real(low=0.0, low_open=True).check("weight", weight)
    if program.ball.dual not in (1.0, 2.0):
        raise ValueError(
            f"ADMM takes norm=inf and norm=2, got {program.ball.norm!r}; solver='interior-point' takes all"
        )
    best, best_value = program.zeros(), float(program.value(program.zeros()))
    if not len(program.patterns):
        return best, best_value, 0
    splitting = _Splitting(program)
    images = [torch.zeros_like(part) for part in splitting.forward(program.zeros())]
    duals = [torch.zeros_like(part) for part in images]
    bound, rho = -math.inf, weight
    for step in range(1, steps + 1):
        u = splitting.solve([image - dual for image, dual in zip(images, duals, strict=True)])
        reached = splitting.forward(u)
        relaxed = [1.6 * new - 0.6 * old for new, old in zip(reached, images, strict=True)]
        goals = [part + dual for part, dual in zip(relaxed, duals, strict=True)]
        following = splitting.proximal(goals, rho)
        duals = [goal - part for goal, part in zip(goals, following, strict=True)]
        if step % every == 0 or step == steps:
            for point in (u, following[0]):
                whole = program.repair(point)
                value = float(program.value(whole))
                if value < best_value:
                    best, best_value = whole, value
            bound = max(bound, program.lower_bound(*splitting.multipliers(duals, rho)))
            if best_value - bound <= accuracy * max(1.0, abs(best_value)):
                return best, bound, step
        images = following
    return best, bound, steps


class _Splitting:
    """The linear map from blocks to copies ``[u, s, q, a, z]``, its normal equations, and the proximal operators."""

    def __init__(self, program: RobustProgram) -> None:
        self.program = program
        x, active = program.design, program.active
        d, count = x.shape[1], len(program.patterns)
        if count * d > _LARGEST:
            raise ValueError(
                f"patterns times columns of the design must be at most {_LARGEST} for ADMM, got {count} x {d}; use "
                "fewer patterns"
            )
        self.free = program.free if program.radius > 0 else 0
        scale = float(x.square().mean().sqrt())
        # Each margin weighs as much as an entry of a block; slopes are as large as predictions.
        self.narrow = 1 / scale if scale > 0 else 1.0
        self.wide = scale if scale > 0 else 1.0
        self.shrink = _soft if program.ball.dual == 1.0 else _block
        mask = torch.zeros(d, dtype=x.dtype, device=x.device)
        mask[: self.free] = 1
        small = self.narrow**2 * (x.mT @ x) + torch.diag(1 + mask)
        self.small = torch.linalg.cholesky(small)
        columns = (active[:, :, None] * x[:, None, :]).flatten(1)
        big = 2 * columns.mT @ columns
        view = big.view(count, d, count, d)
        view.diagonal(dim1=1, dim2=3).add_(2 * self.wide**2 * (active.mT @ active)[:, :, None] * mask)
        view.diagonal(dim1=0, dim2=2).add_(small[:, :, None])
        self.big = torch.linalg.cholesky(big)

    def forward(self, u: Tensor) -> list[Tensor]:
        p = self.program
        z = p.slopes(u)
        return [
            u,
            self.narrow * p.sign * (p.design @ u.mT),
            u[..., : self.free],
            (p.design * z).sum(1),
            self.wide * z[:, : self.free],
        ]

    def backward(self, parts: list[Tensor]) -> Tensor:
        """The adjoint of :meth:`forward`."""
        p = self.program
        u, s, q, a, z = parts
        slope = a[:, None] * p.design
        slope[:, : self.free] += self.wide * z
        both = p.active.mT @ slope
        out = u + self.narrow * (p.sign * s).mT @ p.design + torch.stack([both, -both])
        out[..., : self.free] += q
        return out

    def solve(self, parts: list[Tensor]) -> Tensor:
        """The blocks whose image is nearest to the given copies."""
        right = self.backward(parts)
        total, change = right[0] + right[1], right[0] - right[1]
        total = torch.cholesky_solve(total.mT, self.small).mT
        change = torch.cholesky_solve(change.reshape(-1, 1), self.big).reshape(change.shape)
        return torch.stack([total + change, total - change]) / 2

    def proximal(self, goals: list[Tensor], rho: float) -> list[Tensor]:
        p = self.program
        u, s, q, a, z = goals
        u = _block(u, u.new_tensor(p.penalty / rho).expand(u.shape[:-1]))
        s, q = _into_cone(s, q, self.narrow * p.radius, self.shrink, p)
        a, z = self._worst_loss(a, z, rho)
        return [u, s, q, a, z]

    def _worst_loss(self, a: Tensor, z: Tensor, rho: float) -> tuple[Tensor, Tensor]:
        p, wide = self.program, self.wide
        loss, y, r = p.loss, p.target, p.radius
        inner = z / wide

        def at(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Prediction, slope, and the margin or size of the residual, where the loss has the slope ``rho g``."""
            slope = self.shrink(inner, r * g / wide**2)
            spread = r * p.ball.dual_norm(slope) if self.free else 0.0
            if loss.margin:
                moved = a + y * g
                return moved, slope, y * moved - spread
            residual = a - y
            residual = torch.sign(residual) * (residual.abs() - g).clamp_min(0)
            return y + residual, slope, residual.abs() + spread

        def slope_at(m: Tensor) -> Tensor:
            return -y * loss.derivative(y * m, y) if loss.margin else loss.derivative(m, torch.zeros_like(m))

        low = torch.zeros_like(a)
        high = slope_at(at(low)[2]) / rho  # the slope is largest where nothing is moved
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            more = slope_at(at(middle)[2]) > rho * middle
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
        prediction, slope, _ = at(high)
        return prediction, wide * slope

    def multipliers(self, duals: list[Tensor], rho: float) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of ``lower_bound``."""
        _, s, _, a, z = duals
        p = self.program
        spread = p.design.new_zeros(len(a), p.free)
        spread[:, : self.free] = rho * self.wide * z
        return rho * a, spread, -rho * self.narrow * s


def _into_cone(
    s: Tensor, q: Tensor, slope: float, shrink: Callable[[Tensor, Tensor], Tensor], program: RobustProgram
) -> tuple[Tensor, Tensor]:
    """Project on ``s_k >= slope |q|``; ``s`` is ``(2, n, P)``, ``q`` is ``(2, P, free)``."""
    if not q.shape[-1] or slope == 0:
        return s.clamp_min(0), q
    low = q.new_zeros(q.shape[:-1])
    high = torch.linalg.vector_norm(q, dim=-1)  # at this level q has gone to 0
    # Only the smallest margins of a block can be pushed; but how many is not known, so all are looked at.
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        length = program.ball.dual_norm(shrink(q, middle))
        push = slope * (slope * length[:, None, :] - s).clamp_min(0).sum(1)
        more = push > middle
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    q = shrink(q, high)
    return torch.maximum(s, slope * program.ball.dual_norm(q)[:, None, :]), q


def _soft(x: Tensor, level: Tensor) -> Tensor:
    return torch.sign(x) * (x.abs() - level[..., None]).clamp_min(0)


def _block(x: Tensor, level: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=-1)
    return x * (1 - level / size.clamp_min(torch.finfo(x.dtype).tiny)).clamp_min(0)[..., None]
