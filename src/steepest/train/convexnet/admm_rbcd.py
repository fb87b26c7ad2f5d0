"""ADMM for the convex program of a two-layer ReLU network, with randomized block-coordinate descent inside."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steepest.core.card import MethodCard
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.train.convexnet.admm import PAPER
from steepest.train.convexnet.certificate import lower_bound
from steepest.train.convexnet.program import ConvexProgram

__all__ = ["ADMMRBCD", "CARD", "ADMMRBCDState"]

CARD = MethodCard(
    name="convexnet-admm-rbcd",
    title="ADMM with block-coordinate descent for convex ReLU networks",
    room="convexnet",
    family="convex program",
    summary="Trains a two-layer ReLU network to global optimality with any smooth convex loss and no factorization.",
    target="steepest.train.convexnet.admm_rbcd:ADMMRBCD",
    papers=(PAPER,),
    needs=frozenset({"value", "predict", "gradient", "margins", "prox"}),
    buffers=4,
    claim="Inexact steps on random blocks keep the convergence of ADMM at a cost per step that is linear in the data.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ADMMRBCDState(State):
    """The best point in the cones found so far (``point``), its value and duality gap (``stationarity``), and:

    Attributes:
        smooth: ``u``.
        blocks: ``v``.
        dual: the scaled dual of ``u = v``.
        slack, slack_dual: ``s`` and its scaled dual; ``None`` without cones.
        prediction: ``F u``, kept up to date block by block.
        length: the step size that the last line search accepted.
        bound: the best lower bound on the optimum so far.
        count: steps done.
        inner: block steps of the last step.
    """

    smooth: Tensor
    blocks: Tensor
    dual: Tensor
    slack: Tensor | None
    slack_dual: Tensor | None
    prediction: Tensor
    length: float
    bound: float
    count: int = 0
    inner: int = 0


@dataclass(frozen=True)
class ADMMRBCD(Solver[ConvexProgram, ADMMRBCDState]):
    r"""ADMM whose first line is not solved but approached on random blocks.

    The splitting is that of :class:`~steepest.train.convexnet.admm.ADMM`. In place of the minimization over ``u``,
    random sets of ``block_size`` patterns are drawn, each of whose blocks takes a gradient step::

        grad_v_i =  X' D_i l'(F u) + rho (u_i - v_i + lam_i + R'R u_i - R' E_i (s_i - nu_i))      (-X' for w_i)

    with Armijo's backtracking (``F u`` is updated by the change, so that a trial costs O(n)), until the mean decrease
    over a window of ``8 sqrt(P / block_size)`` block steps falls below the part ``threshold`` of the largest such mean
    of this step; then ``v``, ``s`` and, with the step ``dual_step``, the duals follow. A block step costs O(n d
    block_size). No matrix is factored, and the loss may be any smooth convex function.

    Value, point and stationarity are as in :class:`~steepest.train.convexnet.admm.ADMM`; the lower bound comes from the
    slope of the loss at ``F u``.

    Args:
        rho: penalty parameter, > 0. Default 1.
        dual_step: the dual step divided by ``rho``, in (0, 1.618]. Default 1. The authors' runs have 0.2 to 0.25.
        block_size: patterns per block, >= 1. Default 3, the authors'.
        threshold: the part of the decrease below which a step ends, in (0, 1). Default 0.1. (The authors have an
            absolute number in its place, 0.7 at first, that suits their data.)
        sweeps: at most so many passes over all patterns per step, >= 1. Default 10.
        check_every: steps between certificates, >= 1. Default 5.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.
        Stalled: the iterate has stopped moving.

    Source: Y. Bai, T. Gautam, S. Sojoudi (2022), arXiv 2201.01965, section 3.3.
    """

    rho: float = 1.0
    dual_step: float = 1.0
    block_size: int = 3
    threshold: float = 0.1
    sweeps: int = 10
    check_every: int = 5

    needs = CARD.needs
    ranges = {
        "rho": Real(low=0.0, low_open=True),
        "dual_step": Real(low=0.0, high=1.618, low_open=True),
        "block_size": Integer(low=1),
        "threshold": Real(low=0.0, high=1.0, low_open=True, high_open=True),
        "sweeps": Integer(low=1),
        "check_every": Integer(low=1),
    }

    def init(self, problem: ConvexProgram, start: Tensor, generator: torch.Generator) -> ADMMRBCDState:
        """The start, moved into the cones; all duals zero."""
        u = start.to(problem.design)
        slack = None if problem.gated else problem.margins(u).clamp_min(0)
        state = ADMMRBCDState(
            point=u,
            smooth=u,
            blocks=u,
            dual=torch.zeros_like(u),
            slack=slack,
            slack_dual=None if slack is None else torch.zeros_like(slack),
            prediction=problem.predict(u),
            length=1.0,
            bound=-math.inf,
            generator=generator,
        )
        return self._checked(problem, state)

    def step(self, problem: ConvexProgram, state: ADMMRBCDState) -> ADMMRBCDState:
        """Block steps on ``u``, then the rest of a round.

        Raises:
            Stalled: nothing moves any more.
        """
        u, prediction, length, inner = self._descend(problem, state)
        blocks = problem.prox(u + state.dual, 1 / self.rho)
        dual = state.dual + self.dual_step * (u - blocks)
        slack = slack_dual = None
        if state.slack is not None and state.slack_dual is not None:
            margins = problem.margins(u)
            slack = (margins + state.slack_dual).clamp_min(0)
            slack_dual = state.slack_dual + self.dual_step * (margins - slack)
        if torch.equal(u, state.smooth) and torch.equal(blocks, state.blocks) and torch.equal(dual, state.dual):
            raise Stalled("the iterate no longer moves")
        count = state.count + 1
        after = replace(
            state,
            smooth=u,
            blocks=blocks,
            dual=dual,
            slack=slack,
            slack_dual=slack_dual,
            prediction=prediction,
            length=length,
            count=count,
            inner=inner,
        )
        return self._checked(problem, after) if count in (1, 3) or count % self.check_every == 0 else after

    def _descend(self, problem: ConvexProgram, state: ADMMRBCDState) -> tuple[Tensor, Tensor, float, int]:
        copies, patterns, d, outputs = problem.shape
        size = min(self.block_size, patterns)
        window = math.ceil(8 * math.sqrt(patterns / size))
        u, rows = state.smooth.clone(), problem.rows
        # Afresh, so that rounding of the updates does not pile up over the steps.
        prediction = problem.predict(u)
        length, decreases, largest, done = state.length, [], 0.0, 0
        signs = problem.gated or torch.tensor([1.0, -1.0], dtype=u.dtype, device=u.device)[:, None, None, None]
        loss = float(problem.loss.value(prediction, problem.target).sum())
        while done < self.sweeps * math.ceil(patterns / size):
            assert state.generator is not None
            order = torch.randperm(patterns, generator=state.generator, device=state.generator.device)
            for chosen in order.to(u.device).split(size):
                part, active = u[:, chosen], problem._active[:, chosen]
                slope = problem.loss.derivative(prediction, problem.target)
                spread = (active[:, :, None] * slope[:, None, :]).flatten(1)
                fit = (problem.design.mT @ spread).reshape(d, len(chosen), outputs).movedim(0, 1)
                away = part - state.blocks[:, chosen] + state.dual[:, chosen]
                gradient = self.rho * away + (fit[None] if problem.gated else signs * fit)
                if state.slack is not None and state.slack_dual is not None:
                    sign = (active * 2 - 1)[:, None, :, None]
                    lack = sign * _apply(rows, part) - state.slack[:, :, chosen] + state.slack_dual[:, :, chosen]
                    back = rows.mT @ (sign * lack).flatten(1)
                    gradient = gradient + self.rho * back.reshape(d, copies, len(chosen), outputs).movedim(0, 2)
                square = float(gradient.square().sum())
                if square == 0:
                    decreases.append(0.0)
                    continue
                # Along -gradient the quadratic part is a parabola, and only the loss has to be evaluated.
                difference = gradient[0] if problem.gated else gradient[0] - gradient[1]
                change = torch.einsum("npk,np->nk", _apply(problem.design, difference[None])[:, 0], active)
                linear = float((away * gradient).sum())
                curved = square
                if state.slack is not None:
                    image = sign * _apply(rows, gradient)
                    linear += float((lack * image).sum())
                    curved += float(image.square().sum())
                for _ in range(60):
                    trial = float(problem.loss.value(prediction - length * change, problem.target).sum())
                    fall = loss - trial + self.rho * (length * linear - 0.5 * length * length * curved)
                    if fall >= 0.5 * length * square * (1 - 1e-9):
                        break
                    length *= 0.5
                else:
                    fall, trial = 0.0, loss
                if fall > 0:
                    u[:, chosen] = part - length * gradient
                    prediction, loss = prediction - length * change, trial
                decreases.append(fall)
                length *= 1.5
            done += math.ceil(patterns / size)
            if len(decreases) >= window:
                mean = sum(decreases[-window:]) / window
                largest = max(largest, max(sum(decreases[:window]) / window, mean))
                if mean <= self.threshold * largest:
                    break
        return u, prediction, length, done

    def _checked(self, problem: ConvexProgram, state: ADMMRBCDState) -> ADMMRBCDState:
        point = problem.repair(state.blocks)
        value = float(problem.value(point))
        best = state.value is None or value < float(state.value)
        slope = problem.loss.derivative(state.prediction, problem.target)
        multipliers = None if state.slack_dual is None else self.rho * (-state.slack_dual).clamp_min(0)
        bound = max(state.bound, lower_bound(problem, slope, multipliers).value)
        upper = value if best else float(state.value)  # type: ignore[arg-type]
        return replace(
            state, point=point if best else state.point, value=upper, bound=bound, stationarity=max(0.0, upper - bound)
        )


def _apply(matrix: Tensor, blocks: Tensor) -> Tensor:
    """``matrix`` times each block ``(copies, B, d, outputs)``: ``(n, copies, B, outputs)``."""
    copies, count, d, outputs = blocks.shape
    return (matrix @ blocks.movedim(2, 0).reshape(d, -1)).reshape(len(matrix), copies, count, outputs)
