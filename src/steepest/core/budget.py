"""Budgets: how long a run may last."""

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Budget"]

_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0}
_SECONDS |= {"m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0}
_STEPS = {"step", "steps"}
_WORDS = "a positive number of seconds, minutes or hours ('30s', '2m', '1.5h') or of steps ('500steps')"


@dataclass(frozen=True)
class Budget:
    """The limits of a run; the first that is reached ends it.

    Args:
        steps: the number of steps, at least 1.
        seconds: the seconds spent in the method itself (``init`` and ``step``), without callbacks, measurements and
            checkpoints; positive.
        calls: the number of oracle calls by name, such as ``{"gradient": 1000}``, each at least 1. A step that has
            begun is finished, so a run may exceed it by the calls of one step.

    Limits are looked at between steps. Raises ``ValueError`` or ``TypeError`` for a limit out of its range and where no
    limit is given.
    """

    steps: int | None = None
    seconds: float | None = None
    calls: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None and not self.calls:
            raise ValueError("Budget: at least one limit is needed: steps, seconds or calls")
        if self.steps is not None:
            _check_count("steps", self.steps)
        if self.seconds is not None:
            if isinstance(self.seconds, bool) or not isinstance(self.seconds, numbers.Real):
                kind = type(self.seconds).__name__
                raise TypeError(f"Budget: seconds must be a positive number, got {self.seconds!r} of type {kind}")
            if not (math.isfinite(self.seconds) and self.seconds > 0):
                raise ValueError(f"Budget: seconds must be a positive finite number, got {self.seconds!r}")
        if not isinstance(self.calls, Mapping):
            raise TypeError(f"Budget: calls must map oracle names to numbers, got {self.calls!r}")
        for name, amount in self.calls.items():
            _check_count(f"calls[{name!r}]", amount)

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``"30s"``, ``"2m"``, ``"1.5h"`` or ``"500steps"``; several limits are joined by commas.

        Raises:
            ValueError: the text is not of this form, or the number is not positive.
            TypeError: it is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"budget must be a string such as '30s' or '500steps', got {text!r}")
        limits: dict[str, float] = {}
        for part in text.lower().split(","):
            found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)\s*", part)
            if found is None or (found[2] not in _SECONDS and found[2] not in _STEPS):
                raise ValueError(f"budget must be {_WORDS}, got {text!r}")
            name = "steps" if found[2] in _STEPS else "seconds"
            amount = float(found[1]) * _SECONDS.get(found[2], 1.0)
            if name in limits:
                raise ValueError(f"budget must state each limit once, got {text!r}")
            if not (math.isfinite(amount) and amount > 0) or (name == "steps" and not amount.is_integer()):
                whole = "a whole number of steps" if name == "steps" else "more than zero"
                raise ValueError(f"budget must be {_WORDS}, and {whole}, got {text!r}")
            limits[name] = amount
        steps = limits.get("steps")
        return cls(steps=None if steps is None else int(steps), seconds=limits.get("seconds"))

    @classmethod
    def of(cls, budget: "Budget | str") -> "Budget":
        """A budget as it is, or parsed from a string."""
        return budget if isinstance(budget, Budget) else cls.parse(budget)

    @property
    def kind(self) -> str:
        """What the only limit counts: ``"steps"``, ``"seconds"`` or the name of an oracle.

        Raises:
            ValueError: there are several limits.
        """
        return self._only()[0]

    @property
    def amount(self) -> float:
        """The only limit, in the unit of :attr:`kind` (an ``int`` unless it is seconds).

        Raises:
            ValueError: there are several limits.
        """
        return self._only()[1]

    def reached(self, steps: int, seconds: float, calls: Mapping[str, int]) -> str | None:
        """Which limit is used up, in words, or ``None`` while none is."""
        for name, limit, used in self._limits(steps, seconds, calls):
            if used >= limit:
                return f"the budget of {_amount(limit)} {name} is used up"
        return None

    def fraction(self, steps: int, seconds: float, calls: Mapping[str, int]) -> float:
        """The used part of the limit that is nearest to its end, in [0, 1]."""
        return min(1.0, max(used / limit for _, limit, used in self._limits(steps, seconds, calls)))

    def __str__(self) -> str:
        parts = [f"{_amount(limit)}{name}" for name, limit, _ in self._limits(0, 0.0, {})]
        return ",".join(part.replace("seconds", "s") for part in parts)

    def _limits(self, steps: int, seconds: float, calls: Mapping[str, int]) -> list[tuple[str, float, float]]:
        limits: list[tuple[str, float, float]] = []
        if self.steps is not None:
            limits.append(("steps", self.steps, steps))
        if self.seconds is not None:
            limits.append(("seconds", self.seconds, seconds))
        limits += [(name, limit, calls.get(name, 0)) for name, limit in self.calls.items()]
        return limits

    def _only(self) -> tuple[str, float]:
        limits = self._limits(0, 0.0, {})
        if len(limits) > 1:
            raise ValueError(f"this budget has several limits ({self}); kind and amount are those of a single one")
        return limits[0][0], limits[0][1]


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"Budget: {name} must be an integer >= 1, got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"Budget: {name} must be an integer >= 1, got {value!r}")


def _amount(limit: float) -> str:
    return str(int(limit)) if float(limit).is_integer() else repr(limit)
