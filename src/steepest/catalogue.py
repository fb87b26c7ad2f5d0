"""The catalogue: every method's card, by name."""

import functools
import importlib
import os
import sys

from .core.card import MethodCard
from .core.errors import BadReference, UnknownName

__all__ = ["card", "cards"]

_ROOMS = (
    "optim",
    "optim.schedules",
    "solve.convex",
    "train.convexnet",
    "train.generalize",
    "train.local",
    "train.parametrize",
    "analyze",
)


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
    """The card of one method: of ours by its name, of anybody's as ``"package.module:CARD"``.

    The second form takes any ``torch.optim.Optimizer`` into a comparison: write a
    :class:`~steepest.core.card.MethodCard` whose ``target`` is its class, in a module that can be imported from the
    current folder.

    Raises:
        UnknownName: there is none of that name; the message suggests the nearest.
    """
    if ":" in name:
        return _elsewhere(name)
    try:
        return _all()[name]
    except KeyError:
        raise UnknownName("method", name, _all()) from None


def _elsewhere(reference: str) -> MethodCard:
    module_name, _, attribute = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed command does not look into the current folder
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise BadReference(f"method {reference!r}: importing {module_name!r} fails: {error}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, MethodCard):
        known = [k for k, v in vars(module).items() if isinstance(v, MethodCard)]
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise BadReference(f"method {reference!r}: {module_name} has no MethodCard {attribute!r}; {there}")
    if found.name in _all():
        raise BadReference(f"method {reference!r}: the name {found.name!r} is taken by the library; choose another")
    return found
