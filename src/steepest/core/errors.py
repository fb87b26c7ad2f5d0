"""Errors that name the argument, the value and what is allowed."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["BadReference", "UnknownName", "did_you_mean", "parameter_label"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence part that suggests the nearest known name, or lists the known ones when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def parameter_label(groups: Sequence[Mapping[str, Any]], p: Any) -> str:
    """A parameter's name where its group has names, else its position in an optimizer's groups."""
    for index, group in enumerate(groups):
        for place, candidate in enumerate(group["params"]):
            if candidate is p:
                names = group.get("param_names")
                return repr(names[place]) if names else f"{place} of group {index}"
    return "?"


class BadReference(ValueError):
    """A ``"package.module:NAME"`` that does not lead to what is needed; the message says what is there."""


class UnknownName(KeyError):
    """A method, task, claim or data set that does not exist; the message suggests the nearest name.

    Args:
        what: the kind of thing looked up, for the message ("method", "task", ...).
        name: the name that was asked for.
        known: the names that exist.
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; {did_you_mean(name, known)}")

    def __str__(self) -> str:
        return str(self.args[0])
