r"""Low-precision storage: state in bfloat16 or 8 bits, and bfloat16 parameters that do not lose small updates.

A rule always computes in float32 (or float64). What is stored between steps may be coarser. Rounding to nearest would
stall: an average with decay 0.999 moves by a thousandth of its distance per step, a tenth of bfloat16's spacing, and
would never move at all. So everything is rounded stochastically, up or down at random so that the mean is right.

The random numbers are a hash of the position and the step: no generator to save, and the same on every process.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .kernel import compiled_or_plain
from .settled import settled

__all__ = [
    "BLOCK",
    "SMALLEST",
    "Rounding",
    "StateDtype",
    "decode",
    "encode",
    "layout",
    "round_stochastically",
]

StateDtype = Literal["float32", "bfloat16", "8bit"]
Rounding = Literal["nearest", "stochastic", "compensated"]

#: Consecutive elements that share one scale in 8-bit storage.
BLOCK = 256
#: Tensors with fewer elements stay in float32 under ``state_dtype="8bit"``: they take no memory worth saving.
SMALLEST = 4096

#: Suffix of the entry that holds an 8-bit tensor's scales; no state tensor of a rule has a colon in its name.
SCALE = ":scale"


def layout(name: str, t: Tensor, kind: StateDtype, nonnegative: bool) -> dict[str, Tensor]:
    """The entries under which a float32 state tensor is stored, as tensors on the ``meta`` device."""
    if not _is_coarse(t, kind):
        return {name: t}
    if kind == "bfloat16":
        return {name: torch.empty_like(t, dtype=torch.bfloat16, device="meta")}
    codes = torch.uint8 if nonnegative else torch.int8
    return {
        name: torch.empty(t.numel(), dtype=codes, device="meta"),
        name + SCALE: torch.empty(-(-t.numel() // BLOCK), dtype=torch.float32, device="meta"),
    }


def _is_coarse(t: Tensor, kind: StateDtype) -> bool:
    large = t.numel() >= SMALLEST or kind == "bfloat16"
    return kind != "float32" and large and t.dtype == torch.float32


def encode(name: str, t: Tensor, kind: StateDtype, nonnegative: bool, step: int, compiled: bool) -> dict[str, Tensor]:
    """A float32 state tensor as it is stored: see :func:`layout`."""
    if not _is_coarse(t, kind):
        return {name: t}
    flat = t.reshape(-1)
    if kind == "bfloat16":
        rounded: Tensor = _run(_to_bfloat16, compiled, flat, _seed(name, step))
        return {name: rounded.view(t.shape)}
    padding = -flat.numel() % BLOCK
    if padding:
        flat = torch.cat([flat, flat.new_zeros(padding)])
    code = _nonnegative_to_bytes if nonnegative else _signed_to_bytes
    codes, scales = _run(code, compiled, flat.view(-1, BLOCK), _seed(name, step))
    return {name: codes.view(-1)[: t.numel()], name + SCALE: scales.view(-1)}


def decode(name: str, stored: Mapping[str, Tensor], like: Tensor, compiled: bool) -> Tensor:
    """The float32 tensor of the shape of ``like`` behind the entries ``stored``; a fresh one unless it is stored so."""
    t = stored[name]
    if t.dtype == torch.bfloat16:
        return t.float()
    if t.dtype not in (torch.int8, torch.uint8):
        return t
    padding = -t.numel() % BLOCK
    codes = torch.cat([t, t.new_zeros(padding)]) if padding else t
    flat: Tensor = _run(_from_bytes, compiled, codes.view(-1, BLOCK), stored[name + SCALE].view(-1, 1))
    return flat.view(-1)[: t.numel()].view(like.shape)


def round_stochastically(t: Tensor, step: int, compiled: bool = False) -> Tensor:
    """A float32 tensor in bfloat16, each element rounded up or down with the probability that keeps its mean."""
    rounded: Tensor = _run(_to_bfloat16, compiled, t.reshape(-1), _seed("parameter", step))
    return rounded.view(t.shape)


# ------------------------------------------------------------------------------------------------ arithmetic


def _seed(name: str, step: int) -> Tensor:
    """A 0-dim tensor: as data, a new step does not compile anew."""
    return torch.tensor((step * 0x9E3779B9 + zlib.crc32(name.encode())) % 2**31, dtype=torch.int32)


def _random_bits(like: Tensor, seed: Tensor) -> Tensor:
    """31 uniform bits for every element, a hash of its position (Wellons' lowbias32) and the seed."""
    x = torch.arange(like.numel(), dtype=torch.int32, device=like.device).view(like.shape)
    x = x ^ seed.to(like.device)
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)
    return (x ^ ((x >> 16) & 0xFFFF)) & 0x7FFFFFFF


def _uniform(like: Tensor, seed: Tensor) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return (_random_bits(like, seed) >> 7).to(torch.float32) * 2.0**-24


def _to_bfloat16(t: Tensor, seed: Tensor) -> Tensor:
    # Adding 16 random bits below bfloat16's last one and cutting off rounds up with the right probability. An infinity
    # or NaN must be left alone: its bits would overflow into another number.
    bits = t.contiguous().view(torch.int32)
    rounded = ((bits + (_random_bits(t, seed) & 0xFFFF)) & -65536).view(torch.float32)
    return torch.where(t.isfinite() & rounded.isfinite(), rounded, t).to(torch.bfloat16)


def _signed_to_bytes(rows: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    r"""Codes :math:`c` with value :math:`s \operatorname{sign}(c) (c / 127)^2`: fine where the values are small."""
    scale = _scale(rows.abs())
    size = rows.abs() * _inverse(scale)
    low = torch.clamp(torch.floor(127 * torch.sqrt(size)), max=126.0)
    above = (size * 127.0**2 - low * low) / (2 * low + 1)
    code = low + (_uniform(rows, seed) < above).to(torch.float32)
    return (torch.sign(rows) * code).to(torch.int8), scale


def _nonnegative_to_bytes(rows: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    r"""Codes :math:`c` with value :math:`s (c / 255)^4`: ten orders of magnitude within a block.

    A positive value never becomes 0, since an optimizer divides by its root.
    """
    scale = _scale(rows)
    size = rows * _inverse(scale)
    low = torch.clamp(torch.floor(255 * torch.sqrt(torch.sqrt(size))), max=254.0)
    value, following = (low / 255) ** 4, ((low + 1) / 255) ** 4
    above = (size - value) / (following - value)
    code = low + (_uniform(rows, seed) < above).to(torch.float32)
    return torch.where(size > 0, torch.clamp(code, min=1.0), 0.0).to(torch.uint8), scale


def _scale(sizes: Tensor) -> Tensor:
    """The largest size of each row, one that can be divided by; 0 for a row of zeros."""
    assert sizes.shape[1] == BLOCK  # a guard: makes the width static and leaves the number of rows dynamic
    largest = sizes.amax(1, keepdim=True)
    return torch.where(largest == 0, largest, largest.clamp_min(torch.finfo(sizes.dtype).tiny))


def _inverse(scale: Tensor) -> Tensor:
    """``1 / scale``, and 1 where that is 0.

    Compiled, the loop over a row must not find its scale again for every vector: that took nine tenths of the time.
    """
    return settled(1 / torch.where(scale == 0, 1.0, scale))


def _from_bytes(codes: Tensor, scale: Tensor) -> Tensor:
    if codes.dtype == torch.uint8:
        root = codes.to(torch.float32) / 255
        return scale * (root * root) * (root * root)
    signed = codes.to(torch.float32) / 127
    return scale * signed * signed.abs()


def _run(function: Callable[..., Any], compiled: bool, *arguments: Tensor) -> Any:
    return compiled_or_plain(function, *arguments) if compiled else function(*arguments)
