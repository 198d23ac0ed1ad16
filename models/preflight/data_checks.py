"""Checks the data by its index: outliers, class balance, differences between the splits. Checks decode no image.

for finding in check_index(config, data):
    print(finding.line)
outlier_pictures(data)          # the images that stand out most
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight.content_checks import (
    MAX_IMBALANCE,
    check_contents,
    has_empty_images,
    has_few_images,
    has_untrained_classes,
)
from evenkeel.models.stability.diagnosis import Finding, Picture
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import outliers, skew
from evenkeel.pipeline.prepare.contact_sheet import read_pixels
from evenkeel.pipeline.prepare.duplicates import find_first_copies
from evenkeel.pipeline.prepare.near_duplicates import NearDuplicates, find_near_duplicates

MAX_OUTLIER_SHARE = 0.03  # CIFAR-10 has 0.4% outliers, clean `shapes` 0.2%; with 5% corrupt images, both have 5%
MAX_CLASS_GAP = 0.1  # allowed difference of a class's shares, in addition to 3 standard errors
MAX_SHARED = 0.01  # of the validation images
MAX_CONFLICTS = 0.001  # of the training images
MAX_BLANK = MAX_OUTLIER_SHARE
MAX_UNSEEN = 0.1  # of the pixels of an image
MAX_PICTURES, THUMBNAIL_PIXELS = 16, 96  # pixels of the longer side


def check_index(config: TrainConfig, data: Dataset) -> list[Finding]:
    """Returns the findings of all checks of the index.

    If most images are empty, this is the finding: no outliers, skew or conflicting labels are reported beside it.
    """
    balanced = config.data.balance == "classes" or config.class_weights == "balanced"
    imbalance = check_class_imbalance(data, balanced)
    outlier_finding = check_outliers(data)
    return [
        *check_contents(data, balanced),
        outlier_finding,
        imbalance,
        check_image_skew(data, not outlier_finding.ok, config.data.standardize),
        check_class_skew(data, known=balanced or not imbalance.ok or has_untrained_classes(data)),
        check_shared_images(data),
        check_conflicting_labels(data),
        check_near_duplicates(data),
        check_near_duplicate_labels(data),
        check_blank_images(data, known=has_empty_images(data) or not outlier_finding.ok),
        check_unseen_pixels(config, data),
    ]


@functools.lru_cache(maxsize=4)  # replays of a run ask for the same data again
def train_outliers(data: Dataset) -> tuple[outliers.Outlier, ...]:
    """Training images that are outliers, compared with the other training images or with validation.

    None if most images are empty, because those that show something would be the outliers, or if there are so few
    images that any of them could be one.
    """
    if has_empty_images(data) or has_few_images(data):
        return ()
    return tuple(skew.find_train_outliers(data.train, data.validation))


def check_outliers(data: Dataset) -> Finding:
    """Checks the share of outliers, with the same rule as `--data.drop=outliers`.

    The rule uses modified z-scores of brightness, contrast and sharpness.
    """
    found = train_outliers(data)
    rows = {outlier.row for outlier in found}
    share = len(rows) / len(data.train)
    worst = max(found, key=lambda outlier: abs(outlier.score), default=None)
    seen = f"{len(rows)} of {len(data.train)} training images are outliers"
    if has_empty_images(data):
        seen = "no outliers are looked for, because most images are empty"
    elif has_few_images(data):
        seen = f"no outliers are looked for among {len(data.train)} images"
    return Finding(
        "outlier_images",
        share <= MAX_OUTLIER_SHARE,
        seen + (f" ({data.train.names[worst.row]}: {worst.reason})" if worst else ""),
        f"at most {MAX_OUTLIER_SHARE:.0%} may be",
        "Look at them (evenkeel prepare draws them), or drop them with --data.drop=outliers.",
        {"share": share, "images": len(rows)},
        ("outlier_images",),
    )


def check_class_imbalance(data: Dataset, balanced: bool) -> Finding:
    """Checks the numbers of images per class; with `balanced`, classes only need some, since the run balances them."""
    counts = data.class_counts
    empty = [name for name, count in zip(data.classes, counts, strict=True) if count == 0]
    if has_untrained_classes(data):
        empty = []  # `check_class_names` names them
        counts = np.where(counts > 0, counts, counts.max())
    largest, smallest = int(counts.argmax()), len(counts) - 1 - int(counts[::-1].argmin())
    ratio = float(counts[largest]) / max(float(counts[smallest]), 1.0)
    seen = (
        f"{counts[largest]} training images of {data.classes[largest]}, {counts[smallest]} of {data.classes[smallest]}"
    )
    if empty:
        seen = f"no training image of {', '.join(empty[:5])}" + (f" and {len(empty) - 5} more" if empty[5:] else "")
    return Finding(
        "class_imbalance",
        not empty and (balanced or ratio <= MAX_IMBALANCE),
        seen + ("; the configuration balances them" if balanced and not empty else ""),
        f"every class needs images, and none may have over {MAX_IMBALANCE:g} times as many as another",
        "Add images of the class, or remove the class."
        if empty
        else "Use --data.balance=classes or --class_weights=balanced.",
        {"ratio": ratio, "empty": len(empty)},
        ("class_imbalance",),
    )


def check_image_skew(data: Dataset, explained: bool, standardize: bool = False) -> Finding:
    """The largest Kolmogorov-Smirnov distance between training and validation, over the statistics of each image.

    With `explained` (there are many outliers), outliers are left out. With `standardize`, every image has mean 0 and
    deviation 1, so only statistics that can still differ are compared.
    """
    train = data.train
    if explained:
        inliers = np.setdiff1d(np.arange(len(train)), [outlier.row for outlier in train_outliers(data)])
        train = train.take(inliers) if len(inliers) else train
    name, distance = skew.largest_skew(train, data.validation, standardize)
    limit = skew.skew_limit(train, data.validation)
    medians = [
        float(np.nanmedian(skew.skew_statistics(split, standardize)[name])) for split in (train, data.validation)
    ]
    unit = " (in deviations from the image's mean)" if standardize else ""
    return Finding(
        "image_skew",
        distance <= limit or has_empty_images(data),
        f"median {name}{unit} is {medians[0]:.4g} in training{' without its outliers' if explained else ''} and"
        f" {medians[1]:.4g} in validation; the Kolmogorov-Smirnov distance is {distance:.2f}",
        f"the distance must be at most {limit:.2f}",
        "Prepare both splits alike, or draw both from one: --data.train_split=train[:80%]"
        " --data.validation_split=train[80%:]."
        + ("" if standardize else " If only brightness or contrast differ, use --data.standardize."),
        {"distance": distance, "limit": limit},
        ("train_validation_skew",),
    )


def check_class_skew(data: Dataset, known: bool) -> Finding:
    """Compares each class's shares of training and validation; always ok if the training imbalance is `known`."""
    counts = [data.class_counts, np.bincount(data.validation.columns["label"], minlength=len(data.classes))]
    shares = [count / count.sum() for count in counts]
    gaps = np.abs(shares[0] - shares[1])
    label = int(gaps.argmax())
    noise = 3 * np.sqrt(shares[0][label] * (1 - shares[0][label]) * sum(1 / count.sum() for count in counts))
    return Finding(
        "class_skew",
        bool(known or gaps[label] <= MAX_CLASS_GAP + noise),
        f"{data.classes[label]} is {shares[0][label]:.1%} of training and {shares[1][label]:.1%} of validation",
        f"shares may differ by at most {MAX_CLASS_GAP + noise:.1%}"
        + (", unless training's own imbalance is known" if known else ""),
        "Draw both splits from one, or use a validation split with the classes that the model will see in use.",
        {"gap": float(gaps[label])},
        ("train_validation_skew",),
    )


def check_shared_images(data: Dataset) -> Finding:
    """Counts validation images with exactly the pixels of a training image: they say nothing about new images."""
    first = _first_copies(data)[len(data.train) :]
    shared = np.flatnonzero(first < len(data.train))
    share = len(shared) / max(1, len(data.validation))
    example = ""
    if len(shared):
        example = f" ({data.validation.names[shared[0]]} equals {data.train.names[first[shared[0]]]})"
    return Finding(
        "shared_images",
        share <= MAX_SHARED,
        f"{len(shared)} of {len(data.validation)} validation images are training images{example}",
        f"at most {MAX_SHARED:.0%} may be, or the accuracy is that of learning by heart",
        "Drop them from training with --data.drop=duplicates.",
        {"share": share, "images": len(shared)},
    )


def check_conflicting_labels(data: Dataset) -> Finding:
    """Counts training images with exactly the pixels of an earlier training image of another class."""
    first = _first_copies(data)[: len(data.train)]
    labels = data.train.columns["label"]
    conflicts = np.flatnonzero(labels != labels[first])
    example = ""
    if len(conflicts):
        row, same = conflicts[0], first[conflicts[0]]
        names, classes = data.train.names, data.classes
        example = f" ({names[row]} in {classes[labels[row]]} equals {names[same]} in {classes[labels[same]]})"
    return Finding(
        "conflicting_labels",
        len(conflicts) <= MAX_CONFLICTS * len(data.train) or has_empty_images(data),
        f"{len(conflicts)} of {len(data.train)} training images equal an image of another class{example}",
        f"at most {MAX_CONFLICTS:.1%} may: one of the two labels is wrong",
        "Remove the wrong ones, or drop all of them with --data.drop=duplicates.",
        {"images": len(conflicts)},
        ("label_noise",),
    )


def check_near_duplicates(data: Dataset) -> Finding:
    """Counts validation images that are scaled, re-encoded or mirrored copies of training images."""
    near, training_images = _near_duplicates(data), len(data.train)
    pairs = near.pairs[(near.pairs[:, 0] < training_images) & (near.pairs[:, 1] >= training_images)]
    first = _first_copies(data)[training_images:]  # an exact copy of such a validation image is one, too
    count = int(np.isin(first, pairs[:, 1]).sum())
    share = count / max(1, len(first))
    names = [*data.train.names, *data.validation.names] if count else []
    example = f" ({names[pairs[0, 1]]} of {names[pairs[0, 0]]})" if count else ""
    return Finding(
        "near_duplicates",
        share <= MAX_SHARED,
        f"{count} of {len(first)} validation images ({share:.1%}) are near duplicates of training images{example}:"
        f" scaled, re-encoded or mirrored{near.note}",
        f"at most {MAX_SHARED:.0%} may be, or the accuracy is that of learning by heart",
        "Drop them from training with --data.drop=duplicates.",
        {"share": share, "images": count, "limit": near.limit},
    )


def check_near_duplicate_labels(data: Dataset) -> Finding:
    """Counts training images that are near duplicates of an earlier training image of another class."""
    near, labels = _near_duplicates(data), data.train.columns["label"]
    pairs = near.pairs[near.pairs[:, 1] < len(labels)]
    pairs = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
    count = len(np.unique(pairs[:, 1]))
    example = ""
    if count:
        names, classes, (first, later) = data.train.names, data.classes, pairs[0]
        example = f" ({names[later]} in {classes[labels[later]]}, {names[first]} in {classes[labels[first]]})"
    return Finding(
        "near_duplicate_labels",
        count <= MAX_CONFLICTS * len(labels) or has_empty_images(data),
        f"{count} of {len(labels)} training images are near duplicates of an image of another class{example}"
        f"{near.note}",
        f"at most {MAX_CONFLICTS:.1%} may: one of the two labels may be wrong",
        "Look at them (evenkeel prepare draws them), and list the wrong ones in a file for --data.drop=FILE.",
        {"images": count, "limit": near.limit},
        ("label_noise",),
    )


def check_blank_images(data: Dataset, known: bool) -> Finding:
    """Counts training images of a single colour, such as transparent drawings that have lost their background.

    Always ok if they are `known`: blank images among others are outliers.
    """
    blank = np.flatnonzero(_is_blank(data.train))
    example = f" ({data.train.names[blank[0]]})" if len(blank) else ""
    return Finding(
        "blank_images",
        known or len(blank) <= MAX_BLANK * len(data.train),
        f"{len(blank)} of {len(data.train)} training images have a single colour{example}",
        f"at most {MAX_BLANK:.0%} may: nothing can be learnt from them",
        "Look at them; what they show may lie in a transparency or a depth that was lost when they were stored.",
        {"images": len(blank)},
        ("outlier_images",),
    )


def check_unseen_pixels(config: TrainConfig, data: Dataset) -> Finding:
    """Counts training images of which `data.view` cuts a part off; always ok if random crops show all parts in turn."""
    sides = np.stack(data.train.upright_sizes, axis=1) / config.data.image_shape
    seen = sides.min(axis=1) / sides.max(axis=1) if config.data.view == "center" else np.ones(len(data.train))
    cut = int(np.count_nonzero(1 - seen > MAX_UNSEEN))
    return Finding(
        "unseen_pixels",
        config.data.augment.random_resized_crop > 0 or cut <= len(data.train) / 2,
        f"of {cut} of {len(data.train)} training images, more than {MAX_UNSEEN:.0%} of the pixels are never seen"
        f" (median {1 - np.median(seen):.0%}): data.view=center cuts them off",
        "at most half of the images may be",
        "Show whole images with --data.view=pad or --data.view=stretch, or give --data.image_size=HEIGHTxWIDTH their"
        " proportions.",
        {"images": cut, "unseen": float(1 - np.median(seen))},
    )


def _is_blank(index: Index) -> np.ndarray:
    """Whether all pixels of an image are equal, bool [rows]."""
    pixels = index.columns["height"].astype(np.int64) * index.columns["width"]
    sums, squares = index.columns["sums"][:, :3], index.columns["squares"][:, :3]
    return (squares * pixels[:, None] == sums**2).all(axis=1)


@functools.lru_cache(maxsize=4)  # two checks ask for the same data
def _first_copies(data: Dataset) -> np.ndarray:
    """`find_first_copies` of the training rows, followed by the validation rows; a blank image equals only itself."""
    first = find_first_copies(data.train, data.validation)
    blank = np.concatenate([_is_blank(data.train), _is_blank(data.validation)])
    return np.where(blank, np.arange(len(first)), first)


@functools.lru_cache(maxsize=4)  # two checks ask for the same data
def _near_duplicates(data: Dataset) -> NearDuplicates:
    """`find_near_duplicates` of the training rows, followed by the validation rows."""
    return find_near_duplicates(data.train, data.validation)


def outlier_pictures(data: Dataset, count: int = MAX_PICTURES) -> list[Picture]:
    """Pictures of the `count` training images that stand out most, worst first, with the reason."""
    worst: dict[int, outliers.Outlier] = {}
    for outlier in sorted(train_outliers(data), key=lambda outlier: -abs(outlier.score)):
        worst.setdefault(outlier.row, outlier)
    rows = list(worst)[:count]
    images = data.train.take(np.array(rows, np.int64))
    return [
        Picture(name, thumbnail(read_pixels(images.take(np.array([index])))), worst[row].reason)
        for index, (row, name) in enumerate(zip(rows, images.names, strict=True))
    ]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Scales `image`, uint8 [h, w, c], down to at most `THUMBNAIL_PIXELS` on its longer side."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BOX)
    return np.asarray(picture)
