"""Target projection (tpSGD): every layer is fitted to a random projection of the labels, forward passes only."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from steepest.core.card import MethodCard, Paper
from steepest.core.random import generator
from steepest.core.ranges import Integer, OneOf, Real, Reals
from steepest.train.local.blocks import blocks_of, local_gradients

__all__ = ["CARD", "RecurrentBlock", "TargetProjection"]

CARD = MethodCard(
    name="tpsgd",
    title="Target projection",
    room="local",
    family="local losses",
    summary="Trains every layer alone, towards a fixed random projection of the labels; nothing is propagated back.",
    target="steepest.train.local.target_projection:TargetProjection",
    papers=(
        Paper(
            "M. Lomnitz, Z. Daniels, D. Zhang, M. Piacentino",
            2022,
            "Learning with Local Gradients at the Edge",
            arxiv="2208.08503",
        ),
    ),
    buffers=0,
    usage="steepest.train.local.TargetProjection(network, classes=10).step(inputs, targets)",
    claim="Training towards projected labels comes within 5 % of the accuracy of backpropagation on shallow "
    "perceptrons, convolutional and recurrent networks, and ahead of other methods without feedback.",
)

#: ``(outputs, projected targets) -> loss``.
LocalLoss = Callable[[Tensor, Tensor], Tensor]


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square()


def _absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs()


_DEFAULT = partial(SGD, lr=0.01)
_LOSSES: dict[str, LocalLoss] = {"l2": _squared, "l1": _absolute}


class RecurrentBlock(nn.Module):
    """A recurrent layer as a block; it learns one step at a time.

    Where one label belongs to a whole sequence, ``last=True`` with ``truncate=False`` reached far more in the ledger's
    test than the defaults, which draw every state towards the label, the early ones as well.

    Args:
        cell: an ``nn.RNNCell``, ``nn.GRUCell`` or ``nn.LSTMCell``.
        last: whether to return the last hidden state ``(n, hidden)`` alone; default False: all of them,
            ``(n, time, hidden)``. Inputs are ``(n, time, features)``.
        truncate: whether the state is cut off from the steps before, so that no error passes through time either.
            Default True; False for backpropagation through time.
    """

    def __init__(self, cell: nn.RNNCellBase, last: bool = False, truncate: bool = True) -> None:
        super().__init__()
        self.cell, self.last, self.truncate = cell, last, truncate

    def forward(self, inputs: Tensor) -> Tensor:
        state: Any = None
        hidden = []
        for x in inputs.unbind(1):
            if state is not None and self.truncate:
                state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            state = self.cell(x, state)
            hidden.append(state[0] if isinstance(state, tuple) else state)
        return hidden[-1] if self.last else torch.stack(hidden, 1)


class TargetProjection:
    r"""Target projection SGD: a local target for every layer.

    The blocks of a network give :math:`y_i = f_i(y_{i-1})`; :math:`y^*` is the label as a one-hot vector and
    :math:`P_i` a matrix that is drawn once. Every block but the last takes a step on its own loss, in which
    :math:`y_{i-1}` is a constant,

    .. math:: J_i = \tfrac12 \|P_i y^* - y_i\|^2 \qquad\text{or}\qquad J_i = \|P_i y^* - y_i\|_1 ,

    so that a dense layer :math:`y = \sigma(W x + b)` moves by the delta rule
    :math:`W \leftarrow W + \eta \big((P y^* - y) \odot \sigma'(z)\big) x^\top` (with the sign of the residual for the
    second). The last block takes a step on the given loss. No error passes from a layer to the one before, and no more
    than one block's activations are held.

    Losses are sums over a block's outputs, and means over the batch and over places that share a target. A convolution
    has a target for every entry of its feature map, or, with ``spatial="channel"``, one per channel that all places
    share. In a :class:`RecurrentBlock` all times share one target. All blocks see outputs from before the update: what
    is handed on is computed before the block's own step.

    Args:
        network: an ``nn.Sequential``, or blocks; see :func:`~steepest.train.local.blocks.blocks_of`. It is used as ever
            after training.
        classes: the length of ``y*``, >= 1.
        optimizer: makes the optimizer of a block's parameters: ``partial(torch.optim.SGD, lr=0.01)`` (default); or one
            such for each block.
        local_loss: ``"l2"`` (default), ``"l1"``, or ``(outputs, projected targets) -> loss`` by elements. With
            ``lambda y, t: t * y`` it is direct random target projection: the label itself as the error signal.
        loss: ``(outputs, targets) -> scalar`` of the last block. Default: cross-entropy.
        span: the ends between which the entries of P are uniform; they belong inside the range of the activations:
            (-0.5, 0.5), the default, suits tanh; (0, 1) suits ReLU and the logistic function.
        spatial: ``"map"`` (default) or ``"channel"``.
        seed: of P.

    Attributes:
        blocks: the blocks.
        optimizers: one for each block, for schedules; None where nothing is trained.
        projections: the matrices, ``(classes, *shape of the target)``, made at the first step.

    Raises:
        ValueError, TypeError: an argument is out of its range; see also ``blocks_of``.

    Source: M. Lomnitz, Z. Daniels, D. Zhang, M. Piacentino (2022), Learning with Local Gradients at the Edge, arXiv
    2208.08503. There is no code by the authors; the distribution of P and the choices for convolutions are made here.
    """

    def __init__(
        self,
        network: nn.Module | Iterable[nn.Module],
        classes: int,
        optimizer: Callable[..., Optimizer] | Sequence[Callable[..., Optimizer]] = _DEFAULT,
        *,
        local_loss: str | LocalLoss = "l2",
        loss: Callable[[Any, Any], Tensor] = nn.functional.cross_entropy,
        span: tuple[float, float] = (-0.5, 0.5),
        spatial: str = "map",
        seed: int = 0,
    ) -> None:
        Integer(low=1).check("classes", classes)
        Integer(low=0).check("seed", seed)
        Reals(2, Real()).check("span", span)
        if span[0] >= span[1]:
            raise ValueError(f"span must be two numbers in ascending order, got {span!r}")
        OneOf(("map", "channel")).check("spatial", spatial)
        if isinstance(local_loss, str):
            OneOf(tuple(_LOSSES)).check("local_loss", local_loss)
        self.blocks = blocks_of(network)
        if isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must make an optimizer of a block's parameters, such as partial(torch.optim.SGD, lr=0.01), "
                f"got an {type(optimizer).__name__} that is made already"
            )
        makers = [optimizer] * len(self.blocks) if callable(optimizer) else list(optimizer)
        if len(makers) != len(self.blocks):
            raise ValueError(f"optimizer must be one, or one for each of {len(self.blocks)} blocks, got {len(makers)}")
        self.classes, self.span, self.spatial, self.seed = classes, (float(span[0]), float(span[1])), spatial, seed
        self.local_loss = _LOSSES[local_loss] if isinstance(local_loss, str) else local_loss
        self.loss = loss
        self.optimizers: list[Optimizer | None] = []
        for block, make in zip(self.blocks, makers, strict=True):
            params = [p for p in block.parameters() if p.requires_grad]
            self.optimizers.append(make(params) if params else None)
        self.projections: dict[int, Tensor] = {}

    def step(self, inputs: Tensor, targets: Tensor, layers: Iterable[int] | None = None) -> list[Tensor]:
        """One forward pass in which every block, as it is passed, takes its step.

        Args:
            inputs: a batch.
            targets: class indices ``(n,)``, or vectors ``(n, classes)`` to be projected, which ``loss`` must take.
            layers: the blocks to train (negative numbers count from the end); the others only pass on. Default: all.
                Training them one after the other, each to its end, is the other order of the method.

        Returns:
            The losses of the blocks that were trained, before their steps.
        """
        count = len(self.blocks)
        chosen = set(range(count)) if layers is None else set()
        for number in layers or ():
            Integer(low=-count, high=count - 1).check("layers", number)
            chosen.add(number % count)
        losses: list[Tensor] = []
        for number, block in enumerate(self.blocks[: max(chosen, default=-1) + 1]):
            optimizer = self.optimizers[number]
            if number not in chosen or optimizer is None:
                with torch.no_grad():
                    inputs = block(inputs)
                continue
            inputs, value, found = local_gradients(block, inputs, partial(self._objective, number, targets))
            losses.append(value)
            optimizer.zero_grad()
            for p, g in found.items():
                p.grad = g
            optimizer.step()
            optimizer.zero_grad()
        return losses

    def _objective(self, number: int, targets: Tensor, outputs: Tensor) -> Tensor:
        if number == len(self.blocks) - 1:
            return self.loss(outputs, targets)
        projected = self.target(number, targets, outputs)
        value = self.local_loss(outputs, projected.expand_as(outputs))
        # A target with one entry in a place where the outputs have many is shared; those are averaged over.
        return value.sum() * projected.numel() / (len(outputs) * outputs.numel())

    def target(self, number: int, targets: Tensor, outputs: Tensor) -> Tensor:
        """The targets of a block's outputs, with one entry along the dimensions that share them."""
        if number not in self.projections:
            self.projections[number] = self._project(number, outputs)
        # A state may have been loaded on another device.
        matrix = self.projections[number] = self.projections[number].to(outputs.device)
        if targets.dim() == 1 and not targets.is_floating_point():
            try:
                return matrix[targets]
            except IndexError:
                raise ValueError(f"targets must be below classes = {self.classes}, got {int(targets.max())}") from None
        return torch.tensordot(targets.to(matrix), matrix, 1)

    def _project(self, number: int, outputs: Tensor) -> Tensor:
        shape = list(outputs.shape[1:])
        if isinstance(self.blocks[number], RecurrentBlock) and len(shape) == 2:
            shape[0] = 1
        elif self.spatial == "channel":
            shape[1:] = [1] * (len(shape) - 1)
        source = generator(outputs.device, self.seed, number)
        drawn = torch.rand(self.classes, *shape, generator=source, dtype=outputs.dtype, device=outputs.device)
        return self.span[0] + (self.span[1] - self.span[0]) * drawn

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizers, and the projections; the network's own is not in it."""
        return {
            "optimizers": [None if o is None else o.state_dict() for o in self.optimizers],
            "projections": dict(self.projections),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` of the same network gave.

        Raises:
            ValueError: the state is of another network.
        """
        theirs = state["optimizers"]
        if [o is None for o in theirs] != [o is None for o in self.optimizers]:
            raise ValueError(f"state must be of a network with {len(self.optimizers)} blocks like these")
        for mine, saved in zip(self.optimizers, theirs, strict=True):
            if mine is not None:
                mine.load_state_dict(saved)
        self.projections = {int(number): matrix.clone() for number, matrix in state["projections"].items()}
