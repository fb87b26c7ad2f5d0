"""The convex program written out in CVXPY from its definition, and nothing of the library but the data."""

import cvxpy as cp
import numpy as np

from steepest.train.convexnet.program import ConvexProgram


def optimum(program: ConvexProgram) -> float:
    """The optimal value by Clarabel."""
    return solve(program)[0]


def solve(program: ConvexProgram) -> tuple[float, np.ndarray]:
    """The optimal value and point ``(copies, P, d, outputs)``."""
    x, y = program.design.double().numpy(), program.target.double().numpy()
    patterns = program.patterns.active.numpy().T
    outputs, d = y.shape[1], x.shape[1]
    blocks = [[cp.Variable((d, outputs)) for _ in patterns] for _ in range(1 if program.gated else 2)]
    constraints, penalty, fit = [], 0, 0
    for copy, sign in zip(blocks, (1, -1), strict=False):
        for block, active in zip(copy, patterns, strict=True):
            diagonal = np.diag(active.astype(float))
            fit = fit + sign * (diagonal @ x @ block)
            if program.joint:
                penalty = penalty + cp.normNuc(block)
            else:
                penalty = penalty + sum(cp.norm(block[:, c], 2) for c in range(outputs))
            if not program.gated:
                constraints.append((2 * diagonal - np.eye(len(x))) @ x @ block >= 0)
    loss = {
        "Squared": lambda: cp.sum_squares(fit - y) / 2,
        "Logistic": lambda: cp.sum(cp.logistic(-cp.multiply(y, fit))),
        "Hinge": lambda: cp.sum(cp.pos(1 - cp.multiply(y, fit))),
        "Huber": lambda: cp.sum(cp.huber(fit - y, 1.0)) / 2,
        "Absolute": lambda: cp.sum(cp.abs(fit - y)),
        "SquaredHinge": lambda: cp.sum_squares(cp.pos(1 - cp.multiply(y, fit))) / 2,
    }[type(program.loss).__name__]()
    problem = cp.Problem(cp.Minimize(loss + program.penalty * penalty), constraints)
    limits = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-09)
    problem.solve(solver=cp.CLARABEL, **limits)
    return float(problem.value), np.array([[block.value for block in copy] for copy in blocks])
