"""Decoding inside an exported graph: encoded images from clients -> pixels as evaluation shows them to the model.

    read = image_reader(config)
    images, errors = read(contents)      # string [b] -> uint8 [b, h, w, c], string [b]

An image that cannot be read becomes black, with an error message; the other images of its batch are not affected.
JPEG, PNG, BMP, GIF (the first frame) and still WebP are accepted. Only this graph stands between a client and the
decoders, some of which access memory out of bounds if a header is false: `pixel_count` checks the header first.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline.config import DataConfig, parse_color
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import decode_region, decode_whole, is_jpeg, scale_region
from evenkeel.pipeline.images.exif import FIRST_TURNED, find_orientation, stored_windows, turn_upright
from evenkeel.pipeline.images.sample_bits import ALL_BITS
from evenkeel.pipeline.images.scaling import place_image
from evenkeel.pipeline.reading.pixel_count import pixel_count

UNREADABLE = "it is not a JPEG, PNG, BMP, GIF or still WebP that can be decoded"


def image_reader(config: DataConfig, sample_bits: int = ALL_BITS) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function contents string [b] -> (images uint8 [b, *image_shape, channels], errors string [b]), b at least 1.

    The error of a readable image is empty. Images are shown as `build.evaluation_batches` shows them. An image with
    more than `config.max_pixels` pixels by its header is not decoded. The samples of 16-bit files are taken to hold
    `sample_bits` bits.
    """
    shape, max_pixels = (*config.image_shape, config.channels), config.max_pixels
    black = tf.zeros(shape, tf.uint8)

    def try_or_default(
        contents: tf.Tensor, function: Callable, default: tuple[tf.Tensor | str, ...]
    ) -> tuple[tf.Tensor, ...]:
        # A failing operation ends the whole graph; only tf.data can continue after an error.
        result = tf.data.Dataset.from_tensors(contents).map(function).ignore_errors()
        return result.concatenate(tf.data.Dataset.from_tensors(default)).take(1).get_single_element()

    def read_one(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (count,) = try_or_default(contents, lambda contents: (pixel_count(contents),), (tf.constant(0, tf.int64),))
        read = lambda contents: (decode_for_evaluation(contents, config, sample_bits), "")  # noqa: E731
        return tf.case(
            [
                (count == 0, lambda: (black, tf.constant(UNREADABLE))),
                (count > max_pixels, lambda: (black, tf.constant(f"it has more than {max_pixels} pixels"))),
            ],
            default=lambda: try_or_default(contents, read, (black, UNREADABLE)),
        )

    @tf.autograph.experimental.do_not_convert  # a conversion takes seconds, and there is nothing to convert
    def read_batch(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        results = tf.data.Dataset.from_tensor_slices(contents).map(read_one, num_parallel_calls=tf.data.AUTOTUNE)
        images, errors = results.batch(tf.shape(contents, tf.int64)[0]).get_single_element()
        return tf.ensure_shape(images, [None, *shape]), tf.ensure_shape(errors, [None])

    return read_batch


def decode_for_evaluation(contents: tf.Tensor, config: DataConfig, sample_bits: int = ALL_BITS) -> tf.Tensor:
    """Decodes one image to uint8 [*image_shape, channels], as `build.evaluation_batches` does."""
    shape, channels, background = config.image_shape, config.channels, parse_color("data.background", config.background)
    orientation = find_orientation(contents)
    turned = orientation >= FIRST_TURNED
    stored_shape = shape if shape[0] == shape[1] else tf.where(turned, shape[::-1], shape)

    def plan(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """(region, window, method, place) as in `crop_plan.make_crop_planner`; the stored sizes are int32 [1]."""
        upright = tf.where(turned, width, height), tf.where(turned, height, width)
        windows = crop.view_windows(*upright, config.view, shape, config.eval_crop)
        windows = stored_windows(windows, orientation[None], height, width)
        windows, places = crop.visible_parts(windows, height, width, tf.convert_to_tensor(stored_shape)[None])
        regions, methods = crop.decode_regions(windows, height, width, places[:, 2:])
        return regions[0], windows[0], methods[0], places[0]

    def decode_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        height, width = tf.unstack(tf.image.extract_jpeg_shape(contents)[None, :2], axis=1)
        region, window, method, place = plan(height, width)
        return decode_region(contents, region, window, method, True, place[2:], channels), place

    def decode_other() -> tuple[tf.Tensor, tf.Tensor]:
        image = decode_whole(contents, channels, background, sample_bits)
        region, window, method, place = plan(tf.shape(image)[:1], tf.shape(image)[1:2])
        return scale_region(image, region, window, method, place[2:]), place

    image, place = tf.cond(is_jpeg(contents), decode_jpeg, decode_other)
    image.set_shape([None, None, channels])
    return tf.ensure_shape(
        turn_upright(place_image(image, place, stored_shape, background), orientation), [*shape, channels]
    )
