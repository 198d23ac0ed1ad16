"""Mixup and CutMix on the device: a batch mixed with itself in another order, and the labels likewise.

    images, targets = mixed(images, labels, classes=10, mixup=0.2, cutmix=1.0, key=key)

Each image meets its partner with a share drawn for it: mixup blends pixels (Zhang et al. 2018), CutMix pastes a
rectangle of the partner's (Yun et al. 2019). With both, every image draws which of the two.
"""

from __future__ import annotations

import tensorflow as tf


def mixed(
    images: tf.Tensor, labels: tf.Tensor, classes: int, mixup: float, cutmix: float, key: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """(uint8 [b, h, w, c], labels [b]) -> (uint8 images, float32 targets [b, classes] that sum to 1).

    `mixup` and `cutmix` are the parameters of a symmetric Beta distribution, of which the share is drawn; 0 turns one
    off. `key` is int32 [2]: the same key mixes the same way.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    keys = tf.random.experimental.stateless_split(key, 4, alg="philox")
    draws = tf.random.stateless_uniform([count, 3], keys[0], alg="philox")
    is_cut = tf.fill([count], cutmix > 0) if not (mixup and cutmix) else draws[:, 0] < 0.5
    shares = tf.where(is_cut, beta(count, cutmix or 1.0, keys[1]), beta(count, mixup or 1.0, keys[2]))
    # A rotation of the batch has no image meet itself; by how much it is drawn.
    shift = tf.random.stateless_uniform([], keys[3], 1, tf.maximum(count, 2), tf.int32, alg="philox")
    partners, their_labels = tf.roll(images, shift, axis=0), tf.roll(labels, shift, axis=0)
    results = []
    if cutmix:
        inside, area = rectangles(draws[:, 1], draws[:, 2], shares, height, width)
        shares = tf.where(is_cut, 1 - area, shares)
        results.append(tf.where(inside[..., None], partners, images))
    if mixup:
        own = tf.cast(shares[:, None, None, None], tf.float32)
        blend = own * tf.cast(images, tf.float32) + (1 - own) * tf.cast(partners, tf.float32)
        results.append(tf.cast(tf.round(blend), tf.uint8))
    images = results[0] if len(results) == 1 else tf.where(is_cut[:, None, None, None], *results)
    own = shares[:, None]
    return images, own * tf.one_hot(labels, classes) + (1 - own) * tf.one_hot(their_labels, classes)


def rectangles(y: tf.Tensor, x: tf.Tensor, shares: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(bool [b, h, w] inside of rectangles, their share of the image [b]) for centres `y`, `x` [b] in [0, 1).

    Sides are sqrt(1 - share) of the image's, cut off at its border (Yun et al. 2019, equation 2).
    """

    def span(centre: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.floor(tf.sqrt(1 - shares) * size)
        middle = tf.floor(centre * size)
        first = tf.maximum(middle - tf.floor(length / 2), 0)
        last = tf.minimum(middle - tf.floor(length / 2) + length, float(size))
        places = tf.range(size, dtype=tf.float32)
        return (places >= first[:, None]) & (places < last[:, None]), (last - first) / size

    rows, tall = span(y, height)
    columns, wide = span(x, width)
    return rows[:, :, None] & columns[:, None, :], tall * wide


def beta(count: tf.Tensor, concentration: float, key: tf.Tensor) -> tf.Tensor:
    """float32 [count] of Beta(concentration, concentration), as a ratio of Gamma draws."""
    gammas = tf.random.stateless_gamma([count, 2], key, alpha=concentration)
    total = tf.reduce_sum(gammas, axis=1)
    # At a small concentration both may vanish in float32: the limit is a coin.
    return tf.where(
        total > 0, gammas[:, 0] / tf.maximum(total, 1e-30), tf.cast(gammas[:, 0] >= gammas[:, 1], tf.float32)
    )
