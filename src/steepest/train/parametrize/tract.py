"""TrAct: a first layer that takes the steps of its pre-activations."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...core.card import MethodCard, Paper
from ...core.ranges import Real
from ...core.rule import compute_dtype

__all__ = ["CARD", "TrActConv1d", "TrActConv2d", "TrActLinear", "remove_tract", "tract"]

Layer = TypeVar("Layer", bound=nn.Module)

#: About as many entries of patches are held at once: they are many times as large as the images.
_ENTRIES = 2**25


def _solve(gradient: Tensor, moment: Tensor, damping: float) -> Tensor:
    """``gradient (moment + damping I)^-1`` for stacks of matrices; NaN where rounding leaves the moment indefinite."""
    moment.diagonal(dim1=-2, dim2=-1).add_(damping)
    factor, info = torch.linalg.cholesky_ex(moment)  # unlike cholesky it neither raises nor waits for the device
    solved = torch.cholesky_solve(gradient.mT, factor).mT
    return torch.where((info == 0)[..., None, None], solved, torch.nan)


def _linear_gradient(x: Tensor, grad: Tensor, damping: float) -> Tensor:
    """The weight's gradient for rows ``x`` (b, n) and ``grad`` (b, m); the smaller of the two systems is solved."""
    b, n = x.shape
    if b >= n:
        return _solve(grad.mT @ x, x.mT @ x / max(b, 1), damping)
    return _solve(grad.mT, x @ x.mT / max(b, 1), damping) @ x  # push-through: the same matrix


def _patches(x: Tensor, kernel: torch.Size, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """All patches of ``x`` (batch, channels, *space) as columns: (groups, n, batch * positions)."""
    spatial = len(kernel)
    x = functional.pad(x, [p for p in reversed(padding) for _ in range(2)])
    for dim in range(spatial):
        x = x.unfold(2 + dim, (kernel[dim] - 1) * dilation[dim] + 1, stride[dim])[..., :: dilation[dim]]
    batch, channels, *positions = x.shape[: 2 + spatial]
    order = (1, *range(2 + spatial, 2 + 2 * spatial), 0, *range(2, 2 + spatial))
    width = channels // groups * kernel.numel()
    return x.permute(order).reshape(groups, width, batch * torch.Size(positions).numel())


def _moment(x: Tensor, kernel: torch.Size, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """The second moment of all patches of ``x``, of one group of images after the other."""
    entries = x.shape[1:].numel() * kernel.numel() // torch.Size(stride).numel()
    total, b = x.new_zeros(()), 0
    for part in x.split(max(1, _ENTRIES // max(1, entries))):
        columns = _patches(part, kernel, stride, padding, dilation, groups)
        total, b = total + columns @ columns.mT, b + columns.shape[2]
    return total / max(b, 1)


class _Function(torch.autograd.Function):
    """What both layers share; ``weight_gradient`` and ``input_gradient`` are theirs."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.bias_dtype = None if inputs[2] is None else inputs[2].dtype
        ctx.rest = inputs[3:]

    @classmethod
    def gradients(
        cls, ctx: Any, grad: Tensor, of_input: Callable[..., Tensor], of_weight: Callable[..., Tensor], channel: int
    ) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        damping, *geometry = ctx.rest
        into, onto, shift = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        with torch.autocast(grad.device.type, enabled=False):
            if into:
                grad_x = of_input(grad, weight.to(grad.dtype), x.to(grad.dtype), *geometry).to(x.dtype)
            if onto:
                # Rounding of a half-precision gradient would be divided by the small eigenvalues.
                wide = compute_dtype(weight.dtype)
                grad_weight = of_weight(grad.to(wide), weight.to(wide), x.to(wide), damping, *geometry).to(weight.dtype)
            if shift:
                others = [d for d in range(grad.dim()) if d != channel]  # none: sum would take all
                grad_bias = (grad.sum(others) if others else grad).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, *(None for _ in ctx.rest)


class _Linear(_Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, damping: float) -> Tensor:
        return functional.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        def of_weight(grad: Tensor, weight: Tensor, x: Tensor, damping: float) -> Tensor:
            return _linear_gradient(x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]), damping)

        return _Linear.gradients(ctx, grad, lambda grad, weight, x: grad @ weight, of_weight, grad.dim() - 1)


class _Convolution(_Function):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        damping: float,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        convolve = functional.conv1d if x.dim() == 3 else functional.conv2d
        return convolve(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        def plain(grad: Tensor, weight: Tensor, x: Tensor, geometry: tuple[Any, ...], which: int) -> Tensor:
            stride, padding, dilation, groups = geometry
            mask = [k == which for k in range(3)]
            where = (stride, padding, dilation, False, [0] * len(stride), groups, mask)
            return cast(Tensor, torch.ops.aten.convolution_backward(grad, x, weight, None, *where)[which])

        def of_input(grad: Tensor, weight: Tensor, x: Tensor, *geometry: Any) -> Tensor:
            return plain(grad, weight, x, geometry, 0)

        def of_weight(grad: Tensor, weight: Tensor, x: Tensor, damping: float, *geometry: Any) -> Tensor:
            gradient = plain(grad, weight, x, geometry, 1)
            moment = _moment(x, weight.shape[2:], *geometry)
            return _solve(gradient.reshape(len(moment), -1, moment.shape[-1]), moment, damping).reshape(weight.shape)

        return _Convolution.gradients(ctx, grad, of_input, of_weight, 1)


class _TrAct(nn.Module):
    damping: float

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, damping={self.damping:g}"


class TrActLinear(_TrAct, nn.Linear):
    """``nn.Linear`` with TrAct's weight gradient; made by :func:`tract`."""

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, _Linear.apply(input, self.weight, self.bias, self.damping))


class _TrActConv(_TrAct, nn.modules.conv._ConvNd):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        space = len(self.kernel_size)
        single = input.dim() == 1 + space
        x = input[None] if single else input
        padding = self.padding
        if isinstance(padding, str) or self.padding_mode != "zeros":
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = functional.pad(x, self._reversed_padding_repeated_twice, mode=mode)
            padding = (0,) * space
        z = _Convolution.apply(x, weight, bias, self.damping, self.stride, padding, self.dilation, self.groups)
        return cast(Tensor, z[0] if single else z)


class TrActConv1d(_TrActConv, nn.Conv1d):
    """``nn.Conv1d`` with TrAct's weight gradient; made by :func:`tract`."""


class TrActConv2d(_TrActConv, nn.Conv2d):
    """``nn.Conv2d`` with TrAct's weight gradient; made by :func:`tract`."""


_CLASSES: dict[type[nn.Module], type[_TrAct]] = {
    nn.Linear: TrActLinear,
    nn.Conv1d: TrActConv1d,
    nn.Conv2d: TrActConv2d,
}


def tract(layer: Layer, damping: float = 0.1) -> Layer:
    r"""Makes the first layer of a model take the steps of its pre-activations (TrAct), in place.

    The gradient of a first layer's weights is proportional to the pixels it was multiplied with: bright images with
    much contrast teach more than dark ones. TrAct takes a gradient step on the pre-activations :math:`z = W x` instead,
    and then the change of weights that comes closest to it. With the :math:`b` inputs as columns of :math:`x` and the
    mean loss :math:`L`,

    .. math::
        \min_{\Delta W} \|{-\eta b \nabla_z L} - \Delta W x\|^2 + \lambda b \|\Delta W\|^2
        \quad\Rightarrow\quad
        \Delta W = -\eta\, \nabla_z L\, x^\top \big(\tfrac1b x x^\top + \lambda I\big)^{-1} .

    So the backward pass gives any optimizer the plain weight gradient times that inverse. The pre-activations, the
    bias's and the input's gradient are the plain ones; so are all other layers. For a convolution the columns of
    :math:`x` are its patches, ``b`` of them in all images; groups have a matrix each. A layer that is given tokens
    (a vision transformer's patch embedding) counts each as a column. :math:`n \times n` systems (``n`` inputs per
    output: 27 for 3 x 3 kernels on colour images) are solved by Cholesky's method, in float32 for half precision; for
    a linear layer with fewer rows than inputs, :math:`b \times b` ones.

    It is the gradient times the inverse of the input's second moment: K-FAC's input factor alone, without the output's
    (known as FOOF), on this layer, from the current batch.

    The layer stays the same object, of a subclass (:class:`TrActLinear`, :class:`TrActConv1d`, :class:`TrActConv2d`):
    its parameters, hooks and ``state_dict`` are untouched, copies keep it, and :func:`remove_tract` takes it back.
    The second moment is that of the batch at hand: of each micro-batch under gradient accumulation, of each
    process's part under data parallelism. Weight decay that an optimizer adds to the gradient is not multiplied.
    Gradients of this gradient (``create_graph=True``) are not defined, and an error.

    Args:
        layer: an ``nn.Linear``, ``nn.Conv1d`` or ``nn.Conv2d`` (any stride, padding, dilation, groups), which should
            see standardized inputs: ``damping`` is relative to their variance.
        damping: :math:`\lambda > 0`, 0.1 in the paper. As it grows, :math:`\lambda` times the gradient tends to the
            plain one. Where it is so far below the largest second moment that rounding makes the matrix indefinite,
            the gradient is NaN.

    Returns:
        The layer.

    Raises:
        TypeError: the layer is of another class, or complex. (Parametrize a layer after this.)
        ValueError: ``damping`` is out of range, or the layer has TrAct already.

    Source: Petersen, Borgelt, Ermon (2024), TrAct: Making First-layer Pre-Activations Trainable, arXiv 2410.23970.
    """
    Real(low=0.0, low_open=True).check("tract: damping", damping)
    if isinstance(layer, _TrAct):
        raise ValueError(f"tract: layer has TrAct already, got {layer!r}; remove_tract it first")
    if type(layer) not in _CLASSES:
        names = ", ".join(f"nn.{known.__name__}" for known in _CLASSES)
        raise TypeError(f"tract: layer must be one of {names}, got {type(layer).__name__}")
    if cast(Tensor, layer.weight).is_complex():
        raise TypeError(f"tract: layer must be real, got a weight of {layer.weight.dtype}")
    layer.__class__ = _CLASSES[type(layer)]  # type: ignore[assignment]
    cast(_TrAct, layer).damping = float(damping)
    return layer


def remove_tract(layer: Layer) -> Layer:
    """Takes TrAct off a layer: it is again of PyTorch's class, with the same parameters.

    Raises:
        ValueError: the layer has no TrAct.
    """
    plain = {made: known for known, made in _CLASSES.items()}
    if type(layer) not in plain:
        raise ValueError(f"remove_tract: layer must have TrAct, got {type(layer).__name__}")
    layer.__class__ = plain[type(layer)]  # type: ignore[index,assignment]
    del layer.damping
    return layer


CARD = MethodCard(
    name="tract",
    title="TrAct",
    room="parametrize",
    family="first layer",
    summary="The first layer's weights follow a gradient step on its pre-activations: the weight gradient times the "
    "inverse second moment of the inputs.",
    target="steepest.train.parametrize.tract:tract",
    papers=(
        Paper("Petersen, Borgelt, Ermon", 2024, "TrAct: Making First-layer Pre-Activations Trainable", "2410.23970"),
    ),
    needs=frozenset({"function"}),
    buffers=0,
    usage="steepest.train.parametrize.tract(model[0])",
    claim="With TrAct on their first layer, vision models reach the accuracy of plain training in a fraction (between "
    "1/4 and 4/5) of the epochs, with the same optimizer and learning rate.",
)
