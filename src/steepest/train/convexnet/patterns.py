r"""Activation patterns: which samples a hidden ReLU neuron lets through.

A gate :math:`h \in R^d` has the pattern :math:`D = 1[X h \ge 0]` on the design :math:`X` of shape (n, d). The weights
with that pattern form the closed cone :math:`\{v : (2D - 1) \circ X v \ge 0\}`, on which a ReLU neuron is linear; the
cones of all patterns cover the space. A convex program has one pair of blocks per pattern that it is given.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from steepest.core.ranges import Integer, Real

__all__ = [
    "Patterns",
    "activation_patterns",
    "count_in_general_position",
    "enumerate_patterns",
    "merge_patterns",
    "pattern_count_bound",
    "patterns_needed",
    "sample_patterns",
    "sampling_confidence",
    "sampling_quality",
]

_PROBABILITY = Real(low=0.0, high=1.0, low_open=True, high_open=True)


@dataclass(frozen=True, eq=False)
class Patterns:
    """Distinct activation patterns of a design, and a gate that has each.

    Attributes:
        active: which samples each pattern lets through, ``(n, P)``, of dtype bool.
        gates: the weights the patterns were found at, ``(P, d)``; ``active`` is ``design @ gates.T >= 0``.
    """

    active: Tensor
    gates: Tensor

    def __post_init__(self) -> None:
        if self.active.dtype is not torch.bool or self.active.dim() != 2:
            raise TypeError(f"active must be a bool tensor (n, P), got {self.active.dtype}{list(self.active.shape)}")
        if self.gates.dim() != 2 or len(self.gates) != self.active.shape[1]:
            raise ValueError(
                f"gates must be (P, d), a row for each column of active {list(self.active.shape)}, "
                f"got {list(self.gates.shape)}"
            )

    def __len__(self) -> int:
        return self.active.shape[1]

    def take(self, indices: Tensor) -> "Patterns":
        """Some of the patterns, in the order given."""
        return Patterns(self.active[:, indices], self.gates[indices])


def activation_patterns(design: Tensor, gates: Tensor) -> Patterns:
    """The patterns of given gates (the rows of ``gates``, ``(m, d)``) without duplicates, in the order of first sight.

    Args:
        design: ``(n, d)``; with a bias, its last column is ones.
        gates: ``(m, d)``, m >= 1.
    """
    design = _design(design)
    if gates.dim() != 2 or gates.shape[1] != design.shape[1] or len(gates) == 0:
        raise ValueError(f"gates must be (m, {design.shape[1]}) with m >= 1, got {list(gates.shape)}")
    gates = gates.detach().to(design)
    return _distinct(design @ gates.mT >= 0, gates)


def sample_patterns(design: Tensor, draws: int, generator: torch.Generator) -> Patterns:
    """Patterns of random gates with independent standard normal entries; duplicates are dropped.

    Args:
        design: ``(n, d)``.
        draws: how many gates are drawn, >= 1. :func:`patterns_needed` says how many suffice for a stated quality.
        generator: the source of randomness. It draws on its own device, in float64, so that equal seeds give equal
            gates for designs of all dtypes.
    """
    design = _design(design)
    Integer(low=1).check("draws", draws)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
    shape = (draws, design.shape[1])
    return activation_patterns(
        design, torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    )


def merge_patterns(first: Patterns, second: Patterns) -> Patterns:
    """The patterns of both, each once."""
    active = torch.cat([first.active, second.active], dim=1)
    return _distinct(active, torch.cat([first.gates, second.gates.to(first.gates)]))


def patterns_needed(samples: int, xi: float, psi: float) -> int:
    r"""How many random gates suffice for a stated quality::

        ceil( min( (n + 1) / (psi xi) - 1,  (2 / xi) (n + 1 - log psi) ) )

    With so many draws, it has probability at least ``1 - psi`` that a further random pattern would lower the optimum of
    the convex program with probability at most ``xi``. (The dual of the program has ``n`` variables and a constraint
    per pattern; this is the theory of sampled constraints.) The bound does not depend on the width or the dimension.

    Args:
        samples: ``n``, the number of dual variables: samples, times the outputs that are trained together.
        xi, psi: both in (0, 1).

    Source: Bai, Gautam, Sojoudi (2022), Efficient Global Optimization of Two-layer ReLU Networks, arXiv 2201.01965.
    """
    Integer(low=1).check("samples", samples)
    _PROBABILITY.check("xi", xi)
    _PROBABILITY.check("psi", psi)
    return math.ceil(min((samples + 1) / (psi * xi) - 1, 2 / xi * (samples + 1 - math.log(psi))))


def sampling_quality(draws: int, samples: int, psi: float) -> float:
    """The inverse of :func:`patterns_needed` in ``xi``: the best quality that ``draws`` random gates prove.

    With probability ``1 - psi``, a further random pattern lowers the optimum with at most this probability; 1 where the
    bound says nothing.
    """
    Integer(low=1).check("draws", draws)
    Integer(low=1).check("samples", samples)
    _PROBABILITY.check("psi", psi)
    return min(1.0, (samples + 1) / (psi * (draws + 1)), 2 * (samples + 1 - math.log(psi)) / draws)


def sampling_confidence(draws: int, samples: int, xi: float) -> float:
    """The inverse of :func:`patterns_needed` in ``psi``: the chance of failure that so many draws prove; at most 1."""
    Integer(low=1).check("draws", draws)
    Integer(low=1).check("samples", samples)
    _PROBABILITY.check("xi", xi)
    return min(1.0, (samples + 1) / (xi * (draws + 1)), math.exp(min(0.0, samples + 1 - xi * draws / 2)))


def pattern_count_bound(samples: int, rank: int) -> float:
    r"""An upper bound on the number of all patterns, :math:`2 r (e (n - 1) / r)^r` with ``r`` the rank, at most
    :math:`2^n`; a float, since it overflows integers that fit a machine. It holds for ``rank < samples``; otherwise
    :math:`2^n` is returned."""
    Integer(low=1).check("samples", samples)
    Integer(low=1).check("rank", rank)
    everything = 2.0**samples if samples < 1024 else math.inf
    if rank >= samples:
        return everything
    logarithm = math.log(2 * rank) + rank * (1 + math.log((samples - 1) / rank))
    return min(everything, math.exp(logarithm) if logarithm < 700 else math.inf)


def count_in_general_position(samples: int, rank: int) -> int:
    r"""The number of patterns of a design in general position, :math:`2 \sum_{k < r} \binom{n - 1}{k}` (Cover, 1965).

    No design of that rank without zero rows has more; one with parallel rows has fewer.
    """
    Integer(low=1).check("samples", samples)
    Integer(low=1).check("rank", rank)
    return 2 * sum(math.comb(samples - 1, k) for k in range(min(rank, samples)))


def enumerate_patterns(design: Tensor, limit: int = 20_000) -> Patterns:
    """All patterns whose cone has an interior: those that random gates find with positive probability.

    The cones of these cover the space, so a convex program with them has the global optimum of the network. One or two
    columns are swept by angle in O(n log n); otherwise rows are added one by one, with a linear program for each side
    of each cell, which is for small ``n`` and ``d``.

    Args:
        design: ``(n, d)``.
        limit: raise rather than hold more patterns than this.

    Raises:
        ValueError: there are more than ``limit`` patterns.
    """
    design = _design(design)
    Integer(low=1).check("limit", limit)
    rows = design.double().cpu().numpy()
    if design.shape[1] == 1:
        gates = [np.array([1.0]), np.array([-1.0])]
    elif design.shape[1] == 2:
        gates = _arcs(rows)
    else:
        gates = _cells(rows, limit)
    found = activation_patterns(design.double(), torch.as_tensor(np.array(gates)))
    if len(found) > limit:
        raise ValueError(f"the design has more than limit={limit} patterns")
    return Patterns(found.active.to(design.device), found.gates.to(design))


def _arcs(rows: np.ndarray) -> list[np.ndarray]:
    """The middle of every arc between the directions at which some row changes its sign."""
    rows = rows[np.abs(rows).max(1) > 0]
    if len(rows) == 0:
        return [np.array([1.0, 0.0])]
    normal = np.arctan2(rows[:, 1], rows[:, 0]) + np.pi / 2
    angles = np.unique(np.concatenate([normal, normal + np.pi]) % (2 * np.pi))
    following = np.append(angles[1:], angles[0] + 2 * np.pi)
    middles = (angles + following)[following - angles > 1e-12] / 2
    return [np.array([np.cos(a), np.sin(a)]) for a in middles]


def _cells(rows: np.ndarray, limit: int) -> list[np.ndarray]:
    """A gate strictly inside every cell of the arrangement of the hyperplanes ``rows @ h = 0``."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)[lengths[:, 0] > 0]
    rows = np.unique(rows * np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])[:, None], axis=0)
    d = rows.shape[1]
    cells: list[tuple[tuple[float, ...], np.ndarray]] = [((), np.eye(d)[0])]
    for k, row in enumerate(rows):
        extended = []
        for (signs, gate), side in itertools.product(cells, (1.0, -1.0)):
            grown = (*signs, side)
            if side * (row @ gate) > 1e-6:  # the known gate already lies on this side
                extended.append((grown, gate))
                continue
            signed = np.array(grown)[:, None] * rows[: k + 1]
            # Maximize the margin m with signed @ h >= m in the unit box.
            found = linprog(
                np.append(np.zeros(d), -1.0),
                A_ub=np.hstack([-signed, np.ones((k + 1, 1))]),
                b_ub=np.zeros(k + 1),
                bounds=[(-1, 1)] * d + [(0, 1)],
            )
            if found.status == 0 and found.x[-1] > 1e-9:
                extended.append((grown, found.x[:d]))
        cells = extended
        if len(cells) > limit:
            raise ValueError(f"the design has more than limit={limit} patterns")
    return [gate for _, gate in cells]


def _design(design: Tensor) -> Tensor:
    if not isinstance(design, Tensor) or design.dim() != 2 or 0 in design.shape or design.is_complex():
        what = list(design.shape) if isinstance(design, Tensor) else type(design).__name__
        raise ValueError(f"design must be a real tensor (n, d) that is not empty, got {what}")
    design = design.detach()
    if not design.is_floating_point():
        design = design.double()
    if not bool(torch.isfinite(design).all()):
        raise ValueError("design must be finite, but it holds NaN or an infinity")
    return design


def _distinct(active: Tensor, gates: Tensor) -> Patterns:
    """The first of each group of equal columns. Columns are compared in full, packed to bits: a hash could lie."""
    packed = np.packbits(active.mT.contiguous().cpu().numpy(), axis=1)
    first: dict[bytes, int] = {}
    for index, bits in enumerate(packed):
        first.setdefault(bits.tobytes(), index)
    if len(first) == len(packed):
        return Patterns(active, gates)
    keep = torch.tensor(list(first.values()), device=active.device)
    return Patterns(active[:, keep].contiguous(), gates[keep])
