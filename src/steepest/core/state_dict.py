"""Whether a state dict belongs to an optimizer, checked before anything is loaded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .sharding import is_sharded

if TYPE_CHECKING:
    from .optimizer import RuleOptimizer

__all__ = ["check_loadable"]


def check_loadable(optimizer: "RuleOptimizer", state_dict: Mapping[str, Any]) -> None:
    """Refuse what ``load_state_dict`` could not restore bit for bit.

    Raises:
        ValueError: the state is damaged, or belongs to another method, other groups, other shapes or another sharding;
            the message names the first difference.
    """
    me = type(optimizer).__name__
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(f"{me}: a state dict must be a mapping with 'state' and 'param_groups'")
    if not isinstance(state_dict["state"], Mapping) or not isinstance(state_dict["param_groups"], (list, tuple)):
        raise ValueError(f"{me}: in a state dict, 'state' must be a mapping and 'param_groups' a list")
    groups = state_dict["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"{me}: the state dict has {len(groups)} parameter groups, this has {len(optimizer.param_groups)}"
        )
    for index, (saved, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        if saved.get("rule", own["rule"]) != own["rule"] or "rule" not in saved:
            other = f"the rule {saved['rule']!r}" if "rule" in saved else "another optimizer"
            raise ValueError(f"{me}: group {index} of the state dict was saved by {other}, not {own['rule']!r}")
        missing = {"params", "maximize", *optimizer.rule_named(own["rule"]).ranges} & set(own) - set(saved)
        if missing:
            raise ValueError(f"{me}: group {index} of the state dict lacks {', '.join(map(repr, sorted(missing)))}")
        if len(saved["params"]) != len(own["params"]):
            raise ValueError(
                f"{me}: group {index} of the state dict has {len(saved['params'])} parameters, "
                f"this has {len(own['params'])}"
            )
        rule = optimizer.rule_named(own["rule"])
        for key, p in zip(saved["params"], own["params"], strict=True):
            entry = state_dict["state"].get(key)
            if not entry:
                continue
            expected = optimizer.store.layout(rule, p, optimizer.state_settings(p, {**own, **saved}, entry))
            if set(entry) != {"step", *expected}:
                raise ValueError(
                    f"{me}: the state dict holds {sorted(entry)} for parameter {optimizer.label(p)}, "
                    f"expected {sorted({'step', *expected})}"
                )
            if isinstance(entry["step"], bool) or not isinstance(entry["step"], (int, float, Tensor)):
                raise ValueError(
                    f"{me}: 'step' of parameter {optimizer.label(p)} must be a number, got {entry['step']!r}"
                )
            for name, layout in expected.items():
                if not isinstance(entry[name], Tensor):
                    raise ValueError(
                        f"{me}: state {name!r} of parameter {optimizer.label(p)} must be a tensor, "
                        f"got {type(entry[name]).__name__}"
                    )
                # A factor may have the parameter's shape by chance, and is whole; a second iterate is sharded as it is.
                exact = name.startswith(rule.full_precision)
                if not exact and is_sharded(entry[name]) != (is_sharded(p) and layout.shape == p.shape):
                    held, wanted = ("sharded", "whole") if is_sharded(entry[name]) else ("whole", "sharded")
                    raise ValueError(
                        f"{me}: state {name!r} of parameter {optimizer.label(p)} is a {held} tensor, the parameter is "
                        f"{wanted}; use torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
                    )
                if entry[name].shape != layout.shape:
                    raise ValueError(
                        f"{me}: state {name!r} of parameter {optimizer.label(p)} of shape {tuple(p.shape)} has shape "
                        f"{tuple(entry[name].shape)}, expected {tuple(layout.shape)}"
                    )
                if entry[name].is_floating_point() != layout.is_floating_point():
                    raise ValueError(
                        f"{me}: state {name!r} of parameter {optimizer.label(p)} has dtype {entry[name].dtype}, "
                        f"expected {layout.dtype}: it was saved with another state_dtype"
                    )
