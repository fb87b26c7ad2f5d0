"""FRUGAL: Adam on a small part of the gradient, a step without state on the rest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from ..core.adamw import ADAMW
from ..core.card import Float, MethodCard, Paper
from ..core.functional import Functional
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY, Integer, OneOf, Real
from ..core.rule import Rule, lerp
from ..core.subspace import down, drawn, leading, rest, share, up

__all__ = ["CARD", "FRUGAL"]

Projection = Literal["block", "columns", "random", "svd"]


class FRUGAL(RuleOptimizer):
    r"""FRUGAL (Full-Rank Updates with GrAdient spLitting): every direction moves at each step, few of them keep state.

    The gradient of a hidden weight matrix :math:`X \in \mathbb R^{m \times n}` (convolutions as ``out x (in *
    kernel)``) is split by a projection :math:`P` that is chosen anew every ``gap`` steps. Its image follows Adam, in
    coordinates of the projected size, and the rest a rule without state. With :math:`s` the number of steps since
    :math:`P` was chosen:

    .. math::
        \hat g_t &= P g_t, \qquad r_t = g_t - P^\top \hat g_t \\
        \hat m_t &= \beta_1 \hat m_{t-1} + (1 - \beta_1) \hat g_t, \qquad
        \hat v_t = \beta_2 \hat v_{t-1} + (1 - \beta_2) \hat g_t^2 \qquad (\hat m, \hat v \leftarrow 0
        \text{ with each new } P) \\
        X_t &= (1 - \eta\lambda) X_{t-1} - \eta\, P^\top \frac{\hat m_t / (1 - \beta_1^s)}{\sqrt{\hat v_t /
        (1 - \beta_2^s)} + \varepsilon} - \eta f \operatorname{sign}(r_t)

    The statistics then take :math:`2\rho` numbers per entry of the matrices, :math:`\rho` being the density, and no
    more: columns and entries are drawn from (``seed``, period, shape) and need not be stored. ``density=1`` is AdamW
    that forgets every ``gap`` steps, ``density=0`` is signSGD.

    Embeddings, the output head, norms, biases and scalars follow AdamW with the same settings. Pass the whole model and
    :func:`~steepest.core.routing.route` sorts its parameters (``optimizer.routing`` prints what went where), or pass
    groups and mark those for AdamW with ``rule="adamw"``. In small models these, not the matrices, fill the memory.

    Args:
        params: the model; or matrices, or parameter groups with ``rule="frugal"`` (default) or ``rule="adamw"``.
        lr: learning rate :math:`\eta \ge 0`, of all parts.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\varepsilon \ge 0`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by the learning rate; it acts on all
            parameters, with or without state.
        projection: ``"block"``: whole matrices in turn, from the last to the first, so that in the mean over the
            periods the share ``density`` of them is active; those that are not hold empty state. ``"columns"``: random
            columns (inputs) of every matrix. ``"random"``: random entries of every matrix; each step draws a
            permutation of them anew, so prefer columns. ``"svd"``: the leading singular vectors of the current
            gradient on the shorter side, as GaLore has them; they are stored besides (:math:`\rho \min(m, n)^2`).
            Unless ``density`` is 0 there is at least one column, entry or singular vector; equal shapes draw alike.
        density: :math:`\rho` in [0, 1]; fixed once a parameter has taken a step.
        gap: steps between changes of the projection, at least 1, counted by each parameter for itself.
        state_free: the rule of the rest: ``"sign"`` as above; ``"sgd"``: :math:`-\eta f r_t`; ``"none"``: the rest is
            dropped, which with ``"svd"`` is GaLore (at scale 1, with a reset) and with ``"block"`` a form of BAdam.
        free_scale: :math:`f \ge 0`; 1 for pre-training, 0.1 for fine-tuning.
        seed: of the columns and entries.
        routing: ``{pattern: role}`` to override where a model's parameters go.
        common: ``maximize``, ``engine``, ``nonfinite``, ``state_dtype``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`. Statistics of the projected size stay in float32, and every
            process of a sharded run holds them whole.

    Raises:
        ValueError: a tensor with fewer than two dimensions is in a group of matrices; the functional form of
            ``"block"``, which has no order of tensors, is asked for.

    The authors' code resets the statistics as above (the paper also allows to project the old ones anew). It rounds the
    number of active blocks; here the order goes on cyclically, so that :math:`\lceil 1/\rho \rceil` periods visit every
    matrix. It moves along rounding errors where the singular vectors leave no rest (a gradient of low rank); here a
    rest below the rounding error is 0.

    State dicts of ``"block"`` hold tensors of other sizes in other periods, so ``torch.distributed.checkpoint``, which
    loads into a template, serves the other projections only.

    Source: Zmushko, Beznosikov, Takac, Horvath (2024), FRUGAL: Memory-Efficient Optimization by Reducing State Overhead
    for Scalable Training, arXiv 2411.07837.
    """

    granularity = "matrix"
    complex_as_real = False
    static = ("projection", "state_free", "seed", "period", "refresh")
    nonnegative = ("exp_avg_sq",)
    fallback = ADAMW
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "projection": OneOf(("block", "columns", "random", "svd")),
        "density": Real(low=0.0, high=1.0),
        "gap": Integer(low=1),
        "state_free": OneOf(("sign", "sgd", "none")),
        "free_scale": Real(low=0.0),
        "seed": Integer(low=0),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        projection: Projection = "block",
        density: float = 0.25,
        gap: int = 200,
        state_free: Literal["sign", "sgd", "none"] = "sign",
        free_scale: float = 1.0,
        seed: int = 0,
        *,
        routing: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "projection": projection,
            "density": density,
            "gap": gap,
            "state_free": state_free,
            "free_scale": free_scale,
            "seed": seed,
        }
        super().__init__(params, settings, routing=routing, **common)

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        rows, columns = (*x.shape[:1], x.shape[1:].numel()) if x.dim() else (1, 1)
        projection, density = settings["projection"], settings["density"]
        basis: dict[str, tuple[int, ...]] = {}
        if projection == "block":
            shape: tuple[int, ...] = tuple(x.shape) if density and settings.get("active", True) else (0,)
        elif projection == "columns":
            shape = (rows, share(columns, density))
        elif projection == "random":
            shape = (1, share(rows * columns, density))
        else:
            rank = share(min(rows, columns), density)
            right = rows >= columns
            shape = (rows, rank) if right else (rank, columns)
            basis = {"basis": (rank, columns) if right else (rows, rank)}
        return {
            name: torch.zeros_like(x) if size == x.shape else torch.zeros(size, dtype=x.dtype, device=x.device)
            for name, size in {"exp_avg": shape, "exp_avg_sq": shape, **basis}.items()
        }

    @staticmethod
    def coefficients(step: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        period, since = divmod(step - 1, settings["gap"])
        return {
            "period": period,
            "refresh": since == 0,
            "correction1": 1 - settings["beta1"] ** (since + 1),
            "correction2": 1 - settings["beta2"] ** (since + 1),
        }

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *basis: Tensor,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        free_scale: float,
        correction1: float,
        correction2: float,
        projection: str,
        state_free: str,
        seed: int,
        period: int,
        refresh: bool,
    ) -> tuple[Tensor, ...]:
        x = x - lr * weight_decay * x
        if not exp_avg.numel():
            return x - lr * free_scale * _free(g, state_free), exp_avg, exp_avg_sq, *basis
        if projection == "svd" and refresh:
            basis = (leading(g, min(basis[0].shape[-2:])),)
        if refresh:
            exp_avg, exp_avg_sq = torch.zeros_like(exp_avg), torch.zeros_like(exp_avg_sq)
        index: Tensor | None = None
        if projection in ("columns", "random"):
            seen = g if projection == "columns" else g.flatten(-2).unsqueeze(-2)
            index = drawn(seen.shape[-1], exp_avg.shape[-1], g, seed, period)
            low = seen.index_select(-1, index)
        elif projection == "svd":
            low = down(g, *basis)
        else:
            low = g
        exp_avg = lerp(exp_avg, low, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * low * low
        step = (1 / correction1) * exp_avg / (torch.sqrt((1 / correction2) * exp_avg_sq) + eps)
        if index is not None:
            # Zeros where there is state: the rule of the rest leaves them alone.
            free = free_scale * _free(seen.index_fill(-1, index, 0.0), state_free)
            step = free.index_copy(-1, index, step.to(free.dtype)).reshape(x.shape)
        elif projection == "svd":
            step = up(step, *basis) + free_scale * _free(rest(g, low, *basis), state_free)
        return x - lr * step, exp_avg, exp_avg_sq, *basis

    # ---------------------------------------------------------------------------------------- blocks

    def _buckets(self, rule: Rule, group: Mapping[str, Any], params: list[Tensor]) -> dict[Any, list[Tensor]]:
        """Where a block's period begins, its matrices get fresh state and the others give theirs up."""
        if rule is not self.algorithm or group["projection"] != "block":
            return super()._buckets(rule, group, params)
        found = super()._buckets(rule, {**group, "active": False}, params)
        order: list[Tensor] | None = None
        for p in params:
            state = self.state[p]
            period, since = divmod(state["step"] - 1, group["gap"])
            if since == 0:
                order = self._order() if order is None else order
                active = is_active(_place(order, p), len(order), group["density"], period)
                fresh = self.store.begin(rule, p, {**group, "active": active})
                # Entries of the storage, such as what rounding lost of the parameter, go on.
                kept = {k: v for k, v in state.items() if k == "step" or k.startswith("parameter:")}
                state.clear()
                state.update({**fresh, **kept})
        return found

    def _order(self) -> list[Tensor]:
        """The matrices in the order in which they take turns: from the last to the first."""
        blocks = [h for h in self.param_groups if h["rule"] == self.algorithm.name and h["projection"] == "block"]
        return [p for h in blocks for p in h["params"]][::-1]

    def state_settings(self, p: Tensor, group: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
        held = entry.get("exp_avg")
        return {**group, "active": not isinstance(held, Tensor) or held.shape != (0,)}

    @classmethod
    def functional(cls, **settings: Any) -> Functional:
        """See :meth:`~steepest.core.optimizer.RuleOptimizer.functional`; not for blocks, which take turns."""
        if settings.get("projection", "block") == "block" and 0 < settings.get("density", 0.25) < 1:
            raise ValueError(
                "FRUGAL: the functional form has no order of tensors; give another projection than 'block'"
            )
        return super().functional(**settings)


def is_active(place: int, count: int, density: float, period: int) -> bool:
    """Whether the block at this place of the cyclic order is active in a period, counted from 0."""
    first, end = (math.ceil(round(count * density * k, 6)) for k in (period, period + 1))
    return (place - first) % count < end - first


def _place(order: Sequence[Tensor], p: Tensor) -> int:
    return next(place for place, candidate in enumerate(order) if candidate is p)


def _free(rest: Tensor, rule: str) -> Tensor:
    if rule == "sign":
        return torch.sign(rest)
    return rest if rule == "sgd" else torch.zeros_like(rest)


CARD = MethodCard(
    name="frugal",
    title="FRUGAL",
    room="optim",
    family="memory",
    summary="Adam on a small, changing part of every gradient and signSGD on the rest; a quarter of Adam's state.",
    target="steepest.optim.frugal:FRUGAL",
    papers=(
        Paper(
            "Zmushko, Beznosikov, Takac, Horvath",
            2024,
            "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
            arxiv="2411.07837",
        ),
    ),
    buffers=0.5,
    search={"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)},
    takes_model=True,
    claim="At a quarter of Adam's state, loses less than half as much to AdamW as GaLore does.",
)
