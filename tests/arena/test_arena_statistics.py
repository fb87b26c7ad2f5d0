"""Intervals, tests and adjustments against hand-computed and published values, and under the null."""

import math

import numpy as np
import pytest
from scipy import stats

from steepest.arena.statistics import bonferroni, bootstrap_interval, holm, paired_p_value


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1, then the running maximum.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([None, 0.04, None]) == [None, pytest.approx(0.04), None]


def test_bonferroni_by_hand():
    assert bonferroni([0.01, None, 0.4, 0.2]) == [pytest.approx(0.03), None, 1.0, pytest.approx(0.6)]


def test_paired_p_value_is_students():
    rng = np.random.default_rng(0)
    for n in (2, 5, 12):
        values = rng.normal(0.3, 1.0, n)
        assert paired_p_value(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-10)


def test_paired_p_value_of_equal_differences_is_the_sign_test():
    assert paired_p_value([0.1] * 5) == pytest.approx(2 / 2**5)
    assert paired_p_value([0.0] * 5) == 1.0
    assert paired_p_value([0.1]) is None


def test_interval_covers_the_mean_at_five_values():
    rng = np.random.default_rng(1)
    hits = 0
    for k in range(400):
        low, high = bootstrap_interval(rng.normal(2.0, 1.0, 5), resamples=1000, seed=k)
        hits += low <= 2.0 <= high
    # The plain percentile interval covers some 83 % here; the expanded one comes near the nominal 95 %.
    assert 0.89 <= hits / 400 <= 0.99


def test_interval_of_the_mean_against_the_normal_limit():
    values = np.random.default_rng(2).normal(0.0, 1.0, 400)
    low, high = bootstrap_interval(values)
    half = stats.t.ppf(0.975, 399) * values.std(ddof=1) / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_edge_cases():
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert bootstrap_interval([1.0, 2.0]) == (1.0, 2.0)
    assert bootstrap_interval([1.0, 2.0, 4.0], seed=5) == bootstrap_interval([1.0, 2.0, 4.0], seed=5)
