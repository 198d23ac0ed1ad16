"""Compares runs on the same validation images: how much better one does, and how sure that is.

gain = compare(trial.run, unchanged.run)
if gain.is_significant: ...

The utility of an image is 1 if it is predicted right, minus 0.1 times its loss. The loss breaks ties, and often
improves before the accuracy does; it is capped at twice the loss of random guessing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evenkeel.models.doctor.replay import Run

MIN_GAIN = 0.03  # of utility, mostly accuracy: smaller gains are of no use even if they are certain
FULL_GAIN = 0.1  # of utility: a smaller gain says less for its cause, in proportion
SIGMAS = 2.0  # standard errors that a significant gain exceeds
LOSS_WEIGHT = 0.1
# Standard deviation of the mean utility between seeds: 0.018 to 0.025 in runs of 300 steps of three networks on
# photographs of CIFAR (n = 4 each).
SEED_DEVIATION = 0.02


class Gain(NamedTuple):
    """How much more utility a run has than another.

    Attributes:
      mean: mean difference.
      error: its standard error, over images and seeds.
    """

    mean: float
    error: float

    @property
    def is_significant(self) -> bool:
        return self.mean >= MIN_GAIN and self.mean > SIGMAS * self.error

    @property
    def certain(self) -> float:
        """The part of the gain that is larger than its standard error, at least 0."""
        return max(0.0, self.mean - self.error)


def image_utilities(run: Run) -> np.ndarray:
    """The utility of each image of the last validation, float64 [n]."""
    max_loss = 2 * math.log(len(run.data.classes))
    losses = np.minimum(np.nan_to_num(run.losses, nan=max_loss, posinf=max_loss), max_loss)
    return run.correct - LOSS_WEIGHT * losses


def compare(run: Run, reference: Run) -> Gain:
    """The gain of `run` over `reference`, paired by image if both were validated on the same images."""
    ours, theirs = image_utilities(run), image_utilities(reference)
    mean = float(ours.mean() - theirs.mean())
    if _share_images(run, reference):
        variance = _variance_of_mean(ours - theirs)
    else:
        variance = _variance_of_mean(ours) + _variance_of_mean(theirs)
    return Gain(mean, math.sqrt(variance + 2 * SEED_DEVIATION**2))


def combine(gains: Sequence[Gain]) -> Gain:
    """The mean gain over several seeds.

    The variance between two seeds is itself uncertain. It is moderated by that within a seed, which counts as much as
    one more seed (Smyth 2004), and is at least the latter.
    """
    count = len(gains)
    means = [gain.mean for gain in gains]
    within = sum(gain.error**2 for gain in gains) / count**2
    between = float(np.var(means, ddof=1)) / count if count > 1 else 0.0
    return Gain(float(np.mean(means)), math.sqrt(max(within, (within + (count - 1) * between) / count)))


def is_at_chance(run: Run) -> bool:
    """Whether the accuracy of the last validation is not significantly above that of always naming one class."""
    count = len(run.correct)
    majority = float(np.bincount(run.data.validation.columns["label"]).max() / len(run.data.validation))
    return run.correct.mean() < majority + 3 * math.sqrt(majority * (1 - majority) / max(count, 1))


def _share_images(run: Run, reference: Run) -> bool:
    same_split = run.config.data.validation_split == reference.config.data.validation_split
    return same_split and len(run.correct) == len(reference.correct)


def _variance_of_mean(values: np.ndarray) -> float:
    return float(np.var(values, ddof=1) / len(values)) if len(values) > 1 else 0.0
