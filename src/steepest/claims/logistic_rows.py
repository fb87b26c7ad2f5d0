"""Logistic regression on random rows of a data set, with the columns as they are or multiplied by random scales."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from steepest import data

__all__ = ["Regression", "best_of", "descend", "draw_rows", "half_decades"]


@dataclass(frozen=True)
class Regression:
    """The mean of ``log(1 + exp(-y <a, x>))``, and ``decay / 2 |x|^2``; in float64, from ``x = 0``."""

    design: Tensor
    target: Tensor  # -1 and 1
    decay: float = 0.0

    def loss(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Of all rows, or of some."""
        a, y = (self.design, self.target) if rows is None else (self.design[rows], self.target[rows])
        return softplus(-y * (a @ x)).mean() + 0.5 * self.decay * (x @ x)

    def start(self) -> nn.Parameter:
        """The point zero, to be trained."""
        return nn.Parameter(torch.zeros_like(self.design[0]))

    def rescaled(self, reach: float, seed: int) -> "Regression":
        """The columns times ``exp(u)`` with ``u`` uniform between ``-reach`` and ``reach``."""
        generator = torch.Generator().manual_seed(seed)
        u = 2 * torch.rand(self.design.shape[1], generator=generator, dtype=torch.float64) - 1
        return replace(self, design=self.design * torch.exp(reach * u))

    def optimum(self) -> float:
        """The smallest value (there is one where ``decay`` is positive), by Newton's method with halved steps."""
        x = torch.zeros_like(self.design[0])
        value = float(self.loss(x))
        for _ in range(200):
            p = torch.sigmoid(-self.target * (self.design @ x))
            gradient = -(self.design.mT @ (self.target * p)) / len(p) + self.decay * x
            hessian = self.design.mT @ (self.design * (p * (1 - p) / len(p))[:, None])
            hessian.diagonal().add_(self.decay)
            # Columns of very different scales: solved for the unit diagonal.
            unit = hessian.diagonal().rsqrt()
            step = unit * torch.linalg.solve(hessian * unit * unit[:, None], unit * gradient)
            size = 1.0
            while size > 1e-12 and not float(self.loss(x - size * step)) < value:
                size /= 2
            if size <= 1e-12:
                break
            x = x - size * step
            value = float(self.loss(x))
        return value


@cache
def _all(name: str) -> tuple[Tensor, Tensor]:
    if name == "breast_cancer":
        found = data.breast_cancer(dtype=torch.float64, validation=0.0, test=0.0).train
    else:
        found = data.libsvm(name, dense=True, dtype=torch.float64, validation=0.0, test=0.0).train
    return found.inputs, 2.0 * found.targets.to(torch.float64) - 1.0


def draw_rows(name: str, count: int, seed: int, decay: float = 0.0) -> Regression:
    """``count`` random rows of a data set, without the columns that are zero in them.

    Args:
        name: a LIBSVM data set, ``"breast_cancer"``, or ``"separable"``: 100 normal features and the sign of a random
            linear function of them.
        count: rows at most.
        seed: of the draw.
        decay: of the regression.
    """
    generator = torch.Generator().manual_seed(seed)
    if name == "separable":
        design = torch.randn(count, 100, generator=generator, dtype=torch.float64)
        return Regression(design, torch.sign(design @ torch.randn(100, generator=generator).double()), decay)
    inputs, target = _all(name)
    chosen = torch.randperm(len(target), generator=generator)[:count]
    rows = inputs[chosen]
    return Regression(rows[:, rows.abs().sum(0) > 0], target[chosen], decay)


def batches(problem: Regression, size: int | None, seed: int) -> Iterator[Tensor | None]:
    """Rows of mini-batches, shuffled anew in every epoch; ``None`` for all rows, where there is no size."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        if size is None:
            yield None
            continue
        order = torch.randperm(len(problem.target), generator=generator)
        yield from order[: len(order) // size * size].split(size)


def descend(
    problem: Regression,
    make: Callable[[nn.Parameter], Any],
    steps: int,
    *,
    batch: int | None = None,
    seed: int = 0,
    every: int = 1,
    differentiates: bool = False,
    most: float = 1e6,
) -> list[float]:
    """The loss of all rows after every ``every`` steps, and first at the start; infinite from where it blows up.

    Args:
        make: makes the optimizer of the parameter.
        differentiates: whether it wants closures that do not call backward.
        most: the multiple of the first loss from which a run is given up.
    """
    x = problem.start()
    optimizer = make(x)
    drawn = batches(problem, batch, seed)
    begun = float(problem.loss(x.detach()))
    found = [begun]
    for step in range(1, steps + 1):
        rows = next(drawn)

        def closure(rows: Tensor | None = rows) -> Tensor:
            optimizer.zero_grad()
            loss = problem.loss(x, rows)
            if not differentiates:
                loss.backward()
            return loss

        optimizer.step(closure)
        if step % every == 0:
            value = float(problem.loss(x.detach()))
            if not math.isfinite(value) or value > most * begun:
                return [*found, *[math.inf] * (steps // every - len(found) + 1)]
            found.append(value)
    return found


def half_decades(low: float, count: int) -> tuple[float, ...]:
    """``count`` numbers in steps of the root of ten, the first ``10**low``."""
    return tuple(10 ** (low + k / 2) for k in range(count))


def best_of(scores: dict[float, float]) -> tuple[float, bool]:
    """The learning rate of the lowest score, and whether it is the first or the last of those tried."""
    chosen = min(scores, key=lambda rate: scores[rate] if not math.isnan(scores[rate]) else math.inf)
    return chosen, len(scores) > 1 and chosen in (min(scores), max(scores))
