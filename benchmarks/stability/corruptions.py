"""Data with known dirt: any source, written once as a folder of PNG images whose training part is spoilt.

    clean = copied(DataConfig(source="tfds:cifar10"), "clean")
    noisy = copied(clean, "label_noise_40")      # the same images, 40% of the training labels wrong

Validation images are never touched. Kind and severity are the name; same source, same dirt, pixel for pixel.
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

TRAIN, TEST = 3200, 1000  # images; of a source that has fewer, all
READ = 200  # images at a time

Dirt = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def clean(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator):
    return images, labels


def dark_share(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, share: float):
    """A `share` of the images is on a scale 16 times too dark, as if it had been divided twice."""
    dark = chosen(len(images), share, rng)
    return np.where(dark[:, None, None, None], images // 16, images), labels


def outliers(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, share: float):
    """A `share` of the images shows noise, black or white, a third each, under the labels they had."""
    images = images.copy()
    for rank, row in enumerate(np.flatnonzero(chosen(len(images), share, rng))):
        noise = rng.integers(0, 256, images.shape[1:], np.uint8)
        images[row] = noise if rank % 3 == 2 else 255 * (rank % 3)
    return images, labels


def label_noise(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, share: float):
    """A `share` of the labels is wrong, drawn evenly among the other classes."""
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    return images, np.where(chosen(len(images), share, rng), wrong, labels)


def imbalance(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, ratio: float):
    """`ratio` images of the first class for one of the last, a geometric series between; no image twice.

    The rarest class that is as common as the series asks for decides how many there are in all.
    """
    have = np.bincount(labels, minlength=classes)
    weights = float(ratio) ** -np.linspace(0, 1, classes)
    wanted = np.maximum(1, np.floor(weights * (have / weights).min()).astype(int))
    order = rng.permutation(len(labels))
    kept = np.concatenate([order[labels[order] == label][: wanted[label]] for label in range(classes)])
    return images[np.sort(kept)], labels[np.sort(kept)]


def inverted(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator):
    """Training images are negatives."""
    return 255 - images, labels


def darkened(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator, times: int):
    """Training images are so many times as dark as those of validation."""
    return images // times, labels


DIRT: dict[str, Dirt] = {
    "clean": clean,
    **{f"dark_share_{share}": functools.partial(dark_share, share=share / 100) for share in (30, 60)},
    **{f"outliers_{share}": functools.partial(outliers, share=share / 100) for share in (30, 60, 80)},
    **{f"label_noise_{share}": functools.partial(label_noise, share=share / 100) for share in (40, 60)},
    **{f"imbalance_{ratio}": functools.partial(imbalance, ratio=ratio) for ratio in (10, 50)},
    "inverted": inverted,
    **{f"darkened_{times}": functools.partial(darkened, times=times) for times in (4, 8)},
}


def copied(
    data: DataConfig,
    dirt: str,
    seed: int = 0,
    train: int = TRAIN,
    test: int = TEST,
    classes: tuple[str, ...] = (),
) -> DataConfig:
    """`data` from a folder train/CLASS/NUMBER.png, test/CLASS/NUMBER.png in the cache, its training part with `dirt`.

    The first `train` and `test` images of its splits, of `classes` where there are any, at `data.image_size`. Written
    beside the folder and renamed, so that what was interrupted is not found.

    Raises:
      UsageError: there is no such dirt, or the source cannot be used.
    """
    if dirt not in DIRT:
        raise UsageError(f"dirt ({dirt}) must be one of {', '.join(DIRT)}.")
    key = repr(
        [resolve.source_fingerprint(data), data.train_split, data.validation_split, data.image_size, seed, train, test, classes]
    )
    name = f"{dirt}-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}"
    folder = os.path.join(cache_dir(), "dirt", name)
    if not os.path.exists(folder):
        _write(folder, data, DIRT[dirt], seed, train, test, classes)
    return dataclasses.replace(data, source=folder, train_split="train", validation_split="")


def images(data: DataConfig) -> int:
    """How many a folder's training part holds."""
    return sum(len(names) for _, _, names in os.walk(os.path.join(data.source, "train")))


def _write(
    folder: str, data: DataConfig, dirt: Dirt, seed: int, train: int, test: int, classes: tuple[str, ...]
) -> None:
    opened, rng = load_dataset(data), np.random.default_rng(seed)
    numbers = [number for number, name in enumerate(opened.classes) if not classes or name in classes]
    of_train, of_test = (_only(index, numbers) for index in (opened.train, opened.validation))
    images, labels = pixels(of_train, data, train)
    images, labels = dirt(images, np.searchsorted(numbers, labels), len(numbers), rng)
    shown = {"train": (images, np.array(numbers)[labels]), "test": pixels(of_test, data, test)}
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    beside = tempfile.mkdtemp(prefix=".writing-", dir=os.path.dirname(folder))
    for split, (images, labels) in shown.items():
        for number in numbers:
            os.makedirs(os.path.join(beside, split, opened.classes[number]))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = os.path.join(beside, split, opened.classes[label], f"{number:05d}.png")
            Image.fromarray(image).save(path, compress_level=1)
    try:
        os.rename(beside, folder)
    except OSError:
        shutil.rmtree(beside)
        if not os.path.exists(folder):  # unless another process was first, with the same images
            raise


def _only(index: Index, numbers: list[int]) -> Index:
    """The images with one of these labels."""
    return index.take(np.flatnonzero(np.isin(index.columns["label"], numbers)))


def pixels(index: Index, data: DataConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` rows: images uint8 [n, s, s, c] and labels int64 [n].

    In the order of their bytes: a copy is stored in another order, and its own copy must number the images alike.
    """
    batches = build.evaluation_batches(index, data, ReplicaShard(READ)).as_numpy_iterator()
    shown = [(images[on > 0], labels[on > 0]) for images, labels, on in itertools.islice(batches, -(-count // READ))]
    images, labels = (np.concatenate(parts)[:count] for parts in zip(*shown, strict=True))
    order = sorted(range(len(images)), key=lambda row: (images[row].tobytes(), labels[row]))
    return images[order], labels[order]


def chosen(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """bool [count]: exactly round(share * count) of them."""
    on = np.zeros(count, bool)
    on[rng.permutation(count)[: round(share * count)]] = True
    return on
