"""How training images differ from validation's: all of them, or some that do not belong.

    name, distance = worst(train, validation)
    if distance > limit(train, validation): ...          # a skew
    for outlier in strangers(train, validation): ...     # images that do not belong

By figures in the index; no image is read.
"""

from __future__ import annotations

import numpy as np

from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import outliers
from evenkeel.pipeline.prepare.outliers import Outlier

# The distance of two samples of one distribution is below 1.63 sqrt(1/n + 1/m) in 99 of 100 cases; 0.2 on top is what
# may differ without harm: two normal distributions half a deviation apart.
HARMLESS, CRITICAL = 0.2, 1.63
MANY = 0.2  # of the images; up to half of them median and MAD hold out, but are drawn towards the outliers


def figures(index: Index, standardize: bool = False) -> dict[str, np.ndarray]:
    """float64 [rows] of each image: brightness, contrast, sharpness (both as roots, see `outliers.judged`), colours.

    With `standardize` those that an image keeps which is brought to mean 0 and deviation 1.
    """
    columns = index.columns
    size = columns["height"].astype(np.float64) * columns["width"]
    colours = {name: columns["sums"][:, at] / size for at, name in enumerate(("red", "green", "blue"))}
    if not standardize:
        return {**outliers.judged(index), **colours}
    of = outliers.per_image(index)
    contrast = np.maximum(of["contrast"], 1)  # an even image has only noise to be brought to deviation 1
    relative = {name: (colour - of["brightness"]) / contrast for name, colour in colours.items()}
    return {"sharpness": np.sqrt(np.sqrt(of["sharpness"]) / contrast), **relative}


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance of two samples' distribution functions, 0 to 1 (Kolmogorov 1933, Smirnov 1939)."""
    a, b = np.sort(a[np.isfinite(a)]), np.sort(b[np.isfinite(b)])
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    both = np.concatenate([a, b])
    below = [np.searchsorted(each, both, side="right") / len(each) for each in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def worst(train: Index, validation: Index, standardize: bool = False) -> tuple[str, float]:
    """The figure whose distributions lie farthest apart, and that Kolmogorov-Smirnov distance."""
    here, there = figures(train, standardize), figures(validation, standardize)
    distances = {name: ks(here[name], there[name]) for name in here}
    return max(distances.items(), key=lambda item: item[1])


def limit(train: Index, validation: Index) -> float:
    """What `worst` stays below if both are alike."""
    return float(HARMLESS + CRITICAL * np.sqrt(1 / max(1, len(train)) + 1 / max(1, len(validation))))


def strangers(train: Index, validation: Index) -> list[Outlier]:
    """The outliers among `train`; where they are many, those by what is usual in validation.

    Half of all images decide what is usual: where most do not belong, the others would be the outliers. So if more than
    a fifth are outliers to validation, and the rest is like it, these count. A training set that differs as a whole
    has no strangers but its own.
    """
    foreign = outliers.find(train, validation) if len(validation) else []
    rest = np.setdiff1d(np.arange(len(train)), [outlier.row for outlier in foreign])
    if 0 < len(rest) < (1 - MANY) * len(train):
        kept = train.take(rest)
        if worst(kept, validation)[1] <= limit(kept, validation):
            return foreign
    return outliers.find(train)
