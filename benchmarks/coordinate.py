"""Sparse linear models: time of the working-set solver over that of skglm, celer and scikit-learn, at equal accuracy.

    STEEPEST_DATA=... python benchmarks/coordinate.py            # under three minutes on one core
    python benchmarks/coordinate.py --smoke                      # seconds, on small data

Every solver gets the layout that it likes best (peers: CSC or Fortran order, ours: CSR or dense tensors; our
conversions are timed), no intercept, one thread. Accuracy is equal: for each peer the loosest of its tolerances whose
duality gap, relative to the value at zero, is at most the target's is found first, and then runs are timed in
alternation, three of each; the table gives medians and their ratio. Peers compile before they are timed. Times are of
the processor: with one thread that is the time on a machine that does nothing else, also where others use it.
"""

import argparse
import importlib.metadata
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import celer
import numpy as np
import scipy.sparse
import skglm
import sklearn.linear_model
import torch
from torch import Tensor

from steepest.core.regularizer import L1, GroupL2, Regularizer
from steepest.data import DataNotFound, libsvm
from steepest.solve.convex import LinearModel, WorkingSetNewton
from steepest.solve.convex.columns import Columns
from steepest.solve.convex.working_set_newton import dual_value

#: The duality gap to reach, relative to the value at zero.
TARGET = 1e-8
#: Features per group.
GROUP = 5


def data(smoke: bool) -> list[tuple[str, Tensor, Tensor]]:
    """Name, design and target: w8a (sparse) and Gaussian features (dense)."""
    found = []
    try:
        whole = libsvm("w8a", validation=0, test=0, dense=False, dtype=torch.float64) if not smoke else None
    except DataNotFound as error:
        print(f"w8a is left out: {error}")
        whole = None
    if whole is not None:
        found.append(("w8a", whole.train.inputs, (2.0 * whole.train.targets - 1).to(torch.float64)))
    n, d = (300, 60) if smoke else (10_000, 2_000)
    generator = np.random.default_rng(0)
    features = generator.standard_normal((n, d))
    truth = np.where(np.arange(d) < d // 20, generator.standard_normal(d), 0.0)
    target = features @ truth + 3 * generator.standard_normal(n)
    found.append((f"dense {n} x {d}", torch.from_numpy(np.asfortranarray(features)), torch.from_numpy(target)))
    return found


def peers(kind: str, weight: float, samples: int) -> dict[str, Callable[[float], Any]]:
    """For each peer a function from its tolerance to an estimator."""
    plain: dict[str, Any] = {"fit_intercept": False}
    if kind == "lasso":
        return {
            "skglm": lambda tol: skglm.Lasso(alpha=weight, tol=tol * weight, **plain),
            "celer": lambda tol: celer.Lasso(alpha=weight, tol=tol, **plain),
            "scikit-learn": lambda tol: sklearn.linear_model.Lasso(alpha=weight, tol=tol, max_iter=10_000, **plain),
        }
    if kind == "group lasso":
        return {
            "skglm": lambda tol: skglm.GroupLasso(groups=GROUP, alpha=weight, tol=tol * weight, **plain),
            "celer": lambda tol: celer.GroupLasso(groups=GROUP, alpha=weight, tol=tol, **plain),
        }
    return {
        "skglm": lambda tol: skglm.SparseLogisticRegression(alpha=weight, tol=tol * weight, **plain),
        "celer": lambda tol: celer.LogisticRegression(C=1 / (weight * samples), tol=tol, **plain),
        "scikit-learn (liblinear)": lambda tol: sklearn.linear_model.LogisticRegression(
            l1_ratio=1.0, C=1 / (weight * samples), solver="liblinear", tol=tol, **plain
        ),
    }


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, and what was returned."""
    begun = time.process_time()
    made = run()
    return time.process_time() - begun, made


def problem_of(kind: str, design: Tensor, target: Tensor, part: float) -> tuple[LinearModel, float]:
    """The problem with a penalty that is a part of the smallest that gives zero; and that penalty."""
    loss = "logistic" if kind == "logistic" else "squared"
    target = target.sign() if kind == "logistic" else target
    slope = (design.mT @ target).abs() / len(target) * (0.5 if kind == "logistic" else 1.0)
    norms = slope.reshape(-1, GROUP).norm(dim=1) if kind == "group lasso" else slope
    weight = part * float(norms.max())
    regularizer: Regularizer = GroupL2(weight, GROUP) if kind == "group lasso" else L1(weight)
    return LinearModel(design, target, loss, regularizer), weight


def gap_of(model: LinearModel, x: Tensor) -> float:
    """The duality gap at a peer's solution."""
    slope = model.loss.derivative(model.predict(x), model.target)
    return float(model.value(x)) - dual_value(model, slope, model.scale * (Columns.of(model).transposed @ slope))


def row(kind: str, name: str, design: Tensor, target: Tensor, part: float, repeats: int, limit: float) -> None:
    """Time one problem and print a row for each peer."""
    model, weight = problem_of(kind, design, target, part)
    start = torch.zeros(design.shape[1], dtype=torch.float64)
    zero = float(model.value(start))
    if design.layout is torch.sparse_csr:
        parts = design.values().numpy(), design.col_indices().numpy(), design.crow_indices().numpy()
        theirs = scipy.sparse.csr_matrix(parts, shape=tuple(design.shape)).tocsc()
    else:
        theirs = np.asfortranarray(design.numpy())
    labels = model.target.numpy()

    def ours() -> Any:
        fresh = LinearModel(model.design, model.target, model.loss, model.regularizer)  # nothing kept from before
        return WorkingSetNewton().run(fresh, start, budget="60steps", tolerance=TARGET * zero)

    for peer, make in peers(kind, weight, len(labels)).items():
        gap = float("inf")
        make(1.0).fit(theirs, labels)  # compiles
        for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10):
            estimator = make(tolerance)
            seconds, _ = timed(lambda e=estimator: e.fit(theirs, labels))
            gap = gap_of(model, torch.from_numpy(np.ravel(estimator.coef_))) / zero
            if gap <= TARGET or seconds > limit:
                break
        if not gap <= TARGET:
            print(f"| {kind} | {name} | 1/{1 / part:.0f} | {peer} | | not within {limit:g} s ({gap:.0e}) | |")
            continue
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(repeats):
            seconds, result = timed(ours)
            times["ours"].append(seconds)
            times["peer"].append(timed(lambda tol=tolerance, of=make: of(tol).fit(theirs, labels))[0])
        mine, other = (1e3 * statistics.median(times[side]) for side in ("ours", "peer"))
        reached = float(result.stationarity) / zero
        cells = f"{mine:.0f} ms ({reached:.0e}) | {other:.0f} ms ({gap:.0e}) | {mine / other:.2f}"
        print(f"| {kind} | {name} | 1/{1 / part:.0f} | {peer} | {cells} |", flush=True)


def main() -> None:
    """Run, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small data, one run of each")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    versions = ("torch", "numpy", "scipy", "scikit-learn", "skglm", "celer", "numba")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in versions))
    print(f"Python {platform.python_version()}, {platform.machine()}, {torch.get_num_threads()} thread")
    print(f"relative duality gap <= {TARGET:g}; penalty as a part of the smallest that gives zero\n")
    print("| problem | data | penalty | peer | ours (gap) | peer (gap) | ours / peer |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: |")
    with torch.no_grad():
        for name, design, target in data(options.smoke):
            for kind, parts in (("lasso", (0.2, 0.05, 0.01)), ("group lasso", (0.2, 0.05)), ("logistic", (0.2, 0.05))):
                for part in parts[:1] if options.smoke else parts:
                    row(kind, name, design, target, part, 1 if options.smoke else 3, 2.0)


if __name__ == "__main__":
    main()
