r"""Norms, their duals, and the linear minimization oracles of their unit balls.

The oracle of a norm is :math:`\operatorname{lmo}(m) = \arg\min_{\|s\| \le 1} \langle m, s\rangle`, the direction of
steepest descent in that norm, with :math:`\langle m, \operatorname{lmo}(m)\rangle = -\|m\|_*`:

==============  =======================================  ===================================  =====================
name            :math:`\|x\|`                            dual :math:`\|m\|_*`                 :math:`-\text{lmo}(m)`
==============  =======================================  ===================================  =====================
``"l2"``        :math:`\|x\|_F`                          :math:`\|m\|_F`                      :math:`m / \|m\|_F`
``"max"``       :math:`\max_{ij} |x_{ij}|`               :math:`\sum_{ij} |m_{ij}|`           :math:`\text{sign}(m)`
``"spectral"``  :math:`\sigma_1(x)`                      :math:`\sum_i \sigma_i(m)`           :math:`U V^\top`
``"nuclear"``   :math:`\sum_i \sigma_i(x)`               :math:`\sigma_1(m)`                  :math:`u_1 v_1^\top`
``"column"``    :math:`\max_j \|x_{\cdot j}\|_2`         :math:`\sum_j \|m_{\cdot j}\|_2`     columns of unit length
==============  =======================================  ===================================  =====================

with :math:`m = U \Sigma V^\top`. Where the minimizer is not unique (zero entries, zero or equal singular values) one
of least rank or support is taken; at zero it is zero. A vector is a matrix of one column.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .norms import subgradient

__all__ = ["NORMS", "dual", "lmo", "norm"]


def _matrix(x: Tensor) -> Tensor:
    """Vectors as one column; matrices, and stacks of them, as they are."""
    return x if x.dim() > 1 else x.reshape(-1, 1)


def _columns(x: Tensor) -> Tensor:
    """Columns of the ``(out, rest)`` view as rows."""
    return (x.reshape(x.shape[0], -1) if x.dim() > 1 else x.reshape(-1, 1)).T


def _unit_columns(m: Tensor) -> Tensor:
    return subgradient("rows", _columns(m)).T.reshape(m.shape)


def _leading(m: Tensor) -> Tensor:
    """The product of the leading singular vectors; zero for zero."""
    u, s, vh = torch.linalg.svd(_matrix(m), full_matrices=False)
    factor = u[..., :, :1] @ vh[..., :1, :]
    leading: Tensor = (factor * (s[..., :1, None] > 0).to(m.dtype)).reshape(m.shape)
    return leading


def _polar(m: Tensor) -> Tensor:
    return subgradient("nuclear", _matrix(m)).reshape(m.shape)


def _singular(x: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(_matrix(x))
    return values


#: name -> the norm, its dual, and minus the oracle.
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "l2": (torch.linalg.vector_norm, torch.linalg.vector_norm, lambda m: subgradient("l2", m)),
    "max": (lambda x: x.abs().amax(), lambda m: m.abs().sum(), lambda m: subgradient("l1", m)),
    "spectral": (lambda x: _singular(x).amax(-1), lambda m: _singular(m).sum(-1), _polar),
    "nuclear": (lambda x: _singular(x).sum(-1), lambda m: _singular(m).amax(-1), _leading),
    "column": (
        lambda x: torch.linalg.vector_norm(_columns(x), dim=1).amax(),
        lambda m: torch.linalg.vector_norm(_columns(m), dim=1).sum(),
        _unit_columns,
    ),
}


def norm(name: str, x: Tensor) -> Tensor:
    """The norm ``name`` of a tensor, 0-dim; ``"spectral"`` and ``"nuclear"`` take stacks too, one value per matrix."""
    return NORMS[name][0](x)


def dual(name: str, m: Tensor) -> Tensor:
    """The dual of the norm ``name``, as :func:`norm`."""
    return NORMS[name][1](m)


def lmo(name: str, m: Tensor) -> Tensor:
    """The point of the unit ball of the norm ``name`` with the least inner product with ``m``, of its shape.

    ``"spectral"`` and ``"nuclear"`` treat each matrix of a stack by itself; ``"column"`` takes a tensor of more
    dimensions as ``(out, rest)``.
    """
    return -NORMS[name][2](m)
