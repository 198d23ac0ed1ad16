"""Decoding of a batch: payloads and the regions to decode -> images of the model's size.

plan_crops = make_crop_planner(index, config, source)    # see crop_plan
decode = make_batch_decoder(index, config, source, replica_shard)
batch_numbers, images, labels = decode(batch_numbers, rows, payloads, plan_crops(rows, windows))
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.config import DataConfig, parse_color
from evenkeel.pipeline.images.decode import decode_crop, decode_region, full_size_region, luma, scale_pixels
from evenkeel.pipeline.images.exif import FIRST_TURNED, turn_upright
from evenkeel.pipeline.images.raw_resize import make_raw_resizer
from evenkeel.pipeline.images.scaling import PLAIN, Shape, place_image
from evenkeel.pipeline.index.index import JPEG, OTHER, RAW, Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading.byte_source import ByteSource
from evenkeel.pipeline.reading.crop_plan import Crops, can_always_interpolate, unpad_rows
from evenkeel.pipeline.system.cpu import cores


def make_batch_decoder(
    index: Index, config: DataConfig, source: ByteSource, replica_shard: ReplicaShard
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """A function that decodes a batch that `crop_plan` has planned.

    (batch_numbers int64 [b], rows int64 [b], payloads [b], crops) -> (batch_numbers, images uint8 [b, h, w, c], labels
    int64 [b]); the label of a padding row (below 0) is -1.
    """
    labels = tf.constant(index.columns["label"])
    decode_images = (
        _make_raw_decoder(index, config, source)
        if _can_interpolate_together(index, config, source)
        else _make_mixed_decoder(index, config, source, images_in_parallel(config, replica_shard))
    )

    def decode_batch(
        batch_numbers: tf.Tensor, rows: tf.Tensor, payloads: tf.Tensor, crops: Crops
    ) -> tuple[tf.Tensor, ...]:
        stored_rows = unpad_rows(rows)
        images = decode_images(stored_rows, payloads, crops)
        batch_labels = tf.where(rows < 0, tf.constant(-1, tf.int64), tf.gather(labels, stored_rows))
        return batch_numbers, tf.ensure_shape(images, [replica_shard.batch_size, *images.shape[1:]]), batch_labels

    return decode_batch


def images_in_parallel(config: DataConfig, replica_shard: ReplicaShard) -> int:
    """The number of images of one batch that are decoded in parallel, so that all threads have work.

    As many batches are decoded in parallel as there are threads, if `ram_budget_mb` has room for four times as many
    batches: each batch is in memory image by image and then as a whole, and more batches wait in buffers. Otherwise
    fewer batches are decoded in parallel, and the threads share the images of each batch.
    """
    threads = config.threads or cores()
    batch_bytes = replica_shard.batch_size * math.prod(config.image_shape) * config.channels
    batches = min(threads, max(1, (config.ram_budget_mb << 20) // (4 * batch_bytes)))
    return -(-threads // batches)


def _can_interpolate_together(index: Index, config: DataConfig, source: ByteSource) -> bool:
    """Whether all images lie in one memory as pixels, and plain interpolation is enough to scale them."""
    all_raw = source.locate_pixels is not None and (index.columns["kind"] == RAW).all() and not index.is_turned
    return bool(all_raw and config.view != "pad" and can_always_interpolate(index, config))


def _make_raw_decoder(index: Index, config: DataConfig, source: ByteSource) -> Callable[..., tf.Tensor]:
    """A function (rows, payloads, crops) -> images, for images that all lie in one memory as pixels.

    It crops the regions out of the memory and interpolates them, all images of a batch in one operation.
    """
    columns, channels, locate_pixels = index.columns, source.channels, source.locate_pixels
    assert locate_pixels is not None
    pixels = columns["height"].astype(np.int64) * columns["width"]
    max_bytes = int(pixels.max(initial=1)) * channels
    resize_windows = make_raw_resizer(max_bytes, config.image_shape, channels)
    widths = tf.constant(columns["width"])

    def decode_images(rows: tf.Tensor, payloads: tf.Tensor, crops: Crops) -> tf.Tensor:
        memory, offsets = locate_pixels(payloads)
        windows = crops["regions"][:, :4]
        images = resize_windows(memory, offsets, tf.gather(widths, rows), windows, crops.get("mirrored"))
        return _convert_channels(images, config.channels)

    return decode_images


def _make_mixed_decoder(
    index: Index, config: DataConfig, source: ByteSource, parallel_images: int
) -> Callable[..., tf.Tensor]:
    """A function (rows, payloads, crops) -> images, for any kinds of images.

    One call decodes all images of the batch in a loop, `parallel_images` at a time. Waking a thread for each image
    would take 6% of the CPU time of the image.
    """
    shape, channels = config.image_shape, config.channels
    background = parse_color("data.background", config.background)
    heights, widths = tf.constant(index.columns["height"]), tf.constant(index.columns["width"])
    orientations, bits = tf.constant(index.columns["orientation"]), index.sample_bits

    def unpack(crop: Crops) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | int]:
        """(region, window, method)"""
        numbers = crop["numbers"]
        return numbers[:5], numbers[6:], PLAIN if numbers.shape[0] == 5 else numbers[5]

    def decode_encoded(is_jpeg: bool, row: tf.Tensor, crop: Crops) -> tf.Tensor:
        contents = source.read_bytes(crop["payloads"], crop["regions"])
        return decode_region(contents, *unpack(crop), is_jpeg, crop["shapes"], channels, background, bits)

    def scale_raw(row: tf.Tensor, crop: Crops) -> tf.Tensor:
        region, window, method = unpack(crop)
        size = tf.stack([heights[row], widths[row]])
        pixels = source.read_window(crop["payloads"], full_size_region(region, size), heights[row], widths[row])
        return scale_pixels(_convert_channels(pixels, channels), region, window, method, crop["shapes"])

    functions: dict[int, Callable[..., tf.Tensor]] = {
        OTHER: functools.partial(decode_encoded, False),
        JPEG: functools.partial(decode_encoded, True),
        RAW: scale_raw,
    }
    decode_kind, turn = _switch_on_kind(index, functions), _make_turn(index)

    def stored_shape(row: tf.Tensor) -> Shape:
        """The shape of the model's images, turned like the stored image of the row."""
        if not index.is_turned or shape[0] == shape[1]:
            return shape
        return tf.where(orientations[row] >= FIRST_TURNED, shape[::-1], shape)

    def decode_image(crop: Crops) -> tf.Tensor:
        row, whole_shape = crop["rows"], stored_shape(crop["rows"])
        if "places" in crop:
            image = decode_kind(row, {**crop, "shapes": crop["places"][2:]})
            image = place_image(image, crop["places"], whole_shape, background)
        else:
            image = decode_kind(row, {**crop, "shapes": whole_shape})
        image = tf.ensure_shape(turn(row, image), [*shape, channels])
        if "mirrored" not in crop:
            return image
        # This takes 0.03 ms less than splitting the batch in two and stitching it together again.
        return tf.cond(crop["mirrored"], lambda: tf.reverse(image, [1]), lambda: image)

    def decode_images(rows: tf.Tensor, payloads: tf.Tensor, crops: Crops) -> tf.Tensor:
        # tf.slice keeps the static length 5; `regions[:, :5]` loses it if the length of a region is unknown.
        regions = tf.cast(tf.slice(crops["regions"], [0, 0], [-1, 5]), tf.int32)
        elements = {**crops, "rows": rows, "payloads": payloads, "numbers": regions}
        if "windows" in crops:  # one tensor, because every one more costs time for each image
            elements["numbers"] = tf.concat([regions, elements.pop("windows")], axis=1)
        spec = tf.TensorSpec([*shape, channels], tf.uint8)
        return tf.map_fn(decode_image, elements, parallel_iterations=parallel_images, fn_output_signature=spec)

    return decode_images


def make_whole_decoder(
    index: Index, config: DataConfig, source: ByteSource
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function (row, payload) -> the whole upright image in its own size, uint8 [h, w, c]."""
    heights, widths = tf.constant(index.columns["height"]), tf.constant(index.columns["width"])
    channels, background = config.channels, parse_color("data.background", config.background)

    def decode_encoded(is_jpeg: bool, row: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        return decode_crop(source.read_bytes(payload), window, is_jpeg, channels, background, index.sample_bits)

    def read_raw(row: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        return _convert_channels(source.read_window(payload, window, heights[row], widths[row]), channels)

    functions: dict[int, Callable[..., tf.Tensor]] = {
        OTHER: functools.partial(decode_encoded, False),
        JPEG: functools.partial(decode_encoded, True),
        RAW: read_raw,
    }
    decode_kind, turn = _switch_on_kind(index, functions), _make_turn(index)

    def decode_whole_image(row: tf.Tensor, payload: tf.Tensor) -> tf.Tensor:
        return turn(row, decode_kind(row, payload, tf.stack([0, 0, heights[row], widths[row]])))

    return decode_whole_image


def _switch_on_kind(index: Index, functions: dict[int, Callable[..., tf.Tensor]]) -> Callable[..., tf.Tensor]:
    """A function (row, ...) that calls the function for the kind of the row.

    The graph holds only the functions of kinds that occur.
    """
    kinds, present = tf.constant(index.columns["kind"], tf.int32), np.unique(index.columns["kind"]).tolist()
    if len(present) == 1:
        return functions[present[0]]
    return lambda row, *arguments: tf.switch_case(
        kinds[row], {kind: functools.partial(functions[kind], row, *arguments) for kind in present}
    )


def _make_turn(index: Index) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function (row, image) -> the upright image; without an operation if all images of the index are upright."""
    if not index.is_turned:
        return lambda row, image: image
    orientations = tf.constant(index.columns["orientation"])
    return lambda row, image: turn_upright(image, orientations[row])


def _convert_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Converts stored pixels to `channels` channels: colour becomes luma if `channels` is 1."""
    return luma(images) if images.shape[-1] == 3 and channels == 1 else images
