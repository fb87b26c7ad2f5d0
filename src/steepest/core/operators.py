r"""Curvature of a model as linear operators on its parameters, and derivatives sample by sample.

An operator maps a vector (all trainable parameters, one after the other) to a matrix times it; the matrix is never
formed. It is an average over all samples of the batches it is given, whatever their sizes, and every product passes
over them once. Everything is made with ``torch.autograd.grad`` and ``torch.func``; nothing touches ``.grad``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from . import tree
from .curvature import hvp as _hvp
from .curvature import twice_differentiable
from .oracle import tally
from .random import normal, signs

__all__ = [
    "CurvatureOperator",
    "EmpiricalFisher",
    "GaussNewton",
    "Hessian",
    "check_uncoupled",
    "directional_derivative",
    "hutchinson_diagonal",
    "output_jacobians",
    "pairs",
    "per_sample_gradients",
    "trainable",
]

#: ``(outputs, targets) -> loss``, a mean over the samples of a batch.
Loss = Callable[[Any, Any], Tensor]
Batch = tuple[Any, Any]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model that require gradients, by name; one that is used twice appears once.

    Raises:
        ValueError: there are none.
    """
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError(f"the model {type(model).__name__} has no trainable parameters")
    return found


def check_uncoupled(owner: str, model: nn.Module) -> None:
    """Refuse a model whose samples have no derivatives of their own."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise RuntimeError(
                f"{owner}: the batch norm {name or type(module).__name__!r} is in training mode, where it couples the "
                "samples, so that they have no derivatives of their own; put it into eval(), or use a group or layer "
                "norm"
            )


def pairs(batches: Iterable[Any]) -> list[Batch]:
    """The batches as a list.

    Raises:
        TypeError: one is no pair.
    """
    found = list(batches)
    for batch in found:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = f"a tensor of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else f"{batch!r:.80}"
            raise TypeError(f"batches must be pairs (inputs, targets), such as [(inputs, targets)], got {kind}")
    return found


class CurvatureOperator:
    """A symmetric matrix on the parameters of a model, averaged over the samples of some batches.

    Args:
        model: its outputs are ``model(inputs)``. Put it into ``eval()`` where batch normalization or dropout should not
            couple or perturb the samples; its mode is left as it is.
        loss: ``loss(outputs, targets)``, the mean over the samples.
        batches: pairs ``(inputs, targets)``: a list, or anything that can be iterated again and again.

    Raises:
        ValueError: the model has no trainable parameters, or there are no batches.
    """

    #: Under which name a product with one batch is counted.
    oracle = "hvp"

    def __init__(self, model: nn.Module, loss: Loss, batches: Iterable[Batch]) -> None:
        self.model, self.loss = model, loss
        self.batches: Sequence[Batch] = pairs(batches)
        if not self.batches:
            raise ValueError("batches must hold at least one pair (inputs, targets), got none")
        self.names = list(trainable(model))
        self.parameters = list(trainable(model).values())
        self.samples = sum(_count(targets) for _, targets in self.batches)

    @property
    def size(self) -> int:
        """How many numbers the parameters have."""
        return sum(p.numel() for p in self.parameters)

    @property
    def like(self) -> Tensor:
        """The parameters as one vector: of the shape, dtype and device of every vector here."""
        return tree.ravel([p.detach() for p in self.parameters])

    def __call__(self, vector: Tensor) -> Tensor:
        """The matrix times a vector of :attr:`size` numbers."""
        if vector.shape != (self.size,):
            raise ValueError(f"vector must have the shape ({self.size},), got {tuple(vector.shape)}")
        parts = tree.unravel(vector, [p.detach() for p in self.parameters])
        total: Tensor | None = None
        for inputs, targets in self.batches:
            tally(self.oracle)
            with twice_differentiable():
                product = tree.ravel(self._product(inputs, targets, parts))
            if len(self.batches) > 1:
                product = product * (_count(targets) / self.samples)
            total = product if total is None else total + product
        assert total is not None
        return total

    def gradient(self) -> Tensor:
        """The gradient of the loss over all batches, as a vector."""
        total = torch.zeros_like(self.like)
        for inputs, targets in self.batches:
            tally("gradient")
            value = self.loss(self.model(inputs), targets)
            found = torch.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=True)
            total.add_(tree.ravel(list(found)), alpha=_count(targets) / self.samples)
        return total

    def value(self) -> float:
        """The loss over all batches."""
        with torch.no_grad():
            return sum(
                float(self.loss(self.model(inputs), targets)) * _count(targets) / self.samples
                for inputs, targets in self.batches
            )

    def _product(self, inputs: Any, targets: Any, parts: list[Tensor]) -> list[Tensor]:
        raise NotImplementedError

    def _function(self, inputs: Any) -> Callable[..., Any]:
        """The outputs as a function of the parameters."""
        return lambda *values: functional_call(self.model, dict(zip(self.names, values, strict=True)), (inputs,))


class Hessian(CurvatureOperator):
    """The Hessian of the loss, by differentiating its gradient along the vector (double backward).

    Args:
        keep: whether the graph of every batch's gradient is kept for the next product, which then costs about half.
            It takes the memory of training on all batches at once; parameters that change are noticed. By default it
            is kept where there is one batch.
    """

    def __init__(self, model: nn.Module, loss: Loss, batches: Iterable[Batch], keep: bool | None = None) -> None:
        super().__init__(model, loss, batches)
        self.keep = len(self.batches) == 1 if keep is None else keep
        self._graphs: dict[tuple[int, int], tuple[Any, tuple[Tensor, ...]]] = {}

    def _product(self, inputs: Any, targets: Any, parts: list[Tensor]) -> list[Tensor]:
        return _hvp(self._gradients(inputs, targets), self.parameters, parts)

    def _gradients(self, inputs: Any, targets: Any) -> tuple[Tensor, ...]:
        # What in-place changes of parameters, buffers and the batch itself, and another mode, leave behind.
        tensors = (*self.parameters, *self.model.buffers(), *tree.leaves((inputs, targets)))
        state = (self.model.training, *((t.data_ptr(), t._version) for t in tensors))
        key = (id(inputs), id(targets))  # the batches are held, so these stay theirs
        held = self._graphs.get(key)
        if held is not None and held[0] == state:
            return held[1]
        value = self.loss(self.model(inputs), targets)
        gradients = torch.autograd.grad(
            value, self.parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        if self.keep and not self.model.training:
            self._graphs[key] = (state, gradients)
        return gradients


class GaussNewton(CurvatureOperator):
    r"""The generalized Gauss-Newton matrix :math:`J^\top H_L J`, with the Hessian of the loss in the outputs.

    For the cross-entropy of a softmax, and for the squared error up to its factor, it is the Fisher matrix of the
    model's own predictions. One forward-mode and two reverse-mode derivatives.
    """

    oracle = "gauss-newton product"

    def _product(self, inputs: Any, targets: Any, parts: list[Tensor]) -> list[Tensor]:
        values = tuple(p.detach() for p in self.parameters)
        function = self._function(inputs)
        outputs, change = jvp(function, values, tuple(parts))  # type: ignore[misc]
        curved = _loss_curvature(self.loss, outputs, targets, change)
        _, back = vjp(function, *values)  # type: ignore[misc]
        return [g.detach() for g in back(curved)]


class EmpiricalFisher(CurvatureOperator):
    r"""The second moment of the gradients of single samples, :math:`\frac1n \sum_i g_i g_i^\top`.

    It is not the Fisher matrix, in which the targets are drawn from the model's own prediction.

    Args:
        chunk: samples whose gradients are held at once.
    """

    oracle = "per-sample gradient"

    def __init__(self, model: nn.Module, loss: Loss, batches: Iterable[Batch], chunk: int | None = None) -> None:
        super().__init__(model, loss, batches)
        self.chunk = chunk

    def _product(self, inputs: Any, targets: Any, parts: list[Tensor]) -> list[Tensor]:
        values = {name: p.detach() for name, p in zip(self.names, self.parameters, strict=True)}
        vector = dict(zip(self.names, parts, strict=True))

        def product(x: Any, y: Any) -> dict[str, Tensor]:
            g = torch.func.grad(_sample_loss)(values, self.model, self.loss, x, y)
            along = sum((g[name] * vector[name]).sum() for name in self.names)
            return {name: along * g[name] for name in self.names}

        found = vmap(product, chunk_size=self.chunk, randomness="different")(inputs, targets)
        return [found[name].mean(0) for name in self.names]


def _loss_curvature(loss: Loss, outputs: Tensor, targets: Any, change: Tensor) -> Tensor:
    """The Hessian of the loss with respect to the outputs, times a change of them."""
    at = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at, targets), at, create_graph=True)
    if not slope.requires_grad:
        return torch.zeros_like(outputs)
    (curved,) = torch.autograd.grad(slope, at, change, materialize_grads=True, allow_unused=True)
    return curved.detach()


def _count(targets: Any) -> int:
    return len(tree.leaves(targets)[0])


def _sample_loss(values: dict[str, Tensor], model: nn.Module, loss: Loss, x: Any, y: Any) -> Tensor:
    one = tree.tree_map(lambda t: t[None], (x, y))
    return loss(functional_call(model, values, (one[0],)), one[1])


def per_sample_gradients(
    model: nn.Module, loss: Loss, inputs: Any, targets: Any, *, chunk: int | None = None
) -> dict[str, Tensor]:
    """The gradient of the loss of every sample by itself.

    The model sees one sample at a time, so it must not couple them: batch normalization has to be in ``eval()``.

    Args:
        model: with trainable parameters.
        loss: ``loss(outputs, targets)`` of a batch; it is called with batches of one.
        inputs, targets: a batch; tensors whose first dimension counts the samples, or nested structures of such.
        chunk: samples at once; bounds the memory of the intermediate results. None: all.

    Returns:
        By the parameter's name, a tensor ``(n, *shape)``.

    Raises:
        RuntimeError: a batch norm is in training mode.
    """
    check_uncoupled("per_sample_gradients", model)
    tally("per-sample gradient", _count(targets))
    values = {name: p.detach() for name, p in trainable(model).items()}
    one = torch.func.grad(_sample_loss)
    found: dict[str, Tensor] = vmap(
        lambda x, y: one(values, model, loss, x, y), chunk_size=chunk, randomness="different"
    )(inputs, targets)
    return found


def output_jacobians(model: nn.Module, inputs: Any, *, chunk: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs of every sample, and their derivatives with respect to the parameters.

    Args:
        model: as in :func:`per_sample_gradients`; its outputs are one tensor.
        inputs: a batch.
        chunk: samples at once; None: all.

    Returns:
        The outputs ``(n, c)``, flattened per sample, and by the parameter's name a tensor ``(n, c, *shape)``.
    """
    values = {name: p.detach() for name, p in trainable(model).items()}

    def outputs(given: dict[str, Tensor], x: Any) -> tuple[Tensor, Tensor]:
        found = functional_call(model, given, (tree.tree_map(lambda t: t[None], x),)).reshape(-1)
        return found, found

    one = jacrev(outputs, has_aux=True)
    jacobian, value = vmap(lambda x: one(values, x), chunk_size=chunk, randomness="different")(inputs)
    tally("per-sample gradient", value.numel())
    return value, jacobian


def directional_derivative(function: Callable[[Any], Tensor], at: Any, direction: Any) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along a direction, by forward-mode differentiation.

    It costs about two evaluations and keeps no graph.

    Args:
        function: of a tensor or a nested structure of tensors.
        at, direction: of one structure, with equal shapes.
    """
    tally("jvp")
    value, slope = jvp(function, (at,), (direction,))  # type: ignore[misc]
    return value, slope


def hutchinson_diagonal(
    product: Callable[[Tensor], Tensor], like: Tensor, *, probes: int = 1, gaussian: bool = False, seed: int = 0
) -> Tensor:
    r"""The diagonal of a matrix from its products: the mean of :math:`z \odot A z` over random :math:`z`.

    Args:
        product: ``v -> A v``.
        like: a vector of the size, dtype and device wanted.
        probes: random vectors, >= 1. With Rademacher entries the variance of an entry is the sum of the squares of the
            other entries of its row, divided by ``probes``; with Gaussian ones, that of its own twice is added.
        gaussian: Gaussian instead of Rademacher entries.
        seed: of the vectors.
    """
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes!r}")
    draw = normal if gaussian else signs
    total = torch.zeros_like(like)
    for probe in range(probes):
        z = draw(like, seed, probe)
        total += z * product(z)
    return total / probes
