r"""The prox of the one-dimensional total variation, exact and without a loop over the entries.

Chambolle and Darbon's decomposition: where the minimizer of

.. math:: \tfrac12 \|z - x\|^2 + t \sum_i |z_{i+1} - z_i|

exceeds a level is the minimizer of a cut problem with two labels. So a segment is cut at its own mean: nothing exceeds
it, and the minimizer is constant there, or it falls into pieces whose order is known from then on, so that each is a
segment of its own with data moved by :math:`\pm t` at the ends. All segments are treated at once. A cut on a chain is
dynamic programming: the difference of the two labels' costs up to an entry is
:math:`m_i = \operatorname{clip}(m_{i-1}, -t, t) + c_i`, and since such maps compose to maps of the same kind, a scan
finds all :math:`m_i` in :math:`\log_2 n` vector operations.

Source: A. Chambolle and J. Darbon (2009), "On total variation minimization and surface evolution using parametric
maximum flows", International Journal of Computer Vision 84, 288-307.
"""

import torch
from torch import Tensor

__all__ = ["total_variation"]


def total_variation(x: Tensor, scale: float | Tensor, dim: int = -1) -> Tensor:
    """The prox of ``scale * sum |x[i+1] - x[i]|`` along ``dim``, exact up to rounding.

    Each further level of cuts costs O(n); there are about log n for data that are not made to prevent it (geometric
    growth is the worst). All is computed in float64; the derivative, by ``x`` and by a tensor ``scale``, is that
    of means over them.

    Args:
        x: the data; slices along ``dim`` are treated on their own, all at once.
        scale: the factor, a number >= 0 or a 0-dim tensor.
        dim: the dimension. Default -1.

    Raises:
        ValueError: ``scale`` is negative or NaN.
    """
    size = float(scale.detach() if isinstance(scale, Tensor) else scale)
    if not size >= 0:
        raise ValueError(f"scale must be a number >= 0, got {scale!r}")
    if x.numel() == 0 or x.dim() == 0 or x.shape[dim] == 1:
        return x
    moved = x.movedim(dim, -1)
    flat = moved.reshape(-1)
    first = torch.zeros(moved.shape, dtype=torch.bool, device=x.device)
    first[..., 0] = True
    first = first.reshape(-1)
    if size == float("inf"):
        slope = torch.zeros_like(flat, dtype=torch.float64)
        scale = 0.0
    else:
        first, slope = _segments(flat.detach().double(), first, size)
    segment = first.cumsum(0) - 1
    count = torch.bincount(segment)
    # slope[i] is the sign of z[i] - z[i-1]: it pulls entry i down and entry i-1 up.
    pull = torch.cat([slope[1:], slope.new_zeros(1)]) - slope
    pulled = flat.double() + scale * pull
    mean = pulled.new_zeros(len(count)).index_add(0, segment, pulled) / count
    return mean[segment].to(x.dtype).reshape(moved.shape).movedim(-1, dim)


def _segments(data: Tensor, first: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Where the minimizer's constant segments begin, and its sign of change there (0 where data begin anew)."""
    first, slope = first.clone(), torch.zeros_like(data)
    where = torch.arange(len(data), device=data.device)  # entries of segments that may still fall into pieces
    begins, data = first, data.clone()
    while len(where):
        segment = begins.cumsum(0) - 1
        counts = torch.bincount(segment)
        means = torch.segment_reduce(data, "sum", lengths=counts) / counts
        mean = means[segment]
        # What rounding does to a cost: without it, data on the verge of a cut lose one entry in each round.
        rounding = 8 * torch.finfo(data.dtype).eps * (data.abs() + mean.abs() + t)
        high = _cut(mean - data, begins, t, rounding)
        new = torch.zeros_like(begins)
        new[1:] = (high[1:] != high[:-1]) & ~begins[1:]
        at = new.nonzero()[:, 0]
        sign = torch.where(high[at], 1.0, -1.0).to(data.dtype)
        first[where[at]] = True
        slope[where[at]] = sign
        data[at] -= t * sign
        data[at - 1] += t * sign
        fell = torch.zeros(len(counts), dtype=torch.bool, device=data.device)
        fell[segment[at]] = True
        # Neighbours of one entry are finished: nothing is left to cut.
        begins = begins | new
        ends = torch.ones_like(begins)
        ends[:-1] = begins[1:]
        keep = fell[segment] & ~(begins & ends)
        where, data, begins = where[keep], data[keep], begins[keep]
    return first, slope


def _cut(cost: Tensor, begins: Tensor, t: float, rounding: Tensor) -> Tensor:
    """The labels s in {0, 1} that minimize ``sum cost * s + t sum |s[i+1] - s[i]|`` in each segment."""
    low, high = torch.where(begins, cost, cost - t), torch.where(begins, cost, cost + t)
    difference = _scan(cost, low, high)
    # The last label follows its own sign; one before it follows the next label unless its difference exceeds t.
    ends = torch.ones_like(begins)
    ends[:-1] = begins[1:]
    decided = ends | (difference.abs() > t + rounding)
    place = torch.where(decided, torch.arange(len(cost), device=cost.device), len(cost))
    following = place.flip(0).cummin(0).values.flip(0)
    labels: Tensor = (difference < 0)[following]
    return labels


def _scan(shift: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """All ``m[i] = clip(m[i-1] + shift[i], low[i], high[i])``; the first map is constant, ``low[0] == high[0]``."""
    n = len(shift)
    if n == 1:
        return low
    half = 2 * (n // 2)
    after, floor, ceiling = shift[1:half:2], low[1:half:2], high[1:half:2]
    odd = _scan(
        shift[0:half:2] + after,
        torch.clamp(low[0:half:2] + after, floor, ceiling),
        torch.clamp(high[0:half:2] + after, floor, ceiling),
    )
    m = torch.empty_like(shift)
    m[1::2] = odd
    m[0] = low[0]
    m[2::2] = torch.clamp(odd[: (n - 1) // 2] + shift[2::2], low[2::2], high[2::2])
    return m
