"""Scaling of a window of a picture to the shape that a model sees: one definition for every kind of image.

exponents = count_halvings(extents, shapes)           # per batch: how often to halve each window first
methods = choose_methods(extents, shapes, exponents)
image = scale(pixels, shape, method)                  # inside tf.data, per image
image = scale_halved(average_blocks(pixels, exponent), window, exponent, shape)

A window that is much larger than the target is averaged over blocks of 2, 4 or 8 pixels a side first, which a JPEG
decoder does at no cost. Then it is interpolated, with averaging if it is still much larger than the target. The result
differs from Pillow's antialiased bilinear `Image.resize` by 0.5 to 1.6 gray levels for photographs of 500 pixels, and
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
PLAIN, AVERAGED, HALVED = range(3)  # how a window is scaled
# Windows are averaged if both of their sides are at least this many times those of the target: plain interpolation
# would skip pixels and differ from Pillow's result by more than 2 levels. Averaging takes 1.8 times as long. It is
# needed for the central square of a photograph of 500 x 375 pixels at 224 pixels, and for 8% of its random crops.
AVERAGE_FROM = 1.6


def count_halvings(extents: tf.Tensor, shapes: tf.Tensor) -> tf.Tensor:
    """How often windows are halved before they are interpolated, int32 [n], 0 to 3.

    Args:
      extents: int32 [n, 2], heights and widths of the windows.
      shapes: int32 [n, 2] or [1, 2], the shapes that they are scaled to.
    """
    enough = 2 * extents[:, None] >= shapes[:, None] * tf.constant(HALVES_FOR_HALVINGS)[None, :, None]
    return tf.reduce_sum(tf.cast(tf.reduce_all(enough, axis=2), tf.int32), axis=1)


def choose_methods(extents: tf.Tensor, shapes: tf.Tensor, exponents: tf.Tensor) -> tf.Tensor:
    """How each window is scaled, int32 [n]: PLAIN, AVERAGED, or HALVED if its exponent (int32 [n]) is above 0."""
    averaged = tf.reduce_min(extents / shapes, axis=1) >= AVERAGE_FROM
    return tf.where(exponents > 0, HALVED, tf.where(averaged, AVERAGED, PLAIN))


def scale(image: tf.Tensor, shape: Shape, method: int) -> tf.Tensor:
    """Scales a whole image with half-pixel centres, uint8 [h, w, c] -> uint8 [*shape, c].

    The method is PLAIN or AVERAGED, see `choose_methods`. An image that is already of this shape is returned unchanged.
    """
    size, target = tf.shape(image), tf.convert_to_tensor(shape, tf.int32)
    interpolate = _average if method == AVERAGED else _interpolate
    scaled = tf.cond(
        (size[0] == target[0]) & (size[1] == target[1]),
        lambda: image,
        # Blends of bytes stay in their range, so adding 0.5 and truncating rounds them.
        lambda: tf.cast(interpolate(image, target) + 0.5, tf.uint8),
    )
    return tf.ensure_shape(scaled, [*_static_sides(target), image.shape[2]])


def _average(image: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ResizeArea(images=image[None], size=target)[0]


def _interpolate(image: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    # The kernel loads a whole pixel of floats at once, but each channel of bytes by itself: 0.10 ms at 224 pixels, the
    # cast included, against 0.15 ms.
    return tf.image.resize(tf.cast(image, tf.float32), target)


def scale_halved(image: tf.Tensor, window: tf.Tensor, exponent: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Averages a window of a halved image, whose borders may lie between pixels, to uint8 [*shape, c].

    The window is a triangle as wide as the ratio of both shapes, as in Pillow's bilinear `Image.resize`.

    Args:
      image: [h, w, c], values from 0 to 255; its first pixel is the first that the window touches.
      window: int32 (y, x, height, width) in pixels of the image before it was halved.
      exponent: int32 [], how often it was halved.
      shape: the shape of the result.
    """
    ratio = tf.bitwise.left_shift(1, exponent)
    scales = tf.cast(shape * ratio / window[2:], tf.float32)
    start = tf.cast(window[:2] % ratio / ratio, tf.float32)
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None],
        size=shape,
        scale=scales,
        translation=-start * scales,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.ensure_shape(tf.saturate_cast(scaled + 0.5, tf.uint8), [*_static_sides(shape), image.shape[2]])


def average_blocks(image: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """Averages blocks of 2^exponent pixels a side, uint8 [h, w, c] -> float32; the last blocks may be incomplete."""
    ratio = tf.bitwise.left_shift(1, exponent)
    size = tf.shape(image)[:2]
    blocks = (size + ratio - 1) // ratio
    excess = blocks * ratio - size
    # JPEG encoders fill the last blocks by repeating pixels, too.
    padded = tf.pad(image, [[0, excess[0]], [0, excess[1]], [0, 0]], "SYMMETRIC")
    return _average(padded, blocks)


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
