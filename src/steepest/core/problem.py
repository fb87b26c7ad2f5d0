"""Problems: what a solver may ask, and what it may not.

A problem class marks its oracles with :func:`~steepest.core.oracle.oracle`; their names are what it *offers*. A solver
lists the names it *needs*, and :meth:`Problem.require` compares the two before the first step. Names in
use: ``"value"``, ``"gradient"``, ``"hvp"``, ``"hessian"``, ``"prox"``, ``"lmo"``, ``"projection"``, ``"minibatch"``; a
room may add its own.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch.utils import _pytree as pytree

from steepest.core import tree
from steepest.core.fingerprint import fingerprint
from steepest.core.oracle import oracle
from steepest.core.tree import Point

__all__ = ["MissingOracle", "Problem", "SmoothProblem"]

#: Columns of a Hessian that are computed together; bounds its memory.
_COLUMNS = 128


class MissingOracle(TypeError):
    """A solver needs an oracle that the problem does not offer; the message names both sides."""


class Problem:
    """The base of all problem classes.

    Subclasses add methods marked with ``@oracle("gradient")`` and so on. A problem whose offer depends on what it was
    given (a proximal operator, say) overrides :attr:`offers`. Randomness that an oracle needs is drawn from a
    :class:`torch.Generator` that the solver hands in, never kept in the problem: otherwise a resumed run differs.
    """

    _declared: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        found: set[str] = set()
        for name in dir(cls):
            found.update(getattr(getattr(cls, name, None), "__oracles__", ()))
        cls._declared = frozenset(found)

    @property
    def offers(self) -> frozenset[str]:
        """The names of the oracles that this problem can answer."""
        return self._declared

    def require(self, needs: Iterable[str], by: str) -> None:
        """Check that every needed oracle is offered.

        Args:
            needs: the names that are needed.
            by: who needs them, for the message.

        Raises:
            MissingOracle: naming what is missing, what is needed and what is offered.
        """
        missing = sorted(set(needs) - self.offers)
        if missing:
            raise MissingOracle(
                f"{by} needs {_quoted(needs)}, but {type(self).__name__} does not offer {_quoted(missing)} "
                f"(it offers {_quoted(self.offers) or 'nothing'})"
            )

    def check_start(self, start: Point) -> None:
        """Check a starting point: tensors in nested dicts, lists and tuples, at least one, no NaN and no infinity.

        Raises:
            TypeError: something in ``start`` is not a tensor.
            ValueError: ``start`` is empty or holds a number that is not finite.
        """
        found = tree.leaves(start)
        if not found:
            raise ValueError(f"start must hold at least one tensor, got {start!r}")
        for leaf in found:
            if not isinstance(leaf, torch.Tensor):
                raise TypeError(
                    "start must be a tensor, or nested dicts, lists and tuples of tensors; "
                    f"it holds {leaf!r} of type {type(leaf).__name__}"
                )
        if not tree.is_finite(start):
            raise ValueError(f"start must be finite, but {tree.describe(start)} holds NaN or an infinity")

    def fingerprint(self) -> str:
        """A digest of the problem's class, data and functions, as far as they can be seen.

        A checkpoint carries it, so that a run is not resumed on another problem. Attributes whose names begin with an
        underscore are taken for caches and left out. See :func:`~steepest.core.fingerprint.fingerprint` for what can be
        seen of the others.
        """
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return fingerprint((type(self).__module__, type(self).__qualname__, public))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


class SmoothProblem(Problem):
    """Minimize a differentiable function of a pytree of tensors::

        min_x f(x)

    Args:
        function: maps a point (a tensor, or nested dicts, lists and tuples of tensors) to a real tensor with one
            element. It is differentiated by PyTorch, so it must be made of differentiable operations; for ``hvp`` and
            ``hessian`` they must support forward mode too.

    Offers ``"value"``, ``"gradient"``, ``"hvp"`` and ``"hessian"``. One call of :meth:`value_and_gradient` counts as
    one value and one gradient, and so does what it costs.

    Raises:
        TypeError: ``function`` is not callable, or does not return a real tensor.
        ValueError: it returns more than one number.
    """

    def __init__(self, function: Callable[[Any], torch.Tensor]) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r} of type {type(function).__name__}")
        self.function = function

    def check_start(self, start: Point) -> None:
        """As :meth:`Problem.check_start`; besides, every tensor must be of a floating-point dtype.

        Raises:
            TypeError: a tensor has another dtype.
        """
        super().check_start(start)
        if not all(leaf.is_floating_point() for leaf in tree.leaves(start)):
            raise TypeError(f"start must hold floating-point tensors, got {tree.describe(start)}; convert it first")

    @oracle("value")
    def value(self, x: Point) -> torch.Tensor:
        """``f(x)``, a 0-dim tensor."""
        with torch.no_grad():
            return self._scalar(x)

    @oracle("gradient")
    def gradient(self, x: Point) -> Point:
        """The gradient of ``f`` at ``x``, of the structure of ``x``."""
        return self._value_and_gradient(x)[1]

    @oracle("value", "gradient")
    def value_and_gradient(self, x: Point) -> tuple[torch.Tensor, Point]:
        """``f(x)`` and the gradient, for the price of the gradient; counts as one of each."""
        return self._value_and_gradient(x)

    @oracle("hvp")
    def hvp(self, x: Point, direction: Point) -> Point:
        """The Hessian of ``f`` at ``x`` times ``direction``: forward mode over reverse mode."""
        tangent: Point = torch.func.jvp(torch.func.grad(self._scalar), (x,), (direction,))[1]
        return tangent

    @oracle("hessian")
    def hessian(self, x: Point) -> torch.Tensor:
        """The Hessian of ``f`` at ``x``, a symmetric ``(d, d)`` matrix over the ``d`` numbers of ``x`` in the order of
        :func:`~steepest.core.tree.ravel`: forward mode over reverse mode, for a block of columns at a time."""

        flat = tree.ravel(x)
        gradient = torch.func.grad(lambda vector: self._scalar(tree.unravel(vector, x)))

        def column(direction: torch.Tensor) -> torch.Tensor:
            tangent: torch.Tensor = torch.func.jvp(gradient, (flat,), (direction,))[1]
            return tangent

        identity = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
        matrix = torch.func.vmap(column, chunk_size=_COLUMNS)(identity)
        return 0.5 * (matrix + matrix.mT)  # symmetric to the last bit, which decompositions count on

    def _scalar(self, x: Point) -> torch.Tensor:
        value = self.function(x)
        if not isinstance(value, torch.Tensor) or value.is_complex():
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"function must return a real tensor with one element, got {kind}")
        if value.numel() != 1:
            raise ValueError(f"function must return a tensor with one element, got shape {list(value.shape)}")
        return value.reshape(())

    def _value_and_gradient(self, x: Point) -> tuple[torch.Tensor, Point]:
        # Plain autograd, not torch.func: it takes every function that PyTorch can differentiate, and costs less.
        flat, structure = pytree.tree_flatten(x)
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_() for leaf in flat]
            value = self._scalar(pytree.tree_unflatten(inputs, structure))
            if value.requires_grad:
                gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
            else:  # a function that does not depend on x
                gradients = tuple(torch.zeros_like(leaf) for leaf in flat)
        return value.detach(), pytree.tree_unflatten(list(gradients), structure)
