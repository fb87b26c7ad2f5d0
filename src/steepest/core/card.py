"""Method cards: what a method is called, where it comes from, what it needs, and how the arena may tune it.

The catalogue, ``steepest methods``, the docs pages and the contract tests are generated from the cards.
"""

import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["Choice", "Distribution", "Float", "Integers", "MethodCard", "Paper"]


@dataclass(frozen=True)
class Paper:
    """The source of a method."""

    authors: str
    year: int
    title: str
    arxiv: str | None = None
    venue: str | None = None

    @property
    def url(self) -> str | None:
        """Where to read it."""
        return None if self.arxiv is None else f"https://arxiv.org/abs/{self.arxiv}"

    def __str__(self) -> str:
        where = f", arXiv {self.arxiv}" if self.arxiv else (f", {self.venue}" if self.venue else "")
        return f"{self.authors} ({self.year}). {self.title}{where}"


@dataclass(frozen=True)
class Float:
    """A real setting, tuned between ``low`` and ``high`` (on a logarithmic scale where ``log``)."""

    low: float
    high: float
    log: bool = False

    def at(self, u: float) -> float:
        """The value at the fraction ``u`` in [0, 1) of the range."""
        if self.log:
            return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.low + u * (self.high - self.low)

    def describe(self) -> str:
        """The range in words: ``1e-05 to 0.01, logarithmic``."""
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Integers:
    """An integer setting, tuned between ``low`` and ``high``, both included."""

    low: int
    high: int

    def at(self, u: float) -> int:
        """The value at the fraction ``u`` in [0, 1) of the range."""
        return min(self.high, self.low + int(u * (self.high - self.low + 1)))

    def describe(self) -> str:
        """The range in words: ``1 to 8``."""
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Choice:
    """One of a few values (of any type that JSON or a Python literal can write)."""

    values: tuple[Any, ...]

    def at(self, u: float) -> Any:
        """The value at the fraction ``u`` in [0, 1) of the list."""
        return self.values[min(len(self.values) - 1, int(u * len(self.values)))]

    def describe(self) -> str:
        """The values in words: ``'l1' | 'l2'``."""
        return " | ".join(repr(v) for v in self.values)


Distribution = Float | Integers | Choice


@dataclass(frozen=True)
class MethodCard:
    """What the library knows of a method beyond its code.

    Args:
        name: the short name used on the command line: ``"lion"``.
        title: the name people write: ``"Lion"``.
        room: the room it lives in: ``"optim"``, ``"convex"``, ...
        family: the shelf inside the room: ``"sign"``, ``"adaptive"``, ``"matrix"``, ...
        summary: one sentence: what it does.
        target: where the class is, as ``"package.module:Class"``, or a function that takes the same arguments as a
            class would and builds the optimizer; imported on first use.
        papers: the sources.
        needs: what the method asks of the problem: ``"gradient"``, ``"closure"``, ``"hvp"``, ...; ``"graph"`` (and
            ``"hvp"``) that it differentiates the loss itself, so that closures do not call backward; ``"batch"`` that
            it evaluates the model itself: it takes the model and ``loss=``, and steps by ``step_on(inputs, targets)``;
            ``"estimator"`` that the class has the interface of scikit-learn and is given data, ``"function"`` that it
            is a function of features and targets.
        buffers: the state that it keeps, in units of the parameter's size (measured by the contract tests); for methods
            whose state depends on the shape, that of a square matrix of 256 x 256.
        search: what the arena tunes, and where; every method declares its own space and gets the same number of trials.
        settings: fixed settings that the arena adds (for wrapped optimizers whose defaults are not the usual practice).
        tuning_free: whether the method sets its own step size: ``lr`` is a factor on it, 1 by default, which schedules
            act on and nobody searches.
        takes_model: whether the class wants the whole model (to route its parameters) rather than its parameters.
        usage: the line of Python that uses it, for what is neither an optimizer nor a solver (a layer, a schedule, an
            instrument, a way of training).
        claim: the headline claim of the paper, in a sentence; empty where there is none to test.
        wraps: the name of the outside package when the class is not ours (``"torch.optim"``).
    """

    name: str
    title: str
    room: str
    family: str
    summary: str
    target: str
    papers: tuple[Paper, ...]
    needs: frozenset[str] = frozenset({"gradient"})
    buffers: float = 1
    search: Mapping[str, Distribution] = field(default_factory=lambda: MappingProxyType({}))
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    tuning_free: bool = False
    takes_model: bool = False
    usage: str = ""
    claim: str = ""
    wraps: str = ""

    def load(self) -> Any:
        """The class itself, or the function that builds the optimizer."""
        module, _, name = self.target.partition(":")
        loaded: Any = getattr(importlib.import_module(module), name)
        return loaded

    @property
    def trains(self) -> bool:
        """Whether the method is an optimizer for training (room ``"optim"``), rather than a solver of problems."""
        return self.room == "optim"

    def defaults(self) -> dict[str, Any]:
        """The values of the settings in ``search`` that the method has unless told otherwise."""
        parameters = inspect.signature(self.load()).parameters
        return {name: self.settings.get(name, parameters[name].default) for name in self.search}

    @property
    def differentiates(self) -> bool:
        """Whether the method differentiates the loss itself, so that closures return it without calling backward."""
        return not self.needs.isdisjoint({"hvp", "graph"})

    def build(self, model: Any, **settings: Any) -> Any:
        """An optimizer of this method for a model (``torch.nn.Module``), with ``settings`` over the card's own.

        Raises:
            TypeError: the method is a solver; construct it and call its ``run``.
        """
        if not self.trains:
            raise TypeError(f"{self.title} is a solver of problems (room {self.room!r}), not an optimizer of a model")
        merged = {**self.settings, **settings}
        return self.load()(model if self.takes_model else model.parameters(), **merged)

    def line(self, **settings: Any) -> str:
        """The line of Python that builds the optimizer (or runs the solver) with these settings."""
        if self.usage:
            return self.usage
        module, _, name = self.target.partition(":")
        merged = {**self.settings, **settings}
        arguments = ", ".join(f"{k}={_literal(v)}" for k, v in merged.items())
        if not self.trains:
            # The package of the room: "steepest.solve" of "steepest.solve.convex.gradient_descent"; of a class that
            # lives in core (a regularizer, say), the one that offers it to users.
            package = module.rpartition(f".{self.room}")[0] or "steepest.solve"
            if "function" in self.needs:
                return f"{package}.{self.room}.{name}(features, target{', ' if arguments else ''}{arguments})"
            made = f"{package}.{self.room}.{name}({arguments})"
            if "estimator" in self.needs:
                return f"{made}.fit(features, target)"
            # What lives in core is a part of a problem, which solvers are run on.
            return made if module.startswith("steepest.core.") else f"{made}.run(problem, start, budget=budget)"
        public = module if self.wraps else "steepest.optim"
        first = "model" if self.takes_model else "model.parameters()"
        return f"{public}.{name}({first}{', ' if arguments else ''}{arguments})"


def _literal(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
