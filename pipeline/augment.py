"""Stateless augmentations of whole batches of uint8 images.

    augment = augmentation(AugmentConfig(pad_crop=4, flip=0.5))
    images = augment(images, draws)    # draws: float32 [batch, COLUMNS] in [0, 1); same draws, same pixels

Each function does its argument work once and returns the closure, or None where its strength is 0.
(Random resized crops choose what is decoded: see `crop.py`.)
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from pipeline.config import AugmentConfig
from pipeline.decode import to_uint8

Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
COLUMNS = 5  # flip; vertical, horizontal offset; brightness, contrast


def augmentation(config: AugmentConfig) -> Augmentation | None:
    """(images uint8 [b, h, w, c], draws [b, COLUMNS]) -> uint8 of the same shape; None when all is off."""
    stages = [
        (flip(config.flip), slice(0, 1)),
        (pad_crop(config.pad_crop), slice(1, 3)),
        (brightness_contrast(config.brightness, config.contrast), slice(3, 5)),
    ]
    chain = [(stage, columns) for stage, columns in stages if stage is not None]
    if not chain:
        return None

    def augment(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        for stage, columns in chain:
            images = stage(images, draws[:, columns])
        return images

    return augment


def flip(probability: float) -> Augmentation | None:
    """Left-right, with `probability`. Draws: 1 column."""
    if probability == 0:
        return None
    return lambda images, draws: tf.where(draws[:, :, None, None] < probability, images[:, :, ::-1], images)


def pad_crop(pad: int) -> Augmentation | None:
    """Reflects `pad` pixels around the image and crops back to its size at an even offset. Draws: 2 columns.

    Whole rows and whole images are copied, never single pixels: gathering pixels costs 46 us per 32x32 image, this 4.
    """
    if pad == 0:
        return None
    offsets = 2 * pad + 1

    def crop(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = images.shape
        count = tf.shape(images)[0]
        tall, wide = height + 2 * pad, (width + 2 * pad) * channels
        dy, dx = tf.unstack(tf.cast(draws * offsets, tf.int32), axis=1)
        padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]], "REFLECT")
        first = tf.range(count) * tall + dy
        rows = tf.gather(tf.reshape(padded, [-1, wide]), first[:, None] + tf.range(height))
        line = width * channels
        shifted = tf.concat([rows[:, :, x * channels : x * channels + line] for x in range(offsets)], axis=0)
        return tf.reshape(tf.gather(shifted, dx * count + tf.range(count)), [-1, height, width, channels])

    return crop


def brightness_contrast(brightness: float, contrast: float) -> Augmentation | None:
    """One affine pass y = mean + a (x - mean) + b. Draws: 2 columns.

    b is uniform in +-`brightness` of the full range, a in 1 +- `contrast`; `mean` is the image's own over all pixels.
    """
    if brightness == 0 and contrast == 0:
        return None

    def adjust(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        x = tf.cast(images, tf.float32)
        shift, scale = tf.split((2 * draws - 1) * [brightness * 255, contrast], 2, axis=1)
        mean = tf.reduce_mean(x, axis=[1, 2, 3])[:, None]
        offset = shift - scale * mean
        return to_uint8(x * (1 + scale)[:, :, None, None] + offset[:, :, None, None])

    return adjust
