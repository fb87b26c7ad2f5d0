"""Pattern growth: exact where all patterns are known, monotone, and better than random patterns."""

import math

import pytest
import torch

pytest.importorskip("cvxpy")
import reference

from steepest.core.budget import Budget
from steepest.core.result import Reason
from steepest.train.convexnet import (
    ADMM,
    ConvexProgram,
    ConvexReLUClassifier,
    ConvexReLURegressor,
    Grown,
    Patterns,
    TwoLayerReLU,
    convex_relu_path,
    enumerate_patterns,
    find_neurons,
    grow_patterns,
    merge_patterns,
    nonconvex_objective,
    sample_patterns,
    train_convex_relu,
    with_bias,
)

LOSSES = ["squared", "logistic", "hinge", "huber", "absolute", "squared-hinge"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def program(
    n: int = 12,
    d: int = 1,
    loss: str = "squared",
    *,
    bias: bool = True,
    outputs: int = 1,
    seed: int = 0,
    patterns: Patterns | None = None,
    penalty: float = 0.2,
) -> ConvexProgram:
    """Few patterns of random data."""
    x = with_bias(normal(n, d, seed=seed), bias)
    y = torch.sign(normal(n, outputs, seed=seed + 100))
    return ConvexProgram(x, y, sample_patterns(x, 2, generator()) if patterns is None else patterns, loss, penalty)


def over(small: ConvexProgram, patterns: Patterns) -> ConvexProgram:
    return ConvexProgram(small.design, small.target, patterns, small.loss, small.penalty)


def honest(grown: Grown) -> None:
    """What every result keeps."""
    value = grown.program.value(grown.point)
    assert float(grown.program.violation(grown.point)) <= 1e-12
    assert grown.objective == pytest.approx(float(value), rel=1e-9)
    network = grown.program.network(grown.point)
    small = grown.program
    recovered = nonconvex_objective(network, small.design, small.target, small.loss, small.penalty)
    assert grown.objective == pytest.approx(float(recovered.detach()), rel=1e-9)
    assert grown.objective == grown.objectives[-1]
    assert list(grown.objectives) == sorted(grown.objectives, reverse=True)
    assert len(grown.objectives) == grown.rounds + 1
    gates = grown.patterns.gates
    inner = small.design @ gates.mT  # gates on a border are ambiguous
    assert bool((((inner >= 0) == grown.patterns.active) | (inner.abs() < 1e-9)).all())
    assert len(merge_patterns(grown.patterns, grown.patterns)) == len(grown.patterns)


@pytest.mark.parametrize(
    ("loss", "d", "bias", "outputs"),
    [
        *((loss, 1, True, 1) for loss in LOSSES),
        ("squared", 2, False, 1),
        ("hinge", 2, False, 1),
        ("logistic", 1, True, 2),
    ],
)
def test_the_optimum_over_all_patterns_is_reached(loss: str, d: int, bias: bool, outputs: int) -> None:
    few = program(d=d, bias=bias, outputs=outputs, loss=loss, seed=3)
    everything = enumerate_patterns(few.design)
    optimum = reference.optimum(over(few, everything))
    grown = grow_patterns(few, generator=generator(), rounds=10, tolerance=1e-4, searches=200, limit=8)
    honest(grown)
    assert len(grown.patterns) < len(everything)
    # The patterns are right to the accuracy of Clarabel, and the point nearly so.
    assert reference.optimum(grown.program) == pytest.approx(
        optimum, rel=1e-3 if loss in ("absolute", "hinge") else 1e-5
    )
    assert optimum * (1 - 1e-8) <= grown.objective <= optimum * (1 + 5e-3)
    assert reference.optimum(few) > optimum * (1 + 1e-3)


@pytest.mark.parametrize("d", [1, 2])
def test_the_search_finds_the_most_violated_constraint(d: int) -> None:
    # On the cone of a pattern the gain is linear, so its maximum over the ball is the length of a projection; here the
    # maximum over the angle, on a fine grid.
    few = program(d=2 if d == 2 else 1, bias=d == 1)
    slope = normal(12, 1, seed=7)
    angle = torch.linspace(0, 2 * math.pi, 200_001, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    gain = (slope * (few.design @ circle.mT).clamp_min(0)).sum(0)
    found = find_neurons(few, slope, 128, generator())
    assert float(found.gains[0]) == pytest.approx(float(gain.abs().max()), rel=1e-5)
    assert float(found.signs[0]) == -float(torch.sign(gain[gain.abs().argmax()]))
    assert bool((found.gains.diff() <= 0).all())
    torch.testing.assert_close(found.weights.norm(dim=1), torch.ones(128, dtype=torch.float64))
    again = -found.signs * (slope * (few.design @ found.weights.mT).clamp_min(0)).sum(0)
    torch.testing.assert_close(again, found.gains)


def test_a_violated_constraint_is_a_neuron_that_lowers_the_objective() -> None:
    few = program(n=30, d=3, outputs=2)
    point = few.repair(ADMM().run(few, few.zeros(), budget="200steps").solution)
    slope = few.loss.derivative(few.predict(point), few.target)
    found = find_neurons(few, slope, 20, generator())
    assert float(found.gains[0]) > few.penalty
    before = float(few.value(point))
    for i in torch.nonzero(found.gains > 1.05 * few.penalty)[:, 0].tolist():
        change = few.predict(point)
        size = 1e-4
        inner = (few.design @ found.weights[i]).clamp_min(0)
        change[:, found.outputs[i]] += size * found.signs[i] * inner
        after = float(few.value_at(change, point)) + few.penalty * size
        expected = size * (few.penalty - float(found.gains[i]))
        assert after - before == pytest.approx(expected, abs=size * size * float(inner.square().sum()))
        assert after < before


def test_more_dimensions_than_can_be_enumerated() -> None:
    few = program(n=40, d=6, penalty=1.0)
    many = over(few, sample_patterns(few.design, 30, generator()))
    random = ADMM().run(many, many.zeros(), budget="400steps", tolerance=1e-3)
    assert random.value is not None
    assert random.stationarity is not None
    grown = grow_patterns(many, generator=generator(), rounds=3, limit=30)
    honest(grown)
    used = int((grown.point.norm(dim=2) > 0).any(2).any(0).sum())
    assert used <= len(grown.patterns) <= max(30, used)
    # Even the proved bound over the random patterns is above.
    assert grown.objective < random.value - random.stationarity
    # Further random patterns gain next to nothing.
    wider = over(grown.program, merge_patterns(grown.patterns, many.patterns))
    assert reference.optimum(wider) >= 0.98 * grown.objective
    further = grow_patterns(grown.program, grown.point, generator=generator(), rounds=2)
    honest(further)
    assert further.objectives[0] == pytest.approx(grown.objective, rel=1e-12)


def test_a_network_is_a_start() -> None:
    few = program(n=40, d=3, penalty=0.5)
    network = TwoLayerReLU(4, 6, dtype=torch.float64)
    with torch.no_grad():
        network.hidden.weight.copy_(normal(6, 4, seed=5))
        network.output.weight.copy_(0.1 * normal(1, 6, seed=6))
    own = float(nonconvex_objective(network, few.design, few.target, "squared", 0.5).detach())
    kept = grow_patterns(few, network, generator=generator(), rounds=0)
    honest(kept)
    assert kept.objective <= own * (1 + 1e-12)
    grown = grow_patterns(few, network, generator=generator(), rounds=2)
    honest(grown)
    assert grown.objectives[0] == kept.objective > grown.objective


def test_equal_seeds_give_equal_growth() -> None:
    first, second, third = (
        grow_patterns(program(n=20, d=3), generator=generator(s), rounds=1, limit=20) for s in (1, 1, 2)
    )
    assert torch.equal(first.point, second.point)
    assert torch.equal(first.patterns.active, second.patterns.active)
    assert first.violations == second.violations != third.violations
    x, y = normal(30, 3), torch.sign(normal(30, seed=1))
    a, b = (train_convex_relu(x, y, penalty=0.5, n_patterns=10, rounds=1, budget="40steps") for _ in range(2))
    assert torch.equal(a.point, b.point)
    assert (a.objective, a.violation) == (b.objective, b.violation)


def test_where_zero_is_optimal_there_is_nothing_to_grow() -> None:
    few = program(penalty=1e4)
    grown = grow_patterns(few, generator=generator())
    assert (grown.rounds, grown.reason, grown.violation) == (0, Reason.CONVERGED, 0.0)
    assert not bool(grown.point.any())
    assert grown.patterns.active.equal(few.patterns.active)
    free = grow_patterns(program(n=8, penalty=0.0), generator=generator(), rounds=2)
    assert free.violation == math.inf  # nothing is small in parts of a penalty of zero
    assert free.objective < 0.1 * free.objectives[0]


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge"])
def test_training_grows_by_default_and_says_what_it_found(loss: str) -> None:
    x = normal(50, 5)
    y = torch.sign(x[:, 0] * x[:, 1])
    settings = {"loss": loss, "penalty": 0.5, "n_patterns": 15, "budget": "300steps"}
    grown = train_convex_relu(x, y, **settings)
    random = train_convex_relu(x, y, rounds=0, **settings)
    assert (random.rounds, random.violation) == (0, None)
    assert 1 <= grown.rounds <= 3
    assert grown.violation is not None
    assert 0 <= grown.violation < 1
    assert grown.patterns is not None
    assert grown.objective < random.bound  # no network over the random patterns is as good
    value = float(nonconvex_objective(grown.network, x, y, loss, 0.5).detach())
    assert value == pytest.approx(grown.objective, rel=1e-9)
    optimum = reference.optimum(ConvexProgram(with_bias(x), y, grown.patterns, loss, 0.5))
    assert grown.bound <= optimum * (1 + 1e-7)
    assert grown.objective <= optimum * (1 + 1e-2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_paths_and_several_outputs() -> None:
    x, y = normal(40, 3), normal(40, 2, seed=1)
    model = ConvexReLURegressor(penalty=0.5, n_patterns=6, max_iter=50, random_state=0)
    assert model.fit(x.numpy(), y.numpy()).rounds_ >= 1
    plain = ConvexReLURegressor(penalty=0.5, n_patterns=6, max_iter=50, random_state=0, rounds=0)
    assert plain.fit(x.numpy(), y.numpy()).rounds_ == 0
    assert model.objective_ < plain.lower_bound_
    gated = ConvexReLUClassifier(gated=True, n_patterns=6, max_iter=20).fit(x.numpy(), y[:, 0].numpy() > 0)
    assert (gated.rounds_, gated.violation_) == (0, None)
    path = convex_relu_path(x, y, [1e6, 2.0, 0.5], n_patterns=6, budget="50steps", rounds=1)
    assert path[1e6].rounds == 0
    assert path[0.5].objective == pytest.approx(model.objective_, rel=0.05)
    assert path[0.5].objective < path[2.0].objective < path[1e6].objective


def test_a_budget_of_time_holds_for_growth_too() -> None:
    x, y = normal(15, 2), normal(15, seed=1)
    found = train_convex_relu(x, y, budget=Budget(seconds=1e-12))
    assert (found.rounds, found.steps) == (0, 0)
    assert grow_patterns(program(), generator=generator(), seconds=1e-9).violation == math.inf


def test_bad_input_is_named() -> None:
    few = program()
    gated = ConvexProgram(few.design, few.target, few.patterns, gated=True)
    for bad, error, words in (
        (lambda: grow_patterns(gated, generator=generator()), ValueError, "gated"),
        (lambda: grow_patterns(few.design, generator=generator()), TypeError, "program"),
        (lambda: grow_patterns(few, generator=3), TypeError, "generator"),
        (lambda: grow_patterns(few, generator=generator(), rounds=-1), ValueError, "rounds"),
        (lambda: grow_patterns(few, generator=generator(), tolerance=-1.0), ValueError, "tolerance"),
        (lambda: grow_patterns(few, generator=generator(), limit=0), ValueError, "limit"),
        (lambda: grow_patterns(few, torch.zeros(3), generator=generator()), ValueError, "start"),
    ):
        with pytest.raises(error, match=words):
            bad()
