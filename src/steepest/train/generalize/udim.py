"""UDIM: sharpness-aware training that also makes the loss landscape agree on perturbed copies of the data."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from steepest.core import tree
from steepest.core.card import Float, MethodCard, Paper
from steepest.core.ranges import Integer, OneOf, Real, check_settings
from steepest.core.twopoint import RandomState, gradients_at

from .linear_head import check_linear, residuals

__all__ = ["CARD", "UDIM", "inconsistency"]

#: Added to norms that are divided by, as in the authors' code.
_EPS = 1e-12
_RANGES = {
    "rho": Real(low=0.0),
    "penalty": Real(low=0.0),
    "step_size": Real(low=0.0),
    "perturbation": OneOf(("pixel", "style")),
    "normalize": OneOf(("sample", "batch")),
    "warmup": Integer(0),
}


class UDIM:
    r"""Unknown domain inconsistency minimization, over any optimizer.

    A classifier is a body and a linear head. In each step, with the loss :math:`L(\theta; x)` of a batch, its gradient
    ``g``, the perturbation :math:`\epsilon = \rho g / \|g\|` of SAM, and the ascent on
    :math:`A(x) = L(\theta; x) + \rho \|g\|` (the worst loss near :math:`\theta`, to first order),

    .. math::
        x' &= x + \eta \, \nabla_x A / \|\nabla_x A\| \quad \text{for each sample} \\
        G &= \nabla_\theta L(\theta + \epsilon; x) + \lambda \nabla_\theta I(\theta; x, x')

    and the optimizer steps with ``G``. The inconsistency ``I`` compares gradients of single samples with respect to the
    head, :func:`inconsistency`. With :math:`\lambda = 0` this is SAM.

    All passes over a batch draw the same dropout masks, and batch norms count it once.

    .. code-block:: python

        method = UDIM(body, head, torch.optim.Adam(model.parameters(), lr=3e-5))
        for inputs, targets in batches:
            loss = method.step(inputs, targets)

    Args:
        body: maps inputs to features ``(n, d)``.
        head: a ``torch.nn.Linear`` from features to logits.
        optimizer: over parameters of both; those it does not hold are not perturbed either.
        rho: radius of the perturbation of the parameters, a length; 0.05.
        penalty: :math:`\lambda`, the weight of the inconsistency; 1 in the authors' scripts.
        step_size: :math:`\eta`; 10 in their scripts. For pixels with ``normalize="sample"``: how far each sample is
            moved, as the Euclidean length over all its entries.
        perturbation: ``"pixel"`` moves all entries of an input; ``"style"`` the mean and standard deviation of each
            channel of each image ``(n, c, ...)``, by one step of gradient ascent (for a single source domain).
        normalize: of the ascent on pixels. ``"batch"`` is what their code does: a unit length over the *batch* at each
            pixel, so that a sample's perturbation depends on the others.
        warmup: steps of plain SAM before the penalty sets in; theirs is a fifth to a third of all.

    Raises:
        ValueError, TypeError: a setting is out of range, the head is not linear, or the inputs of ``"style"`` have no
            channels.

    Source: Shin, Bae, Na, Kim, Moon (2024), Unknown Domain Inconsistency Minimization for Domain Generalization,
    arXiv 2403.07329. The general form of the paper maximises over perturbed data and nearby parameters; this is the
    surrogate that their code minimises, with the normalization of pixels per sample.
    """

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        optimizer: Optimizer,
        *,
        rho: float = 0.05,
        penalty: float = 1.0,
        step_size: float = 10.0,
        perturbation: Literal["pixel", "style"] = "pixel",
        normalize: Literal["sample", "batch"] = "sample",
        warmup: int = 0,
    ) -> None:
        check_linear("UDIM", head)
        self.rho, self.penalty, self.step_size = rho, penalty, step_size
        self.perturbation, self.normalize, self.warmup = perturbation, normalize, warmup
        check_settings("UDIM", {name: getattr(self, name) for name in _RANGES}, _RANGES)
        self.body, self.head, self.optimizer = body, head, optimizer
        self.steps = 0

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take one step on a batch; the loss at the parameters before it, without a graph.

        ``.grad`` holds the combined gradient afterwards; what it held before does not count.

        Raises:
            ValueError: the optimizer holds no parameter of the network, or inputs cannot be perturbed.
        """
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        if not params:
            raise ValueError("UDIM: optimizer must hold a parameter that trains, it holds none")
        penalized = self.penalty > 0 and self.steps >= self.warmup
        if penalized and not inputs.is_floating_point():
            raise ValueError(f"UDIM: inputs must be floating-point numbers, which can be perturbed, got {inputs.dtype}")
        start = RandomState(params)
        x = inputs.detach().requires_grad_(penalized)
        features = self.body(x)
        logits = self.head(features)
        loss = functional.cross_entropy(logits, targets)
        g = torch.autograd.grad(loss, params, create_graph=penalized, allow_unused=True)
        if all(v is None for v in g):
            raise ValueError("UDIM: optimizer must hold a parameter of body or head, it holds others alone")
        length = tree.norm([v for v in g if v is not None])
        points = [
            None if v is None else p.detach() + self.rho * v.detach() / (length.detach() + _EPS)
            for p, v in zip(params, g, strict=True)
        ]
        second: Sequence[Tensor | None] = [None] * len(params)

        def put(value: Tensor) -> None:
            # Not backward(): parameters that the optimizer does not hold would gather gradients that nobody clears.
            for p, v in zip(params, torch.autograd.grad(value, params, allow_unused=True), strict=True):
                p.grad = v

        if penalized:
            # Before SAM's own gradient: it moves the parameters in place, which the graphs here would not survive.
            (ascent,) = torch.autograd.grad(loss + self.rho * length, x, retain_graph=True)
            moved = self.perturbed(inputs, ascent)

            def penalize() -> None:
                there = self.body(moved)
                put(inconsistency(self.head, (features, logits), (there, self.head(there)), targets))

            _, second = gradients_at(penalize, params, [None] * len(params), start)

        def source() -> None:
            put(functional.cross_entropy(self.head(self.body(inputs)), targets))

        _, first = gradients_at(source, params, points, start)
        for p, a, b in zip(params, first, second, strict=True):
            p.grad = a if b is None else (self.penalty * b if a is None else a + self.penalty * b)
        self.optimizer.step()
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def perturbed(self, inputs: Tensor, ascent: Tensor) -> Tensor:
        """The copies of the inputs that stand for an unknown domain.

        Args:
            inputs: a batch.
            ascent: the gradient of ``A`` with respect to it.
        """
        if self.perturbation == "style":
            if inputs.dim() < 3:
                raise ValueError(
                    f"UDIM: inputs must have the shape (n, channels, ...) for perturbation='style', got "
                    f"{tuple(inputs.shape)}"
                )
            over = tuple(range(2, inputs.dim()))
            mean = inputs.mean(over, keepdim=True)
            scale = (inputs.var(over, keepdim=True) + 1e-6).sqrt()
            plain = (inputs - mean) / scale
            # Chain rule through plain * scale + mean.
            mean = mean + self.step_size * ascent.sum(over, keepdim=True)
            scale = scale + self.step_size * (ascent * plain).sum(over, keepdim=True)
            return plain * scale + mean
        over = tuple(range(1, inputs.dim())) if self.normalize == "sample" else (0,)
        length = torch.linalg.vector_norm(ascent, dim=over, keepdim=True)
        return inputs + self.step_size * ascent / (length + _EPS)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state and the number of steps."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def inconsistency(
    head: nn.Linear, source: tuple[Tensor, Tensor], perturbed: tuple[Tensor, Tensor], targets: Tensor
) -> Tensor:
    r"""How much the head's gradients of single samples differ between source and perturbed samples.

    With the gradients :math:`g_i` and :math:`g'_i` of a sample and its copy in the head's weight and bias, and the mean
    :math:`\bar g` over the source,

    .. math::
        v = \tfrac1n \sum_i (g_i - \bar g)^2, \qquad v' = \tfrac1n \sum_i (g'_i - \bar g)^2, \qquad
        I = \tfrac14 \operatorname{mean} (v - v')^2 + \sum_{W, b} \tfrac1n \sum_i \operatorname{mean} (g'_i)^2

    where ``mean`` is over entries, in the first term over those of weight and bias together. (The first term is that
    of Fishr, for two domains, with the source's mean for both.) Gradients of single samples are not formed:
    :math:`\sum_i g_i^2 = (R^2)^\top H^2` for residuals ``R`` and features ``H``.

    Args:
        head: whether it has a bias.
        source, perturbed: features ``(n, d)`` and logits ``(n, c)`` of both.
        targets: class numbers ``(n,)``.
    """

    def moments(features: Tensor, logits: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        r, count = residuals(logits, targets), len(targets)
        means, squares = [r.T @ features / count], [r.square().T @ features.square() / count]
        if head.bias is not None:
            means.append(r.mean(0))
            squares.append(r.square().mean(0))
        return means, squares

    (m, q), (m_there, q_there) = moments(*source), moments(*perturbed)
    gap = [(b - 2 * c * d + c.square()) - (a - c.square()) for a, b, c, d in zip(q, q_there, m, m_there, strict=True)]
    norms = torch.stack([b.mean() for b in q_there]).sum()
    return 0.25 * tree.ravel(gap).square().mean() + norms


CARD = MethodCard(
    name="udim",
    title="UDIM",
    room="generalize",
    family="sharpness",
    summary="SAM with a penalty on how per-sample gradients of the head differ between the data and worst-case copies.",
    target="steepest.train.generalize.udim:UDIM",
    papers=(
        Paper(
            "Shin, Bae, Na, Kim, Moon",
            2024,
            "Unknown Domain Inconsistency Minimization for Domain Generalization",
            arxiv="2403.07329",
            venue="ICLR 2024",
        ),
    ),
    needs=frozenset({"gradient", "hvp"}),
    buffers=0,
    search={
        "rho": Float(0.01, 0.5, log=True),
        "penalty": Float(0.1, 10.0, log=True),
        "step_size": Float(0.1, 30.0, log=True),
    },
    usage="loss = steepest.train.generalize.UDIM(body, head, optimizer).step(inputs, targets)",
    claim="Making the loss landscape agree between the data and worst-case perturbed copies of them generalizes better "
    "to unseen domains than SAM does, most of all from a single source domain.",
)
