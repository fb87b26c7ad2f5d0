"""A mark for compiled rules: compute this small tensor once, here.

Inductor inlines every intermediate into the loops that read it. For the norm of a row or of a whole tensor that means
its square root, its division and all arithmetic on hyper-parameters once per vector of the large loop that uses it:
measured on a rule that scales rows and columns, that was nine tenths of the step.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["settled"]


@torch.library.custom_op("steepest::settled", mutates_args=())
def _settled(x: Tensor) -> Tensor:
    return x.clone()


@_settled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@_settled.register_vmap
def _(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
    return _settled(x), in_dims[0]


_settled.register_autograd(lambda context, gradient: gradient)


def settled(x: Tensor) -> Tensor:
    """``x`` itself; in compiled code, computed once and read from memory afterwards. For small tensors only."""
    if not torch.compiler.is_compiling():
        return x
    result: Tensor = _settled(x)
    return result
