"""Verdicts on both sides of the least effect; intervals against SciPy's."""

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
    mean_of_pairs,
    of_losses,
    of_shares,
    of_times,
)

STEADY = [1.0, 1.01, 0.99, 1.005, 0.995, 1.0, 1.002, 0.998]
LOOSE = [0.5, 1.6, 0.8, 1.4, 0.7, 1.3, 0.9, 1.2]


def times(of: list[float], factor: float) -> list[float]:
    return [factor * value for value in of]


@pytest.mark.parametrize(
    ("factor", "word"), [(1.0, SAME), (1.03, SAME), (1.07, SLOWER), (1.5, SLOWER), (0.97, SAME), (0.9, FASTER)]
)
def test_times_whose_ratio_is_sure(factor: float, word: str) -> None:
    verdict = of_times(STEADY, times(STEADY, factor), least=0.05)
    assert verdict.word == word
    assert verdict.value == pytest.approx(factor)


def test_what_slows_both_of_a_pair_is_no_matter() -> None:
    assert of_times(LOOSE, times(LOOSE, 1.02), least=0.05).word == SAME


def test_noise_is_not_called_a_change() -> None:
    assert of_times(LOOSE, LOOSE[::-1], least=0.05).word == NOISY
    assert of_losses(LOOSE, LOOSE[::-1], least=0.05).word == NOISY


def test_what_a_seed_does_to_both_runs_is_no_matter() -> None:
    assert of_losses(LOOSE, times(LOOSE, 1.02), least=0.05).word == SAME


@pytest.mark.parametrize(("factor", "word"), [(1.0, SAME), (1.02, SAME), (1.2, LESS_STEADY), (0.8, STEADIER)])
def test_losses(factor: float, word: str) -> None:
    verdict = of_losses(STEADY, times(STEADY, factor), least=0.05)
    assert verdict.word == word
    assert verdict.value == pytest.approx(factor)
    assert verdict.low <= verdict.value <= verdict.high


def test_shares_of_spikes() -> None:
    assert of_shares([0.0] * 5, [0.0] * 5, least=0.01).word == SAME
    assert of_shares([0.0] * 5, [0.05, 0.06, 0.04, 0.05, 0.05], least=0.01).word == LESS_STEADY
    assert of_shares([0.05, 0.06, 0.04, 0.05, 0.05], [0.0] * 5, least=0.01).word == STEADIER
    assert of_shares([0.0] * 5, [0.05, 0.0, 0.0, 0.0, 0.0], least=0.01).word == NOISY


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=12))
def test_the_interval_of_pairs_is_students(pairs: list[tuple[float, float]]) -> None:
    base, head = np.array(pairs).T
    value, low, high = mean_of_pairs(base, head)
    assert low <= value <= high
    if np.std(head - base) > 1e-6:
        theirs = stats.ttest_rel(head, base).confidence_interval(0.95)
        assert math.isclose(low, theirs.low, rel_tol=1e-6, abs_tol=1e-6)
        assert math.isclose(high, theirs.high, rel_tol=1e-6, abs_tol=1e-6)


def test_equal_pairs_have_no_spread_and_one_pair_says_nothing() -> None:
    assert mean_of_pairs(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="two pairs at least"):
        mean_of_pairs(np.ones(1), np.ones(1))
