"""Which parameters of a model are matrices, embeddings, output heads, and which are vectors.

Matrix methods treat hidden weight matrices by their own rule and send the rest to a fallback. This module decides,
and prints what it decided.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import nn
from torch.nn import Parameter

__all__ = ["Role", "Routing", "route"]

Role = Literal["matrix", "embedding", "head", "vector"]
_ROLES: tuple[Role, ...] = get_args(Role)

_HEAD_NAMES = ("lm_head", "head", "classifier", "fc_out", "output", "out_layer", "output_layer", "logits", "score")
_EMBEDDING_MARKS = ("embed", "wte", "wpe", "cls_token")


@dataclass(frozen=True)
class Routing:
    """What went where; its ``repr`` is a table.

    Args:
        entries: for each parameter: name, parameter, role, and the reason in words.
    """

    entries: tuple[tuple[str, Parameter, Role, str], ...]

    def named(self, *roles: Role) -> list[tuple[str, Parameter]]:
        """The named parameters of these roles, in the model's order."""
        return [(name, p) for name, p, role, _ in self.entries if role in roles]

    def role(self, name: str) -> Role:
        """The role of one parameter."""
        for entry, _, role, _ in self.entries:
            if entry == name:
                return role
        raise KeyError(name)

    def __repr__(self) -> str:
        width = max((len(name) for name, *_ in self.entries), default=0)
        lines = []
        for role in _ROLES:
            members = [entry for entry in self.entries if entry[2] == role]
            if members:
                count = sum(p.numel() for _, p, _, _ in members)
                lines.append(f"{role}: {len(members)} tensors, {count:,} elements")
                lines += [f"  {name:<{width}}  {tuple(p.shape)!s:<18} {why}" for name, p, _, why in members]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[type["Routing"], tuple[object, ...]]:
        return Routing, (self.entries,)


def route(module: nn.Module, overrides: Mapping[str, Role] | Mapping[str, str] | None = None) -> Routing:
    """Split a model's trainable parameters by role.

    - **embedding**: weights of ``nn.Embedding`` and ``nn.EmbeddingBag`` (also when tied to the head), and parameters
      whose own name marks them as one (``pos_embed``, ``cls_token``).
    - **head**: the weight of the linear layer named like one (``lm_head``, ``head``, ``classifier``, ...); where no
      name tells, the last linear layer, provided the model has another.
    - **matrix**: other parameters with two dimensions, and convolution kernels (as ``out x (in * kernel)``) unless
      grouped.
    - **vector**: everything else: biases, norms, scalars, grouped convolutions, bare tensors of three and more
      dimensions.

    Args:
        module: the model; frozen parameters are left out.
        overrides: ``{pattern: role}`` with shell patterns on the full parameter name (``"blocks.*.router.weight"``);
            the first match wins over everything above. A tensor with fewer than two dimensions cannot be a matrix.

    Raises:
        ValueError: an unknown role, a pattern that matches nothing, or a vector forced to be a matrix.
    """
    patterns = dict(overrides or {})
    for pattern, role in patterns.items():
        if role not in _ROLES:
            raise ValueError(f"routing[{pattern!r}] must be one of {', '.join(map(repr, _ROLES))}, got {role!r}")
    owners = {
        f"{prefix}.{name}" if prefix else name: owner
        for prefix, owner in module.named_modules()
        for name, _ in owner.named_parameters(recurse=False)
    }
    embeddings = {id(owner.weight) for owner in module.modules() if isinstance(owner, (nn.Embedding, nn.EmbeddingBag))}
    head = _head(module, embeddings)
    used: set[str] = set()
    entries: list[tuple[str, Parameter, Role, str]] = []
    for name, p in module.named_parameters():
        if not p.requires_grad:
            continue
        matched = next((k for k in patterns if fnmatch.fnmatchcase(name, k)), None)
        if matched is None:
            entries.append((name, p, *_role(name, p, owners[name], embeddings, head)))
            continue
        used.add(matched)
        forced = cast(Role, patterns[matched])
        if forced == "matrix" and p.dim() < 2:
            raise ValueError(f"routing: {name} of shape {tuple(p.shape)} cannot be a matrix (pattern {matched!r})")
        entries.append((name, p, forced, f"pattern {matched!r}"))
    unused = set(patterns) - used
    if unused:
        raise ValueError(f"routing: the pattern {sorted(unused)[0]!r} matches no trainable parameter")
    return Routing(tuple(entries))


def _role(name: str, p: Parameter, owner: nn.Module, embeddings: set[int], head: str | None) -> tuple[Role, str]:
    own_name = name.rpartition(".")[2].lower()
    if id(p) in embeddings:
        return "embedding", "embedding layer"
    if p.dim() >= 2 and any(mark in own_name for mark in _EMBEDDING_MARKS):
        return "embedding", "by its name"
    if name == head:
        return "head", "output layer"
    if isinstance(owner, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and p.dim() > 1:
        if owner.groups > 1:
            return "vector", f"convolution with {owner.groups} groups"
        return "matrix", f"convolution as {p.shape[0]} x {p.shape[1:].numel()}"
    if isinstance(owner, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)):
        return "vector", type(owner).__name__
    if p.dim() == 2:
        return "matrix", type(owner).__name__
    return "vector", f"{p.dim()} dimension{'s' if p.dim() != 1 else ''}"


def _head(module: nn.Module, embeddings: set[int]) -> str | None:
    """The name of the output layer's weight; None when it is tied to an embedding or there is but one layer."""
    linear = [
        (f"{prefix}.weight" if prefix else "weight", layer.weight)
        for prefix, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    named = [n for n, _ in linear if n.removesuffix(".weight").rpartition(".")[2].lower() in _HEAD_NAMES]
    if named:
        return named[-1]
    if any(id(w) in embeddings for _, w in linear):
        return None
    others = [p for n, p in module.named_parameters() if p.dim() >= 2 and id(p) not in embeddings]
    return linear[-1][0] if linear and len(others) > 1 else None
