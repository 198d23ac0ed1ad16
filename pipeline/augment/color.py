"""What happens to the values of pixels: brightness, contrast, saturation, hue, sharpness, histograms and bits.

images = colour(brightness=0.2, saturation=0.4)(images, draws)
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.augment.stage import Stage, in_chunks, where_drawn
from evenkeel.pipeline.images.decode import to_uint8

# NTSC's, as the FCC gives it: luma, and two differences of colour, which are 0 where red, green and blue are equal.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)
_LUMA = _RGB[:, :1] @ _YIQ[:1]
_CHROMA = _RGB[:, 1:] @ _YIQ[1:]
_QUARTER_TURN = _RGB[:, 1:] @ np.array([[0.0, -1.0], [1.0, 0.0]]) @ _YIQ[1:]
# Factors are multiples of 2**-12: products with 0 to 255 then add up exactly in float32, in whatever order.
_STEPS = 4096.0


def colour(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0) -> Stage | None:
    """One affine map of (r, g, b) per image. Draws: 4 columns (2 without saturation and hue: `brightness_contrast`).

    To these it adds a factor of saturation in 1 +- `saturation` and a turn of hue in +-`hue` (0.5 is half a turn),
    both uniform and in YIQ: luma stays, and so does gray.
    """
    if saturation == 0 and hue == 0:
        return brightness_contrast(brightness, contrast)

    def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        u = 2 * tf.cast(draws, tf.float64) - 1
        scale = 1 + u[:, 1] * contrast
        offset = u[:, 0] * brightness * 255 + (1 - scale) * means(images)
        return affine(images, scale, offset, 1 + u[:, 2] * saturation, u[:, 3] * hue * 2 * math.pi)

    return Stage(4, change)


def brightness_contrast(brightness: float, contrast: float) -> Stage | None:
    """One affine pass y = mean + a (x - mean) + b. Draws: 2 columns.

    b is uniform in +-`brightness` of the full range, a in 1 +- `contrast`; `mean` is the image's own over all pixels.
    """
    if brightness == 0 and contrast == 0:
        return None

    def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        shift, scale = tf.split((2 * draws - 1) * [brightness * 255, contrast], 2, axis=1)
        offset = shift - scale * tf.cast(means(images), tf.float32)[:, None]
        return to_uint8(tf.cast(images, tf.float32) * (1 + scale)[:, :, None, None] + offset[:, :, None, None])

    return Stage(2, change)


def means(images: tf.Tensor) -> tf.Tensor:
    """float64 [b]: the mean of all values of each image, summed in integers: the order of a float sum would show."""
    rows = tf.cast(tf.reduce_sum(tf.cast(images, tf.int32), axis=[2, 3]), tf.int64)
    return tf.cast(tf.reduce_sum(rows, axis=1), tf.float64) / math.prod(images.shape[1:])


def affine(images: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, saturation: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
    """uint8 [b, h, w, c]: scale . colour(x) + offset, rounded; all arguments float64 [b], `turn` in radians.

    `colour` multiplies the chroma of YIQ by `saturation` and turns it; a gray image (c = 1) has none.
    """
    _, height, width, channels = images.shape
    if channels == 3:
        real, imaginary = saturation * tf.cos(turn), saturation * tf.sin(turn)
        matrix = _LUMA + real[:, None, None] * _CHROMA + imaginary[:, None, None] * _QUARTER_TURN
        matrix = scale[:, None, None] * tf.linalg.matrix_transpose(matrix)
    else:
        matrix = scale[:, None, None]
    matrix, offset = (tf.cast(tf.round(value * _STEPS) / _STEPS, tf.float32) for value in (matrix, offset))
    pixels = tf.reshape(tf.cast(images, tf.float32), [-1, height * width, channels])
    changed = tf.matmul(pixels, matrix) if channels == 3 else pixels * matrix
    return tf.reshape(to_uint8(changed + offset[:, None, None]), [-1, height, width, channels])


def sharpness(strength: float) -> Stage | None:
    """Blends with the smoothed image: a factor in 1 +- `strength`, below 1 blurs, above sharpens. Draws: 1 column."""
    if strength == 0:
        return None
    return Stage(1, lambda images, draws, key: sharpened(images, 1 + (2 * draws[:, 0] - 1) * strength))


def sharpened(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """smooth + factor (x - smooth) with factor float32 [b], as Pillow's ImageEnhance.Sharpness.

    Pillow's SMOOTH is [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 and leaves the outermost pixels alone.
    """
    _, height, width, channels = images.shape
    if min(height, width) < 3:
        return images
    # 13 (x - smooth): whole numbers, so that the order of a convolution's sums cannot show.
    detail = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)
    x = tf.cast(images, tf.float32)
    # Not VALID: of no images at all, oneDNN then makes some of the wrong size.
    inner = tf.nn.depthwise_conv2d(
        x, np.tile(detail[:, :, None, None], (1, 1, channels, 1)), strides=[1, 1, 1, 1], padding="SAME"
    )[:, 1:-1, 1:-1]
    added = inner * ((factor - 1) / 13)[:, None, None, None]
    return to_uint8(x + tf.pad(added, [[0, 0], [1, 1], [1, 1], [0, 0]]))


def equalize(probability: float) -> Stage | None:
    """Makes each channel's histogram even, with `probability`. Draws: 1 column."""
    if probability == 0:
        return None
    return Stage(1, lambda images, draws, key: where_drawn(images, draws[:, 0] < probability, equalized))


def equalized(images: tf.Tensor) -> tf.Tensor:
    """Pillow's ImageOps.equalize, in integers: value v becomes (step // 2 + pixels below v) // step.

    `step` is a 255th of the pixels that do not have the channel's largest value; a channel for which that is 0 stays.
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
    upto = tf.cumsum(histograms, axis=2)
    largest = 255 - tf.argmax(histograms[..., ::-1] > 0, axis=2, output_type=tf.int32)
    last = tf.gather(histograms, largest, batch_dims=2)
    step = (height * width - last)[..., None] // 255
    even = tf.minimum((step // 2 + upto - histograms) // tf.maximum(step, 1), 255)
    return in_chunks(_looked_up, images, tf.cast(tf.where(step > 0, even, tf.range(256)), tf.uint8))


@tf.function(jit_compile=True, autograph=False)
def _looked_up(images: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """uint8 [n, h, w, c] through `tables` (uint8 [n, c, 256]). Compiled: 4 times as fast as tf.gather alone."""
    count, _, _, channels = images.shape
    first = 256 * tf.reshape(tf.range(count * channels), [count, 1, 1, channels])
    return tf.gather(tf.reshape(tables, [-1]), first + tf.cast(images, tf.int32))


def posterize(bits: int) -> Stage | None:
    """Clears the 0 to `bits` lowest bits of all values, each number equally often. Draws: 1 column."""
    if bits == 0:
        return None
    return Stage(1, lambda images, draws, key: posterized(images, tf.cast(draws[:, 0] * (bits + 1), tf.int32)))


def posterized(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Clears the `bits` (int32 [b], 0 to 8) lowest bits of each image's values."""
    mask = tf.cast(256 - tf.bitwise.left_shift(1, bits), tf.uint8)
    return images & mask[:, None, None, None]
