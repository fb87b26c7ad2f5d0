"""Ranges of hyper-parameters: one declaration gives the check, the message and the documentation."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Flag", "Integer", "OneOf", "Range", "Real", "Reals", "check_settings"]


def _number(name: str, value: Any, allowed: str) -> float:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, got {value!r} of type {type(value).__name__}")
    return float(value)


@dataclass(frozen=True)
class Real:
    """A finite real number in an interval.

    Args:
        low, high: the ends of the interval.
        low_open, high_open: whether the end itself is excluded.
        optional: whether ``None`` is allowed.
        infinite: whether an infinite end belongs to the interval.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    optional: bool = False
    infinite: bool = False

    def describe(self) -> str:
        """The allowed values in words, as error messages and docs print them."""
        left = "(" if self.low_open or (math.isinf(self.low) and not self.infinite) else "["
        right = ")" if self.high_open or (math.isinf(self.high) and not self.infinite) else "]"
        none = " or None" if self.optional else ""
        return f"a {'' if self.infinite else 'finite '}number in {left}{self.low:g}, {self.high:g}{right}{none}"

    def check(self, name: str, value: Any) -> None:
        """Raise ``TypeError`` or ``ValueError`` naming the argument, the value and the range."""
        if value is None and self.optional:
            return
        number = _number(name, value, self.describe())
        too_low = number <= self.low if self.low_open else number < self.low
        too_high = number >= self.high if self.high_open else number > self.high
        unusable = math.isnan(number) if self.infinite else not math.isfinite(number)
        if unusable or too_low or too_high:
            raise ValueError(f"{name} must be {self.describe()}, got {value!r}")


@dataclass(frozen=True)
class Integer:
    """An integer of at least ``low`` (and at most ``high``), or ``None`` where ``optional``."""

    low: int = 0
    high: int | None = None
    optional: bool = False

    def describe(self) -> str:
        """The allowed values in words."""
        high = "" if self.high is None else f" and <= {self.high}"
        return f"an integer >= {self.low}{high}" + (" or None" if self.optional else "")

    def check(self, name: str, value: Any) -> None:
        """Raise ``TypeError`` or ``ValueError`` naming the argument, the value and the range."""
        if value is None and self.optional:
            return
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be {self.describe()}, got {value!r} of type {type(value).__name__}")
        number = int(value)
        if number < self.low or (self.high is not None and number > self.high):
            raise ValueError(f"{name} must be {self.describe()}, got {value!r}")


@dataclass(frozen=True)
class Reals:
    """A sequence of ``length`` numbers, each in ``each``: the usual ``betas``."""

    length: int
    each: Real

    def describe(self) -> str:
        """The allowed values in words."""
        return f"a sequence of {self.length} numbers, each {self.each.describe()}"

    def check(self, name: str, value: Any) -> None:
        """Raise ``TypeError`` or ``ValueError`` naming the argument, the value and the range."""
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{name} must be {self.describe()}, got {value!r} of type {type(value).__name__}")
        if len(value) != self.length:
            raise ValueError(f"{name} must be {self.describe()}, got {value!r} with {len(value)} entries")
        for index, item in enumerate(value):
            self.each.check(f"{name}[{index}]", item)


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]

    def describe(self) -> str:
        """The allowed values in words."""
        return "one of " + ", ".join(repr(v) for v in self.values)

    def check(self, name: str, value: Any) -> None:
        """Raise ``ValueError`` naming the argument, the value and what is allowed."""
        if not any(value is v or (type(value) is type(v) and value == v) for v in self.values):
            raise ValueError(f"{name} must be {self.describe()}, got {value!r}")


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def describe(self) -> str:
        """The allowed values in words."""
        return "True or False"

    def check(self, name: str, value: Any) -> None:
        """Raise ``TypeError`` naming the argument and the value."""
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be {self.describe()}, got {value!r} of type {type(value).__name__}")


Range = Real | Integer | Reals | OneOf | Flag


def check_settings(owner: str, settings: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Check every declared setting; the error reads ``Lion: lr must be ..., got ...``.

    Args:
        owner: the class name that the message begins with.
        settings: the values to check; those without a declared range are left alone.
        ranges: the declared range of each setting.
    """
    for name, allowed in ranges.items():
        if name in settings:
            allowed.check(f"{owner}: {name}", settings[name])


#: Ranges that most methods share.
STEP_SIZE = Real(low=0.0)
MOMENTUM = Real(low=0.0, high=1.0, high_open=True)
BETAS = Reals(2, MOMENTUM)
EPSILON = Real(low=0.0)
WEIGHT_DECAY = Real(low=0.0)
