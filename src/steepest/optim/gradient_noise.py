"""Annealed Gaussian noise on the gradients."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..core.card import Float, MethodCard, Paper
from ..core.ranges import Integer, Real
from ..core.rule import compute_dtype
from ..core.sharding import is_sharded, write_full
from ..core.transform import Entry, Transform

__all__ = ["CARD", "GradientNoise", "gaussian", "sgd_with_gradient_noise"]


class GradientNoise(Transform):
    r"""Adds to every coordinate of the gradient Gaussian noise whose variance decays with the step count.

    .. math::
        \sigma_t^2 = \frac{\eta}{(1 + t)^\gamma}, \qquad g_t \leftarrow g_t + \mathcal{N}(0, \sigma_t^2 I),
        \qquad t = 0, 1, \dots

    :math:`\sigma_t^2` is a variance: with the defaults the standard deviation is 0.1 at first and 0.008 after ten
    thousand steps, independent of the learning rate, in every coordinate alike. The authors clip the gradient first:
    ``NormClip(GradientNoise(base), max_norm)``. With an adaptive base the noise passes through its normalization.

    The noise of step :math:`t` is a function of ``seed`` and :math:`t` alone: a resumed run needs no more than the
    step count, replicas with equal seeds add equal noise, torch's global random state is neither read nor advanced,
    and a base that evaluates its closure several times meets the same noise in all evaluations of a step. Kinds of
    devices (CPU, CUDA) draw different numbers from one seed.

    Args:
        base: any optimizer.
        eta: :math:`\eta \ge 0`, the first variance; the authors try 0.01, 0.3 and 1. 0 adds nothing.
        gamma: :math:`\gamma \ge 0`, how fast it decays.
        seed: of the noise, in [0, 2^63).

    Raises:
        ValueError, TypeError: a setting is out of its range, or ``base`` is no optimizer.

    Source: Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens (2015), Adding Gradient Noise Improves Learning
    for Very Deep Networks, arXiv 1511.06807, equation 1.
    """

    ranges = {"eta": Real(low=0.0), "gamma": Real(low=0.0), "seed": Integer(high=2**63 - 1)}
    counts = ("steps",)
    eta: float
    gamma: float
    seed: int
    steps: int

    def __init__(self, base: Optimizer, eta: float = 0.01, gamma: float = 0.55, seed: int = 0) -> None:
        super().__init__(base, eta=eta, gamma=gamma, seed=seed)

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise of the next step."""
        return float((self.eta / (1 + self.steps) ** self.gamma) ** 0.5)

    def transform(self, entries: Sequence[Entry]) -> Sequence[Tensor] | None:
        """The gradients with noise, summed in float32 for half precision."""
        if not self.eta:
            return None
        deviation = self.deviation
        gradients = [entry.gradient for entry in entries]
        noise = gaussian(gradients, self.seed, self.steps)
        return [(g.to(n.dtype) + deviation * n).to(g.dtype) for g, n in zip(gradients, noise, strict=True)]

    def finish(self, entries: Sequence[Entry], begun: Any) -> None:
        """Count the step."""
        self.steps += 1


def gaussian(tensors: Sequence[Tensor], seed: int, step: int) -> list[Tensor]:
    """Standard normal numbers of the tensors' shapes, float32 for half precision, that depend on seed and step alone.

    Sharded tensors get their shard of what the whole one would get.
    """
    generators: dict[torch.device, torch.Generator] = {}
    found = []
    for t in tensors:
        if t.device not in generators:
            # Devices get streams of their own: equal ones would correlate the parameters that they hold.
            generators[t.device] = torch.Generator(t.device).manual_seed(_mixed(seed, step, len(generators)))
        dtype = compute_dtype(t.dtype)
        noise = torch.randn(t.shape, generator=generators[t.device], dtype=dtype, device=t.device)
        if is_sharded(t):
            shard = torch.empty_like(t, dtype=dtype)
            write_full(shard, noise)
            noise = shard
        found.append(noise)
    return found


def _mixed(*numbers: int) -> int:
    """A 63-bit seed that differs unpredictably for neighbouring numbers (splitmix64, once per number)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state >> 1


def sgd_with_gradient_noise(
    params: Iterable[Any],
    lr: float = 1e-2,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    eta: float = 0.01,
    gamma: float = 0.55,
    seed: int = 0,
) -> GradientNoise:
    """:class:`GradientNoise` over ``torch.optim.SGD``.

    Args:
        params: parameters, groups or named parameters.
        lr, momentum, weight_decay: SGD's.
        eta, gamma, seed: of the noise.

    Source: Neelakantan et al. (2015), arXiv 1511.06807.
    """
    base = SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return GradientNoise(base, eta=eta, gamma=gamma, seed=seed)


CARD = MethodCard(
    name="gradient-noise",
    title="Gradient noise",
    room="optim",
    family="transform",
    summary="Adds annealed Gaussian noise to the gradient before the step; here over SGD with momentum.",
    target="steepest.optim.gradient_noise:sgd_with_gradient_noise",
    papers=(
        Paper(
            "Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens",
            2015,
            "Adding Gradient Noise Improves Learning for Very Deep Networks",
            arxiv="1511.06807",
        ),
    ),
    buffers=1,
    search={"lr": Float(1e-4, 1.0, log=True), "eta": Float(1e-5, 1.0, log=True)},
    settings={"momentum": 0.9},
    claim="Annealed Gaussian noise on the gradient improves the training of very deep networks, and lets them learn "
    "from poor initial values.",
)
