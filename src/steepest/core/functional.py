"""The functional engine: an update rule as pure functions of dictionaries of tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .rule import Rule, as_state, compute_dtype, spread

__all__ = ["Functional"]


class Functional:
    """``init`` and ``update`` without side effects, differentiable and batchable by ``torch.func``.

    Example:
        >>> import torch
        >>> from steepest.optim import Lion
        >>> opt = Lion.functional(lr=0.1)
        >>> params = {"w": torch.tensor([1.0, -2.0])}
        >>> state = opt.init(params)
        >>> params, state = opt.update(params, {"w": torch.tensor([0.5, 0.5])}, state)
        >>> params["w"]
        tensor([ 0.9000, -2.1000])

    Settings may be overridden in every call, also by tensors that require gradients (``update(..., lr=lr)``); members
    of a tuple go by numbered names: ``beta1=``.
    """

    def __init__(self, rule: Rule, settings: Mapping[str, Any]) -> None:
        self.rule = rule
        self.settings = dict(settings)

    def init(self, params: Mapping[str, Tensor]) -> dict[str, Any]:
        """The state before the first step: ``{"step": 0, name: {state: tensor}}``."""
        state: dict[str, Any] = {"step": 0}
        for name, x in params.items():
            made = self.rule.make_state(x, self.settings)
            state[name] = {k: as_state(t, x) for k, t in made.items()}
        return state

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, Any],
        loss: Any = None,
        **overrides: Any,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One step: new parameters and new state; the arguments are left as they are.

        ``loss`` is needed by the few methods whose step depends on its value.
        """
        step = state["step"] + 1
        settings = {**self.settings, **overrides}
        unknown = sorted(set(overrides) - set(self.settings) - set(spread(self.settings)))
        if unknown:
            known = ", ".join(sorted(set(spread(self.settings)) - {"rule"}))
            raise TypeError(f"the rule {self.rule.name!r} has no setting {unknown[0]!r}; it has {known}")
        sign = -1 if settings.get("maximize") else 1
        new_params: dict[str, Tensor] = {}
        new_state: dict[str, Any] = {"step": step}
        if self.rule.measure is not None:
            shown = [(x, sign * grads[name], *state[name].values()) for name, x in params.items()]
            pieces = [tuple(torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in p) for p in shown]
            measured, new_state["shared"] = self.rule.measure(pieces, settings, state.get("shared", {}), loss)
            settings = {**settings, **measured}
        values = self.rule.values(step, settings)
        arguments = {**self.rule.numbers(values), **dict(self.rule.statics(values))}
        for name, x in params.items():
            y, *results = self._advance(name, [x, sign * grads[name], *state[name].values()], settings, arguments)
            new_params[name] = y.to(x.dtype)
            new_state[name] = dict(zip(state[name], results, strict=True))
        return new_params, new_state

    def _advance(
        self, name: str, pieces: list[Tensor], settings: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> list[Tensor]:
        """The rule on one tensor, shown as the other engines show it: complex as pairs of reals, matrices stacked."""
        is_complex = pieces[0].is_complex()
        if is_complex:
            if not self.rule.complex_as_real:
                raise TypeError(f"{name!r} is complex ({pieces[0].dtype}); {self.rule.name} is for real tensors only")
            pieces = [torch.view_as_real(t.resolve_conj()) for t in pieces]
        shape, dtype = pieces[0].shape, compute_dtype(pieces[0].dtype)
        shapes = [t.shape for t in (pieces[0], *pieces[2:])]
        shown = [t.to(dtype) for t in pieces]
        if self.rule.granularity_of(pieces[0], settings) == "matrix":
            if len(shape) < 2:
                raise ValueError(f"{name!r} of shape {tuple(shape)} is not a matrix, which {self.rule.name} needs")
            shown = [t.reshape(1, shape[0], -1) if t.shape == shape else t.unsqueeze(0) for t in shown]
        results = [t.reshape(s) for t, s in zip(self.rule.update(*shown, **arguments), shapes, strict=True)]
        return [torch.view_as_complex(t.contiguous()) for t in results] if is_complex else results
