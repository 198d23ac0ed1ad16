"""Whether one version is slower than another, or trains less steadily, from noisy measurements of both.

    verdict = of_times(base=[1.02, 0.99, ...], head=[1.11, 1.12, ...], least=0.05)
    print(verdict.word, verdict)        # slower 1.10 (1.07 to 1.13)

A version fails only where the whole 95% interval lies beyond the least effect that matters: what noise does to a median
of pairs it does to both ends of the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.timing import paired_ratio

FASTER, SLOWER = "faster", "slower"
STEADIER, LESS_STEADY = "steadier", "less steady"
SAME, NOISY = "same", "too noisy: run longer"
FAILED = (SLOWER, LESS_STEADY)
LEAST_SPIKES = 0.01  # of the steps; spikes are counted, so that no share of theirs is a least one


class Verdict(NamedTuple):
    """What `head` is beside `base`, and the ratio, or difference, that says so with its 95% interval."""

    word: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def of_times(base: Sequence[float], head: Sequence[float], least: float) -> Verdict:
    """Of pairs taken next to each other in time; a change of `least` (a share) and more matters."""
    ratio = paired_ratio(head, base)
    word = _word(*ratio.ci95, 1 / (1 + least), 1 + least, FASTER, SLOWER)
    return Verdict(word, ratio.median, *ratio.ci95)


def of_losses(base: Sequence[float], head: Sequence[float], least: float) -> Verdict:
    """Of the last losses of runs, pairs with one seed each: the geometric mean of their ratios."""
    value, low, high = map(math.exp, mean_of_pairs(np.log(base), np.log(head)))
    return Verdict(_word(low, high, 1 / (1 + least), 1 + least, STEADIER, LESS_STEADY), value, low, high)


def of_shares(base: Sequence[float], head: Sequence[float], least: float) -> Verdict:
    """Of shares of steps with a spike, pairs with one seed each: the mean of their differences."""
    value, low, high = mean_of_pairs(np.asarray(base), np.asarray(head))
    return Verdict(_word(low, high, -least, least, STEADIER, LESS_STEADY), value, low, high)


def _word(low: float, high: float, least: float, most: float, better: str, worse: str) -> str:
    if low > most:
        return worse
    if high < least:
        return better
    return SAME if least <= low and high <= most else NOISY


def mean_of_pairs(base: np.ndarray, head: np.ndarray) -> tuple[float, float, float]:
    """The mean of `head` - `base`, pair by pair, and Student's 95% interval of it.

    Raises:
      ValueError: fewer than two pairs.
    """
    if len(base) != len(head) or len(base) < 2:
        raise ValueError(f"two pairs at least are needed: got {len(base)} and {len(head)} values.")
    of = head - base
    value, half = float(of.mean()), _t95(len(of) - 1) * float(of.std(ddof=1)) / math.sqrt(len(of))
    return value, value - half, value + half


def _t95(degrees: float) -> float:
    """Student's t that 5% lie beyond, on both sides together."""
    low, high = 0.0, 100.0
    for _ in range(60):
        t = (low + high) / 2
        beyond = statistics.incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
        low, high = (t, high) if beyond > 0.05 else (low, t)
    return high
