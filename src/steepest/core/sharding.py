"""Sharded tensors (``DTensor``) without importing ``torch.distributed.tensor``, which costs most of a second.

Where nobody has imported it, nobody can have made one.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["average_over_processes", "full", "is_sharded", "local", "on_any_process", "total", "write_full"]


def is_sharded(t: Any) -> bool:
    """Whether ``t`` is a ``DTensor``."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def local(t: Any) -> Tensor:
    """This process's shard, or the tensor itself; shares memory."""
    return t.to_local() if is_sharded(t) else t  # type: ignore[no-any-return]


def full(t: Any) -> Tensor:
    """The whole tensor, gathered from all processes, or the tensor itself."""
    return t.full_tensor() if is_sharded(t) else t  # type: ignore[no-any-return]


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of all entries of all tensors, whatever their devices and shards."""
    sums = [full(t.sum()) for t in parts]
    return torch.stack([s.to(sums[0].device) for s in sums]).sum()


def write_full(target: Any, result: Tensor) -> None:
    """Write a whole tensor, the same on every process, over a sharded one: each process keeps its shard."""
    from torch.distributed.tensor import DTensor, Replicate

    whole = DTensor.from_local(result, target.device_mesh, [Replicate()] * target.device_mesh.ndim)
    target.copy_(whole.redistribute(placements=target.placements))


def on_any_process(flag: bool, tensors: Iterable[Any]) -> bool:
    """Whether ``flag`` is true on any of the processes that share these tensors; ``flag`` itself where none is sharded.

    Counted by a sum: a maximum of values that may be NaN differs between processes and backends.
    """
    meshes = {t.device_mesh: t.to_local().device for t in tensors if is_sharded(t)}
    for mesh, device in meshes.items():
        from torch.distributed.tensor import DTensor, Partial

        count = torch.tensor(float(flag), device=device)
        flag = bool(DTensor.from_local(count, mesh, [Partial()] * mesh.ndim).full_tensor() > 0)
    return flag


def average_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means of tensors over all processes of ``torch.distributed``; the tensors themselves where there is one."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return list(tensors)
    means = [t.clone() for t in tensors]
    for mean in means:
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return means
