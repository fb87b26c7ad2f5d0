"""Random numbers that depend on keys alone: the same for every split of the parameters, every process and every resume.

A rule is a pure function, so its randomness is an argument: a seed and a step, from which the numbers follow. Nothing
has to be saved, and a run that is resumed or spread over processes draws what the whole run would have drawn.
"""

import hashlib

import torch
from torch import Tensor

__all__ = ["generator", "normal", "signs"]


def generator(device: torch.device, *keys: int | str) -> torch.Generator:
    """A generator whose numbers depend on the keys (a seed, a step, a shape, a name) and the device's type alone."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    made = torch.Generator(device=device.type if device.type != "meta" else "cpu")
    return made.manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(like: Tensor, *keys: int | str) -> Tensor:
    """Standard normal numbers of the shape, dtype and device of ``like``; equal shapes and keys give equal numbers."""
    source = generator(like.device, *keys, *like.shape)
    return torch.randn(like.shape, generator=source, dtype=like.dtype, device=like.device)


def signs(like: Tensor, *keys: int | str) -> Tensor:
    """Rademacher numbers, +1 or -1 with equal probability, of the shape, dtype and device of ``like``."""
    source = generator(like.device, *keys, *like.shape)
    drawn = torch.randint(0, 2, like.shape, generator=source, device=like.device)
    return (2 * drawn - 1).to(like.dtype)
