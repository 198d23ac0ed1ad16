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

from benchmarks import scoring
from benchmarks.timing import paired_ratio

FASTER, SLOWER = "faster", "slower"
STEADIER, LESS_STEADY = "steadier", "less steady"
SAME, NOISY = "same", "too noisy: run longer"
FAILED = (SLOWER, LESS_STEADY)


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
    """Of the last losses of runs with different seeds: the ratio of their geometric means, by Welch's interval."""
    value, low, high = map(math.exp, difference(np.log(base).tolist(), np.log(head).tolist()))
    return Verdict(_word(low, high, 1 / (1 + least), 1 + least, STEADIER, LESS_STEADY), value, low, high)


def of_shares(base: Sequence[float], head: Sequence[float], least: float) -> Verdict:
    """Of shares of steps with a spike: the difference of their means."""
    value, low, high = difference(base, head)
    return Verdict(_word(low, high, -least, least, STEADIER, LESS_STEADY), value, low, high)


def _word(low: float, high: float, least: float, most: float, better: str, worse: str) -> str:
    if low > most:
        return worse
    if high < least:
        return better
    return SAME if least <= low and high <= most else NOISY


def difference(base: Sequence[float], head: Sequence[float]) -> tuple[float, float, float]:
    """The mean of `head` less that of `base`, and Welch's 95% interval: its two-sided p is 0.05 at both ends."""
    value = float(np.mean(head) - np.mean(base))
    found = scoring.welch(head, base)
    if not math.isfinite(found.t) or found.t == 0:  # two constants, or two equal means
        spread = math.hypot(*(np.std(of, ddof=1) / math.sqrt(len(of)) for of in (base, head)))
    else:
        spread = value / found.t
    half = _t95(found.degrees) * spread
    return value, value - half, value + half


def _t95(degrees: float) -> float:
    """Student's t that 5% lie beyond, on both sides together."""
    low, high = 0.0, 1e4
    for _ in range(60):
        t = (low + high) / 2
        beyond = scoring.incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
        low, high = (t, high) if beyond > 0.05 else (low, t)
    return high
