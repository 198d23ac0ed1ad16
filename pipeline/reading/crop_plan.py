"""Planning of a batch before it is decoded: the region of each image to decode, and which images to mirror.

plan = make_training_planner(index, config, source, crop_seed, augment_seed, replica_shard)
batch_numbers, mirrored, rows, payloads, regions = plan(batch_number, rows, payloads)
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline.augment import chain
from evenkeel.pipeline.augment.geometry import FLIP_COLUMN
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.index import batch_draws
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading.augmenter import augmentation_draws
from evenkeel.pipeline.reading.byte_source import ByteSource
from evenkeel.pipeline.reading.decoder import make_region_planner, unpad_rows


def make_training_planner(
    index: Index,
    config: DataConfig,
    source: ByteSource,
    crop_seed: int,
    augment_seed: int,
    replica_shard: ReplicaShard,
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """A function that plans a training batch: random resized crops, or central squares if random resized crops are off.

    (batch_number int64 [], rows int64 [b], payloads [b]) -> (batch_numbers int64 [b], mirrored bool [b], rows,
    payloads, regions). If flips are the only geometric augmentation, `mirrored` says which images to flip as soon as
    they are decoded; otherwise it is None.
    """
    heights, widths = map(tf.constant, index.upright_sizes)
    strength, central_windows = config.augment.random_resized_crop, _make_central_windows(index)
    plan_regions = make_region_planner(index, config, source)

    def plan_batch(batch_number: tf.Tensor, rows: tf.Tensor, payloads: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if strength == 0:
            windows = central_windows(rows)
        else:
            draws = batch_draws.uniforms(crop_seed, batch_number, replica_shard, crop.DRAWS_PER_IMAGE)
            windows = crop.random_windows(tf.gather(heights, rows), tf.gather(widths, rows), strength, draws)
        mirrored = None
        if chain.only_flips(config.augment):
            draws = augmentation_draws(config, augment_seed, batch_number, replica_shard)
            mirrored = draws[:, FLIP_COLUMN] < config.augment.flip
        return tf.fill(tf.shape(rows), batch_number), mirrored, rows, payloads, plan_regions(rows, windows)

    return plan_batch


def make_evaluation_planner(
    index: Index, config: DataConfig, source: ByteSource
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """A function that plans an evaluation batch: central squares of side `config.eval_crop` times the shorter side.

    (rows int64 [b], payloads [b]) -> (rows, None, rows, payloads, regions), in the format of a planned training batch
    without flips. A padding row gets the region of the row that it repeats.
    """
    central_windows = _make_central_windows(index, config.eval_crop)
    plan_regions = make_region_planner(index, config, source)
    return lambda rows, payloads: (rows, None, rows, payloads, plan_regions(rows, central_windows(rows)))


def _make_central_windows(index: Index, side_fraction: float = 1.0) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function (rows int64 [b]) -> central square windows, int32 [b, 4].

    The side of a window is `side_fraction` times the shorter side of the image.
    """
    heights, widths = map(tf.constant, index.upright_sizes)

    def central_windows(rows: tf.Tensor) -> tf.Tensor:
        rows = unpad_rows(rows)
        return crop.central_windows(tf.gather(heights, rows), tf.gather(widths, rows), side_fraction)

    return central_windows
