"""The models that the oracles are timed on."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["Setting", "conv", "mlp", "settings"]


@dataclass(frozen=True)
class Setting:
    """A model with a batch."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Callable[[Any, Any], Tensor] = cross_entropy

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of the model's."""
        return list(self.model.parameters())

    def value(self) -> Tensor:
        """The loss of the batch, with its graph."""
        return self.loss(self.model(self.inputs), self.targets)

    def gradient(self) -> tuple[Tensor, ...]:
        """Its gradient."""
        return torch.autograd.grad(self.value(), self.parameters)


def mlp(widths: tuple[int, ...], samples: int, seed: int = 0) -> Setting:
    """A ReLU network of these widths on random inputs, in evaluation mode."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for index, (n, m) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] * (index > 0) + [nn.Linear(n, m)]
    model = nn.Sequential(*layers).eval()
    size = sum(p.numel() for p in model.parameters())
    name = f"MLP {'-'.join(map(str, widths))} ({_count(size)}), {samples} samples"
    return Setting(name, model, torch.randn(samples, widths[0]), torch.randint(widths[-1], (samples,)))


def conv(channels: int, samples: int, size: int = 32, seed: int = 0, repeats: int = 1) -> Setting:
    """A convolutional network on random images, in evaluation mode: ``2 + repeats`` convolutions."""
    torch.manual_seed(seed)
    c = channels
    layers: list[nn.Module] = [nn.Conv2d(3, c, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), nn.ReLU()]
    for _ in range(repeats):
        layers += [nn.Conv2d(2 * c, 2 * c, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * c, 10)).eval()
    count = sum(p.numel() for p in model.parameters())
    name = f"CNN, {2 + repeats} convolutions ({_count(count)}), {samples} images of {size} x {size}"
    return Setting(name, model, torch.randn(samples, 3, size, size), torch.randint(10, (samples,)))


def settings(smoke: bool) -> list[Setting]:
    """The pair of models for derivatives."""
    if smoke:
        return [mlp((8, 16, 10), 8), conv(2, 4, 8)]
    return [mlp((256, 1024, 512, 10), 256), conv(32, 32)]


def _count(size: int) -> str:
    return f"{size / 1e6:.1f} M parameters" if size >= 100_000 else f"{size / 1e3:.1f} k parameters"
