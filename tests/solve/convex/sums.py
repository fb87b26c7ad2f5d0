"""Sums with known minimizers and constants, for the tests of stochastic methods."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core.regularizer import Regularizer
from steepest.solve.convex import stochastic
from steepest.solve.convex.problem import FiniteSum, SumProblem


class Known(SumProblem):
    """A ridge regression whose oracles are closed forms: as :meth:`Ridge.finite_sum`, and many times as fast."""

    def __init__(self, ridge: "Ridge", regularizer: Regularizer | None) -> None:
        self.data = ridge
        super().__init__(
            lambda x: ridge.losses(x).mean(), regularizer, lipschitz=ridge.lipschitz, strong_convexity=ridge.m
        )

    @property
    def samples(self) -> int:
        return self.data.n

    @property
    def sample_lipschitz(self) -> float:
        return self.data.worst

    def _sample_values(self, x: Tensor, indices: Tensor) -> Tensor:
        return self.data.losses(x)[indices]

    def _sample_gradient(self, x: Tensor, indices: Tensor) -> Tensor:
        rows = self.data.design[indices]
        return ((rows @ x - self.data.target[indices]) @ rows) / len(indices) + self.data.ridge * x

    def _compact_gradients(self, x: Tensor, indices: Tensor) -> Tensor:
        return self.data.gradients(x)[indices]


class Ridge:
    """``f_i(x) = (a_i . x - y_i)^2 / 2 + m |x|^2 / 2`` with everything about it, in closed form."""

    def __init__(
        self, n: int = 20, d: int = 4, ridge: float = 0.1, noise: float = 1.0, seed: int = 0, dtype: Any = torch.float64
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.design = torch.randn(n, d, dtype=torch.float64, generator=generator) * torch.linspace(0.5, 1.5, n)[:, None]
        truth = torch.randn(d, dtype=torch.float64, generator=generator)
        self.target = self.design @ truth + noise * torch.randn(n, dtype=torch.float64, generator=generator)
        self.ridge, self.n, self.d = ridge, n, d
        eye = ridge * torch.eye(d, dtype=torch.float64)
        self.hessians = self.design[:, :, None] * self.design[:, None, :] + eye
        self.hessian = self.hessians.mean(0)
        self.minimizer = torch.linalg.solve(self.hessian, self.design.T @ self.target / n)
        eigenvalues = torch.linalg.eigvalsh(self.hessian)
        self.m, self.lipschitz = float(eigenvalues[0]), float(eigenvalues[-1])
        self.worst = float(self.design.square().sum(1).max()) + ridge
        self.noise = float(self.gradients(self.minimizer).square().sum(1).mean())  # the mean gradient is 0 there
        self.optimum = float(self.losses(self.minimizer).mean())
        self.dtype = dtype

    def losses(self, x: Tensor) -> Tensor:
        return 0.5 * (self.design @ x - self.target).square() + 0.5 * self.ridge * x.square().sum()

    def gradients(self, x: Tensor) -> Tensor:
        return (self.design @ x - self.target)[:, None] * self.design + self.ridge * x

    def problem(self, regularizer: Regularizer | None = None) -> Known:
        return Known(self, regularizer)

    def finite_sum(self, regularizer: Regularizer | None = None) -> FiniteSum:
        design, target, ridge = self.design.to(self.dtype), self.target.to(self.dtype), self.ridge

        def function(x: Tensor, indices: Tensor) -> Tensor:
            return 0.5 * (design[indices] @ x - target[indices]).square() + 0.5 * ridge * x.square().sum()

        return FiniteSum(
            function,
            self.n,
            regularizer,
            lipschitz=self.lipschitz,
            sample_lipschitz=self.worst,
            strong_convexity=self.m,
        )

    def gap(self, x: Tensor) -> float:
        return float(self.losses(x).mean()) - self.optimum

    def distance(self, x: Tensor) -> float:
        return float((x - self.minimizer).square().sum())


def paths(solver: Any, problem: SumProblem, start: Tensor, steps: int, seeds: int, first: int = 0) -> list[list[Any]]:
    """The states of runs with several seeds: ``[seed][step]``."""
    found = []
    with torch.no_grad():
        for seed in range(first, first + seeds):
            states = [solver.init(problem, start, torch.Generator().manual_seed(seed))]
            for _ in range(steps):
                states.append(solver.step(problem, states[-1]))
            found.append(states)
    return found


def mean_and_error(values: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the first axis, and its standard error."""
    array = np.array(values)
    return array.mean(0), array.std(0, ddof=1) / math.sqrt(len(array))


@contextmanager
def drawn(batches: list[list[int]]) -> Iterator[None]:
    """The next batches that any stochastic method draws."""
    queue = list(batches)
    original = stochastic.draw

    def planned(samples: int, batch: int, count: int, generator: Any, *, replacement: bool) -> Tensor:
        taken = [queue.pop(0) for _ in range(count)]
        assert all(len(b) == batch for b in taken)
        return torch.tensor(taken)

    stochastic.draw = planned
    try:
        yield
    finally:
        stochastic.draw = original
    assert not queue


def expectation(step: Callable[[], Tensor], n: int, batch: int, count: int = 1, replacement: bool = True) -> Tensor:
    """The exact mean of what ``step`` returns over all batches that it may draw."""
    each = list(itertools.product(range(n), repeat=batch) if replacement else itertools.permutations(range(n), batch))
    total = []
    for choice in itertools.product(each, repeat=count):
        with drawn([list(b) for b in choice]):
            total.append(step())
    return torch.stack(total).mean(0)
