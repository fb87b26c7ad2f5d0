"""Logistic regression with an l2 penalty: our smooth solvers against every solver of scikit-learn."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ...core.regularizer import SquaredL2
from ...solve.convex import LBFGS, GradientNormalizedNewton, LazyNewton, LinearModel, Newton
from .contest import Outcome, Promise, Side, contest, promise_ratio
from .data import gaussian, w8a

__all__ = ["measure"]

SECTION = "logistic regression"
PEERS = ("lbfgs", "newton-cg", "newton-cholesky", "liblinear")
OURS = {
    "Newton": Newton(),
    "LBFGS": LBFGS(memory=30),
    "GradientNormalizedNewton": GradientNormalizedNewton(),
    "LazyNewton(every=5)": LazyNewton(every=5),
}


def measure(smoke: bool, rounds: int, progress: Callable[[str], None]) -> tuple[list[Outcome], list[Promise]]:
    """Dense features on a range of scales, and w8a; to three accuracies."""
    rows, columns = (1_000, 20) if smoke else (10_000, 200)
    design, target = gaussian(rows, columns, columns, 3.0)
    sets = [(f"dense {rows} x {columns}", design * torch.logspace(0, -1, columns, dtype=torch.float64), target.sign())]
    if not smoke and (found := w8a()) is not None:
        sets.append(("w8a 49,749 x 300", *found))
    outcomes: list[Outcome] = []
    for name, features, labels in sets:
        for part in (1e-4,) if smoke else (1e-4, 1e-6, 1e-8):
            progress(f"logistic regression, {name}, gradient {part:g}")
            outcomes += _contest(name, features, labels, part, rounds)
    return outcomes, [promise_ratio("logistic regression: at most 1.5x scikit-learn's best solver", 1.5, outcomes)]


def _contest(name: str, design: Tensor, target: Tensor, part: float, rounds: int) -> list[Outcome]:
    judge_view = LinearModel(design, target, "logistic", SquaredL2(1.0), scale="sum").as_smooth()
    zero = target.new_zeros(design.shape[1])
    scale = float(judge_view.gradient(zero).norm())
    linear: Any = importlib.import_module("sklearn.linear_model")
    theirs, labels = _array(design), target.numpy()

    def ours(solver: str) -> Callable[[float], Tensor]:
        def solve(tolerance: float) -> Tensor:
            view = LinearModel(design, target, "logistic", SquaredL2(1.0), scale="sum").as_smooth()
            found: Tensor = OURS[solver].run(view, zero, budget="2000steps", tolerance=tolerance * scale).solution
            return found

        return solve

    def peer(solver: str) -> Callable[[float], Tensor]:
        def solve(tolerance: float) -> Tensor:
            model = linear.LogisticRegression(C=1.0, fit_intercept=False, solver=solver, tol=tolerance, max_iter=2000)
            return torch.from_numpy(model.fit(theirs, labels).coef_[0])

        return solve

    sides = [Side(solver, "steepest", ours(solver), (part,)) for solver in OURS]
    sides += [Side(f"scikit-learn {solver}", "scikit-learn", peer(solver)) for solver in PEERS]

    def judge(x: Tensor) -> float:
        return float(judge_view.gradient(x).norm()) / scale

    unit = "relative gradient"
    return contest(SECTION, f"logistic, {name}", part * (1 + 1e-9), unit, judge, sides, rounds=rounds, patience=5.0)


def _array(design: Tensor) -> Any:
    """The layout that scikit-learn's solvers like best."""
    if design.layout is not torch.sparse_csr:
        return design.numpy()
    parts = (part.numpy() for part in (design.values(), design.col_indices(), design.crow_indices()))
    values, columns, start = parts
    return scipy.sparse.csr_matrix((values, columns.astype(np.int32), start.astype(np.int32)), tuple(design.shape))
