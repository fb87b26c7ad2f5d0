"""The base of optimizers that want the model and the mini-batch in place of a gradient: they linearize the model."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import tree
from .operators import Loss, check_uncoupled, output_jacobians, trainable
from .optimizer import NonFinite
from .output_loss import CustomLoss, LossName, OutputLoss, output_loss
from .ranges import Integer, OneOf, Range, check_settings
from .twopoint import RandomState

__all__ = ["BatchOptimizer", "Linearized"]

_COMMON: dict[str, Range] = {
    "chunk": Integer(low=1, optional=True),
    "nonfinite": OneOf(("propagate", "skip", "raise")),
}


class Linearized(NamedTuple):
    """A model around its parameters, on a batch of ``b`` samples with ``c`` outputs each.

    Args:
        params: what it is differentiated by, ``d`` numbers in all.
        rows: the Jacobian, ``(b, c, d)``.
        outputs: ``(b, c)``.
        loss: what is asked of the loss.
        targets: of the batch.
    """

    params: list[nn.Parameter]
    rows: Tensor
    outputs: Tensor
    loss: OutputLoss
    targets: Any

    @property
    def residual(self) -> Tensor:
        """Minus the derivative of every sample's loss in its outputs."""
        return self.loss.residual(self.outputs, self.targets)

    @property
    def gradient(self) -> Tensor:
        """Of the mean loss, ``(d,)``."""
        found: Tensor = -self.rows.flatten(0, 1).mT @ self.residual.reshape(-1) / len(self.outputs)
        return found

    def curvature_along(self, direction: Tensor) -> Tensor:
        """``d^T (J^T Q J / b) d``, of the generalized Gauss-Newton matrix of the mean loss."""
        change = self.rows @ direction
        weight = self.loss.curvature(self.outputs, self.targets)
        curved = change if weight is None else torch.einsum("bij,bj->bi", weight, change)
        return (change * curved).sum() / len(change)


class BatchOptimizer(Optimizer):
    """An optimizer whose step is ``step(inputs, targets)``: it differentiates the outputs of the model itself.

    All trainable parameters are one group; ``.grad`` is neither read nor written. The random state moves as in one
    evaluation of the model. A subclass gives :meth:`direction`.

    Args:
        model: one whose samples do not influence each other: a batch norm must be in ``eval()``.
        loss: ``"squared"`` (half the sum of squares per sample), ``"cross-entropy"`` (classes as integers),
            ``"binary"`` (of logits), or a function ``(outputs, targets) -> mean over the samples``, convex in the
            outputs, which is differentiated. It is not part of the state dict.
        settings: checked against ``ranges``.
        chunk: samples that are differentiated at once, which bounds the memory for intermediate results; the Jacobian
            itself has ``b c d`` numbers. None: all.
        nonfinite: what a step that is not finite does: ``"propagate"``, ``"skip"`` (counted in ``skipped_steps``) or
            ``"raise"``, which changes nothing.

    Raises:
        ValueError, TypeError: a setting is out of its range, there are no parameters, or ``model`` is no module.
        RuntimeError: in a step, a batch norm is in training mode.
    """

    ranges: ClassVar[Mapping[str, Range]] = {}
    #: Whether it makes gradients itself, which nothing else sees.
    differentiates: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        loss: LossName | Loss,
        settings: Mapping[str, Any],
        *,
        chunk: int | None = None,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        me = type(self).__name__
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"{me}: model must be a torch.nn.Module, whose outputs it differentiates, got {model!r:.80}"
            )
        check_settings(me, {"chunk": chunk, "nonfinite": nonfinite}, _COMMON)
        check_settings(me, settings, self.ranges)
        self.model, self.chunk, self.nonfinite = model, chunk, nonfinite
        self.skipped_steps = 0
        #: Gradients of the batch that the latest step took: one for every output.
        self.gradient_evaluations = 0
        self._given = loss
        self._loss: OutputLoss | None = None
        if not callable(loss):
            try:
                self._loss = output_loss(loss)
            except ValueError as error:
                raise ValueError(f"{me}: {error}") from None
        super().__init__(list(trainable(model).items()), dict(settings))

    def __getstate__(self) -> dict[str, Any]:
        own = ("model", "chunk", "nonfinite", "skipped_steps", "gradient_evaluations", "_given", "_loss")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not for a second group: the parameters are those of the model, in one linear system."""
        if self.param_groups:
            raise ValueError(f"{type(self).__name__} has one group, of all trainable parameters of its model")
        super().add_param_group(param_group)

    def direction(self, at: Linearized, group: dict[str, Any]) -> Tensor:
        """Where to go, ``(d,)``; the step is :meth:`move`."""
        raise NotImplementedError

    def move(self, at: Linearized, direction: Tensor, group: dict[str, Any], evaluate: Callable[[], float]) -> None:
        """Change the parameters; ``evaluate`` gives the loss at the current ones, with one draw of random masks."""
        self.put(at, group["lr"], direction)

    @torch.no_grad()
    def step(self, inputs: Any, targets: Any) -> Tensor:  # type: ignore[override]
        """Take one step on a mini-batch.

        Args:
            inputs: what the model takes; the first dimension counts the samples.
            targets: what the loss takes.

        Returns:
            The loss before the step.
        """
        [group] = self.param_groups
        check_settings(type(self).__name__, group, self.ranges)
        start = RandomState(group["params"])
        at = self._linearize(inputs, targets)
        value = at.loss.value(at.outputs, targets)
        self.gradient_evaluations = at.outputs.shape[1]
        found = self.direction(at, group)
        if self.nonfinite != "propagate" and not bool(torch.isfinite(found).all() & torch.isfinite(value)):
            if self.nonfinite == "raise":
                raise FloatingPointError(f"{type(self).__name__}: the step is not finite; no parameter was changed")
            self.skipped_steps += 1
            return value
        after = RandomState(group["params"])

        def evaluate() -> float:
            start.restore()
            return float(at.loss.value(self.model(inputs).reshape(at.outputs.shape), targets))

        self.move(at, found, group, evaluate)
        after.restore()
        return value

    def step_on(self, inputs: Any, targets: Any) -> Tensor:
        """:meth:`step`, under the name that all methods have that want the batch."""
        found: Tensor = self.step(inputs, targets)
        return found

    @staticmethod
    def put(at: Linearized, size: float, direction: Tensor) -> None:
        """Add ``size * direction`` to the parameters."""
        for p, part in zip(at.params, tree.unravel(direction, at.params), strict=True):
            p.add_(part, alpha=size)

    def _linearize(self, inputs: Any, targets: Any) -> Linearized:
        check_uncoupled(type(self).__name__, self.model)
        if self._loss is None:
            self._loss = CustomLoss(self._given, self._output_shape(inputs))  # type: ignore[arg-type]
        outputs, jacobian = output_jacobians(self.model, inputs, chunk=self.chunk)
        params = trainable(self.model)
        parts = [jacobian.pop(name).reshape(*outputs.shape, p.numel()) for name, p in params.items()]
        return Linearized(list(params.values()), torch.cat(parts, 2), outputs, self._loss, targets)

    def _output_shape(self, inputs: Any) -> torch.Size:
        before = RandomState(self.param_groups[0]["params"])
        found: Tensor = self.model(tree.tree_map(lambda t: t[:1], inputs))
        before.restore()
        return found.shape[1:]
