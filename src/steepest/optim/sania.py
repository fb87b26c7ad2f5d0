"""SANIA: Polyak's step size in the norm of a preconditioner, for methods that do not feel the scales of coordinates."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from ..core.card import Choice, Integers, MethodCard, Paper
from ..core.curvature import hutchinson, hvp
from ..core.direction import DirectionOptimizer
from ..core.krylov import conjugate_gradients
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.random import signs
from ..core.ranges import EPSILON, MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Integer, OneOf, Real
from ..core.rule import compute_dtype, lerp
from ..core.sharding import average_over_processes, total
from ..core.twopoint import RandomState

__all__ = ["CARDS", "SANIA", "SANIANewton"]

Pieces = Sequence[tuple[Tensor, ...]]
_FINITE = Real()
_CAP = Real(low=0.0, low_open=True, infinite=True)


def polyak_factor(gap: Tensor, decrement: Tensor) -> Tensor:
    """The smaller root of ``gap - t decrement + t^2 decrement / 2``, or its minimizer 1 where there is none.

    Args:
        gap: the loss less the value that is aimed at; one that is not positive gives 0.
        decrement: ``<g, B^{-1} g>``; where it is 0 there is no direction, and the factor is 0.
    """
    u = torch.where(decrement > 0, gap.clamp_min(0.0) / decrement, torch.zeros_like(decrement))
    # 1 - sqrt(1 - 2u), without the cancellation of small u.
    return torch.where(2 * u <= 1, 2 * u / (1 + torch.sqrt((1 - 2 * u).clamp_min(0.0))), torch.ones_like(u))


class SANIA(RuleOptimizer):
    r"""SANIA AdaGrad-SQR and Adam-SQR: scale-invariant optimizers without a learning rate.

    The step is the shortest one, in the norm of a preconditioner :math:`B_t`, to where a quadratic model of the
    mini-batch loss with the curvature :math:`B_t` takes the value :math:`f^*`, or to the model's minimizer:

    .. math::
        x_{t+1} = x_t - \gamma \lambda_t B_t^{-1} g_t, \qquad
        \lambda_t = 1 - \sqrt{1 - 2 u_t} \ \text{ if } 2 u_t \le 1, \text{ else } 1, \qquad
        u_t = \frac{f_t - f^*}{g_t^\top B_t^{-1} g_t}

    with a diagonal of squared gradients, *without* the root of AdaGrad and Adam:

    .. math::
        \text{adagrad:}\quad B_t = \operatorname{diag} \sum_{s \le t} g_s^2, \qquad
        \text{adam:}\quad B_t = \operatorname{diag} \frac{v_t}{1 - \beta_2^t}, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2.

    Then :math:`B_t^{-1} g_t` has the units of :math:`1/g`, and the predictions of a linear model that starts from zero
    do not depend on the scales of its features. ``"identity"`` stands for :math:`B_t = I` and a linear model, with
    :math:`\lambda_t = u_t`: the stochastic Polyak step. :math:`g_t^\top B_t^{-1} g_t` is that of all tensors of all
    groups. Coordinates whose gradient has always been zero stay where they are.

    The step needs the loss: ``step(closure)``, or ``step(loss=loss)`` after ``backward``. It is that of the whole
    batch, so with several processes the mean over them (DDP averages gradients, not losses). The method believes in
    :math:`f^*`: where the mini-batch loss cannot get there (noise in the labels, regularization), its steps stay long.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: :math:`\gamma \ge 0`, a factor on the step, 1 for the method itself; schedules act on it.
        preconditioner: ``"adam"``, ``"adagrad"`` or ``"identity"``.
        beta2: :math:`\beta_2` in [0, 1), for ``"adam"``.
        f_star: :math:`f^*`, the smallest value of the mini-batch loss (the largest with ``maximize``).
        cap: the largest :math:`\lambda_t`; infinite for none. It matters for ``"identity"``, where it is the largest
            step size; the others stay below 1 by themselves.
        eps: the smallest entry of :math:`B_t`, at least 0. Any that matters destroys the invariance. Without it, a
            coordinate whose first gradient happens to be tiny takes a huge step, for its step is proportional to
            :math:`1/g`: a feature that is rare in the data, or a bias before a normalization, whose gradient is nothing
            but rounding. Give 1e-8 there, as the authors' experiments have it.
        weight_decay: decoupled weight decay, multiplied by ``lr``.
        common: ``maximize``, ``engine``, ``nonfinite``, ``state_dtype``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`. Groups may differ in ``lr`` and ``weight_decay`` alone.

    Raises:
        TypeError: ``step`` is told no loss.

    The authors' PyTorch classes sum :math:`g^\top B^{-1} g` over one parameter group at a time, accept a decay of
    momentum that they do not use, and floor :math:`B_t` at 0.1 (their experiments in NumPy add 1e-8); here the sum is
    over all groups, without momentum, and without a floor.

    Source: Abdukhakimov, Xiang, Kamzolov, Gower, Takac (2023), SANIA: Polyak-type Optimization Framework Leads to Scale
    Invariant Stochastic Algorithms, arXiv 2312.17369.
    """

    state_tensors = {"sum_sq": torch.zeros_like}
    static = ("preconditioner",)
    nonnegative = ("sum_sq",)
    couples_groups = True
    uniform = ("preconditioner", "beta2", "f_star", "cap", "eps", "maximize")
    ranges = {
        "lr": STEP_SIZE,
        "preconditioner": OneOf(("adam", "adagrad", "identity")),
        "beta2": MOMENTUM,
        "f_star": _FINITE,
        "cap": _CAP,
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1.0,
        preconditioner: Literal["adam", "adagrad", "identity"] = "adam",
        beta2: float = 0.999,
        f_star: float = 0.0,
        cap: float = math.inf,
        eps: float = 0.0,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "preconditioner": preconditioner,
            "beta2": beta2,
            "f_star": f_star,
            "cap": cap,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, settings, **common)

    def advance(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Take one step; parameters without a gradient are left alone.

        Args:
            closure: re-evaluates the model with gradients enabled and returns the loss; or
            loss: the loss whose gradients are present, a number or a tensor with one element.

        Returns:
            The loss.
        """
        if closure is None and loss is None:
            # Checkpoint tools make state by a step at a learning rate of zero, of a new optimizer.
            if self.state or any(group["lr"] != 0 for group in self.param_groups):
                raise TypeError(_NO_LOSS)
            loss = 1.0
        return super().advance(closure, loss)

    @staticmethod
    def measure(
        pieces: Pieces, settings: Mapping[str, Any], memory: Mapping[str, Any], loss: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Polyak's factor, of all tensors."""
        if loss is None:
            raise TypeError(_NO_LOSS)
        kind, beta2, eps = settings["preconditioner"], settings["beta2"], settings["eps"]
        count = memory.get("count", 0) + 1
        parts = []
        for _, g, sum_sq in pieces:
            g = g.to(compute_dtype(g.dtype))
            weight = _correction(kind, beta2, count)
            parts.append(g * _direction(g, _accumulated(g, sum_sq, kind, beta2), weight, eps, kind))
        decrement = total(parts)
        value = torch.as_tensor(loss, dtype=decrement.dtype, device=decrement.device).reshape(())
        gap = (settings["f_star"] - value) if settings["maximize"] else (value - settings["f_star"])
        if kind == "identity":
            factor = torch.where(decrement > 0, gap.clamp_min(0.0) / decrement, torch.zeros_like(decrement))
        else:
            factor = polyak_factor(gap, decrement)
        return {"factor": factor.clamp_max(settings["cap"]), "weight": _correction(kind, beta2, count)}, {
            "count": count
        }

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        sum_sq: Tensor,
        *,
        lr: float,
        preconditioner: str,
        beta2: float,
        eps: float,
        weight_decay: float,
        factor: float,
        weight: float,
    ) -> tuple[Tensor, Tensor]:
        sum_sq = _accumulated(g, sum_sq, preconditioner, beta2)
        direction = _direction(g, sum_sq, weight, eps, preconditioner)
        return x - lr * (factor * direction + weight_decay * x), sum_sq


_NO_LOSS = "SANIA needs the loss: call step(closure) with a closure that returns it, or step(loss=loss)"


def _accumulated(g: Tensor, sum_sq: Tensor, kind: str, beta2: float) -> Tensor:
    if kind == "identity":
        return sum_sq
    return sum_sq + g * g if kind == "adagrad" else lerp(sum_sq, g * g, 1 - beta2)


def _correction(kind: str, beta2: float, count: Any) -> float:
    """The bias correction counts the optimizer's steps: one common factor keeps the metric one of all tensors."""
    return float(1 - beta2**count) if kind == "adam" else 1.0


def _direction(g: Tensor, sum_sq: Tensor, weight: float, eps: float, kind: str) -> Tensor:
    if kind == "identity":
        return g
    metric = torch.clamp_min(sum_sq / weight, eps)
    return torch.where(metric > 0, g / torch.where(metric > 0, metric, 1.0), 0.0)


class SANIANewton(DirectionOptimizer):
    r"""SANIA with the Hessian of the mini-batch as preconditioner: Newton's direction with Polyak's step.

    .. math::
        H_t s_t \approx g_t, \qquad x_{t+1} = x_t - \gamma \lambda_t s_t

    with :math:`\lambda_t` as for :class:`SANIA`, of :math:`u_t = (f_t - f^*) / g_t^\top s_t`. The system is solved by
    conjugate gradients with Hessian-vector products, at most ``max_products`` of them; solved exactly, the step is
    invariant under linear maps of the parameters. Products end where the curvature along a search direction is not
    positive; if that is so of the gradient itself, :math:`s_t` is the gradient's multiple with the curvature's absolute
    value, :math:`g\, \|g\|^2 / |g^\top H g|`.

    ``step(closure)`` wants a closure that returns the loss and does not call backward.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: :math:`\gamma \ge 0`, a factor on the step, 1 for the method itself.
        max_products: Hessian-vector products per step for the system, at least 1.
        tolerance: of the system's residual, relative to the gradient's norm.
        damping: added to the Hessian's diagonal, at least 0.
        probes: Rademacher probes per step for a Hutchinson estimate of the Hessian's diagonal, which preconditions the
            conjugate gradients; each costs another product. 0 for none.
        f_star: :math:`f^*`, the smallest value of the mini-batch loss.
        seed: of the probes.
        common: ``engine``, ``nonfinite``, ``rounding``: see :class:`~steepest.core.optimizer.RuleOptimizer`.

    Raises:
        TypeError: ``step`` is given no closure.
        RuntimeError: the closure has called backward.

    Source: Abdukhakimov, Xiang, Kamzolov, Gower, Takac (2023), arXiv 2312.17369. The paper leaves the accuracy of the
    solution, and what to do about negative curvature, open.
    """

    twice = True
    uniform = ("maximize", "max_products", "tolerance", "damping", "probes", "f_star", "seed")
    ranges = {
        "lr": STEP_SIZE,
        "max_products": Integer(low=1),
        "tolerance": Real(low=0.0),
        "damping": Real(low=0.0),
        "probes": Integer(low=0),
        "f_star": _FINITE,
        "seed": Integer(low=0),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1.0,
        max_products: int = 10,
        tolerance: float = 1e-3,
        damping: float = 0.0,
        probes: int = 0,
        f_star: float = 0.0,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "max_products": max_products,
            "tolerance": tolerance,
            "damping": damping,
            "probes": probes,
            "f_star": f_star,
            "seed": seed,
        }
        super().__init__(params, settings, **common)

    def directions(
        self,
        closure: Callable[[], Any],
        start: RandomState,
        loss: Tensor,
        params: Sequence[Tensor],
        gradients: Sequence[Tensor],
    ) -> list[Tensor] | None:
        """Polyak's factor times the solution of Newton's system."""
        group = self.param_groups[0]
        sign = -1.0 if group["maximize"] else 1.0  # maximizing is minimizing the negative

        def split(vector: Tensor) -> list[Tensor]:
            parts = vector.split([p.numel() for p in params])
            return [part.view(p.shape).to(p.dtype) for part, p in zip(parts, params, strict=True)]

        def product(vector: Tensor) -> Tensor:
            self.hessian_products += 1
            image = average_over_processes(hvp(gradients, params, split(vector)))
            return sign * _joined(image) + group["damping"] * vector

        g = sign * _joined(average_over_processes([gradient.detach() for gradient in gradients]))
        solution = conjugate_gradients(
            product, g, group["tolerance"], group["max_products"], self._diagonal(params, gradients)
        )
        if not bool(solution.any()):
            curvature = (g @ product(g)).abs()
            solution = torch.where(curvature > 0, g * (g @ g / curvature), g)
        [mean] = average_over_processes([sign * loss.detach().to(g.dtype).reshape(())])
        factor = polyak_factor(mean - sign * group["f_star"], g @ solution)
        return split(sign * factor * solution)

    def _diagonal(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor | None:
        group = self.param_groups[0]
        count = int(group["probes"])
        if not count:
            return None
        step = max((int(state["step"]) for state in self.state.values()), default=0)
        found = []
        for number in range(count):
            vectors = [signs(p.detach(), group["seed"], step, number, index) for index, p in enumerate(params)]
            found.append(_joined(average_over_processes(hutchinson(gradients, params, vectors))))
        self.hessian_products += count
        diagonal = torch.stack(found).mean(0).abs() + group["damping"]
        # Coordinates without curvature in the sample are left to the others' scale.
        return torch.where(diagonal > 0, diagonal, diagonal.mean().clamp_min(torch.finfo(diagonal.dtype).tiny))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1).to(compute_dtype(t.dtype)) for t in tensors])


_PAPER = Paper(
    "Abdukhakimov, Xiang, Kamzolov, Gower, Takac",
    2023,
    "SANIA: Polyak-type Optimization Framework Leads to Scale Invariant Stochastic Algorithms",
    arxiv="2312.17369",
)

CARDS = (
    MethodCard(
        name="sania",
        title="SANIA",
        room="optim",
        family="adaptive",
        summary="Polyak's step size in the metric of squared gradients: the scales of the features do not matter.",
        target="steepest.optim.sania:SANIA",
        papers=(_PAPER,),
        needs=frozenset({"gradient", "closure"}),
        buffers=1,
        search={
            "preconditioner": Choice(("adam", "adagrad")),
            "beta2": Choice((0.9, 0.99, 0.999)),
            "eps": Choice((0.0, 1e-10, 1e-8, 1e-6, 1e-4)),
        },
        settings={"eps": 1e-8},  # of the authors' experiments: comparisons have networks, and features that are rare
        tuning_free=True,
        claim="Runs alike whatever the scales of the features, and competes with tuned optimizers without a step size.",
    ),
    MethodCard(
        name="sania-newton",
        title="SANIA Newton",
        room="optim",
        family="curvature",
        summary="Newton's direction by conjugate gradients on the mini-batch's Hessian, with Polyak's step size.",
        target="steepest.optim.sania:SANIANewton",
        papers=(_PAPER,),
        needs=frozenset({"gradient", "closure", "hvp"}),
        buffers=0,
        search={"max_products": Integers(2, 20), "probes": Integers(0, 1)},
        tuning_free=True,
    ),
)
