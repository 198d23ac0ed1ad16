"""Checks that there is something to learn: images that show something, enough of them, classes in both splits.

    for finding in check_contents(config, data):
        print(finding.line)

The checks use the index alone. If one of them fails, `data_checks` leaves out comparisons that would mislead.
"""

from __future__ import annotations

import functools

import numpy as np

from evenkeel.models.config import TrainConfig
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare.statistics import image_statistics

MAX_EMPTY_SHARE = 0.5
# In gray levels. An image of the values 0 and 1, such as a mask, has a deviation of 0.05 if 0.25% of its pixels are 1.
CONSTANT_DEVIATION = 0.05
# Independent noise has a Laplacian with 20 times its variance, the edges of a mask 2 to 6 times.
NOISE_DEVIATION, NOISE_SHARPNESS = 2.0, 10.0


def check_contents(config: TrainConfig, data: Dataset) -> list[Finding]:
    """Returns the findings of all checks of this module."""
    return [check_empty_images(data)]


def check_empty_images(data: Dataset) -> Finding:
    """Counts training images that are constant but for noise, as after an integer division of all pixels by 255."""
    empty = find_empty_images(data.train)
    count, total = int(empty.sum()), len(data.train)
    example = ""
    if count:
        level = np.median(image_statistics(data.train)["brightness"][empty])
        example = f", such as {data.train.names[int(empty.argmax())]}; their median brightness is {level:.3g} of 255"
    return Finding(
        "empty_images",
        not has_empty_images(data),
        f"{count} of {total} training images have a single colour{example}",
        f"at most {MAX_EMPTY_SHARE:.0%} may: such an image shows nothing else",
        "Look at them, and at what wrote them: an integer division (pixels // 255), a wrong path, a failed decoder.",
        {"images": count, "share": count / total},
        ("empty_images",),
    )


@functools.lru_cache(maxsize=4)  # several checks ask for the same data
def has_empty_images(data: Dataset) -> bool:
    """Whether so many training images are empty that the others would be the exception."""
    return float(find_empty_images(data.train).mean()) > MAX_EMPTY_SHARE


def find_empty_images(index: Index) -> np.ndarray:
    """Whether each image has a single colour but for noise of under two gray levels, bool [rows]."""
    columns, statistics = index.columns, image_statistics(index)
    pixels = (columns["height"].astype(np.float64) * columns["width"])[:, None]
    colour_variance = columns["squares"][:, :3] / pixels - (columns["sums"][:, :3] / pixels) ** 2
    constant = (colour_variance <= CONSTANT_DEVIATION**2).all(axis=1)
    quiet = (colour_variance <= NOISE_DEVIATION**2).all(axis=1)
    return constant | (quiet & (statistics["sharpness"] > NOISE_SHARPNESS * statistics["contrast"] ** 2))
