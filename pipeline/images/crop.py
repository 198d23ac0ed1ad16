"""Which part of each image to decode, and how much of its detail, for a whole batch at once.

windows = random_windows(heights, widths, 0.92, draws)    # (y, x, height, width)
"""

from __future__ import annotations

import math

import tensorflow as tf

ATTEMPTS = 10  # then the largest fitting window, as in torchvision and TensorFlow's own samplers
ASPECT = (3 / 4, 4 / 3)
COLUMNS = 2 * ATTEMPTS + 2  # uniforms that random_windows needs per image


def central_windows(heights: tf.Tensor, widths: tf.Tensor, share: float = 1.0) -> tf.Tensor:
    """int32 [n, 4]: the central square whose side is `share` of the shorter side, for int32 `heights`, `widths` [n]."""
    shorter = tf.cast(tf.minimum(heights, widths), tf.float32)
    side = tf.maximum(1, tf.cast(tf.round(shorter * share), tf.int32))
    return tf.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def random_windows(heights: tf.Tensor, widths: tf.Tensor, strength: float, draws: tf.Tensor) -> tf.Tensor:
    """int32 [n, 4]: random resized crops (Szegedy et al. 2015, section 6).

    The area is uniform in [1 - strength, 1] of the image's, the logarithm of the aspect ratio uniform in 3:4 to 4:3;
    the first of 10 attempts that fits is taken, else the central window of the nearest allowed aspect ratio.
    `draws` is float32 [n, COLUMNS] in [0, 1).
    """
    h, w = tf.cast(heights, tf.float32)[:, None], tf.cast(widths, tf.float32)[:, None]
    area = h * w * (1 - strength * draws[:, :ATTEMPTS])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = tf.exp(low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    nearest = tf.clip_by_value(w / h, *ASPECT)
    tall = tf.concat([tf.sqrt(area / aspect), tf.minimum(h, w / nearest)], axis=1)
    wide = tf.concat([tf.sqrt(area * aspect), tf.minimum(w, h * nearest)], axis=1)
    tall, wide = tf.maximum(tf.round(tall), 1), tf.maximum(tf.round(wide), 1)
    fits = (tall <= h) & (wide <= w)
    chosen = tf.argmax(tf.cast(fits, tf.int32), axis=1)[:, None]
    tall, wide = (tf.gather(side, chosen, batch_dims=1) for side in (tall, wide))
    # The fallback is central; an attempt lies anywhere it fits.
    central = chosen == ATTEMPTS
    y = tf.floor((h - tall + 1) * tf.where(central, 0.5, draws[:, -2:-1]))
    x = tf.floor((w - wide + 1) * tf.where(central, 0.5, draws[:, -1:]))
    y, x = tf.minimum(y, h - tall), tf.minimum(x, w - wide)
    return tf.cast(tf.concat([y, x, tall, wide], axis=1), tf.int32)


def regions(windows: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, size: int, is_jpeg: tf.Tensor) -> tf.Tensor:
    """int32 [n, 5]: what to decode for `windows` (int32 [n, 4]) to be shown on `size` x `size` pixels.

    A JPEG decoder can shrink by 2, 4 or 8 on the way. It does by the largest ratio that leaves both sides of the window
    at least `size`; the fifth number is the ratio's exponent, 0 to 3, and the others are in pixels of the shrunk image.
    Windows are moved to multiples of the ratio, by half of one at most: half a pixel of the shrunk image.
    """
    corner, extent = windows[:, :2], windows[:, 2:]
    fits = tf.reduce_min(extent, axis=1)[:, None] >= size * tf.constant([[2, 4, 8]])
    exponents = tf.where(is_jpeg, tf.reduce_sum(tf.cast(fits, tf.int32), axis=1), 0)[:, None]
    nearest = lambda at: tf.bitwise.right_shift(at + tf.bitwise.left_shift(1, exponents) // 2, exponents)  # noqa: E731
    # Of a block cut off by the border the decoder makes a whole pixel; it is left out.
    ends = tf.minimum(nearest(corner + extent), tf.bitwise.right_shift(tf.stack([heights, widths], axis=1), exponents))
    first = nearest(corner)
    return tf.concat([first, ends - first, exponents], axis=1)
