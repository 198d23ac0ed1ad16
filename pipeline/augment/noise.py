"""Augmentations that hide pixels: noise over the whole image, or a gray square.

images = noise(8.0)(images, draws, key)
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.augment.stage import Stage
from evenkeel.pipeline.images.decode import to_uint8

STRIP_IMAGES = 3  # height of the noise that a step draws, in images
GRAY = 128
WORD_TYPES = (np.int64, np.int32, np.int16, np.int8)  # a mask row consists of words of the widest type that divides it


def noise(deviation: float) -> Stage | None:
    """Adds Gaussian noise of standard `deviation`, on the scale of 0 to 255, to every value.

    Drawing normal numbers for each image would cost more than decoding it (1.7 ms per 224x224 image). So each step
    draws one strip of noise from its key, as wide as an image and `STRIP_IMAGES` times as high. Each image gets the
    rows of the strip from a random row on, with a random sign.

    Draws: 2 columns.
    """
    if deviation == 0:
        return None

    def apply(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = images.shape
        strip = deviation * tf.random.stateless_normal([STRIP_IMAGES * height, width * channels], key)
        first = tf.cast(draws[:, 0] * ((STRIP_IMAGES - 1) * height + 1), tf.int32)
        rows = tf.gather(strip, first[:, None] + tf.range(height))
        sign = tf.where(draws[:, 1] < 0.5, -1.0, 1.0)[:, None, None]
        noisy = tf.reshape(tf.cast(images, tf.float32), tf.shape(rows)) + sign * rows
        return tf.reshape(to_uint8(noisy), [-1, height, width, channels])

    return Stage(2, apply)


def cutout(share: float) -> Stage | None:
    """Fills a square with gray; its side is `share` of the shorter side of the image (DeVries and Taylor 2017).

    Every pixel is the center equally often, so a part of the square may lie outside the image. Draws: 2 columns.
    """
    if share == 0:
        return None

    def apply(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = images.shape
        side = max(1, round(share * min(height, width)))
        y, x = tf.unstack(tf.cast(draws * [height, width], tf.int32), axis=1)
        # There is one mask row for each horizontal position of the center, and a last row that hides nothing. So the
        # pixels need only copies and bit operations on whole words; broadcasting bytes costs several times as much.
        first, columns = np.arange(width)[:, None] - side // 2, np.arange(width)
        hidden = np.pad((columns >= first) & (columns < first + side), ((0, 1), (0, 0)))
        mask_rows = np.repeat(np.where(hidden, 0, 255).astype(np.uint8), channels, axis=1)
        word = next(kind for kind in WORD_TYPES if mask_rows.shape[1] % kind().itemsize == 0)
        rows = tf.range(height) - (y[:, None] - side // 2)
        mask = tf.gather(mask_rows.view(word), tf.where((rows >= 0) & (rows < side), x[:, None], width))
        gray = np.full(word().itemsize, GRAY, np.uint8).view(word)[0]
        words = tf.reshape(images, [-1, height, mask.shape[2], word().itemsize])
        words = tf.reshape(tf.bitcast(words, word), tf.shape(mask))
        return tf.reshape(tf.bitcast(((words ^ gray) & mask) ^ gray, tf.uint8), tf.shape(images))

    return Stage(2, apply)
