"""Ranges: what they take, what they refuse, and in which words."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.core.ranges import BETAS, Flag, Integer, OneOf, Range, Real, Reals, check_settings

OPEN = Real(0.0, 1.0, low_open=True, high_open=True)

TAKEN: list[tuple[Range, list[Any]]] = [
    (Real(), [0, -3.5, np.float32(1.0), np.int64(2), Fraction(1, 3), torch.tensor(2.0), torch.tensor([2])]),
    (Real(0.0, 1.0), [0, 1, 0.5]),
    (OPEN, [0.5, 1e-300]),
    (Real(0.0, optional=True), [None, 0.0]),
    (Integer(1, 3), [1, 3, np.int32(2)]),
    (Integer(optional=True), [None, 0]),
    (BETAS, [(0.9, 0.99), [0.0, 0.5], (torch.tensor(0.9), 0)]),
    (OneOf(("a", None, 1)), ["a", None, 1]),
    (Flag(), [True, False]),
]
REFUSED: list[tuple[Range, list[Any], str]] = [
    (
        Real(),
        [math.nan, math.inf, "1", None, True, 1j, [1], torch.ones(2), torch.tensor(True)],
        r"a finite number in \(-inf, inf\)",
    ),
    (Real(0.0, 1.0), [-1e-12, 1.0 + 1e-12], r"a finite number in \[0, 1\]"),
    (OPEN, [0, 1, 0.0, 1.0], r"a finite number in \(0, 1\)"),
    (Real(0.0, optional=True), [-1.0], r"in \[0, inf\) or None"),
    (Integer(1, 3), [0, 4, 2.0, True, None, "2"], "an integer >= 1 and <= 3"),
    (BETAS, [0.9, None, (0.9,), (0.9, 0.9, 0.9), "ab", (0.9, 1.0), (0.9, None)], "in \\[0, 1\\)"),
    (OneOf(("a", None, 1)), ["b", 0, True, 1.0], "one of 'a', None, 1"),
    (Flag(), [0, 1, None, "True"], "True or False"),
]


@pytest.mark.parametrize(("allowed", "value"), [(r, v) for r, values in TAKEN for v in values], ids=repr)
def test_taken(allowed: Range, value: Any) -> None:
    allowed.check("x", value)


@pytest.mark.parametrize(("allowed", "value", "words"), [(r, v, w) for r, vs, w in REFUSED for v in vs], ids=repr)
def test_refused(allowed: Range, value: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^Lion: x.* must be .*{words}.*, got "):
        check_settings("Lion", {"x": value}, {"x": allowed})


@given(st.floats())
def test_a_real_is_taken_exactly_inside_its_interval(value: float) -> None:
    inside = -2.0 <= value < 3.0
    try:
        Real(-2.0, 3.0, high_open=True).check("x", value)
        assert inside
    except ValueError:
        assert not inside


def test_settings_without_a_range_are_left_alone() -> None:
    check_settings("Lion", {"y": object()}, {"x": Flag()})


def test_entries_are_named() -> None:
    with pytest.raises(ValueError, match=r"betas\[1\] must be .*, got 1.5"):
        Reals(2, Real(0.0, 1.0)).check("betas", (0.5, 1.5))
