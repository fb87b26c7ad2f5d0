"""Draw the pictures of the page on globally optimal networks: ``python docs/make_convexnet_figures.py``.

A few minutes on one core. Everything is computed here, with fixed seeds, on data inside scikit-learn.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_digits, make_moons
from sklearn.model_selection import train_test_split
from torch import Tensor

from steepest.train.convexnet import (
    ADMM,
    ConvexProgram,
    TwoLayerReLU,
    certified_accuracy,
    certified_radius,
    grow_patterns,
    nonconvex_objective,
    sample_patterns,
    train_convex_relu,
    train_robust_convex_relu,
    with_bias,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK = {"convex": "#3f51b5", "Adam": "#e65100", "L-BFGS": "#2e7d32", "SGD": "#8e24aa"}
History = list[tuple[float, float, float]]
Measured = Callable[[TwoLayerReLU], tuple[float, float]]


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Even against odd digits, pixels in [0, 1]: train and test features and signs."""
    features, labels = load_digits(return_X_y=True)
    parts = train_test_split(features / 16, 2.0 * (labels % 2) - 1, test_size=0.3, random_state=0, stratify=labels)
    train, test, train_signs, test_signs = (torch.as_tensor(part, dtype=torch.float64) for part in parts)
    return train, test, train_signs, test_signs


def accuracy(network: torch.nn.Module, features: Tensor, signs: Tensor) -> float:
    """The part of samples whose sign is right."""
    with torch.no_grad():
        return float((torch.sign(network(features)[:, 0]) == signs).double().mean())


def network_of(width: int, inputs: int, seed: int) -> TwoLayerReLU:
    """A fresh network."""
    torch.manual_seed(seed)
    network = TwoLayerReLU(inputs, width, bias=True, dtype=torch.float64)
    for layer in (network.hidden, network.output):
        torch.nn.init.kaiming_normal_(layer.weight)
    network.output.weight.data *= 0.3
    return network


def minibatches(
    name: str,
    lr: float,
    width: int,
    penalty: float,
    epochs: int,
    seed: int,
    train: Tensor,
    signs: Tensor,
    measured: Measured,
) -> History:
    """Seconds, objective and test accuracy after every epoch of minibatches of 32; the rate falls to 0 as a cosine.

    ``"SGD"`` has momentum 0.9 and a loss that is a mean over the samples, as its learning rates are chosen for.
    """
    network, generator = network_of(width, train.shape[1], seed), torch.Generator().manual_seed(seed)
    if name == "SGD":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(network.parameters(), lr=lr / len(train), momentum=0.9)
    else:
        optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    history, seconds = [], 0.0
    for _ in range(epochs):
        begun = time.perf_counter()
        for batch in torch.randperm(len(train), generator=generator).split(32):
            loss = 0.5 * (network(train[batch])[:, 0] - signs[batch]).square().sum() * (len(train) / len(batch))
            weights = sum(p.square().sum() for p in network.parameters())
            optimizer.zero_grad()
            (loss + 0.5 * penalty * weights).backward()
            optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - begun
        history.append((seconds, *measured(network)))
    return history


def lbfgs(
    width: int, penalty: float, calls: int, seed: int, train: Tensor, signs: Tensor, measured: Measured
) -> History:
    """The same with full batches, after every 20 iterations."""
    network = network_of(width, train.shape[1], seed)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=20, line_search_fn="strong_wolfe", history_size=20)

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = nonconvex_objective(network, train, signs, "squared", penalty)
        objective.backward()
        return objective

    history, seconds = [], 0.0
    for _ in range(calls):
        begun = time.perf_counter()
        optimizer.step(closure)
        seconds += time.perf_counter() - begun
        history.append((seconds, *measured(network)))
    return history


def convergence(out: Path, epochs: int, rounds: int, seeds: int) -> None:
    """Objective over seconds: convex programs over patterns that are looked for, against Adam and L-BFGS."""
    train, test, signs, test_signs = digits()
    penalty, width = 5.0, 100
    design = with_bias(train)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)

    def measured(network: TwoLayerReLU) -> tuple[float, float]:
        with torch.no_grad():
            objective = float(nonconvex_objective(network, train, signs, "squared", penalty))
        return objective, accuracy(network, test, test_signs)

    # Learning rates: the best of this grid by the last objective, with seed 100.
    score = {
        lr: minibatches("Adam", lr, width, penalty, epochs, 100, train, signs, measured)[-1][1]
        for lr in (1e-3, 3e-3, 1e-2, 3e-2)
    }
    rate = min(score, key=lambda lr: score[lr])
    print("Adam: best learning rate", rate, {lr: round(value, 2) for lr, value in score.items()})
    for seed in range(seeds):
        for name, history in (
            ("Adam", minibatches("Adam", rate, width, penalty, epochs, seed, train, signs, measured)),
            ("L-BFGS", lbfgs(width, penalty, epochs // 4, seed, train, signs, measured)),
        ):
            label = f"{name}, {width} neurons ({seeds} seeds)" if seed == 0 else None
            left.plot([h[0] for h in history], [h[1] for h in history], color=INK[name], alpha=0.6, lw=1, label=label)
            print(name, seed, history[-1])
    for seed in range(seeds):
        gates = sample_patterns(design, 50, torch.Generator().manual_seed(seed))
        program = ConvexProgram(design, signs, gates, penalty=penalty)
        history, grown, spent = [], None, 0.0
        for _ in range(rounds):
            begun = time.perf_counter()
            start = None if grown is None else grown.point
            program = program if grown is None else grown.program
            grown = grow_patterns(program, start, generator=torch.Generator().manual_seed(seed), rounds=1)
            spent += time.perf_counter() - begun
            history.append((spent, *measured(grown.program.network(grown.point, bias=True))))
        label = f"convex, patterns looked for ({seeds} seeds)" if seed == 0 else None
        seconds, objectives = [h[0] for h in history], [h[1] for h in history]
        left.plot(seconds, objectives, color=INK["convex"], lw=1.5, marker="o", ms=3, label=label)
        right.plot(range(1, rounds + 1), objectives, color=INK["convex"], lw=1.5, marker="o", ms=3)
        print("convex", seed, history[-1])
    fixed = train_convex_relu(train, signs, penalty=penalty, n_patterns=50, rounds=0)
    best = train_convex_relu(train, signs, penalty=penalty, n_patterns=50)
    print("random patterns", fixed.objective, fixed.bound, "grown", best.objective, best.bound, best.violation)
    right.axhline(best.bound, color="k", ls=":", lw=1, label="proved: no network of its patterns is below")
    left.axhline(fixed.objective, color="gray", ls="--", lw=1, label="convex, 50 random patterns")
    left.set(xscale="log", yscale="log", xlabel="seconds (one core)", ylabel="objective of the network")
    right.set(xlabel="rounds", ylabel="objective of the network", xticks=range(1, rounds + 1))
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Even against odd digits, {len(train)} samples", fontsize=11)
    figure.savefig(out / "convexnet-convergence.svg")


def per_iteration(out: Path, epochs: int, seeds: int) -> None:
    """Test accuracy and objective per iteration: ADMM over patterns that were found, against epochs of SGD and Adam."""
    train, test, signs, test_signs = digits()
    penalty, width = 5.0, 100
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)

    def measured(network: TwoLayerReLU) -> tuple[float, float]:
        with torch.no_grad():
            objective = float(nonconvex_objective(network, train, signs, "squared", penalty))
        return objective, accuracy(network, test, test_signs)

    def draw(history: History, name: str, label: str | None, **style: Any) -> None:
        steps = range(1, len(history) + 1)
        left.plot(steps, [100 * h[2] for h in history], color=INK[name], label=label, **style)
        right.plot(steps, [h[1] for h in history], color=INK[name], label=label, **style)
        print(name, label, history[-1])

    for name, rates in (("SGD", (1e-2, 3e-2, 1e-1, 3e-1, 1.0)), ("Adam", (1e-3, 3e-3, 1e-2, 3e-2))):
        # By the last objective, with a seed that is not drawn.
        last = {r: minibatches(name, r, width, penalty, epochs, 100, train, signs, measured)[-1][1] for r in rates}
        finite = {r: value for r, value in last.items() if value == value}
        rate = min(finite, key=lambda r: finite[r])
        print(name, "best learning rate", rate, {r: round(value, 2) for r, value in last.items()})
        for seed in range(seeds):
            history = minibatches(name, rate, width, penalty, epochs, seed, train, signs, measured)
            draw(history, name, f"{name}, epochs ({seeds} seeds)" if seed == 0 else None, alpha=0.6, lw=1)
    design = with_bias(train)
    random = sample_patterns(design, 50, torch.Generator().manual_seed(0))
    found = train_convex_relu(train, signs, penalty=penalty, n_patterns=50).patterns
    for chosen, label, dash in ((found, "patterns looked for", "-"), (random, "50 random patterns", "--")):
        program = ConvexProgram(design, signs, chosen, penalty=penalty)
        history: History = []

        def look(report: Any, program: ConvexProgram = program, history: History = history) -> None:
            history.append((report.seconds, *measured(program.network(report.state.blocks, bias=True))))

        ADMM().run(program, program.zeros(), budget=f"{epochs}steps", callbacks=[look])
        draw(history, "convex", f"convex, iterations of ADMM, {label}", lw=1.5, ls=dash)
    left.set(xscale="log", xlabel="iteration or epoch", ylabel="test accuracy, %", ylim=(80, 100))
    right.set(xscale="log", yscale="log", xlabel="iteration or epoch", ylabel="objective of the network")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(f"Even against odd digits, {len(train)} samples", fontsize=11)
    figure.savefig(out / "convexnet-accuracy.svg")


def plane(axis: Any, network: torch.nn.Module, features: Tensor, signs: Tensor, title: str) -> None:
    """What a network says of every point of the plane."""
    low, high = features.min(0).values - 0.5, features.max(0).values + 0.5
    first, second = (torch.linspace(float(low[i]), float(high[i]), 200, dtype=torch.float64) for i in (0, 1))
    grid = torch.cartesian_prod(first, second)
    with torch.no_grad():
        output = network(grid)[:, 0].reshape(200, 200).T
    axis.contourf(first, second, output, levels=np.linspace(-2, 2, 21), cmap="RdBu", extend="both", alpha=0.8)
    axis.contour(first, second, output, levels=[0], colors="k", linewidths=1.2)
    axis.scatter(*features.T, c=np.where(signs > 0, "#0d47a1", "#b71c1c"), s=16, edgecolors="w", linewidths=0.4)
    axis.set(title=title, xticks=[], yticks=[], aspect="equal")


def pictures(out: Path) -> None:
    """The learned function in two dimensions, without and with robustness."""
    points, labels = make_moons(40, noise=0.15, random_state=0)
    features, signs = torch.as_tensor(points), torch.as_tensor(2.0 * labels - 1)
    radius = 0.1
    plain = train_convex_relu(features, signs, loss="hinge", penalty=0.01, n_patterns=100, budget="2000steps")
    robust = train_robust_convex_relu(
        features, signs, adversarial_radius=radius, loss="hinge", penalty=0.01, n_patterns=100, draws=300
    )
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.0), constrained_layout=True)
    for axis, network, title in ((axes[0], plain.network, "clean"), (axes[1], robust.network, "robust")):
        proved = certified_radius(network, features, signs, largest=1.0)
        share = certified_accuracy(network, features, signs, radius, method="exact").accuracy
        print(title, "certified at", radius, share, "median radius", float(proved.median()))
        plane(axis, network, features, signs, f"{title}: {share:.0%} of samples proved safe within {radius}")
        for point, size in zip(points, proved.tolist(), strict=True):
            side = min(size, radius)
            corner = (point[0] - side, point[1] - side)
            axis.add_patch(plt.Rectangle(corner, 2 * side, 2 * side, fill=False, lw=0.5, color="k", alpha=0.5))
    figure.savefig(out / "convexnet-plane.png", dpi=110)  # the filled contours would make a large SVG


def patterns(out: Path, draws: int) -> None:
    """The optimum as patterns grow, to one percent."""
    train, _, signs, _ = digits()
    train, signs = train[:300], signs[:300]
    design = with_bias(train)
    counts = [2, 5, 10, 20, 40, 80]
    figure, axis = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
    for seed in range(draws):
        whole = sample_patterns(design, counts[-1], torch.Generator().manual_seed(seed))
        values = []
        for count in counts:
            chosen = whole.take(torch.arange(min(count, len(whole))))
            program = ConvexProgram(design, signs, chosen, penalty=5.0)
            scale = float(program.value(program.zeros()))
            result = ADMM().run(program, program.zeros(), budget="600steps", tolerance=2e-3 * scale)
            values.append(result.measures.value)
        axis.plot(counts, values, marker="o", ms=3, lw=1, color=INK["convex"], alpha=0.7)
        print(seed, [round(float(v or 0), 2) for v in values])
    axis.set(xscale="log", xlabel="random patterns", ylabel="optimum", xticks=counts, xticklabels=counts)
    axis.minorticks_off()
    axis.set_title("300 digits, even against odd; each line adds patterns to its own", fontsize=10)
    figure.savefig(out / "convexnet-patterns.svg")


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", choices=("convergence", "iterations", "plane", "patterns"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only in (None, "plane"):
        pictures(options.out)
    if options.only in (None, "patterns"):
        patterns(options.out, 3)
    if options.only in (None, "iterations"):
        per_iteration(options.out, epochs=100, seeds=3)
    if options.only in (None, "convergence"):
        convergence(options.out, epochs=100, rounds=6, seeds=3)


if __name__ == "__main__":
    main()
