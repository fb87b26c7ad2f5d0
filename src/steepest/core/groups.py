"""Groups of the entries of a tensor: slices of equal size, or any disjoint lists of indices."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.ranges import Integer

__all__ = ["Groups", "Indices", "Slices", "groups_of"]


class Groups(ABC):
    """Disjoint groups of the entries of a tensor; they need not hold all entries."""

    @abstractmethod
    def norms(self, x: Tensor) -> Tensor:
        """The Euclidean norm of each group, ``(groups,)``; its derivative at a group of zeros is taken as zero."""

    @abstractmethod
    def spread(self, factors: Tensor, x: Tensor) -> Tensor:
        """A tensor of the shape of ``x`` that holds each entry's factor; 1 for entries in no group.

        Args:
            factors: one number per group, ``(groups,)``.
            x: gives the shape, dtype and device.
        """

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """The entries of ``x`` as a matrix with a row per group, filled up with zeros."""

    @abstractmethod
    def outside(self, x: Tensor) -> Tensor:
        """The entries of ``x`` that are in no group, as a vector."""

    @abstractmethod
    def sizes(self, x: Tensor) -> Tensor:
        """The number of entries of each group, ``(groups,)``, in the dtype of ``x``: weights are often its root."""


@dataclass(frozen=True)
class Slices(Groups):
    """Consecutive entries along one dimension, at each place of the other dimensions.

    Args:
        size: entries per group, >= 1, a divisor of the extent of ``dim``; ``None`` (default): all of them, so that
            the rows of a matrix are its groups.
        dim: the dimension. Default -1.

    Raises:
        ValueError, TypeError: ``size`` is no positive integer, or does not divide the extent.
    """

    size: int | None = None
    dim: int = -1

    def __post_init__(self) -> None:
        Integer(low=1, optional=True).check("Slices: size", self.size)
        Integer(low=-64).check("Slices: dim", self.dim)

    def rows(self, x: Tensor) -> Tensor:
        x = x.reshape(1) if x.dim() == 0 else x
        if not -x.dim() <= self.dim < x.dim():
            raise ValueError(f"dim of the groups is {self.dim}, but the tensor has {x.dim()} dimensions")
        extent = x.shape[self.dim]
        size = max(extent, 1) if self.size is None else self.size
        if extent % size:
            raise ValueError(f"size of the groups must divide the extent {extent} of dimension {self.dim}, got {size}")
        return x.movedim(self.dim, -1).reshape(-1, size)

    def norms(self, x: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.rows(x), dim=-1)
        return norms

    def spread(self, factors: Tensor, x: Tensor) -> Tensor:
        rows = self.rows(x)
        if x.dim() == 0:
            return factors.reshape(())
        moved = x.movedim(self.dim, -1).shape
        return factors[:, None].expand_as(rows).reshape(moved).movedim(-1, self.dim)

    def outside(self, x: Tensor) -> Tensor:
        return x.new_zeros(0)

    def sizes(self, x: Tensor) -> Tensor:
        rows = self.rows(x)
        return x.new_full((rows.shape[0],), rows.shape[1])


class Indices(Groups):
    """Any disjoint groups, each a list of indices into the flattened tensor. Groups may be empty.

    Args:
        groups: a sequence of sequences (or 1-dim tensors) of integers >= 0.

    Raises:
        TypeError: an index is not an integer.
        ValueError: an index is negative, or is in two groups.
    """

    def __init__(self, groups: Sequence[Any]) -> None:
        lists = [[*map(_index, g.tolist() if isinstance(g, Tensor) else g)] for g in groups]
        if not lists:
            raise ValueError("groups must hold at least one group, got none")
        flat = [i for one in lists for i in one]
        if len(set(flat)) < len(flat):
            twice = next(i for i in flat if flat.count(i) > 1)
            raise ValueError(f"groups must be disjoint, but the index {twice} occurs more than once")
        self.groups = tuple(tuple(one) for one in lists)
        self._extent = max(flat, default=-1) + 1
        self._entry = torch.tensor(flat, dtype=torch.long)
        self._owner = torch.tensor([g for g, one in enumerate(lists) for _ in one], dtype=torch.long)
        self._place = torch.tensor([p for one in lists for p in range(len(one))], dtype=torch.long)

    def __repr__(self) -> str:
        return f"Indices({[list(g) for g in self.groups]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Indices) and self.groups == other.groups

    def __hash__(self) -> int:
        return hash(self.groups)

    def fingerprint(self) -> str:
        """The groups in words."""
        return repr(self)

    def _of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The entries that groups hold, one after another, and the group of each."""
        if x.numel() < self._extent:
            raise ValueError(f"groups hold the index {self._extent - 1}, but the tensor has {x.numel()} entries")
        return x.reshape(-1)[self._entry.to(x.device)], self._owner.to(x.device)

    def norms(self, x: Tensor) -> Tensor:
        entries, owner = self._of(x)
        squares = x.new_zeros(len(self.groups)).index_add(0, owner, entries.square())
        positive = squares > 0
        return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)

    def spread(self, factors: Tensor, x: Tensor) -> Tensor:
        _, owner = self._of(x)
        ones = factors.new_ones(x.numel())
        return ones.index_put((self._entry.to(x.device),), factors[owner]).reshape(x.shape)

    def rows(self, x: Tensor) -> Tensor:
        entries, owner = self._of(x)
        width = max(map(len, self.groups))
        place = (owner, self._place.to(x.device))
        return x.new_zeros(len(self.groups), width).index_put(place, entries)

    def outside(self, x: Tensor) -> Tensor:
        self._of(x)
        free = torch.ones(x.numel(), dtype=torch.bool, device=x.device)
        free[self._entry.to(x.device)] = False
        return x.reshape(-1)[free]

    def sizes(self, x: Tensor) -> Tensor:
        return torch.tensor([len(g) for g in self.groups], dtype=x.dtype, device=x.device)


def _index(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"groups must hold integers, got {value!r} of type {type(value).__name__}")
    number: int = value.__index__()
    if number < 0:
        raise ValueError(f"groups must hold indices >= 0, got {number}")
    return number


def groups_of(groups: Groups | Sequence[Any] | int | None) -> Groups:
    """Groups from what users write.

    Args:
        groups: :class:`Groups`; a size (consecutive entries of the last dimension); ``None`` (the slices along the
            last dimension); or lists of indices into the flattened tensor.

    Raises:
        TypeError, ValueError: it is none of these.
    """
    if isinstance(groups, Groups):
        return groups
    if groups is None or (isinstance(groups, int) and not isinstance(groups, bool)):
        return Slices(groups)
    if isinstance(groups, (list, tuple)):
        if any(not isinstance(g, (list, tuple, range, Tensor)) for g in groups):
            raise TypeError(f"groups must be lists of indices, one per group, got {groups!r}")
        return Indices(groups)
    raise TypeError(f"groups must be Groups, a size, None or lists of indices, got {groups!r}")
