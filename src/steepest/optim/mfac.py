"""M-FAC: a natural gradient whose Fisher matrix is that of the last few gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.gram import GramSolver
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import MOMENTUM, STEP_SIZE, WEIGHT_DECAY, Integer, Real
from ..core.rule import add_scaled, compute_dtype
from ..core.sharding import full

__all__ = ["CARD", "MFAC"]


class MFAC(RuleOptimizer):
    r"""M-FAC: the inverse of a sliding empirical Fisher matrix times the gradient, without a :math:`d \times d` matrix.

    The rows of :math:`G \in \mathbb R^{m \times d}` are the last :math:`m` gradients of mini-batches, this step's
    :math:`g = \nabla f(x) + \omega x` in row :math:`k` included:

    .. math::
        F = \lambda I + \tfrac1m G^\top G, \qquad
        u = F^{-1} g = m\, G^\top (m \lambda I + G G^\top)^{-1} e_k, \qquad
        v \leftarrow \mu v + (1 - \mu) u, \qquad x \leftarrow x - \eta v

    Rows that have not been filled are zero, and the divisor stays :math:`m`. That :math:`g` is a row makes the product
    one combination of the rows, in place of the difference :math:`(g - G^\top c) / \lambda` of nearly equal vectors.
    :math:`G G^\top` is kept and gets a new row and column per step; the system of :math:`m` unknowns is solved in
    float64. A step reads the history twice, once for the products and once for the combination: :math:`2 m d` numbers,
    which is what it costs, besides :math:`m^3 / 3` operations.

    The tensors of a parameter group have one matrix :math:`F` together; every group has its own. A parameter without a
    gradient takes no part in that step: :math:`F` is that of the others, and its part of the new row is zero.

    Early on, :math:`F^{-1} g` is about :math:`g / (\lambda + \|g\|^2 / m)`: a longer history makes longer steps, so the
    learning rate must be tuned anew for another ``history_size``.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`.
        momentum: :math:`\mu` in [0, 1), of the steps; without bias correction.
        weight_decay: :math:`\omega \ge 0`, added to the gradient, and so part of the Fisher matrix.
        damping: :math:`\lambda > 0`.
        history_size: :math:`m \ge 1`, gradients that are kept. A tensor of :math:`n` elements keeps
            :math:`m (n + m) + n` numbers, 4 kB per parameter at the default of 1024.
        common: ``maximize``, ``engine``, ``nonfinite``, ``state_dtype``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`. All state stays in float32 at any
            ``state_dtype``.

    In the authors' code ``damp`` is :math:`\lambda` and ``lambd`` its inverse. Their recursion for the product equals
    this solve; their kernels serve multiples of 32 up to 1024 for :math:`m`. For the static form, from the gradients of
    single samples, see :class:`steepest.analyze.InverseFisher`.

    Source: Frantar, Kurtic, Alistarh (2021), M-FAC: Efficient Matrix-Free Approximations of Second-Order Information,
    arXiv 2107.03356.
    """

    granularity = "shaped"
    complex_as_real = False
    full_precision = ("history", "gram", "newest", "exp_avg")
    ranges = {
        "lr": STEP_SIZE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "damping": Real(low=0.0, low_open=True),
        "history_size": Integer(low=1),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        damping: float = 1e-5,
        history_size: int = 1024,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "damping": damping,
            "history_size": history_size,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The rows, their products within this tensor, the step of the newest row, and the average of the steps."""
        m = settings["history_size"]
        # Not x.new_zeros and zeros_like: of a sharded parameter the state is whole, and rows are contiguous.
        dtype, device = compute_dtype(x.dtype), x.device
        return {
            "history": torch.zeros((m, *x.shape), dtype=dtype, device=device),
            "gram": torch.zeros((m, m), dtype=dtype, device=device),
            "newest": torch.zeros((), dtype=dtype, device=device),
            "exp_avg": torch.zeros(x.shape, dtype=dtype, device=device),
        }

    @staticmethod
    def measure(
        pieces: Sequence[tuple[Tensor, ...]], settings: Mapping[str, Any], memory: Mapping[str, Any], loss: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write this step's row of every tensor, find the combination of the rows, and take it into the average.

        All in place: a history is hundreds of times the parameter, and a pure update would copy it in every step.
        """
        step, m = int(memory.get("steps", 0)) + 1, settings["history_size"]
        slot = (step - 1) % m
        total: Any = 0.0
        for x, g, history, gram, newest, _ in pieces:
            rows = history.view(m, g.numel())
            for missed in range(max(int(newest) + 1, step - m), step):
                # Others had a gradient then. What stands in the row is older than the history.
                rows[(missed - 1) % m] = 0
                gram[(missed - 1) % m] = gram[:, (missed - 1) % m] = 0
            history[slot] = full(g)
            if settings["weight_decay"]:
                history[slot].add_(full(x), alpha=settings["weight_decay"])
            gram[slot] = gram[:, slot] = rows @ rows[slot]
            newest.fill_(step)
            total = total + gram.to("cpu", torch.float64)
        weights = _combination(total, slot, settings["damping"])
        momentum = settings["momentum"]
        for _, g, history, _, _, exp_avg in pieces:
            rows, own = history.view(m, g.numel()), weights.to(history)
            exp_avg.view(-1).addmv_(rows.mT, own, beta=momentum, alpha=1 - momentum)
        return {}, {"steps": step}

    @staticmethod
    def rule(
        x: Tensor, g: Tensor, history: Tensor, gram: Tensor, newest: Tensor, exp_avg: Tensor, *, lr: float
    ) -> tuple[Tensor, ...]:
        return add_scaled(x, exp_avg, -lr), history, gram, newest, exp_avg

    @classmethod
    def functional(cls, **settings: Any) -> Any:
        """Not offered: the history is written in place.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{cls.__name__} has no functional form: its history is written in place")


def _combination(gram: Tensor, slot: int, damping: float) -> Tensor:
    """The weights of the rows in ``F^-1 g``, of their Gram matrix in float64; NaN where that is not finite."""
    if not bool(gram.isfinite().all()):
        return torch.full_like(gram[0], torch.nan)
    unit = torch.zeros_like(gram[0])
    unit[slot] = 1.0
    return len(gram) * GramSolver(gram, damping).coefficients(unit)


CARD = MethodCard(
    name="mfac",
    title="M-FAC",
    room="optim",
    family="curvature",
    summary="Natural gradient with the empirical Fisher matrix of the last m gradients, solved among themselves.",
    target="steepest.optim.mfac:MFAC",
    papers=(
        Paper(
            "Frantar, Kurtic, Alistarh",
            2021,
            "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
            arxiv="2107.03356",
        ),
    ),
    buffers=65,
    settings={"history_size": 64},
    search={"lr": Float(1e-4, 1.0, log=True), "damping": Float(1e-6, 1e-1, log=True)},
    claim="Trains to a higher accuracy than SGD with momentum and Adam, and prunes better than diagonal methods do.",
)
