"""The gradients of one mini-batch at two points: what variance reduction, perturbation and extrapolation need.

:func:`gradients_at` evaluates a closure somewhere else as if it had never been called there, so that a step may look at
a second point without a trace of it in the model. :class:`TwoPointOptimizer` does so at the previous parameters.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from .functional import Functional
from .optimizer import RuleOptimizer

__all__ = ["RandomState", "TwoPointOptimizer", "buffers_put_back", "gradients_at"]


class RandomState:
    """Where the global random number generators stand: Python's, and torch's on the CPU and on the devices of tensors.

    Generators of one's own (a ``torch.Generator``, numpy's) are not seen.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._python = random.getstate()
        self._cpu = torch.get_rng_state()
        devices = {t.device for t in tensors if t.device.type not in ("cpu", "meta")}
        self._devices = {d: torch.get_device_module(d).get_rng_state(*_index(d)) for d in devices}

    def restore(self) -> None:
        """Put the generators back."""
        random.setstate(self._python)
        torch.set_rng_state(self._cpu)
        for device, state in self._devices.items():
            torch.get_device_module(device).set_rng_state(state, *_index(device))


def _index(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)


@contextmanager
def buffers_put_back() -> Iterator[None]:
    """Buffers of every module that runs inside (running statistics, power iterations) are afterwards as before.

    Which modules those are is seen by a hook: an optimizer knows its parameters and not always the model.
    """
    seen: dict[int, nn.Module] = {}
    kept: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def remember(module: nn.Module, _: Any) -> None:
        if id(module) in seen:
            return
        for part in module.modules():
            if id(part) not in seen:
                seen[id(part)] = part
                kept.extend((part, name, b, b.clone()) for name, b in part._buffers.items() if b is not None)

    handle = register_module_forward_pre_hook(remember)
    try:
        with warnings.catch_warnings():
            # torch.compile says that such hooks run once more for its wrapper, which does no harm here.
            warnings.filterwarnings("ignore", message="Using `torch.compile.* when there are global hooks")
            yield
    finally:
        handle.remove()
        for module, name, buffer, value in kept:
            module._buffers[name] = buffer
            buffer.copy_(value)


@torch.no_grad()
def gradients_at(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    points: Sequence[Tensor | None],
    start: RandomState | None = None,
) -> tuple[Any, list[Tensor | None]]:
    """What the closure returns, and the gradients it leaves, with the parameters at other points.

    Afterwards the parameters, their gradients, the random state and the buffers of the modules that ran are what they
    were, also if the closure raises: dropout draws the same masks when the closure is called again, and batch norms do
    not count the mini-batch twice.

    Args:
        closure: computes the loss of a mini-batch and its gradients (``backward``); it may set gradients to zero.
        params: all parameters that get gradients there.
        points: where to evaluate, for each parameter; ``None``: where it is.
        start: where the random numbers begin, by default where they stand; give the state from before an earlier call
            to replay that call's.

    Returns:
        The closure's result (detached) and a gradient for each parameter (``None`` where there is none). Under DDP they
        may be views of buckets that the next backward pass overwrites.
    """
    before = RandomState(params)
    moved = [(p, point, p.detach().clone()) for p, point in zip(params, points, strict=True) if point is not None]
    grads = [p.grad for p in params]
    try:
        with buffers_put_back():
            if start is not None:
                start.restore()
            for p, point, _ in moved:
                p.copy_(point)
            for p in params:
                p.grad = None
            with torch.enable_grad():
                result = closure()
            found = [p.grad for p in params]
    finally:
        for p, _, here in moved:
            p.copy_(here)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        before.restore()
    return (result.detach() if isinstance(result, Tensor) else result), found


class TwoPointOptimizer(RuleOptimizer):
    """An optimizer whose rule compares the gradient with one at the previous parameters.

    The rule has the state tensor ``previous`` and the static setting ``exact``. With ``exact=False``, ``previous`` is
    the gradient of the previous step. With ``exact=True`` it is the gradient of *this* mini-batch at the previous
    parameters: the step evaluates the closure there first, and between steps ``previous`` holds those parameters. So
    the rule returns for it the old parameter where ``exact`` and else the gradient, and in its first step, when there
    is no previous one, must not look at it.
    """

    PREVIOUS: ClassVar = "previous"

    def advance(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Take one step; parameters without a gradient are left alone.

        Args:
            closure: re-evaluates the model with gradients enabled and returns the loss. Required for ``exact=True``,
                where it is called twice from the second step on, on the same mini-batch.
            loss: see :class:`RuleOptimizer`.

        Returns:
            What the closure returned at the current parameters, else ``loss``.
        """
        exact = [p for group in self.param_groups if group.get("exact") for p in group["params"]]
        if not exact:
            return super().advance(closure, loss)
        if closure is None:
            # Checkpoint tools make state by a step at a learning rate of zero, of a new optimizer, without a closure.
            if self.state or any(group["lr"] != 0 for group in self.param_groups):
                raise TypeError(
                    f"{type(self).__name__}: exact=True evaluates two gradients per step: call step(closure)"
                )
            return super().advance(None, loss)
        held = {p: self.state[p][self.PREVIOUS] for p in exact if self.state.get(p)}
        if held and not self._look_back(closure, held):
            self.skipped_steps += 1
            with torch.enable_grad():
                return closure()
        skipped, stepped = self.skipped_steps, False
        try:
            loss = super().advance(closure)
            stepped = self.skipped_steps == skipped
        finally:
            for p, old in held.items():
                if not stepped:
                    self.state[p][self.PREVIOUS] = old
                elif p.grad is None:  # it stays, so its previous value is the present one
                    self.state[p][self.PREVIOUS] = old.copy_(p)
        return loss

    def _look_back(self, closure: Callable[[], Any], held: Mapping[Tensor, Tensor]) -> bool:
        """Put the gradients at the previous parameters in their place; whether they are fit for a step."""
        params = [p for group in self.param_groups for p in group["params"]]
        _, there = gradients_at(closure, params, [held.get(p) for p in params])
        found = {p: g for p, g in zip(params, there, strict=True) if g is not None}
        if self.nonfinite != "propagate":
            here = [p.grad for p in params]
            try:
                for p in params:
                    p.grad = found.get(p)
                if not self._finite([(group, self._with_gradient(group)) for group in self.param_groups]):
                    return False
            finally:
                for p, grad in zip(params, here, strict=True):
                    p.grad = grad
        signs = {p: -1 if group["maximize"] else 1 for group in self.param_groups for p in group["params"]}
        for p, old in held.items():
            # A loss that does not depend on a parameter there has the gradient zero.
            new = torch.zeros_like(old)
            self.state[p][self.PREVIOUS] = new.add_(found[p], alpha=signs[p]) if p in found else new
        return True

    def check_parameter(self, label: str, p: Tensor, settings: Mapping[str, Any]) -> None:
        """Refuse to keep previous parameters in a precision in which they would be others."""
        super().check_parameter(label, p, settings)
        if settings["exact"] and self.store.state_dtype != "float32":
            raise ValueError(
                f"{type(self).__name__}: exact=True keeps the previous parameters, which state_dtype="
                f"{self.store.state_dtype!r} would round; use 'float32'"
            )

    @classmethod
    def functional(cls, **settings: Any) -> Functional:
        """The rule as pure functions, see :meth:`RuleOptimizer.functional`; for ``exact=False`` alone.

        Raises:
            ValueError: ``exact=True``, which needs a function to evaluate and not a gradient.
        """
        if settings.get("exact"):
            raise ValueError(f"{cls.__name__}: exact=True has no functional form: an update takes one gradient")
        return super().functional(**settings)
