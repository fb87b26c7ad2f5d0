"""The base class that makes a ``torch.optim.Optimizer`` of an update rule.

A subclass gives the rule and its signature; everything else (parameter groups, state dicts, closures, checks, dtypes,
memory layouts, sharded tensors, the engine) is here, once for all methods.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .engine import Engine, Item, apply, choose_engine
from .errors import parameter_label
from .functional import Functional
from .ranges import Flag, OneOf, Range, check_settings
from .routing import Routing, route
from .rule import Granularity, Rule, compute_dtype
from .sharding import full, is_sharded, local, on_any_process, write_full
from .state_dict import check_loadable

__all__ = ["Common", "NonFinite", "Parameters", "RuleOptimizer"]

NonFinite = Literal["propagate", "skip", "raise"]
Parameters = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Common(TypedDict, total=False):
    """Keyword arguments that every rule optimizer takes; :class:`RuleOptimizer` explains them."""

    maximize: bool
    engine: Engine
    nonfinite: NonFinite


_COMMON: dict[str, Range] = {
    "maximize": Flag(),
    "engine": OneOf(("auto", "eager", "compiled")),
    "nonfinite": OneOf(("propagate", "skip", "raise")),
}


class RuleOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` made of a pure update rule.

    Subclasses define ``rule`` (a static method, see :class:`~steepest.core.rule.Rule`) and, where they have them,
    ``state_tensors``, ``granularity``, ``coefficients``, ``ranges``, ``static`` and ``fallback``; their ``__init__``
    spells the settings out and passes them on.

    Args:
        params: parameters, parameter groups, named parameters, or a whole ``nn.Module``. Methods with a ``fallback``
            rule split a module with :func:`~steepest.core.routing.route`; the others take all its parameters.
        settings: the hyper-parameters with their values, checked against ``ranges`` (also in every group).
        maximize: ascend instead of descend.
        engine: ``"eager"`` (the rule as it stands), ``"compiled"`` (one fused kernel under ``torch.compile``), or
            ``"auto"``: compiled when the optimizer holds at least 2 million elements on a CPU or CUDA device.
        nonfinite: what a NaN or infinite gradient does. ``"propagate"``: nothing is checked, as in torch.optim.
            ``"skip"``: the whole step is left out and counted in ``skipped_steps``. ``"raise"``: ``FloatingPointError``
            that names the parameter, before anything is changed.
        routing: patterns that override where a module's parameters go (methods with a fallback only).

    Raises:
        ValueError, TypeError: a setting is out of its range (the message names it), no parameters are given, a
            parameter appears twice, or is complex where the rule has no meaning for complex numbers.
        RuntimeError: a gradient is sparse.

    State of half-precision parameters is kept in float32, and the rule is evaluated in float32 for them.
    """

    state_tensors: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]] = {}
    granularity: ClassVar[Granularity | Callable[..., Granularity]] = "elementwise"
    coefficients: ClassVar[Callable[..., Mapping[str, Any]] | None] = None
    ranges: ClassVar[Mapping[str, Range]] = {}
    static: ClassVar[tuple[str, ...]] = ()
    complex_as_real: ClassVar[bool] = True
    fallback: ClassVar[Rule | None] = None
    algorithm: ClassVar[Rule]

    @staticmethod
    def rule(x: Tensor, g: Tensor, *state: Tensor, **settings: Any) -> tuple[Tensor, ...]:
        """The update rule: from parameter, gradient and state to the new parameter and state."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "rule" in cls.__dict__:
            cls.algorithm = Rule(
                name=cls.__name__.lower(),
                update=cls.rule,
                state=cls.state_tensors,
                granularity=cls.granularity,
                coefficients=cls.coefficients,
                ranges=cls.ranges,
                static=cls.static,
                complex_as_real=cls.complex_as_real,
            )

    def __init__(
        self,
        params: Parameters,
        settings: Mapping[str, Any],
        *,
        maximize: bool = False,
        engine: Engine = "auto",
        nonfinite: NonFinite = "propagate",
        fallback_settings: Mapping[str, Any] | None = None,
        routing: Mapping[str, str] | None = None,
    ) -> None:
        common = {"maximize": maximize, "engine": engine, "nonfinite": nonfinite}
        check_settings(type(self).__name__, common, _COMMON)
        check_settings(type(self).__name__, settings, self.ranges)
        self.engine: Engine = engine
        self.nonfinite: NonFinite = nonfinite
        self.skipped_steps = 0
        self.routing: Routing | None = None
        self._fallback_settings = dict(fallback_settings or {})
        if isinstance(params, nn.Module):
            params = self._of_module(params, routing)
        elif routing is not None:
            raise TypeError(f"{type(self).__name__}: routing needs the whole model as first argument, got parameters")
        super().__init__(params, {**settings, "maximize": maximize})  # type: ignore[arg-type]

    def _of_module(self, module: nn.Module, routing: Mapping[str, str] | None) -> Any:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(f"{type(self).__name__}: the module {type(module).__name__} has no trainable parameters")
        if self.fallback is None:
            if routing is not None:
                raise TypeError(f"{type(self).__name__} treats all parameters alike; it takes no routing")
            return named
        self.routing = route(module, routing)
        return [
            group
            for group in (
                {"params": self.routing.named("matrix"), "rule": self.algorithm.name},
                {"params": self.routing.named("embedding", "head", "vector"), "rule": self.fallback.name},
            )
            if group["params"]
        ]

    # ---------------------------------------------------------------------------------------- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; settings it does not name take the optimizer's. Every setting is checked.

        With a ``fallback`` rule, ``rule=`` names the one that the group follows.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group must be a dict, got {type(param_group).__name__}")
        group = dict(param_group)
        rule = self.rule_named(group.setdefault("rule", self.algorithm.name))
        if rule is self.fallback:
            group = {**self._fallback_settings, **group}
        owner = f"{type(self).__name__}: parameter group {len(self.param_groups)}"
        if "params" not in group:
            raise ValueError(f"{owner} must have an entry 'params', got the keys {sorted(group)}")
        check_settings(owner, group, {**rule.ranges, "maximize": Flag()})
        group = {**self.group_settings({**self.defaults, **group}), **group}
        params = group["params"]
        if isinstance(params, (set, frozenset)):
            raise TypeError(f"{owner}: params must be in a fixed order, got a {type(params).__name__}")
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        tensors = [p[1] if isinstance(p, tuple) else p for p in group["params"]]
        names = [p[0] if isinstance(p, tuple) else None for p in group["params"]]
        seen: set[int] = set()
        for index, (name, p) in enumerate(zip(names, tensors, strict=True)):
            label = f"parameter {name!r}" if name else f"parameter {index}"
            if not isinstance(p, Tensor):
                raise TypeError(f"{type(self).__name__}: {label} must be a tensor, got {type(p).__name__}")
            if id(p) in seen:
                raise ValueError(f"{type(self).__name__}: {label} appears twice in a parameter group")
            seen.add(id(p))
            if not (p.is_floating_point() or p.is_complex()):
                raise TypeError(f"{type(self).__name__}: {label} must be floating point, got dtype {p.dtype}")
            if p.is_complex() and not rule.complex_as_real:
                raise TypeError(
                    f"{type(self).__name__}: {label} is complex ({p.dtype}); this rule is defined for real tensors only"
                )
            self.check_parameter(label, p, {**self.defaults, **group})
        super().add_param_group(group)

    def group_settings(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """Further entries that a method stores in each group when it is added (a base learning rate, say)."""
        return {}

    def check_parameter(self, label: str, p: Tensor, settings: Mapping[str, Any]) -> None:
        """Refuse tensors that the rule cannot treat: matrix rules need at least two dimensions."""
        rule = self.rule_named(settings["rule"])
        if rule.granularity == "matrix" and p.dim() < 2:
            hint = (
                f"; give such tensors to a group with rule={self.fallback.name!r}, or pass the whole model"
                if (self.fallback)
                else ""
            )
            raise ValueError(f"{type(self).__name__}: {label} of shape {tuple(p.shape)} is not a matrix{hint}")

    def rule_named(self, name: str) -> Rule:
        rules = {self.algorithm.name: self.algorithm}
        if self.fallback is not None:
            rules[self.fallback.name] = self.fallback
        if name not in rules:
            allowed = ", ".join(map(repr, rules))
            raise ValueError(f"{type(self).__name__}: rule must be one of {allowed}, got {name!r}")
        return rules[name]

    # ---------------------------------------------------------------------------------------- step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; parameters without a gradient are left alone.

        Args:
            closure: re-evaluates the model with gradients enabled and returns the loss.

        Returns:
            What the closure returned, else ``None``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [(group, self._with_gradient(group)) for group in self.param_groups]
        if self.nonfinite != "propagate" and not self._finite(active):
            self.skipped_steps += 1
            return loss
        elements = sum(p.numel() for group in self.param_groups for p in group["params"])
        for group, params in active:
            rule = self.rule_named(group["rule"])
            for (step, _, device), bucket in self._buckets(rule, params).items():
                engine = choose_engine(self.engine, elements, device)
                if _sharded(bucket):
                    self._step_sharded(rule, group, step, bucket, engine)
                else:
                    apply(rule, group, step, [self._item(rule, p, group) for p in bucket], engine=engine)
        return loss

    def _with_gradient(self, group: Mapping[str, Any]) -> list[Tensor]:
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if p.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__} does not take sparse gradients (parameter {self.label(p)} of shape "
                    f"{tuple(p.shape)}); build its embedding with sparse=False, or use torch.optim.SparseAdam for it"
                )
        return params

    def label(self, p: Tensor) -> str:
        """The parameter's name where it was given, else its position."""
        return parameter_label(self.param_groups, p)

    def _finite(self, active: list[tuple[dict[str, Any], list[Tensor]]]) -> bool:
        grads = [p.grad for _, params in active for p in params]
        shards = [g for g in map(local, grads) if g.numel()]  # an empty shard has no largest entry
        bad_here = bool(shards) and not torch.isfinite(nn.utils.get_total_norm(shards, norm_type=math.inf))
        if not on_any_process(bad_here, grads):
            return True
        if self.nonfinite == "skip":
            return False
        for _, params in active:
            for p in params:
                bad = ~torch.isfinite(local(p.grad))
                if bad.any():
                    raise FloatingPointError(
                        f"{type(self).__name__}: the gradient of parameter {self.label(p)} has {int(bad.sum())} "
                        f"non-finite of {bad.numel()} entries; nothing was changed"
                    )
        raise FloatingPointError(f"{type(self).__name__}: a gradient on another process is not finite")

    def _buckets(self, rule: Rule, params: list[Tensor]) -> dict[tuple[int, torch.dtype, torch.device], list[Tensor]]:
        buckets: dict[tuple[int, torch.dtype, torch.device], list[Tensor]] = {}
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = 0
                for name, make in rule.state.items():
                    state[name] = _as_state(make(p), p)
            state["step"] += 1
            buckets.setdefault((state["step"], p.dtype, p.device), []).append(p)
        return buckets

    def _item(self, rule: Rule, p: Tensor, group: Mapping[str, Any]) -> Item:
        x, g = p.detach(), p.grad
        assert g is not None
        state = tuple(self.state[p][name] for name in rule.state)
        if x.is_complex():
            x, g = torch.view_as_real(x), torch.view_as_real(g.resolve_conj())
            state = tuple(torch.view_as_real(s) for s in state)
        return Item(x, -g if group["maximize"] else g, state)

    def _step_sharded(
        self,
        rule: Rule,
        group: Mapping[str, Any],
        step: int,
        bucket: list[Tensor],
        engine: Literal["eager", "compiled"],
    ) -> None:
        """DTensors: an elementwise rule works on the local shards; others gather, update alike everywhere, and keep
        their shard."""
        items: list[Item] = []
        gathered: list[tuple[list[Tensor], Item]] = []
        for p in bucket:
            item = self._item(rule, p, group)
            tensors = [item.x, item.g, *item.state]
            if not is_sharded(item.x) or rule.granularity_of(item.x, group) == "elementwise":
                items.append(Item(*_tuple_item([local(t) for t in tensors])))
            else:
                whole = Item(*_tuple_item([full(t) for t in tensors]))
                items.append(whole)
                gathered.append((tensors, whole))
        apply(rule, group, step, items, engine=engine)
        for targets, whole in gathered:
            for target, result in zip([targets[0], *targets[2:]], [whole.x, *whole.state], strict=True):
                write_full(target, result)

    # ---------------------------------------------------------------------------------------- saving

    def __getstate__(self) -> dict[str, Any]:
        own = ("engine", "nonfinite", "skipped_steps", "routing", "_fallback_settings")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state saved by the same method for the same shapes; restores the state bit for bit.

        Raises:
            ValueError: the state belongs to another method, other groups or other shapes; nothing is changed then.
        """
        loaded: list[Mapping[str, Any]] = []

        def check(_: Optimizer, given: dict[str, Any]) -> None:
            check_loadable(self, given)
            loaded.append(given)

        def restore(_: Optimizer) -> None:
            self._restore_state(loaded[0])

        if not isinstance(state_dict, Mapping):
            check_loadable(self, state_dict)
        # As hooks, so that the user's pre-hooks may convert the state first and their post-hooks see the result.
        handles = (
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        )
        try:
            super().load_state_dict(dict(state_dict))
        finally:
            for handle in handles:
                handle.remove()

    def _restore_state(self, state_dict: Mapping[str, Any]) -> None:
        """torch casts loaded state to the parameter's dtype; ours is float32 for half-precision parameters."""
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(ids, params, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor) and name != "step":
                    fresh = _as_state(torch.empty_like(p), p)
                    fresh.copy_(value)
                    self.state[p][name] = fresh
                elif name == "step":
                    self.state[p][name] = int(value)

    # ---------------------------------------------------------------------------------------- functional

    @classmethod
    def functional(cls, **settings: Any) -> Functional:
        """The same rule as pure functions of dictionaries of tensors, for ``torch.func`` (``grad``, ``vmap``).

        Args:
            settings: the optimizer's settings; those left out take their defaults.
        """
        probe = cls([torch.zeros(1, 1)], **settings)
        return Functional(cls.algorithm, {k: deepcopy(v) for k, v in probe.param_groups[0].items() if k != "params"})


def _tuple_item(tensors: list[Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    return tensors[0], tensors[1], tuple(tensors[2:])


def _sharded(params: list[Tensor]) -> bool:
    return any(is_sharded(p) for p in params)


def _as_state(t: Tensor, p: Tensor) -> Tensor:
    """A state tensor in the dtype that states have: float32 at least."""
    return t.detach().to(compute_dtype(p.dtype)) if not t.is_complex() else t.detach()
