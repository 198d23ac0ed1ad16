"""Crop windows of images, and the region and scale to decode for each, for a whole batch at once.

windows = random_windows(heights, widths, 0.92, draws)    # (y, x, height, width)
"""

from __future__ import annotations

import math

import tensorflow as tf

MAX_ATTEMPTS = 10  # then the largest window that fits is used, as in torchvision's and TensorFlow's own samplers
ASPECT_RATIOS = (3 / 4, 4 / 3)  # lowest and highest width / height
DRAWS_PER_IMAGE = 2 * MAX_ATTEMPTS + 2  # uniform random numbers that random_windows uses per image


def central_windows(heights: tf.Tensor, widths: tf.Tensor, share: float = 1.0) -> tf.Tensor:
    """Returns the central square window of each image, int32 [n, 4] (y, x, height, width).

    `heights` and `widths` are the image sizes, int32 [n]. The side of a window is `share` times the shorter side.
    """
    shorter = tf.cast(tf.minimum(heights, widths), tf.float32)
    side = tf.maximum(1, tf.cast(tf.round(shorter * share), tf.int32))
    return tf.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def random_windows(heights: tf.Tensor, widths: tf.Tensor, strength: float, draws: tf.Tensor) -> tf.Tensor:
    """Windows of random resized crops, int32 [n, 4] (Szegedy et al. 2015, section 6).

    The window's area is uniform in [1 - strength, 1] of the image's area; the logarithm of its aspect ratio is uniform
    from 3:4 to 4:3. The first of 10 attempts that fits into the image is used; if none fits, the largest central window
    of the nearest allowed aspect ratio is used.

    Args:
      heights, widths: int32 [n], the image sizes.
      strength: 0 to 1.
      draws: float32 [n, DRAWS_PER_IMAGE], uniform in [0, 1).
    """
    h, w = tf.cast(heights, tf.float32)[:, None], tf.cast(widths, tf.float32)[:, None]
    area = h * w * (1 - strength * draws[:, :MAX_ATTEMPTS])
    low, high = math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])
    aspect = tf.exp(low + (high - low) * draws[:, MAX_ATTEMPTS : 2 * MAX_ATTEMPTS])
    nearest = tf.clip_by_value(w / h, *ASPECT_RATIOS)
    height = tf.concat([tf.sqrt(area / aspect), tf.minimum(h, w / nearest)], axis=1)
    width = tf.concat([tf.sqrt(area * aspect), tf.minimum(w, h * nearest)], axis=1)
    height, width = tf.maximum(tf.round(height), 1), tf.maximum(tf.round(width), 1)
    fits = (height <= h) & (width <= w)
    attempt = tf.argmax(tf.cast(fits, tf.int32), axis=1)[:, None]
    height, width = (tf.gather(side, attempt, batch_dims=1) for side in (height, width))
    # The fallback is central; an attempt lies anywhere in the image.
    is_fallback = attempt == MAX_ATTEMPTS
    y = tf.floor((h - height + 1) * tf.where(is_fallback, 0.5, draws[:, -2:-1]))
    x = tf.floor((w - width + 1) * tf.where(is_fallback, 0.5, draws[:, -1:]))
    y, x = tf.minimum(y, h - height), tf.minimum(x, w - width)
    return tf.cast(tf.concat([y, x, height, width], axis=1), tf.int32)


def decode_regions(
    windows: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, size: int, is_jpeg: tf.Tensor
) -> tf.Tensor:
    """The region and scale to decode for each window, int32 [n, 5].

    A JPEG decoder can scale down by 2, 4 or 8 while it decodes. The scale is the largest ratio that leaves both sides
    of the window at least `size`. Window corners are rounded to multiples of the ratio, which moves them by at most
    half a pixel of the scaled image.

    Args:
      windows: int32 [n, 4], (y, x, height, width) in pixels of the image.
      heights, widths: int32 [n], the image sizes.
      size: the side that the windows are resized to afterwards, in pixels.
      is_jpeg: bool [n]; other formats are not scaled.

    Returns:
      (y, x, height, width, exponent) per image: the window in pixels of the image scaled down by 2^exponent.
    """
    corners, extents = windows[:, :2], windows[:, 2:]
    fits = tf.reduce_min(extents, axis=1)[:, None] >= size * tf.constant([[2, 4, 8]])
    exponents = tf.where(is_jpeg, tf.reduce_sum(tf.cast(fits, tf.int32), axis=1), 0)[:, None]

    def scale_down(pixels: tf.Tensor) -> tf.Tensor:
        return tf.bitwise.right_shift(pixels + tf.bitwise.left_shift(1, exponents) // 2, exponents)

    # If the border cuts off a block, the decoder still makes a whole pixel of the block; this pixel is left out.
    ends = tf.minimum(
        scale_down(corners + extents), tf.bitwise.right_shift(tf.stack([heights, widths], axis=1), exponents)
    )
    starts = scale_down(corners)
    return tf.concat([starts, ends - starts, exponents], axis=1)
