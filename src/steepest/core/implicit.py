r"""Derivatives of solutions by the data of their problem, through the conditions that a solution meets.

Where a solver returns :math:`x(\theta)` with :math:`F(x(\theta), \theta) = 0`, the implicit function theorem gives

.. math:: \frac{dx}{d\theta} = -\left(\frac{\partial F}{\partial x}\right)^{-1} \frac{\partial F}{\partial \theta},

so that a backward pass solves one linear system with the transposed Jacobian, whatever the solver did. Second and
higher derivatives follow, since that linear system is again a problem with a solution.

Source: M. Blondel, Q. Berthet, M. Cuturi, R. Frostig, S. Hoyer, F. Llinares-López, F. Pedregosa and J.-P. Vert (2022),
"Efficient and Modular Implicit Differentiation", NeurIPS, arXiv:2105.15183.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from steepest.core import tree
from steepest.core.krylov import conjugate_gradients, gmres
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Flag, Integer, OneOf, Real, check_settings
from steepest.core.tree import Point

__all__ = ["implicit", "proximal_optimality", "smooth_optimality"]

#: Up to this many unknowns the Jacobian is formed.
_SMALL = 128

Optimality = Callable[..., Point]


def implicit(
    optimality: Optimality,
    *,
    symmetric: bool = False,
    linear_solver: Literal["auto", "dense", "cg", "gmres", "normal-cg"] = "auto",
    ridge: float = 0.0,
    tolerance: float | None = None,
    max_steps: int | None = None,
) -> Callable[[Callable[..., Point]], Callable[..., Point]]:
    r"""A decorator: make the result of a solver differentiable by the data that it is given.

    ``solve(*data, **settings)`` returns the solution ``x`` of ``optimality(x, *data) == 0``. It runs without recording;
    a backward pass then solves :math:`(\partial F/\partial x)^\top w = g` and returns
    :math:`-(\partial F/\partial\theta)^\top w`. ::

        @implicit(smooth_optimality(lambda features, target, weight: ridge_problem(features, target, weight)))
        def ridge(features, target, weight):
            return GradientDescent().run(ridge_problem(features, target, weight), start).solution

        ridge(features, target, weight).sum().backward()

    Data are tensors or nested dicts, lists and tuples of anything; tensors of a floating-point dtype that require
    gradients are differentiated by, all else is passed on. The solution is a tensor or a pytree of them, of one dtype
    and device; 0-dim tensors are allowed. Keyword arguments reach the solver alone. To differentiate a solution that is
    there already: ``implicit(optimality)(lambda *data: x)(*data)``.

    The derivative is that of the exact solution where ``optimality`` is differentiable and its Jacobian regular; its
    error is in proportion to how far the returned ``x`` is from solving. ``optimality`` must be made of operations that
    PyTorch differentiates, once more than the derivatives that are asked for (twice for first derivatives where it is
    a gradient itself; ``"normal-cg"`` and second derivatives take one more). Forward mode and the transforms of
    ``torch.func`` do not pass.

    Args:
        optimality: ``F(x, *data)``, of the structure of ``x``; see :func:`smooth_optimality` and
            :func:`proximal_optimality`.
        symmetric: whether the Jacobian is symmetric positive definite, as the Hessian at a strict minimum. Default
            False.
        linear_solver: ``"dense"`` forms the Jacobian (n products, then a factorization); ``"cg"`` is for symmetric
            ones; ``"gmres"`` for any; ``"normal-cg"`` solves the normal equations, for any, also singular (then the
            least-norm least-squares solution). ``"auto"`` (default): dense up to 128 unknowns, beyond that ``"cg"``
            where ``symmetric``, else ``"gmres"``.
        ridge: added to the diagonal of the Jacobian, >= 0, in the unit of ``F`` per unit of ``x``. Default 0.
        tolerance: on the residual of the linear system, relative to its right-hand side, > 0. Default: the square root
            of the machine precision times 1e-3.
        max_steps: products with the Jacobian at most, >= 1. Default: ten times the unknowns, at least 100.

    Raises:
        TypeError, ValueError: an argument is out of its range, or ``solve`` or ``optimality`` return something that
            does not fit.
        RuntimeError: in the backward pass: the Jacobian is singular, or the linear system was not solved to within the
            tolerance; the message gives the residual.
    """
    if not callable(optimality):
        raise TypeError(f"optimality must be callable, got {optimality!r} of type {type(optimality).__name__}")
    check_settings(
        "implicit",
        {
            "symmetric": symmetric,
            "linear_solver": linear_solver,
            "ridge": ridge,
            "tolerance": tolerance,
            "max_steps": max_steps,
        },
        {
            "symmetric": Flag(),
            "linear_solver": OneOf(("auto", "dense", "cg", "gmres", "normal-cg")),
            "ridge": Real(low=0.0),
            "tolerance": Real(low=0.0, low_open=True, optional=True),
            "max_steps": Integer(low=1, optional=True),
        },
    )
    if linear_solver == "cg" and not symmetric:
        raise ValueError("implicit: linear_solver 'cg' is for symmetric Jacobians; say symmetric=True if it is one")
    options = _Options(symmetric, linear_solver, ridge, tolerance, max_steps)

    def decorate(solve: Callable[..., Point]) -> Callable[..., Point]:
        @functools.wraps(solve)
        def solved(*data: Any, **settings: Any) -> Point:
            with torch.no_grad():
                solution = tree.tree_map(_detached, solve(*data, **settings))
            flat_x, structure = pytree.tree_flatten(solution)
            flat_data, data_structure = pytree.tree_flatten(data)
            places = [i for i, leaf in enumerate(flat_data) if _differentiable(leaf)]
            if not places or not torch.is_grad_enabled():
                return solution
            if len({(leaf.dtype, leaf.device) for leaf in flat_x}) != 1:
                raise ValueError(f"the solution must be of one dtype and device, got {tree.describe(solution)}")

            def flat_optimality(x: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
                whole = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in flat_data]
                for place, tensor in zip(places, tensors, strict=True):
                    whole[place] = tensor
                point = pytree.tree_unflatten(x, structure)
                found = optimality(point, *pytree.tree_unflatten(whole, data_structure))
                values = pytree.tree_leaves(found)
                if [v.shape for v in values] != [leaf.shape for leaf in x]:
                    raise ValueError(
                        "optimality must return what has the structure of the solution, "
                        f"{tree.describe(solution)}; got {tree.describe(found)}"
                    )
                return values

            attached = _attach(_System(flat_optimality, options), flat_x, [flat_data[place] for place in places])
            return pytree.tree_unflatten(attached, structure)

        return solved

    return decorate


def smooth_optimality(problem: Callable[..., SmoothProblem]) -> Optimality:
    """``F(x, *data)``: the gradient at ``x`` of the problem that ``problem(*data)`` makes.

    Its Jacobian, the Hessian, is symmetric: pass ``symmetric=True`` to :func:`implicit` where the minimum is strict.
    """

    def optimality(x: Point, *data: Any) -> Point:
        return _gradient(problem(*data), x)

    return optimality


class _Composite(Protocol):
    smooth: SmoothProblem

    def prox(self, x: Point, step: float | Tensor) -> Point: ...


def proximal_optimality(problem: Callable[..., _Composite], step: float = 1.0) -> Optimality:
    """``F(x, *data) = x - prox(x - step * gradient)``: the fixed point of a proximal gradient step.

    Args:
        problem: ``problem(*data)`` makes a composite problem, such as ``CompositeProblem`` and ``LinearModel`` of
            :mod:`steepest.solve.convex`; weights of its regularizer may be among the data.
        step: > 0. The root does not depend on it, but how well the linear system is conditioned does; about one over
            the Lipschitz constant of the gradient is good. Default 1.
    """
    Real(low=0.0, low_open=True).check("proximal_optimality: step", step)

    def optimality(x: Point, *data: Any) -> Point:
        made = problem(*data)
        moved = tree.add_scaled(x, -step, _gradient(made.smooth, x))
        return tree.tree_map(torch.sub, x, made.prox(moved, step))

    return optimality


def _gradient(problem: SmoothProblem, x: Point) -> Point:
    flat, structure = pytree.tree_flatten(x)
    with torch.enable_grad():
        inputs = [leaf if leaf.requires_grad else leaf.detach().requires_grad_() for leaf in flat]
        value = problem._scalar(pytree.tree_unflatten(inputs, structure))
        gradients = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True, materialize_grads=True)
    return pytree.tree_unflatten(list(gradients), structure)


def _differentiable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.requires_grad


def _detached(leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        raise TypeError(f"the solution must consist of floating-point tensors, got {leaf!r}")
    return leaf.detach()


@dataclass(frozen=True)
class _Options:
    symmetric: bool
    linear_solver: str
    ridge: float
    tolerance: float | None
    max_steps: int | None


@dataclass(frozen=True)
class _System:
    """The equations ``F(x, data) = 0`` on lists of tensors, with products of their Jacobian."""

    function: Callable[[list[Tensor], list[Tensor]], list[Tensor]]
    options: _Options

    def adjoint(self, x: list[Tensor], data: list[Tensor], w: list[Tensor]) -> list[Tensor]:
        """``(dF/dx)' w``, differentiable by all three."""
        with torch.enable_grad():
            x, data = _aliases(x), _aliases(data)
            return [p + self.options.ridge * v for p, v in zip(_vjp(self.function(x, data), x, w), w, strict=True)]

    def by_data(self, x: list[Tensor], data: list[Tensor], w: list[Tensor]) -> list[Tensor]:
        """``-(dF/ddata)' w``, differentiable by all three."""
        with torch.enable_grad():
            x, data = _aliases(x), _aliases(data)
            return _vjp(self.function(x, data), data, [-v for v in w])

    def transposed(self) -> "_System":
        """The equations ``(dF/dx)' w - g = 0`` for ``w``, with data ``x``, ``data`` and ``g``."""

        def function(w: list[Tensor], data: list[Tensor]) -> list[Tensor]:
            n = len(w)
            product = self.adjoint(data[:n], data[n:-n], w)
            return [p - g for p, g in zip(product, data[-n:], strict=True)]

        return _System(function, _Options(**{**vars(self.options), "ridge": 0.0}))  # the ridge is in the product

    def solve(self, x: list[Tensor], data: list[Tensor], g: list[Tensor]) -> list[Tensor]:
        """The ``w`` with ``(dF/dx)' w = g``; not differentiable.

        Raises:
            RuntimeError: there is none, or the linear solver did not find it.
        """
        shapes = [leaf.shape for leaf in x]

        def flat(tensors: list[Tensor]) -> Tensor:
            return torch.cat([t.reshape(-1) for t in tensors])

        def unflat(vector: Tensor) -> list[Tensor]:
            parts = vector.split([shape.numel() for shape in shapes])
            return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

        b, options = flat(g), self.options
        if not bool(torch.isfinite(b).all()):
            return [torch.full_like(leaf, torch.nan) for leaf in x]
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_() for leaf in x]
            values = self.function(inputs, [leaf.detach() for leaf in data])

            def product(v: Tensor) -> Tensor:
                found = _vjp(values, inputs, unflat(v), graph=False)
                return flat(found).detach() + options.ridge * v

            # The vjp is linear in its vector: differentiating by that gives products with the Jacobian itself.
            probe = [torch.zeros_like(leaf).requires_grad_() for leaf in x]
            back: list[Tensor] = []

            def forward(v: Tensor) -> Tensor:
                if not back:
                    back.extend(_vjp(values, inputs, probe))
                return flat(_vjp(back, probe, unflat(v), graph=False)).detach() + options.ridge * v

            w = _linear(product, forward, b, options)
        return unflat(w)


def _linear(product: Callable[[Tensor], Tensor], forward: Callable[[Tensor], Tensor], b: Tensor, o: _Options) -> Tensor:
    kind = o.linear_solver
    if kind == "auto":
        kind = "dense" if len(b) <= _SMALL else "cg" if o.symmetric else "gmres"
    tolerance = 1e-3 * torch.finfo(b.dtype).eps ** 0.5 if o.tolerance is None else o.tolerance
    steps = max(100, 10 * len(b)) if o.max_steps is None else o.max_steps
    if kind == "dense":
        matrix = torch.stack([product(e) for e in torch.eye(len(b), dtype=b.dtype, device=b.device)], dim=1)
        condition = float(torch.linalg.cond(matrix, 1)) if len(b) else 1.0
        if not condition * torch.finfo(b.dtype).eps < 0.1:
            raise RuntimeError(_trouble(f"the Jacobian of optimality is singular (its condition is {condition:.3g})"))
        solution: Tensor = torch.linalg.solve(matrix, b)
        return solution
    # float32 residuals cannot be as small as asked: the method may end at the rounding of its products.
    if kind == "cg":
        w = conjugate_gradients(product, b, tolerance, steps)
    elif kind == "gmres":
        w = gmres(product, b, tolerance, steps)
    else:
        w = conjugate_gradients(lambda v: forward(product(v)), forward(b), tolerance, steps)
        gradient = forward(product(w) - b)
        if float(gradient.norm()) <= 100 * tolerance * float(forward(b).norm()):
            return w  # a least-squares solution, whether or not the equations can be met
    residual = float((product(w) - b).norm())
    allowed = max(100 * tolerance, 100 * torch.finfo(b.dtype).eps ** 0.75) * float(b.norm())
    if not residual <= allowed:
        raise RuntimeError(
            _trouble(
                f"{kind} left a residual of {residual:.3g} (allowed: {allowed:.3g}) after at most {steps} products"
            )
        )
    return w


def _trouble(what: str) -> str:
    return (
        f"implicit: the linear system of the backward pass was not solved: {what}. The solution may not be locally "
        "unique; a ridge > 0, linear_solver='normal-cg' or a larger max_steps may help"
    )


def _aliases(tensors: list[Tensor]) -> list[Tensor]:
    """Other names for tensors, connected to them, so that partial derivatives can be told from total ones."""
    return [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors]


def _vjp(outputs: list[Tensor], inputs: list[Tensor], vector: list[Tensor], *, graph: bool = True) -> list[Tensor]:
    pairs = [(o, v) for o, v in zip(outputs, vector, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(i) for i in inputs]
    return list(
        torch.autograd.grad(
            [o for o, _ in pairs],
            inputs,
            [v for _, v in pairs],
            create_graph=graph,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    )


def _attach(system: _System, x: list[Tensor], data: list[Tensor]) -> list[Tensor]:
    """``x`` as a function of ``data``: the same numbers, with a derivative."""
    return list(_Attach.apply(system, len(x), *x, *data))


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, system: _System, n: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.system, ctx.n = system, n
        x = tuple(t.clone() for t in tensors[:n])
        ctx.save_for_backward(*x, *tensors[n:])
        return x

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        system, n = ctx.system, ctx.n
        x, data = list(ctx.saved_tensors[:n]), list(ctx.saved_tensors[n:])
        with torch.no_grad():
            w = system.solve(x, data, list(g))
        if torch.is_grad_enabled():  # a further derivative will be asked for: w is itself a solution of equations
            w = _attach(system.transposed(), w, [*x, *data, *g])
        else:
            x, data = [t.detach() for t in x], [t.detach() for t in data]
        slopes = system.by_data(x, data, w)
        if not torch.is_grad_enabled():
            slopes = [s.detach() for s in slopes]
        return (None, None, *[None] * n, *slopes)
