"""The convex program of a two-layer ReLU network by an interior-point method: the reference for small problems."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core import losses
from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.train.convexnet.certificate import lower_bound
from steepest.train.convexnet.program import ConvexProgram

__all__ = ["CARD", "InteriorPoint", "InteriorPointState"]

CARD = MethodCard(
    name="convexnet-interior-point",
    title="Interior-point method for convex ReLU networks",
    room="convexnet",
    family="convex program",
    summary="Solves the convex program of a small two-layer ReLU network to high accuracy by CVXPY and Clarabel.",
    target="steepest.train.convexnet.interior_point:InteriorPoint",
    papers=(
        Paper(
            "M. Pilanci, T. Ergen",
            2020,
            "Neural Networks are Convex Regularizers: Exact Polynomial-time Convex Optimization Formulations for "
            "Two-layer Networks",
            arxiv="2002.10553",
        ),
    ),
    needs=frozenset({"value", "predict"}),
    buffers=0,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class InteriorPointState(State):
    """The point, its value, the duality gap (``stationarity``), and:

    Attributes:
        bound: the lower bound on the optimum.
        done: whether the solver has run.
    """

    bound: float
    done: bool = False


@dataclass(frozen=True)
class InteriorPoint(Solver[ConvexProgram, InteriorPointState]):
    """Clarabel, a primal-dual interior-point method, through CVXPY; the one step solves the whole program.

    Time and memory grow with the cube of the number of constraints, ``n`` times the patterns, so this is for a few
    hundred samples and tens of patterns. It works in float64 on the CPU. The solution is moved into the cones by what
    rounding left, and the stationarity is its duality gap, by our own certificate and not by the solver's word.

    Args:
        accuracy: absolute and relative gap and feasibility at which Clarabel ends, in (0, 1). Default 1e-9.

    Raises:
        ImportError: CVXPY or Clarabel is missing (``pip install 'steepest[convex]'``).
        ValueError: the loss is a function, which CVXPY cannot take.
        Stalled: a second step is asked for, or Clarabel failed.

    Source: the program of M. Pilanci, T. Ergen (2020), Neural Networks are Convex Regularizers, arXiv 2002.10553;
    solver: P. Goulart, Y. Chen (2024), Clarabel, arXiv 2405.12762.
    """

    accuracy: float = 1e-9

    needs = CARD.needs
    ranges = {"accuracy": Real(low=0.0, high=1.0, low_open=True, high_open=True)}

    def init(self, problem: ConvexProgram, start: Tensor, generator: torch.Generator) -> InteriorPointState:
        """The start, moved into the cones; it is not used further."""
        _modules()
        point = problem.repair(start.to(problem.design))
        prediction = problem.predict(point)
        bound = lower_bound(problem, problem.loss.derivative(prediction, problem.target)).value
        value = float(problem.value(point))
        return InteriorPointState(point=point, value=value, stationarity=max(0.0, value - bound), bound=bound)

    def step(self, problem: ConvexProgram, state: InteriorPointState) -> InteriorPointState:
        """The whole solution.

        Raises:
            Stalled: it has been found already, or Clarabel failed.
        """
        if state.done:
            raise Stalled("the program is solved to the accuracy asked for")
        point, slope = self._solve(problem)
        double = _double(problem)
        point = double.repair(point)
        value = float(double.value(point))
        bounds = [lower_bound(double, sign * slope, refine=1).value for sign in (1.0, -1.0)]
        bounds.append(lower_bound(double, double.loss.derivative(double.predict(point), double.target), refine=1).value)
        bound = max(state.bound, *bounds)
        narrow = problem.repair(point.to(problem.design))
        if narrow.dtype != point.dtype:
            value = float(problem.value(narrow))
        return replace(state, point=narrow, value=value, stationarity=max(0.0, value - bound), bound=bound, done=True)

    def _solve(self, problem: ConvexProgram) -> tuple[Tensor, Tensor]:
        cp = _modules()
        copies, count, d, outputs = problem.shape
        design, target = (t.double().cpu().numpy() for t in (problem.design, problem.target))
        active = problem.patterns.active.cpu().numpy().astype(float)
        sign = 2 * active - 1
        blocks = [[cp.Variable((d, count)) for _ in range(outputs)] for _ in range(copies)]
        fits, constraints, terms = [], [], []
        for c in range(outputs):
            difference = blocks[0][c] if problem.gated else blocks[0][c] - blocks[1][c]
            fits.append(cp.sum(cp.multiply(active, design @ difference), axis=1))
        for row in blocks:
            for block in row:
                if not problem.joint:
                    terms.append(cp.sum(cp.norm(block, 2, axis=0)))
                if not problem.gated:
                    constraints.append(cp.multiply(sign, design @ block) >= 0)
        if problem.joint:
            for i in range(count):
                terms.append(cp.normNuc(cp.vstack([blocks[0][c][:, i] for c in range(outputs)])))
        loss, links = 0, []
        for c in range(outputs):
            z = cp.Variable(len(design))
            links.append(z == fits[c])
            loss = loss + _loss(cp, problem.loss, z, target[:, c])
        whole = cp.Problem(cp.Minimize(loss + problem.penalty * sum(terms)), constraints + links)
        limits = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas", "tol_infeas_abs"), self.accuracy)
        solver = cp.SCS if problem.joint and "CLARABEL" not in cp.installed_solvers() else cp.CLARABEL
        try:
            whole.solve(solver=solver, **limits)
        except cp.SolverError as error:
            raise Stalled(f"Clarabel failed: {error}") from error
        if blocks[0][0].value is None:
            raise Stalled(f"Clarabel failed: {whole.status}")
        point = np.stack([np.stack([block.value.T for block in row], axis=-1) for row in blocks])
        dual = np.stack([link.dual_value for link in links], axis=-1)
        device = problem.design.device
        return torch.as_tensor(point, device=device), torch.as_tensor(dual, device=device)


def _modules() -> Any:
    try:
        import clarabel  # noqa: F401
        import cvxpy
    except ImportError as error:
        raise ImportError("InteriorPoint needs CVXPY and Clarabel: pip install 'steepest[convex]'") from error
    return cvxpy


def _loss(cp: Any, loss: losses.Loss, z: Any, y: np.ndarray) -> Any:
    match loss:
        case losses.Squared():
            return 0.5 * cp.sum_squares(z - y)
        case losses.Absolute():
            return cp.norm1(z - y)
        case losses.Huber(delta=delta):
            return 0.5 * cp.sum(cp.huber(z - y, delta))
        case losses.Logistic():
            return cp.sum(cp.logistic(-cp.multiply(y, z)))
        case losses.Hinge():
            return cp.sum(cp.pos(1 - cp.multiply(y, z)))
        case losses.SquaredHinge():
            return 0.5 * cp.sum_squares(cp.pos(1 - cp.multiply(y, z)))
    raise ValueError(
        f"InteriorPoint: loss must be one of the library's own, got {loss!r}; another solver takes any function"
    )


def _double(problem: ConvexProgram) -> ConvexProgram:
    """The program in float64."""
    if problem.design.dtype == torch.float64:
        return problem
    made = ConvexProgram(
        problem.design.double(),
        problem.target.double(),
        problem.patterns,
        problem.loss,
        problem.penalty,
        gated=problem.gated,
        joint=problem.joint,
    )
    return made
