"""The ball of allowed perturbations of an input, and what attacks and certificates ask of it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.ranges import Real

__all__ = ["Ball"]


@dataclass(frozen=True)
class Ball:
    r"""Perturbations :math:`\{\delta : \|\delta\|_p \le r\}` of each sample, and the range that inputs stay in.

    Args:
        radius: ``r >= 0``, in units of the features.
        norm: ``p`` in [1, inf]. Default inf: every feature by itself.
        clip: ``(low, high)``, the range of valid features (pixels), or ``None``. A perturbed input stays in it.

    Raises:
        ValueError: the radius or the norm is out of range, or ``low >= high``.
    """

    radius: float
    norm: float = math.inf
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        Real(low=0.0).check("adversarial_radius", self.radius)
        Real(low=1.0, infinite=True).check("norm", self.norm)
        if self.clip is not None:
            low, high = self.clip
            Real().check("clip[0]", low)
            Real().check("clip[1]", high)
            if low >= high:
                raise ValueError(f"clip must be (low, high) with low < high, got {self.clip!r}")

    @property
    def dual(self) -> float:
        """The exponent ``q`` of the dual norm, ``1 / p + 1 / q = 1``."""
        if self.norm == 1:
            return math.inf
        return 1.0 if math.isinf(self.norm) else self.norm / (self.norm - 1)

    def check(self, features: Tensor) -> None:
        """Raise ``ValueError`` unless features are a real ``(n, ...)`` tensor, finite, and in the range."""
        if not isinstance(features, Tensor) or features.dim() < 2 or not features.is_floating_point():
            what = (
                f"{features.dtype}{list(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            )
            raise ValueError(f"features must be a floating-point tensor (n, ...), got {what}")
        if not bool(torch.isfinite(features).all()):
            raise ValueError("features must be finite, but they hold NaN or an infinity")
        if self.clip is not None and features.numel():
            low, high = float(features.min()), float(features.max())
            if low < self.clip[0] or high > self.clip[1]:
                raise ValueError(f"features must lie in clip={self.clip}, got values from {low:g} to {high:g}")

    def dual_norm(self, slopes: Tensor, dim: int = -1) -> Tensor:
        """``max slope . delta`` over perturbations of radius 1."""
        return torch.linalg.vector_norm(slopes, ord=self.dual, dim=dim)

    def clamp(self, features: Tensor) -> Tensor:
        """Moved into the valid range."""
        return features if self.clip is None else features.clamp(*self.clip)

    def box(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and highest value of each feature. For ``norm=inf`` these are all perturbed inputs there are; else
        they hold more."""
        return self.clamp(features - self.radius), self.clamp(features + self.radius)

    def steepest(self, slope: Tensor) -> Tensor:
        """The perturbation of norm 1 along which a linear function grows most, for each sample; 0 for a slope of 0."""
        flat = slope.flatten(1)
        if math.isinf(self.norm):
            return torch.sign(slope)
        if self.norm == 1:
            at = flat.abs().argmax(1, keepdim=True)
            return torch.zeros_like(flat).scatter(1, at, torch.sign(flat.gather(1, at))).reshape(slope.shape)
        # Equality in Hoelder: |delta_j|^p is proportional to |slope_j|^q.
        scaled = flat.abs() / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
        powered = torch.sign(flat) * scaled ** (self.dual - 1)
        length = torch.linalg.vector_norm(powered, ord=self.norm, dim=1, keepdim=True)
        return (powered / length.clamp_min(torch.finfo(flat.dtype).tiny)).reshape(slope.shape)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest perturbation in the ball, for ``norm`` inf, 2 and 1; for another norm the one on the way to 0."""
        if math.isinf(self.norm):
            return delta.clamp(-self.radius, self.radius)
        flat = delta.flatten(1)
        if self.norm == 1:
            return _onto_l1(flat, self.radius).reshape(delta.shape)
        length = torch.linalg.vector_norm(flat, ord=self.norm, dim=1, keepdim=True)
        shrink = (self.radius / length.clamp_min(torch.finfo(flat.dtype).tiny)).clamp_max(1.0)
        return (flat * shrink).reshape(delta.shape)

    def move(self, features: Tensor, delta: Tensor) -> Tensor:
        """The perturbed input: the perturbation projected on the ball, then the input on the valid range. Clipping
        moves it towards 0, so that it stays in the ball."""
        return self.clamp(features + self.project(delta))

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Random perturbations: uniform in the box for ``norm=inf``, else in a random direction at ``r u^(1/d)``."""
        draw = features.flatten(1)
        d = draw.shape[1]
        if math.isinf(self.norm):
            u = torch.rand(draw.shape, generator=generator, dtype=torch.float64, device=generator.device)
            return (self.radius * (2 * u - 1)).to(features).reshape(features.shape)
        g = torch.randn(draw.shape, generator=generator, dtype=torch.float64, device=generator.device)
        u = torch.rand((len(draw), 1), generator=generator, dtype=torch.float64, device=generator.device)
        g = g / torch.linalg.vector_norm(g, ord=self.norm, dim=1, keepdim=True)
        return (self.radius * u ** (1 / d) * g).to(features).reshape(features.shape)


def _onto_l1(flat: Tensor, radius: float) -> Tensor:
    """Rows projected on the l1 ball."""
    size = flat.abs()
    ordered = size.sort(dim=1, descending=True).values
    counts = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
    levels = (ordered.cumsum(1) - radius) / counts
    last = (ordered > levels).sum(1, keepdim=True).clamp_min(1) - 1
    level = levels.gather(1, last).clamp_min(0)
    inside = size.sum(1, keepdim=True) <= radius
    return torch.where(inside, flat, torch.sign(flat) * (size - level).clamp_min(0))
