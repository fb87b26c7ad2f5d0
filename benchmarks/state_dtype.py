"""Does low-precision state cost anything? Losses on a task with float32, bfloat16 and 8-bit state, paired by seed.

    python benchmarks/state_dtype.py --task pytext-gpt --methods lion,adabelief,ademamix --seeds 8

Every method runs at the learning rate given here (the winner of a comparison on that task), with the same seeds for
every kind of storage; the difference from float32 has a 95 % bootstrap interval.
"""

import argparse

from steepest.arena.statistics import bootstrap_interval
from steepest.arena.task import load_task
from steepest.arena.train import train
from steepest.catalogue import card

#: Learning rates that won on pytext-gpt.
RATES = {"lion": 5e-4, "adabelief": 2e-3, "ademamix": 2.4e-3, "muon": 0.03, "marsadamw": 3e-3}
KINDS = ("float32", "bfloat16", "8bit")


def main() -> None:
    """Run, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="pytext-gpt")
    parser.add_argument("--methods", default="lion,adabelief,ademamix")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    task = load_task(options.task)
    print(f"| method | state | test {task.metric_name} | less float32's (95 % interval) | bytes per parameter |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name in options.methods.split(","):
        found: dict[str, list[float]] = {}
        for kind in KINDS:
            settings = {"lr": RATES.get(name, 1e-3), "state_dtype": kind}
            runs = [
                train(task, card(name), settings, seed=seed, steps=options.steps, test=True)
                for seed in range(1, options.seeds + 1)
            ]
            broken = [run.reason for run in runs if run.test_metric is None]
            if broken:
                raise SystemExit(f"{name} with {kind} state: {broken[0]}")
            found[kind] = [run.test_metric for run in runs if run.test_metric is not None]
            mean = sum(found[kind]) / len(runs)
            gaps = [a - b for a, b in zip(found[kind], found["float32"], strict=True)]
            ends = bootstrap_interval(gaps) if kind != "float32" else None
            between = f"{sum(gaps) / len(gaps):+.4f}" + (f" ({ends[0]:+.4f} to {ends[1]:+.4f})" if ends else "")
            size = runs[0].state_bytes_per_parameter
            print(f"| {card(name).title} | {kind} | {mean:.4f} | {between if ends else ''} | {size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
