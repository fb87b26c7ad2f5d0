"""The convex program whose optimum is that of a two-layer ReLU network."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from steepest.core import prox
from steepest.core.losses import Loss, Squared
from steepest.core.oracle import oracle
from steepest.core.problem import Problem
from steepest.core.ranges import Flag, Real
from steepest.core.tree import Point, describe
from steepest.train.convexnet.cones import project
from steepest.train.convexnet.linear import NormalEquations
from steepest.train.convexnet.losses import CallableLoss, as_loss, sum_of
from steepest.train.convexnet.network import TwoLayerGatedReLU, TwoLayerReLU, recover, recover_gated
from steepest.train.convexnet.patterns import Patterns, activation_patterns

__all__ = ["ConvexProgram"]

#: The number of blocks times ``d**3`` up to which blocks are projected on their cones.
_PROJECTIONS = 2_000_000_000


class ConvexProgram(Problem):
    r"""A two-layer ReLU network with weight decay, as a convex program over activation patterns::

        min_{v, w}  sum_k loss(z_k, y_k) + penalty sum_i (|v_i| + |w_i|),     z = sum_i D_i X (v_i - w_i)
        subject to  E_i X v_i >= 0,  E_i X w_i >= 0,                          E_i = 2 D_i - I

    where ``D_i`` is the diagonal matrix of pattern ``i``. With all patterns its optimum is that of
    :func:`~steepest.train.convexnet.network.nonconvex_objective` over networks of any width (from some finite one on);
    with some of them it is an upper bound of that, and :func:`~steepest.train.convexnet.network.recover` makes a
    network of equal objective out of every feasible point. **The loss is summed over samples.**

    A point is one tensor of shape ``(2, P, d, outputs)``: ``v`` and ``w``. Operators are products with ``X`` and
    elementwise ones with the patterns; no matrix of ``n`` rows and ``P d`` columns is formed.

    Args:
        design: ``X``, ``(n, d)``, dense; with a bias its last column is ones.
        target: ``(n,)``, or ``(n, outputs)``. The outputs share the patterns and are otherwise independent, unless
            ``joint``: an output ``c`` has blocks of its own, and each neuron serves one output. That is the optimum of
            the network whose output weights are penalized by ``|a_j|_1^2`` in place of ``|a_j|_2^2``.
        patterns: the activation patterns.
        loss: a :class:`~steepest.core.losses.Loss`, its name, or an elementwise convex function of prediction and
            target.
        penalty: ``>= 0``.
        gated: leave the cones out. ``w`` is then superfluous and a point has the shape ``(1, P, d, outputs)``; the
            network is one of gated ReLUs, with the patterns' gates.
        joint: with ``gated`` only: penalize the nuclear norm of each ``(d, outputs)`` block. This is the optimum of
            gated networks whose neurons serve all outputs, with the usual ``|u_j|^2 + |a_j|^2``.

    Data of an integer dtype are converted to float64. Offers ``"value"``, ``"predict"``, ``"margins"``, ``"prox"``,
    ``"loss prox"``, ``"normal equations"`` and, for a smooth loss, ``"gradient"`` (of the loss).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or shape, or not finite.

    Source: M. Pilanci, T. Ergen (2020), Neural Networks are Convex Regularizers, arXiv 2002.10553; for gates A.
    Mishkin, A. Sahiner, M. Pilanci (2022), Fast Convex Optimization for Two-Layer ReLU Networks, arXiv 2202.01331; for
    joint outputs A. Sahiner, T. Ergen, J. Pauly, M. Pilanci (2021), Vector-output ReLU Neural Network Problems are
    Copositive Programs, arXiv 2012.13329.
    """

    def __init__(
        self,
        design: Tensor,
        target: Tensor,
        patterns: Patterns,
        loss: Loss | str | Callable[[Tensor, Tensor], Tensor] = "squared",
        penalty: float = 1e-3,
        *,
        gated: bool = False,
        joint: bool = False,
    ) -> None:
        for name, data in (("design", design), ("target", target)):
            if not isinstance(data, Tensor) or data.is_complex() or data.layout is not torch.strided:
                raise TypeError(f"{name} must be a dense real tensor, got {describe(data)}")
        if design.dim() != 2 or target.dim() not in (1, 2) or len(target) != len(design) or 0 in design.shape:
            raise ValueError(
                f"design must be (n, d) and target (n,) or (n, outputs), neither empty; got {list(design.shape)} and "
                f"{list(target.shape)}"
            )
        if len(patterns.active) != len(design) or patterns.gates.shape[1] != design.shape[1] or len(patterns) == 0:
            raise ValueError(
                f"patterns must be of the design {list(design.shape)}, got {list(patterns.active.shape)} with gates "
                f"{list(patterns.gates.shape)}"
            )
        Real(low=0.0).check("penalty", penalty)
        Flag().check("gated", gated)
        Flag().check("joint", joint)
        if joint and not gated:
            raise ValueError("joint outputs need gated=True: with the cones no tractable program is known")
        wide = torch.promote_types(design.dtype, target.dtype)
        wide = wide if wide.is_floating_point else torch.float64
        self.design = design.detach().to(wide)
        self.target = target.detach().to(wide).reshape(len(target), -1)
        for name, data in (("design", self.design), ("target", self.target)):
            if not bool(torch.isfinite(data).all()):
                raise ValueError(f"{name} must be finite, but it holds NaN or an infinity")
        self.patterns = Patterns(patterns.active.to(design.device), patterns.gates.to(self.design))
        self.loss = as_loss(loss, self.target)
        self.loss.check_target(self.target)
        self.penalty = float(penalty)
        self.gated, self.joint = gated, joint
        # Caches. The patterns as numbers; 1 and -1 for E.
        self._active = self.patterns.active.to(wide)
        self._rows: Tensor | None = None
        self._center: Tensor | None = None
        self._normal: tuple[float, NormalEquations] | None = None

    @property
    def offers(self) -> frozenset[str]:
        """What the class declares; ``"gradient"`` for a smooth loss only."""
        smooth = math.isfinite(self.loss.curvature) or isinstance(self.loss, CallableLoss)
        return self._declared - (set() if smooth else {"gradient"})

    @property
    def copies(self) -> int:
        """How many blocks a pattern has per output: 2 (``v`` and ``w``), or 1 without cones."""
        return 1 if self.gated else 2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of a point: ``(copies, P, d, outputs)``."""
        return (self.copies, len(self.patterns), self.design.shape[1], self.target.shape[1])

    def zeros(self) -> Tensor:
        """The usual start: all blocks zero."""
        return self.design.new_zeros(self.shape)

    def check_start(self, start: Point) -> None:
        """As :meth:`~steepest.core.problem.Problem.check_start`; besides, one floating-point tensor of
        :attr:`shape`."""
        super().check_start(start)
        if not isinstance(start, Tensor) or not start.is_floating_point():
            raise TypeError(f"start must be one tensor of a floating-point dtype, got {describe(start)}")
        if start.shape != self.shape:
            raise ValueError(f"start must have the shape {self.shape}, got {tuple(start.shape)}")

    @oracle("value")
    def value(self, point: Tensor) -> Tensor:
        """The objective, a 0-dim tensor, whether or not the cones hold (:meth:`violation` says how far)."""
        return self._plain_value(point)

    def value_at(self, prediction: Tensor, point: Tensor) -> Tensor:
        """The objective where the prediction at the point is already known."""
        return sum_of(self.loss, prediction, self.target) + self.penalty * self.norms(point).sum()

    @oracle("gradient")
    def gradient(self, point: Tensor) -> Tensor:
        """The gradient of the loss with respect to the blocks."""
        return self.adjoint(self.loss.derivative(self._predict(point), self.target))

    @oracle("predict")
    def predict(self, point: Tensor) -> Tensor:
        """``F``: the predictions ``sum_i D_i X (v_i - w_i)``, ``(n, outputs)``."""
        return self._predict(point)

    def _predict(self, point: Tensor) -> Tensor:
        difference = point[0] if self.gated else point[0] - point[1]
        inner = self.design @ _columns(difference)
        return torch.einsum("npk,np->nk", inner.reshape(len(inner), *difference.shape[::2]), self._active)

    def adjoint(self, residual: Tensor) -> Tensor:
        """``F^T``: of ``(n, outputs)``, the blocks ``X^T D_i r`` (and their negatives)."""
        spread = (self._active[:, :, None] * residual[:, None, :]).flatten(1)
        _, count, d, outputs = self.shape
        blocks = (self.design.mT @ spread).reshape(d, count, outputs).movedim(0, 1)
        return blocks[None] if self.gated else torch.stack([blocks, -blocks])

    @oracle("margins")
    def margins(self, point: Tensor) -> Tensor:
        """``G``: ``E_i X v_i``, which the cones want nonnegative, ``(n, copies, P, outputs)``. Rows are scaled to equal
        length, which changes no cone and makes the program better conditioned."""
        blocks = point.flatten(0, 1)
        inner = self.rows @ _columns(blocks)
        copies, count, _, outputs = self.shape
        return self._signed(inner.reshape(len(inner), copies, count, outputs))

    def margins_adjoint(self, margins: Tensor) -> Tensor:
        """``G^T``: the blocks ``X^T E_i s_i`` (with scaled rows)."""
        copies, count, d, outputs = self.shape
        back = self.rows.mT @ self._signed(margins).flatten(1)
        return back.reshape(d, copies, count, outputs).movedim(0, 2)

    @property
    def rows(self) -> Tensor:
        """The design with its rows scaled to one length, such that ``rows.T @ rows`` has the trace ``d``."""
        if self._rows is None:
            length = torch.linalg.vector_norm(self.design, dim=1, keepdim=True)
            scale = torch.where(length > 0, 1 / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
            self._rows = scale * self.design * math.sqrt(self.design.shape[1] / len(self.design))
        return self._rows

    def _signed(self, margins: Tensor) -> Tensor:
        return torch.where(self.patterns.active[:, None, :, None], margins, -margins)

    def norms(self, point: Tensor) -> Tensor:
        """The norm of each block that is penalized: Euclidean, ``(copies, P, outputs)``; nuclear where joint."""
        if self.joint:
            return torch.linalg.matrix_norm(point, "nuc")
        return torch.linalg.vector_norm(point, dim=2)

    @oracle("prox")
    def prox(self, point: Tensor, step: float) -> Tensor:
        """The prox of ``step * penalty`` times the sum of norms."""
        if not self.joint:
            return prox.group_l2(point, step * self.penalty, dim=2)
        left, values, right = torch.linalg.svd(point, full_matrices=False)
        return (left * (values - step * self.penalty).clamp_min(0)[..., None, :]) @ right

    @oracle("loss prox")
    def loss_prox(self, prediction: Tensor, step: float) -> Tensor:
        """The prox of ``step`` times the loss."""
        return self.loss.prox(prediction, step, self.target)

    @oracle("normal equations")
    def normal_equations(self, weight: float) -> NormalEquations:
        """How to solve ``(I + weight F^T F + G^T G) u = q``; the last one asked for is kept."""
        if self._normal is None or self._normal[0] != weight:
            self._normal = None  # let go of the old matrix before the new one is made
            rows = None if self.gated else self.rows
            self._normal = (weight, NormalEquations(self.design, self._active, rows, weight, self.copies))
        return self._normal[1]

    def violation(self, point: Tensor) -> Tensor:
        """The largest violation of a cone, in the unit of the blocks: how far a block with its margins below zero lies
        behind a hyperplane; a 0-dim tensor."""
        if self.gated:
            return point.new_zeros(())
        length = torch.linalg.vector_norm(self.rows, dim=1).max().clamp_min(torch.finfo(point.dtype).tiny)
        return (-self.margins(point)).amax().clamp_min(0) / length

    def repair(self, point: Tensor) -> Tensor:
        """A point in the cones near the given one: each block that is outside is projected on its cone, and what
        rounding leaves is made up for by a step along a direction in the inside. A block whose cone has no inside
        becomes zero.

        Where projections would take minutes (the number of blocks times ``d**3`` is above 2e9), blocks only make the
        step; in a thin cone that can be a long one, or to zero. The point is in the cones all the same.
        """
        if self.gated:
            return point
        tiny = torch.finfo(point.dtype).eps
        outside = (self.margins(point).amin(0) < 0) & (torch.linalg.vector_norm(point, dim=2) > 0)
        if not bool(outside.any()):
            return point
        copy, pattern, output = torch.nonzero(outside, as_tuple=True)
        blocks = point.movedim(2, 3)
        sign = self._active[:, pattern] * 2 - 1
        goal = blocks[copy, pattern, output]
        cheap = len(copy) * self.design.shape[1] ** 3 <= _PROJECTIONS
        found = project(self.rows, sign, goal)[0] if cheap else goal
        center = self.center[pattern]
        depth = sign * (self.rows @ center.mT)
        for _ in range(4):  # again, for what rounding leaves
            lack = (-sign * (self.rows @ found.mT)).clamp_min(0)
            needed = torch.where(lack > 0, lack / depth.clamp_min(0), 0.0).amax(0)
            if not bool((needed > 0).any()):
                break
            hopeless = ~torch.isfinite(needed) | (needed >= torch.linalg.vector_norm(goal, dim=1))
            needed = torch.where(hopeless, 0.0, needed * (1 + 8 * tiny))
            found = torch.where(hopeless[:, None], 0.0, found + needed[:, None] * center)
        blocks = blocks.clone()
        blocks[copy, pattern, output] = found
        return blocks.movedim(3, 2)

    @property
    def center(self) -> Tensor:
        """A direction deep inside of each cone, ``(P, d)``: the gate, moved by a perceptron towards larger margins."""
        if self._center is None:
            self._center = _centers(self.rows, self.patterns)
        return self._center

    @property
    def critical_penalty(self) -> float:
        """A penalty from which on zero is optimal: the largest ``|X^T D_i r|`` with ``r`` the slope of the loss at 0.

        It is exact for the program without cones. With cones the exact one is less or equal.
        """
        zero = torch.zeros_like(self.target)
        blocks = self.adjoint(self.loss.derivative(zero, self.target))
        if self.joint:
            return float(torch.linalg.matrix_norm(blocks, 2).max())
        return float(torch.linalg.vector_norm(blocks, dim=2).max())

    def network(self, point: Tensor, *, bias: bool = False) -> TwoLayerReLU:
        """The network of a point: :func:`recover`, or :func:`recover_gated` without cones."""
        if not self.gated:
            return recover(point[0], point[1], bias=bias)
        if self.joint:
            return recover_gated(point[0], self.patterns.gates, bias=bias)
        # Each neuron serves one output: split the outputs, then put the networks side by side.
        parts = [recover_gated(point[0, :, :, c], self.patterns.gates, bias=bias) for c in range(point.shape[3])]
        with torch.random.fork_rng(devices=[]):  # its first weights are random, and overwritten
            network = TwoLayerGatedReLU(torch.cat([part.gates for part in parts]), len(parts), bias=bias)
        with torch.no_grad():
            network.hidden.weight.copy_(torch.cat([part.hidden.weight for part in parts]))
            network.output.weight.copy_(torch.block_diag(*[part.output.weight for part in parts]))
        return network

    def point_of(self, network: TwoLayerReLU) -> Tensor:
        """The point of a network, all of whose neurons have patterns of this program; a feasible one of no larger
        value.

        Raises:
            ValueError: a neuron has another pattern.
        """
        own = activation_patterns_each(self.design, network)
        place = {bits: i for i, bits in enumerate(_packed(self.patterns.active))}
        point = self.zeros()
        for j, bits in enumerate(_packed(own)):
            u, a = network.hidden.weight[j].detach().to(point), network.output.weight[:, j].detach().to(point)
            if bits not in place and not self.gated:
                # A neuron on the border of a cone may round to either side.
                inner = (self.rows @ u)[:, None]
                lack = torch.where(self.patterns.active, -inner, inner).amax(0)
                nearest = int(lack.argmin())
                if float(lack[nearest]) <= 1e-10 * float(torch.linalg.vector_norm(u)):
                    place[bits] = nearest
            if bits not in place:
                raise ValueError(f"neuron {j} has a pattern that the program has not; merge its patterns in first")
            if self.gated:
                point[0, place[bits]] += u[:, None] * a
            else:
                point[0, place[bits]] += u[:, None] * a.clamp_min(0)
                point[1, place[bits]] += u[:, None] * (-a).clamp_min(0)
        return point

    def network_value(self, point: Tensor) -> Tensor:
        """The objective of the network of a point, a 0-dim tensor. It equals :meth:`value` where the cones hold;
        elsewhere the network has other patterns, and can be better than the optimum over those of the program."""
        if self.gated:
            return self._plain_value(point)
        kept = torch.nonzero(torch.linalg.vector_norm(point, dim=2), as_tuple=True)
        neurons = point.movedim(2, 3)[kept]
        inner = torch.relu(self.design @ neurons.mT) * (1 - 2 * kept[0]).to(point)
        prediction = torch.zeros_like(self.target).index_add(1, kept[2], inner)
        return self.value_at(prediction, point)

    def _plain_value(self, point: Tensor) -> Tensor:
        return self.value_at(self._predict(point), point)

    def with_penalty(self, penalty: float) -> "ConvexProgram":
        """The same program with another penalty; what is cached is shared, since it does not depend on it."""
        Real(low=0.0).check("penalty", penalty)
        made = object.__new__(ConvexProgram)
        made.__dict__.update(self.__dict__)
        made.penalty = float(penalty)
        return made

    @property
    def is_squared(self) -> bool:
        """Whether the loss is ``(z - y)^2 / 2``, for which an ADMM step is one linear system."""
        return isinstance(self.loss, Squared)


def activation_patterns_each(design: Tensor, network: TwoLayerReLU) -> Tensor:
    """The pattern of each neuron, duplicates kept, ``(n, width)``."""
    gates = getattr(network, "gates", network.hidden.weight).detach().to(design)
    return design @ gates.mT >= 0


def own_patterns(design: Tensor, network: TwoLayerReLU) -> Patterns:
    """The distinct patterns of a network's neurons."""
    return activation_patterns(design, getattr(network, "gates", network.hidden.weight))


def _packed(active: Tensor) -> list[bytes]:
    return [bits.tobytes() for bits in np.packbits(active.mT.contiguous().cpu().numpy(), axis=1)]


def _columns(blocks: Tensor) -> Tensor:
    """Blocks ``(P, d, outputs)`` side by side, ``(d, P outputs)``."""
    return blocks.movedim(1, 0).flatten(1)


def _centers(rows: Tensor, patterns: Patterns) -> Tensor:
    """Unit vectors with a large smallest margin ``min_k E_k x_k . c`` over rows of equal length, all patterns at once.

    The largest margin on the unit ball is minus the least norm in the convex hull of the signed rows (times -1); a
    Frank-Wolfe (von Neumann) iteration with exact steps finds the nearest point of the hull, whose direction is the
    center. The gate is the start, and is kept where it has the larger margin.
    """
    sign = patterns.active.to(rows) * 2 - 1  # (n, P)
    used = torch.linalg.vector_norm(rows, dim=1) > 0

    def depth(c: Tensor) -> Tensor:
        margin = sign * (rows @ c.mT)
        return torch.where(used[:, None], margin, math.inf)

    tiny = torch.finfo(rows.dtype).tiny
    gates = patterns.gates.to(rows)
    best = gates / torch.linalg.vector_norm(gates, dim=1, keepdim=True).clamp_min(tiny)
    margin = depth(best)
    deepest, at = margin.min(0)
    count = torch.arange(len(patterns), device=rows.device)
    hull = sign[at, count][:, None] * rows[at]  # a point of each hull, (P, d)
    steps = 10_000_000_000 // (rows.numel() * len(patterns))  # seconds, not minutes
    for _ in range(min(200, steps)):
        inner = depth(hull)
        worst, at = inner.min(0)
        corner = sign[at, count][:, None] * rows[at]
        length = torch.linalg.vector_norm(hull, dim=1).clamp_min(tiny)
        better = worst / length > deepest
        best = torch.where(better[:, None], hull / length[:, None], best)
        deepest = torch.maximum(deepest, worst / length)
        edge = corner - hull
        move = (-(hull * edge).sum(1) / edge.square().sum(1).clamp_min(tiny)).clamp(0, 1)
        hull = hull + move[:, None] * edge
    return best
