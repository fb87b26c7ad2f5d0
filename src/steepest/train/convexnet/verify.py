r"""The worst case of a two-layer ReLU network over a ball around each input, proved.

On a ball, :math:`f(x + \delta) = \sum_j a_j (u_j \cdot (x + \delta))_+`. A neuron whose sign is the same on the whole
ball is linear there; where all are, the extremes of ``f`` are those of a linear function, :math:`f(x) \pm r \|z\|_q`
with ``z`` the slope and ``q`` the dual exponent, and that is exact. This is so on the training data for every network
that the robust convex program makes. Otherwise each neuron that changes its sign is replaced by a line below or above
it (the bounds of CROWN), which gives bounds; and for ``norm=inf`` these are made exact by splitting on the signs of
such neurons, with a linear program for each part.

Sources: H. Zhang, T. Weng, P. Chen, C. Hsieh, L. Daniel (2018), Efficient Neural Network Robustness Certification with
General Activation Functions, arXiv 1811.00866 (the lines); R. Bunel, I. Turkaslan, P. Torr, P. Kohli, M. P. Kumar
(2018), A Unified View of Piecewise Linear Neural Network Verification, arXiv 1711.00455 (splitting).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from steepest.core.losses import Loss
from steepest.core.ranges import Integer, OneOf, Real
from steepest.train.convexnet.ball import Ball
from steepest.train.convexnet.losses import as_loss
from steepest.train.convexnet.network import TwoLayerGatedReLU, TwoLayerReLU

__all__ = [
    "OutputRange",
    "RobustCertificate",
    "WorstCase",
    "certified_accuracy",
    "certified_radius",
    "output_range",
    "worst_case_loss",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class OutputRange:
    """Proved bounds of a network's output over the ball of each sample.

    Attributes:
        low, high: the bounds, ``(n,)``: no perturbed input has an output outside of them.
        exact: whether both bounds are attained, ``(n,)``.
        unstable: how many neurons change their sign in the ball, ``(n,)``.
    """

    low: Tensor
    high: Tensor
    exact: Tensor
    unstable: Tensor


@dataclass(frozen=True, eq=False)
class WorstCase:
    """The worst loss of each sample over its ball.

    Attributes:
        each: ``(n,)``: exact where :attr:`exact`, elsewhere an upper bound.
        total: the sum.
        exact: ``(n,)``.
    """

    each: Tensor
    total: float
    exact: Tensor


@dataclass(frozen=True, eq=False)
class RobustCertificate:
    """How many samples are classified correctly whatever the perturbation.

    Attributes:
        accuracy: the proved part: a lower bound on the robust accuracy, and the robust accuracy itself where
            :attr:`exact`.
        robust: which samples are proved robust, ``(n,)``.
        margin: a lower bound on ``y f(x + delta)`` over the ball, ``(n,)``.
        exact: whether every sample's margin is known exactly or its robustness decided.
        method: ``"exact"`` or ``"linear"``: how margins were found.
    """

    accuracy: float
    robust: Tensor
    margin: Tensor
    exact: bool
    method: str


def output_range(
    network: TwoLayerReLU,
    features: Tensor,
    radius: float,
    *,
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
    method: str = "linear",
    parts: int = 2000,
) -> OutputRange:
    r"""Bounds of the output over the ball of each sample.

    Args:
        network: with one output.
        features: ``(n, d)``, without the ones.
        radius: ``>= 0``, in units of the features.
        norm: in [1, inf]. Default inf.
        clip: the range of valid features. It makes bounds tighter for ``norm=inf``, and is ignored (which is safe) for
            others.
        method: ``"linear"``: lines above and below the neurons that change their sign, a few products for all samples;
            exact where no neuron changes its sign. ``"exact"``: split on these neurons besides (``norm=inf`` only).
        parts: the largest number of linear programs for each end of a sample's range; where it is not enough, the bound
            is that of the parts, and not called exact.

    Raises:
        TypeError, ValueError: the network is not one of plain ReLUs with one output, or an argument is out of range.
    """
    ball = Ball(radius, norm, clip)
    OneOf(("linear", "exact")).check("method", method)
    Integer(low=1).check("parts", parts)
    if method == "exact" and not math.isinf(norm):
        raise ValueError(f"method='exact' needs norm=inf (linear programs over boxes), got norm={norm!r}")
    hidden, output, features = _weights(network, features)
    ball.check(features)
    ends = _Ends(hidden, output, network.bias, ball, features)
    low, exact_low = ends.minimum(1.0)
    high, exact_high = ends.minimum(-1.0)
    if method == "exact":
        for k in torch.nonzero(~(exact_low & exact_high))[:, 0].tolist():
            if not exact_low[k]:
                low[k], exact_low[k] = ends.split(k, 1.0, parts)
            if not exact_high[k]:
                high[k], exact_high[k] = ends.split(k, -1.0, parts)
    return OutputRange(low, -high, exact_low & exact_high, ends.unstable.sum(1))


def worst_case_loss(
    network: TwoLayerReLU,
    features: Tensor,
    target: Tensor,
    radius: float,
    loss: Loss | str | Callable[[Tensor, Tensor], Tensor] = "hinge",
    *,
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
    method: str = "linear",
    parts: int = 2000,
) -> WorstCase:
    """The largest loss over the ball of each sample, and their sum.

    A loss that is convex in the prediction is largest at an end of the output's range, so that it is as exact as
    :func:`output_range`.

    Args:
        network, features, radius, norm, clip, method, parts: as for :func:`output_range`.
        target: ``(n,)`` or ``(n, 1)``; -1 and 1 for margin losses.
        loss: a loss of the library, its name, or an elementwise convex function.
    """
    found = output_range(network, features, radius, norm=norm, clip=clip, method=method, parts=parts)
    chosen = as_loss(loss)
    y = target.to(found.low).reshape(-1)
    if y.shape != found.low.shape:
        raise ValueError(f"target must have an entry for each of {len(found.low)} samples, got {list(target.shape)}")
    chosen.check_target(y)
    each = torch.maximum(chosen.value(found.low, y), chosen.value(found.high, y))
    return WorstCase(each, float(each.sum()), found.exact)


def certified_accuracy(
    network: TwoLayerReLU,
    features: Tensor,
    target: Tensor,
    radius: float,
    *,
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
    method: str = "linear",
    parts: int = 2000,
) -> RobustCertificate:
    """The part of samples whose sign of the output is proved right on the whole ball. A zero output counts as wrong.

    With ``method="exact"`` splitting ends as soon as a sample is decided, and margins may then be bounds.

    Args:
        network, features, radius, norm, clip, method, parts: as for :func:`output_range`.
        target: -1 and 1, ``(n,)`` or ``(n, 1)``.
    """
    y = _signs(target)
    ball = Ball(radius, norm, clip)
    OneOf(("linear", "exact")).check("method", method)
    Integer(low=1).check("parts", parts)
    if method == "exact" and not math.isinf(norm):
        raise ValueError(f"method='exact' needs norm=inf (linear programs over boxes), got norm={norm!r}")
    hidden, output, features = _weights(network, features)
    ball.check(features)
    if len(y) != len(features):
        raise ValueError(f"target must have an entry for each of {len(features)} samples, got {list(target.shape)}")
    ends = _Ends(hidden, output, network.bias, ball, features)
    sign = y.to(features)
    margin, exact = torch.zeros_like(sign), torch.zeros(len(sign), dtype=torch.bool, device=sign.device)
    for side in (1.0, -1.0):
        own = sign == side
        found, tight = ends.minimum(side)
        margin, exact = torch.where(own, found, margin), torch.where(own, tight, exact)
    decided = exact | (margin > 0)
    if method == "exact":
        for k in torch.nonzero(~decided)[:, 0].tolist():
            margin[k], decided[k] = ends.split(k, float(sign[k]), parts, decide=True)
    robust = margin > 0
    return RobustCertificate(float(robust.double().mean()), robust, margin, bool(decided.all()), method)


def certified_radius(
    network: TwoLayerReLU,
    features: Tensor,
    target: Tensor,
    *,
    largest: float,
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
    accuracy: float = 1e-3,
) -> Tensor:
    """For each sample a radius within which the sign of the output is proved right, ``(n,)``; 0 where it is wrong.

    The radius is found by bisection with the linear bounds, and is itself proved. It is a lower bound on the distance
    to the nearest input of the other sign.

    Args:
        network, features, norm, clip: as for :func:`output_range`.
        target: -1 and 1.
        largest: the largest radius to try, > 0.
        accuracy: of the bisection, as a part of ``largest``.
    """
    y = _signs(target)
    Real(low=0.0, low_open=True).check("largest", largest)
    Real(low=0.0, high=1.0, low_open=True, high_open=True).check("accuracy", accuracy)
    hidden, output, features = _weights(network, features)
    Ball(largest, norm, clip).check(features)
    sign = y.to(features)

    def proved(radius: Tensor) -> Tensor:
        ends = _Ends(hidden, output, network.bias, Ball(0.0, norm, clip), features, radius)
        return torch.where(sign > 0, ends.minimum(1.0)[0], ends.minimum(-1.0)[0]) > 0

    low, high = torch.zeros_like(sign), torch.full_like(sign, largest)
    right = proved(low)
    whole = proved(high)
    for _ in range(math.ceil(-math.log2(accuracy))):
        middle = 0.5 * (low + high)
        good = proved(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(whole, torch.full_like(low, largest), torch.where(right, low, 0.0))


def _weights(network: TwoLayerReLU, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(network, TwoLayerReLU) or isinstance(network, TwoLayerGatedReLU):
        raise TypeError(f"network must be a TwoLayerReLU (not gated), got {type(network).__name__}")
    if network.output.out_features != 1:
        raise ValueError(f"network must have one output, got {network.output.out_features}")
    hidden, output = network.hidden.weight.detach(), network.output.weight.detach()[0]
    if features.dim() != 2 or features.shape[1] + network.bias != hidden.shape[1]:
        raise ValueError(f"features must be (n, {hidden.shape[1] - network.bias}), got {list(features.shape)}")
    return hidden, output, features.detach().to(hidden)


def _signs(target: Tensor) -> Tensor:
    y = target.reshape(-1)
    if not bool(((y == 1) | (y == -1)).all()):
        raise ValueError(f"target must be -1 or 1, got values such as {torch.unique(y)[:5].tolist()}")
    return y


class _Ends:
    """The least value of ``side * f`` over balls of all samples; inner values of neurons and their ranges are kept."""

    def __init__(
        self, hidden: Tensor, output: Tensor, bias: bool, ball: Ball, features: Tensor, radius: Tensor | None = None
    ) -> None:
        self.output, self.ball, self.features = output, ball, features
        self.slope = hidden[:, :-1] if bias else hidden  # (width, d)
        self.offset = hidden[:, -1] if bias else hidden.new_zeros(len(hidden))
        self.radius = features.new_full((len(features),), ball.radius) if radius is None else radius
        self.boxed = math.isinf(ball.norm)
        if self.boxed:
            self.lowest = ball.clamp(features - self.radius[:, None])
            self.highest = ball.clamp(features + self.radius[:, None])
            # The middle and half-width of the box, which clipping may have moved.
            self.middle, self.half = 0.5 * (self.lowest + self.highest), 0.5 * (self.highest - self.lowest)
            center = self.middle @ self.slope.mT + self.offset
            reach = self.half @ self.slope.abs().mT
        else:
            self.middle = features
            center = features @ self.slope.mT + self.offset
            reach = self.radius[:, None] * ball.dual_norm(self.slope)
        self.center = center
        self.bottom, self.top = center - reach, center + reach  # (n, width)
        self.unstable = (self.bottom < 0) & (self.top > 0) & (output != 0)

    def minimum(self, side: float) -> tuple[Tensor, Tensor]:
        """Bounds by lines, and whether they are exact. Of a few choices of lines the best counts, sample by sample."""
        weight = side * self.output
        active = torch.where(self.bottom >= 0, 1.0, 0.0).to(self.center)
        # Above the neuron: the chord. Below: any line through 0 of slope in [0, 1].
        width = (self.top - self.bottom).clamp_min(torch.finfo(self.center.dtype).tiny)
        chord = self.top / width
        below = weight > 0
        best = None
        for lower in (torch.where(self.top >= -self.bottom, 1.0, 0.0).to(chord), chord, 0.0 * chord, 1 + 0.0 * chord):
            slope = torch.where(self.unstable, torch.where(below, lower, chord), active)
            constant = torch.where(self.unstable & ~below, -chord * self.bottom, 0.0) @ weight
            line = (weight * slope) @ self.slope  # (n, d)
            value = (weight * slope * self.center).sum(1) + constant - self._reach(line)
            best = value if best is None else torch.maximum(best, value)
            if not bool(self.unstable.any()):
                break
        assert best is not None
        tight = ~self.unstable.any(1)
        return best, tight if self.boxed or self.ball.clip is None else torch.zeros_like(tight)

    def _reach(self, line: Tensor) -> Tensor:
        if self.boxed:
            return (self.half * line.abs()).sum(1)
        return self.radius * self.ball.dual_norm(line)

    def split(self, k: int, side: float, parts: int, decide: bool = False) -> tuple[float, bool]:
        """The least value for one sample by linear programs over the box, split on the signs of neurons.

        With ``decide``, end once the value is known to be positive or not. Returns a lower bound, and whether it is
        exact (or the question decided).
        """
        low, high = self.lowest[k].double().cpu().numpy(), self.highest[k].double().cpu().numpy()
        slope, offset = self.slope.double().cpu().numpy(), self.offset.double().cpu().numpy()
        weight = side * self.output.double().cpu().numpy()
        bottom, top = self.bottom[k].double().cpu().numpy(), self.top[k].double().cpu().numpy()
        open_ = np.flatnonzero(self.unstable[k].cpu().numpy())
        always = np.flatnonzero((bottom >= 0) & (weight != 0))
        base, constant = weight[always] @ slope[always], float(weight[always] @ offset[always])
        d = len(low)

        def value(x: np.ndarray) -> float:
            return float(weight @ np.maximum(slope @ x + offset, 0))

        def relaxed(signs: dict[int, bool]) -> tuple[float, np.ndarray | None, int | None]:
            """A part's bound, its point, and the neuron whose line is furthest from it there."""
            on = [j for j, s in signs.items() if s]
            free = [j for j in open_ if j not in signs]
            up = [j for j in free if weight[j] < 0]  # at most the chord, which needs no variable
            down = [j for j in free if weight[j] > 0]  # h >= 0, h >= u x + b: a variable each
            ratio = {j: top[j] / (top[j] - bottom[j]) for j in up}
            cost, level = base.copy(), constant
            for j in on:
                cost, level = cost + weight[j] * slope[j], level + weight[j] * offset[j]
            for j in up:
                cost, level = (
                    cost + weight[j] * ratio[j] * slope[j],
                    level + weight[j] * ratio[j] * (offset[j] - bottom[j]),
                )
            rows, limits = [], []
            for j, s in signs.items():
                row = np.zeros(d + len(down))
                row[:d] = -slope[j] if s else slope[j]
                rows.append(row)
                limits.append(offset[j] if s else -offset[j])
            for place, j in enumerate(down):
                row = np.zeros(d + len(down))
                row[:d], row[d + place] = slope[j], -1.0
                rows.append(row)
                limits.append(-offset[j])
            found = linprog(
                np.concatenate([cost, weight[down]]),
                A_ub=np.array(rows) if rows else None,
                b_ub=np.array(limits) if rows else None,
                bounds=[*zip(low, high, strict=True), *[(0, None)] * len(down)],
            )
            if found.status == 2:
                return math.inf, None, None
            if found.status != 0:
                return -math.inf, None, None
            x = np.clip(found.x[:d], low, high)
            inner = slope @ x + offset
            gaps = {j: -weight[j] * (ratio[j] * (inner[j] - bottom[j]) - max(inner[j], 0.0)) for j in up}
            gaps |= {j: weight[j] * (max(inner[j], 0.0) - found.x[d + p]) for p, j in enumerate(down)}
            worst = max(gaps, key=lambda j: gaps[j]) if gaps else None
            return found.fun + level, x, worst

        known = float(min(value(low), value(high), value(self.middle[k].double().cpu().numpy())))
        slack = 1e-9 * (1 + abs(known))
        queue: list[tuple[float, dict[int, bool], int | None]] = []
        solved = 0

        def add(signs: dict[int, bool]) -> None:
            nonlocal known, solved
            bound, x, worst = relaxed(signs)
            solved += 1
            if x is not None:
                known = min(known, value(x))
            if bound < known - slack:
                queue.append((bound, signs, worst))

        add({})
        while queue:
            queue = [entry for entry in queue if entry[0] < known - slack]
            if not queue:
                break
            queue.sort(key=lambda entry: -entry[0])
            bound, signs, worst = queue.pop()
            if decide and (bound > slack or known <= 0):
                return min(bound, known), True
            if solved + 2 > parts or worst is None:
                return bound, False
            add({**signs, worst: True})
            add({**signs, worst: False})
        return known - slack, True
