"""Rolling statistics against their definition on each window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.models.stability import rolling


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), window=st.integers(1, 12))
@settings(max_examples=100)
def test_moving_statistics_are_those_of_each_window(values: list[float], window: int) -> None:
    x = np.array(values)
    windows = [x[max(0, index - window + 1) : index + 1] for index in range(len(x))]
    np.testing.assert_allclose(rolling.moving_median(x, window), [np.median(w) for w in windows])
    np.testing.assert_allclose(rolling.moving_sum(x, window), [w.sum() for w in windows], atol=1e-6)


@given(st.lists(st.booleans(), max_size=30))
def test_run_lengths_count_consecutive_true_values(on: list[bool]) -> None:
    expected, length = [], 0
    for value in on:
        length = length + 1 if value else 0
        expected.append(length)
    assert rolling.run_lengths(np.array(on, bool)).tolist() == expected


def test_the_baseline_of_a_step_is_the_steps_before_it() -> None:
    x = np.random.default_rng(0).normal(size=200)
    center, spread = rolling.rolling_baseline(x)
    assert np.isnan(center[: rolling.MIN_BASELINE_STEPS]).all()
    for index in (16, 50, 63, 64, 65, 199):
        past = x[max(0, index - 64) : index]
        assert center[index] == pytest.approx(np.median(past))
        assert spread[index] == pytest.approx(rolling.MAD_TO_SIGMA * np.median(np.abs(past - np.median(past))))


@pytest.mark.parametrize("slope", [-0.01, -0.002])
def test_a_falling_slope_is_found_under_heavy_noise(slope: float) -> None:
    noise = np.random.default_rng(0).standard_t(3, size=400)
    found = rolling.falling_slope(slope * np.arange(400) + 0.1 * noise)
    assert (found[:127] == 0).all(), "too few values"
    np.testing.assert_allclose(np.median(found[127:]), slope, rtol=0.3)
    assert (rolling.falling_slope(-slope * np.arange(400) + 0.1 * noise) == 0).all(), "a rise is no fall"


def test_noise_seldom_falls_significantly() -> None:
    rng = np.random.default_rng(0)
    falls = [rolling.falling_slope(rng.normal(size=128))[-1] < 0 for _ in range(1000)]
    assert np.mean(falls) < 0.02  # the level of the test is 0.7%
    assert (rolling.falling_slope(np.ones(300)) == 0).all()
    assert len(rolling.falling_slope(np.zeros(0))) == 0


def test_the_slope_at_a_step_depends_on_the_128_values_before_it_alone() -> None:
    x = np.cumsum(np.random.default_rng(0).normal(-0.1, 1, size=400))
    found = rolling.falling_slope(x)
    for end in (128, 200, 400):
        assert rolling.falling_slope(x[end - 128 : end])[-1] == found[end - 1]
