"""What an optimizer, and a step of training, hold in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["peak_graph_size", "state_bytes"]


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in ``optimizer.state``, each counted once."""
    seen = {(t.data_ptr(), t.numel(), t.dtype): t.numel() * t.element_size() for t in _tensors(dict(optimizer.state))}
    return sum(seen.values())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def peak_graph_size(step: Callable[[], Any]) -> int:
    """The most numbers that autograd holds for backward passes at any moment while ``step`` runs.

    A tensor that several operations keep counts for each of them.
    """
    held = most = 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal held, most
            self.tensor = tensor
            held += tensor.numel()
            most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.tensor.numel()

    with saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        step()
    return most
