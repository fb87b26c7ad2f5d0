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

from .engine import Engine, apply, apply_sharded, choose_engine
from .errors import parameter_label
from .functional import Functional
from .ranges import Flag, OneOf, Range, check_settings
from .routing import Routing, route
from .rule import Granularity, Measure, Rule, StateMakers
from .sharding import is_sharded, local, on_any_process
from .state_dict import check_loadable
from .store import Rounding, StateDtype, Store

__all__ = ["Common", "NonFinite", "Parameters", "RuleOptimizer"]

NonFinite = Literal["propagate", "skip", "raise"]
Parameters = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Common(TypedDict, total=False):
    """Keyword arguments that every rule optimizer takes; :class:`RuleOptimizer` explains them."""

    maximize: bool
    engine: Engine
    nonfinite: NonFinite
    state_dtype: StateDtype
    rounding: Rounding


_COMMON: dict[str, Range] = {
    "maximize": Flag(),
    "engine": OneOf(("auto", "eager", "compiled")),
    "nonfinite": OneOf(("propagate", "skip", "raise")),
    "state_dtype": OneOf(("float32", "bfloat16", "8bit")),
    "rounding": OneOf(("nearest", "stochastic", "compensated")),
}


class RuleOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` made of a pure update rule.

    Subclasses define ``rule`` (a static method, see :class:`~steepest.core.rule.Rule`) and, where they have them,
    ``state_tensors``, ``granularity``, ``coefficients``, ``measure``, ``ranges``, ``static``, ``nonnegative``,
    ``full_precision``, ``fallback``, ``couples_groups`` and ``uniform``; their ``__init__`` spells the settings out and
    passes them on.

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
        state_dtype: how state of the parameter's size is stored between steps. ``"float32"``; ``"bfloat16"``: 2 bytes
            per number; ``"8bit"``: one byte and a scale per 256 numbers, for tensors of at least 4,096 elements. Both
            are rounded stochastically; the rule computes in float32 in any case. State of float64 and complex
            parameters stays as it is.
        rounding: how the new value of a half-precision parameter is rounded. ``"nearest"``: updates below half its
            spacing are lost; ``"stochastic"`` (bfloat16 only): they act in the mean; ``"compensated"``: what was lost
            is kept in a further half-precision state tensor.
        routing: patterns that override where a module's parameters go (methods with a fallback only).

    Raises:
        ValueError, TypeError: a setting is out of its range (the message names it), no parameters are given, a
            parameter appears twice, or is complex where the rule has no meaning for complex numbers.
        RuntimeError: a gradient is sparse; or low-precision state or stochastic rounding is asked for a sharded
            parameter.

    State of half-precision parameters is kept in float32 unless ``state_dtype`` says otherwise, and the rule is
    evaluated in float32 for them.
    """

    state_tensors: ClassVar[StateMakers] = {}
    granularity: ClassVar[Granularity | Callable[..., Granularity]] = "elementwise"
    coefficients: ClassVar[Callable[..., Mapping[str, Any]] | None] = None
    measure: ClassVar[Measure | None] = None
    ranges: ClassVar[Mapping[str, Range]] = {}
    static: ClassVar[tuple[str, ...]] = ()
    nonnegative: ClassVar[tuple[str, ...]] = ()
    full_precision: ClassVar[tuple[str, ...]] = ()
    complex_as_real: ClassVar[bool] = True
    fallback: ClassVar[Rule | None] = None
    #: Whether ``measure`` sees the tensors of all groups together; it is then given the settings of the first one.
    couples_groups: ClassVar[bool] = False
    #: Settings that are of the whole optimizer, and so the same in all groups.
    uniform: ClassVar[tuple[str, ...]] = ()
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
                measure=cls.measure,
                ranges=cls.ranges,
                static=cls.static,
                nonnegative=cls.nonnegative,
                full_precision=cls.full_precision,
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
        state_dtype: StateDtype = "float32",
        rounding: Rounding = "nearest",
        fallback_settings: Mapping[str, Any] | None = None,
        routing: Mapping[str, str] | None = None,
    ) -> None:
        common = {
            "maximize": maximize,
            "engine": engine,
            "nonfinite": nonfinite,
            "state_dtype": state_dtype,
            "rounding": rounding,
        }
        check_settings(type(self).__name__, common, _COMMON)
        check_settings(type(self).__name__, settings, self.ranges)
        self.engine: Engine = engine
        self.nonfinite: NonFinite = nonfinite
        self.store = Store(state_dtype, rounding)
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
        for setting in self.uniform if self.param_groups else ():
            ours, theirs = self.param_groups[0][setting], group.get(setting, self.defaults[setting])
            if ours != theirs:
                raise ValueError(f"{owner}: {setting} must be the same in all groups, {ours!r}, got {theirs!r}")
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
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """Take one step; parameters without a gradient are left alone.

        Args:
            closure: re-evaluates the model with gradients enabled and returns the loss.
            loss: the value of the loss where there is no closure, for the few methods whose step depends on it.

        Returns:
            What the closure returned, else ``loss``.
        """
        return self.advance(closure, loss)

    def advance(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """What :meth:`step` does; methods override this one.

        torch puts a class's step hooks around its ``step``. A ``step`` that called its parent's would run them twice
        whenever the parent class is in use too.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [(group, self._with_gradient(group)) for group in self.param_groups]
        if self.nonfinite != "propagate" and not self._finite(active):
            self.skipped_steps += 1
            return loss
        self.check_ready([p for _, params in active for p in params])
        elements = sum(p.numel() for group in self.param_groups for p in group["params"])
        planned = [
            (group, params, self._buckets(self.rule_named(group["rule"]), group, params)) for group, params in active
        ]
        common: Mapping[str, Any] = {}
        if self.couples_groups:
            places = [(group, p) for group, params in active for p in params]
            common = self._measured(self.algorithm, self.param_groups[0], places, loss)
        for group, params, buckets in planned:
            rule = self.rule_named(group["rule"])
            own = common if self.couples_groups else self._measured(rule, group, [(group, p) for p in params], loss)
            settings = {**group, **own}
            for (step, _, device), bucket in buckets.items():
                engine = choose_engine(self.engine, elements, device)
                for part in self.store.parts(bucket):
                    items = [self.store.lend(p, self.state[p], group, engine) for p in part]
                    if any(is_sharded(p) for p in part):
                        apply_sharded(rule, settings, step, items, engine=engine)
                    else:
                        apply(rule, settings, step, items, engine=engine)
                    for p, item in zip(part, items, strict=True):
                        self.store.keep(rule, p, self.state[p], item, engine)
        self.after_step()
        return loss

    def check_ready(self, params: list[Tensor]) -> None:
        """Refuse a step of these parameters that lacks something besides their gradients."""

    def after_step(self) -> None:
        """Called at the end of every step that was not skipped, for methods that prepare the next one."""

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

    def _buckets(
        self, rule: Rule, group: Mapping[str, Any], params: list[Tensor]
    ) -> dict[tuple[int, torch.dtype, torch.device], list[Tensor]]:
        """Parameters that are updated alike; those that take their first step get their state.

        The count of the step tells them apart only where the rule asks for it, so that equal matrices are stacked even
        if some have missed steps.
        """
        buckets: dict[tuple[int, torch.dtype, torch.device], list[Tensor]] = {}
        for p in params:
            state = self.state[p]
            if not state:
                state.update(self.store.begin(rule, p, group))
            state["step"] += 1
            count = state["step"] if rule.coefficients is not None else 1
            buckets.setdefault((count, p.dtype, p.device), []).append(p)
        return buckets

    def _measured(
        self, rule: Rule, holder: dict[str, Any], places: list[tuple[dict[str, Any], Tensor]], loss: Any
    ) -> Mapping[str, Any]:
        """What the rule measures on these tensors together; the group ``holder`` has the settings and the memory."""
        if rule.measure is None or not places:
            return {}
        items = [self.store.lend(p, self.state[p], group, "eager") for group, p in places]
        pieces = [(item.x, item.g, *item.state) for item in items]
        numbers, memory = rule.measure(pieces, holder, holder.get("shared", {}), loss)
        holder["shared"] = {k: float(v) if isinstance(v, Tensor) else v for k, v in memory.items()}
        return numbers

    # ---------------------------------------------------------------------------------------- saving

    def state_settings(self, p: Tensor, group: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings under which the saved ``entry`` of a parameter's state was made: those of its group.

        Methods override it whose state tensors change their shape over time.
        """
        return group

    def __getstate__(self) -> dict[str, Any]:
        own = ("engine", "nonfinite", "store", "skipped_steps", "routing", "_fallback_settings")
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
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        own = [(p, group) for group in self.param_groups for p in group["params"]]
        for index, (p, group) in zip(saved, own, strict=True):
            entry = state_dict["state"].get(index)
            if not entry:
                continue
            restored: dict[str, Any] = {"step": int(entry["step"])}
            settings = self.state_settings(p, group, entry)
            for name, shape in self.store.layout(self.rule_named(group["rule"]), p, settings).items():
                if shape.shape == p.shape and is_sharded(entry[name]) == is_sharded(p):
                    restored[name] = torch.empty_like(p.detach(), dtype=shape.dtype)
                else:
                    restored[name] = torch.empty(shape.shape, dtype=shape.dtype, device=p.device)
                restored[name].copy_(entry[name])
            self.state[p] = restored

    # ---------------------------------------------------------------------------------------- functional

    @classmethod
    def functional(cls, **settings: Any) -> Functional:
        """The same rule as pure functions of dictionaries of tensors, for ``torch.func`` (``grad``, ``vmap``).

        Args:
            settings: the optimizer's settings; those left out take their defaults.
        """
        probe = cls([torch.zeros(1, 1)], **settings)
        return Functional(cls.algorithm, {k: deepcopy(v) for k, v in probe.param_groups[0].items() if k != "params"})
