"""Data-efficient augmentation: augment only a weighted subset that covers the gradients of all examples."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from steepest.core.card import Choice, Float, MethodCard, Paper
from steepest.core.facility_location import facility_location, nearest_chosen
from steepest.core.ranges import OneOf, Real, check_settings

from .linear_head import check_linear, design, residuals

__all__ = ["CARD", "Subset", "SubsetAugmentation"]


class Subset(NamedTuple):
    """A weighted subset.

    Attributes:
        indices: positions in the data, ascending, ``(k,)``.
        weights: of each in a loss, with mean 1.
        sizes: how many examples of its class each stands for, itself included; they sum to the number of examples.
    """

    indices: Tensor
    weights: Tensor
    sizes: Tensor

    def copies(
        self, inputs: Tensor, targets: Tensor, augmentation: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented copies of the chosen rows of ``inputs``, their targets, and their weights."""
        rows = self.indices.to(inputs.device)
        return augmentation(inputs[rows]), targets[self.indices.to(targets.device)], self.weights


@dataclass(frozen=True)
class SubsetAugmentation:
    r"""Data-efficient augmentation: choose the examples whose augmented copies stand for those of all others.

    The gradient of an example's loss in the logits, :math:`g_i = p_i - y_i` (with ``head``: in the weights of the last
    layer, :math:`g_i [h_i, 1]^\top`), is what training sees of it. In every class, facility location chooses greedily

    .. math::
        S_c \approx \arg\max_{|S| = k_c} \sum_{i \in c} \max_{j \in S} \big(\max_{l, m} d_{lm} - d_{ij}\big),
        \qquad d_{ij} = \|g_i - g_j\|_2

    and weighs each chosen example by the number of examples of its class that are nearest to it. Choose anew every few
    epochs, and train on augmented copies of the subset with their weights, or on all data and the copies (where the
    authors' code leaves the weights out unless told otherwise):

    .. code-block:: python

        chooser = SubsetAugmentation(fraction=0.1)
        subset = chooser.select(model, [(inputs, targets)])
        more, labels, weights = subset.copies(inputs, targets, augmentation)

    The choice costs one pass over the data without gradients, and per class of :math:`n_c` examples
    :math:`O(n_c^2)` memory and distances. The model is in evaluation mode for it, and left as it was.

    Args:
        fraction: of the examples to choose, in (0, 1]; the authors use 0.05 to 0.5.
        budget: how many of each class. ``"equal"``: as many of each, as far as it has them (the authors' default);
            ``"proportional"`` to its size. Each class gets at least one, where there are enough.

    Raises:
        ValueError: a setting is out of range; in ``select``: no data, targets that are not class numbers of the
            model's outputs.
        FloatingPointError: outputs or features are not finite.

    Source: Liu, Mirzasoleiman (2022), Data-Efficient Augmentation for Training Neural Networks, arXiv 2210.08363. Their
    code gives a chosen example to which none is nearest (a duplicate) the weight of one; here each belongs to itself,
    so that the sizes sum to the number of examples.
    """

    fraction: float = 0.1
    budget: Literal["equal", "proportional"] = "equal"

    ranges: ClassVar = {
        "fraction": Real(low=0.0, high=1.0, low_open=True),
        "budget": OneOf(("equal", "proportional")),
    }

    def __post_init__(self) -> None:
        check_settings(type(self).__name__, {"fraction": self.fraction, "budget": self.budget}, self.ranges)

    def select(self, model: nn.Module, batches: Iterable[tuple[Any, Tensor]], head: nn.Linear | None = None) -> Subset:
        """Choose a subset for the model as it stands.

        Args:
            model: gives logits ``(n, c)``.
            batches: pairs ``(inputs, targets)``, not augmented and in the order that the indices shall count: a
                ``DataLoader`` without shuffling, or a list of one pair.
            head: the model's last layer; its inputs then enter the gradients. None: gradients in the logits alone.
        """
        g, h, targets = _gradients(model, batches, head)
        classes, members = torch.unique(targets, return_inverse=True)
        counts = torch.bincount(members, minlength=len(classes)).tolist()
        total = max(1, round(self.fraction * len(targets)))
        indices, sizes = [], []
        for c, count in enumerate(_budgets(counts, total, self.budget)):
            if count == 0:
                continue
            own = torch.nonzero(members == c)[:, 0]
            distance = _distances(g[own], None if h is None else h[own])
            similarity = distance.max() - distance
            chosen, _ = facility_location(similarity, count)
            indices.append(own[chosen])
            sizes.append(torch.bincount(nearest_chosen(similarity, chosen), minlength=count))
        found, size = torch.cat(indices), torch.cat(sizes)
        order = found.argsort()
        found, size = found[order], size[order]
        weights = size.to(g.dtype)
        return Subset(found, weights / weights.mean(), size)


@torch.no_grad()
def _gradients(
    model: nn.Module, batches: Iterable[tuple[Any, Tensor]], head: nn.Linear | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """For every example the gradient in the logits, the inputs of the head, and the class."""
    g, h, classes = [], [], []
    seen: list[Tensor] = []
    if head is not None:
        check_linear("SubsetAugmentation", head)
        handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with _evaluating(model):
            for inputs, targets in batches:
                logits = _single(model(inputs))
                if targets.is_floating_point() or targets.shape != logits.shape[:1] or logits.dim() != 2:
                    raise ValueError(
                        "SubsetAugmentation: targets must be class numbers (n,) for outputs (n, c), got "
                        f"{targets.dtype} {tuple(targets.shape)} for outputs {tuple(logits.shape)}"
                    )
                ends = [int(end) for end in torch.aminmax(targets)] if len(targets) else [0, 0]
                if ends[0] < 0 or ends[1] >= logits.shape[1]:
                    raise ValueError(
                        f"SubsetAugmentation: targets must be class numbers from 0 to {logits.shape[1] - 1}, got some "
                        f"from {ends[0]} to {ends[1]}"
                    )
                g.append(residuals(logits, targets))
                classes.append(targets)
                if head is not None:
                    if not seen:
                        raise ValueError("SubsetAugmentation: head must be a layer that the model runs; it ran none")
                    h.append(_single(design(seen.pop(), head)))
    finally:
        if head is not None:
            handle.remove()
    if sum(map(len, classes)) == 0:
        raise ValueError("SubsetAugmentation: batches must hold at least one example, got none")
    gradients, features = torch.cat(g), torch.cat(h) if h else None
    if not all(bool(torch.isfinite(t).all()) for t in (gradients, features) if t is not None):
        raise FloatingPointError("SubsetAugmentation: the model's outputs or the head's inputs are not finite")
    return gradients, features, torch.cat(classes)


def _single(values: Tensor) -> Tensor:
    """Half precision in float32: distances between neighbours would drown in its rounding."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _distances(g: Tensor, h: Tensor | None) -> Tensor:
    """Euclidean distances of the rows of ``g``, or of the outer products of the rows of both, which are not formed."""
    if h is None:
        return torch.cdist(g, g, compute_mode="donot_use_mm_for_euclid_dist")
    products = (g @ g.T).double() * (h @ h.T).double()
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp_min(0).sqrt().to(g.dtype).fill_diagonal_(0)


def _budgets(counts: list[int], total: int, rule: str) -> list[int]:
    """How many to take of each class: ``total`` in all, one by one to the class that lacks most."""
    sizes = np.array(counts, dtype=float)
    wanted = total * (sizes / sizes.sum() if rule == "proportional" else np.full(len(counts), 1 / len(counts)))
    given = np.ones(len(counts)) if total >= len(counts) else np.zeros(len(counts))
    for _ in range(total - int(given.sum())):
        given[np.where(given < sizes, wanted - given, -np.inf).argmax()] += 1
    return [int(count) for count in given]


CARD = MethodCard(
    name="data-efficient-augmentation",
    title="Data-efficient augmentation",
    room="generalize",
    family="augmentation",
    summary="Augments only a subset that covers the gradients of all examples, chosen by facility location.",
    target="steepest.train.generalize.subset_augmentation:SubsetAugmentation",
    papers=(
        Paper(
            "Liu, Mirzasoleiman",
            2022,
            "Data-Efficient Augmentation for Training Neural Networks",
            arxiv="2210.08363",
            venue="NeurIPS 2022",
        ),
    ),
    needs=frozenset({"per-sample gradient"}),
    buffers=0,
    search={"fraction": Float(0.05, 0.5), "budget": Choice(("equal", "proportional"))},
    usage="subset = steepest.train.generalize.SubsetAugmentation(fraction=0.1).select(model, batches)",
    claim="Augmenting a small subset that covers the gradients of all examples gains most of what augmenting all of "
    "them gains, in less time, and more than augmenting a random subset or the examples of the largest loss.",
)
