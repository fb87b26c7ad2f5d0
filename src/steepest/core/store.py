"""How an optimizer's state and parameters are stored between steps, and lent to the engine for one.

Low-precision state and parameters are decoded before a rule sees them and encoded afterwards, a few tensors at a time.
Without them, what is lent is what is stored, and the engine updates it in place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .engine import Engine, Item
from .precision import Rounding, StateDtype, decode, encode, layout, round_stochastically
from .rule import Rule, as_state
from .sharding import is_sharded

__all__ = ["Rounding", "StateDtype", "Store"]

#: The entry that holds what a half-precision parameter lost when it was rounded. Entries with a colon in their name
#: belong to the storage, not to the rule.
COMPENSATION = "parameter:compensation"
#: Low-precision state of about this many elements is decoded at a time, which bounds the extra memory of a step.
DECODED = 8_000_000


@dataclass(frozen=True)
class Store:
    """The storage of one optimizer; :class:`~steepest.core.optimizer.RuleOptimizer` explains both settings."""

    state_dtype: StateDtype
    rounding: Rounding

    def begin(self, rule: Rule, p: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """A parameter's state before its first step: ``step`` = 0, and what the rule keeps.

        Raises:
            RuntimeError: low-precision state or stochastic rounding is asked for a sharded parameter.
        """
        # Rounding at random goes by the position in a whole tensor, and blocks of one scale would cross shards.
        if is_sharded(p) and self.state_dtype != "float32":
            raise RuntimeError(
                f"state_dtype={self.state_dtype!r} does not serve sharded parameters (of shape {tuple(p.shape)}); "
                "use 'float32'"
            )
        if is_sharded(p) and self.rounding == "stochastic" and self._widens(p):
            raise RuntimeError(
                f"rounding='stochastic' does not serve sharded parameters (of shape {tuple(p.shape)}); use 'nearest'"
            )
        entries: dict[str, Any] = {"step": 0}
        for name, t in rule.make_state(p.detach(), group).items():
            entries |= self._stored(rule, name, as_state(t, p), p, 0, False)
        if self._compensates(p):
            entries[COMPENSATION] = torch.zeros_like(p.detach())
        return entries

    def layout(self, rule: Rule, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """The entries that a parameter's state has besides ``step``, as tensors on the ``meta`` device."""
        x = torch.empty(p.shape, dtype=p.dtype, device="meta")
        entries: dict[str, Tensor] = {}
        for name, t in rule.make_state(x, group).items():
            entries |= layout(name, as_state(t, x), self._kind(rule, name, t, x), name in rule.nonnegative)
        if self._compensates(p):
            entries[COMPENSATION] = x
        return entries

    def parts(self, bucket: list[Tensor]) -> Iterator[list[Tensor]]:
        """The parameters that are lent together: all, where nothing is stored in low precision."""
        if self.state_dtype == "float32" and not any(self._widens(p) for p in bucket):
            yield bucket
            return
        part: list[Tensor] = []
        for p in bucket:
            if part and sum(q.numel() for q in part) + p.numel() > DECODED:
                yield part
                part = []
            part.append(p)
        yield part

    def lend(
        self,
        p: Tensor,
        stored: Mapping[str, Any],
        group: Mapping[str, Any],
        engine: Engine,
        gradient: Tensor | None = None,
    ) -> Item:
        """What the engine updates in place: parameter, gradient (with the sign of descent) and state.

        ``gradient`` takes the place of the parameter's own.
        """
        x, g = p.detach(), p.grad if gradient is None else gradient
        assert g is not None
        state = tuple(decode(name, stored, x, engine == "compiled") for name in self.names(stored))
        if self._widens(p):
            x = x.float()
            if self._compensates(p):
                x += stored[COMPENSATION]
        if x.is_complex():
            x, g = torch.view_as_real(x), torch.view_as_real(g.resolve_conj())
            state = tuple(torch.view_as_real(s) if s.is_complex() else s for s in state)
        return Item(x, -g if group["maximize"] else g, state)

    def keep(self, rule: Rule, p: Tensor, stored: Mapping[str, Any], item: Item, engine: Engine) -> None:
        """Store what the engine has updated, where it was not lent what is stored."""
        self.keep_state(rule, p, stored, item, engine)
        compiled = engine == "compiled"
        if self._compensates(p):
            p.copy_(item.x)
            stored[COMPENSATION].copy_(item.x - p.float())
        elif self._widens(p):
            p.copy_(round_stochastically(item.x, stored["step"], compiled))

    def keep_state(self, rule: Rule, p: Tensor, stored: Mapping[str, Any], item: Item, engine: Engine) -> None:
        """The part of :meth:`keep` that concerns the state."""
        if self.state_dtype == "float32" or p.is_complex():
            return
        for name, t in zip(self.names(stored), item.state, strict=True):
            if t is not stored[name]:
                for entry, value in self._stored(rule, name, t, p, stored["step"], engine == "compiled").items():
                    stored[entry].copy_(value)

    @staticmethod
    def names(stored: Mapping[str, Any]) -> list[str]:
        """The state tensors of the rule, in the order in which they were made."""
        return [name for name in stored if name != "step" and ":" not in name]

    def _compensates(self, p: Tensor) -> bool:
        return self.rounding == "compensated" and p.dtype in (torch.bfloat16, torch.float16)

    def _widens(self, p: Tensor) -> bool:
        return self._compensates(p) or (self.rounding == "stochastic" and p.dtype == torch.bfloat16)

    def _kind(self, rule: Rule, name: str, t: Tensor, p: Tensor) -> StateDtype:
        """Kronecker factors and the like need their digits, also where they happen to have the parameter's shape."""
        return self.state_dtype if t.shape == p.shape and not name.startswith(rule.full_precision) else "float32"

    def _stored(self, rule: Rule, name: str, t: Tensor, p: Tensor, step: int, compiled: bool) -> dict[str, Tensor]:
        return encode(name, t, self._kind(rule, name, t, p), name in rule.nonnegative, step, compiled)
