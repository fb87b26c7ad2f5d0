"""Saddle-free Newton: the absolute values of the Hessian's eigenvalues, dense or in a Krylov subspace."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.lanczos import lanczos
from steepest.core.linesearch import rounding_of
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.second_order import Spectrum

__all__ = [
    "CARD",
    "KRYLOV_CARD",
    "KrylovSaddleFreeNewton",
    "SaddleFreeNewton",
    "SaddleFreeNewtonState",
]

_PAPERS = (
    Paper(
        "R. Pascanu, Y. N. Dauphin, S. Ganguli, Y. Bengio",
        2014,
        "On the saddle point problem for non-convex optimization",
        arxiv="1405.4604",
    ),
    Paper(
        "Y. N. Dauphin, R. Pascanu, C. Gulcehre, K. Cho, S. Ganguli, Y. Bengio",
        2014,
        "Identifying and attacking the saddle point problem in high-dimensional non-convex optimization",
        arxiv="1406.2572",
    ),
)

CARD = MethodCard(
    name="saddle-free-newton",
    title="Saddle-free Newton",
    room="convex",
    family="second order",
    summary="Newton's method with the absolute eigenvalues of the Hessian, which repel it from saddles.",
    target="steepest.solve.convex.saddle_free_newton:SaddleFreeNewton",
    papers=_PAPERS,
    needs=frozenset({"value", "gradient", "hessian"}),
    buffers=1,
    claim=(
        "On small neural networks it reaches a lower training error than damped Newton and gradient descent, the more "
        "so the larger the network, because it leaves saddles that hold them up."
    ),
)

KRYLOV_CARD = MethodCard(
    name="saddle-free-newton-krylov",
    title="Saddle-free Newton (Krylov)",
    room="convex",
    family="second order",
    summary="Saddle-free Newton in the subspace of a few Hessian-vector products, for many variables.",
    target="steepest.solve.convex.saddle_free_newton:KrylovSaddleFreeNewton",
    papers=_PAPERS,
    needs=frozenset({"value", "gradient", "hvp"}),
    buffers=1,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SaddleFreeNewtonState(State):
    """The iterate, its value, and:

    Attributes:
        gradient: the gradient at ``point``, as a vector.
        damping: the damping that led here; 0 at the start.
        lowest: the lowest eigenvalue of the Hessian (in the subspace) at the point before; ``None`` at the start.
        negative: the share of negative eigenvalues there, the index of a saddle.
    """

    gradient: Tensor
    damping: float = 0.0
    lowest: float | None = None
    negative: float | None = None


@dataclass(frozen=True)
class _SaddleFree(Solver[SmoothProblem, SaddleFreeNewtonState]):
    """What both forms share: the damping that is searched, the start, the choice of a step."""

    largest: float = 1.0
    smallest: float = 1e-6
    max_trials: int = 40

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> SaddleFreeNewtonState:
        """The value and the gradient at the start."""
        value, gradient = problem.value_and_gradient(start)
        flat = tree.ravel(gradient)
        return SaddleFreeNewtonState(
            point=start, value=float(value), gradient=flat, stationarity=float(torch.linalg.vector_norm(flat))
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest > self.largest:
            raise ValueError(
                f"{type(self).__name__}: smallest must be at most largest={self.largest!r}, got {self.smallest!r}"
            )

    def _grid(self) -> Iterator[tuple[float, bool]]:
        """Dampings from the smallest by tens; and whether each is beyond the largest."""
        damping = self.smallest
        for _ in range(self.max_trials):
            yield damping, damping > self.largest * (1 + 1e-9)
            damping *= 10.0

    def _best(
        self, problem: SmoothProblem, state: SaddleFreeNewtonState, spectrum: Spectrum, basis: Tensor | None
    ) -> SaddleFreeNewtonState | None:
        """The best step over the grid of dampings; ``None`` where none is an improvement."""
        assert state.value is not None
        assert state.stationarity is not None
        x, value, norm = state.point, float(state.value), float(state.stationarity)
        gradient = state.gradient if basis is None else basis @ state.gradient
        rounding = rounding_of(value, torch.finfo(gradient.dtype).eps)

        def to(damping: float) -> Point:
            small = -spectrum.absolute(gradient, damping)
            return tree.add_scaled(x, 1.0, tree.unravel(small if basis is None else basis.mT @ small, x))

        best, chosen, close = value - rounding, None, None
        for damping, beyond in self._grid():
            if beyond and chosen is not None:
                break
            here = float(problem.value(to(damping)))
            if here < best:
                best, chosen = here, damping
            elif close is None and abs(here - value) <= rounding:
                close = damping
            if beyond and close is not None:
                break
        # Where no value is lower beyond rounding, the gradient decides, at the least damping that keeps the value.
        damping = chosen if chosen is not None else close
        if damping is None:
            return None
        point = to(damping)
        found, slopes = problem.value_and_gradient(point)
        flat = tree.ravel(slopes)
        after = float(torch.linalg.vector_norm(flat))
        if chosen is None and not after < norm:
            return None
        return SaddleFreeNewtonState(
            point=point,
            value=float(found),
            gradient=flat,
            stationarity=after,
            damping=damping,
            lowest=float(spectrum.values[0]),
            negative=float((spectrum.values < 0).double().mean()),
        )


@dataclass(frozen=True)
class SaddleFreeNewton(_SaddleFree):
    """Saddle-free Newton with a dense Hessian.

    It looks for a minimum of a twice differentiable ``f``, convex or not::

        x_{k+1} = x_k - (|H_k| + damping I)^-1 g_k,        |H| = Q |diag(w)| Q'   where   H = Q diag(w) Q'

    ``|H|`` bounds how much the linear model of ``f`` errs in a direction; so the step is that of a trust region with
    this metric: Newton's where ``H`` is positive definite, and *away* from a saddle along negative curvature, where
    Newton's goes towards it. The damping is the one of ``largest, largest / 10, ..., smallest`` with the lowest value
    of ``f``; where no value is lower than at ``x_k``, larger ones are tried as well (the paper does not say what then).

    No global rate is proved. Where ``f`` is strongly convex with a Lipschitz Hessian near a minimizer, steps are
    Newton's with a damping of at least ``smallest``: linear with the factor ``smallest / (mu + smallest)``, at first
    quadratic.

    A step costs one Hessian over the flattened point, one ``"factorization"`` (about ``9 d^3`` operations), one value
    per damping and one gradient. Stationarity is the Euclidean norm of the gradient: zero at saddles too, which is
    where a run that begins there ends, as ``stalled``, saying so.

    Args:
        largest: the largest damping of the grid, > 0, in units of ``H``. Default 1, the paper's.
        smallest: the smallest, > 0. Default 1e-6, the paper's.
        max_trials: dampings that a step tries, >= 1. Default 40.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, or ``smallest > largest``.

    Source: R. Pascanu, Y. N. Dauphin, S. Ganguli and Y. Bengio (2014), "On the saddle point problem for non-convex
    optimization", arXiv:1405.4604; Y. N. Dauphin et al. (2014), arXiv:1406.2572.
    """

    needs = frozenset({"value", "gradient", "hessian"})
    ranges = {
        "largest": Real(low=0.0, low_open=True),
        "smallest": Real(low=0.0, low_open=True),
        "max_trials": Integer(low=1),
    }

    def step(self, problem: SmoothProblem, state: SaddleFreeNewtonState) -> SaddleFreeNewtonState:
        """One decomposition and a search for the damping.

        Raises:
            Stalled: the gradient is zero, the Hessian is not finite, or no damping made progress.
        """
        hessian = problem.hessian(state.point)
        if not bool(torch.isfinite(hessian).all()):
            raise Stalled("the Hessian is not finite")
        spectrum = Spectrum.of(hessian)
        if state.stationarity == 0:
            negative = int((spectrum.values < 0).sum())
            raise Stalled(f"the gradient is zero, with {negative} negative eigenvalues of {len(spectrum.values)}")
        found = self._best(problem, state, spectrum, None)
        if found is None:
            raise Stalled(f"no damping decreased the value or the gradient in {self.max_trials} trials")
        return found


@dataclass(frozen=True)
class KrylovSaddleFreeNewton(_SaddleFree):
    """Saddle-free Newton in Krylov subspaces, for problems whose Hessian is too large to form.

    It looks for a minimum of a twice differentiable ``f``, convex or not. Each step builds an orthonormal basis ``V``
    of the space spanned by ``g, H g, H^2 g, ...`` (``subspace`` vectors, Lanczos with full orthogonalization), and then
    ``inner`` times::

        x <- x - V' (|V H V'| + damping I)^-1 V g(x)

    with the subspace's ``|V H V'|`` as in :class:`SaddleFreeNewton` and the damping from the same grid. With
    ``subspace >= d`` and ``inner = 1`` it is that method.

    A step costs ``subspace`` Hessian-vector products and, ``inner`` times, one value per damping and one gradient;
    the memory is ``2 subspace`` vectors. Stationarity is the Euclidean norm of the gradient.

    Args:
        largest: the largest damping of the grid, > 0, in units of ``H``. Default 1, the paper's.
        smallest: the smallest, > 0. Default 1e-6, the paper's.
        max_trials: dampings that a step tries, >= 1. Default 40.
        subspace: dimension of the Krylov space, >= 1. Default 30 (the paper takes up to 500 for its networks).
        inner: steps in one subspace, >= 1. Default 1.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range, or ``smallest > largest``.

    Source: Y. N. Dauphin, R. Pascanu, C. Gulcehre, K. Cho, S. Ganguli and Y. Bengio (2014), "Identifying and attacking
    the saddle point problem in high-dimensional non-convex optimization", arXiv:1406.2572, Algorithm 1.
    """

    subspace: int = 30
    inner: int = 1

    needs = frozenset({"value", "gradient", "hvp"})
    ranges = {**SaddleFreeNewton.ranges, "subspace": Integer(low=1), "inner": Integer(low=1)}

    def step(self, problem: SmoothProblem, state: SaddleFreeNewtonState) -> SaddleFreeNewtonState:
        """One subspace and ``inner`` steps in it.

        Raises:
            Stalled: the gradient is zero, a product is not finite, or no damping made progress.
        """
        if state.stationarity == 0:
            raise Stalled("the gradient is zero, so there is no subspace to search; it may be a saddle")
        x = state.point

        def product(vector: Tensor) -> Tensor:
            return tree.ravel(problem.hvp(x, tree.unravel(vector, x)))

        basis, small = lanczos(product, state.gradient, self.subspace)
        if not bool(torch.isfinite(small).all()):
            raise Stalled("a Hessian-vector product is not finite")
        spectrum = Spectrum.of(small)
        latest = state
        for _ in range(self.inner):
            found = self._best(problem, latest, spectrum, basis)
            if found is None:
                break
            latest = found
        if latest is state:
            raise Stalled(f"no damping decreased the value or the gradient in {self.max_trials} trials")
        return latest
