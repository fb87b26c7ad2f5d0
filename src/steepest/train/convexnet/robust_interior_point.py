"""The robust convex program by CVXPY and Clarabel: the reference."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core import losses
from steepest.train.convexnet.robust_program import RobustProgram, modules

__all__ = ["solve_interior_point"]


def solve_interior_point(program: RobustProgram, accuracy: float = 1e-9) -> tuple[Tensor, float]:
    """A point in the cones and a proved lower bound on the optimum.

    Constraints are written as one matrix inequality per group. What the solver returns is moved into the cones, and its
    dual point is used for a bound of our own (:meth:`RobustProgram.lower_bound`). Works in float64 on the CPU.

    Args:
        program: of any norm.
        accuracy: absolute and relative gap and feasibility at which Clarabel ends, in (0, 1).

    Raises:
        ImportError: CVXPY or Clarabel is missing.
        RuntimeError: Clarabel failed.
    """
    cp = modules()
    wide = double(program)
    if not len(program.patterns):
        return program.zeros(), float(program.value(program.zeros()))
    _, count, d = program.shape
    n, free, r, q = len(wide.design), wide.free, wide.radius, wide.ball.dual
    x, y = wide.design.cpu().numpy(), wide.target.cpu().numpy()
    active, sign = wide.active.cpu().numpy(), wide.sign.cpu().numpy()
    blocks = [cp.Variable((d, count)) for _ in range(2)]
    z, worst = cp.Variable((d, n)), cp.Variable(n)
    link = z == (blocks[0] - blocks[1]) @ active.T
    prediction = cp.sum(cp.multiply(x.T, z), axis=0)
    spread = r * _norms(cp, z[:free], q) if r > 0 else 0
    margin = program.loss.margin
    bind = worst <= cp.multiply(y, prediction) - spread if margin else worst >= cp.abs(prediction - y) + spread
    cones = []
    for block in blocks:
        inner = cp.multiply(sign, x @ block)
        if r > 0:
            # One bound per pattern on the dual norm, shared by all samples.
            size = cp.Variable((1, count))
            cones.append(inner >= r * (np.ones((n, 1)) @ size))
            cones.append(size[0] >= _norms(cp, block[:free], q))
        else:
            cones.append(inner >= 0)
    penalty = wide.penalty * sum(cp.sum(cp.norm(block, 2, axis=0)) for block in blocks)
    whole = cp.Problem(cp.Minimize(_loss(cp, program.loss, worst) + penalty), [link, bind, *cones])
    limits = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), accuracy)
    try:
        whole.solve(solver=cp.CLARABEL, **limits)
    except cp.SolverError as error:
        raise RuntimeError(f"Clarabel failed: {error}") from error
    if blocks[0].value is None:
        raise RuntimeError(f"Clarabel failed: {whole.status}")
    point = wide.repair(torch.as_tensor(np.stack([b.value.T for b in blocks])))
    zero = wide.zeros()
    if float(wide.value(zero)) <= float(wide.value(point)):
        point = zero
    step = 2 if r > 0 else 1
    multipliers = torch.stack([torch.as_tensor(cones[step * c].dual_value) for c in range(2)])
    bounds = []
    for total in (1.0, -1.0):  # the sign of an equality's multiplier is the modeller's choice
        h = total * torch.as_tensor(link.dual_value).mT
        bounds += [wide.lower_bound(*_split(wide, h, torch.as_tensor(bind.dual_value)), multipliers)]
    narrow = program.repair(point.to(program.design))
    return narrow, max(bounds)


def _norms(cp: Any, columns: Any, q: float) -> Any:
    """The norm of each column."""
    if q in (1.0, 2.0, np.inf):
        return cp.norm(columns, q, axis=0)
    return cp.hstack([cp.norm(columns[:, k], q) for k in range(columns.shape[1])])


def _split(program: RobustProgram, h: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """The slope by the prediction, and what is left for the spread, of a derivative by ``z``; see ``lower_bound``."""
    free = program.free
    if program.loss.margin:
        slope = -program.target * limit
        return slope, (h - slope[:, None] * program.design)[:, :free]
    # |slope| <= limit: take the one that leaves least, per sample (a least-squares fit).
    x = program.design
    slope = (h * x).sum(1) / x.square().sum(1).clamp_min(1e-300)
    if program.bias:
        slope = h[:, -1]
    slope = torch.maximum(torch.minimum(slope, limit), -limit)
    return slope, (h - slope[:, None] * x)[:, :free]


def double(program: RobustProgram) -> RobustProgram:
    """The program in float64 on the CPU."""
    if program.design.dtype == torch.float64 and program.design.device.type == "cpu":
        return program
    return RobustProgram(
        program.features.double().cpu(),
        program.target.double().cpu(),
        program.patterns,
        program.loss,
        program.penalty,
        radius=program.radius,
        norm=program.ball.norm,
        bias=program.bias,
    )


def _loss(cp: Any, loss: losses.Loss, worst: Any) -> Any:
    """Of the margin for a margin loss (decreasing), else of the size of the residual (increasing)."""
    match loss:
        case losses.Squared():
            return 0.5 * cp.sum_squares(worst)
        case losses.Absolute():
            return cp.sum(worst)
        case losses.Huber(delta=delta):
            return 0.5 * cp.sum(cp.huber(worst, delta))
        case losses.Logistic():
            return cp.sum(cp.logistic(-worst))
        case losses.Hinge():
            return cp.sum(cp.pos(1 - worst))
        case losses.SquaredHinge():
            return 0.5 * cp.sum_squares(cp.pos(1 - worst))
    raise TypeError(f"loss must be one of the library's own, got {loss!r}")
