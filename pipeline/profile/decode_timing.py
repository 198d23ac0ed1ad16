"""Times decoding alone: with the bare decoder, and with each storage tier instead of the source's files.

floor_ms, tier_fractions = time_decoding(data, config, seed=0)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import decode_crop, decode_region, decode_whole, scale_region
from evenkeel.pipeline.index.index import JPEG, RAW, Index
from evenkeel.pipeline.prepare.storage_format import shrink_to_side
from evenkeel.pipeline.profile.chain_timing import with_options
from evenkeel.pipeline.profile.timing import time_per_image
from evenkeel.pipeline.reading import reader
from evenkeel.pipeline.reading.byte_source import mapped_source
from evenkeel.pipeline.reading.tf_data_options import tf_data_options

SAMPLE_IMAGES = 64
JPEG_QUALITY = 90
SIDE_MARGIN = 8 / 7  # shorter side of a stored image / side of a random crop: usual for ImageNet, 256 / 224


def sample_rows(index: Index, seed: int) -> Index:
    """Selects `SAMPLE_IMAGES` random rows of `index`."""
    return index.take(np.random.default_rng(seed).permutation(len(index))[:SAMPLE_IMAGES])


def time_decoding(data: Dataset, config: DataConfig, seed: int) -> tuple[float, dict[str, float]]:
    """Times decoding; returns (ms of CPU per image of the bare decoder, {tier: remaining fraction of the decode time}).

    Both are measured on a sample of the training images, which is re-encoded in memory for the tiers. If the source
    stores pixels, the decoder takes 0 ms and there are no tiers. If its images are small, there are no tiers either.
    """
    shape, channels, strength = config.image_shape, config.channels, config.augment.random_resized_crop
    index = sample_rows(data.train, seed)
    count, kinds = len(index), index.columns["kind"]
    if (kinds == RAW).any():
        return 0.0, {}
    files = list(reader.make_record_reader(index)(tf.range(count, dtype=tf.int64)).as_numpy_iterator())
    options = tf_data_options(config)

    def crop_windows(heights: np.ndarray, widths: np.ndarray) -> tf.Tensor:
        if not strength:
            return crop.view_windows(tf.constant(heights), tf.constant(widths), "center", shape)
        draws = tf.random.stateless_uniform([count, crop.DRAWS_PER_IMAGE], [seed, 0])
        return crop.random_windows(tf.constant(heights), tf.constant(widths), strength, draws)

    def time_map(function: Callable[..., tf.Tensor], *columns: Any) -> float:
        images = tf.data.Dataset.from_tensor_slices(columns).cache()
        chain = lambda n: images.repeat(n).map(function, num_parallel_calls=tf.data.AUTOTUNE)  # noqa: E731
        return time_per_image(with_options(chain, options), count, count).cpu

    heights, widths = index.columns["height"], index.columns["width"]
    windows, is_jpeg = crop_windows(heights, widths), kinds == JPEG
    decode_bare = lambda contents, window, jpeg: tf.cond(  # noqa: E731
        jpeg, lambda: decode_crop(contents, window, True, channels=3), lambda: decode_whole(contents, channels=3)
    )
    floor_ms = time_map(decode_bare, files, windows, is_jpeg)
    side = round(max(shape) * SIDE_MARGIN) if strength else max(shape)
    if np.median(np.minimum(heights, widths)) <= side:
        return floor_ms, {}

    def plan(windows: tf.Tensor, sizes: np.ndarray) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        regions, methods = crop.decode_regions(windows, sizes[:, 0], sizes[:, 1], tf.constant([shape]))
        return regions, windows, methods

    def decode(
        jpeg: tf.Tensor, contents: tf.Tensor, region: tf.Tensor, window: tf.Tensor, method: tf.Tensor
    ) -> tf.Tensor:
        decode_kind = functools.partial(decode_region, contents, region, window, method)
        return tf.cond(jpeg, *(functools.partial(decode_kind, kind, shape, channels) for kind in (True, False)))

    regions, *window_and_method = plan(windows, np.stack([heights, widths], axis=1))
    now_ms = time_map(decode, is_jpeg, *contents_as_read(index, files, regions), *window_and_method)
    decoded = [decode_whole(contents, channels=3) for contents in files]
    images = [shrink_to_side(image, tf.shape(image)[:2], side, "shorter").numpy() for image in decoded]
    shapes = np.array([image.shape for image in images], np.int32)
    planned = plan(crop_windows(shapes[:, 0], shapes[:, 1]), shapes)
    encoded = [tf.io.encode_jpeg(image, quality=JPEG_QUALITY).numpy() for image in images]
    jpeg_ms = time_map(decode, np.ones(count, bool), encoded, *planned)

    def scale_pixels(
        contents: tf.Tensor, image_shape: tf.Tensor, region: tf.Tensor, window: tf.Tensor, method: tf.Tensor
    ) -> tf.Tensor:
        image = tf.reshape(tf.io.decode_raw(contents, tf.uint8), tf.ensure_shape(image_shape, [3]))
        return scale_region(tf.ensure_shape(image, [None, None, 3]), region, window, method, shape)

    raw_ms = time_map(scale_pixels, [image.tobytes() for image in images], shapes, *planned)
    return floor_ms, {f"raw:{side}": raw_ms / now_ms, f"jpeg:{side}:{JPEG_QUALITY}": jpeg_ms / now_ms}


def contents_as_read(index: Index, files: list[bytes], regions: tf.Tensor) -> tuple[list[bytes], np.ndarray]:
    """The bytes that the decoder gets for each row, and the region in them; with a seek index, a part of the file."""
    if index.seek_arrays is None:
        return files, regions.numpy()
    source, rows = mapped_source(index), tf.range(len(index), dtype=tf.int64)
    plans = source.plan_reads(rows, regions)
    contents = [source.read_bytes(row, plan).numpy() for row, plan in zip(rows, plans, strict=True)]
    return contents, tf.cast(plans[:, :5], tf.int32).numpy()
