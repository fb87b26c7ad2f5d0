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
    nonconvex_objective,
    sample_patterns,
    train_convex_relu,
    train_robust_convex_relu,
    with_bias,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK = {"ADMM": "#3f51b5", "Adam": "#e65100", "SGD": "#2e7d32"}


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


def trained(
    make: Callable[[Any], torch.optim.Optimizer],
    width: int,
    penalty: float,
    epochs: int,
    seed: int,
    data: tuple[Tensor, Tensor, Tensor, Tensor],
) -> list[tuple[float, float, float]]:
    """Seconds, objective and test accuracy after every epoch of minibatches of 32."""
    train, test, signs, test_signs = data
    torch.manual_seed(seed)
    network = TwoLayerReLU(train.shape[1], width, bias=True, dtype=torch.float64)
    for layer in (network.hidden, network.output):
        torch.nn.init.kaiming_normal_(layer.weight)
    network.output.weight.data *= 0.3
    optimizer = make(network.parameters())
    history, seconds = [], 0.0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        begun = time.perf_counter()
        for batch in torch.randperm(len(train), generator=generator).split(32):
            loss = 0.5 * (network(train[batch])[:, 0] - signs[batch]).square().sum() * (len(train) / len(batch))
            weights = sum(p.square().sum() for p in network.parameters())
            optimizer.zero_grad()
            (loss + 0.5 * penalty * weights).backward()
            optimizer.step()
        seconds += time.perf_counter() - begun
        with torch.no_grad():
            objective = float(nonconvex_objective(network, train, signs, "squared", penalty))
        history.append((seconds, objective, accuracy(network, test, test_signs)))
    return history


def convergence(out: Path, epochs: int, steps: int, seeds: int) -> None:
    """Objective over seconds and test accuracy over iterations: ADMM against SGD and Adam of the same width."""
    data = digits()
    train, test, signs, test_signs = data
    penalty, patterns = 5.0, 60
    design = with_bias(train)
    gates = sample_patterns(design, patterns, torch.Generator().manual_seed(0))
    program = ConvexProgram(design, signs, gates, penalty=penalty)
    convex: list[tuple[float, float, float]] = []

    def look(report: Any) -> None:
        network = program.network(report.state.blocks, bias=True)
        with torch.no_grad():
            objective = float(nonconvex_objective(network, train, signs, "squared", penalty))
        convex.append((report.seconds, objective, accuracy(network, test, test_signs)))

    result = ADMM().run(program, program.zeros(), budget=f"{steps}steps", callbacks=[look])
    width = program.network(result.state.blocks).width
    # The learning rates are the best of this grid by the objective after the last epoch, with seed 100.
    rivals: dict[str, Callable[[float], Callable[[Any], torch.optim.Optimizer]]] = {
        "SGD": lambda lr: lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9),
        "Adam": lambda lr: lambda p: torch.optim.Adam(p, lr=lr),
    }
    grids = {"SGD": (3e-7, 1e-6, 3e-6, 1e-5, 3e-5), "Adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for name, make in rivals.items():
        score = {lr: trained(make(lr), width, penalty, epochs, 100, data)[-1][1] for lr in grids[name]}
        rate = min(score, key=lambda lr: score[lr] if np.isfinite(score[lr]) else np.inf)
        print(name, "best learning rate", rate, {k: round(v, 2) for k, v in score.items()})
        for seed in range(seeds):
            history = trained(make(rate), width, penalty, epochs, seed, data)
            label = f"{name} ({seeds} seeds)" if seed == 0 else None
            left.plot([h[0] for h in history], [h[1] for h in history], color=INK[name], alpha=0.6, lw=1, label=label)
            right.plot(range(1, epochs + 1), [h[2] for h in history], color=INK[name], alpha=0.6, lw=1)
    left.plot([h[0] for h in convex], [h[1] for h in convex], color=INK["ADMM"], lw=2, label="convex (ADMM)")
    left.axhline(result.state.bound, color="k", lw=1, ls=":", label="proved lower bound (over the patterns)")
    right.plot(range(1, len(convex) + 1), [h[2] for h in convex], color=INK["ADMM"], lw=2)
    left.set(xscale="log", yscale="log", xlabel="seconds (one core)", ylabel="objective of the network")
    right.set(xlim=(0, epochs), xlabel="iterations (ADMM) or epochs", ylabel="test accuracy", ylim=(0.75, 1.0))
    left.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Even against odd digits, {len(train)} samples, {width} neurons", fontsize=11)
    figure.savefig(out / "convexnet-convergence.svg")
    last = convex[-1]
    print(f"ADMM: {last[0]:.1f} s, objective {last[1]:.3f}, bound {result.state.bound:.3f}, accuracy {last[2]:.3f}")


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
    figure.savefig(out / "convexnet-plane.svg")


def patterns(out: Path, draws: int) -> None:
    """The optimum as patterns grow."""
    train, _, signs, _ = digits()
    train, signs = train[:400], signs[:400]
    design = with_bias(train)
    counts = [2, 5, 10, 20, 40, 80, 160]
    figure, axis = plt.subplots(figsize=(6, 3.8), constrained_layout=True)
    for seed in range(draws):
        whole = sample_patterns(design, counts[-1], torch.Generator().manual_seed(seed))
        values = []
        for count in counts:
            program = ConvexProgram(design, signs, whole.take(torch.arange(min(count, len(whole)))), penalty=5.0)
            small = 2e-2 * float(program.value(program.zeros()))
            values.append(
                ADMM().run(program, program.zeros(), budget="1500steps", tolerance=1e-2 * small).measures.value
            )
        axis.plot(counts, values, marker="o", ms=3, lw=1, color=INK["ADMM"], alpha=0.6)
    axis.set(
        xscale="log", xlabel="patterns", ylabel="optimum of the convex program", title="400 digits, nested samples"
    )
    figure.savefig(out / "convexnet-patterns.svg")


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", choices=("convergence", "plane", "patterns"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only in (None, "plane"):
        pictures(options.out)
    if options.only in (None, "patterns"):
        patterns(options.out, 5)
    if options.only in (None, "convergence"):
        convergence(options.out, epochs=60, steps=200, seeds=5)


if __name__ == "__main__":
    main()
