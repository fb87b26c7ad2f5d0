"""The intrinsic dimension of a task and a model: the fewest dimensions of a random subspace in which training works."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from steepest.core.ranges import Integer, Real

from .projections import Kind
from .subspace import Subspace

__all__ = ["IntrinsicDimension", "intrinsic_dimension"]


@dataclass(frozen=True)
class IntrinsicDimension:
    """What a search found.

    Args:
        dimension: the smallest dimension tried that reaches the target; ``None`` if the largest misses it.
        target: the score to reach.
        baseline: the mean score of training all parameters.
        scores: dimension -> mean score, for all that were tried.
    """

    dimension: int | None
    target: float
    baseline: float
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def below(self) -> int:
        """The largest dimension tried below it, or 0: the true one is above this, if scores rise with the dimension."""
        smaller = [d for d in self.scores if self.dimension is None or d < self.dimension]
        return max(smaller, default=0)


def intrinsic_dimension(
    make_model: Callable[[], nn.Module],
    fit: Callable[[nn.Module, int], float],
    *,
    threshold: float = 0.9,
    start: int = 8,
    limit: int | None = None,
    precision: float = 1.1,
    kind: Kind = "fastfood",
    structure_aware: bool = False,
    seeds: Sequence[int] = (0,),
    baseline: float | None = None,
) -> IntrinsicDimension:
    r"""The smallest d with which training in a random subspace reaches a part of the score of full training: d90.

    .. math::
        d_{90} = \min \{ d : \text{score}(\theta_0 + P z, \; z \in \mathbb{R}^d) \ge 0.9 \, \text{score}(\theta) \}

    Doubles d from ``start`` until the score suffices, then bisects on the logarithmic scale; the score is taken to rise
    with d. The learning rate that suits depends on d: ``fit`` should try some and score with the best, on data that it
    was not chosen by.

    Args:
        make_model: a new model, pre-trained or not; random initial values follow torch's global generator.
        fit: ``fit(module, seed)`` trains a module and returns its score, higher is better and positive; it is given a
            model, and :class:`~steepest.train.parametrize.Subspace` of models.
        threshold: the part of the baseline to reach, in (0, 1].
        start: the first dimension, >= 1; structure-aware, above the number of tensors.
        limit: the largest; by default the number of parameters.
        precision: bisection ends where the dimension that suffices is at most this times the one that does not; > 1.
        kind, structure_aware: of the subspaces.
        seeds: of models, projections and ``fit``; scores are averaged.
        baseline: the score of full training, where it is known.

    Raises:
        ValueError, TypeError: a bad argument, or a score of full training that is not positive and finite.

    Sources: Li, Farkhoor, Liu, Yosinski (2018), Measuring the Intrinsic Dimension of Objective Landscapes, arXiv
    1804.08838; Aghajanyan, Zettlemoyer, Gupta (2020), arXiv 2012.13255.
    """
    Real(low=0.0, high=1.0, low_open=True).check("intrinsic_dimension: threshold", threshold)
    Real(low=1.0, low_open=True).check("intrinsic_dimension: precision", precision)
    Integer(low=1).check("intrinsic_dimension: start", start)
    Integer(low=start, optional=True).check("intrinsic_dimension: limit", limit)
    if not seeds:
        raise ValueError("intrinsic_dimension: seeds must be at least one, got none")

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return make_model()

    top = sum(p.numel() for p in build(seeds[0]).parameters() if p.requires_grad)
    top = top if limit is None else min(limit, top)
    full = sum(fit(build(s), s) for s in seeds) / len(seeds) if baseline is None else baseline
    if not 0 < full < float("inf"):
        said = (
            "fit must return scores with a positive, finite mean" if baseline is None else "baseline must be positive"
        )
        raise ValueError(f"intrinsic_dimension: {said} for training all parameters, got {full!r}")
    target = threshold * full
    scores: dict[int, float] = {}

    def suffices(d: int) -> bool:
        found = [fit(Subspace(build(s), d, kind, structure_aware, seed=s), s) for s in seeds]
        scores[d] = sum(found) / len(found)
        return scores[d] >= target

    below, d = 0, min(start, top)
    while not suffices(d):
        if d == top:
            return IntrinsicDimension(None, target, full, scores)
        below, d = d, min(2 * d, top)
    while below and d > max(precision * below, below + 1):
        middle = min(max(round((below * d) ** 0.5), below + 1), d - 1)
        if suffices(middle):
            d = middle
        else:
            below = middle
    return IntrinsicDimension(d, target, full, scores)
