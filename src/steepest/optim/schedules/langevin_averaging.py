"""Langevin dynamics on the sphere, whose time average points where no single iterate does."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ...core.card import MethodCard, Paper
from ...core.errors import parameter_label
from ...core.ranges import Flag, Integer, Real
from ...core.sharding import is_sharded
from ...core.transform import Entry, Transform
from ..gradient_noise import gaussian

__all__ = ["CARD", "LangevinAveraging"]


class LangevinAveraging(Transform):
    r"""Turns SGD into Langevin dynamics on the unit sphere, and averages its iterates over time.

    A vector is one point on the sphere, the rows of a matrix (and of what has more dimensions) are one each. With the
    drift :math:`\varepsilon`, the gradient :math:`g` of the loss, the learning rate :math:`\eta` and the time step
    :math:`h = \eta / \varepsilon`

    .. math::
        v = P_\theta \left(-\eta\, g + \sqrt h\, \xi\right), \qquad
        \theta \leftarrow \frac{\theta + v}{\|\theta + v\|}, \qquad \xi \sim \mathcal N(0, I), \quad
        P_\theta = I - \theta \theta^\top,

    a discretization of :math:`d\theta = \left(-\tfrac{d - 1}{2} \theta - \varepsilon P_\theta g\right) dt + P_\theta\,
    dW`. While the noise dominates, no iterate comes near the direction that the data hide, yet the time average
    :math:`\bar\theta = \frac1T \int \theta\, dt` points to it: the noise smooths the landscape. Where the loss is even
    in :math:`\theta` that average vanishes, and the direction is the top eigenvector of
    :math:`\frac1T \int \theta \theta^\top dt`.

    The average, :meth:`averages`, is not normalized; its length says how much is signal. :meth:`directions` is what to
    use. The parameters are normalized when they are wrapped. The noise depends on ``seed`` and the step alone, as that
    of :class:`~steepest.optim.GradientNoise`; averages are kept in the state of the optimizer and saved with it.

    Args:
        base: ``torch.optim.SGD`` without momentum and weight decay, or a transform over it; its ``lr`` is :math:`\eta`.
        drift: :math:`\varepsilon > 0`, the strength of the loss against the noise. Small: a better direction in the
            end, but a longer time, of order :math:`1 / \varepsilon^2`, until the average has settled. Too large: the
            iterates stay in a maximum of the noise. :math:`\eta \|g\| \ll 1` is needed.
        second_moment: for losses that are even: average :math:`\theta \theta^\top` too, which takes :math:`d^2`
            numbers per point, and take the direction from it.
        seed: of the noise, in [0, 2^63).

    Raises:
        ValueError, TypeError: a setting is out of its range, ``base`` is not plain SGD, or a parameter is not float32
            or float64, is sharded, is a scalar, or has a point 0 or of one dimension.

    Source: Wei, Damian, Lee (2026), Improved high-dimensional estimation with Langevin dynamics and stochastic weight
    averaging, arXiv 2603.06028.
    """

    ranges = {
        "drift": Real(low=0.0, low_open=True),
        "second_moment": Flag(),
        "seed": Integer(high=2**63 - 1),
    }
    counts = ("steps",)
    moves = True
    drift: float
    second_moment: bool
    seed: int
    steps: int

    def __init__(self, base: Optimizer, drift: float = 1.0, second_moment: bool = False, seed: int = 0) -> None:
        super().__init__(base, drift=drift, second_moment=second_moment, seed=seed)
        for group in self.param_groups:
            self._take(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base, and normalize its parameters."""
        super().add_param_group(param_group)
        self._take(self.param_groups[-1])

    @torch.no_grad()
    def _take(self, group: dict[str, Any]) -> None:
        plain = isinstance(self.unwrapped, SGD) and not group["momentum"] and not group["weight_decay"]
        if not plain:
            raise ValueError(
                "LangevinAveraging: base must be torch.optim.SGD with momentum=0 and weight_decay=0, got "
                f"{self.unwrapped!r}"
            )
        for p in group["params"]:
            label = parameter_label(self.param_groups, p)
            if p.dtype not in (torch.float32, torch.float64) or is_sharded(p) or p.dim() < 1 or p.shape[-1] < 2:
                raise ValueError(
                    "LangevinAveraging: a parameter must hold points of at least two dimensions in float32 or float64 "
                    f"and not be sharded, got parameter {label} of shape {tuple(p.shape)}, {p.dtype}"
                )
            length = torch.linalg.vector_norm(p, dim=-1, keepdim=True)
            if not bool((length > 0).all()):
                raise ValueError(f"LangevinAveraging: a point must not be 0 or NaN, got one in parameter {label}")
            # A point of a run that is resumed stays as it is, to the last bit.
            p.copy_(torch.where((length - 1).abs() > 8 * torch.finfo(p.dtype).eps, p / length, p))

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor]:
        """The gradients with noise, along the sphere."""
        noise = gaussian([entry.gradient for entry in entries], self.seed, self.steps)
        found = []
        for (group, p, g), xi in zip(entries, noise, strict=True):
            # SGD multiplies by the learning rate: sqrt(h) xi = lr * xi / sqrt(lr * drift).
            lr = float(group["lr"])
            moved = g - xi * (lr * self.drift) ** -0.5 if lr > 0 else g
            found.append(moved - p * (p * moved).sum(-1, keepdim=True))
        return found

    def finish(self, entries: Sequence[Entry], begun: Any) -> None:
        """Return to the sphere, and add the iterates to the averages."""
        for group, p, _ in entries:
            p.copy_(torch.nn.functional.normalize(p, dim=-1))
            time = float(group["lr"]) / self.drift
            state = self.state[p]
            if "time" not in state:
                state["time"] = torch.zeros((), dtype=p.dtype)
                state["integral"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            if self.second_moment and "second_integral" not in state:
                state["second_integral"] = p.new_zeros(*p.shape, p.shape[-1])
            state["time"] += time
            state["integral"].add_(p, alpha=time)
            if self.second_moment:
                state["second_integral"].add_(p[..., :, None] * p[..., None, :], alpha=time)
        self.steps += 1

    def averages(self) -> list[Tensor]:
        r"""The time averages :math:`\bar\theta`, of all parameters in the order of the groups, not normalized.

        Raises:
            RuntimeError: a parameter has not been moved yet.
        """
        return [state["integral"] / state["time"].to(state["integral"].device) for state in self._states()]

    def second_moments(self) -> list[Tensor]:
        r"""The time averages of :math:`\theta \theta^\top`, of shape ``(*parameter.shape, d)``.

        Raises:
            RuntimeError: a parameter has not been moved yet, or ``second_moment`` was not set from the beginning.
        """
        found = []
        for state in self._states():
            if "second_integral" not in state:
                raise RuntimeError("LangevinAveraging: second moments are averaged with second_moment=True only")
            found.append(state["second_integral"] / state["time"].to(state["second_integral"].device))
        return found

    def directions(self) -> list[Tensor]:
        r"""What was estimated, on the sphere: :math:`\bar\theta / \|\bar\theta\|`, or with ``second_moment`` the top
        eigenvectors, whose sign is arbitrary."""
        if self.second_moment:
            return [torch.linalg.eigh(moment).eigenvectors[..., -1] for moment in self.second_moments()]
        return [torch.nn.functional.normalize(average, dim=-1) for average in self.averages()]

    def _states(self) -> Iterator[dict[str, Any]]:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p, {})
                if "time" not in state or not state["time"] > 0:
                    label = parameter_label(self.param_groups, p)
                    raise RuntimeError(f"LangevinAveraging: parameter {label} has not been moved yet")
                yield state


CARD = MethodCard(
    name="langevin-averaging",
    title="Langevin averaging",
    room="schedules",
    family="averaging",
    summary="Adds Langevin noise to SGD on the sphere and averages the iterates over time.",
    target="steepest.optim.schedules.langevin_averaging:LangevinAveraging",
    papers=(
        Paper(
            "Wei, Damian, Lee",
            2026,
            "Improved high-dimensional estimation with Langevin dynamics and stochastic weight averaging",
            arxiv="2603.06028",
        ),
    ),
    buffers=1,
    usage="steepest.optim.schedules.LangevinAveraging(torch.optim.SGD([direction], lr=0.01), drift=3.0)",
    claim="In the regime that noise dominates, no iterate of Langevin dynamics on the sphere finds the hidden "
    "direction, yet their time average does; where the loss is even, the second moment is needed.",
)
