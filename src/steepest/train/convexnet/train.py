"""From data to a globally optimal network in one call."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from steepest.core.budget import Budget
from steepest.core.card import MethodCard, Paper
from steepest.core.losses import Loss
from steepest.core.ranges import Flag, Integer, Real
from steepest.core.result import Reason
from steepest.core.run import Report
from steepest.core.solver import Solver
from steepest.train.convexnet.admm import ADMM, PAPER, ADMMState
from steepest.train.convexnet.admm_rbcd import ADMMRBCD
from steepest.train.convexnet.certificate import into_domain, lower_bound
from steepest.train.convexnet.grow import find_neurons, fitting_rho, grow_patterns
from steepest.train.convexnet.interior_point import InteriorPoint
from steepest.train.convexnet.losses import as_loss, smoothed
from steepest.train.convexnet.network import TwoLayerReLU, nonconvex_objective, with_bias
from steepest.train.convexnet.patterns import Patterns, sample_patterns
from steepest.train.convexnet.program import ConvexProgram
from steepest.train.convexnet.scp import SCP, sample_features, sampled_network, sampled_program

__all__ = ["CARDS", "SOLVERS", "Trained", "convex_relu_path", "train_convex_relu"]

_PAPERS = (
    Paper(
        "M. Pilanci, T. Ergen",
        2020,
        "Neural Networks are Convex Regularizers: Exact Polynomial-time Convex Optimization Formulations for Two-layer "
        "Networks",
        arxiv="2002.10553",
    ),
    PAPER,
)
_CLASSIFIER = MethodCard(
    name="convex-relu",
    title="Convex ReLU network",
    room="convexnet",
    family="estimator",
    summary="A two-layer ReLU classifier trained to global optimality, with the interface of scikit-learn.",
    target="steepest.train.convexnet.estimators:ConvexReLUClassifier",
    papers=_PAPERS,
    needs=frozenset({"estimator"}),
    buffers=0,
    claim="Training a two-layer ReLU network with weight decay is a convex program: no spurious minima, no dependence "
    "on the initialization.",
)
_REGRESSOR = MethodCard(
    name="convex-relu-regressor",
    title="Convex ReLU network (regression)",
    room="convexnet",
    family="estimator",
    summary="A two-layer ReLU regressor trained to global optimality, with the interface of scikit-learn.",
    target="steepest.train.convexnet.estimators:ConvexReLURegressor",
    papers=_PAPERS,
    needs=frozenset({"estimator"}),
    buffers=0,
)
#: The cards of the estimators, here because reading them must not need scikit-learn.
CARDS = (_CLASSIFIER, _REGRESSOR)

#: The number of samples times features times patterns up to which the last bound is refined: seconds.
_REFINED = 100_000_000

#: Rounds of growth, where the caller leaves it open.
ROUNDS = 3

SOLVERS: dict[str, type[Solver[Any, Any]]] = {
    "admm": ADMM,
    "admm-rbcd": ADMMRBCD,
    "interior-point": InteriorPoint,
    "scp": SCP,
}


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and what is known of it.

    Attributes:
        network: the network, in the dtype of the features.
        objective: its objective, loss (summed) plus penalty, as computed in float64.
        bound: a proved lower bound on the optimum over ``patterns`` (for ``"scp"``, over sampled neurons). It can be
            above ``objective``: the neurons of a network need not keep to the patterns, and then no network that does
            is as good.
        steps: steps of the solver.
        reason: why it ended; ``"converged"`` where the relative gap is at most the tolerance.
        patterns: the activation patterns at the end; ``None`` for ``"scp"``.
        point: the solver's last blocks (for ``"scp"``, the output weights), from which a similar problem may start.
        rounds: rounds of pattern growth that were done.
        violation: the largest violation of a constraint of the dual over *all* patterns that was found at the network,
            in parts of the penalty; ``None`` where none was looked for. A small one is evidence, not a proof, that the
            patterns are enough; a large one can also be due to a solution that is not accurate yet.
    """

    network: TwoLayerReLU
    objective: float
    bound: float
    steps: int
    reason: Reason
    patterns: Patterns | None
    point: Tensor
    rounds: int = 0
    violation: float | None = None

    @property
    def gap(self) -> float:
        """How far the objective can be above the optimum over the patterns; 0 where it is below."""
        return max(0.0, self.objective - self.bound)

    @property
    def relative_gap(self) -> float:
        """The gap in parts of the objective."""
        return self.gap / abs(self.objective) if self.objective else 0.0


def train_convex_relu(
    features: Tensor,
    target: Tensor,
    *,
    loss: Loss | str | Callable[[Tensor, Tensor], Tensor] = "squared",
    penalty: float = 0.1,
    n_patterns: int = 50,
    solver: str | Solver[Any, Any] = "admm",
    gated: bool = False,
    joint: bool = False,
    bias: bool = True,
    budget: Budget | str = "500steps",
    tolerance: float = 1e-3,
    seed: int = 0,
    patterns: Patterns | None = None,
    start: Tensor | None = None,
    rounds: int | None = None,
    **settings: Any,
) -> Trained:
    r"""Train a two-layer ReLU network to global optimality over activation patterns that are looked for::

        min  sum_k loss(f(x_k), y_k) + penalty/2 sum_j (|u_j|^2 + |a_j|^2),       f(x) = sum_j (x . u_j)_+ a_j

    The optimum is the one over the patterns. Random ones are poor: with few of them in many dimensions it is far above
    that over all patterns. So they are improved in rounds of column generation first
    (:func:`~steepest.train.convexnet.grow.grow_patterns`); on handwritten digits that more than halves the objective.
    ``bound`` is a proof over the last patterns; that no better ones were found is evidence only, see ``violation``.

    The width comes out of the solution: one neuron for each block that is not zero, at most two per pattern and output.

    Args:
        features: ``(n, d)``, of any real dtype and device; computation is in float64 on that device. Scale the columns
            to similar sizes first, since all weights have one penalty.
        target: ``(n,)`` or ``(n, outputs)``; -1 and 1 for ``"logistic"``, ``"hinge"`` and ``"squared-hinge"``.
        loss: a loss of the library, its name, or an elementwise convex function of prediction and target. It is
            **summed over samples**: for a mean over ``n`` samples with the penalty ``p``, give ``n p`` here.
        penalty: >= 0. Default 0.1.
        n_patterns: random gates (for ``"scp"``: random neurons) to draw, >= 1. Default 50. See
            :func:`~steepest.train.convexnet.patterns.patterns_needed`. With ``rounds``, up to twice as many patterns
            are kept, and more only where the network uses them.
        solver: ``"admm"`` (default), ``"admm-rbcd"``, ``"scp"``, ``"interior-point"``, or a solver of this room.
        gated: train a network of gated ReLUs: no cones, much easier. Default False.
        joint: with ``gated`` only: neurons serve all outputs together (nuclear norms).
        bias: add a column of ones to the design. Default True.
        budget: of the solver. Default 500 steps. Of a time, the rounds of growth may take half.
        tolerance: the relative duality gap at which to end, >= 0. Default 1e-3.
        seed: of the patterns and of the solver, >= 0.
        patterns: given patterns of the design, in place of sampled ones.
        start: blocks to begin with, as :attr:`Trained.point` of a similar problem with the same patterns.
        rounds: of growth, at most, >= 0; 0 leaves the patterns as they are. Default 3; where ``patterns`` are given,
            with ``gated`` and for ``"scp"`` it is 0, and for the last two there is no other choice.
        settings: hyper-parameters of the solver, where it is given by name.

    Raises:
        ValueError, TypeError: an argument is of the wrong kind or out of its range.
    """
    for name, data in (("features", features), ("target", target)):
        if not isinstance(data, Tensor) or data.is_complex():
            raise TypeError(f"{name} must be a real tensor, got {type(data).__name__}")
    if features.dim() != 2:
        raise ValueError(f"features must be (n, d), got {list(features.shape)}")
    Integer(low=1).check("n_patterns", n_patterns)
    Integer(low=0).check("seed", seed)
    Real(low=0.0).check("penalty", penalty)
    Real(low=0.0).check("tolerance", tolerance)
    Flag().check("bias", bias)
    usual = default_rounds(gated, solver)
    if rounds is None:
        rounds = usual if patterns is None else 0
    Integer(low=0).check("rounds", rounds)
    if rounds and not usual:
        raise ValueError("rounds must be 0 with gated=True and for solver='scp': there are no patterns to be grown")
    budget = Budget.parse(budget) if isinstance(budget, str) else budget
    made = _solver(solver, settings)
    dtype = features.dtype if features.is_floating_point() else torch.get_default_dtype()
    wide = features.detach().double()
    design, target = with_bias(wide, bias), target.detach().to(wide).reshape(len(target), -1)
    generator = torch.Generator().manual_seed(seed)  # of the CPU, so that devices draw the same
    loss = as_loss(loss, target)
    if isinstance(made, SCP):
        if gated or joint or patterns is not None:
            raise ValueError("solver='scp' has random neurons and no patterns: gated, joint and patterns do not apply")
        return _sampled(made, design, target, loss, penalty, n_patterns, bias, budget, tolerance, seed, start, dtype)
    if patterns is None:
        if not bool(torch.isfinite(design).all()):
            raise ValueError("features must be finite, but they hold NaN or an infinity")
        patterns = sample_patterns(design, n_patterns, generator)
    program = ConvexProgram(design, target, patterns, loss, penalty, gated=gated, joint=joint)
    point = program.zeros() if start is None else start
    if not rounds:
        return _solve(made, program, point, bias, budget, tolerance, seed, dtype)
    began, seconds = time.monotonic(), getattr(budget, "seconds", None)
    grown = grow_patterns(
        program,
        point,
        generator=generator,
        rounds=rounds,
        limit=2 * n_patterns,
        seconds=math.inf if seconds is None else seconds / 2,
    )
    program, point = grown.program, grown.point
    if seconds is not None:
        budget = replace(budget, seconds=max(1e-12, seconds - (time.monotonic() - began)))
    if solver == "admm" and bool(point.any()):
        made = _solver(solver, {"warm_dual": True, "rho": fitting_rho(program, point), **settings})
    trained = _solve(made, program, point, bias, budget, tolerance, seed, dtype, generator)
    return replace(trained, rounds=grown.rounds)


def convex_relu_path(
    features: Tensor, target: Tensor, penalties: Iterable[float], **settings: Any
) -> dict[float, Trained]:
    """Networks for several penalties, from the largest penalty down, each from the point and the patterns of the one
    before; these are grown further at each penalty, unless ``rounds=0``.

    Args:
        features, target: as in :func:`train_convex_relu`.
        penalties: each >= 0.
        settings: further arguments of :func:`train_convex_relu`.

    Returns:
        The networks by penalty, the largest first.
    """
    found: dict[float, Trained] = {}
    settings.setdefault("rounds", default_rounds(settings.get("gated", False), settings.get("solver", "admm")))
    ordered = sorted({float(p) for p in penalties}, reverse=True)
    if not ordered:
        raise ValueError("penalties must hold at least one number")
    for penalty in ordered:
        trained = train_convex_relu(features, target, penalty=penalty, **settings)
        settings |= {"start": trained.point, "patterns": trained.patterns}
        found[penalty] = trained
    return found


def default_rounds(gated: bool, solver: Any) -> int:
    """Rounds of growth where the caller leaves it open."""
    return 0 if gated or solver == "scp" or isinstance(solver, SCP) else ROUNDS


def _violation(program: ConvexProgram, trained: Trained, slopes: list[Tensor], generator: torch.Generator) -> float:
    """The largest violation that a search finds at a solution, in parts of the penalty, for the best of the slopes."""
    hidden = trained.network.hidden.weight.detach().to(program.design)
    found = [
        find_neurons(program, into_domain(program.loss, s, program.target), 128, generator, hidden) for s in slopes
    ]
    largest = min(float(f.gains[0]) for f in found)
    return max(0.0, largest / program.penalty - 1) if program.penalty else math.inf


def _solver(solver: str | Solver[Any, Any], settings: dict[str, Any]) -> Solver[Any, Any]:
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {sorted(SOLVERS)}, got {solver!r}")
        if solver == "admm":  # a network needs no certificate at every turn
            settings = {"check_every": 25, **settings}
        return SOLVERS[solver](**settings)
    if not isinstance(solver, tuple(SOLVERS.values())):
        raise TypeError(f"solver must be one of {sorted(SOLVERS)} or a solver of this room, got {solver!r}")
    if settings:
        raise TypeError(f"settings {sorted(settings)} go with a solver given by name")
    return solver


def _solve(
    solver: Solver[Any, Any],
    program: ConvexProgram,
    start: Tensor,
    bias: bool,
    budget: Budget | str,
    tolerance: float,
    seed: int,
    dtype: torch.dtype,
    generator: torch.Generator | None = None,
) -> Trained:
    """With a generator, the largest violation is looked for."""

    def arrived(report: Report) -> bool:
        state = report.state
        reached = min(float(state.value), getattr(state, "network_value", float(state.value)))
        return reached - state.bound <= tolerance * abs(reached)

    result = solver.run(program, start, budget=budget, seed=seed, callbacks=[arrived], progress=False, divergence=None)
    state = result.state
    blocks = getattr(state, "blocks", state.point)
    # The blocks' own network is often better than the one whose neurons were moved into the cones.
    network_value = float(program.network_value(blocks))
    point_value = float(program.value(state.point))
    best, objective = (blocks, network_value) if network_value <= point_value else (state.point, point_value)
    network = program.network(best, bias=bias).to(dtype)
    bound = max(state.bound, _refined_bound(program, state, blocks))
    reason = Reason.CONVERGED if result.reason is Reason.STOPPED else result.reason
    trained = Trained(network, objective, bound, result.steps, reason, program.patterns, blocks)
    if generator is None:
        return trained
    slopes = [smoothed(program.loss, program.predict(best), program.target)[1]]
    if isinstance(state, ADMMState) and state.fit_dual is not None and result.steps:
        slopes.append(state.fit_rho * state.fit_dual)
    return replace(trained, violation=_violation(program, trained, slopes, generator))


def _refined_bound(program: ConvexProgram, state: Any, blocks: Tensor) -> float:
    """The lower bound at the end, with cone projections, which are too dear for every step."""
    if program.design.numel() * len(program.patterns) > _REFINED:
        return -math.inf
    multipliers = None
    if isinstance(state, ADMMState) and state.margins is not None:
        multipliers = state.rho * (-state.margins).clamp_min(0)
    slopes = [program.loss.derivative(program.predict(b), program.target) for b in (blocks, state.point)]
    if isinstance(state, ADMMState) and state.fit_dual is not None:
        slopes.append(state.fit_rho * state.fit_dual)
    return max(lower_bound(program, slope, multipliers, refine=30).value for slope in slopes)


def _sampled(
    solver: SCP,
    design: Tensor,
    target: Tensor,
    loss: Loss,
    penalty: float,
    count: int,
    bias: bool,
    budget: Budget | str,
    tolerance: float,
    seed: int,
    start: Tensor | None,
    dtype: torch.dtype,
) -> Trained:
    neurons, features = sample_features(design, count, torch.Generator().manual_seed(seed))
    program = sampled_program(features, target, loss, penalty)
    if start is None:
        start = design.new_zeros(count, target.shape[1])

    def arrived(report: Report) -> bool:
        return float(report.state.stationarity) <= tolerance * abs(float(report.state.value))

    result = solver.run(program, start, budget=budget, seed=seed, callbacks=[arrived], progress=False)
    network = sampled_network(neurons, result.solution, bias=bias)
    assert result.value is not None
    assert result.stationarity is not None
    with torch.no_grad():
        objective = float(nonconvex_objective(network, design[:, : -1 if bias else None], target, loss, penalty))
    reason = Reason.CONVERGED if result.reason is Reason.STOPPED else result.reason
    bound = result.value - result.stationarity
    return Trained(network.to(dtype), objective, bound, result.steps, reason, None, result.solution)
