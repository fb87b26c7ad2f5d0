"""What the methods for sums share: drawing samples, the smoothness that a batch sees, and honest measurements."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from steepest.core.solver import Solver, State
from steepest.core.stopping import Measures
from steepest.core.tree import Point, add_scaled, norm, tree_map
from steepest.solve.convex.problem import SumProblem

__all__ = ["StochasticSolver", "draw", "measure_sum", "smoothness", "spread", "step_or"]


def draw(samples: int, batch: int, count: int, generator: torch.Generator, *, replacement: bool) -> Tensor:
    """``count`` independent batches of uniform indices below ``samples``, as a ``(count, batch)`` tensor.

    Without replacement, the indices of one batch are distinct, and all sets of that size equally likely.
    """
    device = generator.device
    if count == 0 or replacement or batch == 1:
        return torch.randint(samples, (count, batch), generator=generator, device=device)
    if batch * batch > samples:
        rows = [torch.randperm(samples, generator=generator, device=device)[:batch] for _ in range(count)]
        return torch.stack(rows)
    # Batches drawn with replacement that happen to be distinct are uniform among the distinct ones: repeat the others.
    found = torch.randint(samples, (count, batch), generator=generator, device=device)
    while True:
        ordered = found.sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero().flatten()
        if not len(again):
            return found
        found[again] = torch.randint(samples, (len(again), batch), generator=generator, device=device)


def spread(samples: int, batch: int, *, replacement: bool) -> float:
    """The variance of a batch's mean over that of one sample: ``1/b``, or ``(n-b) / (b (n-1))`` without replacement."""
    if replacement:
        return 1.0 / batch
    return 0.0 if samples == 1 else (samples - batch) / (batch * (samples - 1))


def smoothness(problem: SumProblem, batch: int, *, replacement: bool) -> float | None:
    """The expected smoothness of batches, between the worst sample's (``batch`` 1) and that of ``f``::

        L_b = (1 - s) L + s L_max,        s = spread

    with the worst sample's in place of that of ``f`` where the latter is not known; ``None`` where neither is.
    """
    worst, whole = problem.sample_lipschitz, problem.lipschitz
    if worst is None:
        return None
    share = spread(problem.samples, batch, replacement=replacement)
    whole = worst if whole is None else min(whole, worst)  # the mean is as smooth as its roughest part, at least
    return (1 - share) * whole + share * worst


def step_or(given: float | None, numerator: float, constant: float | None, name: str) -> float:
    """A step size as given, or ``numerator / constant`` of the problem.

    Raises:
        ValueError: neither is there.
    """
    if given is not None:
        return given
    if constant is None:
        raise ValueError(f"{name} must be given, since the problem does not state sample_lipschitz")
    return numerator / constant if constant > 0 else 1.0


def measure_sum(problem: SumProblem, x: Point) -> Measures:
    """The value at ``x``, and the norm of the gradient mapping with step ``1 / L`` (1 where ``L`` is not known): the
    gradient's, where there is no regularizer; ``None`` where ``f`` is not smooth."""
    if "smooth gradient" not in problem.offers:
        return Measures.of(problem.value(x))
    step = step_or(None, 1.0, problem.lipschitz or problem.sample_lipschitz or 1.0, "")
    value, gradient = problem.smooth_value_and_gradient(x)
    moved: Point = problem.prox(add_scaled(x, -step, gradient), step)
    mapping = tree_map(lambda a, b: (a - b) / step, x, moved)
    return Measures.of(value + problem.regularizer_value(x), norm(mapping))


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class StochasticSolver(Solver[SumProblem, S]):
    """The base of methods that draw batches of samples.

    One step of a run takes many steps of the method, an epoch by default, so that what is measured between them (value
    and stationarity need all samples) costs no more than the method itself.

    Args:
        batch: samples per step of the method, >= 1. Default 1.
        replacement: whether the samples of one batch may repeat. Batches are independent of each other in both cases.
    """

    batch: int = 1
    replacement: bool = True

    def batch_size(self, problem: SumProblem) -> int:
        """Samples per batch."""
        return self.batch

    def check_batch(self, problem: SumProblem) -> None:
        """Raise ``ValueError`` where a batch asks for more distinct samples than there are."""
        if not self.replacement and self.batch_size(problem) > problem.samples:
            raise ValueError(
                f"{type(self).__name__}: batch must be at most the number of samples, {problem.samples}, "
                f"without replacement, got {self.batch}"
            )

    def draw(self, problem: SumProblem, count: int, generator: torch.Generator) -> Tensor:
        """``count`` batches of indices."""
        return draw(problem.samples, self.batch_size(problem), count, generator, replacement=self.replacement)

    def epoch(self, problem: SumProblem) -> int:
        """The number of batches that make up an epoch."""
        return -(-problem.samples // self.batch_size(problem))

    def measure(self, problem: SumProblem, state: S) -> Measures:
        """The value and the stationarity at the solution."""
        return measure_sum(problem, self.solution(problem, state))
