"""What the data says against a run, from the index's figures and from a few images; no network is needed.

for finding in checks(config, data):
    print(finding.line)
pictures(data)                  # the images that stand out most, to look at
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from PIL import Image

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight import label_noise
from evenkeel.models.stability.diagnosis import Finding, Picture
from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.prepare import outliers, skew
from evenkeel.pipeline.prepare.contact_sheet import pixels

MOST_OUTLIERS = 0.03  # CIFAR-10 has 0.4% by this rule, clean `shapes` 0.2%, either with 5% of dirt 5%
MOST_IMBALANCE = 10.0  # between the most common class and the rarest
SAMPLE = 64  # images whose augmentation is looked at
POOL = 4  # pixels of a side: what is smaller is detail
LEFT = 0.25  # of an image's contrast, or of its contrast against detail: less is destroyed
# Images that a cheap model is fitted to, as they are and augmented. Of fewer it says nothing: from 1,000 images of 16
# pixels with 2 operations of RandAugment it learns 0.43 of what it does without, from 2,500 of them 0.48, by chance.
LEARNT = 2500
# Of what it is right above chance, on CIFAR-10: 2 operations of RandAugment leave 0.6, 3 at full strength 0.5, noise=60
# 0.57; noise=120 leaves 0.37, 8 operations 0.22.
LEAST_LEFT = 0.45
MOST_DESTROYED = 0.35  # 3 operations of RandAugment destroy 0.19, brightness=1 0.3, noise=200 0.4 or more
TRAINING, VALIDATION = 4000, 2000  # images that labels are judged by
LEAST_NOISE, CERTAIN = 0.12, 3.5  # share of wrong labels and standard errors; clean sets come to 0.02 and 0.4
PICTURES, LARGEST = 16, 96  # and pixels of their longer side


def checks(config: TrainConfig, data: Dataset) -> list[Finding]:
    """Those of the index alone: no image is read."""
    balanced = config.data.balance == "classes" or config.class_weights == "balanced"
    imbalance = class_imbalance(data, balanced)
    strange = outlier_images(data)
    return [
        strange,
        imbalance,
        image_skew(data, not strange.ok, config.data.standardize),
        class_skew(data, known=balanced or not imbalance.ok),
    ]


@functools.lru_cache(maxsize=4)  # who replays a run asks again and again
def strangers(data: Dataset) -> tuple[outliers.Outlier, ...]:
    """Training images that are outliers, by what is usual among them or in validation."""
    return tuple(skew.strangers(data.train, data.validation))


def outlier_images(data: Dataset) -> Finding:
    """By the modified z-score of brightness, contrast and sharpness, as `--data.drop=outliers` leaves them out."""
    found = strangers(data)
    rows = {outlier.row for outlier in found}
    share = len(rows) / len(data.train)
    worst = max(found, key=lambda outlier: abs(outlier.score), default=None)
    seen = f"{len(rows)} of {len(data.train)} training images are outliers"
    return Finding(
        "outlier_images",
        share <= MOST_OUTLIERS,
        seen + (f" ({data.train.names[worst.row]}: {worst.reason})" if worst else ""),
        f"at most {MOST_OUTLIERS:.0%} are",
        "Look at them (python -m tools.prepare draws them) or leave them out with --data.drop=outliers.",
        {"share": share, "images": len(rows)},
        ("outlier_images",),
    )


def class_imbalance(data: Dataset, balanced: bool) -> Finding:
    """A class without any image cannot be learnt, `balanced` or not."""
    counts = data.class_counts
    empty = [name for name, count in zip(data.classes, counts, strict=True) if count == 0]
    most, least = int(counts.argmax()), len(counts) - 1 - int(counts[::-1].argmin())
    ratio = float(counts[most]) / max(float(counts[least]), 1.0)
    seen = f"{counts[most]} training images of {data.classes[most]}, {counts[least]} of {data.classes[least]}"
    if empty:
        seen = f"no training image of {', '.join(empty[:5])}" + (f" and {len(empty) - 5} more" if empty[5:] else "")
    return Finding(
        "class_imbalance",
        not empty and (balanced or ratio <= MOST_IMBALANCE),
        seen + (", balanced by the configuration" if balanced and not empty else ""),
        f"every class has some, and none {MOST_IMBALANCE:g} times as many as another",
        "Take images or the class away." if empty else "Use --data.balance=classes or --class_weights=balanced.",
        {"ratio": ratio, "empty": len(empty)},
        ("class_imbalance",),
    )


def image_skew(data: Dataset, explained: bool, standardize: bool = False) -> Finding:
    """The largest Kolmogorov-Smirnov distance of training and validation, over the figures of each image.

    Of those that are not outliers, where there are many of these (`explained`); with `standardize`, of figures that
    are left when every image is brought to mean 0 and deviation 1.
    """
    train = data.train
    if explained:
        rest = np.setdiff1d(np.arange(len(train)), [outlier.row for outlier in strangers(data)])
        train = train.take(rest) if len(rest) else train
    name, distance = skew.worst(train, data.validation, standardize)
    limit = skew.limit(train, data.validation)
    medians = [float(np.nanmedian(skew.figures(of, standardize)[name])) for of in (train, data.validation)]
    unit = " (in deviations from the image's mean)" if standardize else ""
    return Finding(
        "image_skew",
        distance <= limit,
        f"{name}{unit} is {medians[0]:.4g} in training{', without the outliers,' if explained else ''} and"
        f" {medians[1]:.4g} in validation (medians; Kolmogorov-Smirnov distance {distance:.2f})",
        f"the distance is at most {limit:.2f}",
        "Prepare both splits alike, or draw both from one: --data.train_split=train[:80%]"
        " --data.validation_split=train[80%:]."
        + ("" if standardize else " Where only brightness or contrast differ, --data.standardize takes them away."),
        {"distance": distance, "limit": limit},
        ("train_validation_skew",),
    )


def class_skew(data: Dataset, known: bool) -> Finding:
    """The largest difference of a class's share; not held against a run where training's imbalance is `known`."""
    counts = [data.class_counts, np.bincount(data.validation.columns["label"], minlength=len(data.classes))]
    shares = [count / count.sum() for count in counts]
    gaps = np.abs(shares[0] - shares[1])
    at = int(gaps.argmax())
    noise = 3 * np.sqrt(shares[0][at] * (1 - shares[0][at]) * sum(1 / count.sum() for count in counts))
    return Finding(
        "class_skew",
        bool(known or gaps[at] <= 0.1 + noise),
        f"{data.classes[at]} is {shares[0][at]:.1%} of training and {shares[1][at]:.1%} of validation",
        f"shares differ by at most {0.1 + noise:.1%}" + (" unless training is balanced on purpose" if known else ""),
        "Draw both splits from one, or take a validation split with the classes that will be seen in use.",
        {"gap": float(gaps[at])},
        ("train_validation_skew",),
    )


def of_images(config: TrainConfig, data: Dataset, images: np.ndarray) -> list[Finding]:
    """Those that read images, five CPU seconds; `images` are those of `first_batch`. Nothing here is Keras's."""
    return [augmentation(config, data, images), wrong_labels(config, data)]


def augmentation(config: TrainConfig, data: Dataset, images: np.ndarray) -> Finding:
    """How little is left in augmented images of what the same images show without, to the eye and to a cheap model.

    `images` are those of `first_batch`.
    """
    none = AugmentConfig()
    plain, left = images, 1.0
    if config.data.augment != none:
        plain, left = first_batch(config, data, none)[0], _left(data, config.data)
    share = float(np.mean(destroyed(plain, images)))
    return Finding(
        "augmentation",
        share <= MOST_DESTROYED and left >= LEAST_LEFT,
        f"{share:.0%} of augmented images have lost three quarters of their contrast, or drown in noise; a cheap model"
        f" gets {left:.2f} times as far above chance with them as with the images as they are",
        f"at most {MOST_DESTROYED:.0%} do, and it gets {LEAST_LEFT:g} times as far",
        "Weaken --data.augment.* (python -m tools.show_augmentations draws them).",
        {"share": share, "left": left},
        ("too_much_augmentation",),
    )


@functools.lru_cache(maxsize=4)  # who replays a run asks again and again
def _left(data: Dataset, config: DataConfig) -> float:
    """How often a cheap model is right above chance, fitted to augmented images against fitted to them as they are.

    1 where there are few images, or it is hardly right on these either. On images of `label_noise.SIDE` pixels: what of
    the augmentation is in pixels shrinks with them, and noise as means of pixels have it. About 2 CPU seconds.
    """
    if len(data.train) < LEARNT:
        return 1.0
    scale = min(1.0, label_noise.SIDE / config.image_size)
    own = config.augment
    small = dataclasses.replace(own, pad_crop=round(scale * own.pad_crop), noise=scale * own.noise)
    above = []
    for augment in (AugmentConfig(), small):
        here = local(config, augment=augment, batch_size=BATCH, image_size=label_noise.SIDE, balance="none")
        batches = training_batches(data, here, 0, ReplicaShard(BATCH)).take(LEARNT // BATCH)
        images, labels = (np.concatenate(of) for of in zip(*batches.as_numpy_iterator(), strict=True))
        chance = np.bincount(labels).max() / len(labels)
        above.append(max(label_noise.learnt(images, labels, len(data.classes)) - chance, 0.0))
    return above[1] / above[0] if above[0] > LEAST_LEARNT else 1.0


BATCH = 250
LEAST_LEARNT = 0.1  # above chance; of 2,500 images, 0.01 is a standard error


def first_batch(
    config: TrainConfig, data: Dataset, augment: AugmentConfig | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [SAMPLE, s, s, c] and labels int64 [SAMPLE]: the run's first, read here, whatever feeds it.

    With `augment` in place of the run's own: which images these are does not depend on it.
    """
    return _first_batch(
        data, local(config.data, augment=augment or config.data.augment, batch_size=SAMPLE), config.seed
    )


@functools.lru_cache(maxsize=16)  # a second of CPU time each, with and without augmentation, for some seeds
def _first_batch(data: Dataset, config: DataConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (of.numpy() for of in next(iter(training_batches(data, config, seed, ReplicaShard(SAMPLE)))))
    images.flags.writeable = labels.flags.writeable = False  # whoever asks next gets the same
    return images, labels


def local(config: DataConfig, **changes) -> DataConfig:
    """Read in this process, nothing held in memory."""
    return dataclasses.replace(config, **{"cache": "none", "service": "", "reader": "auto", **changes})


def destroyed(plain: np.ndarray, augmented: np.ndarray) -> np.ndarray:
    """bool [n]: whether an augmented image has under `LEFT` of the plain one's contrast, or of contrast / detail.

    Contrast is the deviation of means over `POOL` pixels squared, detail that of pixels from these. Neither changes
    where an image is turned, mirrored or coloured. Images that are flat to begin with lose nothing.
    """
    before, after = contrast_and_detail(plain), contrast_and_detail(augmented)
    quiet = after[0] < LEFT * before[0]
    # One gray level: JPEG's own noise, where an image has no detail.
    noisy = after[0] / (after[1] + 1) < LEFT * before[0] / (before[1] + 1)
    return (before[0] > 2) & (quiet | noisy)


def contrast_and_detail(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n] each, in gray levels; what independent noise adds to the deviation of means is taken off."""
    gray = images.astype(np.float64).mean(-1)
    pool = min(POOL, gray.shape[1])
    side = gray.shape[1] // pool * pool
    blocks = gray[:, :side, :side].reshape(len(gray), side // pool, pool, side // pool, pool)
    means = blocks.mean((2, 4), keepdims=True)
    detail = np.mean((blocks - means) ** 2, (1, 2, 3, 4))
    contrast = means.var((1, 2, 3, 4)) - detail / max(1, pool**2 - 1)
    return np.sqrt(np.maximum(contrast, 0)), np.sqrt(detail)


def wrong_labels(config: TrainConfig, data: Dataset) -> Finding:
    """`label_noise.estimated` on some of the images; see there for what it cannot see. About 2 CPU seconds."""
    small = {"image_size": label_noise.SIDE, "augment": AugmentConfig(), "batch_size": 1, "balance": "none"}
    found = _label_noise(data, local(config.data, **small))
    return Finding(
        "label_noise",
        found.share < LEAST_NOISE or found.z < CERTAIN,
        f"a cheap model agrees with {found.training:.0%} of training labels it has not seen and with"
        f" {found.validation:.0%} of validation's: as if {max(found.share, 0):.0%} of training's were wrong"
        f" ({found.z:.1f} standard errors)",
        f"under {LEAST_NOISE:.0%} are, or it is not certain (under {CERTAIN:g} standard errors)",
        "Check the labels, or bear with them: --label_smoothing=0.1, fewer --epochs, --early_stopping.",
        {"share": found.share, "z": found.z, "training": found.training, "validation": found.validation},
        ("label_noise",),
    )


@functools.lru_cache(maxsize=4)  # who replays a run asks again and again
def _label_noise(data: Dataset, config: DataConfig) -> label_noise.Estimate:
    known = np.setdiff1d(np.arange(len(data.train)), [outlier.row for outlier in strangers(data)])
    train = data.train.take(known) if len(known) else data.train  # no label is right for noise
    training, validation = sample(train, config, TRAINING), sample(data.validation, config, VALIDATION)
    return label_noise.estimated(*training, *validation, len(data.classes))


def sample(index: Index, small: DataConfig, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, s, s, c] and labels of up to `most` rows, drawn once."""
    rows = np.sort(np.random.default_rng(0).permutation(len(index))[:most])
    share = ReplicaShard(min(len(rows), 250))
    images, labels = [], []
    for of, label, weight in evaluation_batches(index.take(rows), small, share).as_numpy_iterator():
        images.append(of[weight > 0])
        labels.append(label[weight > 0])
    return np.concatenate(images), np.concatenate(labels)


def pictures(data: Dataset, count: int = PICTURES) -> list[Picture]:
    """The training images that stand out most, worst first, with the reason; their longer side is `LARGEST` or less."""
    worst: dict[int, outliers.Outlier] = {}
    for outlier in sorted(strangers(data), key=lambda outlier: -abs(outlier.score)):
        worst.setdefault(outlier.row, outlier)
    rows = list(worst)[:count]
    shown = data.train.take(np.array(rows, np.int64))
    return [
        Picture(name, small(pixels(shown.take(np.array([at])))), worst[row].reason)
        for at, (row, name) in enumerate(zip(rows, shown.names, strict=True))
    ]


def small(image: np.ndarray) -> np.ndarray:
    of = Image.fromarray(image)
    of.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    return np.asarray(of)
