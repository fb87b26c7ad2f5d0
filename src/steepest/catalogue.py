"""The catalogue: every method's card, by name."""

import functools
import importlib

from .core.card import MethodCard
from .core.errors import UnknownName

__all__ = ["card", "cards"]

_ROOMS = ("optim", "solve.convex")


@functools.cache
def _all() -> dict[str, MethodCard]:
    found: dict[str, MethodCard] = {}
    for room in _ROOMS:
        for entry in importlib.import_module(f"steepest.{room}").CARDS:
            if entry.name in found:
                raise RuntimeError(f"two methods are called {entry.name!r}")
            found[entry.name] = entry
    return found


def cards(room: str | None = None) -> dict[str, MethodCard]:
    """All method cards by name, or those of one room (``"optim"``, ``"convex"``, ...)."""
    return {name: entry for name, entry in _all().items() if room is None or entry.room == room}


def card(name: str) -> MethodCard:
    """The card of one method.

    Raises:
        UnknownName: there is none of that name; the message suggests the nearest.
    """
    try:
        return _all()[name]
    except KeyError:
        raise UnknownName("method", name, _all()) from None
