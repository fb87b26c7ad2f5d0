"""How far a given network is above the global optimum."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.budget import Budget
from steepest.core.losses import Loss
from steepest.train.convexnet.admm import ADMM
from steepest.train.convexnet.certificate import lower_bound
from steepest.train.convexnet.losses import as_loss
from steepest.train.convexnet.network import TwoLayerGatedReLU, TwoLayerReLU, nonconvex_objective
from steepest.train.convexnet.patterns import Patterns, merge_patterns
from steepest.train.convexnet.program import ConvexProgram, own_patterns

__all__ = ["Certificate", "certify"]


@dataclass(frozen=True)
class Certificate:
    """What is known of a network's distance from the global optimum over some activation patterns.

    Attributes:
        objective: the network's objective.
        bound: a proved lower bound on the objective of every network whose neurons have these patterns.
        best: the least objective found on the way, of a network that is known.
        patterns: how many patterns the statement is about: those given and the network's own.
    """

    objective: float
    bound: float
    best: float
    patterns: int

    @property
    def gap(self) -> float:
        """The network is at most so far above the optimum over these patterns."""
        return max(0.0, self.objective - self.bound)

    @property
    def relative_gap(self) -> float:
        """The gap in parts of the objective."""
        return self.gap / self.objective if self.objective > 0 else 0.0

    @property
    def excess(self) -> float:
        """The network is at least so far above the optimum: a better one was found."""
        return max(0.0, self.objective - self.best)


def certify(
    network: TwoLayerReLU,
    features: Tensor,
    target: Tensor,
    loss: Loss | str | Callable[[Tensor, Tensor], Tensor] = "squared",
    penalty: float = 1e-3,
    patterns: Patterns | None = None,
    *,
    budget: Budget | str = "300steps",
    tolerance: float = 1e-4,
) -> Certificate:
    r"""Say how far a two-layer ReLU network, however trained, is above the global optimum.

    The convex program over the given patterns and those of the network's own neurons is solved by ADMM, which begins at
    the network. Its dual gives the bound. With all patterns of the data
    (:func:`~steepest.train.convexnet.patterns.enumerate_patterns`) the statement is about every network.

    For several outputs the bound is on the usual penalty ``|u_j|^2 + |a_j|^2``, by a dual point of the program whose
    neurons serve one output each, scaled until it is feasible for neurons that serve all; it is then weaker.

    Args:
        network: a :class:`TwoLayerReLU` or :class:`TwoLayerGatedReLU`.
        features: ``(n, inputs)``, without the ones.
        target: ``(n,)`` or ``(n, outputs)``; -1 and 1 for margin losses.
        loss, penalty: as in :func:`~steepest.train.convexnet.network.nonconvex_objective`: the loss is summed.
        patterns: further patterns, of the network's design; default none.
        budget: how long to solve. Default 300 steps.
        tolerance: the relative gap of the solver at which it ends, > 0. Default 1e-4.
    """
    gated = isinstance(network, TwoLayerGatedReLU)
    with torch.no_grad():
        design = network.design(features.to(network.hidden.weight)).double()
        objective = float(nonconvex_objective(network, features.to(network.hidden.weight), target, loss, penalty))
    own = own_patterns(design, network)
    merged = own if patterns is None else merge_patterns(own, patterns)
    target = target.to(design).reshape(len(target), -1)
    outputs = target.shape[1]
    program = ConvexProgram(design, target, merged, as_loss(loss, target), penalty, gated=gated, joint=gated)
    start = program.point_of(network)
    solver = ADMM(check_every=25, refine=50)
    scale = max(1e-12, abs(objective))
    result = solver.run(program, start, budget=budget, tolerance=tolerance * scale)
    state = result.state
    best = min(objective, float(state.value), state.network_value)
    if not gated and outputs > 1:
        slopes = [program.loss.derivative(program.predict(state.blocks), program.target)]
        if state.fit_dual is not None:
            slopes.append(state.fit_rho * state.fit_dual)
        multipliers = None if state.margins is None else state.rho * (-state.margins).clamp_min(0)
        bound = max(lower_bound(program, s, multipliers, refine=50, shared=True).value for s in slopes)
        # Blocks that serve one output each are networks too, but merging them may be better still.
    else:
        bound = state.bound
    return Certificate(objective, min(bound, best), best, len(merged))
