r"""The k-level group sparse envelope: value and prox, by sorting one number per group.

With groups :math:`x_1, \dots, x_m` of the entries of :math:`x` and weights :math:`d_j > 0`, it is the largest convex
function below :math:`\tfrac12 \sum_j d_j \|x_j\|^2` on the points with at most ``k`` groups that are not zero:

.. math:: E_k(x) = \tfrac12 \min \{ \textstyle\sum_j d_j \|x_j\|^2 / u_j : 0 \le u \le 1, \sum_j u_j \le k \}

Both minimizations below are over :math:`u`, whose optimality conditions leave one unknown number.
"""

import torch
from torch import Tensor

from steepest.core.groups import Groups

__all__ = ["envelope_conjugate", "envelope_value", "group_sparse_envelope"]


def envelope_value(sizes: Tensor, k: int) -> Tensor:
    r""":math:`E_k` from the numbers :math:`a_j = \sqrt{d_j} \|x_j\|`.

    The largest :math:`p` of them have :math:`u_j = 1`, the others :math:`u_j \propto a_j`:
    :math:`2 E_k = \sum_{j \le p} a_j^2 + (\sum_{j > p} a_j)^2 / (k - p)`, with the least :math:`p` for which no other
    :math:`u_j` exceeds 1.
    """
    a = sizes.sort(descending=True).values
    k = min(k, len(a))
    tail = a.flip(0).cumsum(0).flip(0)  # tail[p] = sum of a[p:]
    left = k - torch.arange(k, device=a.device)
    feasible = (a[:k] * left <= tail[:k]).nonzero()
    p = int(feasible[0, 0]) if len(feasible) else k - 1  # the last one is feasible up to rounding
    value: Tensor = 0.5 * (a[:p].square().sum() + a[p:].sum().square() / (k - p))
    return value


def envelope_conjugate(sizes: Tensor, k: int) -> Tensor:
    r"""The conjugate of :math:`E_k` from the numbers :math:`\|y_j\| / \sqrt{d_j}`: half the squares of the ``k``
    largest."""
    value: Tensor = 0.5 * sizes.topk(min(k, len(sizes))).values.square().sum()
    return value


def group_sparse_envelope(
    x: Tensor, scale: float | Tensor, k: int, groups: Groups, weights: Tensor | float = 1.0
) -> Tensor:
    r"""The prox of ``scale`` times the k-level group sparse envelope.

    For given :math:`u` the minimizer is :math:`z_j = x_j u_j / (u_j + t d_j)`, ``t`` being ``scale``; and then
    :math:`u_j = \operatorname{clip}(\|x_j\| \sqrt{t d_j}\,r - t d_j, 0, 1)`, where :math:`r` solves
    :math:`\sum_j u_j = k`, an increasing piecewise linear equation. With at most ``k`` groups that are not zero, their
    :math:`u_j` are 1.

    Args:
        x: the point.
        scale: the factor, a number >= 0 or a 0-dim tensor.
        k: how many groups, >= 1; more than there are is as many as there are.
        groups: the groups; entries in none are not changed.
        weights: ``d``, > 0, one number or one per group.
    """
    if not isinstance(scale, Tensor) and not scale >= 0:
        raise ValueError(f"scale must be a number >= 0, got {scale!r}")
    norms = groups.norms(x)
    shift = (torch.as_tensor(scale, dtype=x.dtype, device=x.device) * weights).expand(norms.shape)  # t d
    with torch.no_grad():
        some = (norms > 0) & (shift > 0)
        few = int((norms > 0).sum()) <= k or not bool(some.any())
    if few:
        return x * groups.spread(1 / (1 + shift), x)
    slope = norms * torch.where(some, torch.where(some, shift, 1.0).sqrt(), 0.0)
    with torch.no_grad():
        # The sum over groups at each break point: a group begins to count at one and is full at the other.
        begin, full = shift[some] / slope[some], (1 + shift[some]) / slope[some]
        points, order = torch.cat([begin, full]).sort()
        change = torch.cat([slope[some], -slope[some]])[order]
        steps = change.cumsum(0)[:-1] * points.diff()
        reached = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        after = int(torch.searchsorted(reached, float(k)).clamp(1, len(points) - 1))
        middle = 0.5 * (points[after - 1] + points[after])
        u = slope * middle - shift
        free, ones = some & (u > 0) & (u < 1), u >= 1
    # With the sets known, the equation is linear, and so its solution can be differentiated.
    root = (k - ones.sum() + shift[free].sum()) / slope[free].sum()
    u = torch.where(ones, 1.0, torch.where(free, (slope * root - shift).clamp(0, 1), 0.0))
    positive = u > 0
    return x * groups.spread(torch.where(positive, u / torch.where(positive, u + shift, 1.0), 0.0), x)
