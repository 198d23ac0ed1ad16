"""Augmentation of a batch: draws its random numbers and applies the augmentation chain.

augment = make_batch_augmenter(config, augment_seed, replica_shard)
images, labels = augment(batch_numbers, images, labels)
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline.augment import chain
from evenkeel.pipeline.augment.geometry import CROP_X_COLUMN, CROP_Y_COLUMN, FLIP_COLUMN
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.index import batch_draws, shuffle
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading.small_images import SmallImages

Augmenter = Callable[..., tuple[tf.Tensor, tf.Tensor]]


def make_batch_augmenter(config: DataConfig, seed: int, replica_shard: ReplicaShard) -> Augmenter:
    """A function that augments decoded images: (batch_numbers int64 [b], images, labels) -> (images, labels)."""
    augmentation = chain.build_augmentation(config.augment, chain.only_flips(config.augment))

    def augment_batch(batch_numbers: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch_number = batch_numbers[0]
        draws = augmentation_draws(config, seed, batch_number, replica_shard)
        return _apply(augmentation, images, draws, seed, batch_number, replica_shard), labels

    return augment_batch


def make_copying_augmenter(
    small_images: SmallImages, index: Index, config: DataConfig, seed: int, replica_shard: ReplicaShard
) -> Augmenter:
    """A function that copies a batch from the cache and augments it: (batch_number, rows) -> (images, labels).

    The copy itself does the flips and the crops by whole pixels.
    """
    augmentation = chain.build_augmentation(config.augment, chain.moves_whole_pixels(config.augment))
    labels, cells = tf.constant(index.columns["label"]), 2 * small_images.border + 1

    def copy_and_augment(batch_number: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draws = augmentation_draws(config, seed, batch_number, replica_shard)
        mirrored = (
            draws[:, FLIP_COLUMN] < config.augment.flip if small_images.mirrored else tf.zeros_like(rows, tf.bool)
        )
        top = (
            tf.cast(tf.cast(draws[:, CROP_Y_COLUMN], tf.float64) * cells, tf.int64)
            if small_images.border
            else tf.zeros_like(rows)
        )
        cell_starts = batch_draws.cell_starts(batch_number, replica_shard, cells)
        cell_lefts = batch_draws.permutation(seed, batch_number, replica_shard, cells)
        images = small_images.copy_batch(rows, mirrored, top, cell_starts, cell_lefts)
        batch_labels = tf.gather(labels, rows)
        return _apply(augmentation, images, draws, seed, batch_number, replica_shard), batch_labels

    return copy_and_augment


def _apply(
    augmentation: Callable[..., tf.Tensor] | None,
    images: tf.Tensor,
    draws: tf.Tensor,
    seed: int,
    batch_number: tf.Tensor,
    replica_shard: ReplicaShard,
) -> tf.Tensor:
    if augmentation is None:
        return images
    # No step has the number -1 - step, so this key differs from the key of the uniform draws.
    key = shuffle.hash_words(seed, -1 - replica_shard.step(batch_number), words=2)
    return augmentation(images, draws, key)


def augmentation_draws(
    config: DataConfig, seed: int, batch_number: tf.Tensor, replica_shard: ReplicaShard
) -> tf.Tensor:
    """Uniform random numbers for `chain.build_augmentation`, float32 [batch_size, columns] in [0, 1).

    Horizontal crop offsets are stratified. The global batch is split into as many cells as there are offsets. All
    images of a cell get the same offset, and each step assigns the offsets to the cells at random. So a cached image
    can be cropped by copying whole lines.
    """
    augmentation = chain.build_augmentation(config.augment)
    draws = batch_draws.uniforms(seed, batch_number, replica_shard, augmentation.draw_columns if augmentation else 1)
    if config.augment.pad_crop:
        cells = 2 * config.augment.pad_crop + 1
        offset_of_cell = batch_draws.permutation(seed, batch_number, replica_shard, cells)
        offsets = tf.gather(offset_of_cell, batch_draws.cells(batch_number, replica_shard, cells))
        crop_x = (tf.cast(offsets, tf.float32) + 0.5) / cells
        draws = tf.concat([draws[:, :CROP_X_COLUMN], crop_x[:, None], draws[:, CROP_X_COLUMN + 1 :]], axis=1)
    return draws
