"""SMB: a gradient step whose length and direction are corrected by a model where it does not decrease the loss."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.curvature import derivatives
from ..core.direction import DirectionOptimizer
from ..core.optimizer import Common, Parameters
from ..core.ranges import STEP_SIZE, Real
from ..core.rule import compute_dtype
from ..core.sharding import average_over_processes
from ..core.twopoint import RandomState, gradients_at

__all__ = ["CARD", "SMB"]


class SMB(DirectionOptimizer):
    r"""Stochastic model building: SGD that corrects a step which does not decrease the mini-batch loss enough.

    A trial :math:`s = -\alpha g` is taken where :math:`f(x + s) \le f(x) - c\, \alpha \|g\|^2`, on the same mini-batch
    and with the norm of all tensors. Otherwise, with the gradient :math:`g^+` at :math:`x + s` and :math:`y = g^+ - g`,
    every tensor takes the step that minimizes a quadratic model of its own:

    .. math::
        s' = -M^{-1} g, \qquad M = \frac{1}{\|s\|^2} \big( 2\sigma I + y s^\top + s y^\top \big), \qquad
        2\sigma = \|s\| \big( \|y\| + \|g\| / \eta \big) - y^\top s.

    :math:`M` is positive definite, its smallest eigenvalue is :math:`\|g\| / (\eta \|s\|)`, and so the new step is
    shorter than the trial: :math:`\|s'\| \le \eta \|s\|`. Since :math:`s` is a multiple of :math:`g`, the authors'
    closed form comes down to a weighted sum of both gradients, without a difference of nearly equal numbers in a
    denominator:

    .. math::
        s' = -\alpha\, \frac{(r + 1/\eta)\, g + y}{(2r + 1/\eta) / \eta}, \qquad r = \frac{\|y\|}{\|g\|}.

    ``step(closure)`` wants a closure that returns the loss and does *not* call backward: an accepted trial then costs
    two forward passes and one backward pass, a corrected one two of each. The second evaluation uses the same random
    numbers (dropout masks), and leaves no trace in buffers (statistics of batch norms). Neither momentum nor weight
    decay belongs to the method.

    Args:
        params: parameters, groups, named parameters or a module. Each tensor has a model of its own.
        lr: :math:`\alpha \ge 0`, the step size of the trial.
        eta: :math:`\eta` in (0, 1), how much shorter a corrected step is at least.
        c: :math:`c` in [0, 1), the demanded decrease; 0 demands any.
        common: ``maximize``, ``engine``, ``nonfinite``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`. Groups may differ in ``lr`` and ``eta``.

    Attributes:
        corrections: how many steps were corrected so far (not saved).

    Raises:
        TypeError: ``step`` is given no closure, or a parameter is complex.
        RuntimeError: the closure has called backward.

    The authors' code is right for one parameter group alone (evaluating the closure for the second one erases the
    gradients of the first); here all groups are tried together. Left out: the variant that builds the model on an
    independent mini-batch, and the rule that adapts the trial's step size.

    Source: Birbil, Martin, Onay, Oztoprak (2021), Bolstering Stochastic Gradient Descent with Model Building,
    arXiv 2111.07058.
    """

    uniform = ("maximize", "c")
    corrections: int = 0
    ranges = {
        "lr": STEP_SIZE,
        "eta": Real(low=0.0, high=1.0, low_open=True, high_open=True),
        "c": Real(low=0.0, high=1.0, high_open=True),
    }

    def __init__(
        self, params: Parameters, lr: float = 0.5, eta: float = 0.99, c: float = 0.1, **common: Unpack[Common]
    ) -> None:
        super().__init__(params, {"lr": lr, "eta": eta, "c": c}, **common)

    def directions(
        self,
        closure: Callable[[], Any],
        start: RandomState,
        loss: Tensor,
        params: Sequence[Tensor],
        gradients: Sequence[Tensor],
    ) -> list[Tensor] | None:
        """The gradients, or where the trial fails those corrected by the models."""
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        rates = [float(groups[id(p)]["lr"]) for p in params]
        sign, c = (-1 if self.param_groups[0]["maximize"] else 1), self.param_groups[0]["c"]
        wide = [g.to(compute_dtype(g.dtype)) for g in gradients]
        points = [
            (p.detach().to(g.dtype) - sign * rate * g).to(p.dtype)
            for p, g, rate in zip(params, wide, rates, strict=True)
        ]
        demanded = c * sum(rate * float(g.square().sum()) for g, rate in zip(wide, rates, strict=True))
        accepted = True

        def tried() -> Any:
            nonlocal accepted
            found = closure()
            here, there = (float(v) for v in average_over_processes([loss.detach(), found.detach()]))
            accepted = sign * there <= sign * here - demanded
            if not accepted:
                for p, g in zip(params, derivatives("SMB", found, params), strict=True):
                    p.grad = torch.zeros_like(p) if g is None else g
            return found

        _, after = gradients_at(tried, params, points, start)
        if accepted:
            return list(gradients)
        self.corrections += 1
        new = average_over_processes([g for g in after if g is not None])
        if self.nonfinite != "propagate" and not all(bool(g.isfinite().all()) for g in new):
            if self.nonfinite == "raise":
                raise FloatingPointError("SMB: a gradient at the trial point is not finite; nothing was changed")
            return None
        etas = [groups[id(p)]["eta"] for p in params]
        return [corrected(g, n.to(g.dtype), eta) for g, n, eta in zip(wide, new, etas, strict=True)]


def corrected(g: Tensor, new: Tensor, eta: float) -> Tensor:
    """The direction ``d`` of the corrected step ``-lr d``.

    Args:
        g, new: the gradients before and after the trial step ``-lr g``.
        eta: in (0, 1); ``|d| <= eta |g|``.
    """
    size = torch.linalg.vector_norm(g)
    y = new - g
    r = torch.linalg.vector_norm(y) / torch.where(size > 0, size, torch.ones_like(size))
    direction = ((r + 1 / eta) * g + y) / ((2 * r + 1 / eta) / eta)
    return torch.where(size > 0, direction, torch.zeros_like(g))


CARD = MethodCard(
    name="smb",
    title="SMB",
    room="optim",
    family="line search",
    summary="SGD that replaces a step by the minimizer of a model where the mini-batch loss does not decrease enough.",
    target="steepest.optim.smb:SMB",
    papers=(
        Paper(
            "Birbil, Martin, Onay, Oztoprak",
            2021,
            "Bolstering Stochastic Gradient Descent with Model Building",
            arxiv="2111.07058",
        ),
    ),
    needs=frozenset({"gradient", "closure", "graph"}),
    buffers=0,
    search={"lr": Float(3e-2, 10.0, log=True)},
    claim="Is robust to its learning rate, and no slower than SGD with the best one.",
)
