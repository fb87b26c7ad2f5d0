"""How many factorizations lazy Newton saves."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ...core.regularizer import SquaredL2
from ...solve.convex import LazyNewton, LinearModel, Newton
from .contest import Promise
from .data import gaussian

__all__ = ["measure"]


def measure(smoke: bool, rounds: int, progress: Callable[[str], None]) -> tuple[list[dict[str, Any]], list[Promise]]:
    """Logistic regression in several dimensions, from zero to a gradient of 1e-8: factorizations and seconds."""
    table: list[dict[str, Any]] = []
    for d in (50,) if smoke else (100, 200, 400):
        progress(f"lazy Newton, d = {d}")
        design, target = gaussian(10 * d, d, d, 1.0, seed=1)
        problem = LinearModel(design, target.sign(), "logistic", SquaredL2(1e-4)).as_smooth()
        start = design.new_zeros(d)
        with torch.no_grad():
            newton = Newton().run(problem, start, budget="200steps", tolerance=1e-8)
            lazy = LazyNewton().run(problem, start, budget="5000steps", tolerance=1e-8)
        both = newton.success and lazy.success
        table.append(
            {
                "d": d,
                "Newton": newton.calls["factorization"],
                "lazy": lazy.calls["factorization"],
                "fewer": newton.calls["factorization"] / lazy.calls["factorization"] if both else None,
                "sqrt(d)/4": math.sqrt(d) / 4,
                "Newton s": newton.seconds,
                "lazy s": lazy.seconds,
            }
        )
    met = all(row["fewer"] is not None and row["fewer"] >= row["sqrt(d)/4"] for row in table)
    parts = [
        f"d = {row['d']}: "
        + ("not solved" if row["fewer"] is None else f"{row['fewer']:.1f} times")
        + f" (sqrt(d)/4 = {row['sqrt(d)/4']:.1f})"
        for row in table
    ]
    figure = ", ".join(parts)
    return table, [Promise("lazy Newton: at least sqrt(d)/4 times fewer factorizations than Newton", figure, met)]
