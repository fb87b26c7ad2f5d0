r"""Facility location: few points that stand for many.

Choose ``count`` columns :math:`S` of a non-negative matrix of similarities that maximise

.. math:: F(S) = \sum_i \max_{j \in S} s_{ij}

``F`` is monotone and submodular, so that the greedy choice reaches at least :math:`1 - 1/e` of the optimum (Nemhauser,
Wolsey and Fisher, 1978). Gains only shrink as the set grows; an old one is an upper bound, and most columns need not be
looked at again (Minoux, 1978).
"""

import heapq

import numpy as np
import torch
from torch import Tensor

from .ranges import Integer

__all__ = ["facility_location", "nearest_chosen"]


def facility_location(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The greedy choice, by lazy evaluation of the gains: the same columns in the same order as by plain greedy steps.

    Args:
        similarity: ``(n, m)``, finite and at least 0: how well column ``j`` stands for row ``i``.
        count: columns to choose, from 1 to ``m``. Columns that add nothing are chosen too, the first ones first.

    Returns:
        The chosen columns ``(count,)``, in the order of choice, and what each added to ``F``.

    Raises:
        ValueError: the similarities are not a matrix, negative or not finite, or ``count`` is out of range.
    """
    if similarity.dim() != 2 or 0 in similarity.shape:
        raise ValueError(f"similarity must be a matrix with rows and columns, got the shape {tuple(similarity.shape)}")
    Integer(1, similarity.shape[1]).check("count", count)
    lowest = float(similarity.min())
    if not (lowest >= 0 and bool(torch.isfinite(similarity).all())):
        raise ValueError(f"similarity must be finite and at least 0 everywhere, got a smallest entry of {lowest!r}")
    known_to_numpy = similarity.float() if similarity.dtype == torch.bfloat16 else similarity
    columns = np.ascontiguousarray(known_to_numpy.detach().cpu().numpy().T)
    covered = np.zeros_like(columns[0])
    # Sums of equal length round alike, and each of their terms shrinks: old gains are bounds in floating point, too.
    heap = [(-float(np.maximum(column - covered, 0).sum()), j, 0) for j, column in enumerate(columns)]
    heapq.heapify(heap)
    chosen: list[int] = []
    gains: list[float] = []
    while len(chosen) < count:
        bound, j, known = heapq.heappop(heap)
        if known < len(chosen):
            heapq.heappush(heap, (-float(np.maximum(columns[j] - covered, 0).sum()), j, len(chosen)))
            continue
        chosen.append(j)
        gains.append(-bound)
        np.maximum(covered, columns[j], out=covered)
    device = similarity.device
    return torch.tensor(chosen, device=device), torch.tensor(gains, dtype=similarity.dtype, device=device)


def nearest_chosen(similarity: Tensor, chosen: Tensor) -> Tensor:
    """Which of the chosen columns each row of a square matrix is most similar to, as a position in ``chosen``.

    A chosen point belongs to itself, so that none of its copies is left with nothing; other ties go to the first.
    """
    nearest = similarity[:, chosen].argmax(1)
    nearest[chosen] = torch.arange(len(chosen), device=chosen.device)
    return nearest
