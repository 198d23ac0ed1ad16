"""Encoded images as clients send them -> pixels as evaluation shows them to a model, inside of an exported graph.

    read = reader(size=32, channels=3, share=1.0, max_pixels=100_000_000)
    images, errors = read(contents)      # string [b] -> uint8 [b, s, s, c], string [b]

What cannot be read is black, says why, and spoils no other image of its batch. Read are JPEG, PNG and WebP: TensorFlow
2.21's decoders of BMP and of animated WebP use memory that is not theirs where a header lies, and nothing but a graph
stands between a client and them.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import (
    decode,
    decode_downscaled,
    decode_whole,
    is_jpeg,
    resize,
)
from evenkeel.pipeline.images.header import MAX_SCANS

UNREADABLE = "it is no JPEG, PNG or still WebP that decodes"
HEADER = 30  # bytes, in which PNG and WebP say how large an image is


def reader(
    size: int, channels: int, share: float, max_pixels: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function of string [b], b at least 1, with (images uint8 [b, size, size, channels], errors string [b]).

    An error is empty where there is none. Of an image the central square of `share` of the shorter side is shown; of
    what its header says is larger than `max_pixels` nothing is decoded.
    """
    black = tf.zeros([size, size, channels], tf.uint8)

    def tried(contents: tf.Tensor, work: Callable, instead: tuple[tf.Tensor | str, ...]) -> tuple[tf.Tensor, ...]:
        # An operation that fails ends a whole graph; only tf.data goes on after one.
        found = tf.data.Dataset.from_tensors(contents).map(work).ignore_errors()
        return found.concatenate(tf.data.Dataset.from_tensors(instead)).take(1).get_single_element()

    def one(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (count,) = tried(contents, lambda contents: (pixels(contents),), (tf.constant(0, tf.int64),))
        read = lambda contents: (shown(contents, size, channels, share), "")  # noqa: E731
        return tf.case(
            [
                (count == 0, lambda: (black, tf.constant(UNREADABLE))),
                (count > max_pixels, lambda: (black, tf.constant(f"it has more than {max_pixels} pixels"))),
            ],
            default=lambda: tried(contents, read, (black, UNREADABLE)),
        )

    def batch(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.data.Dataset.from_tensor_slices(contents).map(one, num_parallel_calls=tf.data.AUTOTUNE)
        pixels, errors = images.batch(tf.shape(contents, tf.int64)[0]).get_single_element()
        return tf.ensure_shape(pixels, [None, size, size, channels]), tf.ensure_shape(errors, [None])

    return batch


def shown(contents: tf.Tensor, size: int, channels: int, share: float) -> tf.Tensor:
    """uint8 [size, size, channels]: one encoded image as `build.evaluation_batches` shows it."""

    def jpeg() -> tf.Tensor:
        height, width = tf.unstack(tf.image.extract_jpeg_shape(contents)[None, :2], axis=1)
        windows = crop.central_windows(height, width, share)
        region = crop.decode_regions(windows, height, width, size, tf.constant([True]))[0]
        return tf.cond(
            region[4] > 0,
            lambda: decode_downscaled(contents, region, size, channels),
            lambda: decode(contents, region[:4], True, size, channels),
        )

    def other() -> tf.Tensor:
        image = decode_whole(contents, channels)
        height, width = tf.shape(image)[:1], tf.shape(image)[1:2]
        y, x, tall, wide = tf.unstack(crop.central_windows(height, width, share)[0])
        return tf.ensure_shape(resize(image[y : y + tall, x : x + wide], size), [size, size, channels])

    return tf.cond(is_jpeg(contents), jpeg, other)


def pixels(contents: tf.Tensor) -> tf.Tensor:
    """int64 []: how many an image has by its header; 0 where it must not reach a decoder.

    Offsets are those of the PNG (ISO/IEC 15948) and WebP (RFC 9649) specifications.

    Raises:
      tf.errors.InvalidArgumentError: it begins as a JPEG and has no header of one.
    """
    start = tf.strings.substr(contents + b"\0" * HEADER, 0, HEADER)
    at = tf.cast(tf.ensure_shape(tf.io.decode_raw(start, tf.uint8), [HEADER]), tf.int64)

    def number(first: int, count: int) -> tf.Tensor:
        return tf.add_n([at[first + place] * 256**place for place in range(count)])

    def largest_first(first: int) -> tf.Tensor:
        return tf.add_n([at[first + place] * 256 ** (3 - place) for place in range(4)])

    def begins(magic: bytes, first: int = 0) -> tf.Tensor:
        return tf.strings.substr(start, first, len(magic)) == magic

    def of_jpeg() -> tf.Tensor:
        few = tf.size(tf.strings.split(contents, b"\xff\xda", maxsplit=MAX_SCANS + 1)) <= MAX_SCANS + 1
        sides = tf.cast(tf.image.extract_jpeg_shape(contents)[:2], tf.int64)
        return tf.where(few, tf.reduce_prod(sides), tf.constant(0, tf.int64))

    sides = 1 << 14  # in WebP's 14 bits
    webp, bits, still = begins(b"RIFF") & begins(b"WEBP", 8), number(21, 4), at[20] // 2 % 2 == 0
    cases = [
        (begins(b"\x89PNG\r\n\x1a\n") & begins(b"IHDR", 12), largest_first(16) * largest_first(20)),
        (webp & begins(b"VP8X", 12) & still, (1 + number(24, 3)) * (1 + number(27, 3))),
        (webp & begins(b"VP8L", 12), (1 + bits % sides) * (1 + bits // sides % sides)),
        (webp & begins(b"VP8 ", 12), (number(26, 2) % sides) * (number(28, 2) % sides)),
    ]
    of_others = tf.reduce_sum(tf.stack([tf.where(found, count, tf.zeros_like(count)) for found, count in cases]))
    return tf.cond(is_jpeg(contents), of_jpeg, lambda: of_others)
