"""What the optimizers share whose preconditioner is fitted in a Lie group: when to fit it, and to what."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.engine import apply, apply_sharded
from ..core.lie import initial_scale
from ..core.optimizer import RuleOptimizer
from ..core.random import normal
from ..core.ranges import EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Integer, OneOf, Range, Real
from ..core.rule import Rule, add_scaled
from ..core.sharding import is_sharded

__all__ = ["Curvature", "LieOptimizer", "average", "descend", "draw", "fitting_pair", "starting"]

Curvature = Literal["gradient", "momentum", "hessian"]
#: The published schedule of the probability to refit: 1 for this many steps, then falling at this rate to the last.
_FLAT, _DECAY, _LAST = 500, 1e-3, 0.03


class LieOptimizer(RuleOptimizer):
    """Base of the optimizers that fit their preconditioner in a Lie group.

    A subclass has, besides ``rule``, the static method ``fit(v, h, lipschitz, *factors, **settings)``, which returns
    ``(lipschitz, *factors)``. State tensors are ``momentum``, ``lipschitz``, and the factors, in this order.
    """

    granularity = "shaped"
    complex_as_real = False
    full_precision = ("lipschitz", "factor", "left", "right", "diagonal", "anti")
    static = ("curvature", "clip_rms", "clip_value", "init_scale", "refit", "count", "step", "seed", "fast_products")
    ranges: ClassVar[Mapping[str, Range]] = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "curvature": OneOf(("gradient", "momentum", "hessian")),
        "precond_lr": Real(low=0.0, high=1.0, high_open=True),
        "update_probability": Real(low=0.0, high=1.0, low_open=True, optional=True),
        "lipschitz_beta": MOMENTUM,
        "damping": EPSILON,
        "init_scale": Real(low=0.0, low_open=True, optional=True),
        "clip_rms": Real(low=0.0, low_open=True, optional=True),
        "clip_value": Real(low=0.0, low_open=True, optional=True),
        "seed": Integer(low=0),
    }

    @staticmethod
    def coefficients(step: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The weight of the present gradient in the momentum, and whether this step refits."""
        count = _refits(step, settings["update_probability"])
        refit = settings["curvature"] != "hessian" and count > _refits(step - 1, settings["update_probability"])
        return {"weight": max(1 / step, 1 - settings["momentum"]), "refit": refit, "count": count, "step": step}

    def group_settings(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """The number of pairs that have been observed."""
        return {"observations": 0}

    @staticmethod
    def fit(v: Tensor, h: Tensor, lipschitz: Tensor, *factors: Tensor, **settings: Any) -> tuple[Tensor, ...]:
        """One step of the preconditioner on a pair."""
        raise NotImplementedError

    def probes(self) -> list[Tensor]:
        """Standard normal vectors, one per parameter, from the seed and the number of pairs observed so far."""
        return [
            draw(p.detach(), group["seed"], "probe", group["observations"])
            for group in self.param_groups
            for p in group["params"]
        ]

    @torch.no_grad()
    def observe(self, probes: Sequence[Tensor], products: Sequence[Tensor | None]) -> None:
        """Fit the preconditioner to pairs of probes and Hessian-vector products (``curvature="hessian"``).

        Args:
            probes: one tensor per parameter, in the order of the groups, drawn independently of the parameters
                with mean 0 and covariance I: those of :meth:`probes`, say.
            products: the Hessian times the probes; None for parameters that the loss does not depend on.

        Raises:
            ValueError: a group is not fitted to Hessians, or the number or shapes of the tensors do not match.
        """
        params = [(group, p) for group in self.param_groups for p in group["params"]]
        name = type(self).__name__
        for what, given in (("probes", probes), ("products", products)):
            if len(given) != len(params):
                raise ValueError(f"{name}: {what} must be {len(params)} tensors, one per parameter, got {len(given)}")
            for (group, p), t in zip(params, given, strict=True):
                if t is not None and t.shape != p.shape:
                    raise ValueError(
                        f"{name}: {what} of parameter {self.label(p)} must have its shape {tuple(p.shape)}, "
                        f"got {tuple(t.shape)}"
                    )
                if group["curvature"] != "hessian":
                    raise ValueError(f"{name}: observe needs curvature='hessian', got {group['curvature']!r}")
        for (group, p), v, h in zip(params, probes, products, strict=True):
            if h is None or not p.numel():
                continue
            state = self.state[p]
            if not state:
                state.update(self.store.begin(self.algorithm, p, group))
            item = self.store.lend(p, state, group, "eager", gradient=h)
            run = apply_sharded if is_sharded(p) else apply
            run(self._observation(group), {}, 1, [item._replace(state=(v, *item.state))], engine="eager")
            self.store.keep(self.algorithm, p, state, item, "eager")
        for group in self.param_groups:
            group["observations"] += 1

    def _observation(self, group: Mapping[str, Any]) -> Rule:
        """An observation as a rule, which leaves parameter, probe and momentum as they are."""
        count = group["observations"] + 1

        def update(x: Tensor, h: Tensor, v: Tensor, momentum: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            h = h + group["damping"] * draw(h, group["seed"], "damping", count)
            return x, v, momentum, *self.fit(v, h, *state, **{**group, "count": count})

        return Rule(self.algorithm.name, update, granularity="shaped")


def _refits(step: int, probability: float | None) -> int:
    """How often the preconditioner has been fitted after ``step`` steps: the expected number, rounded up."""
    if probability is not None:
        expected = step * probability
    else:
        bend = -math.log(_LAST) / _DECAY
        late = max(0.0, step - _FLAT)
        expected = min(step, _FLAT) - math.expm1(-_DECAY * min(late, bend)) / _DECAY + _LAST * max(0.0, late - bend)
    return math.ceil(expected - 1e-9)


def draw(like: Tensor, *keys: int | str) -> Tensor:
    """Standard normal numbers that depend on the keys and the number of elements, but not on the dtype."""
    flat = torch.empty(like.numel(), dtype=torch.float32, device=like.device)
    return normal(flat, *keys).reshape(like.shape).to(like.dtype)


def starting(lipschitz: Tensor, v: Tensor, h: Tensor, settings: Mapping[str, Any]) -> Tensor | float:
    """What Q is multiplied by before it is fitted: its first scale, where it has none and was never fitted."""
    observed = settings["curvature"] == "hessian"
    if settings["init_scale"] is not None or (settings["count"] > 1 and not observed):
        return 1.0
    return torch.where((lipschitz == 0).all(), initial_scale(h, v if observed else None), 1.0)


def average(momentum: Tensor, g: Tensor, weight: float) -> Tensor:
    """The momentum with the present gradient."""
    return add_scaled((1 - weight) * momentum, g, weight)  # several times faster than torch.lerp on a CPU


def fitting_pair(g: Tensor, momentum: Tensor, curvature: str, seed: int, step: int, damping: float) -> Any:
    """A probe, and what shall be whitened; the damping bounds P by 1 / damping where nothing is seen."""
    v = draw(g, seed, step)
    return v, (momentum if curvature == "momentum" else g) + damping * v


def descend(
    x: Tensor, u: Tensor, lr: float, weight_decay: float, clip_rms: float | None, clip_value: float | None
) -> Tensor:
    """The parameter moved against ``u``, whose root mean square and then entries are clipped, after its decay."""
    factor = u.new_ones(())
    if clip_rms is not None:
        rms = torch.linalg.vector_norm(u) / u.numel() ** 0.5
        factor = (clip_rms / rms.clamp_min(torch.finfo(u.dtype).tiny)).clamp_max(1.0)
    if clip_value is not None:
        u, factor = (factor * u).clamp_(-clip_value, clip_value), u.new_ones(())
    if not (isinstance(weight_decay, float) and weight_decay == 0):
        x = (1 - lr * weight_decay) * x
    return torch.addcmul(x, u, (-lr * factor).to(x.dtype))
