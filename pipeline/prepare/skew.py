"""Differences between training and validation images: a skew of all of them, or a few outliers in training.

    name, distance = largest_skew(train, validation)
    if distance > skew_limit(train, validation): ...          # training images differ as a whole
    for outlier in find_train_outliers(train, validation): ...

Computed from statistics in the index; no image is read.
"""

from __future__ import annotations

import numpy as np

from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare.outliers import Outlier, find_outliers, near_normal_statistics
from evenkeel.pipeline.prepare.statistics import image_statistics

# The distance of two samples of one distribution is below 1.63 sqrt(1/n + 1/m) in 99 of 100 cases. Another 0.2 does no
# harm: it is the distance of two normal distributions whose means are half a standard deviation apart.
KS_CRITICAL_99, HARMLESS_DISTANCE = 1.63, 0.2
# Median and MAD stay finite with up to half of the images being outliers, but outliers shift them before that.
MAX_OUTLIER_SHARE = 0.2


def largest_skew(train: Index, validation: Index, standardize: bool = False) -> tuple[str, float]:
    """The statistic whose distributions in training and validation differ most, and their Kolmogorov-Smirnov distance.

    With `standardize`, statistics of images brought to mean 0 and standard deviation 1, as `data.standardize` does.
    """
    train_statistics, validation_statistics = (skew_statistics(index, standardize) for index in (train, validation))
    distances = {name: ks_distance(train_statistics[name], validation_statistics[name]) for name in train_statistics}
    return max(distances.items(), key=lambda item: item[1])


def skew_limit(train: Index, validation: Index) -> float:
    """The largest distance that `largest_skew` may find if training and validation are alike."""
    return float(HARMLESS_DISTANCE + KS_CRITICAL_99 * np.sqrt(1 / max(1, len(train)) + 1 / max(1, len(validation))))


def find_train_outliers(train: Index, validation: Index) -> list[Outlier]:
    """The outliers among training images, compared with training images or, if outliers are many, with validation.

    Compared with each other, the outliers must be a minority; if most images do not belong, the rest would be the
    outliers. So if more than a fifth are outliers compared with validation, and the rest is like validation, these are
    returned. A training set that differs from validation as a whole is compared with itself only.
    """
    differing = find_outliers(train, validation) if len(validation) else []
    rest = np.setdiff1d(np.arange(len(train)), [outlier.row for outlier in differing])
    if 0 < len(rest) < (1 - MAX_OUTLIER_SHARE) * len(train):
        others = train.take(rest)
        if largest_skew(others, validation)[1] <= skew_limit(others, validation):
            return differing
    return find_outliers(train)


def skew_statistics(index: Index, standardize: bool = False) -> dict[str, np.ndarray]:
    """{statistic: float64 [rows]}: brightness, contrast and sharpness as in `near_normal_statistics`, and mean colors.

    With `standardize`, only statistics that remain when each image is brought to mean 0 and standard deviation 1.
    """
    columns = index.columns
    size = columns["height"].astype(np.float64) * columns["width"]
    colors = {name: columns["sums"][:, channel] / size for channel, name in enumerate(("red", "green", "blue"))}
    if not standardize:
        return {**near_normal_statistics(index), **colors}
    values = image_statistics(index)
    contrast = np.maximum(values["contrast"], 1)  # dividing by less would only amplify the noise of an even image
    relative = {name: (color - values["brightness"]) / contrast for name, color in colors.items()}
    return {"sharpness": np.sqrt(np.sqrt(values["sharpness"]) / contrast), **relative}


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance of the distribution functions of two samples, 0 to 1 (Kolmogorov 1933, Smirnov 1939)."""
    a, b = np.sort(a[np.isfinite(a)]), np.sort(b[np.isfinite(b)])
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    both = np.concatenate([a, b])
    cumulative = [np.searchsorted(sample, both, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(cumulative[0] - cumulative[1]).max())
