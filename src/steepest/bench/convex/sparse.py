"""Lasso, group lasso and sparse logistic regression against skglm, celer and scikit-learn."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ...core.regularizer import L1, GroupL2, Regularizer
from ...solve.convex import LinearModel, WorkingSetNewton
from ..contenders import installed
from .contest import Outcome, Promise, Side, contest, promise_ratio
from .data import gaussian, w8a

__all__ = ["measure"]

SECTION = "sparse linear models"
#: The duality gap to reach, relative to the value at zero.
TARGET = 1e-8
#: Features per group.
GROUP = 5


def measure(smoke: bool, rounds: int, progress: Callable[[str], None]) -> tuple[list[Outcome], list[Promise]]:
    """All problems: two kinds of data, three kinds of models, penalties as parts of the smallest that gives zero."""
    rows, columns = (300, 60) if smoke else (10_000, 2_000)
    sets = [(f"dense {rows} x {columns}", *gaussian(rows, columns, columns // 20, 3.0))]
    if not smoke and (found := w8a()) is not None:
        sets.append(("w8a 49,749 x 300", *found))
    outcomes: list[Outcome] = []
    for name, design, target in sets:
        for kind, parts in (("lasso", (0.2, 0.05, 0.01)), ("group lasso", (0.2, 0.05)), ("logistic", (0.2, 0.05))):
            for part in parts[:1] if smoke else parts:
                progress(f"{kind}, {name}, penalty 1/{1 / part:.0f}")
                outcomes += _contest(kind, name, design, target, part, rounds)
    linear = [o for o in outcomes if not o.problem.startswith("logistic")]
    return outcomes, [
        promise_ratio("lasso and group lasso: at most 3x the best of skglm, celer, scikit-learn", 3.0, linear)
    ]


def _contest(kind: str, name: str, design: Tensor, target: Tensor, part: float, rounds: int) -> list[Outcome]:
    loss = "logistic" if kind == "logistic" else "squared"
    target = target.sign() if kind == "logistic" else target
    slope = (design.mT @ target).abs() / len(target) * (0.5 if kind == "logistic" else 1.0)
    weight = part * float((slope.reshape(-1, GROUP).norm(dim=1) if kind == "group lasso" else slope).max())
    regularizer: Regularizer = GroupL2(weight, GROUP) if kind == "group lasso" else L1(weight)
    judge_model = LinearModel(design, target, loss, regularizer)
    start = target.new_zeros(design.shape[1])
    zero = float(judge_model.value(start))

    def ours(tolerance: float) -> Tensor:
        model = LinearModel(design, target, loss, regularizer)  # nothing kept from before
        found: Tensor = WorkingSetNewton().run(model, start, budget="100steps", tolerance=tolerance * zero).solution
        return found

    theirs, labels = _array(design), judge_model.target.numpy()
    sides = [Side("WorkingSetNewton", "steepest", ours)]
    for package, make in _peers(kind, weight, len(labels)).items():

        def fit(tolerance: float, make: Callable[[float], Any] = make) -> Tensor:
            return torch.from_numpy(np.ravel(make(tolerance).fit(theirs, labels).coef_))

        sides.append(Side(package, package.split(" ")[0], fit))

    def judge(x: Tensor) -> float:
        return float(judge_model.gap(x)) / zero

    return contest(SECTION, f"{kind}, {name}, 1/{1 / part:.0f}", TARGET, "relative gap", judge, sides, rounds=rounds)


def _array(design: Tensor) -> Any:
    """The layout that the peers like best."""
    if design.layout is torch.sparse_csr:
        parts = design.values().numpy(), design.col_indices().numpy(), design.crow_indices().numpy()
        return scipy.sparse.csr_matrix(parts, shape=tuple(design.shape)).tocsc()
    return np.asfortranarray(design.numpy())


def _peers(kind: str, weight: float, samples: int) -> dict[str, Callable[[float], Any]]:
    """For each package that is installed a function from its tolerance to an estimator."""
    plain: dict[str, Any] = {"fit_intercept": False}
    found: dict[str, Callable[[float], Any]] = {}
    if installed("skglm"):
        skglm = importlib.import_module("skglm")
        found["skglm"] = {
            "lasso": lambda tol: skglm.Lasso(alpha=weight, tol=tol * weight, **plain),
            "group lasso": lambda tol: skglm.GroupLasso(groups=GROUP, alpha=weight, tol=tol * weight, **plain),
            "logistic": lambda tol: skglm.SparseLogisticRegression(alpha=weight, tol=tol * weight, **plain),
        }[kind]
    if installed("celer"):
        celer = importlib.import_module("celer")
        found["celer"] = {
            "lasso": lambda tol: celer.Lasso(alpha=weight, tol=tol, **plain),
            "group lasso": lambda tol: celer.GroupLasso(groups=GROUP, alpha=weight, tol=tol, **plain),
            "logistic": lambda tol: celer.LogisticRegression(C=1 / (weight * samples), tol=tol, **plain),
        }[kind]
    linear = importlib.import_module("sklearn.linear_model")
    if kind == "lasso":
        found["scikit-learn"] = lambda tol: linear.Lasso(alpha=weight, tol=tol, max_iter=10_000, **plain)
    if kind == "logistic":
        found["scikit-learn (liblinear)"] = lambda tol: linear.LogisticRegression(
            l1_ratio=1.0, C=1 / (weight * samples), solver="liblinear", tol=tol, **plain
        )
    return found
