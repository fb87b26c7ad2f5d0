"""Weight conditioning: weight matrices with unit rows, at every forward pass."""

from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from ...core.card import MethodCard, Paper
from ...core.ranges import Integer
from ...core.rule import compute_dtype

__all__ = ["CARD", "WeightConditioning", "weight_conditioning"]

Model = TypeVar("Model", bound=nn.Module)


class WeightConditioning(nn.Module):
    """Divides each row of a tensor by its norm; a parametrization for ``torch.nn.utils.parametrize``.

    See :func:`weight_conditioning`, which registers it on a whole model.

    Args:
        dim: the dimension whose slices are the rows: 0, or 1 for transposed convolutions.
    """

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        Integer(low=0).check("WeightConditioning: dim", dim)
        self.dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        others = [d for d in range(weight.dim()) if d != self.dim]
        norms = torch.linalg.vector_norm(weight, dim=others, keepdim=True, dtype=compute_dtype(weight.dtype))
        return (weight / torch.where(norms == 0, 1, norms)).to(weight.dtype)  # zeros would have infinite gradients

    def right_inverse(self, weight: Tensor) -> Tensor:
        """An assigned weight is kept as it is; reading it gives unit rows."""
        return weight


def weight_conditioning(model: Model) -> Model:
    r"""Equilibrates the rows of all weight matrices of a model, in place.

    A layer with the trainable weight :math:`W \in \mathbb{R}^{m \times n}` computes with

    .. math::
        E(W)\, W, \qquad E(W) = \operatorname{diag}\!\big(1/\|W_{1:}\|_2, \ldots, 1/\|W_{m:}\|_2\big),

    found anew at every forward pass, and gradients flow through :math:`E`: that of a row is orthogonal to it. Among
    all diagonal matrices, no other can make the condition number :math:`\kappa` of a matrix of full row rank much
    smaller, :math:`\kappa(E W) \le \sqrt m \min_D \kappa(D W)` (van der Sluis), and the condition of a layer's weights
    enters that of the loss's Gauss-Newton matrix. Convolution kernels are matrices of output channels times the rest.
    It is ``torch.nn.utils.parametrizations.weight_norm`` with all gains fixed to 1.

    The norm of a row of :math:`W` has no effect but on the size of the steps: gradients scale with its inverse, plain
    gradient steps make it grow, and weight decay holds it. Unit rows pass on a smaller signal than the usual
    initialization for rectifiers; the authors use batch norms beside them, and no gain is added here. A row of zeros
    stays zero.

    Args:
        model: a module; each linear, convolutional and transposed convolutional layer in it (or it itself) gets the
            parametrization on its ``weight``. ``torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")``
            takes it back and leaves unit rows.

    Returns:
        The model.

    Raises:
        ValueError: the model has no such layer, or one of them is conditioned already.

    Source: Saratchandran, Wang, Lucey (2024), Weight Conditioning for Smooth Optimization of Neural Networks,
    arXiv 2409.03424.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, _ConvNd))]
    if not layers:
        raise ValueError("weight_conditioning: model must have a linear or convolutional layer, it has none")
    for name, layer in layers:
        if parametrize.is_parametrized(layer, "weight"):
            held = cast(nn.ModuleDict, layer.parametrizations)["weight"]
            if any(isinstance(part, WeightConditioning) for part in held.children()):
                raise ValueError(f"weight_conditioning: layer {name!r} must not be conditioned already")
    for _, layer in layers:
        dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
        parametrize.register_parametrization(layer, "weight", WeightConditioning(dim))
    return model


CARD = MethodCard(
    name="weight-conditioning",
    title="Weight conditioning",
    room="parametrize",
    family="normalization",
    summary="Every weight matrix is used with its rows divided by their norms, which improves its condition number.",
    target="steepest.train.parametrize.weight_conditioning:weight_conditioning",
    papers=(
        Paper(
            "Saratchandran, Wang, Lucey",
            2024,
            "Weight Conditioning for Smooth Optimization of Neural Networks",
            "2409.03424",
        ),
    ),
    needs=frozenset({"function"}),
    buffers=0,
    usage="steepest.train.parametrize.weight_conditioning(model)",
    claim="Networks with conditioned weights train to a higher accuracy than with weight normalization, weight "
    "standardization or spectral normalization beside the same batch norms.",
)
