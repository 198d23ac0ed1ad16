"""Checks that read images: whether the augmentation destroys them, and whether their labels fit. They need no network.

images, labels = read_first_batch(config, data)
for finding in check_images(config, data, images):
    print(finding.line)
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight import cheap_model
from evenkeel.models.preflight.label_checks import check_labels
from evenkeel.models.preflight.sample_images import local_data_config
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard

FIRST_BATCH_IMAGES = 64
POOL_PIXELS = 4  # side of a square; smaller structures count as detail
MIN_CONTRAST_LEFT = 0.25  # share of an image's contrast, or contrast over detail; with less, the image is destroyed
MAX_DESTROYED_SHARE = 0.35  # 3 operations of RandAugment destroy 0.19, brightness=1 0.3, noise=200 0.4 or more
# Number of training images that a cheap model is fitted to, plain and augmented. With fewer images the comparison is
# unreliable: with 2 operations of RandAugment on images of 16 pixels, the model learns 0.43 of what it learns without
# them from 1,000 images, and 0.48 from 2,500 images.
CHEAP_MODEL_IMAGES, CHEAP_MODEL_BATCH = 2500, 250
# Ratio of accuracies above chance. On CIFAR-10 it is 0.6 with 2 operations of RandAugment, 0.5 with 3 at full strength,
# 0.57 with noise=60, 0.37 with noise=120, and 0.22 with 8 operations.
MIN_ACCURACY_RATIO = 0.45
MIN_ABOVE_CHANCE = 0.1  # accuracy above chance on plain images; with 2,500 images the standard error is 0.01


def check_images(config: TrainConfig, data: Dataset, images: np.ndarray) -> list[Finding]:
    """Returns the findings of all checks; takes five CPU seconds. `images` come from `read_first_batch`.

    No check uses Keras, so they may run in a thread during training.
    """
    return [check_augmentation(config, data, images), *check_labels(config, data)]


def check_augmentation(config: TrainConfig, data: Dataset, images: np.ndarray) -> Finding:
    """Compares augmented images with plain ones, by contrast and by what a cheap model learns from them."""
    none = AugmentConfig()
    plain, ratio = images, 1.0
    if config.data.augment != none:
        plain, ratio = read_first_batch(config, data, none)[0], _augmented_accuracy_ratio(data, config.data)
    share = float(np.mean(destroyed_mask(plain, images)))
    return Finding(
        "augmentation",
        share <= MAX_DESTROYED_SHARE and ratio >= MIN_ACCURACY_RATIO,
        f"{share:.0%} of augmented images lose three quarters of their contrast or drown in noise; a cheap model fitted"
        f" to augmented images exceeds chance by {ratio:.2f} times as much as one fitted to plain images",
        f"at most {MAX_DESTROYED_SHARE:.0%} may, and the ratio must be at least {MIN_ACCURACY_RATIO:g}",
        "Weaken --data.augment.* (evenkeel augmentations draws them).",
        {"share": share, "left": ratio},
        ("too_much_augmentation",),
    )


@functools.lru_cache(maxsize=4)  # replays of a run ask for the same again
def _augmented_accuracy_ratio(data: Dataset, config: DataConfig) -> float:
    """Accuracy above chance of a cheap model fitted to augmented images, divided by that of one fitted to plain images.

    The ratio is 1 if there are few images, or if the model learns almost nothing from plain images. Images are scaled
    to `cheap_model.IMAGE_PIXELS` a side. Shifts in pixels are scaled down as well, and so is noise, because a mean over
    pixels has less noise. Takes about 2 CPU seconds.
    """
    if len(data.train) < CHEAP_MODEL_IMAGES:
        return 1.0
    scale = min(1.0, cheap_model.IMAGE_PIXELS / min(config.image_shape))
    augment = config.augment
    scaled = dataclasses.replace(augment, pad_crop=round(scale * augment.pad_crop), noise=scale * augment.noise)
    above_chance = []
    for variant in (AugmentConfig(), scaled):
        small = local_data_config(
            config,
            augment=variant,
            batch_size=CHEAP_MODEL_BATCH,
            image_size=cheap_model.IMAGE_PIXELS,
            balance="none",
        )
        batches = training_batches(data, small, 0, ReplicaShard(CHEAP_MODEL_BATCH))
        batches = batches.take(CHEAP_MODEL_IMAGES // CHEAP_MODEL_BATCH)
        images, labels = (np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True))
        chance = np.bincount(labels).max() / len(labels)
        accuracy = cheap_model.leave_one_out_accuracy(images, labels, len(data.classes))
        above_chance.append(max(accuracy - chance, 0.0))
    return above_chance[1] / above_chance[0] if above_chance[0] > MIN_ABOVE_CHANCE else 1.0


def read_first_batch(
    config: TrainConfig, data: Dataset, augment: AugmentConfig | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the run's first `FIRST_BATCH_IMAGES` images, uint8 [n, h, w, c], and labels, int64 [n], in this process.

    `augment` replaces the run's own augmentation; it does not change which images are read.
    """
    augment = augment or config.data.augment
    return _read_first_batch(
        data, local_data_config(config.data, augment=augment, batch_size=FIRST_BATCH_IMAGES), config.seed
    )


@functools.lru_cache(maxsize=16)  # each takes a CPU second; holds batches with and without augmentation, of some seeds
def _read_first_batch(data: Dataset, config: DataConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    batches = training_batches(data, config, seed, ReplicaShard(FIRST_BATCH_IMAGES))
    images, labels = (tensor.numpy() for tensor in next(iter(batches)))
    images.flags.writeable = labels.flags.writeable = False  # the cache returns the same arrays again
    return images, labels


def destroyed_mask(plain: np.ndarray, augmented: np.ndarray) -> np.ndarray:
    """Whether each augmented image keeps under `MIN_CONTRAST_LEFT` of its contrast, or contrast over detail, bool [n].

    Contrast is the deviation of means over squares of `POOL_PIXELS`; detail is the deviation of pixels from these
    means. Rotation, mirroring and colouring change neither. A plain image without contrast cannot be destroyed.
    """
    (contrast, detail), (contrast_after, detail_after) = contrast_and_detail(plain), contrast_and_detail(augmented)
    flattened = contrast_after < MIN_CONTRAST_LEFT * contrast
    # The 1 is JPEG's own noise in gray levels, for images without detail.
    noisy = contrast_after / (detail_after + 1) < MIN_CONTRAST_LEFT * contrast / (detail + 1)
    return (contrast > 2) & (flattened | noisy)


def contrast_and_detail(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (contrast, detail) of `images`, uint8 [n, h, w, c], in gray levels, float64 [n] each.

    The part of the contrast that comes from independent noise is subtracted.
    """
    gray = images.astype(np.float64).mean(-1)
    pool = min(POOL_PIXELS, *gray.shape[1:])
    rows, columns = (side // pool for side in gray.shape[1:])
    blocks = gray[:, : rows * pool, : columns * pool].reshape(len(gray), rows, pool, columns, pool)
    means = blocks.mean((2, 4), keepdims=True)
    detail = np.mean((blocks - means) ** 2, (1, 2, 3, 4))
    contrast = means.var((1, 2, 3, 4)) - detail / max(1, pool**2 - 1)
    return np.sqrt(np.maximum(contrast, 0)), np.sqrt(detail)
