"""Errors that the command line turns into one line and an exit code."""

__all__ = ["BadInput", "Interrupted"]


class BadInput(ValueError):
    """Something the user gave cannot be used; the message names it and says what is allowed. Exit code 2."""


class Interrupted(Exception):
    """The comparison was stopped on purpose; the message says what was saved and how to continue. Exit code 130."""
