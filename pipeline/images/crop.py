"""Crop windows of images, and the region and scale to decode for each, for a whole batch at once.

windows = random_windows(heights, widths, 0.92, draws)    # (y, x, height, width)
regions, methods = decode_regions(windows, heights, widths, tf.constant([[224, 224]]))
"""

from __future__ import annotations

import math

import tensorflow as tf

from evenkeel.pipeline.images import scaling

MAX_ATTEMPTS = 10  # then the largest window that fits is used, as in torchvision's and TensorFlow's own samplers
ASPECT_RATIOS = (3 / 4, 4 / 3)  # lowest and highest width / height
DRAWS_PER_IMAGE = 2 * MAX_ATTEMPTS + 2  # uniform random numbers that random_windows uses per image


def view_windows(
    heights: tf.Tensor, widths: tf.Tensor, view: str, shape: tuple[int, int], share: float = 1.0
) -> tf.Tensor:
    """The window of each image that is scaled to `shape` where no random crop is taken, int32 [n, 4].

    A window is (y, x, height, width). The view says which it is:

      center: the largest central window with the aspect ratio of `shape`.
      stretch: the whole image.
      pad: the smallest window with the aspect ratio of `shape` around the whole image; it reaches beyond the image.

    Args:
      heights, widths: int32 [n], the image sizes.
      view: center, stretch or pad.
      shape: (height, width) that the model sees.
      share: factor of both sides of a window, 0 to 1.
    """
    h, w = tf.cast(heights, tf.float32), tf.cast(widths, tf.float32)
    of_width, of_height = w * (shape[0] / shape[1]), h * (shape[1] / shape[0])
    sides = {
        "center": (tf.minimum(h, of_width), tf.minimum(w, of_height)),
        "stretch": (h, w),
        "pad": (tf.maximum(h, of_width), tf.maximum(w, of_height)),
    }[view]
    height, width = (tf.maximum(1, tf.cast(tf.round(side * share), tf.int32)) for side in sides)
    return tf.stack([(heights - height) // 2, (widths - width) // 2, height, width], axis=1)


def random_windows(
    heights: tf.Tensor, widths: tf.Tensor, strength: float, draws: tf.Tensor, aspects: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Windows of random resized crops, int32 [n, 4] (Szegedy et al. 2015, section 6).

    The window's area is uniform in [1 - strength, 1] of the image's area; the logarithm of its aspect ratio is uniform
    from 3:4 to 4:3, times `aspects`. The first of 10 attempts that fits into the image is used; if none fits, the
    largest central window of the nearest allowed aspect ratio is used.

    Args:
      heights, widths: int32 [n], the image sizes.
      strength: 0 to 1.
      draws: float32 [n, DRAWS_PER_IMAGE], uniform in [0, 1).
      aspects: width / height of the windows that are scaled without distortion, float32 [n] or a number.
    """
    h, w = tf.cast(heights, tf.float32)[:, None], tf.cast(widths, tf.float32)[:, None]
    area = h * w * (1 - strength * draws[:, :MAX_ATTEMPTS])
    low, high = math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])
    center = tf.reshape(tf.cast(aspects, tf.float32), [-1, 1])
    aspect = center * tf.exp(low + (high - low) * draws[:, MAX_ATTEMPTS : 2 * MAX_ATTEMPTS])
    nearest = center * tf.clip_by_value(w / h / center, *ASPECT_RATIOS)
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


def visible_parts(
    windows: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, shapes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The parts of windows that lie inside their images, and where these parts lie in the scaled windows.

    Args:
      windows: int32 [n, 4]; each overlaps its image.
      heights, widths: int32 [n], the image sizes.
      shapes: int32 [n, 2] or [1, 2], the shapes that the windows are scaled to.

    Returns:
      The windows inside the images, int32 [n, 4], and their places in the scaled windows, int32 [n, 4], (top, left,
      height, width).
    """
    starts, extents = windows[:, :2], windows[:, 2:]
    first = tf.maximum(starts, 0)
    last = tf.minimum(starts + extents, tf.stack([heights, widths], axis=1))

    def scale(pixels: tf.Tensor) -> tf.Tensor:  # rounded to the nearest; products exceed 32 bits
        numbers, sizes, targets = (tf.cast(values, tf.int64) for values in (pixels - starts, extents, shapes))
        return tf.cast((2 * numbers * targets + sizes) // (2 * sizes), tf.int32)

    corners = tf.minimum(scale(first), shapes - 1)
    sizes = tf.maximum(scale(last) - corners, 1)
    return tf.concat([first, last - first], axis=1), tf.concat([corners, sizes], axis=1)


def decode_regions(
    windows: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, shapes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The region and scale to decode for each window, and how to scale it afterwards.

    Args:
      windows: int32 [n, 4], (y, x, height, width) in pixels of the image, inside the image.
      heights, widths: int32 [n], the image sizes.
      shapes: int32 [n, 2] or [1, 2], the shapes that the windows are scaled to afterwards.

    Returns:
      regions: int32 [n, 5], (y, x, height, width, exponent): the pixels of the image, scaled down by 2^exponent (see
        `scaling.count_halvings`), that the window touches.
      methods: int32 [n], see `scaling.choose_methods`.
    """
    starts, extents = windows[:, :2], windows[:, 2:]
    exponents = scaling.count_halvings(extents, shapes)[:, None]
    ratio = tf.bitwise.left_shift(1, exponents)
    first = starts // ratio
    # A JPEG decoder makes a whole pixel of a block that the border cuts off. It is used if half of it is in the image.
    last = tf.minimum(-(-(starts + extents) // ratio), (tf.stack([heights, widths], axis=1) + ratio // 2) // ratio)
    methods = scaling.choose_methods(extents, shapes, exponents[:, 0])
    return tf.concat([first, last - first, exponents], axis=1), methods
