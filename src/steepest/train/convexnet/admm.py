"""ADMM for the convex program of a two-layer ReLU network."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Flag, Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.train.convexnet.certificate import lower_bound, project_on_cones
from steepest.train.convexnet.linear import tolerance_at
from steepest.train.convexnet.losses import smoothed
from steepest.train.convexnet.program import ConvexProgram

__all__ = ["ADMM", "CARD", "ADMMState", "checked"]

PAPER = Paper(
    "Y. Bai, T. Gautam, S. Sojoudi",
    2022,
    "Efficient Global Optimization of Two-layer ReLU Networks: Quadratic-time Algorithms and Adversarial Training",
    arxiv="2201.01965",
)

CARD = MethodCard(
    name="convexnet-admm",
    title="ADMM for convex ReLU networks",
    room="convexnet",
    family="convex program",
    summary="Trains a two-layer ReLU network to global optimality by ADMM with one small and one n x n factorization.",
    target="steepest.train.convexnet.admm:ADMM",
    papers=(PAPER,),
    needs=frozenset({"value", "predict", "margins", "prox", "loss prox", "normal equations"}),
    buffers=3,
    claim="A handful of iterations classify well, and the gap to the global optimum goes to zero linearly, far cheaper "
    "than by an interior-point solver.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ADMMState(State):
    """The best point in the cones found so far (``point``), its value and duality gap (``stationarity``), and:

    Attributes:
        blocks: ``v``, the iterate with zero blocks; it meets the cones in the limit only.
        dual: the scaled dual ``lam`` of ``u = v``.
        margins: slack and scaled dual of ``G u = s`` in one tensor, ``s`` its positive and ``nu`` its negative part;
            ``None`` without cones.
        fit: ``z``, the prediction that the loss sees; ``None`` for the squared loss.
        fit_dual: the scaled dual ``mu`` of ``F u = z``; ``None`` for the squared loss.
        rho: the penalty parameter of ``u = v`` and ``G u = s``.
        fit_rho: that of ``F u = z``.
        bound: the best lower bound on the optimum so far.
        network_value: the objective of the network of ``blocks`` at the last certificate; it is often less than
            ``value``.
        warm: where conjugate gradients begin.
        count: steps done.
        residual: the fixed-point residual of the last step, relative.
        adapted: the step at which ``rho`` last changed.
    """

    blocks: Tensor
    dual: Tensor
    margins: Tensor | None
    fit: Tensor | None
    fit_dual: Tensor | None
    rho: float
    fit_rho: float
    bound: float
    network_value: float = math.inf
    warm: Tensor | None = None
    count: int = 0
    residual: float = math.inf
    adapted: int = 0


@dataclass(frozen=True)
class ADMM(Solver[ConvexProgram, ADMMState]):
    r"""The alternating direction method of multipliers, in a form that never builds a large matrix.

    With ``F u = sum_i D_i X (v_i - w_i)`` and ``G u = (E_i X v_i, E_i X w_i)``, the program is split as::

        min loss(F u, y) + penalty sum_i |v_i| + indicator(s >= 0)     s.t.  u = v,  G u = s

    and from zero it repeats, with scaled duals ``lam`` and ``nu``::

        u   = argmin loss(F u, y) + rho/2 |u - v + lam|^2 + rho/2 |G u - s + nu|^2
        v_i = (1 - penalty / (rho |u_i + lam_i|))_+ (u_i + lam_i),        s = (G u + nu)_+
        lam = lam + u - v,                                                nu = nu + G u - s

    where ``u`` and ``G u`` are first over-relaxed, ``a u + (1 - a) v`` with ``a`` the ``relaxation``. For the squared
    loss the first line is ``(I + F'F / rho + G'G) u = F'y / rho + v - lam + G'(s - nu)``; see
    :mod:`~steepest.train.convexnet.linear` for how it is solved. For any other loss the constraint ``F u = z`` is added
    with its dual and a penalty parameter of its own, and ``z`` is a prox of the loss. The rows of ``G`` are scaled to
    equal length, which changes no cone.

    A step costs O(n P d) for the products and O(n^2) for the solve (conjugate gradients, with a tolerance that falls
    like ``k**-1.2``, where both ``n`` and ``P d`` are large). It holds about four arrays of the size ``n x 2P``.

    Convergence: for every fixed ``rho > 0`` and ``0 < a < 2`` the iterates converge to a solution; ``rho`` is therefore
    changed ever more rarely. Where it changes, the scaled duals are rescaled by the inverse factor.

    Every ``check_every`` steps (and after the first and the third) the blocks are moved into their cones, which gives a
    feasible point and an upper bound, and the duals give a lower bound (see
    :mod:`~steepest.train.convexnet.certificate`). ``point`` is the best feasible point so far, ``value`` its objective,
    and the stationarity is ``value`` minus the best lower bound: a bound on how far ``value`` is above the optimum. The
    recovered network of ``blocks`` is often better than that of ``point`` early on.

    Args:
        rho: the penalty parameters at the start, > 0, in units of the loss per squared weight. Default 1,
            which suits rows of equal length; for losses other than the squared one, ``F u = z`` begins with 0.4 times
            the curvature of the loss.
        relaxation: over-relaxation, in (0, 2); 1 is the paper's form. Default 1.6.
        adapt: whether ``rho`` follows the ratio of primal and dual residuals, at steps 10, 20, 40, 80, ...; and while
            all blocks are zero and would stay so for long, grows at once. Default True.
        check_every: steps between certificates, >= 1. Default 10.
        refine: rounds of cone projections per certificate, >= 0. Default 0: the duals of the iteration alone.
        warm_dual: begin with the duals that belong to the slope of the loss at the start, in place of zero. It is of
            use where the start is nearly optimal, and costs a projection of each block on its cone. Default False.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.
        Stalled: the iterate has stopped moving, to the accuracy of its dtype.

    Source: Y. Bai, T. Gautam, S. Sojoudi (2022), Efficient Global Optimization of Two-layer ReLU Networks:
    Quadratic-time Algorithms and Adversarial Training, arXiv 2201.01965 (algorithm 3.1; the paper has a dual step size
    in place of the relaxation). The Woodbury form, the row scaling and the certificate are this library's; inexact
    solves with a Nystrom preconditioner follow M. Feng, Z. Frangella, M. Pilanci (2024), CRONOS: Enhancing Deep
    Learning with Scalable GPU Accelerated Convex Neural Networks, arXiv 2411.01088.
    """

    rho: float = 1.0
    relaxation: float = 1.6
    adapt: bool = True
    check_every: int = 10
    refine: int = 0
    warm_dual: bool = False

    needs = CARD.needs
    ranges = {
        "rho": Real(low=0.0, low_open=True),
        "relaxation": Real(low=0.0, high=2.0, low_open=True, high_open=True),
        "adapt": Flag(),
        "check_every": Integer(low=1),
        "refine": Integer(low=0),
        "warm_dual": Flag(),
    }

    def init(self, problem: ConvexProgram, start: Tensor, generator: torch.Generator) -> ADMMState:
        """The start, moved into the cones; all duals zero, or with ``warm_dual`` those of the slope there."""
        blocks = start.to(problem.design)
        fit, curvature = problem.predict(blocks), problem.loss.curvature
        state = ADMMState(
            point=problem.repair(blocks),
            blocks=blocks,
            dual=torch.zeros_like(blocks),
            margins=None if problem.gated else problem.margins(blocks).clamp_min(0),
            fit=None if problem.is_squared else fit,
            fit_dual=None if problem.is_squared else torch.zeros_like(fit),
            rho=self.rho,
            fit_rho=0.4 * curvature if math.isfinite(curvature) else self.rho,
            bound=-math.inf,
        )
        slope, multipliers = problem.loss.derivative(fit, problem.target), None
        if self.warm_dual:
            slope = smoothed(problem.loss, fit, problem.target)[1]
            # With a slope r and multipliers m of the cones, the conditions of optimality say that
            # fit_rho mu = r, rho nu = -m and rho lam = -F'r + G'm.
            scaled = -problem.adjoint(slope)
            if state.margins is not None:
                multipliers = torch.zeros_like(state.margins)
                multipliers, scaled = project_on_cones(problem, scaled, multipliers, problem.penalty)
                state = replace(state, margins=state.margins - multipliers / self.rho)
            fit_dual = None if state.fit is None else slope / state.fit_rho
            state = replace(state, dual=scaled / self.rho, fit_dual=fit_dual)
        return checked(problem, state, slope, multipliers, self.refine)

    def step(self, problem: ConvexProgram, state: ADMMState) -> ADMMState:
        """One round; a certificate where one is due.

        Raises:
            Stalled: nothing moves any more.
        """
        rho, relax, v = state.rho, self.relaxation, state.blocks
        right = v - state.dual
        if state.margins is not None:
            right = right + problem.margins_adjoint(state.margins.abs())  # s - nu, whose supports are disjoint
        if problem.is_squared:
            system = problem.normal_equations(1 / rho)
            right = right + problem.adjoint(problem.target) / rho
        else:
            system = problem.normal_equations(state.fit_rho / rho)
            right = right + (state.fit_rho / rho) * problem.adjoint(state.fit - state.fit_dual)
        u, warm = system.solve(right, state.warm, tolerance_at(state.count))

        lifted = relax * u + (1 - relax) * v + state.dual
        blocks = problem.prox(lifted, 1 / rho)
        dual = lifted - blocks
        cones, loss_part = _Residual(), _Residual()
        cones.add(u, v, blocks, state.dual, dual)
        margins = None
        if state.margins is not None:
            inner = problem.margins(u)
            slack = state.margins.clamp_min(0)
            margins = relax * inner + (1 - relax) * slack + state.margins.clamp_max(0)
            cones.add(inner, slack, margins.clamp_min(0), state.margins.clamp_max(0), margins.clamp_max(0))
        fit = fit_dual = None
        prediction = problem.predict(u)
        if state.fit is not None and state.fit_dual is not None:
            lifted = relax * prediction + (1 - relax) * state.fit + state.fit_dual
            fit = problem.loss_prox(lifted, 1 / state.fit_rho)
            fit_dual = lifted - fit
            loss_part.add(prediction, state.fit, fit, state.fit_dual, fit_dual)
        tiny = torch.finfo(v.dtype).tiny
        residual = math.sqrt(max(r.moved / max(r.size + r.dual_size, tiny) for r in (cones, loss_part)))
        count = state.count + 1
        if residual <= 4 * torch.finfo(v.dtype).eps and count > 5:
            raise Stalled(f"the iterate no longer moves (relative change {residual:.2g})")
        after = ADMMState(
            point=state.point,
            value=state.value,
            stationarity=state.stationarity,
            blocks=blocks,
            dual=dual,
            margins=margins,
            fit=fit,
            fit_dual=fit_dual,
            rho=rho,
            fit_rho=state.fit_rho,
            bound=state.bound,
            network_value=state.network_value,
            warm=warm if system.method == "cg" else None,
            count=count,
            residual=residual,
            adapted=state.adapted,
        )
        if count in (1, 3) or count % self.check_every == 0:
            if fit_dual is None:
                slope = problem.loss.derivative(prediction, problem.target)
            else:
                slope = state.fit_rho * fit_dual
            multipliers = None if margins is None else rho * (-margins).clamp_min(0)
            after = checked(problem, after, slope, multipliers, self.refine)
        asleep = self.adapt and not bool(blocks.any())
        if asleep and count & (count - 1) == 0:  # steps 1, 2, 4, 8, ...
            after = _awakened(problem, after, prediction)
        elif self.adapt and count >= state.adapted + max(10, state.adapted):
            smooth = math.isfinite(problem.loss.curvature)
            after = _adapted(after, cones.ratio(), 1.0 if smooth else loss_part.ratio())
        return after


class _Residual:
    """Squared norms over a group of constraints ``A u = x`` with scaled duals."""

    def __init__(self) -> None:
        self.apart = self.drift = self.size = self.moved = self.dual_size = 0.0

    def add(self, image: Tensor, before: Tensor, after: Tensor, dual_before: Tensor, dual: Tensor) -> None:
        self.apart += _square(image - after)
        drift = _square(after - before)
        self.drift += drift
        self.moved += drift + _square(dual - dual_before)
        self.size += _square(after)
        self.dual_size += _square(dual)

    def ratio(self) -> float:
        """By how much the penalty parameter is too small: the root of relative primal over relative dual residual."""
        primal, dual = self.apart * self.dual_size, self.drift * self.size
        if primal > 0 and dual > 0:
            return float((primal / dual) ** 0.25)
        return 0.1 if self.drift > 0 and self.dual_size == 0 else 1.0  # nothing pulls: the steps can be longer


def _adapted(state: ADMMState, ratio: float, fit_ratio: float) -> ADMMState:
    """Other penalty parameters where residuals differ by more than a factor of 3; scaled duals go with the inverse."""

    def useful(factor: float) -> float:
        return min(max(factor, 0.1), 10.0) if not 1 / math.sqrt(3) < factor < math.sqrt(3) else 1.0

    ratio = useful(ratio)
    fit_ratio = 1.0 if state.fit is None else useful(fit_ratio)
    margins = state.margins
    if margins is not None:
        margins = torch.where(margins < 0, margins / ratio, margins)
    return replace(
        state,
        rho=state.rho * ratio,
        dual=state.dual / ratio,
        margins=margins,
        fit_rho=state.fit_rho * fit_ratio,
        fit_dual=None if state.fit_dual is None else state.fit_dual / fit_ratio,
        adapted=state.count,
    )


def _awakened(problem: ConvexProgram, state: ADMMState, prediction: Tensor) -> ADMMState:
    """A larger penalty parameter where all blocks are zero and would be for long.

    They stay zero until the duals, to which each step adds about as much, exceed ``penalty / rho``. Where ``u`` fits
    the target well, ``rho`` is small for the data; where it does not, a larger one would only shorten the steps.
    """
    at = problem.loss.value(prediction, problem.target).sum()
    nothing = problem.loss.value(torch.zeros_like(prediction), problem.target).sum()
    longest = float(state.dual.flatten(2).norm(dim=2).max()) / state.count
    if not 2 * float(at) < float(nothing) or not longest > 0:
        return state
    wait = problem.penalty / state.rho / longest
    return _adapted(state, wait, 1.0) if wait > 3 else state


def checked(
    problem: ConvexProgram, state: ADMMState, slope: Tensor, multipliers: Tensor | None, refine: int
) -> ADMMState:
    """The state with a new upper and lower bound, where these are better than those it has."""
    point = problem.repair(state.blocks)
    value = float(problem.value(point))
    best = state.value is None or value < float(state.value)
    bound = max(state.bound, lower_bound(problem, slope, multipliers, refine=refine).value)
    upper = value if best else float(state.value)  # type: ignore[arg-type]
    return replace(
        state,
        point=point if best else state.point,
        value=upper,
        bound=bound,
        stationarity=max(0.0, upper - bound),
        network_value=float(problem.network_value(state.blocks)),
    )


def _square(x: Tensor) -> float:
    return float(x.square().sum())
