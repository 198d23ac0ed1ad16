"""Statistics of training runs and detectors: Welch's test, Wilson intervals, balanced accuracy, loss spikes.

    if is_faulty(clean_accuracies, mutant_accuracies): ...
    print(balanced_accuracy(hits=40, faulty=44, false_alarms=1, sound=30))      # 0.94 (0.87 to 0.97)

Needs SciPy (extra `benchmarks`), which is imported only in the functions that use it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FAULTY_ACCURACY_LOSS, FAULTY_P_VALUE = 0.02, 0.01


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class WelchTest(NamedTuple):
    """Result of Welch's test.

    Attributes:
      t: the t statistic of the difference of the means.
      degrees: degrees of freedom.
      p: two-sided p value.
    """

    t: float
    degrees: float
    p: float


# Runs.


def is_faulty(clean: Sequence[float], mutant: Sequence[float]) -> bool:
    """Whether the mutant's mean accuracy is at least 2 points lower, with p < 0.01 in Welch's test.

    This is DeepCrime's criterion for a killed mutant (Jahangirova and Tonella 2020): the loss of accuracy is both large
    and statistically significant.
    """
    accuracy_loss = float(np.mean(clean) - np.mean(mutant))
    return accuracy_loss >= FAULTY_ACCURACY_LOSS - 1e-9 and welch_test(clean, mutant).p < FAULTY_P_VALUE


def welch_test(a: Sequence[float], b: Sequence[float]) -> WelchTest:
    """Tests by Welch's t-test (Welch 1947) whether `a` and `b` have equal means; their variances may differ.

    Raises:
      ValueError: `a` or `b` has fewer than two values.
    """
    from scipy import stats

    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"Welch's test needs two values on each side; there are {len(x)} and {len(y)}.")
    if x.var() + y.var() == 0:  # SciPy gives NaN for two constants; runs that learn nothing end with equal accuracy
        difference = float(x.mean() - y.mean())
        return WelchTest(math.copysign(math.inf, difference) if difference else 0.0, 1.0, 0.0 if difference else 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy warns of lost precision if one side is constant
        test = stats.ttest_ind(x, y, equal_var=False)
    return WelchTest(float(test.statistic), float(test.df), float(test.pvalue))


# Detectors.


def wilson_estimate(successes: int, trials: int) -> Estimate:
    """The share of successes, with Wilson's score interval (Wilson 1927); NaN, from 0 to 1, if there are no trials."""
    from scipy import stats

    if not trials:
        return Estimate(math.nan, 0.0, 1.0)
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def balanced_accuracy(hits: int, faulty: int, false_alarms: int, sound: int) -> Estimate:
    """The mean of two shares: faulty runs that were detected, and sound runs that raised no alarm.

    The distance to each end of the interval is half the root of the summed squares of the distances to the two Wilson
    limits (Newcombe 1998, method 10, for a sum).
    """
    shares = wilson_estimate(hits, faulty), wilson_estimate(sound - false_alarms, sound)
    value = (shares[0].value + shares[1].value) / 2
    below = math.hypot(*(share.value - share.low for share in shares)) / 2
    above = math.hypot(*(share.high - share.value for share in shares)) / 2
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


# Training.


def calibration_error(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> float:
    """The expected calibration error (Naeini et al. 2015): the mean over predictions of |probability - share right|.

    Both are means over the predictions whose probabilities lie in the same of `bins` intervals of equal width.
    """
    p, right = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    interval = np.minimum((p * bins).astype(int), bins - 1)
    differences = np.bincount(interval, p - right, minlength=bins)
    return float(np.abs(differences).sum() / len(p))


def spike_score(loss: np.ndarray, window: int = 1000, sigma: float = 7.0, min_history: int = 16) -> float:
    """The share of steps whose loss is at least `sigma` standard deviations above the mean of the last `window` losses.

    This is the spike score of OLMo 2 (2025), section 3.1. At the start, the window is shorter, but contains at least
    `min_history` losses. A loss that is not finite counts as a spike and is excluded from later means.
    """
    losses = np.asarray(loss, np.float64)
    spikes = 0
    for step in range(len(losses)):
        past = losses[max(0, step - window) : step]
        past = past[np.isfinite(past)]
        if not np.isfinite(losses[step]):
            spikes += 1
        elif len(past) >= min_history:
            spikes += bool(losses[step] - past.mean() >= sigma * max(past.std(), 1e-12))
    return spikes / max(1, len(losses))


def loss_variance(loss: np.ndarray, warmup: int = 0) -> float:
    """Variance of the loss after the warm-up: half the mean squared difference of successive losses (von Neumann 1941).

    Unlike the ordinary variance, this value does not grow when the loss falls steadily. It is infinite if a loss is not
    finite.
    """
    losses = np.asarray(loss, np.float64)[warmup:]
    if not np.isfinite(losses).all():
        return math.inf
    return float(np.mean(np.diff(losses) ** 2) / 2) if len(losses) > 1 else 0.0


def has_diverged(loss: np.ndarray) -> bool:
    """Whether the median loss of the last tenth exceeds that of the first ten steps, or the last loss is not finite."""
    losses = np.where(np.isfinite(loss), loss, np.inf).astype(np.float64)
    final = np.median(losses[-max(1, len(losses) // 10) :])
    return bool(final > np.median(losses[:10]) or not np.isfinite(losses[-1]))


def divergence_rate(losses: Sequence[np.ndarray]) -> Estimate:
    """The share of runs that diverged, with its 95% interval."""
    return wilson_estimate(sum(has_diverged(loss) for loss in losses), len(losses))


def largest_stable_learning_rate(rates: Sequence[float], losses: Sequence[float], initial_loss: float) -> float | None:
    """The largest of the ascending `rates` up to which all `losses` are below `initial_loss`; None if there is none."""
    stable = None
    for rate, loss in zip(_ascending_array(rates), losses, strict=True):
        if not loss < initial_loss:  # also true of NaN
            break
        stable = float(rate)
    return stable


def learning_rate_sensitivity(rates: Sequence[float], losses: Sequence[float], initial_loss: float) -> float:
    """The mean over `rates` of min(loss, initial loss) - best loss.

    This is the learning-rate sensitivity of Wortsman et al. 2023 ("Small-scale proxies for large-scale Transformer
    training instabilities", section 2.2). The mean is taken over the logarithm of the rate, by the trapezoidal rule, so
    the rates need not be evenly spaced.

    Raises:
      ValueError: the rates do not ascend, or they span less than 3 decades.
    """
    exponents = np.log10(_ascending_array(rates))
    span = exponents[-1] - exponents[0]
    if span < 3 - 1e-9:
        raise ValueError(f"rates from {rates[0]} to {rates[-1]} span {span:.1f} decades; at least 3 are needed.")
    capped = np.minimum(np.where(np.isfinite(losses), losses, np.inf), initial_loss)
    excess = capped - capped.min()
    return float(np.sum((excess[1:] + excess[:-1]) / 2 * np.diff(exponents)) / span)


def _ascending_array(rates: Sequence[float]) -> np.ndarray:
    array = np.asarray(rates, np.float64)
    if len(array) == 0 or (np.diff(array) <= 0).any() or array[0] <= 0:
        raise ValueError(f"rates ({list(rates)}) must be positive and ascending.")
    return array


def seed_deviation(accuracies: Sequence[float], validation_images: int) -> tuple[float, float]:
    """Returns (standard deviation of accuracy over seeds, its lower bound sqrt(error / 2n) from sampling alone).

    Jordan 2023 ("Calibrated chaos: variance between runs of neural network training is harmless and inevitable",
    theorem 3): runs of a calibrated ensemble vary by at least this much on n images, however they are trained.
    """
    values = np.asarray(accuracies, np.float64)
    return float(values.std(ddof=1)), math.sqrt((1 - float(values.mean())) / (2 * validation_images))
