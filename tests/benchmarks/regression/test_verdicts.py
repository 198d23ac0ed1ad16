"""Verdicts on both sides of the least effect; intervals against SciPy's paired t test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evenkeel.benchmarks.regression.verdicts import (
    FASTER,
    LESS_STEADY,
    NOISY,
    SAME,
    SLOWER,
    STEADIER,
    judge_losses,
    judge_spike_shares,
    judge_times,
    paired_mean_difference,
)

STEADY_TIMES = [1.0, 1.01, 0.99, 1.005, 0.995, 1.0, 1.002, 0.998]
NOISY_TIMES = [0.5, 1.6, 0.8, 1.4, 0.7, 1.3, 0.9, 1.2]


def scale(values: list[float], factor: float) -> list[float]:
    return [factor * value for value in values]


@pytest.mark.parametrize(
    ("factor", "word"), [(1.0, SAME), (1.03, SAME), (1.07, SLOWER), (1.5, SLOWER), (0.97, SAME), (0.9, FASTER)]
)
def test_steady_times(factor: float, word: str) -> None:
    verdict = judge_times(STEADY_TIMES, scale(STEADY_TIMES, factor), min_effect=0.05)
    assert verdict.word == word
    assert verdict.value == pytest.approx(factor)


def test_a_slowdown_of_both_samples_of_a_pair_changes_nothing() -> None:
    assert judge_times(NOISY_TIMES, scale(NOISY_TIMES, 1.02), min_effect=0.05).word == SAME


def test_noise_is_not_reported_as_a_change() -> None:
    assert judge_times(NOISY_TIMES, NOISY_TIMES[::-1], min_effect=0.05).word == NOISY
    assert judge_losses(NOISY_TIMES, NOISY_TIMES[::-1], min_effect=0.05).word == NOISY


def test_the_effect_of_a_seed_on_both_runs_changes_nothing() -> None:
    assert judge_losses(NOISY_TIMES, scale(NOISY_TIMES, 1.02), min_effect=0.05).word == SAME


@pytest.mark.parametrize(("factor", "word"), [(1.0, SAME), (1.02, SAME), (1.2, LESS_STEADY), (0.8, STEADIER)])
def test_losses(factor: float, word: str) -> None:
    verdict = judge_losses(STEADY_TIMES, scale(STEADY_TIMES, factor), min_effect=0.05)
    assert verdict.word == word
    assert verdict.value == pytest.approx(factor)
    assert verdict.low <= verdict.value <= verdict.high


def test_spike_shares() -> None:
    assert judge_spike_shares([0.0] * 5, [0.0] * 5, min_effect=0.01).word == SAME
    assert judge_spike_shares([0.0] * 5, [0.05, 0.06, 0.04, 0.05, 0.05], min_effect=0.01).word == LESS_STEADY
    assert judge_spike_shares([0.05, 0.06, 0.04, 0.05, 0.05], [0.0] * 5, min_effect=0.01).word == STEADIER
    assert judge_spike_shares([0.0] * 5, [0.05, 0.0, 0.0, 0.0, 0.0], min_effect=0.01).word == NOISY


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=12))
def test_the_interval_of_pairs_is_that_of_students_t(pairs: list[tuple[float, float]]) -> None:
    base, head = np.array(pairs).T
    value, low, high = paired_mean_difference(base, head)
    assert low <= value <= high
    if np.std(head - base) > 1e-6:
        expected = stats.ttest_rel(head, base).confidence_interval(0.95)
        assert math.isclose(low, expected.low, rel_tol=1e-6, abs_tol=1e-6)
        assert math.isclose(high, expected.high, rel_tol=1e-6, abs_tol=1e-6)


def test_equal_differences_have_an_interval_of_width_0_and_one_pair_is_an_error() -> None:
    assert paired_mean_difference(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="at least two pairs"):
        paired_mean_difference(np.ones(1), np.ones(1))
