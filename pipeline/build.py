"""THE chain: rows of the index -> batches, one line a stage, in run order. Read this first.

    data = open_data(config)
    share = Share(global_batch_size=128)
    for images, labels in training_batches(data, config, seed=0, share=share): ...    # for ever
    for images, labels, weights in evaluation_batches(data, config, share): ...       # every example once

Images are uint8 [batch, size, size, channels]; normalization is the model's first layer.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from pipeline import augment, crop, order, reader, selection, sources
from pipeline.config import DataConfig, UsageError
from pipeline.decode import decode, luma, resize
from pipeline.index import JPEG, RAW, Index, open_index
from pipeline.order import Share

# Distinct uses of randomness get distinct seeds.
ORDER, CROP, AUGMENT = range(USES := 3)
NAMED = 10  # skipped images named in the log; all of them stand in `Data.skipped`


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A data set ready to be read: training and validation rows, class names, normalization constants."""

    train: Index
    validation: Index
    classes: tuple[str, ...]
    mean: list[float]
    std: list[float]
    class_counts: np.ndarray  # training images of each class
    skipped: tuple[str, ...]  # a line for each image that cannot be used: name and reason


def open_data(config: DataConfig) -> Data:
    """Prepares the source where needed, opens its index and chooses the splits.

    Raises:
      UsageError: source or split unusable, fewer than two classes, or too many corrupt images.
    """
    builder = sources.resolve(config)
    index = open_index(builder, sources.cache_dir(), config.max_pixels)
    splits = {"train": config.train_split, "validation": sources.validation_split(builder, config)}
    chosen = {use: _usable(index.split(builder, split), split, config) for use, split in splits.items()}
    if config.drop:
        chosen["train"] = _selected(chosen["train"], chosen["validation"], index, config)
    train = chosen["train"].kept
    mean, std = (
        train.channel_statistics(config.channels)
        if config.normalize
        else ([0.0] * config.channels, [1.0] * config.channels)
    )
    return Data(
        train=train,
        validation=chosen["validation"].kept,
        classes=index.features.classes,
        mean=mean,
        std=std,
        class_counts=np.bincount(train.columns["label"], minlength=len(index.features.classes)),
        skipped=tuple(f"{split}: {line}" for use, split in splits.items() for line in chosen[use].skipped),
    )


def _selected(train: Index, validation: Index, index: Index, config: DataConfig) -> Index:
    """`train` without what `data.drop` names, which is counted in the log and stands among the skipped ones."""
    # Numbered by all rows of the split, corrupt ones too; those are never chosen.
    kept = np.flatnonzero(train.columns["keep"])
    unwanted = selection.unwanted(config.drop, train.kept, validation.kept, index)
    if len(unwanted) == len(kept):
        raise UsageError(f"data.drop ({config.drop}) leaves no training image: drop less.")
    logging.warning("%d of %d training images are dropped (data.drop=%s)", len(unwanted), len(kept), config.drop)
    return train.drop({int(kept[row]): reason for row, reason in unwanted.items()})


def _usable(index: Index, split: str, config: DataConfig) -> Index:
    """`index` itself, with its corrupt images counted and named; stops when there are too many."""
    corrupt = index.corrupt.skipped
    if corrupt:
        for line in corrupt[:NAMED]:
            logging.warning("skipped in split %s: %s", split, line)
        logging.warning("%d of %d images of split %s are skipped", len(corrupt), len(index), split)
    if len(corrupt) > config.max_corrupt_fraction * len(index):
        raise UsageError(
            f"{len(corrupt)} of {len(index)} images of split {split!r} are corrupt, more than"
            f" data.max_corrupt_fraction ({config.max_corrupt_fraction}) allows; the first is {corrupt[0]}."
            " Mend them or raise that fraction."
        )
    if len(corrupt) == len(index):
        raise UsageError(f"split {split!r} holds no image that can be decoded; the first is {corrupt[0]}.")
    return index


def training_batches(data: Data, config: DataConfig, seed: int, share: Share, start_step: int = 0) -> tf.data.Dataset:
    """Endless (images uint8 [b, s, s, c], labels int64 [b]), a batch for one replica at a time.

    Where the shards are mapped, a step's batch is a function of (seed, step) alone, whatever the parallelism and
    wherever the data set starts. Streaming gives the same tensors in an order of its own.
    """
    first = start_step * share.local_replicas
    plan = _training_windows(data.train, config, seed, share)
    augmented = _augmented(config, seed, share)

    ds, fetch = reader.training_reader(config, data.train, _seed(seed, ORDER), share, start_step)
    ds = ds.enumerate(first)
    ds = ds.map(lambda element, chosen: (*chosen, plan(element, chosen[0])))
    ds = ds.unbatch()
    ds = ds.map(_decoder(data.train, config, fetch), num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.batch(share.batch_size, drop_remainder=True)
    ds = ds.enumerate(first)
    # The last host operation is a map, so that its output lies in pinned memory where the target is a GPU.
    ds = ds.map(lambda element, batch: (augmented(element, batch[0]), batch[1]), num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.prefetch(tf.data.AUTOTUNE)
    return ds.with_options(_options(config))


def evaluation_batches(index: Index, config: DataConfig, share: Share) -> tf.data.Dataset:
    """(images uint8 [b, s, s, c], labels int64 [b], weights float32 [b]): every row once, in order.

    The last global batch is filled up with examples of weight 0; there are ceil(rows / global batch) steps.
    """
    heights, widths = (tf.constant(index.columns[name]) for name in ("height", "width"))

    def plan(rows: tf.Tensor) -> tf.Tensor:
        rows = shown(rows)
        return crop.central_windows(tf.gather(heights, rows), tf.gather(widths, rows), config.eval_crop)

    ds, fetch = reader.evaluation_reader(config, index, share)
    ds = ds.map(lambda rows, payloads: (rows, payloads, plan(rows)))
    ds = ds.unbatch()
    ds = ds.map(_decoder(index, config, fetch), num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.batch(share.batch_size, drop_remainder=True)
    ds = ds.map(
        lambda images, labels: (images, tf.maximum(labels, 0), tf.cast(labels >= 0, tf.float32)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    ds = ds.prefetch(tf.data.AUTOTUNE)
    return ds.with_options(_options(config))


def shown(rows: tf.Tensor) -> tf.Tensor:
    """The rows whose images these are: row -1 - r shows r and does not count."""
    return tf.where(rows < 0, -1 - rows, rows)


def _seed(seed: int, use: int) -> int:
    return seed * USES + use


def _training_windows(
    index: Index, config: DataConfig, seed: int, share: Share
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(element, rows int64 [b]) -> crop windows int32 [b, 4]."""
    heights, widths = (tf.constant(index.columns[name]) for name in ("height", "width"))
    strength = config.augment.random_resized_crop

    def windows(element: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        h, w = tf.gather(heights, rows), tf.gather(widths, rows)
        if strength == 0:
            return crop.central_windows(h, w)
        return crop.random_windows(h, w, strength, order.uniforms(_seed(seed, CROP), element, share, crop.COLUMNS))

    return windows


def _decoder(index: Index, config: DataConfig, fetch: Callable[[tf.Tensor], tf.Tensor]) -> Callable:
    """(row, payload, window) -> (image uint8 [s, s, c], label int64 []); the label of a negative row is -1."""
    columns = {name: tf.constant(index.columns[name]) for name in ("kind", "label", "height", "width")}
    kinds = np.unique(index.columns["kind"]).tolist()

    def cropped(at: tf.Tensor, contents: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        if kinds != [RAW]:
            is_jpeg = kinds == [JPEG] if len(kinds) == 1 else columns["kind"][at] == JPEG
            return decode(contents, window, is_jpeg, config.image_size, config.channels)
        shape = [columns["height"][at], columns["width"][at], 3]
        y, x, height, width = tf.unstack(window)
        image = tf.reshape(tf.io.decode_raw(contents, tf.uint8), shape)[y : y + height, x : x + width]
        image = resize(image if config.channels == 3 else luma(image), config.image_size)
        return tf.ensure_shape(image, [config.image_size, config.image_size, config.channels])

    def decoded(row: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at = shown(row)
        image = cropped(at, fetch(payload), window)
        return image, tf.where(row < 0, tf.constant(-1, tf.int64), columns["label"][at])

    return decoded


def _augmented(config: DataConfig, seed: int, share: Share) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(element, images) -> images, changed as `config.augment` says."""
    change = augment.augmentation(config.augment)

    def augmented(element: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        if change is None:
            return images
        own = _seed(seed, AUGMENT)
        # A value that no step has, so that the key is not that of the uniforms.
        key = order.hashed(own, -1 - share.step(element), words=2)
        return change(images, order.uniforms(own, element, share, change.columns), key)

    return augmented


def _options(config: DataConfig) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = config.ram_budget_mb << 20
    options.threading.private_threadpool_size = config.threads or len(os.sched_getaffinity(0))
    return options
