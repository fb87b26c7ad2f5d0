"""Whole training steps of methods that evaluate more than a gradient, or less, in units of a plain step."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ...optim import MFAC, SAM, ExactGaussNewton
from ...optim.schedules import GradES
from ...train.parametrize import tract
from .models import Setting, conv, mlp, settings
from .turns import Promise, Row, Way, most, turns

__all__ = ["egn", "grades", "mfac", "sam", "tracts"]


def _sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e-4, momentum=0.9)


def _training(setting: Setting, make: Callable[[Any], torch.optim.Optimizer] = _sgd) -> Callable[[], Any]:
    """A training step of a copy of the model: gradient and update, by a closure as all of these accept it."""
    model = copy.deepcopy(setting.model)
    optimizer = make(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = setting.loss(model(setting.inputs), setting.targets)
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def sam(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """Sharpness-aware minimization over SGD with momentum."""
    rows: list[Row] = []
    for setting in settings(smoke):
        ways = [
            Way("SGD with momentum", "torch", _training(setting)),
            Way("SAM over it", "steepest", _training(setting, lambda p: SAM(_sgd(p), rho=0.05))),
        ]
        rows += turns("training steps with a second gradient", setting.name, ways, rounds)
    ratios = [r.ratio for r in rows if r.package == "steepest"]
    return rows, [most("SAM: at most 2.1 steps of its base", 2.1, ratios, not smoke)]


def _frozen(setting: Setting, share: float) -> tuple[Callable[[], Any], float]:
    """Training steps under GradES after it froze a share of the matrices, the last ones first; the share of weights."""
    model = copy.deepcopy(setting.model)
    optimizer = _sgd(model.parameters())
    matrices = [p for p in model.parameters() if p.dim() > 1]
    stopping = GradES(model, total_steps=10**6, threshold=0.0, grace=0.0)
    count = round(share * len(matrices))
    for p in matrices[len(matrices) - count :]:
        p.requires_grad_(False)
        p.grad = None

    def step() -> None:
        optimizer.zero_grad()
        setting.loss(model(setting.inputs), setting.targets).backward()
        optimizer.step()
        stopping.step()

    total = sum(p.numel() for p in matrices)
    return step, sum(p.numel() for p in matrices[len(matrices) - count :]) / total


def grades(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """Step time over the share of frozen weights, in a network of equal layers."""
    width, depth = (16, 4) if smoke else (1024, 8)
    setting = mlp((width,) * (depth + 1), 16 if smoke else 256)
    shares = (0.0, 0.5) if smoke else (0.0, 0.25, 0.5, 0.75)
    made = [_frozen(setting, share) for share in shares]
    ways = [Way(f"{part:.0%} of the weights frozen", "steepest", step) for step, part in made]
    rows = turns("training steps under GradES", setting.name, ways, rounds)
    # A frozen matrix spares the third of its products that makes its own gradient, and its update.
    saved = [(1 - r.ratio) / part for r, (_, part) in zip(rows[1:], made[1:], strict=True) if r.ratio is not None]
    figure = f"{min(saved):.0%} to {max(saved):.0%} of a step per 100 % frozen; a third is what the products allow"
    even = min(saved) >= 1 / 4 and max(saved) <= 2 * min(saved)
    text = "GradES: step time falls in proportion to the frozen share"
    return rows, [Promise(text, figure, None if smoke else even)]


def tracts(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """TrAct on the first layer of convolutional networks, shallow and deeper."""
    rows: list[Row] = []
    for setting in [conv(2, 4, 8)] if smoke else [conv(32, 32), conv(32, 32, repeats=8)]:
        changed = copy.deepcopy(setting)
        assert isinstance(changed.model, nn.Sequential)
        first: Any = changed.model[0]
        tract(first)
        ways = [
            Way("SGD with momentum", "torch", _training(setting)),
            Way("TrAct on the first layer", "steepest", _training(changed)),
        ]
        rows += turns("training steps with TrAct", setting.name, ways, rounds)
    return rows, [most("TrAct: at most 10 % overhead", 1.1, [r.ratio for r in rows[1::2]], not smoke)]


def mfac(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """M-FAC with a history of 32 gradients against SGD, at the batch size of its paper."""
    setting = mlp((8, 16, 10), 8) if smoke else mlp((1024, 2560, 2560, 340, 10), 128)
    history = 4 if smoke else 32

    def make(params: Any) -> torch.optim.Optimizer:
        return MFAC(params, lr=1e-6, damping=1e-3, history_size=history)

    ways = [
        Way("SGD with momentum", "torch", _training(setting)),
        Way(f"M-FAC, {history} gradients", "steepest", _training(setting, make)),
    ]
    rows = turns("training steps of M-FAC", setting.name, ways, max(2, rounds // 2))
    return rows, [most("M-FAC: at most 2 training steps of SGD", 2.0, [rows[1].ratio], not smoke)]


def egn(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """Exact Gauss-Newton over the number of parameters."""
    rows: list[Row] = []
    costs = []
    for width in (16, 32) if smoke else (256, 512, 1024, 2048):
        setting = mlp((32, width, width, 1), 8 if smoke else 32)
        targets = torch.randn(len(setting.inputs), 1)
        model = copy.deepcopy(setting.model)
        optimizer = ExactGaussNewton(model, loss="squared", lr=1e-3)

        def step(opt: Any = optimizer, x: Tensor = setting.inputs, y: Tensor = targets) -> Any:
            return opt.step(x, y)

        plain = Setting(setting.name, setting.model, setting.inputs, targets, mse_loss)
        ways = [Way("SGD with momentum", "torch", _training(plain)), Way("exact Gauss-Newton", "steepest", step)]
        found = turns("training steps of exact Gauss-Newton, one output", setting.name, ways, rounds)
        rows += found
        size = sum(p.numel() for p in model.parameters())
        if found[1].milliseconds is not None:
            costs.append(1e6 * found[1].milliseconds / size)
    large = costs[1:]  # the smallest model's step is mostly fixed cost
    figure = f"{min(large):.3g} to {max(large):.3g} ns per parameter" if large else "not measured"
    met = None if smoke or not large else max(large) <= 2 * min(large)
    return rows, [Promise("exact Gauss-Newton: a step linear in the parameters (within a factor of 2)", figure, met)]
