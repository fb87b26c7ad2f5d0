r"""Projections on the cones of activation patterns, :math:`C = \{v : E R v \ge 0\}`.

By Moreau's decomposition :math:`\Pi_C(g) = g + R^T E \lambda` with :math:`\lambda \ge 0` the solution of a nonnegative
least-squares problem, which has at most ``d`` entries that are not zero. It is solved on the few rows that are in the
way, to which rows that turn out to be violated are added.
"""

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

__all__ = ["project"]


def project(rows: Tensor, sign: Tensor, goal: Tensor, rounds: int = 8) -> tuple[Tensor, Tensor]:
    """Project each row of ``goal`` on a cone of its own.

    Args:
        rows: ``R``, ``(n, d)``.
        sign: the signs ``E`` of each cone, ``(n, J)``.
        goal: ``(J, d)``.
        rounds: how often violated rows may be added. After the last round a result may still be outside of its cone.

    Returns:
        The projections ``(J, d)`` and the multipliers ``(n, J)``, which are never negative: whatever the round, the
        norm of ``goal + R' E multipliers`` is at least that of the projection.
    """
    count, d = goal.shape
    n = len(rows)
    multipliers = torch.zeros(n, count, dtype=goal.dtype, device=goal.device)
    found = goal.clone()
    width = min(n, 2 * d)
    slack = 1e-12 if goal.dtype == torch.float64 else 1e-6
    chosen: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * count
    open_ = torch.arange(count, device=goal.device)
    for _ in range(rounds):
        margin = sign[:, open_] * (rows @ found[open_].mT)
        worst, at = torch.topk(margin, width, dim=0, largest=False)
        scale = torch.linalg.vector_norm(goal[open_], dim=1)
        violated = worst[0] < -slack * scale
        if not bool(violated.any()):
            break
        open_, worst, at = open_[violated], worst[:, violated], at[:, violated]
        blocks = open_.tolist()
        at_cpu, worst_cpu = at.cpu().numpy(), worst.cpu().numpy()
        for place, j in enumerate(blocks):
            first = len(chosen[j]) == 0
            fresh = at_cpu[:, place] if first else at_cpu[worst_cpu[:, place] < 0, place]
            chosen[j] = np.union1d(chosen[j], fresh)
            index = torch.as_tensor(chosen[j], device=goal.device)
            signed = sign[index, j, None] * rows[index]
            matrix = -signed.mT.double().cpu().numpy()
            try:
                solution, _ = nnls(matrix, goal[j].double().cpu().numpy(), maxiter=30 * max(matrix.shape))
            except RuntimeError:  # it gave up; what was found before stays
                continue
            part = torch.as_tensor(solution).to(goal)
            multipliers[:, j] = 0
            multipliers[index, j] = part
            found[j] = goal[j] + part @ signed
    return found, multipliers
