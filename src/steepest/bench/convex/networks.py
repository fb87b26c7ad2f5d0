"""Two-layer ReLU networks by convex optimization: against CVXPY with Clarabel, against pyscnn, and how cost grows."""

import contextlib
import importlib
import io
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...train.convexnet import ADMM, ConvexProgram, InteriorPoint, TwoLayerReLU, nonconvex_objective, sample_patterns
from ..contenders import installed
from .contest import Outcome, Promise, Side, contest, promise_ratio
from .data import w8a

__all__ = ["measure"]

SECTION = "two-layer ReLU networks"
#: What a network has to reach: so much above the optimum, relatively.
TARGET = 0.01
Table = list[dict[str, Any]]


def teacher(n: int, d: int, seed: int = 0, neurons: int = 10) -> tuple[Tensor, Tensor]:
    """Gaussian inputs with a column of ones, and the outputs of a random network with noise."""
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(n, d, dtype=torch.float64, generator=generator)
    design[:, -1] = 1.0
    hidden = torch.randn(d, neurons, dtype=torch.float64, generator=generator) / d**0.5
    outer = torch.randn(neurons, dtype=torch.float64, generator=generator)
    noise = 0.1 * torch.randn(n, dtype=torch.float64, generator=generator)
    return design, (design @ hidden).clamp_min(0) @ outer + noise


def program(n: int, d: int, patterns: int, penalty: float = 1.0) -> ConvexProgram:
    """The convex program of a teacher's data."""
    design, target = teacher(n, d)
    gates = sample_patterns(design, patterns, torch.Generator().manual_seed(1))
    return ConvexProgram(design, target, gates, penalty=penalty)


def measure(
    smoke: bool, rounds: int, progress: Callable[[str], None]
) -> tuple[list[Outcome], list[Promise], dict[str, Table]]:
    """All parts."""
    tables: dict[str, Table] = {}
    progress("ReLU network, ADMM against CVXPY + Clarabel")
    tables["within 1 % of Clarabel's optimum"], promises = _against_clarabel(smoke)
    progress("ReLU network, growth of the time per iteration")
    tables["seconds per ADMM iteration"], more = _growth(smoke)
    promises += more
    if not smoke and w8a() is not None:
        progress("ReLU network, w8a")
        tables["w8a, in a process of its own"], more = _large()
        promises += more
    for promise in promises:  # the last part is slow
        progress(f"  {promise.text}: {promise.figure}")
    outcomes: list[Outcome] = []
    if installed("pyscnn"):
        progress("ReLU networks, ADMM against pyscnn")
        outcomes = _against_scnn(smoke, rounds)
        promises.append(promise_ratio("ReLU networks: at least 2x faster than pyscnn", 0.5, outcomes))
    return outcomes, promises, tables


def _reached(problem: ConvexProgram, limit: float, steps: int) -> tuple[float, float, int]:
    """Seconds until the network of an ADMM iterate has an objective of at most ``limit``, that objective, steps."""
    found: list[tuple[float, float, int]] = []

    def look(report: Any) -> bool:
        value = min(float(report.state.network_value), float(report.measures.value))
        if value <= limit and not found:
            found.append((report.seconds, value, report.step))
        return bool(found)

    ADMM(check_every=5).run(problem, problem.zeros(), budget=f"{steps}steps", callbacks=[look])
    return found[0] if found else (float("inf"), float("inf"), steps)


def _against_clarabel(smoke: bool) -> tuple[Table, list[Promise]]:
    n, d, patterns = (60, 5, 10) if smoke else (1_000, 50, 100)
    problem = program(n, d, patterns)
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        exact = InteriorPoint().run(problem, problem.zeros(), budget="1steps")
    theirs = time.perf_counter() - begun
    optimum = float(exact.measures.value or 0.0)
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # asked for no more than the others
        InteriorPoint(accuracy=TARGET).run(problem, problem.zeros(), budget="1steps")
    rough = time.perf_counter() - begun
    seconds, value, steps = _reached(problem, (1 + TARGET) * optimum, 3000)
    row = {
        "n": n,
        "d": d,
        "P": patterns,
        "Clarabel s": theirs,
        "to 1 %": rough,
        "optimum": optimum,
        "ADMM s": seconds,
        "ADMM steps": steps,
        "its objective": value,
        "times sooner": min(theirs, rough) / seconds,
    }
    text = "ADMM: within 1 % of Clarabel's optimum at least 10x sooner than CVXPY + Clarabel"
    best = min(theirs, rough)
    figure = f"{best / seconds:.1f} times ({seconds:.2g} s; Clarabel {rough:.3g} s to 1 %, {theirs:.3g} s to 1e-9)"
    return [row], [Promise(text, figure, best >= 10 * seconds)]


def per_step(problem: ConvexProgram, steps: int = 10) -> tuple[float, float]:
    """Seconds of the set-up with the first step, and of a later step (without certificates)."""
    solver = ADMM(adapt=False, check_every=10**6)
    marks: list[float] = []
    watch = [lambda report: marks.append(report.seconds)]
    solver.run(problem, problem.zeros(), budget=f"{steps}steps", callbacks=watch)
    later = [after - before for before, after in itertools.pairwise(marks[3:])]  # the third has a certificate
    return marks[0], statistics.median(later)


def _growth(smoke: bool) -> tuple[Table, list[Promise]]:
    sizes = (
        [(100, 5, 10), (200, 5, 10)]
        if smoke
        else [
            (1_000, 50, 100),
            (2_000, 50, 100),
            (4_000, 50, 100),
            (8_000, 50, 100),
            (2_000, 50, 50),
            (2_000, 50, 200),
            (2_000, 100, 100),
            (2_000, 200, 100),
        ]
    )
    table: Table = []
    for n, d, patterns in sizes:
        problem = program(n, d, patterns)
        first, later = per_step(problem)
        work = n * d * len(problem.patterns)
        table.append(
            {
                "n": n,
                "d": d,
                "P": len(problem.patterns),
                "set-up s": first,
                "s": later,
                "ns per n P d": 1e9 * later / work,
            }
        )
    if smoke:
        return table, []
    costs = [row["ns per n P d"] for row in table]
    spread = max(costs) / min(costs)
    text = "ADMM: time per iteration linear in n P d (its cost per unit varies at most by 3)"
    return table, [Promise(text, f"varies by {spread:.1f} over {len(costs)} sizes", spread <= 3)]


def _large() -> tuple[Table, list[Promise]]:
    command = [sys.executable, "-c", f"from {__name__} import large; large({torch.get_num_threads()})"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    text = "ADMM: w8a with P = 200 in under 8 GB, to a tenth of the zero network's objective"
    if not lines:
        return [], [Promise(text, (done.stderr.strip().splitlines() or ["no output"])[-1][:100], False)]
    row = json.loads(lines[-1])
    figure = (
        f"{row['peak GB']:.1f} GB, objective {row['objective']:.4g} of {row['zero']:.4g} after {row['steps']} steps"
    )
    # Memory alone would be kept by a run that gets nowhere.
    return [row], [Promise(text, figure, row["peak GB"] < 8 and row["objective"] < 0.1 * row["zero"])]


def large(threads: int) -> None:
    """Solve w8a's program and print the figures as a line of JSON."""
    torch.set_num_threads(threads)
    found = w8a()
    assert found is not None
    design, target = torch.cat([found[0].to_dense(), torch.ones(len(found[1]), 1).double()], 1), found[1]
    gates = sample_patterns(design, 200, torch.Generator().manual_seed(1))
    problem = ConvexProgram(design, target, gates, penalty=10.0)
    marks: list[float] = []
    result = ADMM(check_every=4).run(
        problem, problem.zeros(), budget="12steps", callbacks=[lambda report: marks.append(report.seconds)]
    )
    later = [after - before for before, after in itertools.pairwise(marks[3:])]
    value = min(float(result.state.network_value), float(result.measures.value or 0.0))
    row = {
        "n": len(target),
        "d": design.shape[1],
        "P": len(gates),
        "set-up s": marks[0],
        "s per step": statistics.median(later),
        "steps": result.steps,
        "s": result.seconds,
        "zero": 0.5 * float(problem.target.square().sum()),
        "objective": value,
        "relative gap": (value - result.state.bound) / value,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print(json.dumps(row))


def _against_scnn(smoke: bool, rounds: int) -> list[Outcome]:
    models: Any = importlib.import_module("scnn.models")
    solvers: Any = importlib.import_module("scnn.solvers")
    optimize: Any = importlib.import_module("scnn.optimize").optimize_model
    metrics: Any = importlib.import_module("scnn.metrics").Metrics
    regularizer: Any = importlib.import_module("scnn.regularizers").NeuronGL1
    outcomes: list[Outcome] = []
    for n, d, patterns in [(100, 5, 10)] if smoke else [(300, 10, 50), (1_000, 50, 100), (2_000, 50, 100)]:
        problem = program(n, d, patterns)
        best = ADMM().run(
            problem, problem.zeros(), budget="2000steps", tolerance=1e-3 * float(problem.target.square().sum())
        )
        # The judge compares with what is proved: the best lower bound of a long run.
        bound = best.state.bound
        features, labels = problem.design.numpy(), problem.target.numpy()
        gates = problem.patterns.gates.T.numpy()

        def objective(network: TwoLayerReLU, problem: ConvexProgram = problem) -> float:
            return float(nonconvex_objective(network, problem.design, problem.target, "squared", problem.penalty))

        def judge(network: TwoLayerReLU, bound: float = bound) -> float:
            return objective(network) / bound - 1

        def ours(tolerance: float, problem: ConvexProgram = problem) -> TwoLayerReLU:
            fresh = ConvexProgram(problem.design, problem.target, problem.patterns, penalty=problem.penalty)
            result = ADMM().run(fresh, fresh.zeros(), budget=f"{round(1 / tolerance)}steps")
            state = result.state
            return fresh.network(state.blocks if float(state.network_value) < float(state.value) else state.point)

        def theirs(
            tolerance: float,
            features: Any = features,
            labels: Any = labels,
            gates: Any = gates,
            penalty: float = problem.penalty,
        ) -> TwoLayerReLU:
            model = models.ConvexReLU(gates)
            penalty_of = regularizer(penalty / len(labels))  # its loss is a mean
            solver = solvers.AL(model, tol=tolerance, constraint_tol=tolerance)
            with contextlib.redirect_stdout(io.StringIO()), torch.enable_grad():
                # unitize_data would penalize other weights than ours.
                settings = {"regularizer": penalty_of, "dtype": "float64", "unitize_data": False}
                found, _ = optimize(model, solver, metrics(), features, labels, **settings)
            hidden, outer = (torch.as_tensor(part, dtype=torch.float64) for part in found.parameters)
            network = TwoLayerReLU(hidden.shape[1], len(hidden), dtype=torch.float64)
            network.hidden.weight.copy_(hidden)
            network.output.weight.copy_(outer)
            return network

        sides = [
            Side("ADMM", "steepest", ours, tuple(1 / steps for steps in (10, 20, 50, 100, 200, 500, 1000, 2000))),
            Side("pyscnn (AL)", "pyscnn", theirs, (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)),
        ]
        name = f"ReLU network, n = {n}, d = {d}, P = {patterns}"
        outcomes += contest(SECTION, name, TARGET, "relative gap", judge, sides, rounds=rounds, patience=20.0)
    return outcomes
