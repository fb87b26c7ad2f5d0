"""A penalty on the norm of the gradient, by a finite difference along the gradient or by differentiating twice."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..core.ascent import TwoPointTransform
from ..core.card import Float, MethodCard, Paper
from ..core.curvature import hvp
from ..core.ranges import OneOf, Real
from ..core.sharding import average_over_processes
from ..core.transform import Entry, real

__all__ = ["CARD", "GradientRegularization", "gradient_regularized_sgd"]

Mode = Literal["forward", "backward", "double-backprop"]


class GradientRegularization(TwoPointTransform):
    r"""Adds :math:`\frac{\gamma}{2} \|\nabla L\|^2` to the loss of each mini-batch; its gradient is :math:`\gamma H g`.

    The base is given :math:`g + \gamma R`, where :math:`g = \nabla L(x)` and, depending on the mode,

    .. math::
        R_{\text{forward}} = \frac{\nabla L(x + \varepsilon g) - g}{\varepsilon}, \qquad
        R_{\text{backward}} = \frac{g - \nabla L(x - \varepsilon g)}{\varepsilon}, \qquad
        R_{\text{double-backprop}} = H g

    which agree for quadratic losses, and up to :math:`O(\varepsilon)` for others. The forward difference with a *large*
    :math:`\varepsilon` is a method of its own: it is biased towards flat and sparse solutions more strongly than the
    penalty. With :math:`\varepsilon = \gamma` it is :class:`USAM`, and one step up and one down (flooding) moves by
    :math:`-\eta^2 R_{\text{forward}}(\eta)`.

    Train with ``step(closure)``; the closure is called twice. In the mode ``"double-backprop"`` write
    ``optimizer.backward(loss)`` in place of ``loss.backward()``, in the closure or before a ``step()``: it puts
    :math:`g` into ``.grad`` and keeps :math:`H g` for the step; the forward pass must be differentiable twice
    (:func:`~steepest.core.curvature.twice_differentiable`). With several processes both are then averaged over them; do
    not wrap the model in DDP in that mode.

    In single precision the difference cancels where :math:`\varepsilon` is very small; take double backpropagation
    there. A large :math:`\varepsilon` times a large gradient early in training goes far: warm up, or put
    :class:`NormClip` outside.

    Args:
        base: any optimizer; its weight decay is not part of the loss that is penalized.
        gamma: :math:`\gamma \ge 0`, the strength. 0 is the base itself.
        eps: :math:`\varepsilon > 0`, the ascent's step size; good ones are large, 0.01 to 1. Of no meaning to
            ``"double-backprop"``.
        mode: ``"forward"``, ``"backward"`` or ``"double-backprop"``.

    Raises:
        ValueError, TypeError: see :class:`~steepest.core.ascent.TwoPointTransform`; or a setting is out of its range;
            or ``backward`` was not called in the mode that needs it.

    Source: Karakida, Takase, Hayase, Osawa (2023), Understanding Gradient Regularization in Deep Learning: Efficient
    Finite-Difference Computation and Implicit Bias, arXiv 2210.02720.
    """

    ranges = {
        "gamma": Real(low=0.0),
        "eps": Real(low=0.0, low_open=True),
        "mode": OneOf(("forward", "backward", "double-backprop")),
    }
    gamma: float
    eps: float
    mode: Mode

    def __init__(self, base: Optimizer, gamma: float = 0.05, eps: float = 0.1, mode: Mode = "forward") -> None:
        super().__init__(base, gamma=gamma, eps=eps, mode=mode)

    @property
    def closure_required(self) -> bool:  # type: ignore[override]
        """Whether a step evaluates more than once."""
        return self.mode != "double-backprop"

    # ---------------------------------------------------------------------------------------- finite differences

    def ascent(self, norm: float) -> float:
        """Along the gradient, up or down."""
        if not self.gamma:
            return 0.0
        return self.eps if self.mode == "forward" else -self.eps

    def combine(self, entries: Sequence[Entry], there: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradient here, and its change in the direction of the move."""
        weight = self.gamma / self.ascent(0.0)
        # At a weight of 1 the interpolation is the gradient there, to the bit.
        return [torch.lerp(entry.gradient, g, weight) for entry, g in zip(entries, there, strict=True)]

    # ---------------------------------------------------------------------------------------- differentiating twice

    @property
    def wants_estimate(self) -> bool:
        """Whether :meth:`backward` differentiates twice."""
        return self.mode == "double-backprop" and self.gamma > 0

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to ``.grad``, and keep its Hessian times them for the step.

        Args:
            loss: a tensor with one element, with its graph.

        Raises:
            ValueError: the mode is another one.
        """
        if self.mode != "double-backprop":
            raise ValueError(f"GradientRegularization: backward is for mode='double-backprop', this is {self.mode!r}")
        params = [p for p in self._parameters() if p.requires_grad]
        twice = self.wants_estimate
        found = torch.autograd.grad(loss, params, create_graph=twice, allow_unused=True)
        used = [(p, g) for p, g in zip(params, found, strict=True) if g is not None]
        own, gradients = [p for p, _ in used], [g for _, g in used]
        values = [g.detach() for g in gradients]
        if twice:
            products = average_over_processes(hvp(gradients, own, values))
            kept = self.__dict__.setdefault("_products", {})
            for p, h in zip(own, products, strict=True):
                kept[p] = kept[p] + h if p in kept else h
        for p, g in zip(own, average_over_processes(values), strict=True):
            p.grad = g if p.grad is None else p.grad + g

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the base does; products of earlier losses are forgotten."""
        self.__dict__.pop("_products", None)
        super().zero_grad(set_to_none)

    def evaluate(self, closure: Any) -> Any:
        """Call the closure; its second call comes in :meth:`transform`."""
        return closure() if self.mode == "double-backprop" else super().evaluate(closure)

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor] | None:
        """The regularized gradient."""
        if self.mode != "double-backprop":
            return super().transform(entries)
        products = self.__dict__.pop("_products", {})
        if not products:
            if self.gamma and any(entry.gradient.any() for entry in entries):
                raise TypeError(
                    "GradientRegularization: with mode='double-backprop', call optimizer.backward(loss) in place of "
                    "loss.backward()"
                )
            return None
        # The regularized loss of what is maximized has the opposite sign, as has its gradient: the penalty still falls.
        combined = []
        for group, p, g in entries:
            factor = -self.gamma if self.maximizes(group) else self.gamma
            combined.append(g + factor * real(products[p]) if p in products else g)
        return combined


def gradient_regularized_sgd(
    params: Iterable[Any],
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    gamma: float = 0.05,
    eps: float = 0.1,
    mode: Mode = "forward",
) -> GradientRegularization:
    """:class:`GradientRegularization` over ``torch.optim.SGD``.

    Args:
        params: parameters, groups or named parameters.
        lr, momentum, weight_decay: SGD's.
        gamma, eps, mode: the regularization's.

    Source: Karakida, Takase, Hayase, Osawa (2023), arXiv 2210.02720.
    """
    base = SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return GradientRegularization(base, gamma, eps, mode)


CARD = MethodCard(
    name="gradient-regularization",
    title="Gradient regularization",
    room="optim",
    family="transform",
    summary="A penalty on the squared norm of the gradient, by a finite difference along it; here over SGD.",
    target="steepest.optim.gradient_regularization:gradient_regularized_sgd",
    papers=(
        Paper(
            "Karakida, Takase, Hayase, Osawa",
            2023,
            "Understanding Gradient Regularization in Deep Learning: Efficient Finite-Difference Computation and "
            "Implicit Bias",
            arxiv="2210.02720",
        ),
    ),
    needs=frozenset({"gradient", "closure"}),
    buffers=1,
    search={
        "lr": Float(1e-3, 1.0, log=True),
        "weight_decay": Float(1e-6, 1e-2, log=True),
        "gamma": Float(1e-3, 0.3, log=True),
        "eps": Float(1e-2, 1.0, log=True),
    },
    claim="Gradient regularization by a forward difference with a large ascent step generalizes better than by double "
    "backpropagation, and that better than by a backward difference; and it is cheaper than double backpropagation.",
)
