"""Logistic regression with an l2 penalty: our smooth solvers against every solver of scikit-learn, in one process.

    OMP_NUM_THREADS=1 python benchmarks/logistic.py            # under two minutes
    OMP_NUM_THREADS=1 python benchmarks/logistic.py --smoke    # seconds, on small data

Data: dense Gaussian features (10,000 x 200, scales from 1 to 0.1), and w8a (49,749 x 300, CSR) where it is found;
C = 1, no intercept. The measure is the time to a gradient whose norm is a given part of its norm at 0. scikit-learn's
solvers have other stopping rules, so for each and each part the loosest tolerance that reaches it is found first (not
timed). Then all take turns, and the median time of each counts (who is 2.5 times slower than the fastest in the first
turn has no second): seconds of CPU, since everything runs in one thread, and CPU time sees less of what else the
machine does. Constructing our model and its view is inside the time.
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy
import scipy.sparse
import sklearn
import torch
from sklearn.linear_model import LogisticRegression

from steepest.core.regularizer import SquaredL2
from steepest.data import DataNotFound, libsvm
from steepest.solve.convex import LBFGS, GradientNormalizedNewton, LazyNewton, LinearModel, Newton

PEERS = ("lbfgs", "newton-cg", "newton-cholesky", "liblinear")
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10)
OURS = {
    "Newton": Newton(),
    "LBFGS": LBFGS(memory=30),
    "GradientNormalizedNewton": GradientNormalizedNewton(),
    "LazyNewton(every=5)": LazyNewton(every=5),
}
#: A solver that needs longer than this for its loosest tolerance is left out.
PATIENCE = 2.0


def dense(rows: int, columns: int) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Gaussian features on a range of scales, and noisy labels."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1, columns, dtype=torch.float64)
    design = torch.randn(rows, columns, dtype=torch.float64, generator=generator) * scales
    noise = torch.randn(rows, dtype=torch.float64, generator=generator)
    target = torch.sign(design @ torch.randn(columns, dtype=torch.float64, generator=generator) + noise)
    return design, design.numpy(), target


def w8a() -> tuple[torch.Tensor, scipy.sparse.csr_matrix, torch.Tensor]:
    """All of w8a."""
    train = libsvm("w8a", validation=0.0, test=0.0, dtype=torch.float64).train
    design = train.inputs
    parts = tuple(part.numpy() for part in (design.values(), design.col_indices(), design.crow_indices()))
    peer = scipy.sparse.csr_matrix((parts[0], *(part.astype(np.int32) for part in parts[1:])), shape=design.shape)
    return design, peer, train.targets.double() * 2 - 1


def seconds(call: Callable[[], object]) -> float:
    """Seconds of CPU that a call takes."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def compare(name: str, data: tuple[torch.Tensor, object, torch.Tensor], parts: tuple[float, ...], turns: int) -> None:
    """Measure on one data set and print rows of a Markdown table."""
    design, peer_design, target = data
    labels, zero = target.numpy(), torch.zeros(design.shape[1], dtype=torch.float64)
    judge = LinearModel(design, target, "logistic", SquaredL2(1.0), scale="sum").as_smooth()
    scale = float(judge.gradient(zero).norm())

    def peer(solver: str, tolerance: float) -> torch.Tensor:
        model = LogisticRegression(C=1.0, fit_intercept=False, solver=solver, tol=tolerance, max_iter=2000)
        return torch.from_numpy(model.fit(peer_design, labels).coef_[0])

    def ours(solver: str, part: float) -> torch.Tensor:
        view = LinearModel(design, target, "logistic", SquaredL2(1.0), scale="sum").as_smooth()
        return OURS[solver].run(view, zero, budget="2000steps", tolerance=part * scale).solution

    loosest: dict[tuple[str, float], float] = {}
    for solver in PEERS:
        for tolerance in TOLERANCES:
            begun = time.process_time()
            reached = float(judge.gradient(peer(solver, tolerance)).norm()) / scale
            for part in parts:
                if reached <= part:
                    loosest.setdefault((solver, part), tolerance)
            if time.process_time() - begun > PATIENCE or all((solver, part) in loosest for part in parts):
                break
    calls: dict[tuple[str, float], Callable[[], object]] = {}
    for part in parts:
        for solver in PEERS:
            if (solver, part) in loosest:
                calls[f"sklearn {solver}", part] = lambda s=solver, p=part: peer(s, loosest[s, p])
        for solver in OURS:
            if float(judge.gradient(ours(solver, part)).norm()) <= part * scale * (1 + 1e-9):
                calls[f"steepest {solver}", part] = lambda s=solver, p=part: ours(s, p)
    taken: dict[tuple[str, float], list[float]] = {key: [] for key in calls}
    for turn in range(turns):
        for key, call in calls.items():
            fastest = min((times[0] for (_, part), times in taken.items() if part == key[1] and times), default=0.0)
            if turn == 0 or taken[key][0] <= 2.5 * fastest:
                taken[key].append(seconds(call))
    for part in parts:
        best = {who: statistics.median(taken[who, p]) for who, p in taken if p == part}
        theirs = min((t, who) for who, t in best.items() if who.startswith("sklearn"))
        mine = min((t, who) for who, t in best.items() if who.startswith("steepest"))
        for who, t in sorted(best.items(), key=lambda item: item[1]):
            print(f"| {name} | {part:g} | {who} | {1e3 * t:.0f} | {t / theirs[0]:.2f} |", flush=True)
        print(
            f"| {name} | {part:g} | **best of ours ({mine[1].split(' ', 1)[1]})** | | **{mine[0] / theirs[0]:.2f}** |"
        )


def main() -> None:
    """Run, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small data, one turn")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    versions = {"torch": torch, "scikit-learn": sklearn, "scipy": scipy, "numpy": np}
    print(
        ", ".join(f"{name} {module.__version__}" for name, module in versions.items()),
        f"({platform.machine()}, 1 thread)",
    )
    print("\n| data | gradient / gradient at 0 | solver | CPU ms | of scikit-learn's best |")
    print("| --- | ---: | --- | ---: | ---: |")
    parts = (1e-4, 1e-6, 1e-8)
    if options.smoke:
        compare("dense 1,000 x 20", dense(1_000, 20), parts[:2], 1)
        return
    compare("dense 10,000 x 200", dense(10_000, 200), parts, 5)
    try:
        sparse = w8a()
    except DataNotFound as error:
        print(f"w8a left out: {error}")
        return
    compare("w8a 49,749 x 300", sparse, parts, 5)


if __name__ == "__main__":
    main()
