"""Verdicts on both sides of the least effect; intervals against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.verdicts import (
    FASTER,
    LESS_STEADY,
    NOISY,
    SAME,
    SLOWER,
    STEADIER,
    difference,
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


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12), st.lists(st.floats(0.01, 100), min_size=2, max_size=12))
def test_differences_are_welchs(base: list[float], head: list[float]) -> None:
    value, low, high = difference(base, head)
    assert low <= value <= high
    if np.var(base) + np.var(head) > 1e-6:
        theirs = stats.ttest_ind(head, base, equal_var=False).confidence_interval(0.95)
        scale = 1 + abs(theirs.high) + abs(theirs.low)
        assert math.isclose(low, theirs.low, abs_tol=1e-6 * scale)
        assert math.isclose(high, theirs.high, abs_tol=1e-6 * scale)


def test_constants_have_no_spread() -> None:
    assert difference([1.0, 1.0], [3.0, 3.0]) == (2.0, 2.0, 2.0)
    assert difference([1.0, 1.0], [1.0, 1.0]) == (0.0, 0.0, 0.0)
