"""One regularizer for each tensor of a point."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from steepest.core import tree
from steepest.core.regularizer.base import Regularizer, Zero
from steepest.core.tree import Point

__all__ = ["Separable", "regularizer_of"]


@dataclass(frozen=True, eq=False)
class Separable(Regularizer):
    """The sum of one regularizer for each tensor of a point, for points that are dicts, lists or tuples.

    It does what a :class:`Regularizer` does, with points in the place of tensors; it offers what all of its parts
    offer, and is convex or smooth where all are.

    Args:
        parts: regularizers in the structure of the point; ``None`` stands for :class:`Zero`.

    Example: ``Separable({"weight": L1(0.1), "bias": None})``.

    Raises:
        TypeError: a part is neither a regularizer nor ``None``.
        ValueError: there is none; later, a point has another structure.
    """

    parts: Any

    def __post_init__(self) -> None:
        parts = self.parts
        flat, structure = pytree.tree_flatten(parts)
        if not flat:
            raise ValueError(f"parts must hold at least one regularizer, got {parts!r}")
        for part in flat:
            if part is not None and not isinstance(part, Regularizer):
                raise TypeError(f"parts must hold regularizers or None, got {part!r} of type {type(part).__name__}")
        flat = [Zero() if part is None else part for part in flat]
        object.__setattr__(self, "parts", pytree.tree_unflatten(flat, structure))
        object.__setattr__(self, "convex", all(part.convex for part in flat))
        object.__setattr__(self, "smooth", all(part.smooth for part in flat))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Separable) and bool(self.parts == other.parts)

    def __hash__(self) -> int:
        return hash(tuple(tree.leaves(self.parts)))

    def offers(self, name: str) -> bool:
        """Whether all parts implement ``name``."""
        return all(part.offers(name) for part in tree.leaves(self.parts))

    def check_point(self, x: Point) -> None:
        """Check that a point has the structure of the parts.

        Raises:
            ValueError: it has not.
        """
        if pytree.tree_structure(x) != pytree.tree_structure(self.parts):
            raise ValueError(f"the point must have the structure of {self!r}, got {tree.describe(x)}")

    def value(self, x: Point) -> Tensor:
        return torch.stack(self._each("value", x)).sum()

    def prox(self, x: Point, step: float | Tensor) -> Point:
        return self._map("prox", x, step)

    def gradient(self, x: Point) -> Point:
        return self._map("gradient", x)

    def conjugate(self, y: Point) -> Tensor:
        return torch.stack(self._each("conjugate", y)).sum()

    def dual_scale(self, y: Point) -> Tensor:
        # The domain of the conjugate is a product, and one factor has to serve all of it.
        return torch.stack(self._each("dual_scale", y)).min()

    def lmo(self, direction: Point) -> Point:
        return self._map("lmo", direction)

    def _each(self, name: str, x: Point, *args: Any) -> list[Any]:
        self.check_point(x)
        pairs = zip(tree.leaves(self.parts), tree.leaves(x), strict=True)
        return [getattr(part, name)(leaf, *args) for part, leaf in pairs]

    def _map(self, name: str, x: Point, *args: Any) -> Point:
        return pytree.tree_unflatten(self._each(name, x, *args), pytree.tree_structure(x))


def regularizer_of(regularizer: Any) -> Regularizer:
    """A regularizer from what users write: one, ``None`` for zero, or a dict, list or tuple of them.

    Raises:
        TypeError, ValueError: it is none of these.
    """
    if regularizer is None:
        return Zero()
    if isinstance(regularizer, Regularizer):
        return regularizer
    if isinstance(regularizer, (dict, list, tuple)):
        return Separable(regularizer)
    raise TypeError(
        f"regularizer must be a Regularizer, None, or a dict, list or tuple of them; got {regularizer!r} of type "
        f"{type(regularizer).__name__}"
    )
