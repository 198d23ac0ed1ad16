"""What hides pixels: noise over all of them, or a square cut out.

images = noise(8.0)(images, draws, key)
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.augment.stage import Stage
from evenkeel.pipeline.images.decode import to_uint8

STRIP = 3  # images' worth of noise that a step draws
GRAY = 128
WORDS = (np.int64, np.int32, np.int16, np.int8)  # the widest that lines are made of


def noise(deviation: float) -> Stage | None:
    """Adds Gaussian noise of standard `deviation`, on the scale of 0 to 255, to every value. Draws: 2 columns, and key.

    Normal numbers cost more than decoding does (1.7 ms for a 224x224 image). So a step draws one strip of them, as wide
    as an image and `STRIP` times as high, and each image gets the rows from a drawn one on, with a drawn sign.
    """
    if deviation == 0:
        return None

    def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = images.shape
        strip = deviation * tf.random.stateless_normal([STRIP * height, width * channels], key)
        first = tf.cast(draws[:, 0] * ((STRIP - 1) * height + 1), tf.int32)
        rows = tf.gather(strip, first[:, None] + tf.range(height))
        sign = tf.where(draws[:, 1] < 0.5, -1.0, 1.0)[:, None, None]
        noisy = tf.reshape(tf.cast(images, tf.float32), tf.shape(rows)) + sign * rows
        return tf.reshape(to_uint8(noisy), [-1, height, width, channels])

    return Stage(2, change)


def cutout(share: float) -> Stage | None:
    """Fills a square of `share` of the shorter side with gray (DeVries and Taylor 2017). Draws: 2 columns.

    Its centre is any pixel, equally often, so that a part of the square may lie outside.
    """
    if share == 0:
        return None

    def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = images.shape
        side = max(1, round(share * min(height, width)))
        y, x = tf.unstack(tf.cast(draws * [height, width], tf.int32), axis=1)
        # A line of a mask for each place of the centre, and one behind them that hides nothing: what is left to do to
        # the pixels is copies and bit operations on whole words. A broadcast of bytes costs several times as much.
        first, places = np.arange(width)[:, None] - side // 2, np.arange(width)
        hidden = np.pad((places >= first) & (places < first + side), ((0, 1), (0, 0)))
        lines = np.repeat(np.where(hidden, 0, 255).astype(np.uint8), channels, axis=1)
        word = next(kind for kind in WORDS if lines.shape[1] % kind().itemsize == 0)
        rows = tf.range(height) - (y[:, None] - side // 2)
        kept = tf.gather(lines.view(word), tf.where((rows >= 0) & (rows < side), x[:, None], width))
        gray = np.full(word().itemsize, GRAY, np.uint8).view(word)[0]
        words = tf.reshape(images, [-1, height, kept.shape[2], word().itemsize])
        words = tf.reshape(tf.bitcast(words, word), tf.shape(kept))
        return tf.reshape(tf.bitcast(((words ^ gray) & kept) ^ gray, tf.uint8), tf.shape(images))

    return Stage(2, change)
