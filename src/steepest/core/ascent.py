"""Transforms that look at a second point: sharpness-aware steps, and penalties on the gradient."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .rule import compute_dtype
from .sharding import full, local
from .transform import Entry, Transform, real
from .twopoint import RandomState, gradients_at

__all__ = ["TwoPointTransform"]


class TwoPointTransform(Transform):
    r"""A transform that evaluates every mini-batch twice, here and at a second point along the gradient here.

    .. math::
        g = \nabla L(x), \qquad g' = \nabla L(x + s g), \qquad \text{the base is given } c(g, g')

    A subclass defines the step uphill :math:`s(\|g\|)` (:meth:`ascent`) and the combination :math:`c`
    (:meth:`combine`). Where a group maximizes, uphill of the loss is :math:`x - s g`.

    Train with ``optimizer.step(closure)``. Each evaluation that the base asks for calls the closure twice. The second
    call is without a trace: it draws the same random numbers (dropout has the same masks), and afterwards parameters,
    ``.grad`` and buffers are what they were after the first (batch norms count the batch once), see
    :func:`~steepest.core.twopoint.gradients_at`. What is returned is the loss here. A base that evaluates several times
    (LBFGS) sees combined gradients with the values of the loss itself, which its line search must bear.

    Transforms outside of this one act on both gradients before they are combined, those inside on the combination. Of a
    gradient whose norm is not finite no second one is made: the base is given the first, to skip, raise or propagate.
    Where a loss does not depend on a parameter at the second point, the gradient there counts as zero.

    Mixed precision: ``torch.autocast`` in the closure is enough with bfloat16. ``torch.amp.GradScaler`` unscales only
    between evaluations, where this is too late; scale and unscale inside the closure instead::

        def closure():
            optimizer.zero_grad()
            loss = ...
            (loss * scale).backward()
            for p in model.parameters():
                p.grad.div_(scale)
            return loss

    Several processes: with DDP and FSDP the gradients at both points are averages over all processes, so that all move
    alike.

    Args:
        base: any optimizer that is given gradients; not one that differentiates the loss itself.
        settings: see :class:`~steepest.core.transform.Transform`.

    Raises:
        TypeError: ``step`` is called without a closure, or ``base`` is no optimizer.
        ValueError: ``base`` differentiates the loss itself.
    """

    closure_required = True
    _call: tuple[Callable[[], Any], RandomState] | None = None

    def __init__(self, base: Optimizer, **settings: Any) -> None:
        super().__init__(base, **settings)
        if self.blind:
            raise ValueError(
                f"{type(self).__name__}: base must not be {type(self.unwrapped).__name__}, which differentiates the "
                "loss itself; a second point needs a closure that does so"
            )

    # ---------------------------------------------------------------------------------------- what a subclass defines

    def ascent(self, norm: float) -> float:
        """The step size to the second point; 0 for no second evaluation.

        Args:
            norm: of the gradients of all parameters together; finite.
        """
        raise NotImplementedError

    def combine(self, entries: Sequence[Entry], there: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the base is given; by default the gradients at the second point.

        Args:
            entries: the parameters with their gradients here.
            there: the gradients at the second point.
        """
        return there

    # ---------------------------------------------------------------------------------------- the two evaluations

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        """Call the closure, and keep it, and where the random numbers stood, for the second call."""
        start = RandomState(self._parameters())
        result = closure()
        self._call = closure, start
        return result

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor] | None:
        """The combination of the gradients here and at the second point."""
        call, self._call = self._call, None
        if call is None:
            # Checkpoint tools make state by a step at a learning rate of zero, of a new optimizer, without a closure.
            if self.state or any(group["lr"] != 0 for group in self.param_groups):
                raise TypeError(f"{type(self).__name__} evaluates two gradients per step: call step(closure)")
            return None
        if not entries:
            return None
        wide = [_widened(entry.gradient) for entry in entries]
        norm = _norm(wide)
        step = self.ascent(norm) if math.isfinite(norm) else 0.0
        if not step:
            return None
        params = self._parameters()
        # DDP's gradients may be views of buckets, which the second backward pass fills anew.
        buckets = torch.distributed.is_available() and torch.distributed.is_initialized()
        here = [entry.gradient.clone() for entry in entries] if buckets else []
        start = [entry.parameter.detach().clone() for entry in entries]
        uphill = {id(group): -1 if self.maximizes(group) else 1 for group in self.param_groups}
        signs = [uphill[id(entry.group)] for entry in entries]
        try:
            points = [real(entry.parameter.detach()) for entry in entries]
            for sign in set(signs):
                chosen = [k for k, own in enumerate(signs) if own == sign]
                torch._foreach_add_([points[k] for k in chosen], [wide[k] for k in chosen], alpha=sign * step)
            _, gradients = gradients_at(call[0], params, [None] * len(params), call[1])
        finally:
            torch._foreach_copy_([local(entry.parameter) for entry in entries], [local(old) for old in start])
        found = dict(zip(params, gradients, strict=True))
        there = []
        for entry in entries:
            gradient = found[entry.parameter]
            at = torch.zeros_like(entry.gradient) if gradient is None else real(gradient)
            there.append(at.clone() if buckets else at)
        for entry, gradient in zip(entries, here, strict=False):
            entry.gradient.copy_(gradient)
        return self.combine(entries, there)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def _norm(tensors: Sequence[Tensor]) -> float:
    """Of all tensors together, whatever their dtypes, devices and shards."""
    norms = torch._foreach_norm(list(tensors))
    return float(full(torch.linalg.vector_norm(torch.stack([t.to(norms[0].device) for t in norms]))))


def _widened(t: Tensor) -> Tensor:
    """The tensor, half precision as float32."""
    return t.to(compute_dtype(t.dtype))
