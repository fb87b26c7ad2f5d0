"""OASIS: an averaged Hutchinson diagonal as preconditioner, and a step size that follows from the gradients' change."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.curvature import CurvatureOptimizer, derivatives
from ..core.optimizer import Common, Parameters
from ..core.ranges import BETAS, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Flag, Integer, Real
from ..core.rule import compute_dtype, lerp
from ..core.sharding import average_over_processes, total
from ..core.twopoint import RandomState, gradients_at

__all__ = ["CARDS", "OASIS", "OASISMomentum"]

Pieces = Sequence[tuple[Tensor, ...]]
_POSITIVE = Real(low=0.0, low_open=True)


class _HutchinsonAverage(CurvatureOptimizer):
    """What both forms share: the state ``hessian``, a signed average whose first value is the first estimate."""

    complex_as_real = False

    @property
    def probes(self) -> int:
        """Random vectors of the next estimate; the first one has more."""
        return int(self.param_groups[0]["first_probes"]) if self.steps_taken == 0 else 1

    @classmethod
    def absorb(cls, stored: Mapping[str, Tensor], estimate: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The average with a new estimate; the first one is taken whole."""
        hessian = stored["hessian"]
        estimate, decay = estimate.to(hessian.dtype), cls.decay(settings)
        return {"hessian": lerp(hessian, estimate, 1 - decay) if settings["step"] else estimate}

    @staticmethod
    def decay(settings: Mapping[str, Any]) -> float:
        """Of the average of estimates."""
        return float(settings["beta2"])

    def check_ready(self, params: list[Tensor]) -> None:
        """Without any estimate there is no preconditioner."""
        for p in params:
            if not self.state.get(p):
                raise RuntimeError(
                    f"{type(self).__name__}: no curvature was estimated for parameter {self.label(p)}; call "
                    "optimizer.backward(loss) in place of loss.backward(), or pass a closure that returns the loss"
                )


class OASIS(_HutchinsonAverage):
    r"""OASIS: preconditioned gradient descent without a learning rate.

    With a random probe :math:`z_k \in \{-1, 1\}^d`, the Hessian :math:`H_k` and the gradient :math:`\nabla f_k` of the
    mini-batch, for :math:`k \ge 1`:

    .. math::
        D_k &= \beta_2 D_{k-1} + (1 - \beta_2)\, z_k \odot H_k z_k, \qquad \hat D_k = \max(|D_k|, \alpha) \\
        \eta_k &= \min\!\Big( \sqrt{1 + \theta_{k-1}}\, \eta_{k-1},\;
            \frac{\|x_k - x_{k-1}\|_{\hat D_k}}
                 {2\, \|\nabla f_k(x_k) - \nabla f_k(x_{k-1})\|_{\hat D_k^{-1}}} \Big), \qquad
        \theta_k = \eta_k / \eta_{k-1} \\
        x_{k+1} &= x_k - \gamma \eta_k \big( \hat D_k^{-1} \nabla f_k(x_k) + \lambda x_k \big)

    with :math:`\|v\|_D^2 = v^\top D v`. The start is :math:`D_0`, the mean of several samples,
    :math:`\theta_0 = \infty`, and a small :math:`\eta_0`, which is forgotten in the next step. The norms are those of
    all tensors of all groups. The second branch estimates the inverse of twice the local Lipschitz constant of the
    gradient, in the metric of the preconditioner; where nothing has moved, or no gradient has changed, there is none,
    and the step size is that of the first branch, or the previous one. With :math:`\hat D = 1` this is the adaptive
    gradient descent of Malitsky and Mishchenko (AdGD).

    ``step(closure)`` wants a closure that returns the loss and does not call backward. A step costs two gradients of
    the mini-batch, at :math:`x_k` and :math:`x_{k-1}`, and a Hessian-vector product. Where the loss is deterministic,
    ``exact=False`` keeps the previous step's gradient in place of the second one; it can also be driven by
    ``optimizer.backward(loss)`` and ``step()``. With mini-batches it would take noise for curvature.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: :math:`\gamma \ge 0`, a factor on the step that the method has chosen, 1 for the method itself. Schedules
            act on it; the recursion of :math:`\eta_k` does not see it.
        beta2: :math:`\beta_2` in [0, 1), decay of the average (the authors use 0.95 to 0.999).
        truncation: :math:`\alpha > 0`, the smallest curvature (the authors use 1e-7 to 1e-1).
        initial_step: :math:`\eta_0 > 0`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the step size.
        exact: evaluate the mini-batch at the previous parameters too: with the same random numbers, and without a trace
            of the extra call in buffers such as the statistics of batch norms.
        first_probes: random probes of :math:`D_0`.
        seed: of the probes; they depend on it, the step and the shapes alone.
        common: ``maximize``, ``engine``, ``nonfinite``, ``state_dtype``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`. Groups may differ in ``lr``, ``weight_decay`` and
            ``maximize`` alone.

    Raises:
        TypeError: ``exact`` and no closure is given.
        RuntimeError: a step is taken although no curvature was ever estimated.

    A single probe is not covariant under a rescaling of the coordinates, only its expectation is: with the exact
    diagonal (through :meth:`observe`) and a negligible ``truncation`` the predictions of a model do not depend on the
    scales of its features; with probes they do.

    Source: Jahani, Rusakov, Shi, Richtarik, Mahoney, Takac (2021), Doubly Adaptive Scaled Algorithm for Machine
    Learning Using Second-Order Information, arXiv 2109.05198. The defaults lie in the middle of the authors' ranges.
    """

    state_tensors = {"hessian": torch.zeros_like, "previous": torch.clone, "previous_grad": torch.zeros_like}
    full_precision = ("previous",)  # of which differences are taken: the parameter's, and the gradient's
    couples_groups = True
    uniform = ("beta2", "truncation", "initial_step", "exact", "first_probes", "seed")
    ranges = {
        "lr": STEP_SIZE,
        "beta2": MOMENTUM,
        "truncation": _POSITIVE,
        "initial_step": _POSITIVE,
        "weight_decay": WEIGHT_DECAY,
        "exact": Flag(),
        "first_probes": Integer(low=1),
        "seed": Integer(low=0),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1.0,
        beta2: float = 0.99,
        truncation: float = 1e-4,
        initial_step: float = 1e-3,
        weight_decay: float = 0.0,
        exact: bool = True,
        first_probes: int = 10,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "beta2": beta2,
            "truncation": truncation,
            "initial_step": initial_step,
            "weight_decay": weight_decay,
            "exact": exact,
            "first_probes": first_probes,
            "seed": seed,
        }
        super().__init__(params, settings, **common)

    def advance(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Take one step; parameters without a gradient are left alone.

        Args:
            closure: returns the loss with its graph, without calling backward. Required for ``exact=True``, where it is
                called twice from the second step on.
            loss: the value of the loss where there is no closure.
        """
        exact = self.param_groups[0]["exact"]
        if closure is not None:
            start, again = RandomState(self._all()), exact and self.steps_taken > 0
            self.zero_grad()
            with torch.enable_grad():
                found = closure()
                self.backward(found)
            loss = found.detach()
            if again and not self._look_back(closure, start):
                self.skipped_steps += 1
                return loss
        elif exact and (self.state or any(group["lr"] != 0 for group in self.param_groups)):
            # (Checkpoint tools make state by a step at a learning rate of zero, of a new optimizer.)
            raise TypeError("OASIS: exact=True evaluates two gradients per step: call step(closure)")
        self._begin(exact)
        skipped = self.skipped_steps
        super().advance(None, loss)
        if self.skipped_steps == skipped:
            for group in self.param_groups:
                group["absent"] = tuple(k for k, p in enumerate(group["params"]) if p.grad is None)
        return loss

    def _begin(self, exact: bool) -> None:
        """Tensors that took no part in the last step are compared with themselves: they have not moved."""
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                state = self.state.get(p)
                if not state or p.grad is None or not (state["step"] == 0 or index in group.get("absent", ())):
                    continue
                item = self.store.lend(p, state, group, "eager")
                kept = dict(zip(self.store.names(state), item.state, strict=True))
                kept["previous"].copy_(item.x)
                if not exact:
                    kept["previous_grad"].copy_(item.g)
                self.store.keep_state(self.algorithm, p, state, item, "eager")

    def _look_back(self, closure: Callable[[], Any], start: RandomState) -> bool:
        """Put the gradients of this mini-batch at the previous parameters in their place; whether they are usable."""
        places = [(group, p) for group in self.param_groups for p in group["params"]]
        params = [p for _, p in places]
        trained = [p for p in params if p.requires_grad]

        def differentiated() -> Any:
            found = closure()
            for p, g in zip(trained, derivatives("OASIS", found, trained), strict=True):
                p.grad = g
            return found

        held = [self.state[p]["previous"] if self.state.get(p) and p.grad is not None else None for p in params]
        _, there = gradients_at(differentiated, params, held, start)
        found = [g for g in there if g is not None]
        averaged = dict(zip(map(id, found), average_over_processes(found), strict=True))
        if self.nonfinite != "propagate" and not all(bool(torch.isfinite(g).all()) for g in averaged.values()):
            if self.nonfinite == "raise":
                raise FloatingPointError("OASIS: a gradient at the previous parameters is not finite")
            return False
        for (group, p), old, g in zip(places, held, there, strict=True):
            if old is not None:
                kept = self.state[p]["previous_grad"].zero_()
                if g is not None:
                    kept.add_(averaged[id(g)], alpha=-1 if group["maximize"] else 1)
        return True

    @staticmethod
    def measure(
        pieces: Pieces, settings: Mapping[str, Any], memory: Mapping[str, Any], loss: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The step size, from the movement and the change of the gradient of all tensors."""
        if not memory:
            return {"step_size": settings["initial_step"]}, {"step_size": settings["initial_step"], "ratio": math.inf}
        moved, changed = [], []
        for x, g, hessian, previous, previous_grad in pieces:
            metric = hessian.abs().clamp_min(settings["truncation"])
            moved.append((x.to(compute_dtype(x.dtype)) - previous).square() * metric)
            changed.append((g.to(compute_dtype(g.dtype)) - previous_grad).square() / metric)
        movement = total(moved)
        local = torch.sqrt(movement / total(changed)) / 2
        before, ratio = memory["step_size"], memory["ratio"]
        unknown = before if math.isinf(ratio) else before * math.sqrt(1 + ratio)
        limit = math.inf if math.isinf(ratio) else unknown
        known = torch.isfinite(local) & (local > 0)
        size = torch.where(known, local.clamp_max(limit), torch.full_like(local, unknown))
        size = torch.where(movement > 0, size, torch.full_like(size, before))
        return {"step_size": size}, {
            "step_size": size,
            "ratio": torch.where(movement > 0, size / before, torch.full_like(size, ratio)),
        }

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        hessian: Tensor,
        previous: Tensor,
        previous_grad: Tensor,
        *,
        lr: float,
        weight_decay: float,
        truncation: float,
        step_size: float,
    ) -> tuple[Tensor, ...]:
        direction = g / hessian.abs().clamp_min(truncation) + weight_decay * x
        return x - (lr * step_size) * direction, hessian, x, g


class OASISMomentum(_HutchinsonAverage):
    r"""OASIS with a fixed step size and momentum, :math:`t` from 1.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        D_t = \beta_2 D_{t-1} + (1 - \beta_2)\, z_t \odot H_t z_t \\
        x_t &= (1 - \eta\lambda)\, x_{t-1} - \eta\, \frac{m_t / (1 - \beta_1^t)}{\max(|D_t|, \alpha)}

    AdaHessian keeps the root mean square of the samples; this averages the signed samples, whose errors cancel, and
    takes the absolute value afterwards. :math:`\beta_1 = 0` gives the authors' method with a fixed step size. A step
    costs about two gradients. Train with ``optimizer.backward(loss)`` in place of ``loss.backward()``, or with
    ``step(closure)`` whose closure returns the loss without calling backward.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        truncation: :math:`\alpha > 0`, the smallest curvature.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        first_probes: random probes of the first estimate.
        seed: of the probes.
        common: as for :class:`OASIS`.

    Raises:
        RuntimeError: a step is taken although no curvature was ever estimated.

    Source: Jahani, Rusakov, Shi, Richtarik, Mahoney, Takac (2021), arXiv 2109.05198.
    """

    state_tensors = {"hessian": torch.zeros_like, "exp_avg": torch.zeros_like}
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "truncation": _POSITIVE,
        "weight_decay": WEIGHT_DECAY,
        "first_probes": Integer(low=1),
        "seed": Integer(low=0),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        truncation: float = 1e-3,
        weight_decay: float = 0.0,
        first_probes: int = 10,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "truncation": truncation,
            "weight_decay": weight_decay,
            "first_probes": first_probes,
            "seed": seed,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def decay(settings: Mapping[str, Any]) -> float:
        """Of the average of estimates."""
        return float(settings["betas"][1])

    @staticmethod
    def coefficients(step: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {"correction": 1 - settings["beta1"] ** step}

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        hessian: Tensor,
        exp_avg: Tensor,
        *,
        lr: float,
        beta1: float,
        truncation: float,
        weight_decay: float,
        correction: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        direction = exp_avg / correction / hessian.abs().clamp_min(truncation)
        return x - lr * (direction + weight_decay * x), hessian, exp_avg


_PAPER = Paper(
    "Jahani, Rusakov, Shi, Richtarik, Mahoney, Takac",
    2021,
    "Doubly Adaptive Scaled Algorithm for Machine Learning Using Second-Order Information",
    arxiv="2109.05198",
)

CARDS = (
    MethodCard(
        name="oasis",
        title="OASIS",
        room="optim",
        family="curvature",
        summary="A Hutchinson diagonal as preconditioner, and a step size from the change of the gradient.",
        target="steepest.optim.oasis:OASIS",
        papers=(_PAPER,),
        needs=frozenset({"gradient", "closure", "hvp"}),
        buffers=3,
        search={"truncation": Float(1e-7, 1e-1, log=True), "beta2": Float(0.95, 0.999)},
        tuning_free=True,
        claim="Without a learning rate to tune it is at least as fast as tuned first-order methods.",
    ),
    MethodCard(
        name="oasis-momentum",
        title="OASIS with momentum",
        room="optim",
        family="curvature",
        summary="Momentum over an averaged Hutchinson estimate of the Hessian diagonal, with a learning rate.",
        target="steepest.optim.oasis:OASISMomentum",
        papers=(_PAPER,),
        needs=frozenset({"gradient", "hvp"}),
        buffers=2,
        search={"lr": Float(1e-4, 1.0, log=True), "truncation": Float(1e-5, 1e-1, log=True)},
    ),
)
