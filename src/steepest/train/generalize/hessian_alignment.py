"""Hessian alignment (HGP and Hutchinson): a penalty on how the head's derivatives differ between environments."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from steepest.core.card import Float, MethodCard, Paper
from steepest.core.random import signs
from steepest.core.ranges import Integer, OneOf, Real, check_settings

from .linear_head import design, residuals

__all__ = ["CARD", "AlignmentTerms", "HessianAlignment"]

_RANGES = {
    "alpha": Real(low=0.0),
    "beta": Real(low=0.0),
    "method": OneOf(("hgp", "hutchinson")),
    "probes": Integer(1, optional=True),
    "seed": Integer(0),
}
Loss = Callable[[Tensor, Tensor], Tensor]


class AlignmentTerms(NamedTuple):
    """The parts of the objective, before they are weighted: 0-dim tensors with their graphs."""

    risk: Tensor
    hessian: Tensor
    gradient: Tensor


class HessianAlignment(nn.Module):
    r"""Hessian alignment: train so that the classifier head has the same gradient and Hessian in all environments.

    With the losses :math:`L_e` of ``E`` environments as functions of the head's parameters, their gradients
    :math:`g_e` and Hessians :math:`H_e`, and :math:`\bar g`, :math:`\bar H` those of the mean loss,

    .. math::
        \frac1E \sum_e L_e + \alpha P_H + \beta P_g, \qquad P_g = \sum_e \|g_e - \bar g\|^2,

    - ``"hgp"`` (Hessian-gradient product): :math:`P_H = \sum_e \|H_e g_e - \bar H \bar g\|^2`;
    - ``"hutchinson"``: :math:`P_H = \sum_e \|D_e - \bar D\|^2` with the diagonals :math:`D_e` of the Hessians, exact or
      estimated as the mean of :math:`z \odot H_e z` over random signs ``z`` that all environments share. With ``K``
      probes the penalty is in the mean the exact one plus :math:`1/K` times the squares of all other entries of
      :math:`H_e - \bar H`: a single probe compares the whole Hessians by their Frobenius norm.

    Both terms are differentiable in the features, so the whole network is trained by them. For a ``torch.nn.Linear``
    head under ``functional.cross_entropy`` (targets: class numbers) or ``functional.binary_cross_entropy_with_logits``
    they have a closed form, without second derivatives; any other head or loss is differentiated twice.

    .. code-block:: python

        alignment = HessianAlignment(alpha=1e-4, beta=5e-3)
        loss = alignment(head, [body(x) for x, _ in environments], [y for _, y in environments])
        loss.backward()

    On Colored MNIST the authors anneal: ``alpha = beta = 1`` for 190 of 501 steps, then 91257 (attributes, which may be
    set at any time), and the whole loss is divided by ``max(1, alpha)``, which keeps the steps of the body bounded.

    Args:
        alpha: weight of the Hessian term. The authors' settings on DomainBed: 1e-4 for ``"hgp"``, 1e-3 for
            ``"hutchinson"``; searched within a factor of 10 either way.
        beta: weight of the gradient term; theirs 5e-3.
        method: ``"hgp"`` or ``"hutchinson"``.
        probes: random vectors of ``"hutchinson"`` (theirs: 150). None: the exact diagonal, which the closed form has
            for nothing; other heads need a number.
        seed: of the random vectors; each call has its own, and their count is part of ``state_dict()``.

    Raises:
        ValueError, TypeError: a setting is out of range; in a call: features or targets are no sequences of one tensor
            per environment, there are fewer than two environments, as many targets as features are not given, an
            environment is empty, a head has no parameters, or ``probes`` is missing.

    Source: Hemati, Zhang, Estiri, Chen (2023), Understanding Hessian Alignment for Domain Generalization,
    arXiv 2308.11778. Their code writes :math:`H g` as :math:`\|g\| \nabla \|g\|`, which is the same and has no
    derivative at ``g = 0``, and draws other probes in each environment, which adds their variance to the penalty.
    """

    alpha: float
    beta: float

    def __init__(
        self,
        alpha: float = 1e-4,
        beta: float = 5e-3,
        method: Literal["hgp", "hutchinson"] = "hgp",
        *,
        probes: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.method, self.probes, self.seed = alpha, beta, method, probes, seed
        self.calls = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RANGES:
            check_settings("HessianAlignment", {name: value}, _RANGES)
        super().__setattr__(name, value)

    def forward(
        self,
        head: nn.Module,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        loss: Loss = functional.cross_entropy,
    ) -> Tensor:
        """The objective, a 0-dim tensor.

        Args:
            head: maps features to what ``loss`` takes.
            features: one batch ``(n_e, ...)`` per environment; batches may differ in size and count alike.
            targets: those of each batch.
            loss: ``loss(outputs, targets)``, the mean over the samples.
        """
        terms = self._terms(head, features, targets, loss, self.alpha > 0)
        return terms.risk + self.alpha * terms.hessian + self.beta * terms.gradient

    def terms(
        self,
        head: nn.Module,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        loss: Loss = functional.cross_entropy,
    ) -> AlignmentTerms:
        """The mean loss and the two penalties without their weights; arguments as in a call."""
        return self._terms(head, features, targets, loss, True)

    def _terms(self, head: nn.Module, features: Any, targets: Any, loss: Loss, hessian: bool) -> AlignmentTerms:
        _check_environments(head, features, targets)
        parts = [_environment(head, h, y, loss) for h, y in zip(features, targets, strict=True)]
        risk = torch.stack([part.loss for part in parts]).mean()
        gradients = [part.gradient for part in parts]
        mean_gradient = _mean(gradients)
        gap = _spread(gradients, mean_gradient)
        if not hessian:
            return AlignmentTerms(risk, torch.zeros_like(risk), gap)
        if self.method == "hgp":
            own = [part.product(g) for part, g in zip(parts, gradients, strict=True)]
            return AlignmentTerms(risk, _spread(own, _mean([part.product(mean_gradient) for part in parts])), gap)
        diagonals = self._diagonals(parts)
        return AlignmentTerms(risk, _spread(diagonals, _mean(diagonals)), gap)

    def _diagonals(self, parts: Sequence["_Linear | _AnyHead"]) -> list[list[Tensor]]:
        if self.probes is None:
            return [part.diagonal() for part in parts]
        totals = [[torch.zeros_like(g) for g in part.gradient] for part in parts]
        for probe in range(self.probes):
            # Keys hold the tensor's place: two of one shape must not get equal numbers.
            z = [signs(g, self.seed, self.calls, probe, place) for place, g in enumerate(parts[0].gradient)]
            for k, part in enumerate(parts):
                totals[k] = [t + a * b for t, a, b in zip(totals[k], z, part.product(z), strict=True)]
        self.calls += 1
        return [[t / self.probes for t in total] for total in totals]

    def get_extra_state(self) -> dict[str, int]:
        """For ``state_dict()``: how many calls have drawn probes."""
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """For ``load_state_dict()``."""
        self.calls = state["calls"]


class _Linear:
    """Loss, gradient and Hessian products in one environment, of a linear head in closed form."""

    def __init__(self, head: nn.Linear, h: Tensor, y: Tensor, loss: Loss) -> None:
        logits = head(h)
        self.loss = loss(logits, y)
        self.x = design(h, head) / len(h) ** 0.5
        self.softmax = loss is functional.cross_entropy
        self.scale = 1.0 if self.softmax else 1.0 / logits.shape[1]  # the binary loss is a mean over outputs, too
        self.p = logits.softmax(1) if self.softmax else logits.sigmoid()
        r = residuals(logits, y) if self.softmax else self.p - y.to(logits)
        self.gradient = [self.scale * r.T @ self.x / len(h) ** 0.5]

    def product(self, v: list[Tensor]) -> list[Tensor]:
        u = self.x @ v[0].T
        if self.softmax:
            u = u - (self.p * u).sum(1, keepdim=True)
        else:
            u = (1 - self.p) * u
        return [self.scale * (self.p * u).T @ self.x]

    def diagonal(self) -> list[Tensor]:
        return [self.scale * (self.p * (1 - self.p)).T @ self.x.square()]


class _AnyHead:
    """The same for any head and loss, by differentiating twice."""

    def __init__(self, head: nn.Module, h: Tensor, y: Tensor, loss: Loss) -> None:
        # A frozen head has derivatives, too.
        values = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in head.named_parameters()}
        self.values = list(values.values())
        self.loss = loss(functional_call(head, values, (h,)), y)
        self.gradient = list(
            torch.autograd.grad(self.loss, self.values, create_graph=True, allow_unused=True, materialize_grads=True)
        )

    def product(self, v: list[Tensor]) -> list[Tensor]:
        pairs = [(g, w) for g, w in zip(self.gradient, v, strict=True) if g.requires_grad]
        if not pairs:
            return [torch.zeros_like(p) for p in self.values]
        gradients, vectors = zip(*pairs, strict=True)
        return list(
            torch.autograd.grad(
                gradients, self.values, vectors, create_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    def diagonal(self) -> list[Tensor]:
        raise ValueError(
            "HessianAlignment: probes must be an integer >= 1 for a head and loss without a closed form, got None"
        )


def _environment(head: nn.Module, h: Tensor, y: Tensor, loss: Loss) -> _Linear | _AnyHead:
    if type(head) is nn.Linear and h.dim() == 2:
        classes = loss is functional.cross_entropy and y.dim() == 1 and not y.is_floating_point()
        if classes or loss is functional.binary_cross_entropy_with_logits:
            return _Linear(head, h, y, loss)
    return _AnyHead(head, h, y, loss)


def _check_environments(head: nn.Module, features: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for name, value in (("features", features), ("targets", targets)):
        if isinstance(value, Tensor):
            raise TypeError(
                f"HessianAlignment: {name} must be a sequence with one tensor per environment, got one tensor of shape "
                f"{tuple(value.shape)}"
            )
    if len(features) != len(targets) or len(features) < 2:
        raise ValueError(
            "HessianAlignment: features and targets must be sequences of the same length >= 2, one entry per "
            f"environment, got {len(features)} and {len(targets)}"
        )
    for place, (h, y) in enumerate(zip(features, targets, strict=True)):
        if len(h) == 0 or len(h) != len(y):
            raise ValueError(
                f"HessianAlignment: environment {place} must hold as many targets as features, at least one, "
                f"got {len(h)} features and {len(y)} targets"
            )
    if next(head.parameters(), None) is None:
        raise ValueError(f"HessianAlignment: head must have parameters, got {type(head).__name__} without any")


def _mean(points: Sequence[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(column).mean(0) for column in zip(*points, strict=True)]


def _spread(points: Sequence[list[Tensor]], middle: list[Tensor]) -> Tensor:
    return torch.stack([(a - b).square().sum() for point in points for a, b in zip(point, middle, strict=True)]).sum()


CARD = MethodCard(
    name="hessian-alignment",
    title="Hessian alignment",
    room="generalize",
    family="invariance",
    summary="A penalty on how the gradient and the Hessian of the classifier head differ between environments.",
    target="steepest.train.generalize.hessian_alignment:HessianAlignment",
    papers=(
        Paper(
            "Hemati, Zhang, Estiri, Chen",
            2023,
            "Understanding Hessian Alignment for Domain Generalization",
            arxiv="2308.11778",
            venue="ICCV 2023",
        ),
    ),
    needs=frozenset({"gradient", "environments"}),
    buffers=0,
    search={"alpha": Float(1e-5, 1e-3, log=True), "beta": Float(1e-3, 1e-1, log=True)},
    usage="loss = steepest.train.generalize.HessianAlignment(alpha=1e-4, beta=5e-3)(head, features, targets)",
    claim="Aligning the gradients and Hessians of the classifier head over the training environments makes a network "
    "rely on the shape and not on the colour of digits whose colour misleads at test time, where plain training does "
    "not, and as well as other invariance penalties do.",
)
