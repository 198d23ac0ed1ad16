"""Writes copies of a data set, with known corruptions of the training images, as folders of PNG images.

    clean = write_copy(DataConfig(source="tfds:cifar10"), "clean")
    noisy = write_copy(clean, "label_noise_40")      # the same images, with 40% of the training labels wrong

Validation images are never changed. The name of a corruption gives its kind and severity. The same source and
corruption always give the same pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.sources import resolve
from evenkeel.pipeline.sources.cache_dir import cache_dir

TRAIN_IMAGES, TEST_IMAGES = 3200, 1000  # maximum numbers; all images of a smaller source are used
READ_BATCH_SIZE = 200  # images

# Takes (images uint8 [n, s, s, c], labels int64 [n], number of classes, generator); returns (images, labels).
Corruption = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def write_copy(
    data: DataConfig,
    corruption: str,
    seed: int = 0,
    train: int = TRAIN_IMAGES,
    test: int = TEST_IMAGES,
    classes: tuple[str, ...] = (),
) -> DataConfig:
    """Writes a corrupted copy of `data` to the cache if it is not there, and returns `data` with the copy as source.

    The copy is a folder with files train/CLASS/NUMBER.png and test/CLASS/NUMBER.png. They contain the first `train` and
    `test` images of the two splits, at `data.image_size`. If `classes` is not empty, the copy contains only images of
    these classes. The folder is written under a temporary name and renamed at the end, so that an interrupted copy is
    never used.

    Raises:
      UsageError: the corruption does not exist, or the source cannot be used.
    """
    if corruption not in CORRUPTIONS:
        raise UsageError(f"corruption ({corruption}) must be one of {', '.join(CORRUPTIONS)}.")
    folder = copy_folder(corruption, data, seed, train, test, classes)
    if not os.path.exists(folder):
        _write_copy(folder, data, CORRUPTIONS[corruption], seed, train, test, classes)
    return dataclasses.replace(data, source=folder, train_split="train", validation_split="")


def copy_folder(name: str, data: DataConfig, *settings: Any) -> str:
    """Returns the folder in the cache for what `name` and `settings` make of `data`."""
    fingerprint = resolve.source_fingerprint(data)
    key = repr([fingerprint, data.train_split, data.validation_split, data.image_size, *settings])
    return os.path.join(cache_dir(), "dirt", f"{name}-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}")


def count_training_images(data: DataConfig) -> int:
    """Returns the number of training images in a copy."""
    return sum(len(names) for _, _, names in os.walk(os.path.join(data.source, "train")))


# Corruptions.


def keep_clean(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator):
    return images, labels


def darken_share(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, share: float):
    """Divides the pixels of a share of the images by 16, as if a scale had been applied twice."""
    dark = draw_mask(len(images), share, rng)
    return np.where(dark[:, None, None, None], images // 16, images), labels


def add_outliers(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, share: float):
    """Replaces a share of the images by black images, white images and noise, a third each; keeps the labels."""
    images = images.copy()
    for rank, row in enumerate(np.flatnonzero(draw_mask(len(images), share, rng))):
        noise = rng.integers(0, 256, images.shape[1:], np.uint8)
        images[row] = noise if rank % 3 == 2 else 255 * (rank % 3)
    return images, labels


def blank_share(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, share: float):
    """Replaces a share of the images by plain gray, as a decoder that fails silently would."""
    blank = draw_mask(len(images), share, rng)
    return np.where(blank[:, None, None, None], np.uint8(128), images), labels


def add_label_noise(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, share: float):
    """Replaces a share of the labels by wrong classes, all with equal probability."""
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    return images, np.where(draw_mask(len(images), share, rng), wrong, labels)


def shuffle_labels(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator):
    """Deals the labels to the images at random, as if the rows of a table had been mixed up."""
    return images, rng.permutation(labels)


def rotate_labels(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator):
    """Gives each class the label of the next one, as if the classes had been numbered in another order."""
    return images, (labels + 1) % classes


def make_imbalanced(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, ratio: float):
    """Drops images until the class sizes form a geometric series, with the first class `ratio` times the last.

    The class with the fewest images relative to the series limits the total. No image is repeated.
    """
    available = np.bincount(labels, minlength=classes)
    weights = float(ratio) ** -np.linspace(0, 1, classes)
    counts = np.maximum(1, np.floor(weights * (available / weights).min()).astype(int))
    order = rng.permutation(len(labels))
    rows = np.concatenate([order[labels[order] == label][: counts[label]] for label in range(classes)])
    return images[np.sort(rows)], labels[np.sort(rows)]


def invert(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator):
    """Inverts the pixels of all training images."""
    return 255 - images, labels


def darken(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, divisor: int):
    """Divides all training images by `divisor`; validation images keep their brightness."""
    return images // divisor, labels


CORRUPTIONS: dict[str, Corruption] = {
    "clean": keep_clean,
    **{f"dark_share_{percent}": functools.partial(darken_share, share=percent / 100) for percent in (30, 60)},
    **{f"outliers_{percent}": functools.partial(add_outliers, share=percent / 100) for percent in (30, 60, 80)},
    "blank_95": functools.partial(blank_share, share=0.95),
    **{f"label_noise_{percent}": functools.partial(add_label_noise, share=percent / 100) for percent in (40, 60)},
    "shuffled_labels": shuffle_labels,
    "rotated_labels": rotate_labels,
    **{f"imbalance_{ratio}": functools.partial(make_imbalanced, ratio=ratio) for ratio in (10, 50)},
    "inverted": invert,
    **{f"darkened_{divisor}": functools.partial(darken, divisor=divisor) for divisor in (4, 8)},
}


def draw_mask(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a mask, bool [count], in which exactly round(share * count) random elements are True."""
    mask = np.zeros(count, bool)
    mask[rng.permutation(count)[: round(share * count)]] = True
    return mask


# Reading and writing.


def _write_copy(
    folder: str, data: DataConfig, corrupt: Corruption, seed: int, train: int, test: int, classes: tuple[str, ...]
) -> None:
    dataset, rng = load_dataset(data), np.random.default_rng(seed)
    class_numbers = [number for number, name in enumerate(dataset.classes) if not classes or name in classes]
    train_index, test_index = (_select_labels(index, class_numbers) for index in (dataset.train, dataset.validation))
    images, labels = read_first_images(train_index, data, train)
    images, labels = corrupt(images, np.searchsorted(class_numbers, labels), len(class_numbers), rng)
    test_images, test_labels = read_first_images(test_index, data, test)
    splits = {"train": (images, labels), "test": (test_images, np.searchsorted(class_numbers, test_labels))}
    write_folder(folder, splits, [dataset.classes[number] for number in class_numbers])


def write_folder(folder: str, splits: dict[str, tuple[np.ndarray, np.ndarray]], classes: list[str]) -> None:
    """Writes {split: (images uint8 [n, s, s, c], labels int64 [n])} as files SPLIT/CLASS/NUMBER.png below `folder`.

    The folder has another name until it is complete, so that nobody uses an incomplete one.
    """
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".writing-", dir=os.path.dirname(folder))
    for split, (images, labels) in splits.items():
        for name in classes:
            os.makedirs(os.path.join(temporary, split, name))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = os.path.join(temporary, split, classes[label], f"{number:05d}.png")
            Image.fromarray(image.squeeze()).save(path, compress_level=1)
    try:
        os.rename(temporary, folder)
    except OSError:
        shutil.rmtree(temporary)
        if not os.path.exists(folder):  # otherwise, another process has just written the same images
            raise


def _select_labels(index: Index, labels: list[int]) -> Index:
    """Returns the rows of `index` that have one of `labels`."""
    return index.take(np.flatnonzero(np.isin(index.columns["label"], labels)))


def read_first_images(index: Index, data: DataConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the first `count` rows: images uint8 [n, s, s, c] and labels int64 [n], sorted by the bytes of the images.

    The images are sorted because a copy and its source store them in different orders, and a copy of the copy must give
    each image the same number.
    """
    batches = build.evaluation_batches(index, data, ReplicaShard(READ_BATCH_SIZE)).as_numpy_iterator()
    batches = itertools.islice(batches, -(-count // READ_BATCH_SIZE))
    parts = [(images[weights > 0], labels[weights > 0]) for images, labels, weights in batches]
    images, labels = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    order = sorted(range(len(images)), key=lambda row: (images[row].tobytes(), labels[row]))
    return images[order], labels[order]
