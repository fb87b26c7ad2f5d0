"""The functional engine: an update rule as pure functions of dictionaries of tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .rule import Rule, compute_dtype

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
            state[name] = {k: make(x).to(compute_dtype(x.dtype)) for k, make in self.rule.state.items()}
        return state

    def update(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: Mapping[str, Any], **overrides: Any
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One step: new parameters and new state; the arguments are left as they are."""
        step = state["step"] + 1
        settings = {**self.settings, **overrides}
        numbers = self.rule.numbers(step, settings)
        numbers.update({k: v for k, v in overrides.items() if k in numbers})
        statics = dict(self.rule.statics(settings))
        new_params: dict[str, Tensor] = {}
        new_state: dict[str, Any] = {"step": step}
        for name, x in params.items():
            dtype = compute_dtype(x.dtype)
            g = -grads[name] if settings.get("maximize") else grads[name]
            pieces = [t.to(dtype) for t in (x, g, *(state[name][k] for k in self.rule.state))]
            matrix = self.rule.granularity_of(x, settings) == "matrix"
            if matrix:
                pieces = [t.reshape(1, x.shape[0], -1) for t in pieces]
            y, *results = self.rule.update(*pieces, **numbers, **statics)
            new_params[name] = y.reshape(x.shape).to(x.dtype) if matrix else y.to(x.dtype)
            new_state[name] = {
                k: r.reshape(x.shape) if matrix else r for k, r in zip(self.rule.state, results, strict=True)
            }
        return new_params, new_state
