"""Which weights can go: scores of the optimal brain surgeon from an empirical Fisher matrix that is never formed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core import tree
from ..core.card import MethodCard, Paper
from ..core.gram import GramSolver
from ..core.operators import Loss, per_sample_gradients, trainable
from ..core.ranges import Integer, Real, check_settings

__all__ = ["CARD", "InverseFisher", "prune"]

_RANGES = {"damping": Real(low=0.0, low_open=True), "block_size": Integer(low=1, optional=True)}


class InverseFisher:
    r"""The inverse of the empirical Fisher matrix of :math:`m` samples: products with it, and its diagonal.

    The rows of :math:`G \in \mathbb R^{m \times d}` are the gradients of single samples:

    .. math::
        F = \lambda I + \tfrac1m G^\top G, \qquad
        F^{-1} x = \tfrac1\lambda \big(x - G^\top K^{-1} G x\big), \qquad
        [F^{-1}]_{jj} = \tfrac1\lambda \big(1 - \|L^{-1} G e_j\|^2\big), \qquad
        K = m \lambda I + G G^\top = L L^\top

    :math:`O(d m^2)` operations to prepare, :math:`O(d m)` for a product; all in float64, since what remains of the
    differences is small. This equals the recursion over the rows that the paper gives.

    Args:
        gradients: of the samples: a tensor ``(m, d)``, or by the parameter's name ``(m, *shape)``, as
            :func:`~steepest.core.operators.per_sample_gradients` returns them; all parameters form one matrix.
        damping: :math:`\lambda > 0`.
        block_size: the matrix is cut into diagonal blocks of so many consecutive parameters, and what lies outside of
            them is taken for zero; None: one block.

    Raises:
        ValueError, TypeError: a setting is out of its range, there are no gradients, or some are not finite.

    Source: Frantar, Kurtic, Alistarh (2021), M-FAC: Efficient Matrix-Free Approximations of Second-Order Information,
    arXiv 2107.03356, section 3.
    """

    def __init__(
        self, gradients: Tensor | Mapping[str, Tensor], damping: float = 1e-5, block_size: int | None = None
    ) -> None:
        check_settings("InverseFisher", {"damping": damping, "block_size": block_size}, _RANGES)
        parts = [gradients] if isinstance(gradients, Tensor) else list(gradients.values())
        if not parts or len(parts[0]) == 0:
            raise ValueError("InverseFisher: gradients must hold at least one sample, got none")
        if len({len(part) for part in parts}) > 1:
            raise ValueError(
                f"InverseFisher: gradients must be of the same samples, got {[len(p) for p in parts]} rows"
            )
        self.rows = torch.cat([part.detach().reshape(len(part), part[0].numel()).double() for part in parts], 1)
        if not bool(self.rows.isfinite().all()):
            raise ValueError("InverseFisher: gradients must be finite, got some that are not")
        self.damping = damping
        size = self.rows.shape[1] if block_size is None else block_size
        self._blocks = [
            (block, GramSolver(block @ block.mT, damping)) for block in self.rows.split(max(1, size), dim=1)
        ]

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        loss: Loss,
        inputs: Any,
        targets: Any,
        damping: float = 1e-5,
        block_size: int | None = None,
        chunk: int | None = None,
    ) -> "InverseFisher":
        """From a model, its loss (a mean over samples) and a batch of samples; ``chunk`` of them at once."""
        return cls(per_sample_gradients(model, loss, inputs, targets, chunk=chunk), damping, block_size)

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with a vector ``(d,)``, in its dtype."""
        if vector.shape != (self.rows.shape[1],):
            raise ValueError(f"vector must have the shape ({self.rows.shape[1]},), got {tuple(vector.shape)}")
        parts = vector.to(self.rows).split([block.shape[1] for block, _ in self._blocks])
        found = [solver.solve(block, v) for (block, solver), v in zip(self._blocks, parts, strict=True)]
        return torch.cat(found).to(vector.dtype)

    def diagonal(self) -> Tensor:
        """The diagonal, ``(d,)``, in float64; positive."""
        found = [(1.0 - (block * solver.coefficients(block)).sum(0)) / self.damping for block, solver in self._blocks]
        return torch.cat(found).clamp_min(torch.finfo(torch.float64).tiny)

    def saliency(self, weights: Tensor) -> Tensor:
        r"""By how much the loss rises when a weight is removed and the others follow: :math:`w_j^2 / 2 [F^{-1}]_{jj}`.

        Args:
            weights: ``(d,)``.
        """
        return 0.5 * weights.double() ** 2 / self.diagonal()

    def removal(self, weights: Tensor, removed: Tensor) -> Tensor:
        r"""The weights after some are removed: :math:`w - F^{-1} (w_j / [F^{-1}]_{jj})_{j \in Q}`, zero in :math:`Q`.

        It is the optimal brain surgeon's update for one weight; for several, the sum of their updates, as in the paper.

        Args:
            weights: ``(d,)``.
            removed: the set :math:`Q`, a mask ``(d,)``.
        """
        scaled = torch.where(removed, weights.double() / self.diagonal(), 0.0)
        return torch.where(removed, 0.0, weights.double() - self(scaled)).to(weights.dtype)


@torch.no_grad()
def prune(model: nn.Module, scores: Tensor, sparsity: float, fisher: InverseFisher | None = None) -> dict[str, Tensor]:
    """Set the weights with the lowest scores to zero, over all tensors with at least two dimensions together.

    Args:
        model: changed in place; its biases and norms are left whole.
        scores: of all trainable parameters, one after the other, ``(d,)``: a saliency, or magnitudes.
        sparsity: the part of the weights that goes, in [0, 1].
        fisher: where given, the other parameters make up for the removal, see :meth:`InverseFisher.removal`.

    Returns:
        By the parameter's name, the mask of what is left.

    Raises:
        ValueError: ``scores`` has another size or holds a NaN, or ``sparsity`` is out of its range.
    """
    Real(low=0.0, high=1.0).check("prune: sparsity", sparsity)
    values = trainable(model)
    params = list(values.values())
    weights = tree.ravel([p.detach() for p in params])
    if scores.shape != weights.shape:
        raise ValueError(f"scores must have the shape {tuple(weights.shape)}, got {tuple(scores.shape)}")
    if bool(scores.isnan().any()):
        raise ValueError(f"scores must be numbers, got {int(scores.isnan().sum())} that are NaN")
    open_to = tree.ravel([torch.full(p.shape, p.dim() > 1, device=p.device) for p in params])
    count = math.floor(sparsity * int(open_to.sum()))
    order = torch.where(open_to, scores, torch.inf).argsort(stable=True)
    removed = torch.zeros_like(open_to)
    removed[order[:count]] = True
    left = torch.where(removed, 0.0, weights) if fisher is None else fisher.removal(weights, removed)
    for p, new in zip(params, tree.unravel(left, params), strict=True):
        p.copy_(new)
    sizes = [p.numel() for p in params]
    return {name: ~mask.view(p.shape) for (name, p), mask in zip(values.items(), removed.split(sizes), strict=True)}


CARD = MethodCard(
    name="mfac-pruning",
    title="Pruning by M-FAC",
    room="analyze",
    family="pruning",
    summary="Scores of the optimal brain surgeon from the inverse empirical Fisher matrix of a few hundred samples.",
    target="steepest.analyze.pruning:InverseFisher",
    usage="steepest.analyze.InverseFisher.of_model(model, loss, inputs, targets).saliency(weights)",
    papers=(
        Paper(
            "Frantar, Kurtic, Alistarh",
            2021,
            "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
            arxiv="2107.03356",
        ),
    ),
    needs=frozenset({"per-sample gradient"}),
)
