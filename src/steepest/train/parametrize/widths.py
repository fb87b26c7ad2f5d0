"""Which dimensions of a model's parameters grow with its width, and what follows for each parameter."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from steepest.core.errors import did_you_mean

__all__ = ["Kind", "Layers", "Scale", "Scaling", "Shapes", "parameter_shapes"]

Shapes = Mapping[str, Sequence[int]]
Kind = Literal["adam", "sign", "sgd", "muon"]
Scale = Literal["spectral", "rms", "none"]

#: Modules that apply their weight to their first argument, so that a factor there is a factor of the weight.
_APPLIED = (nn.Linear, nn.modules.conv._ConvNd)
_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def parameter_shapes(model: nn.Module) -> dict[str, list[int]]:
    """The shapes of a model's parameters by name, which JSON can hold: all that :func:`mup` needs of a base."""
    return {name: list(p.shape) for name, p in model.named_parameters()}


@dataclass(frozen=True)
class Scaling:
    """How one parameter depends on the width.

    Args:
        name: of the parameter.
        shape, base_shape: in the model and in the base model.
        role: ``"finite"`` (no dimension grows), ``"vector"`` (one does: input weights, embeddings, biases, norms),
            ``"matrix"`` (fan-in and fan-out do: hidden weights), ``"readout"`` (the fan-in alone does).
        fan_in, fan_out: how many times larger these are than in the base model; 1 where they do not grow.
        multiplier: the factor of the weight in the forward pass.
        initial: the factor by which its initial values were multiplied.
    """

    name: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Literal["finite", "vector", "matrix", "readout"]
    fan_in: float
    fan_out: float
    multiplier: float
    initial: float

    def rate(self, kind: Kind, scale: Scale = "spectral", *, orthogonalized: bool = False) -> float:
        """The factor of the learning rate; see :meth:`MaximalUpdate.groups`."""
        if orthogonalized:
            wanted = (self.fan_out / self.fan_in) ** 0.5 / self.multiplier
            return float(wanted * _spectral_norm(self.base_shape, scale) / _spectral_norm(self.shape, scale))
        if kind != "sgd":
            return 1 / self.fan_in if self.role == "matrix" else 1.0
        return self.fan_out / self.fan_in if self.role == "matrix" else self.fan_out * self.fan_in

    @property
    def gradient(self) -> float:
        """How an entry of the gradient scales: with one over the fan-out (over the fan-in, for a readout)."""
        return 1 / (self.fan_in if self.role == "readout" else self.fan_out)


def _spectral_norm(shape: Sequence[int], scale: Scale) -> float:
    """The spectral norm of an orthogonalized update, as the method scales it."""
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    if scale == "none":
        return 1.0
    return float(max(1.0, rows / columns) ** 0.5 if scale == "spectral" else max(rows, columns) ** 0.5)


class Layers:
    """Which module owns which parameter, and which dimensions its forward pass sums over."""

    def __init__(self, model: nn.Module, overrides: Mapping[str, int | None]) -> None:
        self.overrides, self.unused = overrides, set(overrides)
        self.owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for own_name, p in module._parameters.items():
                if p is not None:
                    self.owners.setdefault(id(p), []).append((module, own_name))
        self.tensors = dict(model.named_parameters())
        self.scaled: dict[int, Scaling] = {}

    def fans(self, name: str, p: Tensor, grow: Sequence[int]) -> tuple[int | None, int | None]:
        """The dimensions of fan-out and fan-in."""
        pattern = next((k for k in self.overrides if fnmatch.fnmatchcase(name, k)), None)
        if pattern is not None:
            self.unused.discard(pattern)
            chosen = self.overrides[pattern]
            return next((d for d in grow if d != chosen), None), chosen
        owner, own_name = self.owners[id(p)][0]
        if self._is_embedding(p):
            return 1, None
        if own_name != "bias" and p.dim() > 1:
            transposed = isinstance(owner, _TRANSPOSED) or type(owner).__name__ == "Conv1D"
            if isinstance(owner, (*_APPLIED, nn.RNNBase, nn.MultiheadAttention)) or transposed:
                return (1, 0) if transposed else (0, 1)
            if len(grow) == 2:
                return grow[0], grow[1]
        return (grow[0] if grow else None), None

    def scaling(
        self, name: str, p: Tensor, first: Shapes, second: Shapes, init: Literal["fan_in", "constant", "keep"]
    ) -> Scaling:
        """The scaling of one parameter; parameters must come in the model's order, weights before their biases."""
        if isinstance(p, nn.UninitializedParameter):
            raise ValueError(f"mup: the parameter {name!r} has no shape yet; run the model once")
        shape = tuple(p.shape)
        shapes = [shape, *(tuple(s[name]) for s in (first, second) if name in s)]
        if len(shapes) < 3:
            raise ValueError(f"mup: the base has no parameter {name!r}; {did_you_mean(name, first)}")
        if len({len(s) for s in shapes}) > 1:
            raise ValueError(f"mup: {name!r} has {len(shape)} dimensions, but {shapes[1]} in the base")
        grow = [d for d, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
        if len(grow) > 2:
            raise ValueError(f"mup: at most two dimensions of a parameter may grow, but those of {name!r} are {grow}")
        out_dim, in_dim = self.fans(name, p, grow)
        m_out, m_in = (shape[d] / shapes[1][d] if d in grow else 1.0 for d in (out_dim, in_dim))
        role: Literal["finite", "vector", "matrix", "readout"] = "vector"
        if not grow:
            role = "finite"
        elif len(grow) == 2:
            role = "matrix"
        elif in_dim in grow:
            role = "readout"
        multiplier = 1 / m_in if role == "readout" else 1.0
        made = Scaling(name, shape, shapes[1], role, m_in, m_out, multiplier, 1.0)
        initial = 1.0 if init == "keep" else self._initial(p, made, init)
        self.scaled[id(p)] = made = replace(made, initial=initial)
        return made

    def _initial(self, p: Tensor, entry: Scaling, init: str) -> float:
        if init == "constant":
            return entry.fan_in**-0.5 if entry.role == "matrix" else 1.0
        owner, own_name = self.owners[id(p)][0]
        # What torch takes for the fan-in is the fan-out of transposed convolutions and the hidden size of recurrent
        # layers, for all of their parameters; biases are drawn for the fan-in of their weights.
        if isinstance(owner, nn.RNNBase):
            drawn = entry.fan_in if own_name.startswith("weight_hh") else entry.fan_out
        elif own_name == "bias" and isinstance(owner, _APPLIED) and id(owner.weight) in self.scaled:
            weight = self.scaled[id(owner.weight)]
            flipped = isinstance(owner, _TRANSPOSED) or self._is_embedding(owner.weight)
            drawn = weight.fan_out if flipped else weight.fan_in
        elif isinstance(owner, _TRANSPOSED):
            drawn = entry.fan_out
        else:
            drawn = entry.fan_in
        wanted = entry.fan_in if entry.role == "matrix" else 1.0
        return float((drawn / wanted) ** 0.5)

    def _is_embedding(self, p: Tensor) -> bool:
        return any(isinstance(owner, _EMBEDDINGS) for owner, _ in self.owners[id(p)])

    def readouts(self, scalings: Sequence[Scaling]) -> list[tuple[nn.Module, float]]:
        """The layers that need a multiplier, with it."""
        found: list[tuple[nn.Module, float]] = []
        for entry in scalings:
            owners = self.owners[id(self.tensors[entry.name])]
            if entry.role == "vector" and self._is_embedding(self.tensors[entry.name]):
                # Where a layer shares an embedding, the embedding's fan-out is the layer's fan-in.
                found += [(layer, 1 / entry.fan_out) for layer, _ in owners if isinstance(layer, nn.Linear)]
            if entry.role != "readout":
                continue
            for owner, _ in owners:
                if isinstance(owner, _APPLIED) or type(owner).__name__ == "Conv1D":
                    found.append((owner, entry.multiplier))
                elif isinstance(owner, (nn.RNNBase, nn.MultiheadAttention)):
                    kind = type(owner).__name__
                    raise ValueError(f"mup: {entry.name!r} is a readout in a {kind}, which takes no multiplier")
        return found

    def check_patterns(self) -> None:
        if self.unused:
            raise ValueError(f"mup: fan_in: the pattern {sorted(self.unused)[0]!r} matches no parameter")
