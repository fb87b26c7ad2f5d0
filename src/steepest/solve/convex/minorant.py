"""What subgradient methods know of the minimum: the mean of the affine functions that their subgradients define.

Every subgradient ``g_i`` at ``x_i`` gives a lower bound of ``f`` everywhere, ``f(x_i) + <g_i, x - x_i>``. The mean of
them with the weights ``w_i`` of the averaged iterate is one too, and its minimum over a bounded set, which a linear
minimization finds, bounds ``min f`` from below. With ``f(x_bar) <= sum_i w_i f(x_i) / sum_i w_i`` for the average this
gives a duality gap without another value of ``f``. It is what the proofs bound, so it falls as their rates.
"""

from dataclasses import dataclass

from steepest.core import tree
from steepest.core.tree import Point
from steepest.solve.convex.problem import CompositeProblem

__all__ = ["Minorant"]


@dataclass(frozen=True, eq=False)
class Minorant:
    """Sums over the points that were looked at, with weights.

    Attributes:
        weight: the sum of the weights.
        value: the weighted sum of the values.
        level: the weighted sum of ``f(x_i) - <g_i, x_i>``.
        slope: the weighted sum of the subgradients.
        average: the weighted mean of the points.
        bound: the best lower bound so far; ``None`` where the set is not bounded.
    """

    weight: float
    value: float
    level: float
    slope: Point
    average: Point
    bound: float | None

    @classmethod
    def begin(cls, problem: CompositeProblem, x: Point, value: float, subgradient: Point) -> "Minorant":
        """No point yet; the average is the start, and the bound that of its subgradient."""
        empty = cls(0.0, 0.0, 0.0, tree.zeros_like(subgradient), x, None)
        return cls(0.0, 0.0, 0.0, empty.slope, x, empty.add(problem, 1.0, x, value, subgradient).bound)

    def add(self, problem: CompositeProblem, weight: float, x: Point, value: float, subgradient: Point) -> "Minorant":
        """One more point, its value and its subgradient."""
        total = self.weight + weight
        slope = tree.add_scaled(self.slope, weight, subgradient)
        level = self.level + weight * (value - float(tree.dot(subgradient, x)))
        bound = self.bound
        if "lmo" in problem.offers:
            lower = (level + float(tree.dot(slope, problem.lmo(slope)))) / total
            bound = lower if bound is None else max(bound, lower)
        part = weight / total
        average = tree.tree_map(lambda mean, new: mean + part * (new - mean), self.average, x)
        return Minorant(total, self.value + weight * value, level, slope, average, bound)

    def gap(self, value: float) -> float | None:
        """An upper bound on ``f(average) - min f``; ``None`` where the set is not bounded.

        Args:
            value: the value at the start, which counts while there is no average.
        """
        if self.bound is None:
            return None
        return max(0.0, (self.value / self.weight if self.weight > 0 else value) - self.bound)
