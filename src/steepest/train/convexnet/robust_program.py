r"""Adversarially robust training of a two-layer ReLU network as one convex program.

A neuron whose weights ``v`` satisfy :math:`E_{ki}\, x_k \cdot v \ge r \|v\|_q` for every sample keeps its sign on the
whole ball :math:`\|\delta\|_p \le r` around each (``q`` is the dual exponent). A network of such neurons is linear on
every ball, with the slope :math:`z_k = \sum_i D_{ki} (v_i - w_i)` at sample ``k``, and its output there takes exactly
the values :math:`x_k \cdot z_k + [-r \|z_k\|_q, r \|z_k\|_q]`. So the worst loss is known in closed form, and convex:

.. math:: \min_{v, w}\; \sum_k \max_\pm \ell(x_k \cdot z_k \pm r \|z_k\|_q,\, y_k) + \beta \sum_i (\|v_i\| + \|w_i\|)
          \quad\text{s.t.}\quad E_{ki}\, x_k \cdot v_i \ge r \|v_i\|_q,\; E_{ki}\, x_k \cdot w_i \ge r \|w_i\|_q

For a margin loss the maximum is :math:`\ell(y_k x_k \cdot z_k - r \|z_k\|_q)`, for a loss of the residual it is that of
:math:`|x_k \cdot z_k - y_k| + r \|z_k\|_q`. A bias is the weight of a last input, 1, which is not perturbed: it is left
out of every dual norm (but is penalized).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from steepest.core.losses import Absolute, Huber, Loss, Squared, loss_of
from steepest.core.ranges import Flag, Integer, Real
from steepest.train.convexnet.ball import Ball
from steepest.train.convexnet.network import TwoLayerReLU, recover, with_bias
from steepest.train.convexnet.patterns import Patterns

#: Cones whose deepest vector of the unit box has a smaller margin than this part of the data's size count as empty:
#: they add next to nothing, and rounding could not tell.
_THIN = 1e-7

__all__ = ["RobustProgram", "robust_gate", "robust_patterns"]


def robust_patterns(
    features: Tensor,
    draws: int,
    generator: torch.Generator,
    *,
    radius: float,
    perturbations: int = 10,
    limit: int | None = None,
    norm: float = math.inf,
    bias: bool = False,
) -> Patterns:
    r"""Patterns of random gates on the data and on perturbed data, as far as a neuron can keep them on every ball.

    For each gate ``a`` with independent standard normal entries these are :math:`1[X a \ge 0]` and, for
    ``perturbations`` draws of ``R`` with standard normal entries, :math:`1[(X + r\,\mathrm{sign}(R)) a \ge 0]`. A
    pattern whose robust cone :math:`\{v : E_k x_k \cdot v \ge r \|v\|_q\}` is only the origin can add nothing to the
    robust program, and is left
    out: a small convex program per distinct pattern finds out, and gives a gate deep inside of the cone. With many
    samples and a large radius few patterns are left, or none. With a bias, "all on" and "all off" are always among the
    patterns (ordinary random gates hardly ever are), so that linear classifiers are among the networks.

    Args:
        features: ``(n, d)``, without the ones.
        draws: how many gates are drawn, >= 1.
        generator: the source of randomness; it draws in float64.
        radius: of the ball, >= 0, in units of the features. With 0 this is as
            :func:`~steepest.train.convexnet.patterns.sample_patterns`.
        perturbations: perturbed data sets per gate, >= 0. Default 10.
        limit: stop once so many patterns are found, >= 1; default: none.
        norm: of the ball, in [1, inf]. Default inf. For others than 1 and inf CVXPY is needed.
        bias: whether the design gets a column of ones, which is not perturbed.

    Returns:
        The patterns, maybe none. The gates are *in the robust cones*, and have these patterns on all perturbed data.

    Source: Y. Bai, T. Gautam, Y. Gai, S. Sojoudi (2021), Practical Convex Formulation of Robust One-hidden-layer Neural
    Network Training, arXiv 2105.12237. (There, patterns with empty cones stay in the program.)
    """
    ball = Ball(radius, norm)
    ball.check(features)
    Integer(low=1).check("draws", draws)
    Integer(low=0).check("perturbations", perturbations)
    Integer(low=1, optional=True).check("limit", limit)
    Flag().check("bias", bias)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
    features = features.detach().double()
    design = with_bias(features, bias)
    seen: set[bytes] = set()
    active: list[np.ndarray] = []
    gates: list[np.ndarray] = []
    rows = design.cpu().numpy()
    cone = _Cone(rows, bias, ball)
    for pattern in _candidates(design, draws, perturbations if radius > 0 else 0, ball, bias, generator):
        bits = np.packbits(pattern).tobytes()
        if bits in seen:
            continue
        seen.add(bits)
        inside = cone.deepest(pattern)
        if inside is not None:
            active.append(pattern)
            gates.append(inside)
            if limit is not None and len(active) == limit:
                break
    columns = np.array(active, dtype=bool).reshape(-1, len(rows)).T
    return Patterns(
        torch.as_tensor(columns.copy(), device=features.device),
        torch.as_tensor(np.array(gates).reshape(-1, rows.shape[1]), device=features.device),
    )


def _candidates(
    design: Tensor, draws: int, perturbations: int, ball: Ball, bias: bool, generator: torch.Generator
) -> Iterator[np.ndarray]:
    n, d = design.shape
    if bias:
        yield np.full(n, True)
        yield np.full(n, False)
    mask = torch.ones(d, dtype=design.dtype, device=design.device)
    if bias:
        mask[-1] = 0
    for _ in range(draws):
        gate = torch.randn(d, generator=generator, dtype=torch.float64, device=generator.device).to(design)
        inner = design @ gate
        yield (inner >= 0).cpu().numpy()
        for _ in range(perturbations):
            noise = torch.randn(n, d, generator=generator, dtype=torch.float64, device=generator.device).to(design)
            moved = (
                ball.radius * torch.sign(noise)
                if math.isinf(ball.norm)
                else ball.radius * (noise / torch.linalg.vector_norm(noise * mask, ord=ball.norm, dim=1, keepdim=True))
            )
            yield (inner + (moved * mask) @ gate >= 0).cpu().numpy()


class _Cone:
    """The vector of the unit box with the largest robust margin ``min_k E_k x_k . v - r |v|_q``, pattern by pattern."""

    def __init__(self, rows: np.ndarray, bias: bool, ball: Ball) -> None:
        self.rows, self.bias, self.ball = rows, bias, ball
        self.free = rows.shape[1] - bias
        # Samples whose balls overlap cannot be on different sides of a neuron; without a bias the same holds for one
        # and the reflection of the other. This decides most candidates without a program.
        self.together = self._overlap(rows[:, : self.free], rows[:, : self.free])
        self.apart = None if bias else self._overlap(rows, -rows)

    def _overlap(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """Which pairs of balls share inner points, ``(n, n)``, as numbers."""
        r, p = self.ball.radius, self.ball.norm
        found = torch.cdist(
            torch.as_tensor(one), torch.as_tensor(two), p=p, compute_mode="donot_use_mm_for_euclid_dist"
        )
        return (found < 2 * r * (1 - 1e-9)).double().numpy()

    def closed(self, pattern: np.ndarray) -> bool:
        """Whether two balls that overlap show that the cone is only the origin."""
        on = pattern.astype(float)
        if on @ self.together @ (1 - on) > 0:
            return True
        return self.apart is not None and on @ self.apart @ on + (1 - on) @ self.apart @ (1 - on) > 0

    def deepest(self, pattern: np.ndarray) -> np.ndarray | None:
        """That vector, or ``None`` where the cone is only the origin."""
        if self.closed(pattern):
            return None
        signed = np.where(pattern, 1.0, -1.0)[:, None] * self.rows
        used = np.abs(signed).max(1) > 0
        if not used.all():
            if self.ball.radius > 0:
                return None  # a sample at the origin without a bias: no neuron keeps its sign around it
            signed = signed[used]
            if not len(signed):
                return np.ones(self.rows.shape[1])
        v = self._linear(signed) if self.ball.dual in (1.0, math.inf) else self._conic(signed)
        if v is None:
            return None
        length = np.linalg.norm(v[: self.free], ord=self.ball.dual)
        margin = (signed @ v).min() - self.ball.radius * length
        return v if margin > _THIN * np.abs(signed).max() else None

    def _linear(self, signed: np.ndarray) -> np.ndarray | None:
        n, d = signed.shape
        f, r = self.free, self.ball.radius
        # Variables: v (d), then |v_j| (f of them, or one for the largest), then the margin m. Maximize m.
        extra = f if self.ball.dual == 1.0 else 1
        size = np.zeros(d + extra + 1)
        size[d : d + extra] = r
        margin = np.hstack([-signed, np.tile(size[d:-1], (n, 1)), np.ones((n, 1))])
        eye = np.eye(f, d)
        spread = np.eye(f) if extra == f else np.ones((f, 1))
        above = np.hstack([eye, -spread, np.zeros((f, 1))])
        below = np.hstack([-eye, -spread, np.zeros((f, 1))])
        # The bias may be larger than the other weights: a box of the size of the data, so that "all on" is deep enough.
        reach = 1.0 if not self.bias else 1.0 + float(np.abs(self.rows[:, :f]).sum(1).max(initial=0.0)) + r * f
        bounds = [(-1.0, 1.0)] * f + [(-reach, reach)] * (d - f) + [(0.0, 1.0)] * extra + [(0.0, 1.0)]
        found = linprog(
            np.append(np.zeros(d + extra), -1.0),
            A_ub=np.vstack([margin, above, below]),
            b_ub=np.zeros(n + 2 * f),
            bounds=bounds,
        )
        return found.x[:d] if found.status == 0 else None

    def _conic(self, signed: np.ndarray) -> np.ndarray | None:
        cp = modules()
        v, m = cp.Variable(signed.shape[1]), cp.Variable()
        size = self.ball.radius * cp.norm(v[: self.free], self.ball.dual)
        cp.Problem(cp.Maximize(m), [signed @ v - size >= m, cp.norm(v, 2) <= 1]).solve(solver=cp.CLARABEL)
        return v.value


def robust_gate(design: Tensor, pattern: Tensor, ball: Ball, bias: bool) -> Tensor | None:
    """A vector inside of the robust cone of a pattern ``(n,)``, or ``None`` where that cone is only the origin."""
    rows = design.detach().double().cpu().numpy()
    found = _Cone(rows, bias, ball).deepest(pattern.cpu().numpy())
    return None if found is None else torch.as_tensor(found).to(design)


class RobustProgram:
    r"""The robust program of the module's text, over given patterns. **The loss is summed over samples.**

    With radius 0 it is the clean program. Its value at a point in the cones is the objective of the recovered network
    with the *true* worst case of the loss, so that over all patterns its optimum is an upper bound on that of
    adversarial training; the bound is not tight, since networks whose neurons change their sign in a ball are left out.
    All zero is always feasible, and where the radius is too large for the patterns it is the optimum.

    A point is a tensor ``(2, P, d)``: ``v`` and ``w``.

    Args:
        features: ``(n, d)``, without the ones.
        target: ``(n,)``; -1 and 1 for margin losses.
        patterns: of ``with_bias(features, bias)``; those of :func:`robust_patterns` have cones that are not empty.
        loss: a loss of the library or its name. Default ``"hinge"``.
        penalty: ``>= 0``.
        radius: of the ball, ``>= 0``, in units of the features.
        norm: of the ball, in [1, inf]. Default inf.
        bias: whether the design has a column of ones, not perturbed.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or shape, or not finite; there is a margin loss and one
            class only.

    Source: Y. Bai, T. Gautam, Y. Gai, S. Sojoudi (2021), Practical Convex Formulation of Robust One-hidden-layer Neural
    Network Training, arXiv 2105.12237; Y. Bai, T. Gautam, S. Sojoudi (2022), arXiv 2201.01965, section 4.
    """

    def __init__(
        self,
        features: Tensor,
        target: Tensor,
        patterns: Patterns,
        loss: Loss | str = "hinge",
        penalty: float = 1e-3,
        *,
        radius: float,
        norm: float = math.inf,
        bias: bool = False,
    ) -> None:
        self.ball = Ball(radius, norm)
        self.ball.check(features)
        Real(low=0.0).check("penalty", penalty)
        Flag().check("bias", bias)
        self.loss = checked_loss(loss)
        self.features = features.detach()
        self.design = with_bias(self.features, bias)
        self.target = checked_target(target, self.loss, self.features)
        if len(patterns) and (len(patterns.active) != len(features) or patterns.gates.shape[1] != self.design.shape[1]):
            raise ValueError(
                f"patterns must be of the design {list(self.design.shape)}, got {list(patterns.active.shape)} and "
                f"gates {list(patterns.gates.shape)}"
            )
        self.patterns = Patterns(patterns.active.to(features.device), patterns.gates.to(self.design))
        self.penalty, self.bias = float(penalty), bias
        self.free = self.features.shape[1]
        self.active = self.patterns.active.to(self.design)
        self.sign = 2 * self.active - 1
        self._centers: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a point: ``(2, P, d)``."""
        return (2, len(self.patterns), self.design.shape[1])

    @property
    def radius(self) -> float:
        """Of the ball."""
        return self.ball.radius

    def zeros(self) -> Tensor:
        """All blocks zero."""
        return self.design.new_zeros(self.shape)

    def length(self, weights: Tensor) -> Tensor:
        """``r`` times the dual norm over the perturbed features, along the last dimension."""
        return self.radius * self.ball.dual_norm(weights[..., : self.free])

    def slopes(self, point: Tensor) -> Tensor:
        """``z_k``, the slope of the network on the ball of each sample, ``(n, d)``."""
        return self.active @ (point[0] - point[1])

    def losses(self, point: Tensor) -> Tensor:
        """The worst loss of each sample, ``(n,)``; the truth where the cones hold."""
        z = self.slopes(point)
        prediction, spread = (self.design * z).sum(1), self.length(z)
        return torch.maximum(
            self.loss.value(prediction - spread, self.target), self.loss.value(prediction + spread, self.target)
        )

    def value(self, point: Tensor) -> Tensor:
        """The objective, whether or not the cones hold."""
        return self.losses(point).sum() + self.penalty * torch.linalg.vector_norm(point, dim=-1).sum()

    def margins(self, point: Tensor) -> Tensor:
        """``E x . v - r |v|_q``, which the cones want nonnegative, ``(2, n, P)``."""
        return self.sign * (self.design @ point.mT) - self.length(point)[:, None, :]

    def violation(self, point: Tensor) -> float:
        """The largest violation of a cone, 0 if there is none."""
        return float((-self.margins(point)).amax().clamp_min(0)) if point.numel() else 0.0

    @property
    def centers(self) -> tuple[Tensor, Tensor]:
        """A vector inside of each robust cone, ``(P, d)``, and its least margin, ``(P,)``: not above 0 where the cone
        is only the origin. Gates that are inside are taken as they are."""
        if self._centers is None:
            gates = self.patterns.gates.clone()
            depth = self._depth(gates)
            for i in torch.nonzero(depth <= 0)[:, 0].tolist():
                found = robust_gate(self.design, self.patterns.active[:, i], self.ball, self.bias)
                gates[i] = 0 if found is None else found
            self._centers = gates, self._depth(gates)
        return self._centers

    def _depth(self, gates: Tensor) -> Tensor:
        return (self.sign * (self.design @ gates.mT) - self.length(gates)).amin(0)

    def repair(self, point: Tensor) -> Tensor:
        """A point in the cones near the given one: each block that is outside takes a step along the center of its
        cone, or is scaled down to 0 where that is the smaller change or the cone is only the origin."""
        if not point.numel():
            return point
        centers, depth = self.centers
        margin = self.margins(centers[None])[0]  # (n, P)
        # What rounding may take from a margin, for a block of length 1; the same for a block that lies on a face.
        tiny = 16 * torch.finfo(point.dtype).eps * torch.linalg.vector_norm(self.design, dim=1)[:, None]
        for _ in range(4):
            found = self.margins(point)
            outside = found.amin(1) < 0  # (2, P)
            if not bool(outside.any()):
                return point
            size = torch.linalg.vector_norm(point, dim=-1)
            lack = (tiny * size[:, None, :] - found).clamp_min(0)
            needed = torch.where(lack > 0, lack / margin.clamp_min(0), 0.0).amax(1)
            step = needed * torch.linalg.vector_norm(centers, dim=-1)
            hopeless = ~torch.isfinite(step) | (step >= size) | (depth <= 0)
            moved = point + torch.where(hopeless, 0.0, needed)[..., None] * centers
            moved = torch.where(hopeless[..., None], 0.0, moved)
            point = torch.where(outside[..., None], moved, point)
        return torch.where((self.margins(point).amin(1) < 0)[..., None], 0.0, point)

    def network(self, point: Tensor) -> TwoLayerReLU:
        """The network of a point."""
        if not point.numel():
            d = self.design.shape[1]
            return recover(self.design.new_zeros(1, d), self.design.new_zeros(1, d), bias=self.bias)
        return recover(point[0], point[1], bias=self.bias)

    def lower_bound(self, dual: Tensor, spread: Tensor, multipliers: Tensor) -> float:
        r"""A proved lower bound on the optimum of this program (over its patterns) from any dual point.

        With :math:`h_k = \rho_k x_k + p_k`, :math:`\|p_k\|_p \le r g_k`, the Lagrangian gives
        :math:`-\sum_k \phi^*(\rho_k, g_k)` if for every pattern and either sign
        :math:`\min_{\|p'\|_p \le r \sum_k \lambda_k} \|\mp \sum_k D_k h_k + \sum_k \lambda_k E_k x_k + p'\|_2 \le
        \beta` (with ``p'`` taking the place of the dual norm of the cone), where :math:`\phi` is the worst loss as a
        function of prediction and slope. What is passed is made feasible: moved into the domains, and scaled down.

        Args:
            dual: :math:`\rho`, the derivative of the worst loss by the prediction, ``(n,)``.
            spread: ``p``, ``(n, d)`` or ``(n, features)``.
            multipliers: of the cones, ``(2, n, P)``; negative entries count as 0.
        """
        if not len(self.patterns):
            return float(self.value(self.zeros()))
        y, r = self.target, self.radius
        slope, p = dual.clone(), spread[:, : self.free].clone()
        if self.loss.margin:
            slope = y * (y * slope).clamp_max(0.0)
            if not math.isfinite(float(self.loss.conjugate(-1e9 * y[:1], y[:1]))):
                slope = y * (y * slope).clamp_min(-1.0)  # hinge and logistic: slopes of at most 1
            limit = slope.abs()
        else:
            limit = torch.maximum(
                slope.abs(), torch.linalg.vector_norm(p, ord=self.ball.norm, dim=1) / r if r else 0 * slope
            )
            if not isinstance(self.loss, Squared):
                most = self.loss.delta if isinstance(self.loss, Huber) else 1.0
                slope, limit = slope.clamp(-most, most), limit.clamp_max(most)
        size = torch.linalg.vector_norm(p, ord=self.ball.norm, dim=1)
        p = p * (r * limit / size.clamp_min(torch.finfo(p.dtype).tiny)).clamp_max(1.0)[:, None]
        h = slope[:, None] * self.design
        h[:, : self.free] += p
        blocks = self.active.mT @ h
        lam = multipliers.clamp_min(0)
        image = torch.stack([-blocks, blocks]) + (self.sign * lam).mT @ self.design
        room = r * lam.sum(1)  # (2, P)
        inner = image[..., : self.free]
        if math.isinf(self.ball.norm):
            inner = torch.sign(inner) * (inner.abs() - room[..., None]).clamp_min(0)
        else:  # a p' along the image is allowed, if not always the best
            shrink = room / torch.linalg.vector_norm(inner, ord=self.ball.norm, dim=-1).clamp_min(1e-300)
            inner = inner * (1 - shrink).clamp_min(0)[..., None]
        image = torch.cat([inner, image[..., self.free :]], dim=-1)
        largest = float(torch.linalg.vector_norm(image, dim=-1).max())
        top = min(1.0, self.penalty / largest) if largest > 0 else 1.0

        def at(scale: float) -> float:
            if self.loss.margin:
                return -float(self.loss.conjugate(scale * slope, y).sum())
            zero = torch.zeros_like(y)
            return -float((scale * slope * y + self.loss.conjugate(scale * limit, zero)).sum())

        # Concave in the scale, and 0 is feasible.
        return max(at(top * s) for s in (*np.linspace(0.0, 0.95, 20).tolist(), 0.98, 0.99, 1.0))


def checked_loss(loss: Loss | str) -> Loss:
    """A loss whose worst case over a symmetric interval of predictions is known in closed form."""
    found = loss_of(loss)
    if not (found.margin or isinstance(found, (Squared, Absolute, Huber))):
        raise TypeError(f"loss must be one of the library's own, got {found!r}")
    return found


def checked_target(target: Tensor, loss: Loss, features: Tensor) -> Tensor:
    """The target ``(n,)`` in the dtype of the features; both classes must be there for a margin loss."""
    if not isinstance(target, Tensor) or target.numel() != len(features) or target.is_complex():
        what = list(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"target must be a real tensor with an entry for each of {len(features)} samples, got {what}")
    y = target.detach().to(features).reshape(-1)
    if not bool(torch.isfinite(y).all()):
        raise ValueError("target must be finite, but it holds NaN or an infinity")
    loss.check_target(y)
    if loss.margin and bool((y == y[0]).all()):
        raise ValueError(f"target must hold both classes, -1 and 1, got only {float(y[0]):g}")
    return y


def modules() -> Any:
    """CVXPY, with Clarabel."""
    try:
        import clarabel  # noqa: F401
        import cvxpy
    except ImportError as error:
        raise ImportError(
            "this needs CVXPY and Clarabel (pip install 'steepest[convex]'); solver='admm' does without"
        ) from error
    return cvxpy
