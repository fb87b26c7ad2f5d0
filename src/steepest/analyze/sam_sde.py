"""Stochastic differential equations that follow SAM and its relatives, and the methods themselves, over many runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from ..core import tree
from ..core.card import MethodCard, Paper
from ..core.random import generator
from ..core.ranges import Integer, OneOf, Range, Real, check_settings

__all__ = ["CARD", "SAMDiffusion"]

_TINY = 1e-12
_RUN: dict[str, Range] = {
    "step_size": Real(low=0.0, low_open=True),
    "time": Real(low=0.0),
    "steps": Integer(),
    "substeps": Integer(low=1),
    "seed": Integer(),
}


@dataclass(frozen=True)
class SAMDiffusion:
    r"""The stochastic differential equation that follows SAM, USAM or DNSAM, and what is needed to compare them.

    A step of the method with the step size :math:`\eta` draws one of :math:`n` equally likely losses :math:`f_i` (a
    sample, or a mini-batch) and moves by :math:`-\eta \nabla f_i(x + \rho\, u_i)`, where with :math:`g_i = \nabla
    f_i(x)` and :math:`f`, the mean,

    .. math::
        u_i = g_i / \|g_i\| \;\text{(SAM)}, \qquad u_i = g_i \;\text{(USAM)}, \qquad
        u_i = g_i / \|\nabla f(x)\| \;\text{(DNSAM)}

    To first order in :math:`\rho` the move is along :math:`g_i + \rho H_i u_i`. Its mean and its noise make

    .. math::
        dX = -\big(\nabla f + \rho\, \mathrm{E}[H_i u_i]\big)\, dt + \sqrt{\eta}\; C(X)^{1/2}\, dW, \qquad
        C = \operatorname{Cov}(g_i) + \rho\, (A + A^\top), \quad A = \operatorname{Cov}(g_i, H_i u_i)

    with the time :math:`t = k \eta` after :math:`k` steps. The drift is the negative gradient of
    :math:`f + \rho\, \mathrm{E}\|g_i\|` for SAM, and of :math:`f + \frac{\rho}{2} \mathrm{E}\|g_i\|^2` for USAM. Where
    :math:`\rho` shrinks like :math:`\sqrt{\eta}`, expectations of smooth functions of :math:`X` and of the method's
    points differ by :math:`O(\eta)`. With :math:`\rho = 0` it is SGD and its equation. SAM's and DNSAM's drift has no
    limit where a gradient vanishes; :math:`10^{-12}` is added to the norms.

    The noise that :meth:`simulate` draws has the covariance of :math:`g_i + \rho H_i u_i` itself, which is :math:`C`
    with the term :math:`\rho^2 \operatorname{Cov}(H_i u_i)`: of the order that the theory drops, positive semidefinite,
    and without a matrix root.

    Points are a batch of independent runs, of shape ``(runs, d)``; every step costs gradients and Hessian-vector
    products of all ``n`` losses at all of them.

    Args:
        loss: ``loss(x, sample) -> scalar``, of a point of shape ``(d,)`` and one sample; twice differentiable with
            ``torch.func``.
        samples: a tensor whose first dimension counts the :math:`n` samples, or a nested structure of such.
        rho: :math:`\rho \ge 0`.
        variant: ``"SAM"``, ``"USAM"`` or ``"DNSAM"``.

    Raises:
        ValueError, TypeError: a setting is out of its range.

    Source: Monzio Compagnoni, Biggio, Orvieto, Proske, Kersting, Lucchi (2023), An SDE for Modeling SAM: Theory and
    Insights, arXiv 2301.08203.
    """

    loss: Callable[[Tensor, Any], Tensor]
    samples: Any
    rho: float
    variant: Literal["SAM", "USAM", "DNSAM"] = "SAM"

    def __post_init__(self) -> None:
        ranges: dict[str, Range] = {"rho": Real(low=0.0), "variant": OneOf(("SAM", "USAM", "DNSAM"))}
        check_settings("SAMDiffusion", {"rho": self.rho, "variant": self.variant}, ranges)
        if len({len(leaf) for leaf in tree.leaves(self.samples)}) != 1 or not self.count:
            raise ValueError("SAMDiffusion: samples must be tensors with one first dimension, of at least 1")

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(tree.leaves(self.samples)[0])

    # ---------------------------------------------------------------------------------------- the equation

    def gradients(self, points: Tensor) -> Tensor:
        """Of every sample at every point: ``(runs, n, d)``."""
        _check_points(points)
        return vmap(vmap(grad(self.loss), (None, 0)), (0, None))(points, self.samples)

    def drift(self, points: Tensor) -> Tensor:
        r""":math:`-\nabla f - \rho\, \mathrm{E}[H_i u_i]` at every point: ``(runs, d)``."""
        g, curved = self._parts(points)
        return -(g + self.rho * curved).mean(1)

    def covariance(self, points: Tensor) -> Tensor:
        """``C`` at every point: ``(runs, d, d)``; it may be slightly indefinite where rho is large."""
        g, curved = (part - part.mean(1, keepdim=True) for part in self._parts(points))
        cross = g.mT @ curved / self.count
        return g.mT @ g / self.count + self.rho * (cross + cross.mT)

    def simulate(
        self,
        start: Tensor,
        step_size: float,
        time: float,
        *,
        substeps: int = 10,
        seed: int = 0,
        balanced: bool = False,
    ) -> Tensor:
        """Runs of the equation by Euler and Maruyama's scheme.

        Args:
            start: the points at time 0, ``(runs, d)``.
            step_size: the method's; the noise depends on it.
            time: until when.
            substeps: how many steps of the scheme make one of the method's.
            seed: of the noise.
            balanced: whether the second half of the runs has the first one's noise with the opposite sign. Each run by
                itself is as without; means over runs are much less noisy, as the noise cancels to first order.

        Returns:
            The points at that time.
        """
        _check(step_size=step_size, time=time, substeps=substeps, seed=seed)
        steps = max(1, math.ceil(time / step_size * substeps - 1e-9))
        dt = time / steps
        draw = generator(start.device, "sam-sde", seed)
        x = start
        for _ in range(steps):
            g, curved = self._parts(x)
            move = g + self.rho * curved
            mean = move.mean(1)
            # Independent normal weights on the samples' deviations have the covariance of the samples.
            drawn = (len(x) + 1) // 2 if balanced else len(x)
            weights = torch.randn(drawn, 1, self.count, generator=draw, dtype=x.dtype, device=x.device)
            if balanced:
                weights = torch.cat([weights, -weights])[: len(x)]
            noise = (weights @ (move - mean[:, None]))[:, 0] / math.sqrt(self.count)
            x = x - dt * mean + math.sqrt(step_size * dt) * noise
        return x

    def flow(self, start: Tensor, time: float, *, steps: int = 1000) -> Tensor:
        """The equation without noise, by Runge and Kutta's scheme of fourth order.

        Args:
            start: the points at time 0, ``(runs, d)``.
            time: until when.
            steps: of the scheme.
        """
        _check(time=time, steps=steps)
        x, dt = start, time / max(1, steps)
        for _ in range(steps):
            a = self.drift(x)
            b = self.drift(x + dt / 2 * a)
            c = self.drift(x + dt / 2 * b)
            x = x + dt / 6 * (a + 2 * b + 2 * c + self.drift(x + dt * c))
        return x

    # ---------------------------------------------------------------------------------------- the method

    def method(self, start: Tensor, step_size: float, steps: int, *, seed: int = 0, balanced: bool = False) -> Tensor:
        """Runs of the method itself, each with samples of its own, drawn with replacement.

        Args:
            start: the points at the beginning, ``(runs, d)``.
            step_size: :math:`\\eta`.
            steps: how many.
            seed: of the samples.
            balanced: whether in each step all samples are drawn equally often, as far as the number of runs allows.
                Each run by itself is as without; see :meth:`simulate`.
        """
        _check(step_size=step_size, steps=steps, seed=seed)
        _check_points(start)
        draw = generator(start.device, "sam", seed)
        one = vmap(grad(self.loss))
        x = start
        for _ in range(steps):
            rows = torch.randint(self.count, (1 if balanced else len(x),), generator=draw, device=x.device)
            if balanced:
                rows = (rows + torch.randperm(len(x), generator=draw, device=x.device)) % self.count
            chosen = tree.tree_map(lambda t, rows=rows: t[rows], self.samples)
            if self.rho:
                g = one(x, chosen)
                full = self.gradients(x).mean(1) if self.variant == "DNSAM" else g
                x = x - step_size * one(x + self.rho * self._direction(g, full), chosen)
            else:
                x = x - step_size * one(x, chosen)
        return x

    # ---------------------------------------------------------------------------------------- parts

    def _parts(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """``g_i`` and ``H_i u_i``, both ``(runs, n, d)``."""
        g = self.gradients(points)
        if not self.rho:
            return g, torch.zeros_like(g)
        u = self._direction(g, g.mean(1, keepdim=True))

        def along(x: Tensor, sample: Any, direction: Tensor) -> Tensor:
            curved: Tensor = jvp(lambda y: grad(self.loss)(y, sample), (x,), (direction,))[1]
            return curved

        return g, vmap(vmap(along, (None, 0, 0)), (0, None, 0))(points, self.samples, u)

    def _direction(self, g: Tensor, full: Tensor) -> Tensor:
        """``u_i``."""
        if self.variant == "USAM":
            return g
        of = g if self.variant == "SAM" else full
        return g / (torch.linalg.vector_norm(of, dim=-1, keepdim=True) + _TINY)


def _check_points(points: Tensor) -> None:
    if points.dim() != 2:
        raise ValueError(f"SAMDiffusion: points must have the shape (runs, d), got {tuple(points.shape)}")


def _check(**settings: Any) -> None:
    check_settings("SAMDiffusion", settings, _RUN)


CARD = MethodCard(
    name="sam-sde",
    title="Stochastic differential equations of SAM",
    room="analyze",
    family="dynamics",
    summary="Simulates the diffusions that follow SAM, USAM and DNSAM, with their drift, their noise and their flow.",
    target="steepest.analyze.sam_sde:SAMDiffusion",
    papers=(
        Paper(
            "Monzio Compagnoni, Biggio, Orvieto, Proske, Kersting, Lucchi",
            2023,
            "An SDE for Modeling SAM: Theory and Insights",
            arxiv="2301.08203",
        ),
    ),
    needs=frozenset({"per-sample gradient", "hvp"}),
    buffers=0,
    usage="steepest.analyze.SAMDiffusion(loss, samples, rho=0.1).simulate(start, step_size=0.01, time=1.0)",
)
