"""Training of two-layer ReLU networks that is robust to perturbed inputs, by one convex program."""

import math
import warnings
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.losses import Loss
from steepest.core.ranges import Integer, OneOf
from steepest.train.convexnet.ball import Ball
from steepest.train.convexnet.network import TwoLayerReLU
from steepest.train.convexnet.patterns import Patterns
from steepest.train.convexnet.robust_admm import solve_admm
from steepest.train.convexnet.robust_interior_point import solve_interior_point
from steepest.train.convexnet.robust_program import RobustProgram, checked_loss, checked_target, robust_patterns
from steepest.train.convexnet.verify import WorstCase, worst_case_loss

__all__ = ["CARD", "RobustFit", "train_robust_convex_relu"]

CARD = MethodCard(
    name="convex-relu-robust",
    title="Robust convex ReLU training",
    room="convexnet",
    family="convex program",
    summary="Adversarial training of a two-layer ReLU network as one convex program, with the exact worst case.",
    target="steepest.train.convexnet.robust:train_robust_convex_relu",
    papers=(
        Paper(
            "Y. Bai, T. Gautam, Y. Gai, S. Sojoudi",
            2021,
            "Practical Convex Formulation of Robust One-hidden-layer Neural Network Training",
            arxiv="2105.12237",
        ),
    ),
    needs=frozenset({"function"}),
    settings=MappingProxyType({"adversarial_radius": 0.1}),
    buffers=0,
    claim="A two-layer ReLU network trained by the robust convex program is more accurate under attack than "
    "adversarial training with FGSM or PGD, while the optimum of the clean convex program is not robust at all.",
)


@dataclass(frozen=True, eq=False)
class RobustFit:
    """What robust training found.

    Attributes:
        network: the recovered network.
        value: the objective at it: the sum of true worst losses on the training data, plus the penalty.
        bound: a proved lower bound on the optimum of the program *over its patterns*; ``value - bound`` is the gap.
        worst: the worst loss of the network on each training sample, found by verification of the network itself, not
            from the program. It is exact.
        program: the program, with its patterns.
        point: its solution, ``(2, P, d)``; it is in the cones.
        steps: of ADMM; 1 for the interior-point method.
        empty: whether the network is zero: the radius is too large for the patterns (or the penalty for the data).
    """

    network: TwoLayerReLU
    value: float
    bound: float
    worst: WorstCase
    program: RobustProgram
    point: Tensor
    empty: bool
    steps: int

    @property
    def gap(self) -> float:
        """How far the value can be above the optimum over the patterns."""
        return max(0.0, self.value - self.bound)


def train_robust_convex_relu(
    features: Tensor,
    target: Tensor,
    *,
    adversarial_radius: float,
    loss: Loss | str = "hinge",
    n_patterns: int = 50,
    penalty: float = 1e-3,
    norm: float = math.inf,
    bias: bool = True,
    clip: tuple[float, float] | None = None,
    draws: int = 100,
    perturbations: int = 10,
    solver: str = "auto",
    accuracy: float = 1e-3,
    steps: int = 2000,
    generator: torch.Generator | None = None,
    patterns: Patterns | None = None,
) -> RobustFit:
    r"""Minimize the worst loss of a two-layer ReLU network over balls around the training samples::

        sum_k  max_{|delta|_p <= adversarial_radius}  loss(f(x_k + delta), y_k)  +  penalty / 2 (|U|^2 + |a|^2)

    as the convex program :class:`~steepest.train.convexnet.robust_program.RobustProgram`, over networks whose neurons
    keep their sign on each ball. The loss is **summed** over samples; the source takes the mean for the hinge loss.

    Args:
        features: ``(n, d)``, floating point, without ones.
        target: ``(n,)``: -1 and 1 for the losses ``"hinge"``, ``"logistic"`` and ``"squared-hinge"``, any numbers for
            ``"squared"``, ``"absolute"`` and ``"huber"``.
        adversarial_radius: ``>= 0``, in units of the features.
        loss: a loss of the library or its name. Default ``"hinge"``.
        n_patterns: at most so many activation patterns. Default 50.
        penalty: ``>= 0``. Default 1e-3.
        norm: ``p`` of the ball, in [1, inf]. Default inf.
        bias: whether the network has a hidden bias, which is not perturbed. Default True.
        clip: the range of valid features. Data outside of it are an error; the program perturbs beyond it (which is
            safe).
        draws, perturbations: of :func:`~steepest.train.convexnet.robust_program.robust_patterns`.
        solver: ``"interior-point"`` (CVXPY and Clarabel, accurate, small), ``"admm"`` (norms inf and 2), or ``"auto"``:
            ADMM where samples times patterns exceed 10,000, or CVXPY is missing, and the norm allows it.
        accuracy: the relative gap at which ADMM ends. Default 1e-3.
        steps: of ADMM, at most. Default 2000.
        generator: of the patterns; default one with seed 0.
        patterns: of the design, for instance those of an earlier fit with another penalty (``fit.program.patterns``),
            in place of new ones; ``n_patterns``, ``draws``, ``perturbations`` and ``generator`` then play no part.

    Warns:
        UserWarning: the network is zero, because the radius is too large for the patterns, or the penalty for the data.

    Raises:
        ValueError: the radius is negative, features are not finite or outside of ``clip``, or there is one class only
            or there are other labels than -1 and 1 for a margin loss.
        ImportError: CVXPY is needed and missing.

    Source: Y. Bai, T. Gautam, Y. Gai, S. Sojoudi (2021), Practical Convex Formulation of Robust One-hidden-layer Neural
    Network Training, arXiv 2105.12237. Bound, ADMM and the choice of patterns with cones are this library's.
    """
    Ball(adversarial_radius, norm, clip).check(features)
    Integer(low=1).check("n_patterns", n_patterns)
    OneOf(("auto", "interior-point", "admm")).check("solver", solver)
    checked_target(target, checked_loss(loss), features)  # before patterns take their time
    if patterns is None:
        patterns = robust_patterns(
            features,
            draws,
            torch.Generator().manual_seed(0) if generator is None else generator,
            radius=adversarial_radius,
            perturbations=perturbations,
            limit=n_patterns,
            norm=norm,
            bias=bias,
        )
    program = RobustProgram(features, target, patterns, loss, penalty, radius=adversarial_radius, norm=norm, bias=bias)
    if solver == "auto":
        able = program.ball.dual in (1.0, 2.0)
        large = len(features) * len(patterns) > 10_000
        solver = "admm" if able and (large or not _has_cvxpy()) else "interior-point"
    taken = 1
    if solver == "admm":
        point, bound, taken = solve_admm(program, steps=steps, accuracy=accuracy)
    else:
        point, bound = solve_interior_point(program)
    network = program.network(point)
    empty = not bool(point.any())
    if empty:
        warnings.warn(
            f"the network is zero: {len(patterns)} patterns can be kept on all balls of adversarial_radius="
            f"{adversarial_radius:g}, and none of their neurons lowers the worst loss by more than penalty={penalty:g} "
            "costs; try a smaller radius or penalty, or more draws",
            UserWarning,
            stacklevel=2,
        )
    worst = worst_case_loss(network, program.features, program.target, adversarial_radius, loss, norm=norm)
    return RobustFit(network, float(program.value(point)), bound, worst, program, point, empty, taken)


def _has_cvxpy() -> bool:
    try:
        import clarabel  # noqa: F401
        import cvxpy  # noqa: F401
    except ImportError:
        return False
    return True
