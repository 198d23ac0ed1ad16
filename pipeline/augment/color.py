"""Augmentations of pixel values: brightness, contrast, saturation, hue, sharpness, histogram equalization, posterizing.

images = color_jitter(brightness=0.2, saturation=0.4)(images, draws)

Functions that take a strength return a `Stage`. The others change a batch by one parameter per image.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.augment.stage import Stage, apply_where, map_in_chunks
from evenkeel.pipeline.images.decode import to_uint8

# The NTSC's YIQ matrix, as published by the FCC: luma, and two color differences, which are 0 if red, green and blue
# are equal.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)
_LUMA = _RGB[:, :1] @ _YIQ[:1]
_CHROMA = _RGB[:, 1:] @ _YIQ[1:]
_QUARTER_TURN = _RGB[:, 1:] @ np.array([[0.0, -1.0], [1.0, 0.0]]) @ _YIQ[1:]
# Factors are rounded to multiples of 2**-12: sums of products with 0 to 255 are then exact in float32, in any order.
_FACTOR_STEPS = 4096.0


def color_jitter(
    brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Stage | None:
    """Changes brightness, contrast, saturation and hue in one affine map of (r, g, b) per image.

    The factor of the saturation is uniform in 1 +- `saturation`; the rotation of the hue is uniform in +-`hue` (0.5 is
    half a turn). Both act in YIQ, so luma is kept and gray stays gray. `brightness_contrast` describes the rest.

    Draws: 4 columns; 2 if saturation and hue are 0.
    """
    if saturation == 0 and hue == 0:
        return brightness_contrast(brightness, contrast)

    def apply(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        u = 2 * tf.cast(draws, tf.float64) - 1
        scale = 1 + u[:, 1] * contrast
        offset = u[:, 0] * brightness * 255 + (1 - scale) * image_means(images)
        return adjust_colors(images, scale, offset, 1 + u[:, 2] * saturation, u[:, 3] * hue * 2 * math.pi)

    return Stage(4, apply)


def brightness_contrast(brightness: float, contrast: float) -> Stage | None:
    """Changes brightness and contrast: y = mean + a (x - mean) + b, with the mean over all values of the image.

    b is uniform in +-`brightness` of the full range; a is uniform in 1 +- `contrast`. Draws: 2 columns.
    """
    if brightness == 0 and contrast == 0:
        return None

    def apply(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        shift, scale = tf.split((2 * draws - 1) * [brightness * 255, contrast], 2, axis=1)
        offset = shift - scale * tf.cast(image_means(images), tf.float32)[:, None]
        return to_uint8(tf.cast(images, tf.float32) * (1 + scale)[:, :, None, None] + offset[:, :, None, None])

    return Stage(2, apply)


def image_means(images: tf.Tensor) -> tf.Tensor:
    """The mean of all values of each image, float64 [b].

    The sum is computed in integers, because a float sum depends on the order of its terms.
    """
    rows = tf.cast(tf.reduce_sum(tf.cast(images, tf.int32), axis=[2, 3]), tf.int64)
    return tf.cast(tf.reduce_sum(rows, axis=1), tf.float64) / math.prod(images.shape[1:])


def adjust_colors(
    images: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, saturation: tf.Tensor, turn: tf.Tensor
) -> tf.Tensor:
    """Returns scale * color(x) + offset for each pixel x, rounded, uint8 [b, h, w, c].

    `color` multiplies the chroma of YIQ by `saturation` and rotates it by `turn` radians; gray images (c = 1) have no
    chroma. All parameters are float64 [b].
    """
    _, height, width, channels = images.shape
    if channels == 3:
        real, imaginary = saturation * tf.cos(turn), saturation * tf.sin(turn)
        matrix = _LUMA + real[:, None, None] * _CHROMA + imaginary[:, None, None] * _QUARTER_TURN
        matrix = scale[:, None, None] * tf.linalg.matrix_transpose(matrix)
    else:
        matrix = scale[:, None, None]
    matrix, offset = (
        tf.cast(tf.round(value * _FACTOR_STEPS) / _FACTOR_STEPS, tf.float32) for value in (matrix, offset)
    )
    pixels = tf.reshape(tf.cast(images, tf.float32), [-1, height * width, channels])
    adjusted = tf.matmul(pixels, matrix) if channels == 3 else pixels * matrix
    return tf.reshape(to_uint8(adjusted + offset[:, None, None]), [-1, height, width, channels])


def sharpness(strength: float) -> Stage | None:
    """Blurs or sharpens: blends each image with its smoothed version by a factor in 1 +- `strength`.

    A factor below 1 blurs, above 1 sharpens. Draws: 1 column.
    """
    if strength == 0:
        return None
    return Stage(1, lambda images, draws, key: adjust_sharpness(images, 1 + (2 * draws[:, 0] - 1) * strength))


def adjust_sharpness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns smooth + factor (x - smooth), uint8 [b, h, w, c], like Pillow's ImageEnhance.Sharpness.

    `smooth` is the smoothed image x; `factor` is float32 [b].
    Pillow's SMOOTH kernel is [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 and leaves the outermost pixels unchanged.
    """
    _, height, width, channels = images.shape
    if min(height, width) < 3:
        return images
    # 13 (x - smooth) is a whole number, so the order in which a convolution sums cannot change the result.
    detail = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)
    x = tf.cast(images, tf.float32)
    # Padding is not VALID: with an empty batch, oneDNN would return a few images of the wrong size.
    inner = tf.nn.depthwise_conv2d(
        x, np.tile(detail[:, :, None, None], (1, 1, channels, 1)), strides=[1, 1, 1, 1], padding="SAME"
    )[:, 1:-1, 1:-1]
    difference = inner * ((factor - 1) / 13)[:, None, None, None]
    return to_uint8(x + tf.pad(difference, [[0, 0], [1, 1], [1, 1], [0, 0]]))


def equalize(probability: float) -> Stage | None:
    """Equalizes the histogram of each channel, with `probability` per image. Draws: 1 column."""
    if probability == 0:
        return None
    return Stage(1, lambda images, draws, key: apply_where(images, draws[:, 0] < probability, equalize_histograms))


def equalize_histograms(images: tf.Tensor) -> tf.Tensor:
    """Equalizes the histogram of each channel of `images`, uint8 [b, h, w, c], like Pillow's ImageOps.equalize.

    The arithmetic is in integers. Value v becomes (step // 2 + pixels below v) // step. `step` is 1/255 of the pixels
    that do not have the largest value of the channel; if `step` is 0, the channel is unchanged.
    """
    _, height, width, channels = images.shape
    histograms = tf.stack(
        [
            tf.raw_ops.DenseBincount(
                input=tf.reshape(tf.cast(images[..., channel], tf.int32), [-1, height * width]),
                size=256,
                weights=tf.constant([], tf.int32),
                binary_output=False,
            )
            for channel in range(channels)
        ],
        axis=1,
    )
    cumulative = tf.cumsum(histograms, axis=2)
    largest = 255 - tf.argmax(histograms[..., ::-1] > 0, axis=2, output_type=tf.int32)
    largest_count = tf.gather(histograms, largest, batch_dims=2)
    step = (height * width - largest_count)[..., None] // 255
    equalized = tf.minimum((step // 2 + cumulative - histograms) // tf.maximum(step, 1), 255)
    return map_in_chunks(_lookup, images, tf.cast(tf.where(step > 0, equalized, tf.range(256)), tf.uint8))


@tf.function(jit_compile=True, autograph=False)
def _lookup(images: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Replaces each value of `images` (uint8 [n, h, w, c]) by its entry in `tables` (uint8 [n, c, 256]).

    XLA compiles the function, which makes it 4 times as fast as tf.gather alone.
    """
    count, _, _, channels = images.shape
    first = 256 * tf.reshape(tf.range(count * channels), [count, 1, 1, channels])
    return tf.gather(tf.reshape(tables, [-1]), first + tf.cast(images, tf.int32))


def posterize(bits: int) -> Stage | None:
    """Clears the lowest 0 to `bits` bits of all values; each number of bits is equally frequent. Draws: 1 column."""
    if bits == 0:
        return None
    return Stage(1, lambda images, draws, key: clear_low_bits(images, tf.cast(draws[:, 0] * (bits + 1), tf.int32)))


def clear_low_bits(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Clears the lowest `bits` (int32 [b], 0 to 8) of each value of `images` (uint8 [b, h, w, c])."""
    mask = tf.cast(256 - tf.bitwise.left_shift(1, bits), tf.uint8)
    return images & mask[:, None, None, None]
