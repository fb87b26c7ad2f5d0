"""Lazy greedy facility location against plain greedy steps and the best of all subsets."""

import itertools
import math

import numpy as np
import pytest
import torch

from steepest.core.facility_location import facility_location, nearest_chosen


def similarity(n: int, seed: int, m: int | None = None, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 3, generator=g, dtype=dtype), torch.randn(m or n, 3, generator=g, dtype=dtype)
    d = torch.cdist(x, x if m is None else y)
    return d.max() - d


def value(s: np.ndarray, chosen: tuple[int, ...]) -> float:
    return float(s[:, list(chosen)].max(1).sum())


def plain_greedy(s: np.ndarray, count: int) -> list[int]:
    chosen: list[int] = []
    covered = np.zeros(len(s), s.dtype)
    for _ in range(count):
        gains = [-1.0 if j in chosen else float(np.maximum(column - covered, 0).sum()) for j, column in enumerate(s.T)]
        chosen.append(int(np.argmax(gains)))
        covered = np.maximum(covered, s[:, chosen[-1]])
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_at_least_one_less_one_over_e_of_the_optimum(seed: int) -> None:
    s = similarity(12, seed)
    for count in (1, 2, 4):
        chosen, gains = facility_location(s, count)
        best = max(value(s.numpy(), subset) for subset in itertools.combinations(range(12), count))
        reached = value(s.numpy(), tuple(chosen.tolist()))
        assert (1 - 1 / math.e) * best <= reached <= best + 1e-12
        assert reached == pytest.approx(float(gains.sum()))
        if count == 1:
            assert reached == best


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_columns_in_the_same_order_as_plain_greedy_steps(dtype: torch.dtype) -> None:
    for seed, shape in enumerate([(40, None), (60, 25), (25, 60)]):
        s = similarity(shape[0], seed, shape[1], dtype)
        count = s.shape[1]
        chosen, gains = facility_location(s, count)
        assert chosen.tolist() == plain_greedy(s.contiguous().numpy(), count)
        assert gains.dtype == dtype
        assert bool((gains.diff() <= 1e-4).all()), "gains shrink"


def test_ties_and_columns_that_add_nothing() -> None:
    same = torch.ones(5, 5)
    chosen, gains = facility_location(same, 5)
    assert chosen.tolist() == [0, 1, 2, 3, 4]
    assert gains.tolist() == [5.0, 0, 0, 0, 0]
    rounded = (similarity(30, 1) * 2).round()  # many equal gains
    assert facility_location(rounded, 30)[0].tolist() == plain_greedy(rounded.numpy(), 30)
    assert facility_location(torch.zeros(3, 3), 2)[0].tolist() == [0, 1]


def test_each_chosen_point_is_nearest_to_itself() -> None:
    s = similarity(20, 3)
    chosen, _ = facility_location(s, 5)
    nearest = nearest_chosen(s, chosen)
    assert nearest[chosen].tolist() == [0, 1, 2, 3, 4]
    for i in range(20):
        assert s[i, chosen[nearest[i]]] == s[i, chosen].max()
    assert nearest_chosen(torch.ones(4, 4), torch.tensor([1, 3])).tolist() == [0, 0, 0, 1]


def test_half_precision_is_chosen_by_as_it_is() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        s = (similarity(12, 2) * 4).round().to(dtype)
        chosen, gains = facility_location(s, 4)
        assert chosen.tolist() == plain_greedy(s.double().numpy(), 4)
        assert gains.dtype == dtype


def test_bad_arguments() -> None:
    s = similarity(4, 0)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"count must be an integer >= 1 and <= 4, got {count}"):
            facility_location(s, count)
    with pytest.raises(ValueError, match=r"similarity must be finite and at least 0 everywhere, got .* -1.0"):
        facility_location(torch.tensor([[1.0, -1.0]]), 1)
    for entry in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="similarity must be finite"):
            facility_location(torch.tensor([[1.0, entry]]), 1)
    with pytest.raises(ValueError, match=r"similarity must be a matrix with rows and columns, got the shape \(3,\)"):
        facility_location(torch.ones(3), 1)
