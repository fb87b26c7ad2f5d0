"""Update rules: pure functions of tensors, and what an engine must know to run them.

A rule maps a parameter ``x``, its gradient ``g`` and its state to the new parameter and the new state::

    x, momentum = rule(x, g, momentum, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0)

It never writes to its arguments, reads no global state and branches on no tensor value, so that one text serves the
eager engine, the compiled engine and ``torch.func``.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .ranges import Range

__all__ = ["Granularity", "Measure", "Numbers", "Rule", "StateMakers", "add_scaled", "lerp"]

Granularity = Literal["elementwise", "tensor", "matrix", "shaped"]
Numbers = dict[str, float]
#: ``(pieces, settings, memory, loss) -> (numbers, memory)``, with ``(x, g, *state)`` of every tensor of a group.
Measure = Callable[
    [Sequence[tuple[Tensor, ...]], Mapping[str, Any], Mapping[str, Any], Any], tuple[dict[str, Any], dict[str, Any]]
]
#: Name -> function of the parameter; or a function ``(parameter, settings) -> {name: tensor}``.
StateMakers = Mapping[str, Callable[[Tensor], Tensor]] | Callable[[Tensor, Mapping[str, Any]], Mapping[str, Tensor]]


def lerp(start: Tensor, end: Tensor, weight: float | Tensor) -> Tensor:
    """``start + weight (end - start)``: an exponential moving average when ``weight`` is the decay's complement.

    Unlike ``torch.lerp`` it accepts a weight tensor of another dtype (the compiled engine passes hyper-parameters as
    0-dim float64 tensors, so that ``1 - 0.9999`` keeps its digits).
    """
    return start + weight * (end - start)


def add_scaled(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    """``x + scale * y``, in one pass over memory where the scale is a number, for rules that are never compiled."""
    return x + scale * y if isinstance(scale, Tensor) else torch.add(x, y, alpha=scale)


@dataclass(frozen=True)
class Rule:
    """An update rule with its state, its hyper-parameters and their ranges.

    Args:
        name: the method's name as state dicts record it.
        update: ``(x, g, *state, **settings) -> (x, *state)``; its keyword-only arguments are the settings it takes.
        state: for each state tensor, the function that makes it from the parameter; or one function of the parameter
            and the group's settings that makes them all, in the order in which ``update`` takes them. A state tensor
            of another shape than the parameter's (a Kronecker factor, say) is never flattened, so an elementwise rule
            cannot have one.
        granularity: what ``update`` may be shown. ``"elementwise"``: any flat piece of any tensors, glued together.
            The flat pieces have two dimensions, whatever the tensors had. ``"tensor"``: one whole tensor, as
            ``(out, rest)`` where it has more than two dimensions. ``"matrix"``: a stack of equally shaped matrices,
            three dimensions (and their states of another shape, stacked too). ``"shaped"``: one whole tensor in its own
            shape, never compiled. A function of the tensor and the group's settings where it depends on them.
        coefficients: ``(step, settings) -> numbers`` that change with the step count (bias corrections, warm-ups);
            computed once per step outside the kernel. ``step`` counts from 1. Those whose names are in ``static``
            select code: whether this step refreshes a preconditioner, say.
        measure: what couples the tensors of a group: ``(pieces, settings, memory, loss) -> (numbers, memory)``, called
            before anything is updated. ``pieces`` has ``(x, g, *state)`` of every tensor, ``memory`` is what the
            previous call returned (empty at first; numbers or 0-dim tensors, saved as plain numbers with the group),
            ``loss`` what the closure returned or None. The numbers become arguments of ``update``.
        defaults: the settings and their default values.
        ranges: the allowed values.
        static: settings and coefficients that select code (flags, names) rather than enter the arithmetic.
        nonnegative: state tensors without negative entries (second moments), which low-precision storage gains from.
        full_precision: state tensors, by the beginnings of their names, that are never stored in low precision.
        complex_as_real: whether a complex parameter may be treated as pairs of reals, as torch.optim does.
    """

    name: str
    update: Callable[..., tuple[Tensor, ...]]
    state: StateMakers = field(default_factory=dict)
    granularity: Granularity | Callable[[Tensor, Mapping[str, Any]], Granularity] = "elementwise"
    coefficients: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] | None = None
    measure: Measure | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    static: tuple[str, ...] = ()
    nonnegative: tuple[str, ...] = ()
    full_precision: tuple[str, ...] = ()
    complex_as_real: bool = True

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.update).parameters.values()
        taken = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        object.__setattr__(self, "arguments", tuple(a for a in taken if a not in self.static))
        object.__setattr__(self, "static_arguments", tuple(a for a in taken if a in self.static))

    arguments: tuple[str, ...] = field(init=False, repr=False, default=())
    static_arguments: tuple[str, ...] = field(init=False, repr=False, default=())

    def granularity_of(self, x: Tensor, settings: Mapping[str, Any]) -> Granularity:
        """What the rule must be shown of this tensor under these settings."""
        return self.granularity if isinstance(self.granularity, str) else self.granularity(x, settings)

    def make_state(self, x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state before the first step, in the order in which :attr:`update` takes it."""
        if callable(self.state):
            return dict(self.state(x, settings))
        return {name: make(x) for name, make in self.state.items()}

    def values(self, step: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings and coefficients at this step.

        A setting that is a sequence is spread over numbered names: ``betas`` gives ``beta1``, ``beta2``, ...
        """
        values = spread(settings)
        if self.coefficients is not None:
            values.update(self.coefficients(step, values))
        return values

    def numbers(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The numeric arguments of :attr:`update`, of what :meth:`values` gave."""
        try:
            return {name: values[name] for name in self.arguments}
        except KeyError as missing:
            raise TypeError(
                f"rule {self.name!r} takes {missing}, which neither settings nor coefficients give"
            ) from None

    def statics(self, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The arguments that select code, of what :meth:`values` gave, as a hashable key."""
        return tuple((name, values[name]) for name in self.static_arguments)


def spread(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every sequence spread over numbered singular names: ``betas`` -> ``beta1``, ``beta2``."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, (tuple, list)) and name not in ("params", "param_names"):
            singular = name.removesuffix("s")
            values.update({f"{singular}{index}": item for index, item in enumerate(value, start=1)})
        else:
            values[name] = value
    return values


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a rule is evaluated: float32 for half precision, the parameter's own otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def as_state(t: Tensor, x: Tensor) -> Tensor:
    """A state tensor of the parameter ``x`` in the dtype that states have: float32 at least."""
    return t.to(compute_dtype(x.dtype)) if t.is_floating_point() else t
