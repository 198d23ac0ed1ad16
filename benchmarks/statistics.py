"""Statistics of the stability suite: whether a run is faulty, how good a detector is, how stable training was.

    if is_faulty(clean_accuracies, mutant_accuracies): ...
    print(balanced_accuracy(hits=40, faulty=44, false_alarms=1, sound=30))      # 0.94 (0.87 to 0.97)

Pure numpy; formulas name their source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z95 = 1.959964  # standard deviations to either side that hold 95% of a normal distribution
FAULTY_POINTS, FAULTY_P = 0.02, 0.01


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Welch(NamedTuple):
    """Student's t of a difference of means, its degrees of freedom, the two-sided p value."""

    t: float
    degrees: float
    p: float


# Of runs.


def is_faulty(clean: Sequence[float], mutant: Sequence[float]) -> bool:
    """The mutant's mean accuracy is at least 2 points lower, and Welch's p is below 0.01.

    As DeepCrime asks whether a mutant is killed (Jahangirova and Tonella 2020): a loss both large and certain.
    """
    lost = float(np.mean(clean) - np.mean(mutant))
    return lost >= FAULTY_POINTS - 1e-9 and welch(clean, mutant).p < FAULTY_P


def welch(a: Sequence[float], b: Sequence[float]) -> Welch:
    """Welch's test of equal means, unequal variances (Welch 1947).

    Raises:
      ValueError: fewer than two values on a side.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a spread needs two values on each side; there are {len(x)} and {len(y)}.")
    of_x, of_y = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    difference = float(x.mean() - y.mean())
    if of_x + of_y == 0:  # two constants: dead runs all end at the same accuracy
        return Welch(math.copysign(math.inf, difference) if difference else 0.0, 1.0, 0.0 if difference else 1.0)
    t = difference / math.sqrt(of_x + of_y)
    degrees = (of_x + of_y) ** 2 / (of_x**2 / (len(x) - 1) + of_y**2 / (len(y) - 1))
    return Welch(t, float(degrees), incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t)))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function I_x(a, b), to 1e-10: Lentz's continued fraction.

    Press et al. 2007, "Numerical Recipes", section 6.4; NIST DLMF 8.17.22.
    """
    if not 0 <= x <= 1:
        raise ValueError(f"x ({x}) must lie in [0, 1].")
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):  # where it converges slowly
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-12:
            return math.exp(log_front) * fraction / a
    raise ArithmeticError(f"I_{x}({a}, {b}) did not converge.")


# Of detectors.


def wilson(successes: int, of: int) -> Estimate:
    """A share and Wilson's score interval (Wilson 1927); of none, all of [0, 1]."""
    if not of:
        return Estimate(math.nan, 0.0, 1.0)
    share, z = successes / of, Z95
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    # At 0 and 1 the limit is the share itself, but for rounding.
    low = middle - half if successes else 0.0
    high = middle + half if successes < of else 1.0
    return Estimate(share, low, high)


def balanced_accuracy(hits: int, faulty: int, false_alarms: int, sound: int) -> Estimate:
    """The mean of the shares of faulty runs detected and of sound runs left alone.

    The interval squares and adds the distances of the two Wilson limits (Newcombe 1998, method 10, for a sum).
    """
    shares = wilson(hits, faulty), wilson(sound - false_alarms, sound)
    value = (shares[0].value + shares[1].value) / 2
    below = math.hypot(*(share.value - share.low for share in shares)) / 2
    above = math.hypot(*(share.high - share.value for share in shares)) / 2
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


# Of training.


def spike_score(loss: np.ndarray, window: int = 1000, sigma: float = 7.0, least: int = 16) -> float:
    """The share of steps whose loss is at least `sigma` standard deviations above the mean of the last `window`.

    OLMo 2 (2025), section 3.1, with fewer steps at the start, but not under `least`. A loss that is not finite counts,
    and is left out of later means.
    """
    x = np.asarray(loss, np.float64)
    spikes = 0
    for step in range(len(x)):
        past = x[max(0, step - window) : step]
        past = past[np.isfinite(past)]
        if not np.isfinite(x[step]):
            spikes += 1
        elif len(past) >= least:
            spikes += bool(x[step] - past.mean() >= sigma * max(past.std(), 1e-12))
    return spikes / max(1, len(x))


def loss_variance(loss: np.ndarray, warmup: int = 0) -> float:
    """Of the loss after the warm-up: half the mean square of differences of neighbours (von Neumann 1941).

    Which a loss that falls does not raise, as it would the plain variance. Infinite if a loss is not finite.
    """
    x = np.asarray(loss, np.float64)[warmup:]
    if not np.isfinite(x).all():
        return math.inf
    return float(np.mean(np.diff(x) ** 2) / 2) if len(x) > 1 else 0.0


def diverged(loss: np.ndarray) -> bool:
    """The median loss of the last tenth is not finite, or above that of the first ten steps."""
    x = np.where(np.isfinite(loss), loss, np.inf).astype(np.float64)
    return bool(np.median(x[-max(1, len(x) // 10) :]) > np.median(x[:10]) or not np.isfinite(x[-1]))


def divergence_rate(losses: Sequence[np.ndarray]) -> Estimate:
    """The share of runs that diverged."""
    return wilson(sum(diverged(loss) for loss in losses), len(losses))


def largest_stable_rate(rates: Sequence[float], losses: Sequence[float], initial_loss: float) -> float | None:
    """The largest of ascending `rates` up to which every final loss lies below the initial one; None if none does."""
    stable = None
    for rate, loss in zip(_ascending(rates), losses, strict=True):
        if not loss < initial_loss:  # NaN too
            break
        stable = float(rate)
    return stable


def rate_sensitivity(rates: Sequence[float], losses: Sequence[float], initial_loss: float) -> float:
    """How much worse than the best a rate is on average: E over rates of min(loss, initial loss) - best loss.

    Learning-rate sensitivity of Wortsman et al. 2023 ("Small-scale proxies for large-scale Transformer training
    instabilities", section 2.2). The mean is over the logarithm of the rate, by trapezoids, so that the grid need not
    be even.

    Raises:
      ValueError: ascending rates that span less than 3 decades.
    """
    x = np.log10(_ascending(rates))
    if x[-1] - x[0] < 3 - 1e-9:
        raise ValueError(f"rates from {rates[0]} to {rates[-1]} span {x[-1] - x[0]:.1f} decades; it takes 3.")
    y = np.minimum(np.where(np.isfinite(losses), losses, np.inf), initial_loss)
    excess = y - y.min()
    return float(np.sum((excess[1:] + excess[:-1]) / 2 * np.diff(x)) / (x[-1] - x[0]))


def _ascending(rates: Sequence[float]) -> np.ndarray:
    x = np.asarray(rates, np.float64)
    if len(x) == 0 or (np.diff(x) <= 0).any() or x[0] <= 0:
        raise ValueError(f"rates ({list(rates)}) must be positive and ascending.")
    return x


def seed_deviation(accuracies: Sequence[float], validation_images: int) -> tuple[float, float]:
    """(standard deviation of accuracy over seeds, the floor sqrt(error / 2n) that sampling alone sets).

    Jordan 2023 ("Calibrated chaos: variance between runs of neural network training is harmless and inevitable",
    theorem 3): runs of a calibrated ensemble vary at least so much on n images, whatever the training.
    """
    x = np.asarray(accuracies, np.float64)
    return float(x.std(ddof=1)), math.sqrt((1 - float(x.mean())) / (2 * validation_images))
