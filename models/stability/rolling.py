"""Rolling statistics of a series of steps; the value at a step depends on that step and earlier ones only.

median, sigma = rolling_baseline(log_loss)         # of up to 64 steps before each step
jumps = moving_sum(log_loss - median > 7 * sigma, 5)
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

BASELINE_STEPS = 64  # number of earlier steps that a step is compared with
MIN_BASELINE_STEPS = 16  # with fewer earlier steps there is no baseline
TREND_BLOCKS, TREND_BLOCK_STEPS = 8, 16  # a trend is judged by so many medians of so many values each
# Kendall's S of 8 values without a trend is -20 or less with a probability of 0.7% (Kendall 1970, table 1).
SIGNIFICANT_TREND = -20
MAD_TO_SIGMA = 1.4826  # standard deviations per median absolute deviation, for a normal distribution


def rolling_baseline(x: np.ndarray, window: int = BASELINE_STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Median and robust standard deviation of up to `window` values before each value, float64 [n] each.

    NaN where there are fewer than `MIN_BASELINE_STEPS` earlier values.
    """
    center, spread = np.full((2, len(x)), np.nan)
    for index in range(MIN_BASELINE_STEPS, min(window, len(x))):
        center[index] = np.median(x[:index])
        spread[index] = MAD_TO_SIGMA * np.median(np.abs(x[:index] - center[index]))
    if len(x) > window:
        past = sliding_window_view(x, window)[:-1]
        center[window:] = np.median(past, axis=1)
        spread[window:] = MAD_TO_SIGMA * np.median(np.abs(past - center[window:, None]), axis=1)
    return center, spread


def moving_median(x: np.ndarray, window: int) -> np.ndarray:
    """Median of the `window` values that end at each value; at the start, of all values so far."""
    start = np.array([np.median(x[: end + 1]) for end in range(min(window - 1, len(x)))])
    if len(x) < window:
        return start
    return np.concatenate([start, np.median(sliding_window_view(x, window), axis=1)])


def moving_sum(x: np.ndarray, window: int) -> np.ndarray:
    """Sum of the `window` values that end at each value; at the start, of all values so far."""
    total = np.cumsum(np.asarray(x, np.float64))
    return total - np.concatenate([np.zeros(min(window, len(x))), total[: max(0, len(x) - window)]])


def run_lengths(on: np.ndarray) -> np.ndarray:
    """Number of consecutive true values that end at each value, int64 [n]."""
    position = np.arange(1, len(on) + 1)
    return position - np.maximum.accumulate(np.where(on, 0, position)) if len(on) else position


def falling_slope(x: np.ndarray) -> np.ndarray:
    """Slope per step of the last 128 values where they fall significantly, else 0; float64 [n], at most 0.

    The test is that of Mann and Kendall, one-sided, at a level of 0.7%; the slope is that of Theil and Sen. Both take
    the medians of `TREND_BLOCKS` neighbouring blocks of `TREND_BLOCK_STEPS` values, so noise need not be normal. At the
    start of a series, where there are fewer values, the slope is 0.
    """
    slope = np.zeros(len(x))
    first_step = (TREND_BLOCKS - 1) * TREND_BLOCK_STEPS
    medians = moving_median(x, TREND_BLOCK_STEPS)[TREND_BLOCK_STEPS - 1 :]
    if len(medians) <= first_step:
        return slope
    blocks = sliding_window_view(medians, first_step + 1)[:, ::TREND_BLOCK_STEPS]
    earlier, later = np.triu_indices(TREND_BLOCKS, 1)
    rises = blocks[:, later] - blocks[:, earlier]
    slopes = np.median(rises / (TREND_BLOCK_STEPS * (later - earlier)), axis=1)
    falls = np.sign(rises).sum(axis=1) <= SIGNIFICANT_TREND
    slope[first_step + TREND_BLOCK_STEPS - 1 :] = np.where(falls, np.minimum(slopes, 0.0), 0.0)
    return slope
