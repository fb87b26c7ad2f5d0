"""Transforms: optimizers that change the gradients or the update of another optimizer.

A transform wraps any ``torch.optim.Optimizer`` and is one itself, so that transforms nest. Gradients pass from the
outside in: ``NormClip(GradientNoise(SGD(...)))`` clips, then adds noise, then steps. What is done to the update or to
the parameters is done from the inside out.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from .errors import parameter_label
from .ranges import Range, check_settings

__all__ = ["Entry", "Transform", "real"]

_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


class Entry(NamedTuple):
    """A parameter with a gradient.

    Args:
        group: its parameter group.
        parameter: the parameter.
        gradient: its gradient; of a complex parameter the pairs of reals, see :func:`real`.
    """

    group: dict[str, Any]
    parameter: Tensor
    gradient: Tensor


class Transform(Optimizer):
    """An optimizer that changes what another one does.

    It is a ``torch.optim.Optimizer`` whose parameter groups and state are the base's own objects: schedulers, gradient
    scalers, closures and hooks work as with the base. A subclass defines one or more of :meth:`transform` (new
    gradients), :meth:`begin` and :meth:`finish` (before and after the base moves the parameters).

    The base sees the new gradients in ``.grad``; after the step, ``.grad`` holds again what it held before. A closure
    is wrapped, so that a base that evaluates it several times (LBFGS) sees new gradients every time. Parameters without
    a gradient are left out.

    ``state_dict()`` is the base's with an entry ``"transforms"`` in its first parameter group (where
    ``torch.distributed.checkpoint`` keeps it): one record per transform, from the outside in, with its settings and
    its own state.

    Args:
        base: the optimizer.
        settings: the transform's settings, checked against ``ranges``; kept as attributes, which may be set later.

    Raises:
        TypeError: ``base`` is not an optimizer.
        ValueError, TypeError: a setting is out of its range.
        ValueError: ``base`` makes its gradients within its step, where a transform cannot change them.
        RuntimeError: a gradient is sparse (in the step, before anything is changed).
    """

    ranges: ClassVar[Mapping[str, Range]] = {}
    #: Attributes beside the settings that a resumed run needs; counts, as whole numbers.
    counts: ClassVar[tuple[str, ...]] = ()
    #: Whether it moves parameters itself; a quasi-Newton base, which remembers its own moves, is refused then.
    moves: ClassVar[bool] = False
    #: Whether a step evaluates more than once, and so needs a closure.
    closure_required: bool = False
    base: Optimizer

    def __init__(self, base: Optimizer, **settings: Any) -> None:
        # Not super().__init__, which would make groups and a state of its own; the base has them.
        if not isinstance(base, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: base must be an optimizer (torch.optim.Optimizer), got {type(base).__name__}"
            )
        self.__setstate__({"base": base, **settings, **dict.fromkeys(self.counts, 0)})
        if self.blind and not hasattr(self.unwrapped, "backward"):
            raise ValueError(
                f"{type(self).__name__}: base must not be {type(self.unwrapped).__name__}, which makes its gradients "
                "in its step, out of reach of this transform"
            )
        if self.moves and isinstance(self.unwrapped, torch.optim.LBFGS):
            raise ValueError(
                f"{type(self).__name__}: base must not be LBFGS, whose curvature pairs are differences between the "
                "points that it chose itself; this transform would move them"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.ranges:
            check_settings(type(self).__name__, {name: value}, self.ranges)
        super().__setattr__(name, value)

    # ---------------------------------------------------------------------------------------- what a subclass defines

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor] | None:
        """New gradients in the order of the entries, in the dtype of the old; ``None`` where nothing changes.

        Called after every evaluation. It must not write to the gradients.
        """
        return None

    def begin(self, entries: Sequence[Entry]) -> Any:
        """Called once per step, with gradients known and parameters not yet moved; the result goes to `finish`."""

    def finish(self, entries: Sequence[Entry], begun: Any) -> None:
        """Called once per step, after the base has moved the parameters."""

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        """Call the closure, with gradients enabled; what follows is :meth:`transform`."""
        return closure()

    # ---------------------------------------------------------------------------------------- the base's own things

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base's parameter groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base's state."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base's defaults."""
        return self.base.defaults

    @property
    def unwrapped(self) -> Optimizer:
        """The innermost optimizer, which is no transform."""
        return self.base.unwrapped if isinstance(self.base, Transform) else self.base

    @property
    def blind(self) -> bool:
        """Whether the base, in a step that evaluates, makes gradients that no transform sees."""
        return bool(getattr(self.unwrapped, "differentiates", False))

    def maximizes(self, group: Mapping[str, Any]) -> bool:
        """Whether the base maximizes the function of this group's gradients."""
        return bool(group.get("maximize", getattr(self.unwrapped, "maximize", False)))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings with their values."""
        return {name: getattr(self, name) for name in self.ranges}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base."""
        self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the base does."""
        self.base.zero_grad(set_to_none)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{type(self).__name__}({settings}) over {self.base!r}"

    # ---------------------------------------------------------------------------------------- step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of the base with new gradients.

        Args:
            closure: re-evaluates the model with gradients enabled and returns the loss.

        Returns:
            What the base returns: the loss, else ``None``.

        Raises:
            TypeError: there is a closure, and the base differentiates its loss: gradients would pass by unseen.
        """
        if closure is not None and self.blind:
            base = type(self.unwrapped).__name__
            raise TypeError(
                f"{type(self).__name__}: {base} differentiates the loss of a closure itself, so that its gradients "
                f"cannot be changed; call backward(loss) of the {base}, and step() without a closure"
            )
        entries: list[Entry] = []
        held: list[tuple[Tensor, Tensor, Tensor]] = []  # a parameter, its own gradient, and what the base sees
        begun: list[Any] = []

        def put_back(last: bool = False) -> None:
            # A transform inside may evaluate somewhere else, with gradients that start anew, and put ours back after.
            found = {p: gradient for p, gradient, new in held if p.grad is new}
            if last:  # also where the base has changed .grad
                found = {p: gradient for p, gradient, _ in reversed(held)} | found
            for p, gradient in found.items():
                p.grad = gradient
            held[:] = [record for record in held if record[0] not in found]

        def exchange() -> None:
            entries[:] = self._entries()
            new = self.transform(entries)
            if not begun:
                begun.append(self.begin(entries))
            if new is not None:
                for entry, gradient in zip(entries, new, strict=True):
                    p = entry.parameter
                    assert p.grad is not None
                    seen = torch.view_as_complex(gradient.contiguous()) if p.is_complex() else gradient
                    held.append((p, p.grad, seen))
                    p.grad = seen

        def evaluate() -> Any:
            assert closure is not None
            put_back()  # a closure that accumulates must find its own gradients
            with torch.enable_grad():
                loss = self.evaluate(closure)
            with torch.no_grad():
                exchange()
            return loss

        try:
            if closure is None:
                exchange()
                loss = self.base.step()
            else:
                loss = self.base.step(evaluate)
        finally:
            put_back(last=True)
        if begun:
            self.finish(entries, begun[0])
        return loss

    def _entries(self) -> list[Entry]:
        found = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in found:
            if p.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__} does not take sparse gradients (parameter "
                    f"{parameter_label(self.param_groups, p)} of shape {tuple(p.shape)}); build its embedding with "
                    "sparse=False, or give it an optimizer of its own"
                )
        return [Entry(group, p, real(p.grad)) for group, p in found]

    # ---------------------------------------------------------------------------------------- saving

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, **self.settings, **{name: getattr(self, name) for name in self.counts}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        for name in _HOOKS:
            self.__dict__.setdefault(name, OrderedDict())
        self._patch_step_function()

    def state_dict(self) -> dict[str, Any]:
        """The base's state dict, with the records of the transforms."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        inner = self.base.state_dict()
        record = {
            "transform": type(self).__name__,
            "base": type(self.base).__name__,
            **self.settings,
            **{name: getattr(self, name) for name in self.counts},
        }
        first, *others = inner["param_groups"]
        first = {**first, "transforms": [record, *first.get("transforms", ())]}
        state: dict[str, Any] = {**inner, "param_groups": [first, *others]}
        for after in self._optimizer_state_dict_post_hooks.values():
            result = after(self, state)
            state = state if result is None else result
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` of the same transforms over the same kind of base gave; settings come along.

        Raises:
            ValueError: the state is of other transforms or another base, or damaged; nothing is changed then.
        """
        state = dict(state_dict) if isinstance(state_dict, Mapping) else state_dict
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            result = before(self, state)
            state = state if result is None else result
        record, inner = self._split(state)
        self.base.load_state_dict(inner)
        for name in (*self.ranges, *self.counts):
            setattr(self, name, record[name])
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _split(self, state: Any) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """This transform's record, and the state dict of its base; both are checked as far as this class can."""
        me = type(self).__name__
        if not isinstance(state, Mapping) or not {"state", "param_groups"} <= set(state):
            raise ValueError(f"{me}: a state dict must be a mapping with 'state' and 'param_groups'")
        groups = state["param_groups"]
        if not isinstance(groups, (list, tuple)) or not groups or not isinstance(groups[0], Mapping):
            raise ValueError(f"{me}: in a state dict, 'param_groups' must be a list of mappings")
        records = groups[0].get("transforms")
        if not isinstance(records, (list, tuple)) or not records:
            raise ValueError(f"{me}: the state dict has no entry 'transforms'; it was saved without this transform")
        record = records[0]
        expected = {"transform", "base", *self.ranges, *self.counts}
        if not isinstance(record, Mapping) or record.get("transform") != me:
            found = record.get("transform") if isinstance(record, Mapping) else record
            raise ValueError(f"{me}: the state dict was saved by the transform {found!r}")
        if set(record) != expected:
            raise ValueError(f"{me}: the state dict holds {sorted(record)}, expected {sorted(expected)}")
        if record["base"] != type(self.base).__name__:
            raise ValueError(
                f"{me}: the state dict was saved over {record['base']}, this is over {type(self.base).__name__}"
            )
        try:
            check_settings(me, record, self.ranges)
        except TypeError as error:
            raise ValueError(str(error)) from error
        for name in self.counts:
            if type(record[name]) is not int or record[name] < 0:
                raise ValueError(f"{me}: {name} in the state dict must be an integer >= 0, got {record[name]!r}")
        first = {key: value for key, value in groups[0].items() if key != "transforms"}
        if len(records) > 1:
            if not isinstance(self.base, Transform):
                raise ValueError(f"{me}: the state dict has transforms inside of this one; this has none")
            first["transforms"] = list(records[1:])
        inner = {**state, "param_groups": [first, *groups[1:]]}
        return record, inner


def real(t: Tensor) -> Tensor:
    """A complex tensor as pairs of reals, which share its memory unless it is conjugated; others as they are."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
