"""Judges from noisy measurements whether one version is slower or trains less steadily than another.

    verdict = judge_times(base=[1.02, 0.99, ...], head=[1.11, 1.12, ...], min_effect=0.05)
    print(verdict.word, verdict)        # slower 1.10 (1.07 to 1.13)

A version fails only if the whole 95% interval lies beyond the smallest effect that matters, because noise alone can
move the median of the pairs beyond this limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evenkeel.benchmarks.timing import paired_ratio

FASTER, SLOWER = "faster", "slower"
STEADIER, LESS_STEADY = "steadier", "less steady"
SAME, NOISY = "same", "too noisy: run longer"
FAILING_WORDS = (SLOWER, LESS_STEADY)
# The smallest difference that matters, as a share of the steps. The difference is absolute, not relative, because the
# share of spikes may be 0.
MIN_SPIKE_SHARE = 0.01


class Verdict(NamedTuple):
    """How `head` compares with `base`.

    Attributes:
      word: one of the constants above, such as `SLOWER`.
      value: the ratio head / base, or the difference head - base.
      low: lower end of the 95% interval of `value`.
      high: upper end of the 95% interval of `value`.
    """

    word: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def judge_times(base: Sequence[float], head: Sequence[float], min_effect: float) -> Verdict:
    """Judges times by the median ratio of pairs that are adjacent in time.

    `min_effect` is the smallest relative change that matters.
    """
    ratio = paired_ratio(head, base)
    word = _choose_word(*ratio.ci95, 1 / (1 + min_effect), 1 + min_effect, FASTER, SLOWER)
    return Verdict(word, ratio.median, *ratio.ci95)


def judge_losses(base: Sequence[float], head: Sequence[float], min_effect: float) -> Verdict:
    """Judges the final losses of runs by the geometric mean of the ratios of pairs; both runs of a pair have one seed.

    `min_effect` is the smallest relative change that matters.
    """
    value, low, high = map(math.exp, paired_mean_difference(np.log(base), np.log(head)))
    return Verdict(
        _choose_word(low, high, 1 / (1 + min_effect), 1 + min_effect, STEADIER, LESS_STEADY), value, low, high
    )


def judge_spike_shares(base: Sequence[float], head: Sequence[float], min_effect: float) -> Verdict:
    """Judges the shares of steps with a loss spike by the mean difference of pairs; both runs of a pair have one seed.

    `min_effect` is the smallest difference that matters.
    """
    value, low, high = paired_mean_difference(np.asarray(base), np.asarray(head))
    return Verdict(_choose_word(low, high, -min_effect, min_effect, STEADIER, LESS_STEADY), value, low, high)


def _choose_word(low: float, high: float, lower_limit: float, upper_limit: float, better: str, worse: str) -> str:
    if low > upper_limit:
        return worse
    if high < lower_limit:
        return better
    return SAME if lower_limit <= low and high <= upper_limit else NOISY


def paired_mean_difference(base: np.ndarray, head: np.ndarray) -> tuple[float, float, float]:
    """Returns (mean, low, high) of `head` - `base` over pairs, with Student's 95% interval of the mean.

    Raises:
      ValueError: there are fewer than two pairs.
    """
    from scipy import stats

    if len(base) != len(head) or len(base) < 2:
        raise ValueError(f"an interval needs at least two pairs: got {len(base)} and {len(head)} values.")
    differences = head - base
    value, count = float(differences.mean()), len(differences)
    # stats.ttest_rel is not used, because it gives NaN if all differences are equal.
    half_width = float(stats.t.ppf(0.975, count - 1)) * float(differences.std(ddof=1)) / math.sqrt(count)
    return value, value - half_width, value + half_width
