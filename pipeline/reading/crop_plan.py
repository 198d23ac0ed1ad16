"""Planning of a batch before it is decoded: the region of each image to decode, and which images to mirror.

plan = make_training_planner(index, config, source, crop_seed, augment_seed, replica_shard)
batch_numbers, rows, payloads, crops = plan(batch_number, rows, payloads)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.augment import chain
from evenkeel.pipeline.augment.geometry import FLIP_COLUMN
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.images import crop, scaling
from evenkeel.pipeline.images.exif import FIRST_TURNED, stored_windows
from evenkeel.pipeline.index import batch_draws
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading.augmenter import augmentation_draws
from evenkeel.pipeline.reading.byte_source import ByteSource

Crops = dict[str, tf.Tensor]
Plan = tuple[tf.Tensor, tf.Tensor, tf.Tensor, Crops]  # (numbers int64 [b], rows int64 [b], payloads [b], crops)


def make_training_planner(
    index: Index,
    config: DataConfig,
    source: ByteSource,
    crop_seed: int,
    augment_seed: int,
    replica_shard: ReplicaShard,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Plan]:
    """A function that plans a training batch: random resized crops, or `config.view` if random resized crops are off.

    (batch_number int64 [], rows int64 [b], payloads [b]) -> (batch_numbers int64 [b], rows, payloads, crops). `crops`
    are those of `make_crop_planner`. If flips are the only geometric augmentation, they also have `mirrored` (bool
    [b]): which images to flip as soon as they are decoded.
    """
    heights, widths = map(tf.constant, index.upright_sizes)
    model_aspect = config.image_shape[1] / config.image_shape[0]
    strength, plan_views = config.augment.random_resized_crop, _make_view_planner(index, config, source)
    plan_crops = make_crop_planner(index, config, source)

    def plan_random_crops(batch_number: tf.Tensor, rows: tf.Tensor) -> Crops:
        draws = batch_draws.uniforms(crop_seed, batch_number, replica_shard, crop.DRAWS_PER_IMAGE)
        height, width = tf.gather(heights, rows), tf.gather(widths, rows)
        aspects = width / height if config.view == "stretch" else model_aspect
        return plan_crops(rows, crop.random_windows(height, width, strength, draws, aspects))

    def plan_batch(batch_number: tf.Tensor, rows: tf.Tensor, payloads: tf.Tensor) -> Plan:
        crops = plan_random_crops(batch_number, rows) if strength else plan_views(rows)
        if chain.only_flips(config.augment):
            draws = augmentation_draws(config, augment_seed, batch_number, replica_shard)
            crops["mirrored"] = draws[:, FLIP_COLUMN] < config.augment.flip
        return tf.fill(tf.shape(rows), batch_number), rows, payloads, crops

    return plan_batch


def make_evaluation_planner(
    index: Index, config: DataConfig, source: ByteSource
) -> Callable[[tf.Tensor, tf.Tensor], Plan]:
    """A function that plans an evaluation batch: `config.view`, with `config.eval_crop` of both sides.

    (rows int64 [b], payloads [b]) -> (rows, rows, payloads, crops), in the format of a planned training batch without
    flips. A padding row gets the crop of the row that it repeats.
    """
    plan_views = _make_view_planner(index, config, source, config.eval_crop)
    return lambda rows, payloads: (rows, rows, payloads, plan_views(rows))


def _make_view_planner(
    index: Index, config: DataConfig, source: ByteSource, share: float = 1.0
) -> Callable[[tf.Tensor], Crops]:
    """A function (rows int64 [b]) -> the crops of `config.view`; `share` is the factor of both sides of a window."""
    heights, widths = map(tf.constant, index.upright_sizes)
    plan_crops = make_crop_planner(index, config, source, reaches_outside=config.view == "pad")

    def plan_views(rows: tf.Tensor) -> Crops:
        height, width = (tf.gather(sides, unpad_rows(rows)) for sides in (heights, widths))
        return plan_crops(rows, crop.view_windows(height, width, config.view, config.image_shape, share))

    return plan_views


def make_crop_planner(
    index: Index, config: DataConfig, source: ByteSource, reaches_outside: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], Crops]:
    """A function (rows int64 [b], windows int32 [b, 4] of upright images) -> how to cut the windows out of the files.

    `reaches_outside` says whether windows may reach beyond their images. The result has tensors for a whole batch, all
    of them about images as they are stored:

      regions: int [b, 5 or more], what to decode; `source.plan_reads` may append to the regions of
        `crop.decode_regions`.
      windows: int32 [b, 5], the method of `scaling.choose_methods` and the window (y, x, height, width) itself; only
        if methods other than plain interpolation may occur.
      places: int32 [b, 4], (top, left, height, width) of the image in the scaled window; only if windows may reach
        beyond their images.
    """
    all_heights, all_widths, all_orientations = (
        tf.constant(index.columns[name]) for name in ("height", "width", "orientation")
    )
    always_plain = can_always_interpolate(index, config)

    def plan_crops(rows: tf.Tensor, windows: tf.Tensor) -> Crops:
        rows = unpad_rows(rows)
        heights, widths = tf.gather(all_heights, rows), tf.gather(all_widths, rows)
        shapes = tf.constant([config.image_shape])
        if index.is_turned:
            orientations = tf.gather(all_orientations, rows)
            windows = stored_windows(windows, orientations, heights, widths)
            shapes = tf.where(orientations[:, None] >= FIRST_TURNED, shapes[:, ::-1], shapes)
        crops = {}
        if reaches_outside:
            windows, crops["places"] = crop.visible_parts(windows, heights, widths, shapes)
            shapes = crops["places"][:, 2:]
        regions, methods = crop.decode_regions(windows, heights, widths, shapes)
        if not always_plain:
            crops["windows"] = tf.concat([methods[:, None], windows], axis=1)
        return {"regions": source.plan_reads(rows, regions), **crops}

    return plan_crops


def can_always_interpolate(index: Index, config: DataConfig) -> bool:
    """Whether plain interpolation is enough for all windows: they are not much larger than the model's images."""
    # Windows are whole pixels, so their ratio may be a little larger.
    ratios = np.stack(index.upright_sizes, axis=1) / np.array(config.image_shape)
    largest = ratios.max(axis=1) if config.view == "pad" else ratios.min(axis=1)
    return bool(largest.max(initial=0) < 0.95 * scaling.AVERAGE_FROM)


def unpad_rows(rows: tf.Tensor) -> tf.Tensor:
    """Replaces each padding row -1 - r by the row r that it repeats; other rows stay unchanged."""
    return tf.where(rows < 0, -1 - rows, rows)
