"""Activation patterns against counts by theory, brute force and the algebra of the sampling bound."""

import math

import pytest
import torch

from steepest.train.convexnet import (
    Patterns,
    activation_patterns,
    count_in_general_position,
    enumerate_patterns,
    merge_patterns,
    pattern_count_bound,
    patterns_needed,
    sample_patterns,
    sampling_confidence,
    sampling_quality,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(patterns: Patterns) -> set[tuple[bool, ...]]:
    return {tuple(column.tolist()) for column in patterns.active.mT}


def test_sampled_patterns_are_those_of_their_gates_and_distinct() -> None:
    design = normal(30, 3)
    found = sample_patterns(design, 400, torch.Generator().manual_seed(1))
    assert torch.equal(found.active, design @ found.gates.mT >= 0)
    assert len(columns(found)) == len(found) < 400
    # The same draws without the duplicates, in the order of first sight.
    gates = torch.randn(400, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(found.gates[0], gates[0])
    assert columns(found) == {tuple(c.tolist()) for c in (design @ gates.mT >= 0).mT}


def test_equal_generators_give_equal_patterns_in_every_dtype() -> None:
    design = normal(20, 4)
    one, two = (
        sample_patterns(design.to(t), 50, torch.Generator().manual_seed(3)) for t in (torch.float64, torch.float32)
    )
    assert torch.equal(one.active, two.active)
    assert two.gates.dtype == torch.float32
    integers = torch.tensor([[1, 2], [-1, 3]])
    assert sample_patterns(integers, 5, torch.Generator()).gates.dtype == torch.float64


@pytest.mark.parametrize(("n", "d"), [(1, 1), (6, 1), (5, 2), (9, 2), (6, 3), (8, 3), (7, 4), (4, 5)])
def test_all_patterns_of_a_general_design_are_as_many_as_covers_theorem_says(n: int, d: int) -> None:
    design = normal(n, d, seed=n + d)
    found = enumerate_patterns(design)
    assert len(found) == len(columns(found)) == count_in_general_position(n, min(n, d))
    assert torch.equal(found.active, design @ found.gates.mT >= 0)
    assert len(found) <= pattern_count_bound(n, min(n, d)) * (1 + 1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_enumeration_finds_what_many_random_gates_find(d: int) -> None:
    design = torch.cat([normal(5, d), normal(5, d)[:2], -2 * normal(5, d)[:1], torch.zeros(1, d)])
    drawn = sample_patterns(design, 300_000, torch.Generator().manual_seed(0))
    assert columns(enumerate_patterns(design)) == columns(drawn)


def test_one_feature_with_bias_has_a_pattern_for_each_threshold_and_direction() -> None:
    design = torch.tensor([[0.0, 1.0], [1.0, 1.0], [3.0, 1.0]])
    by_hand = {tuple(k > i for k in range(3)) for i in range(-1, 3)} | {
        tuple(k < i for k in range(3)) for i in range(4)
    }
    assert columns(enumerate_patterns(design)) == by_hand


def test_the_limit_of_an_enumeration_holds() -> None:
    with pytest.raises(ValueError, match="limit=10"):
        enumerate_patterns(normal(8, 3), limit=10)


def test_the_sampling_bound_and_its_inverses() -> None:
    # By hand: n = 99, xi = 1/10, psi = 1/2: min(100 / 0.05 - 1, 20 (100 + log 2)) = min(1999, 2013.8...).
    assert patterns_needed(99, 0.1, 0.5) == 1999
    assert patterns_needed(99, 0.1, 0.01) == math.ceil(20 * (100 + math.log(100)))
    for n, xi, psi in [(10, 0.2, 0.1), (1000, 0.05, 0.9), (500, 0.5, 1e-6)]:
        draws = patterns_needed(n, xi, psi)
        assert sampling_quality(draws, n, psi) <= xi < sampling_quality(draws - 1, n, psi)
        assert sampling_confidence(draws, n, xi) <= psi < sampling_confidence(draws - 1, n, xi) * (1 + 1e-9)
    assert sampling_quality(1, 10, 0.5) == 1.0
    assert sampling_confidence(1, 10, 0.5) == 1.0


def test_the_count_bound_does_not_overflow() -> None:
    assert pattern_count_bound(3, 3) == 8
    assert pattern_count_bound(100_000, 300) == math.inf
    assert pattern_count_bound(10, 1) == pytest.approx(2 * math.e * 9)


def test_merging_keeps_each_pattern_once() -> None:
    design = normal(12, 2)
    one = sample_patterns(design, 10, torch.Generator().manual_seed(1))
    two = sample_patterns(design, 10, torch.Generator().manual_seed(2))
    both = merge_patterns(one, two)
    assert columns(both) == columns(one) | columns(two)
    assert len(both) == len(columns(both))
    assert torch.equal(both.take(torch.arange(len(one))).active, one.active)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="design must be finite"):
        sample_patterns(torch.tensor([[math.nan]]), 3, torch.Generator())
    with pytest.raises(ValueError, match="draws"):
        sample_patterns(normal(3, 2), 0, torch.Generator())
    with pytest.raises(TypeError, match="generator"):
        sample_patterns(normal(3, 2), 3, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gates"):
        activation_patterns(normal(3, 2), normal(3, 3))
    with pytest.raises(ValueError, match="xi"):
        patterns_needed(10, 0.0, 0.5)
    with pytest.raises(TypeError, match="active"):
        Patterns(normal(3, 2), normal(2, 2))
