"""Maximal update parametrization: initial values, multipliers and learning rates that do not depend on the width."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import EPSILON, STEP_SIZE, WEIGHT_DECAY, Integer, OneOf
from steepest.core.routing import route

from .widths import Kind, Layers, Scale, Scaling, Shapes, parameter_shapes

__all__ = ["CARD", "MaximalUpdate", "attention_scale", "mup"]

_MARK = "_maximal_update"


class MaximalUpdate:
    """A model in the maximal update parametrization, and the parameter groups that belong to it; see :func:`mup`.

    Its ``repr`` is a table. ``scalings`` has a :class:`Scaling` for every parameter, by name.
    """

    def __init__(self, model: nn.Module, scalings: Sequence[Scaling]) -> None:
        self.model = model
        self.scalings = {entry.name: entry for entry in scalings}

    def groups(
        self,
        kind: Kind,
        lr: float,
        *,
        weight_decay: float | None = None,
        independent_decay: bool = False,
        eps: float | None = None,
        scale: Scale = "spectral",
        fallback_lr: float = 3e-4,
        params: Iterable[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> list[dict[str, Any]]:
        r"""Parameter groups with the learning rates of every parameter, for any optimizer of this kind.

        With :math:`m_{in}, m_{out}` how many times larger a parameter's fan-in and fan-out are than in the base model:

        ========== =================== ================================= =======================
        kind       hidden matrices     other weights, biases, norms      fitting optimizers
        ========== =================== ================================= =======================
        ``adam``   lr / m_in           lr                                Adam, AdamW, RMSprop
        ``sign``   lr / m_in           lr                                Lion, signSGD
        ``sgd``    lr m_out / m_in     lr m (of the dimension that       SGD, with momentum
                                       grows)
        ``muon``   lr sqrt(m_out/m_in) ``fallback_lr``, as for ``adam``  Muon, Shampoo
                   s(base) / s(model)
        ========== =================== ================================= =======================

        where s is the spectral norm that the method gives to its update of a matrix.

        A schedule must multiply the groups' learning rates (as those of torch do), not overwrite them.

        Args:
            kind: how the optimizer's update depends on the gradient.
            lr: learning rate at the base width, >= 0.
            weight_decay: at the base width, >= 0. Optimizers multiply it by the learning rate, so it is divided by the
                factor of the learning rate: their product is the same at all widths. ``None``: no entry in the groups.
            independent_decay: the optimizer does not multiply by the learning rate: ``weight_decay`` is left as it is.
            eps: what the optimizer adds to the root of the second moment, >= 0; is multiplied by the scale of the
                entries of the gradient (one over m). ``None``: no entry, which is right where it is negligible.
            scale: for ``"muon"``: how the method scales an orthogonal matrix: ``"spectral"``, ``"rms"`` (as the
                arguments of :class:`~steepest.optim.Muon`), or ``"none"`` (Shampoo without grafting).
            fallback_lr: for ``"muon"``: the learning rate of what :func:`~steepest.core.routing.route` does not call a
                matrix; these groups have ``rule="adamw"``.
            params: parameter groups with settings of their own to be split; by default, all trainable parameters.
            settings: further entries of every group.

        Raises:
            ValueError, TypeError: a bad setting, or a parameter in ``params`` that is not the model's.
        """
        OneOf(get_args(Kind)).check("groups: kind", kind)
        OneOf(get_args(Scale)).check("groups: scale", scale)
        known = {id(p): self.scalings[name] for name, p in self.model.named_parameters()}
        chosen = [{"params": [p for p in self.model.parameters() if p.requires_grad]}] if params is None else params
        matrices = {id(p) for _, p in route(self.model).named("matrix")} if kind == "muon" else set()
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for number, given in enumerate(chosen):
            own = {"lr": lr, "weight_decay": weight_decay, "eps": eps, **settings, **given}
            STEP_SIZE.check("groups: lr", own["lr"])
            STEP_SIZE.check("groups: fallback_lr", fallback_lr)
            members = given["params"]
            for p in [members] if isinstance(members, Tensor) else members:
                if id(p) not in known:
                    raise ValueError(f"groups: params: group {number} has a tensor that is no parameter of the model")
                entry = known[id(p)]
                group = {key: value for key, value in own.items() if value is not None}
                factor = entry.rate(kind, scale, orthogonalized=id(p) in matrices)
                if kind == "muon" and id(p) not in matrices:
                    group |= {"lr": fallback_lr, "rule": "adamw"}
                group["lr"] = group["lr"] * factor  # not in place: it may be the caller's tensor
                if "weight_decay" in group:
                    WEIGHT_DECAY.check("groups: weight_decay", group["weight_decay"])
                    group["weight_decay"] = group["weight_decay"] / (1.0 if independent_decay else factor)
                if "eps" in group:
                    EPSILON.check("groups: eps", group["eps"])
                    group["eps"] = group["eps"] * entry.gradient
                key = (number, factor, entry.gradient if "eps" in group else None, group.get("rule"))
                found.setdefault(key, {**group, "params": []})["params"].append(p)
        return list(found.values())

    def __repr__(self) -> str:
        lines: list[tuple[str, ...]] = [("parameter", "shape", "role", "m_in", "m_out", "multiplier", "initial")]
        for e in self.scalings.values():
            numbers = (f"{x:.4g}" for x in (e.fan_in, e.fan_out, e.multiplier, e.initial))
            lines.append((e.name, "x".join(map(str, e.shape)), e.role, *numbers))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(f"{x:<{w}}" for x, w in zip(row, widths, strict=True)).rstrip() for row in lines)


def mup(
    model: nn.Module,
    base: nn.Module | Shapes | Callable[[int], nn.Module],
    delta: nn.Module | Shapes | None = None,
    *,
    widths: tuple[int, int] | None = None,
    init: Literal["fan_in", "constant", "keep"] = "fan_in",
    fan_in: Mapping[str, int | None] | None = None,
) -> MaximalUpdate:
    r"""Put a model into the maximal update parametrization (muP), in place: a learning rate for all widths.

    In the limit of infinite width, muP is the one parametrization in which an entrywise adaptive optimizer changes the
    activations of every layer by as much as stability allows, so that the best learning rate of a narrow network is
    that of a wide one. With :math:`m` = fan-in / fan-in of the base model:

    .. math::
        \begin{array}{llll}
        & \text{input weights, biases, norms} & \text{hidden weights} & \text{readout weights} \\
        \text{initial variance} & \text{as in the base} & 1/m \text{ of the base} & \text{as in the base} \\
        \text{multiplier} & 1 & 1 & 1/m \\
        \text{rate (Adam)} & \eta & \eta/m & \eta
        \end{array}

    A dimension is width where the model differs from the base model, or the base model from ``delta``. Without
    ``delta`` a width that happens to be that of the base is not seen, which matters only where others differ.
    Multipliers are forward pre-hooks on the readout layers, so names and ``state_dict`` stay as they are: load a
    checkpoint after the call, or call with ``init="keep"`` after loading. A second call with the same base changes
    nothing. A weight shared by an embedding and a readout is an embedding, and the readout has the multiplier.

    What it cannot do for you: a readout that is no module (``F.linear(x, embedding.weight)``) needs the factor by hand;
    attention needs ``1/d`` in place of ``1/sqrt(d)`` where the dimension of the heads grows (:func:`attention_scale`;
    of torch's own attention layer a warning tells).

    Args:
        model: the model, of any width, freshly initialized.
        base: the model at the width where the learning rate is tuned; or its shapes (:func:`parameter_shapes`); or a
            function from a width to a model, with ``widths``.
        delta: a second model (or its shapes) whose widths differ from those of ``base``.
        widths: of base and delta, where ``base`` is a function.
        init: how the model's initial standard deviations depend on the width: ``"fan_in"``: as in torch's layers, with
            the root of one over the fan-in; ``"constant"``: not at all (0.02, say); ``"keep"``: they are already as
            they should be.
        fan_in: ``{pattern: dimension}`` for parameters of modules that are not torch's: over which dimension the
            forward pass sums; ``None``: over none. By default it is the last of two that grow; where but one grows, the
            parameter is an input, a bias or a norm.

    Raises:
        ValueError, TypeError: a bad argument; parameters differ by more than their sizes; three dimensions grow; a
            readout has no place for its multiplier; the model has been parametrized with another base.

    Sources: Yang, Littwin (2023), Tensor Programs IVb: Adaptive Optimization in the Infinite-Width Limit, arXiv
    2308.01814; Yang, Hu et al. (2022), Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter
    Transfer, arXiv 2203.03466 (the table, and weight decay as in the authors' package ``mup``, which must be told of
    the readout by a class); Yang, Simon, Bernstein (2023), A Spectral Condition for Feature Learning, arXiv 2310.17813
    (orthogonalized updates). Unlike that package, a readout that is shared with an embedding keeps its initial values.
    """
    OneOf(("fan_in", "constant", "keep")).check("mup: init", init)
    narrow, other = _models(base, delta, widths)
    if isinstance(narrow, nn.Module):
        _warn_of_heads(model, narrow)
    first, second = (parameter_shapes(x) if isinstance(x, nn.Module) else x for x in (narrow, other))
    layers = Layers(model, dict(fan_in or {}))
    scalings = [layers.scaling(name, p, first, second, init) for name, p in model.named_parameters()]
    if set(first) != {entry.name for entry in scalings}:
        extra = sorted(set(first) - {entry.name for entry in scalings})[0]
        raise ValueError(f"mup: the base has a parameter {extra!r} that the model has not")
    layers.check_patterns()
    made = MaximalUpdate(model, scalings)
    earlier: dict[str, tuple[float, float]] | None = getattr(model, _MARK, None)
    mark = {entry.name: (entry.fan_in, entry.fan_out) for entry in scalings}
    if earlier is not None:
        if earlier != mark:
            raise ValueError("mup: the model has been parametrized with another base; build it anew")
        return made
    readouts = layers.readouts(scalings)
    if any(isinstance(hook, _Multiplied) for layer, _ in readouts for hook in layer._forward_pre_hooks.values()):
        raise ValueError("mup: a part of the model has been parametrized before")
    for layer, factor in readouts:
        layer.register_forward_pre_hook(_Multiplied(factor), with_kwargs=True)
    if init != "keep":
        with torch.no_grad():
            for entry, p in zip(scalings, model.parameters(), strict=True):
                if entry.initial != 1:
                    p.mul_(entry.initial)
    setattr(model, _MARK, mark)
    return made


def attention_scale(head_dim: int, base_head_dim: int) -> float:
    """The ``scale`` of scaled_dot_product_attention in muP: ``sqrt(base_head_dim) / head_dim``.

    In training, queries and keys become correlated, so their product grows with the dimension, not with its root. At
    the base width the scale is the usual one. It is needed where heads grow in dimension; where they grow in number,
    the usual scale is right.

    Args:
        head_dim: dimension of a head, >= 1.
        base_head_dim: in the base model, >= 1.
    """
    Integer(low=1).check("attention_scale: head_dim", head_dim)
    Integer(low=1).check("attention_scale: base_head_dim", base_head_dim)
    return float(base_head_dim**0.5 / head_dim)


class _Multiplied:
    """A forward pre-hook that multiplies the input: a class, so that models with it can be copied and pickled."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (args[0] * self.factor, *args[1:]), kwargs
        return args, {**kwargs, "input": kwargs["input"] * self.factor}


def _models(base: Any, delta: Any, widths: tuple[int, int] | None) -> tuple[Any, Any]:
    """Base and delta, as models or shapes."""
    if callable(base) and not isinstance(base, nn.Module):
        if widths is None or delta is not None:
            raise ValueError(f"mup: a function as base needs widths=(base, delta) and no delta, got widths={widths!r}")
        # Building a model draws random numbers, which must not change what the caller draws next.
        with torch.random.fork_rng():
            return base(widths[0]), base(widths[1])
    if widths is not None:
        raise ValueError(f"mup: widths={widths!r} goes with a function as base")
    for name, value in (("base", base), ("delta", delta)):
        if not isinstance(value, (nn.Module, Mapping)) and (name == "base" or value is not None):
            raise TypeError(f"mup: {name} must be a model or its shapes by name, got {value!r}")
    return base, base if delta is None else delta


def _warn_of_heads(model: nn.Module, base: nn.Module) -> None:
    """What is known of attention is torch's own layer, which divides by the root of the dimension of a head."""
    layers = dict(base.named_modules())
    for name, layer in model.named_modules():
        other = layers.get(name)
        if not (isinstance(layer, nn.MultiheadAttention) and isinstance(other, nn.MultiheadAttention)):
            continue
        if layer.head_dim != other.head_dim:
            warnings.warn(
                f"mup: the heads of {name!r} grow from {other.head_dim} to {layer.head_dim} dimensions, and "
                "nn.MultiheadAttention divides by the root of that; let their number grow, or use attention_scale",
                stacklevel=3,
            )


CARD = MethodCard(
    name="mup",
    title="muP",
    room="parametrize",
    family="width",
    summary="Initial values, multipliers and learning rates with which the best learning rate holds for all widths.",
    target="steepest.train.parametrize.mup:mup",
    papers=(
        Paper(
            "Yang, Littwin",
            2023,
            "Tensor Programs IVb: Adaptive Optimization in the Infinite-Width Limit",
            arxiv="2308.01814",
        ),
        Paper(
            "Yang, Hu, Babuschkin, Sidor, Liu, Farhi, Ryder, Pachocki, Chen, Gao",
            2022,
            "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
            arxiv="2203.03466",
        ),
    ),
    needs=frozenset({"gradient", "function"}),
    buffers=0,
    usage='steepest.train.parametrize.mup(model, base).groups("adam", lr=1e-3)',
    claim=(
        "Under muP the activations of all layers change by as much per step at every width, so the best learning rate "
        "of a narrow network is that of a wide one; under the standard parametrization it falls with the width."
    ),
)
