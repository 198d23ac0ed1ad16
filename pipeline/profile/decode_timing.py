"""Times decoding alone: with the bare decoder, and with each storage tier instead of the source's files.

floor_ms, tier_fractions = time_decoding(data, config, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import decode, decode_crop, decode_whole
from evenkeel.pipeline.images.scaling import scale
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
    now_ms = time_map(
        lambda contents, window, jpeg: decode(contents, window, jpeg, shape, channels),
        *contents_as_read(index, files, windows),
        is_jpeg,
    )
    decoded = [decode_whole(contents, channels=3) for contents in files]
    images = [shrink_to_side(image, tf.shape(image)[:2], side, "shorter").numpy() for image in decoded]
    shapes = np.array([image.shape for image in images], np.int32)
    windows = crop_windows(shapes[:, 0], shapes[:, 1])
    encoded = [tf.io.encode_jpeg(image, quality=JPEG_QUALITY).numpy() for image in images]
    jpeg_ms = time_map(lambda contents, window: decode(contents, window, True, shape, channels), encoded, windows)

    def crop_pixels(contents: tf.Tensor, image_shape: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        y, x, height, width = tf.unstack(window)
        return scale(
            tf.reshape(tf.io.decode_raw(contents, tf.uint8), image_shape)[y : y + height, x : x + width], shape
        )

    raw_ms = time_map(crop_pixels, [image.tobytes() for image in images], shapes, windows)
    return floor_ms, {f"raw:{side}": raw_ms / now_ms, f"jpeg:{side}:{JPEG_QUALITY}": jpeg_ms / now_ms}


def contents_as_read(index: Index, files: list[bytes], windows: tf.Tensor) -> tuple[list[bytes], np.ndarray]:
    """The bytes that the decoder gets for each row, and the window in them; with a seek index, a part of the file."""
    if index.seek_arrays is None:
        return files, windows.numpy()
    source, rows = mapped_source(index), tf.range(len(index), dtype=tf.int64)
    regions = source.plan_reads(rows, tf.pad(windows, [[0, 0], [0, 1]]))
    contents = [source.read_bytes(row, region).numpy() for row, region in zip(rows, regions, strict=True)]
    return contents, tf.cast(regions[:, :4], tf.int32).numpy()
