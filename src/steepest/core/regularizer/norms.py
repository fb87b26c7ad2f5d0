"""Norms and their kin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core import prox
from steepest.core.card import MethodCard, Paper
from steepest.core.envelope import envelope_conjugate, envelope_value
from steepest.core.groups import Groups, groups_of
from steepest.core.ranges import Integer
from steepest.core.regularizer.base import Regularizer, check_weight, indicator, scale_into, slack

__all__ = [
    "GROUP_SPARSE_ENVELOPE_CARD",
    "L1",
    "ElasticNet",
    "GroupL2",
    "GroupSparseEnvelope",
    "Nuclear",
    "SparseGroup",
    "SquaredL2",
    "TotalVariation",
]


@dataclass(frozen=True)
class L1(Regularizer):
    r""":math:`\lambda \|x\|_1`.

    Args:
        weight: :math:`\lambda \ge 0`; a tensor of several weights broadcasts against the point.

    Raises:
        ValueError, TypeError: the weight is negative, not finite or no number.
    """

    weight: float | Tensor

    def __post_init__(self) -> None:
        check_weight("L1: weight", self.weight)

    def value(self, x: Tensor) -> Tensor:
        return (self.weight * x.abs()).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.l1(x, step * self.weight)

    def conjugate(self, y: Tensor) -> Tensor:
        return indicator((y.abs() <= self.weight * (1 + slack(y))).all(), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        return scale_into(self.weight, y.abs())


@dataclass(frozen=True)
class GroupL2(Regularizer):
    r""":math:`\lambda \sum_j \|x_j\|_2` over groups :math:`x_j` of the entries: the group lasso.

    Args:
        weight: :math:`\lambda \ge 0`, or one per group, ``(groups,)``.
        groups: a size (so many consecutive entries of the last dimension), lists of indices into the flattened point,
            ``None`` (the rows of a matrix), or :class:`~steepest.core.groups.Groups`. Entries in none are free.

    Raises:
        ValueError, TypeError: a weight is negative, not finite or no number; groups overlap.

    Source: M. Yuan and Y. Lin (2006), "Model selection and estimation in regression with grouped variables", Journal of
    the Royal Statistical Society B 68, 49-67.
    """

    weight: float | Tensor
    groups: Groups | Sequence[Any] | int | None = None

    def __post_init__(self) -> None:
        check_weight("GroupL2: weight", self.weight)
        object.__setattr__(self, "groups", groups_of(self.groups))

    @property
    def _groups(self) -> Groups:
        assert isinstance(self.groups, Groups)
        return self.groups

    def value(self, x: Tensor) -> Tensor:
        return (self.weight * self._groups.norms(x)).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.groups_l2(x, step * self.weight, self._groups)

    def conjugate(self, y: Tensor) -> Tensor:
        inside = (self._groups.norms(y) <= self.weight * (1 + slack(y))).all()
        return indicator(inside & (self._groups.outside(y) == 0).all(), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        free = (self._groups.outside(y) == 0).all()
        return torch.where(free, scale_into(self.weight, self._groups.norms(y)), 0.0)


@dataclass(frozen=True)
class SparseGroup(Regularizer):
    r""":math:`\lambda_1 \|x\|_1 + \lambda_2 \sum_j \|x_j\|_2`: the sparse group lasso.

    Args:
        l1_weight: :math:`\lambda_1 \ge 0`.
        group_weight: :math:`\lambda_2 \ge 0`, or one per group, ``(groups,)``.
        groups: as for :class:`GroupL2`; entries in none have the first penalty alone.

    Raises:
        ValueError, TypeError: a weight is negative, not finite or no number; groups overlap.

    Source: N. Simon, J. Friedman, T. Hastie and R. Tibshirani (2013), "A sparse-group lasso", Journal of Computational
    and Graphical Statistics 22, 231-245.
    """

    l1_weight: float | Tensor
    group_weight: float | Tensor
    groups: Groups | Sequence[Any] | int | None = None

    def __post_init__(self) -> None:
        check_weight("SparseGroup: l1_weight", self.l1_weight)
        check_weight("SparseGroup: group_weight", self.group_weight)
        if isinstance(self.l1_weight, Tensor) and self.l1_weight.numel() != 1:
            raise ValueError(f"SparseGroup: l1_weight must be one number, got {list(self.l1_weight.shape)}")
        object.__setattr__(self, "groups", groups_of(self.groups))

    @property
    def _groups(self) -> Groups:
        assert isinstance(self.groups, Groups)
        return self.groups

    def value(self, x: Tensor) -> Tensor:
        return self.l1_weight * x.abs().sum() + (self.group_weight * self._groups.norms(x)).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.sparse_group(x, step * self.l1_weight, step * self.group_weight, self._groups)

    def conjugate(self, y: Tensor) -> Tensor:
        # The conjugate of a sum: y is one of |.| <= l1_weight plus one of group norms <= group_weight.
        rest = self._groups.norms(prox.l1(y, self.l1_weight))
        inside = (rest <= self.group_weight + slack(y) * (self.group_weight + self.l1_weight)).all()
        alone = (self._groups.outside(y).abs() <= self.l1_weight * (1 + slack(y))).all()
        return indicator(inside & alone, y)

    def dual_scale(self, y: Tensor) -> Tensor:
        # Per group, the s with |soft(s v, a)| = b: between two break points a / v_i, a quadratic equation.
        a = torch.as_tensor(self.l1_weight, dtype=y.dtype, device=y.device)
        v = self._groups.rows(y.abs()).sort(dim=-1, descending=True).values
        b = torch.as_tensor(self.group_weight, dtype=y.dtype, device=y.device).expand(len(v))[:, None]
        count = torch.arange(1, v.shape[1] + 1, dtype=y.dtype, device=y.device)
        linear, square = v.cumsum(1), v.square().cumsum(1)
        s = a / v
        reached = s.square() * square - 2 * a * s * linear + count * a.square()
        active = (reached <= b.square()).sum(1, keepdim=True).clamp_min(1) - 1  # NaN where v is 0: not active
        linear, square, count = linear.gather(1, active), square.gather(1, active), count[active]
        root = square * b.square() - a.square() * (count * square - linear.square()).clamp_min(0)
        scale = torch.where(square > 0, (a * linear + root.clamp_min(0).sqrt()) / square, torch.inf)
        for _ in range(2):  # Newton's method takes back what cancellation under the root has cost
            rest = (scale * v - a).clamp_min(0)
            norm = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
            slope = (rest * v).sum(1, keepdim=True) / norm
            scale = torch.where((norm > 0) & (b > 0), scale - (norm - b) / slope, scale)
        scale = torch.where(b > 0, scale, torch.where(square > 0, a / v[:, :1], torch.inf))
        alone = scale_into(a, self._groups.outside(y).abs())
        return torch.minimum(scale.min().clamp(0.0, 1.0), alone)


@dataclass(frozen=True)
class ElasticNet(Regularizer):
    r""":math:`\lambda_1 \|x\|_1 + \tfrac12 \lambda_2 \|x\|_2^2`.

    Args:
        l1_weight: :math:`\lambda_1 \ge 0`.
        l2_weight: :math:`\lambda_2 \ge 0`.

    Raises:
        ValueError, TypeError: a weight is negative, not finite or no number.

    Source: H. Zou and T. Hastie (2005), "Regularization and variable selection via the elastic net", Journal of the
    Royal Statistical Society B 67, 301-320.
    """

    l1_weight: float | Tensor
    l2_weight: float | Tensor

    def __post_init__(self) -> None:
        check_weight("ElasticNet: l1_weight", self.l1_weight)
        check_weight("ElasticNet: l2_weight", self.l2_weight)

    def value(self, x: Tensor) -> Tensor:
        return (self.l1_weight * x.abs() + 0.5 * self.l2_weight * x.square()).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.elastic_net(x, step * self.l1_weight, step * self.l2_weight)

    def conjugate(self, y: Tensor) -> Tensor:
        return _half_square(prox.l1(y, self.l1_weight), self.l2_weight, slack(y) * self.l1_weight)

    def dual_scale(self, y: Tensor) -> Tensor:
        l1, l2 = (torch.as_tensor(w, dtype=y.dtype, device=y.device) for w in (self.l1_weight, self.l2_weight))
        return scale_into(torch.where(l2 > 0, torch.inf, l1), y.abs())


@dataclass(frozen=True)
class SquaredL2(Regularizer):
    r""":math:`\tfrac12 \lambda \|x\|_2^2`: ridge, weight decay.

    Args:
        weight: :math:`\lambda \ge 0`; a tensor of several weights broadcasts against the point.

    Raises:
        ValueError, TypeError: the weight is negative, not finite or no number.
    """

    weight: float | Tensor
    smooth = True

    def __post_init__(self) -> None:
        check_weight("SquaredL2: weight", self.weight)

    def value(self, x: Tensor) -> Tensor:
        return 0.5 * (self.weight * x.square()).sum()

    def gradient(self, x: Tensor) -> Tensor:
        return self.weight * x

    def hvp(self, x: Tensor, direction: Tensor) -> Tensor:
        return self.weight * direction

    def hessian(self, x: Tensor) -> Tensor:
        return torch.diag((self.weight * torch.ones_like(x)).reshape(-1))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.squared_l2(x, step * self.weight)

    def conjugate(self, y: Tensor) -> Tensor:
        return _half_square(y, self.weight, 0.0)

    def dual_scale(self, y: Tensor) -> Tensor:
        weight = torch.as_tensor(self.weight, dtype=y.dtype, device=y.device)
        return scale_into(torch.where(weight > 0, torch.inf, weight), y.abs())


@dataclass(frozen=True)
class Nuclear(Regularizer):
    r""":math:`\lambda` times the sum of singular values of a matrix (of all matrices ``(..., m, n)``).

    Args:
        weight: :math:`\lambda \ge 0`.

    Raises:
        ValueError, TypeError: the weight is negative, not finite or no number.
    """

    weight: float | Tensor

    def __post_init__(self) -> None:
        check_weight("Nuclear: weight", self.weight)

    def value(self, x: Tensor) -> Tensor:
        sums: Tensor = torch.linalg.svdvals(_matrix(x)).sum(-1)
        return (self.weight * sums).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.nuclear(x, step * self.weight)

    def conjugate(self, y: Tensor) -> Tensor:
        return indicator((torch.linalg.svdvals(_matrix(y)).amax(-1) <= self.weight * (1 + slack(y))).all(), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        return scale_into(self.weight, torch.linalg.svdvals(_matrix(y)).amax(-1))


@dataclass(frozen=True)
class TotalVariation(Regularizer):
    r""":math:`\lambda \sum_i |x_{i+1} - x_i|` along one dimension: the fused lasso's second half.

    Args:
        weight: :math:`\lambda \ge 0`.
        dim: the dimension. Default -1.

    The prox is exact and takes about 0.05 s for 100 000 entries on one core
    (:func:`steepest.core.variation.total_variation`).

    Raises:
        ValueError, TypeError: the weight is negative, not finite or no number.
    """

    weight: float | Tensor
    dim: int = -1

    def __post_init__(self) -> None:
        check_weight("TotalVariation: weight", self.weight)
        Integer(low=-64).check("TotalVariation: dim", self.dim)

    def value(self, x: Tensor) -> Tensor:
        return (self.weight * x.diff(dim=self.dim).abs()).sum()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.total_variation(x, step * self.weight, self.dim)

    def conjugate(self, y: Tensor) -> Tensor:
        # y = D'u with |u| <= weight: the sums from one end are -u, and the last is zero.
        sums, balanced = self._sums(y)
        return indicator(balanced & (sums <= self.weight * (1 + slack(y)) + slack(y) * y.abs().sum()).all(), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        sums, balanced = self._sums(y)
        return torch.where(balanced, scale_into(self.weight, sums), 0.0)

    def _sums(self, y: Tensor) -> tuple[Tensor, Tensor]:
        sums = y.cumsum(self.dim).movedim(self.dim, -1)
        total = y.abs().sum(self.dim)
        return sums[..., :-1].abs(), (sums[..., -1].abs() <= slack(y) * total).all()


GROUP_SPARSE_ENVELOPE_CARD = MethodCard(
    name="wgsef",
    title="Group sparse envelope",
    room="convex",
    family="regularizer",
    summary="The tightest convex penalty for a weighted square on points with at most k groups that are not zero.",
    target="steepest.core.regularizer:GroupSparseEnvelope",
    papers=(
        Paper(
            "Y. Refael, I. Arbel, W. Huleihel",
            2022,
            "Learning k-Level Structured Sparse Neural Networks Using Group Envelope Regularization",
            arxiv="2212.12921",
        ),
    ),
    needs=frozenset({"prox"}),
    buffers=0,
    settings={"weight": 0.01, "k": 10},
    claim="Training with it reaches a number of active groups that is set in advance at a negligible loss of accuracy, "
    "and with fewer active groups than l1 or group l2 regularization.",
)


@dataclass(frozen=True)
class GroupSparseEnvelope(Regularizer):
    r"""The k-level weighted group sparse envelope: a convex penalty that asks for about ``k`` groups.

    :math:`\lambda E_k(x)` with :math:`E_k` the largest convex function below
    :math:`\tfrac12 \sum_j d_j \|x_j\|^2` on the points with at most ``k`` groups :math:`x_j` that are not zero (see
    :mod:`steepest.core.envelope`). There the two are equal. With ``k`` the number of groups it is ridge; with ``k = 1``
    half the square of the weighted group norm; with groups of one entry half the square of the k-support norm.

    The groups that remain are shrunk too: weight decay is built in. A minimizer may have far more than ``k`` groups
    unless the weight is so large that they are shrunk hard: prune to ``k`` afterwards where that many are wanted.

    Args:
        weight: :math:`\lambda \ge 0`.
        k: the number of groups that are wanted, >= 1.
        groups: as for :class:`GroupL2`; entries in none are not penalized.
        group_weights: :math:`d`, > 0: one number (default 1), or one per group, ``(groups,)``.

    Raises:
        ValueError, TypeError: an argument is out of its range; groups overlap.

    Source: Y. Refael, I. Arbel and W. Huleihel (2022), "Learning k-Level Structured Sparse Neural Networks Using Group
    Envelope Regularization", arXiv:2212.12921.
    """

    weight: float | Tensor
    k: int
    groups: Groups | Sequence[Any] | int | None = None
    group_weights: float | Tensor = 1.0

    def __post_init__(self) -> None:
        check_weight("GroupSparseEnvelope: weight", self.weight)
        Integer(low=1).check("GroupSparseEnvelope: k", self.k)
        check_weight("GroupSparseEnvelope: group_weights", self.group_weights, positive=True)
        object.__setattr__(self, "groups", groups_of(self.groups))

    @property
    def _groups(self) -> Groups:
        assert isinstance(self.groups, Groups)
        return self.groups

    def _root(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.group_weights, dtype=x.dtype, device=x.device).sqrt()

    def value(self, x: Tensor) -> Tensor:
        return self.weight * envelope_value(self._root(x) * self._groups.norms(x), self.k)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return prox.group_sparse_envelope(x, step * self.weight, self.k, self._groups, self.group_weights)

    def conjugate(self, y: Tensor) -> Tensor:
        weight = torch.as_tensor(self.weight, dtype=y.dtype, device=y.device)
        half = envelope_conjugate(self._groups.norms(y) / self._root(y), self.k)
        value = torch.where(weight > 0, half / torch.where(weight > 0, weight, 1.0), indicator(half == 0, y))
        return value + indicator((self._groups.outside(y) == 0).all(), y)

    def dual_scale(self, y: Tensor) -> Tensor:
        weight = torch.as_tensor(self.weight, dtype=y.dtype, device=y.device)
        free = (self._groups.outside(y) == 0).all() & ((weight > 0) | (y == 0).all())
        return free.to(y.dtype)


def _half_square(y: Tensor, weight: float | Tensor, tolerance: float | Tensor) -> Tensor:
    """``sum y^2 / (2 weight)``; where the weight is zero, the indicator of ``|y| <= tolerance``."""
    weight = torch.as_tensor(weight, dtype=y.dtype, device=y.device)
    positive = weight > 0
    inside = y.new_zeros(()).where(y.abs() <= tolerance, torch.inf)
    return torch.where(positive, 0.5 * y.square() / torch.where(positive, weight, 1.0), inside).sum()


def _matrix(x: Tensor) -> Tensor:
    if x.dim() < 2:
        raise ValueError(f"a matrix is needed, got a tensor with {x.dim()} dimensions")
    return x
