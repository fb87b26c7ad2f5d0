"""Optimizers that differentiate the loss of a closure themselves, and work the direction of the step out of it."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .curvature import derivatives
from .optimizer import RuleOptimizer
from .sharding import average_over_processes
from .twopoint import RandomState

__all__ = ["DirectionOptimizer"]


class DirectionOptimizer(RuleOptimizer):
    """An optimizer whose step is ``x - lr d`` with directions ``d`` that are made of the gradients and the loss.

    ``step(closure)`` wants a closure that returns the loss with its graph, and does *not* call backward. A subclass
    defines :meth:`directions`. Afterwards ``.grad`` holds the gradients of the closure's loss.

    With several processes (``torch.distributed``), losses, gradients and products are averaged over them; do not wrap
    the model in DDP, whose hooks these derivatives do not pass.
    """

    #: Whether it differentiates the loss that a closure returns.
    differentiates: ClassVar[bool] = True
    #: Whether the gradients are differentiated again.
    twice: ClassVar[bool] = False
    complex_as_real = False
    uniform = ("maximize",)
    #: Products of the Hessian with a vector taken so far.
    hessian_products: int = 0

    def directions(
        self,
        closure: Callable[[], Any],
        start: RandomState,
        loss: Tensor,
        params: Sequence[Tensor],
        gradients: Sequence[Tensor],
    ) -> list[Tensor] | None:
        """The direction of every parameter that has a gradient.

        Args:
            closure: the user's.
            start: where the random numbers stood before the closure was called.
            loss: what it returned.
            params: those that the loss depends on.
            gradients: theirs, with a graph where :attr:`twice`.

        Returns:
            One tensor per parameter; ``None`` to leave the step out.
        """
        raise NotImplementedError

    def advance(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Take one step; parameters that the loss does not depend on are left alone.

        Args:
            closure: returns the loss of a mini-batch with its graph, without calling backward.

        Returns:
            The loss before the step.
        """
        me = type(self).__name__
        if closure is None:
            # Checkpoint tools make state by a step at a learning rate of zero, of a new optimizer, without a closure.
            if self.state or any(group["lr"] != 0 for group in self.param_groups):
                raise TypeError(f"{me} differentiates the loss itself: call step(closure), where closure returns it")
            return super().advance(None, loss)
        everything = [p for group in self.param_groups for p in group["params"]]
        start = RandomState(everything)
        self.zero_grad()
        with torch.enable_grad():
            value = closure()
            trained = [p for p in everything if p.requires_grad]
            found = derivatives(me, value, trained, create_graph=self.twice)
        used = [(p, g) for p, g in zip(trained, found, strict=True) if g is not None]
        params = [p for p, _ in used]
        if not params:
            return value.detach()
        averaged = average_over_processes([g.detach() for _, g in used])
        for p, g in zip(params, averaged, strict=True):
            p.grad = g
        if self.nonfinite != "propagate" and not self.finite():
            self.skipped_steps += 1
            return value.detach()
        directions = self.directions(closure, start, value, params, [g for _, g in used] if self.twice else averaged)
        if directions is None:
            self.skipped_steps += 1
            return value.detach()
        try:
            for p, d in zip(params, directions, strict=True):
                p.grad = d
            super().advance(None, value.detach())
        finally:
            for p, g in zip(params, averaged, strict=True):
                p.grad = g
        return value.detach()

    def finite(self) -> bool:
        """Whether all that is in ``.grad`` is finite; raises if it must be."""
        return self._finite([(group, self._with_gradient(group)) for group in self.param_groups])

    @staticmethod
    def rule(x: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:  # type: ignore[override]
        return (x - lr * g,)

    @classmethod
    def functional(cls, **settings: Any) -> Any:
        """Not offered: the direction comes from outside the rule.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{cls.__name__} has no functional form: its direction comes from outside the rule")
