"""The problems of this room: composite functions, finite sums, and linear models as their most common kind."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.losses import Loss, loss_of
from steepest.core.matrix import squared_norm, squared_row_norms, take_rows, weighted_gram
from steepest.core.oracle import oracle, tally
from steepest.core.problem import Problem, SmoothProblem
from steepest.core.ranges import Integer, OneOf, Real
from steepest.core.regularizer import Regularizer, Separable, Zero, regularizer_of
from steepest.core.tree import Point
from steepest.solve.convex.columns import Columns

__all__ = ["CompositeProblem", "FiniteSum", "LinearModel", "SumProblem"]


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

    Offers ``"value"`` (of ``f + g``), ``"smooth value"``, ``"smooth gradient"``, ``"smooth hvp"`` and ``"subgradient"``
    (of ``f``, which for the last may have kinks), ``"prox"`` (of ``g``) where that is cheap, and ``"lmo"`` where ``g``
    is the indicator of a bounded set.

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

    @oracle("subgradient")
    def value_and_subgradient(self, x: Point) -> tuple[Tensor, Point]:
        """``f(x)`` and a subgradient of ``f``, for functions and losses with kinks too; counts as one subgradient.

        It is what PyTorch's differentiation gives at a kink: for sums of absolute values, positive parts and maxima of
        affine functions a subgradient.
        """
        return self._smooth_value_and_gradient(x)

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

    def image(self, x: Point) -> Point:
        """``K x``, where ``f(x) = h(K x)`` with a linear ``K``: here the identity, in a linear model the design.

        Images of linear combinations are combinations of images, so a method that extrapolates knows the image of
        its new point without another product; ``h`` is what :meth:`smooth_value_at` and its kin evaluate.
        """
        return x

    @oracle("smooth value")
    def smooth_value_at(self, image: Point) -> Tensor:
        """``f(x)`` from ``K x``, a 0-dim tensor."""
        return self._smooth_value_at(image)

    @oracle("smooth value", "smooth gradient")
    def smooth_value_and_gradient_at(self, image: Point) -> tuple[Tensor, Point]:
        """``f(x)`` and its gradient with respect to ``x``, from ``K x``; counts as one of each."""
        return self._smooth_value_and_gradient_at(image)

    def smooth_excess(self, image: Point, other: Point) -> Tensor | None:
        """``f(x') - f(x) - <grad f(x), x' - x>`` from the images of two close points, free of cancellation.

        ``None`` where no such formula is known. Not counted: it asks nothing new of ``f``.
        """
        return None

    def _regularizer(self, x: Point) -> Tensor:
        return tree.leaves(x)[0].new_zeros(()) if isinstance(self.regularizer, Zero) else self.regularizer.value(x)

    # A linear model knows better ways to do these three.
    def _smooth_value(self, x: Point) -> Tensor:
        with torch.no_grad():
            return self.smooth._scalar(x)

    def _smooth_value_and_gradient(self, x: Point) -> tuple[Tensor, Point]:
        return self.smooth._value_and_gradient(x)

    def _smooth_value_at(self, image: Point) -> Tensor:
        return self._smooth_value(image)

    def _smooth_value_and_gradient_at(self, image: Point) -> tuple[Tensor, Point]:
        return self._smooth_value_and_gradient(image)

    def _smooth_hvp(self, x: Point, direction: Point) -> Point:
        return SmoothProblem.hvp.__wrapped__(self.smooth, x, direction)  # type: ignore[attr-defined]


class SumProblem(CompositeProblem):
    r"""Minimize a mean of functions of which single ones can be asked::

        min_x f(x) + g(x),        f = (1/n) sum_i f_i

    The base of :class:`FiniteSum` and :class:`LinearModel`: the oracles of samples, counted in samples. Offers
    ``"samples"`` (gradients: each that is asked for counts as one, so a full gradient counts ``n``) and ``"sample
    values"``, besides what a :class:`CompositeProblem` offers. Indices are 1-dim tensors of integers, at least one,
    repetitions allowed.
    """

    @property
    @abstractmethod
    def samples(self) -> int:
        """The number of samples, ``n``."""

    @property
    @abstractmethod
    def sample_lipschitz(self) -> float | None:
        """A Lipschitz constant that the gradients of all ``f_i`` share; ``None`` where it is not known."""

    @oracle("samples")
    def sample_gradient(self, x: Point, indices: Tensor) -> Point:
        """The mean of ``grad f_i(x)`` over the samples ``indices``: an unbiased estimate of the gradient of ``f`` where
        they are drawn uniformly."""
        tally("samples", len(indices) - 1)  # the mark has counted one
        return self._sample_gradient(x, indices)

    @oracle("samples", "sample values")
    def sample_value_and_gradient(self, x: Point, indices: Tensor) -> tuple[Tensor, Point]:
        """The mean of ``f_i(x)`` over the samples ``indices``, a 0-dim tensor, and the mean of their gradients."""
        tally("samples", len(indices) - 1)
        tally("sample values", len(indices) - 1)
        return self._sample_value_and_gradient(x, indices)

    @oracle("sample values")
    def sample_values(self, x: Point, indices: Tensor) -> Tensor:
        """``f_i(x)`` for the samples ``indices``, one number each."""
        tally("sample values", len(indices) - 1)
        return self._sample_values(x, indices)

    @oracle("samples")
    def full_gradient(self, x: Point) -> Point:
        """The gradient of ``f``, as :meth:`smooth_gradient`, but counted as ``n`` samples: methods that mix full
        gradients with gradients of samples ask for it in this way, so that all they ask for has one unit."""
        tally("samples", self.samples - 1)
        return self._smooth_value_and_gradient(x)[1]

    @oracle("samples")
    def compact_gradients(self, x: Point, indices: Tensor) -> Point:
        """The gradients of the samples ``indices`` one by one, in a form that is cheap to keep: for a linear model one
        number each, in general tensors like ``x`` with a first dimension more."""
        tally("samples", len(indices) - 1)
        return self._compact_gradients(x, indices)

    def mean_of_compact(self, compact: Point, indices: Tensor) -> Point:
        """The mean of gradients in the form of :meth:`compact_gradients`, which is linear in them; not counted."""
        return tree.tree_map(lambda leaf: leaf.mean(0), compact)

    def _sample_value_and_gradient(self, x: Point, indices: Tensor) -> tuple[Tensor, Point]:
        return self._sample_values(x, indices).mean(), self._sample_gradient(x, indices)

    @abstractmethod
    def _sample_gradient(self, x: Point, indices: Tensor) -> Point: ...

    @abstractmethod
    def _sample_values(self, x: Point, indices: Tensor) -> Tensor: ...

    @abstractmethod
    def _compact_gradients(self, x: Point, indices: Tensor) -> Point: ...


class FiniteSum(SumProblem):
    r"""Minimize a mean of differentiable functions plus one whose prox is cheap::

        min_x (1/n) sum_i f_i(x) + g(x)

    Args:
        function: ``function(x, indices)`` returns ``f_i(x)`` for the samples ``indices`` (a 1-dim tensor of integers on
            the device of ``x``), a tensor of the shape of ``indices``. It is differentiated by PyTorch; for
            ``compact_gradients`` (SAGA), ``torch.func.vmap`` must be able to map it over samples.
        samples: ``n``, the number of samples, >= 1.
        regularizer: ``g``, a function of the one tensor that a point then is; default 0.
        lipschitz: a Lipschitz constant of the gradient of ``f``, > 0; ``None`` where it is not known.
        sample_lipschitz: the same for the gradient of every ``f_i``, > 0; ``None`` where it is not known.
        strong_convexity: a modulus of strong convexity of ``f``, >= 0; default 0.

    Raises:
        TypeError: ``function`` is not callable or does not return a real tensor, or an argument is of a wrong kind.
        ValueError: it returns another shape than one number per sample, or a number is out of its range.
    """

    def __init__(
        self,
        function: Callable[[Any, Tensor], Tensor],
        samples: int,
        regularizer: Regularizer | None = None,
        *,
        lipschitz: float | None = None,
        sample_lipschitz: float | None = None,
        strong_convexity: float = 0.0,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r} of type {type(function).__name__}")
        Integer(low=1).check("samples", samples)
        Real(low=0.0, low_open=True, optional=True).check("sample_lipschitz", sample_lipschitz)
        self.function = function
        self.count = int(samples)
        self.smoothness = sample_lipschitz
        super().__init__(self._mean, regularizer, lipschitz=lipschitz, strong_convexity=strong_convexity)

    @property
    def samples(self) -> int:
        """The number of samples, ``n``."""
        return self.count

    @property
    def sample_lipschitz(self) -> float | None:
        """As given."""
        return self.smoothness

    def _mean(self, x: Point) -> Tensor:
        return self._values(x, torch.arange(self.count, device=tree.leaves(x)[0].device)).mean()

    def _values(self, x: Point, indices: Tensor) -> Tensor:
        values = self.function(x, indices)
        if not isinstance(values, Tensor) or values.is_complex():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"function must return a real tensor with one number per sample, got {kind}")
        if values.shape != indices.shape:
            raise ValueError(
                f"function must return one number per sample, of shape {list(indices.shape)}; got {list(values.shape)}"
            )
        return values

    def _sample_values(self, x: Point, indices: Tensor) -> Tensor:
        with torch.no_grad():
            return self._values(x, indices)

    def _sample_gradient(self, x: Point, indices: Tensor) -> Point:
        return self._sample_value_and_gradient(x, indices)[1]

    def _sample_value_and_gradient(self, x: Point, indices: Tensor) -> tuple[Tensor, Point]:
        return SmoothProblem(lambda point: self._values(point, indices).mean())._value_and_gradient(x)

    def _compact_gradients(self, x: Point, indices: Tensor) -> Point:
        def one(point: Point, index: Tensor) -> Tensor:
            return self._values(point, index[None])[0]

        with torch.enable_grad():
            found = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))(x, indices)
        return tree.tree_map(lambda leaf: leaf.detach(), found)


class LinearModel(SumProblem):
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
    and ``"sample values"`` (see :class:`SumProblem`; ``f_i`` is ``n c loss(a_i . x, y_i)``), ``"columns"`` (single
    features, for coordinate methods), ``"hessian"`` (dense), and ``"gap"`` where ``g`` has a conjugate.

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
        self._row_norm: float | None = None

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

    @property
    def sample_lipschitz(self) -> float | None:
        """``n c`` times the curvature of the loss times the largest squared norm of a row of the design; ``None`` for a
        loss that is not smooth."""
        if math.isinf(self.loss.curvature):
            return None
        if self._row_norm is None:
            self._row_norm = float(squared_row_norms(self.design).max())
        return self.samples * self.scale * self.loss.curvature * self._row_norm

    def mean_of_compact(self, compact: Tensor, indices: Tensor) -> Tensor:
        """The mean of gradients that are rows of the design times the derivatives of the loss, ``compact``."""
        rows = take_rows(self.design, indices)
        return (rows.mT @ compact) * (self.scale * self.samples / len(indices))

    def _compact_gradients(self, x: Tensor, indices: Tensor) -> Tensor:
        return self.loss.derivative(take_rows(self.design, indices) @ x, self.target[indices])

    def _sample_gradient(self, x: Tensor, indices: Tensor) -> Tensor:
        rows = take_rows(self.design, indices)
        slope = self.loss.derivative(rows @ x, self.target[indices])
        return (rows.mT @ slope) * (self.scale * self.samples / len(indices))

    @oracle("columns")
    def columns(self, indices: Tensor) -> Tensor:
        """The features ``indices`` as the rows of a dense matrix, ``(k, n)``."""
        return Columns.of(self).dense(indices)

    def _sample_values(self, x: Tensor, indices: Tensor) -> Tensor:
        losses = self.loss.value(take_rows(self.design, indices) @ x, self.target[indices])
        return self.scale * self.samples * losses.reshape(len(indices), -1).sum(1)

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
        value, gradient = self._smooth_value_and_gradient_at(prediction)
        return value + self.regularizer.value(x) - self.dual_value(prediction, gradient)

    def dual_value(self, image: Tensor, gradient: Tensor) -> Tensor:
        """A lower bound on ``min F``, from the dual point that a gradient of ``f`` leaves behind; a 0-dim tensor.

        It is the dual objective at the point of :meth:`gap`, and takes no product with the design.

        Args:
            image: the predictions where the gradient was taken.
            gradient: the gradient of ``f`` there.
        """
        return self.dual_value_of(self.loss.derivative(image, self.target), gradient)

    def dual_value_of(self, slope: Tensor, gradient: Tensor) -> Tensor:
        """The same, for a method that has the derivative of the loss in every sample at hand."""
        shrink = self.regularizer.dual_scale(-gradient)
        # A dual point scaled onto the boundary of the domain must not fall outside by rounding.
        shrink = torch.where(shrink < 1, shrink * (1 - 4 * torch.finfo(shrink.dtype).eps), shrink)
        conjugate = self.scale * self.loss.conjugate(shrink * slope, self.target).sum()
        return -(conjugate + self.regularizer.conjugate(-shrink * gradient))

    def image(self, x: Tensor) -> Tensor:
        """The predictions: ``K`` is the design."""
        return self.predict(x)

    def smooth_excess(self, image: Tensor, other: Tensor) -> Tensor | None:
        """By the second derivative of the loss: half the Hessian's quadratic form."""
        change = other - image
        return 0.5 * self.scale * (self.loss.second_derivative(image, self.target) * change.square()).sum()

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
        return self._smooth_value_at(self.predict(x))

    def _smooth_value(self, x: Point) -> Tensor:
        return self._function(x)

    def _smooth_value_and_gradient(self, x: Point) -> tuple[Tensor, Point]:
        return self._smooth_value_and_gradient_at(self.predict(x))

    def _smooth_value_at(self, image: Tensor) -> Tensor:
        return self.scale * self.loss.value(image, self.target).sum()

    def _smooth_value_and_gradient_at(self, image: Tensor) -> tuple[Tensor, Point]:
        gradient = self.scale * (Columns.of(self).transposed @ self.loss.derivative(image, self.target))
        return self._smooth_value_at(image), gradient

    def _smooth_hvp(self, x: Point, direction: Point) -> Point:
        weight = self.scale * self.loss.second_derivative(self.predict(x), self.target)
        return Columns.of(self).transposed @ (weight * (self.design @ direction))


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
