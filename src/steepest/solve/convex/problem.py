"""The problems of this room: composite functions, and linear models as their most common kind."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.losses import Loss, loss_of
from steepest.core.matrix import squared_norm, take_rows, weighted_gram
from steepest.core.oracle import oracle
from steepest.core.problem import Problem, SmoothProblem
from steepest.core.ranges import OneOf, Real
from steepest.core.regularizer import Regularizer, Separable, Zero, regularizer_of
from steepest.core.tree import Point
from steepest.solve.convex.columns import Columns

__all__ = ["CompositeProblem", "LinearModel"]


class CompositeProblem(Problem):
    r"""Minimize a smooth function plus one whose prox is cheap::

        min_x f(x) + g(x)

    Args:
        smooth: the differentiable ``f``, a function of a point (see :class:`~steepest.core.problem.SmoothProblem`).
        regularizer: ``g``, a :class:`~steepest.core.regularizer.Regularizer` of the one tensor that a point is; for
            points of several tensors a dict, list or tuple of them in the same structure, with ``None`` for 0
            (:class:`~steepest.core.regularizer.Separable`). Default 0.
        lipschitz: a Lipschitz constant of the gradient of ``f``, > 0; ``None`` where it is not known.
        strong_convexity: a modulus of strong convexity of ``f``, >= 0; default 0.

    Offers ``"value"`` (of ``f + g``), ``"smooth value"``, ``"smooth gradient"`` and ``"smooth hvp"`` (of ``f``),
    ``"prox"`` (of ``g``) where that is cheap, and ``"lmo"`` where ``g`` is the indicator of a bounded set.

    Raises:
        TypeError: ``smooth`` is not callable, ``regularizer`` holds other things, or a constant is not a number.
        ValueError: a constant is out of its range.
    """

    def __init__(
        self,
        smooth: Callable[[Any], Tensor],
        regularizer: Regularizer | dict[Any, Any] | list[Any] | tuple[Any, ...] | None = None,
        *,
        lipschitz: float | None = None,
        strong_convexity: float = 0.0,
    ) -> None:
        Real(low=0.0, low_open=True, optional=True).check("lipschitz", lipschitz)
        Real(low=0.0).check("strong_convexity", strong_convexity)
        self.smooth = SmoothProblem(smooth)
        self.regularizer = regularizer_of(regularizer)
        self.lipschitz = lipschitz
        self.strong_convexity = strong_convexity

    @property
    def offers(self) -> frozenset[str]:
        """What the class declares, without what this regularizer does not have."""
        return self._declared - {name for name in ("prox", "lmo") if not self.regularizer.offers(name)}

    def check_start(self, start: Point) -> None:
        """As :meth:`SmoothProblem.check_start`; besides, the point has the structure that the regularizer has.

        Raises:
            TypeError: it is not one tensor, and the regularizer is for one.
            ValueError: it has another structure than the regularizer.
        """
        self.smooth.check_start(start)
        if isinstance(self.regularizer, Separable):
            self.regularizer.check_point(start)
        elif not isinstance(self.regularizer, Zero) and not isinstance(start, Tensor):
            raise TypeError(
                "start must be one tensor, since the regularizer takes one (otherwise give a dict, list or tuple of "
                f"regularizers, like the point); got {tree.describe(start)}"
            )

    @oracle("value")
    def value(self, x: Point) -> Tensor:
        """``f(x) + g(x)``, a 0-dim tensor; infinite outside the domain of ``g``."""
        return self._smooth_value(x) + self._regularizer(x)

    @oracle("smooth value")
    def smooth_value(self, x: Point) -> Tensor:
        """``f(x)``, a 0-dim tensor."""
        return self._smooth_value(x)

    @oracle("smooth gradient")
    def smooth_gradient(self, x: Point) -> Point:
        """The gradient of ``f`` at ``x``."""
        return self._smooth_value_and_gradient(x)[1]

    @oracle("smooth value", "smooth gradient")
    def smooth_value_and_gradient(self, x: Point) -> tuple[Tensor, Point]:
        """``f(x)`` and its gradient, for the price of the gradient; counts as one of each."""
        return self._smooth_value_and_gradient(x)

    @oracle("smooth hvp")
    def smooth_hvp(self, x: Point, direction: Point) -> Point:
        """The Hessian of ``f`` at ``x`` times ``direction``."""
        return self._smooth_hvp(x, direction)

    @oracle("prox")
    def prox(self, x: Point, step: float | Tensor) -> Point:
        """The proximal step of ``g``: the minimizer of ``g(z) + |z - x|^2 / (2 step)``."""
        return x if isinstance(self.regularizer, Zero) else self.regularizer.prox(x, step)

    @oracle("lmo")
    def lmo(self, direction: Point) -> Point:
        """A minimizer of ``<direction, x>`` over the set whose indicator ``g`` is."""
        return self.regularizer.lmo(direction)

    def regularizer_value(self, x: Point) -> Tensor:
        """``g(x)``, a 0-dim tensor; not counted (solvers that know ``f(x)`` already add it)."""
        return self._regularizer(x)

    def as_smooth(self) -> SmoothProblem:
        """``min f + g`` as one smooth problem, for methods that know no prox; ``g`` must be differentiable.

        It is the one way from this room's problems to smooth solvers: ``LBFGS().run(model.as_smooth(), start, ...)``.
        The view of a linear model offers the model's own formulas (no automatic differentiation), also of the Hessian.

        Raises:
            ValueError: ``f`` or ``g`` is not smooth.
        """
        from steepest.solve.convex.smooth import smooth_view

        return smooth_view(self)

    def _regularizer(self, x: Point) -> Tensor:
        return tree.leaves(x)[0].new_zeros(()) if isinstance(self.regularizer, Zero) else self.regularizer.value(x)

    # A linear model knows better ways to do these three.
    def _smooth_value(self, x: Point) -> Tensor:
        with torch.no_grad():
            return self.smooth._scalar(x)

    def _smooth_value_and_gradient(self, x: Point) -> tuple[Tensor, Point]:
        return self.smooth._value_and_gradient(x)

    def _smooth_hvp(self, x: Point, direction: Point) -> Point:
        return SmoothProblem.hvp.__wrapped__(self.smooth, x, direction)  # type: ignore[attr-defined]


class LinearModel(CompositeProblem):
    r"""A regularized linear model::

        min_x  c sum_i loss(a_i . x, y_i) + g(x),        c = 1/n or 1

    Lasso, ridge and logistic regression, support vector machines, Huber regression and their kin.

    Args:
        design: the matrix of features, ``(n, d)``, with rows ``a_i``; dense, or sparse in the CSR layout.
        target: ``y``, ``(n,)``; for several outputs ``(n, k)``, and then ``x`` is ``(d, k)``.
        loss: a :class:`~steepest.core.losses.Loss` or its name: ``"squared"`` (default), ``"logistic"``,
            ``"squared-hinge"``, ``"huber"`` (nonsmooth ones serve solvers that do not differentiate).
        regularizer: ``g``; default 0.
        scale: ``"mean"`` (default, ``c = 1/n``) or ``"sum"`` (``c = 1``).

    Data of an integer dtype are converted to float64. Besides what a :class:`CompositeProblem` offers: ``"samples"``
    (gradients of chosen samples), ``"columns"`` (single features, for coordinate methods), ``"hessian"`` (dense), and
    ``"gap"`` where ``g`` has a conjugate.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or shape, or holds NaN or an infinity.
    """

    def __init__(
        self,
        design: Tensor,
        target: Tensor,
        loss: Loss | str = "squared",
        regularizer: Regularizer | None = None,
        *,
        scale: Literal["mean", "sum"] = "mean",
    ) -> None:
        design, target = _data(design, target)
        OneOf(("mean", "sum")).check("scale", scale)
        self.design, self.target = design, target
        self.loss = loss_of(loss)
        self.loss.check_target(target)
        self.scale = 1.0 / len(target) if scale == "mean" else 1.0
        super().__init__(self._function, regularizer)
        self._norm: float | None = None
        self._columns: Columns | None = None

    @property
    def offers(self) -> frozenset[str]:
        """What the class declares, without what this loss and this regularizer do not have."""
        dual = self.regularizer.offers("conjugate") and self.regularizer.offers("dual_scale")
        missing = set() if dual else {"gap"}
        if math.isinf(self.loss.curvature):
            missing |= {"smooth value", "smooth gradient", "smooth hvp", "hessian"}
        return super().offers - missing

    @property
    def lipschitz(self) -> float | None:  # type: ignore[override]
        """``c`` times the curvature of the loss times the squared spectral norm of the design, from above; computed
        on first use. ``None`` for a loss that is not smooth."""
        if math.isinf(self.loss.curvature):
            return None
        if self._norm is None:
            self._norm = squared_norm(self.design)
        return self.scale * self.loss.curvature * self._norm

    @lipschitz.setter
    def lipschitz(self, value: float | None) -> None:
        """Ignored: it is computed."""

    @property
    def samples(self) -> int:
        """The number of samples, ``n``."""
        return len(self.target)

    def predict(self, x: Tensor) -> Tensor:
        """``A x``: the predictions of all samples."""
        return self.design @ x

    @oracle("samples")
    def sample_gradient(self, x: Tensor, indices: Tensor) -> Tensor:
        """The mean of ``n c grad loss(a_i . x, y_i)`` over the samples ``indices``: an unbiased estimate of the
        gradient of ``f`` where they are drawn uniformly."""
        rows = take_rows(self.design, indices)
        slope = self.loss.derivative(rows @ x, self.target[indices])
        return (rows.mT @ slope) * (self.scale * self.samples / len(indices))

    @oracle("columns")
    def columns(self, indices: Tensor) -> Tensor:
        """The features ``indices`` as the rows of a dense matrix, ``(k, n)``."""
        return Columns.of(self).dense(indices)

    @oracle("hessian")
    def hessian(self, x: Tensor) -> Tensor:
        """The Hessian of ``f`` as a symmetric ``(d, d)`` matrix; ``(d k, d k)`` over the flattened ``x`` for ``k``
        outputs, each of which has a block of its own."""
        return self._hessian_at(self.predict(x))

    @oracle("gap")
    def gap(self, x: Tensor) -> Tensor:
        r"""The duality gap at ``x``, an upper bound on ``F(x) - min F``; a 0-dim tensor.

        Fenchel's dual is :math:`\max_u -c \sum_i \ell^*(u_i, y_i) - g^*(-c A^T u)`. The dual point is the derivative of
        the loss at ``x``, scaled towards 0 until it is feasible.
        """
        prediction = self.predict(x)
        dual = self.loss.derivative(prediction, self.target)
        back = -self.scale * (self.design.mT @ dual)
        shrink = self.regularizer.dual_scale(back)
        dual, back = shrink * dual, shrink * back
        primal = self.scale * self.loss.value(prediction, self.target).sum() + self.regularizer.value(x)
        return primal + self.scale * self.loss.conjugate(dual, self.target).sum() + self.regularizer.conjugate(back)

    def _hessian_at(self, prediction: Tensor) -> Tensor:
        weight = self.scale * self.loss.second_derivative(prediction, self.target)
        if weight.dim() == 1:
            return weighted_gram(self.design, weight)
        d, k = self.design.shape[1], weight.shape[1]
        blocks = weight.new_zeros(d, k, d, k)
        for output in range(k):
            blocks[:, output, :, output] = weighted_gram(self.design, weight[:, output].contiguous())
        return blocks.reshape(d * k, d * k)

    def _function(self, x: Tensor) -> Tensor:
        return self.scale * self.loss.value(self.predict(x), self.target).sum()

    def _smooth_value(self, x: Point) -> Tensor:
        return self._function(x)

    def _smooth_value_and_gradient(self, x: Point) -> tuple[Tensor, Point]:
        prediction = self.predict(x)
        value = self.scale * self.loss.value(prediction, self.target).sum()
        return value, self.scale * (self.design.mT @ self.loss.derivative(prediction, self.target))

    def _smooth_hvp(self, x: Point, direction: Point) -> Point:
        weight = self.scale * self.loss.second_derivative(self.predict(x), self.target)
        return self.design.mT @ (weight * (self.design @ direction))


def _data(design: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    for name, data in (("design", design), ("target", target)):
        if not isinstance(data, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(data).__name__}")
        if data.is_complex():
            raise TypeError(f"{name} must be real, got {data.dtype}")
    if design.dim() != 2 or target.dim() not in (1, 2) or len(target) != len(design) or 0 in design.shape:
        raise ValueError(
            f"design must be (n, d) and target (n,) or (n, k), neither empty; got {list(design.shape)} and "
            f"{list(target.shape)}"
        )
    if design.layout not in (torch.strided, torch.sparse_csr):
        raise ValueError(f"design must be dense or sparse in the CSR layout, got {design.layout}")
    wide = torch.promote_types(design.dtype, target.dtype)
    wide = wide if wide.is_floating_point else torch.float64
    design, target = design.to(wide), target.to(wide)
    for name, data in (("design", design), ("target", target)):
        entries = data.values() if data.layout is torch.sparse_csr else data
        if not bool(torch.isfinite(entries).all()):
            raise ValueError(f"{name} must be finite, but it holds NaN or an infinity")
    return design, target
