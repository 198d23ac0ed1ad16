"""Checks that there is something to learn: images that show something, enough of them, classes in both splits.

    for finding in check_contents(data):
        print(finding.line)

The checks use the index alone. If one of them fails, `data_checks` leaves out comparisons that would mislead.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare.statistics import image_statistics
from evenkeel.pipeline.splits import similar_names

MIN_TRAIN_IMAGES, MIN_CLASS_IMAGES = 20, 12  # 200 random images of ten classes have 12 or more of each
# Images of the most common class over images of the rarest: at most, and at most if the rarest has few images.
MAX_IMBALANCE, MAX_IMBALANCE_OF_FEW = 10.0, 3.0
MIN_VALIDATION_IMAGES = 50  # an accuracy of 50% is then known to 14 points
Z_95 = 1.96
MAX_EMPTY_SHARE = 0.5
# In gray levels. An image of the values 0 and 1, such as a mask, has a deviation of 0.05 if 0.25% of its pixels are 1.
CONSTANT_DEVIATION = 0.05
# Independent noise has a Laplacian with 20 times its variance, the edges of a mask 2 to 6 times.
NOISE_DEVIATION, NOISE_SHARPNESS = 2.0, 10.0


def check_contents(data: Dataset, balanced: bool) -> list[Finding]:
    """Returns the findings of all checks of this module; `balanced` says whether the run balances its classes."""
    return [
        check_empty_images(data),
        check_image_count(data, balanced),
        check_validation_count(data),
        check_class_names(data),
    ]


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


def check_image_count(data: Dataset, balanced: bool) -> Finding:
    """Checks the number of training images, and of those of the rarest class that has any.

    Always ok if one class has so many more images than another that `check_class_imbalance` says so.
    """
    total, counts = len(data.train), data.class_counts
    labels = np.flatnonzero(counts)
    rarest, commonest = int(labels[counts[labels].argmin()]), int(counts.argmax())
    ratio = float(counts[commonest] / counts[rarest])
    too_few = has_few_images(data)
    few_of_class = counts[rarest] < MIN_CLASS_IMAGES and ratio <= MAX_IMBALANCE
    uneven = few_of_class and ratio > MAX_IMBALANCE_OF_FEW and not (too_few or balanced)
    seen = f"of {total} training images, {counts[rarest]} show {data.classes[rarest]}, the rarest class"
    remedy = "Collect more images" + ("." if too_few else f" of {data.classes[rarest]}.")
    if uneven:
        seen += f"; always answering {data.classes[commonest]} is right for {counts[commonest] / total:.0%}"
        remedy += " Until then, use --data.balance=classes, or the network may learn to answer the most common class."
    return Finding(
        "few_images",
        not (too_few or few_of_class),
        seen,
        f"there must be at least {MIN_TRAIN_IMAGES}, and {MIN_CLASS_IMAGES} of each class: from fewer, a new network"
        " learns little that holds for other images",
        remedy,
        {"images": total, "rarest": float(counts[rarest]), "ratio": ratio},
        ("class_imbalance",) if uneven else ("too_few_images",),
    )


def has_few_images(data: Dataset) -> bool:
    """Whether there are so few training images that statistics of them, such as outliers, say nothing."""
    return len(data.train) < MIN_TRAIN_IMAGES


def check_validation_count(data: Dataset) -> Finding:
    """Checks how exactly the validation images can measure an accuracy."""
    images = len(data.validation)
    shares = (0.5, 0.8)
    low, high, good_low, good_high = (limit for share in shares for limit in wilson_interval(share, images))
    return Finding(
        "few_validation_images",
        images >= MIN_VALIDATION_IMAGES,
        f"of {images} validation images, an accuracy of 50% has a 95% interval of {low:.0%} to {high:.0%}, and one of"
        f" 80% of {good_low:.0%} to {good_high:.0%}",
        f"with fewer than {MIN_VALIDATION_IMAGES}, two runs can hardly be told apart",
        "Validate on more images, or on all in turn with --data.fold=1/5 to 5/5.",
        {"images": images, "low": low, "high": high},
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share that was measured on `count` images (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    center = (share + Z_95**2 / (2 * count)) / (1 + Z_95**2 / count)
    half = Z_95 / (1 + Z_95**2 / count) * math.sqrt(share * (1 - share) / count + (Z_95 / (2 * count)) ** 2)
    return center - half, center + half


def check_class_names(data: Dataset) -> Finding:
    """Whether classes of the validation split without training images have names like classes that have some."""
    used, known = (np.unique(index.columns["label"]) for index in (data.validation, data.train))
    missing = [data.classes[label] for label in np.setdiff1d(used, known)]
    rows = int(np.isin(data.validation.columns["label"], np.setdiff1d(used, known)).sum())
    pairs = similar_names(missing, [data.classes[label] for label in known])
    seen = "every class of the validation images has training images"
    if missing:
        seen = (
            f"{rows} of {len(data.validation)} validation images show classes without training images"
            f" ({', '.join(missing[:5])}{f' and {len(missing) - 5} more' if missing[5:] else ''})"
        )
    if pairs:
        seen += ": " + ", ".join(f"{name} looks like {other}" for name, other in pairs[:5])
    return Finding(
        "class_names",
        not missing,
        seen,
        "a class that is not trained is never answered",
        "Give a class the same name in both splits." if pairs else "Add training images of it, or remove the class.",
        {"images": rows, "classes": len(missing)},
        ("split_labels",),
    )


def has_untrained_classes(data: Dataset) -> bool:
    """Whether `check_class_names` fails: classes without training images have validation images."""
    return not check_class_names(data).ok
