r"""The fast Walsh-Hadamard transform, :math:`H x` with :math:`H_{2n} = \begin{pmatrix} H_n & H_n \\ H_n & -H_n
\end{pmatrix}`, :math:`H_1 = 1`, in :math:`O(n \log n)`."""

import functools

import torch
from torch import Tensor

__all__ = ["walsh_hadamard"]

#: The transform is a Kronecker product of small ones. With this size a factor is a matrix product that reads and writes
#: the tensor once, where butterflies would do so four times.
_BLOCK = 16


@functools.lru_cache(maxsize=16)
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve a later backward pass, too
        found = torch.ones(1, 1, dtype=dtype, device=device)
        while len(found) < size:
            found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
        return found


def walsh_hadamard(x: Tensor) -> Tensor:
    """The Walsh-Hadamard transform along the last dimension, not normalized: H is symmetric, and H H = size.

    It is made of differentiable products that keep nothing for the backward pass but a matrix of 16 x 16.

    Args:
        x: ``(..., size)`` with a power of two as size; floating point.

    Raises:
        ValueError: the size is no power of two.
    """
    size = x.shape[-1] if x.dim() else 0
    if size < 1 or size & (size - 1):
        raise ValueError(f"walsh_hadamard: the size of the last dimension must be a power of two, got {size}")
    shape, done = x.shape, 1
    while done < size:
        block = min(_BLOCK, size // done)
        factor = _matrix(block, x.dtype, x.device)
        x = x.reshape(-1, block) @ factor if done == 1 else factor @ x.reshape(-1, block, done)
        done *= block
    return x.reshape(shape)
