"""Scaling of a window of a picture to the shape that a model sees: one definition for every kind of image.

exponents = count_halvings(windows[:, 2:], shapes)    # per batch: how often to halve each window first
image = scale(pixels, shape)                          # inside tf.data, per image
image = scale_part(average_blocks(pixels, exponent), part, shape)

A window that is much larger than the target is averaged over blocks of 2, 4 or 8 pixels a side first, which a JPEG
decoder does at no cost. Then it is interpolated, with averaging if it is still much larger than the target. The result
differs from Pillow's antialiased bilinear `Image.resize` by 0.5 to 1.5 gray levels for photographs of 500 pixels, and
by 0.1 to 0.2 for photographs of 12 megapixels (`benchmarks/speed/pixels.py`).
"""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf

Shape: TypeAlias = "tuple[int, int] | tf.Tensor"  # (height, width) in pixels
# A window is halved once, twice or three times if both of its sides are at least so many halves of the target's. What
# is left to scale, by 1.25, 1.5 and 2 at least, hides the grid of the blocks: halving as soon as it is possible differs
# from Pillow's result by up to 3.2 levels.
HALVES_FOR_HALVINGS = (5, 12, 32)
# Plain interpolation skips pixels if the window is this many times as large as the target, on average over both sides.
# Up to there it differs from antialiased scaling by less than 2 levels; averaging takes 1.8 times as long.
AVERAGE_FROM = 1.6


def count_halvings(extents: tf.Tensor, shapes: tf.Tensor) -> tf.Tensor:
    """How often windows are halved before they are interpolated, int32 [n], 0 to 3.

    Args:
      extents: int32 [n, 2], heights and widths of the windows.
      shapes: int32 [n, 2] or [1, 2], the shapes that they are scaled to.
    """
    enough = 2 * extents[:, None] >= shapes[:, None] * tf.constant(HALVES_FOR_HALVINGS)[None, :, None]
    return tf.reduce_sum(tf.cast(tf.reduce_all(enough, axis=2), tf.int32), axis=1)


def average_blocks(image: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """Averages blocks of 2^exponent pixels a side, uint8 [h, w, c] -> float32; the last blocks may be incomplete."""
    ratio = tf.bitwise.left_shift(1, exponent)
    size = tf.shape(image)[:2]
    blocks = (size + ratio - 1) // ratio
    excess = blocks * ratio - size
    # JPEG encoders fill the last blocks by repeating pixels, too.
    padded = tf.pad(image, [[0, excess[0]], [0, excess[1]], [0, 0]], "SYMMETRIC")
    return tf.raw_ops.ResizeArea(images=padded[None], size=blocks)[0]


def scale(image: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Scales a whole image with half-pixel centres, uint8 [h, w, c] -> uint8 [*shape, c].

    An image that is already of this shape is returned unchanged.
    """
    size, target = tf.shape(image)[:2], tf.convert_to_tensor(shape, tf.int32)
    scaled = tf.cond(
        tf.reduce_all(size == target),
        lambda: image,
        # Blends of bytes stay in their range, so adding 0.5 and truncating rounds them.
        lambda: tf.cast(
            tf.cond(
                tf.reduce_sum(size / target) < 2 * AVERAGE_FROM,
                lambda: _interpolate(image, target),
                lambda: tf.raw_ops.ResizeArea(images=image[None], size=target)[0],
            )
            + 0.5,
            tf.uint8,
        ),
    )
    return tf.ensure_shape(scaled, [*_static_sides(shape), image.shape[2]])


def _interpolate(image: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    # The kernel loads a whole pixel of floats at once, but each channel of bytes by itself: 0.10 ms at 224 pixels, the
    # cast included, against 0.15 ms.
    return tf.image.resize(tf.cast(image, tf.float32), target)


def scale_part(image: tf.Tensor, part: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Scales a part of an image, whose borders may lie between pixels, to uint8 [*shape, c], antialiased.

    Args:
      image: [h, w, c], values from 0 to 255.
      part: float32 (y, x, height, width) in pixels of `image`; at least as large as `shape`.
      shape: the shape of the result.
    """
    scales = tf.cast(shape, tf.float32) / part[2:]
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None],
        size=shape,
        scale=scales,
        translation=-part[:2] * scales,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.ensure_shape(tf.saturate_cast(scaled + 0.5, tf.uint8), [*_static_sides(shape), image.shape[2]])


def _static_sides(shape: Shape) -> list[int | None]:
    sides = tf.get_static_value(shape)
    return [None, None] if sides is None else [int(side) for side in sides]


def place_image(image: tf.Tensor, place: tf.Tensor, shape: Shape, background: tuple[int, int, int]) -> tf.Tensor:
    """Puts an image (uint8 [h, w, c]) on a background of a `shape`; `place` is int32 (top, left, h, w)."""
    top, left, height, width = tf.unstack(place)
    margins = [[top, shape[0] - top - height], [left, shape[1] - left - width], [0, 0]]
    red, green, blue = background
    color = background if image.shape[-1] == 3 else (round(0.299 * red + 0.587 * green + 0.114 * blue),)
    inside = tf.pad(tf.ones([height, width, 1], tf.bool), margins)
    return tf.where(inside, tf.pad(image, margins), tf.constant(color, tf.uint8))
