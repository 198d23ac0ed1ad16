"""Differences between training and validation images: a skew of all images, or a few outliers in training.

    name, distance = largest_skew(train, validation)
    if distance > skew_limit(train, validation): ...          # training images differ as a whole
    for outlier in find_train_outliers(train, validation): ...

All of this is computed from statistics in the index; no image is read.
"""

from __future__ import annotations

import numpy as np

from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare.outliers import Outlier, find_outliers, near_normal_statistics
from evenkeel.pipeline.prepare.statistics import image_statistics

# The Kolmogorov-Smirnov distance between two samples of the same distribution is below 1.63 sqrt(1/n + 1/m) in 99% of
# cases. A further 0.2 is tolerated: this is the distance between two normal distributions with means that differ by
# half a standard deviation.
KS_CRITICAL_99, HARMLESS_DISTANCE = 1.63, 0.2
# Median and MAD stay finite while at most half of the images are outliers, but fewer outliers already shift them.
MAX_OUTLIER_SHARE = 0.2


def largest_skew(train: Index, validation: Index, standardize: bool = False) -> tuple[str, float]:
    """The statistic that differs most between training and validation, and the Kolmogorov-Smirnov distance.

    With `standardize`, the statistics are those of images normalized to mean 0 and standard deviation 1, as
    `data.standardize` does.
    """
    train_statistics, validation_statistics = (skew_statistics(index, standardize) for index in (train, validation))
    distances = {name: ks_distance(train_statistics[name], validation_statistics[name]) for name in train_statistics}
    return max(distances.items(), key=lambda item: item[1])


def skew_limit(train: Index, validation: Index) -> float:
    """The largest distance that `largest_skew` may find if training and validation are alike."""
    return float(HARMLESS_DISTANCE + KS_CRITICAL_99 * np.sqrt(1 / max(1, len(train)) + 1 / max(1, len(validation))))


def find_train_outliers(train: Index, validation: Index) -> list[Outlier]:
    """Finds outliers among training images, compared with each other or, if outliers are many, with validation images.

    A comparison of training images with each other needs a minority of outliers: if most images were outliers, the
    other images would be reported. So training images are first compared with validation images. If more than a fifth
    of them are outliers, and the rest is like the validation images, these outliers are returned. Otherwise, also if
    the whole training set differs from the validation set, training images are compared with each other.
    """
    differing = find_outliers(train, validation) if len(validation) else []
    rest = np.setdiff1d(np.arange(len(train)), [outlier.row for outlier in differing])
    if 0 < len(rest) < (1 - MAX_OUTLIER_SHARE) * len(train):
        others = train.take(rest)
        if largest_skew(others, validation)[1] <= skew_limit(others, validation):
            return differing
    return find_outliers(train)


def skew_statistics(index: Index, standardize: bool = False) -> dict[str, np.ndarray]:
    """The statistics of `near_normal_statistics`, and mean colors, {statistic: float64 [rows]}.

    With `standardize`, only the statistics that are left when each image has mean 0 and standard deviation 1.
    """
    columns = index.columns
    size = columns["height"].astype(np.float64) * columns["width"]
    colors = {name: columns["sums"][:, channel] / size for channel, name in enumerate(("red", "green", "blue"))}
    if not standardize:
        return {**near_normal_statistics(index), **colors}
    values = image_statistics(index)
    contrast = np.maximum(values["contrast"], 1)  # dividing by less would only amplify the noise of a uniform image
    relative = {name: (color - values["brightness"]) / contrast for name, color in colors.items()}
    return {"sharpness": np.sqrt(np.sqrt(values["sharpness"]) / contrast), **relative}


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance between the distribution functions of two samples, 0 to 1.

    This is the two-sample statistic of Kolmogorov (1933) and Smirnov (1939).
    """
    a, b = np.sort(a[np.isfinite(a)]), np.sort(b[np.isfinite(b)])
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    both = np.concatenate([a, b])
    cumulative = [np.searchsorted(sample, both, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(cumulative[0] - cumulative[1]).max())
