"""Arithmetic on points: a point is a tensor, or nested dicts, lists and tuples of tensors (a pytree)."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = [
    "Point",
    "add_scaled",
    "describe",
    "dot",
    "is_finite",
    "leaves",
    "norm",
    "ravel",
    "tree_map",
    "unravel",
    "zeros_like",
]

#: A tensor, or nested dicts, lists and tuples of tensors.
Point = Any


def leaves(point: Point) -> list[Any]:
    """The tensors of a point, in a fixed order."""
    return pytree.tree_leaves(point)


def tree_map(function: Callable[..., Any], *points: Point) -> Point:
    """Apply ``function`` to corresponding tensors of points of one structure."""
    return pytree.tree_map(function, *points)


def add_scaled(x: Point, scale: float | torch.Tensor, direction: Point) -> Point:
    """``x + scale * direction``."""
    return tree_map(lambda a, b: a + scale * b, x, direction)


def dot(x: Point, y: Point) -> torch.Tensor:
    """The real inner product ``sum(conj(x) * y).real`` over all tensors, as a 0-dim tensor."""
    total: Any = 0.0
    for a, b in zip(leaves(x), leaves(y), strict=True):
        product = torch.vdot(a.reshape(-1), b.reshape(-1))
        total = total + (product.real if product.is_complex() else product)
    return torch.as_tensor(total)


def norm(x: Point) -> torch.Tensor:
    """The Euclidean norm over all tensors, as a 0-dim tensor."""
    norms: list[torch.Tensor] = [torch.linalg.vector_norm(leaf) for leaf in leaves(x)]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def ravel(x: Point) -> torch.Tensor:
    """All numbers of a point as one vector, tensor after tensor, each row-major; a view where that is possible."""
    flat: list[torch.Tensor] = [leaf.reshape(-1) for leaf in leaves(x)]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def unravel(vector: torch.Tensor, like: Point) -> Point:
    """The point of the structure, shapes and dtypes of ``like`` whose numbers are those of ``vector``."""
    flat, structure = pytree.tree_flatten(like)
    parts = vector.split([leaf.numel() for leaf in flat])
    shaped = [part.reshape(leaf.shape).to(leaf.dtype) for part, leaf in zip(parts, flat, strict=True)]
    return pytree.tree_unflatten(shaped, structure)


def zeros_like(x: Point) -> Point:
    """A point of the same structure, all zero."""
    return tree_map(torch.zeros_like, x)


def is_finite(x: Point) -> bool:
    """Whether no tensor holds NaN or an infinity."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves(x))


def describe(x: Point) -> str:
    """Structure, dtypes and shapes in words: ``{'w': float64[3, 2]}``."""
    if isinstance(x, torch.Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in x.items()) + "}"
    if isinstance(x, (list, tuple)):
        inner = ", ".join(describe(item) for item in x)
        return f"[{inner}]" if isinstance(x, list) else f"({inner})"
    return type(x).__name__
