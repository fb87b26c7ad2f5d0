"""Made-up comparisons that look like real ones, from a seeded generator."""

import math

import numpy as np

from steepest.arena.results import Comparison, CurvePoint, MethodInfo, RunRecord, TaskInfo, TrialRecord

# name -> (title, best learning rate, final loss, speed, state bytes per parameter)
METHODS = {
    "adamw": ("AdamW", 2e-3, 0.30, 1.00, 8.0),
    "lion": ("Lion", 3e-4, 0.24, 1.05, 4.0),
    "muon": ("Muon", 2e-2, 0.20, 0.70, 5.1),
    "sgd": ("SGD with momentum", 1e-1, 0.46, 1.20, 4.0),
    "adabelief": ("AdaBelief", 2e-3, 0.31, 0.95, 8.0),
    "ademamix": ("AdEMAMix", 1e-3, 0.27, 0.85, 12.0),
    "diffgrad": ("DiffGrad", 2e-3, 0.38, 0.90, 12.0),
    "adamp": ("AdamP", 2e-3, 0.32, 0.80, 8.0),
    "adabound": ("AdaBound", 4e-3, 0.50, 0.95, 8.0),
    "amsbound": ("AMSBound", 4e-3, 0.55, 0.95, 12.0),
    "lbfgs": ("L-BFGS", 5e-1, 0.60, 0.30, 80.0),
    "lion-k": ("Lion-K", 3e-4, 0.26, 1.00, 4.0),
}
TASKS = {
    "digits-mlp": TaskInfo(
        "digits-mlp",
        "Digits, multi-layer perceptron",
        "accuracy",
        True,
        85_002,
        {"train": 1078, "validation": 359, "test": 360},
        64,
    ),
    "pytext-gpt": TaskInfo(
        "pytext-gpt",
        "Python source, small GPT",
        "bits per character",
        False,
        824_320,
        {"train": 900_000, "validation": 50_000, "test": 50_000},
        16,
    ),
    "w8a-logistic": TaskInfo(
        "w8a-logistic",
        "w8a, logistic regression",
        "loss",
        False,
        301,
        {"train": 40_000, "validation": 9_749, "test": 14_951},
        256,
    ),
}


def fake_comparison(
    methods=("adamw", "lion", "muon", "sgd", "adabelief", "ademamix", "diffgrad", "adamp"),
    tasks=("digits-mlp",),
    seeds=5,
    trials=12,
    points=25,
    steps=500,
    diverging=(),  # methods whose final runs all diverge
    memory=True,
    titles=None,
    baseline="adamw",
    complete=True,
    budget="500steps",
    seed=0,
    workers=1,
):
    """Losses that fall like a + b exp(-t), a learning-rate valley per method, and divergence past its edge."""
    rng = np.random.default_rng(seed)
    titles = titles or {}
    trial_records, run_records, lines = [], [], {}
    for task_name in tasks:
        task = TASKS[task_name]
        difficulty = 1.0 + 0.3 * rng.random()
        for name in methods:
            _, best, floor, speed, state = METHODS[name]
            floor = floor * difficulty * (1 + 0.25 * rng.standard_normal() * (len(tasks) > 1))
            done = []
            for slot in range(trials):
                lr = best * 10 ** ((slot + 0.5) / trials * 3.2 - 1.8)
                settings = {"lr": float(lr), "weight_decay": float(10 ** rng.uniform(-4, -1))}
                too_high = math.log10(lr / best) > 1.05
                pruned = not too_high and math.log10(lr / best) < -1.3
                status = "diverged" if too_high else "pruned" if pruned else "complete"
                reason = {
                    "diverged": f"the loss became nan at step {int(rng.integers(5, 90))}",
                    "pruned": "hopeless at step 120: worse than the median of the earlier trials",
                }.get(status)
                loss = floor * (1 + 0.5 * math.log10(lr / best) ** 2) * (1 + 0.02 * rng.standard_normal())
                used = {"diverged": steps // 8, "pruned": steps // 4}.get(status, steps)
                score = _metric(task, loss) if status == "complete" else None
                record = TrialRecord(task_name, name, slot, settings, status, reason, score, used, used / 120 / speed)
                trial_records.append(record)
                done += [record] if status == "complete" else []
            sign = -1 if task.higher_is_better else 1
            winner = min(done, key=lambda t: sign * t.score).settings if done else {"lr": best}
            arguments = ", ".join(f"{k}={v:.6g}" for k, v in winner.items())
            lines.setdefault(name, {})[task_name] = f"steepest.optim.{name.title()}(model.parameters(), {arguments})"
            for k in range(seeds):
                run_records.append(
                    _run(
                        rng, task, name, k + 1000, winner, floor, speed, state, points, steps, name in diverging, memory
                    )
                )
    infos = [
        MethodInfo(
            n,
            titles.get(n, METHODS[n][0]),
            f"What {n} does, in a sentence.",
            f"Somebody (2023). On {n}, arXiv 2302.0{i:04d}",
            {
                "lr": f"{METHODS[n][1] / 60:.2g} to {METHODS[n][1] * 25:.2g} (log)",
                "weight_decay": "0.0001 to 0.1 (log)",
            },
            lines[n],
        )
        for i, n in enumerate(methods)
    ]
    if not complete:
        run_records = run_records[: len(run_records) - max(1, seeds // 2)]
    return Comparison(
        tasks=[TASKS[t] for t in tasks],
        methods=infos,
        trials=trial_records,
        runs=run_records,
        baseline=baseline,
        plan={
            "methods": ", ".join(methods),
            "trials": trials,
            "seeds": seeds,
            "budget": budget,
            "sampler": "qmc",
            "pruner": "median",
            "baseline": baseline,
            "base seed": 0,
            "workers": workers,
            "storage": "sqlite",
            "command": f"steepest compare {' '.join(tasks)} --methods {','.join(methods)} "
            f"--trials {trials} --seeds {seeds} --budget {budget} --out out",
        },
        environment={
            "steepest": "0.1.0",
            "torch": "2.13.0",
            "python": "3.11.7",
            "processor": "Some CPU at 2.4 GHz",
            "cores": 2,
            "threads": 1,
            "device": "cpu",
            "started": "2026-05-04 10:00:00",
            "finished": "2026-05-04 10:03:41",
        },
        complete=complete,
    )


def _metric(task, loss):
    if task.metric == "accuracy":
        return max(0.0, 1 - 0.1 * loss)
    return 1.6 + loss if task.metric.startswith("bits") else loss


def _run(rng, task, name, seed, settings, floor, speed, state, points, steps, diverges, memory):
    level = floor * (1 + 0.04 * rng.standard_normal())
    rate = 0.12 / speed**0.5 * (0.30 / floor)
    curve = []
    for i in range(1, points + 1):
        if diverges and i > 4:
            break
        loss = level + 2.0 * math.exp(-rate * i * 25 / points) * (1 + 0.03 * rng.standard_normal())
        step = steps * i // points
        curve.append(
            CurvePoint(step, step / 120 / speed, loss * 0.9, _metric(task, loss * (1 + 0.01 * rng.standard_normal())))
        )
    final = _metric(task, level)
    if task.metric == "accuracy":
        final = round(final * task.sizes["test"]) / task.sizes["test"]
    return RunRecord(
        task=task.name,
        method=name,
        seed=seed,
        settings=settings,
        status="diverged" if diverges else "complete",
        reason="the loss became nan at step 83" if diverges else None,
        test_metric=None if diverges else final,
        test_loss=None if diverges else level,
        steps=curve[-1].step if curve else 0,
        seconds=curve[-1].seconds if curve else 0.0,
        peak_memory_bytes=int(4.1e8 + 1e6 * state + rng.integers(0, 10**6)) if memory else None,
        state_bytes_per_parameter=state,
        curve=tuple(curve),
    )
