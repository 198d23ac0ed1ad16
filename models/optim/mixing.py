"""Mixup and CutMix on the device: a batch is mixed with a rotated copy of itself, and its labels with the same weights.

    images, targets = mix_batch(images, labels, classes=10, mixup=0.2, cutmix=1.0, key=key)

Each image has one partner and draws its own weight: mixup blends the pixels (Zhang et al. 2018), CutMix pastes a
rectangle of the partner (Yun et al. 2019). If both are on, each image draws one of the two.
"""

from __future__ import annotations

import tensorflow as tf


def mix_batch(
    images: tf.Tensor, labels: tf.Tensor, classes: int, mixup: float, cutmix: float, key: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes a batch; returns images uint8 [b, h, w, c], and targets float32 [b, classes] that sum to 1.

    Args:
      images: uint8 [b, h, w, c].
      labels: int [b].
      classes: number of classes.
      mixup: parameter of the symmetric Beta distribution of an image's own weight; 0 turns mixup off.
      cutmix: the same parameter for CutMix; 0 turns CutMix off.
      key: int32 [2]; the same key mixes in the same way.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    keys = tf.random.experimental.stateless_split(key, 4, alg="philox")
    draws = tf.random.stateless_uniform([count, 3], keys[0], alg="philox")
    is_cut = tf.fill([count], cutmix > 0) if not (mixup and cutmix) else draws[:, 0] < 0.5
    weights = tf.where(is_cut, sample_beta(count, cutmix or 1.0, keys[1]), sample_beta(count, mixup or 1.0, keys[2]))
    # A rotation by 1 to b - 1 rows pairs every image with a different one.
    shift = tf.random.stateless_uniform([], keys[3], 1, tf.maximum(count, 2), tf.int32, alg="philox")
    partners, partner_labels = tf.roll(images, shift, axis=0), tf.roll(labels, shift, axis=0)
    results = []
    if cutmix:
        masks, areas = rectangle_masks(draws[:, 1], draws[:, 2], weights, height, width)
        weights = tf.where(is_cut, 1 - areas, weights)
        results.append(tf.where(masks[..., None], partners, images))
    if mixup:
        own = tf.cast(weights[:, None, None, None], tf.float32)
        blend = own * tf.cast(images, tf.float32) + (1 - own) * tf.cast(partners, tf.float32)
        results.append(tf.cast(tf.round(blend), tf.uint8))
    images = results[0] if len(results) == 1 else tf.where(is_cut[:, None, None, None], *results)
    own = weights[:, None]
    return images, own * tf.one_hot(labels, classes) + (1 - own) * tf.one_hot(partner_labels, classes)


def rectangle_masks(
    y: tf.Tensor, x: tf.Tensor, weights: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (masks bool [b, h, w], True inside the rectangles; the rectangles' shares of the area, float32 [b]).

    `y` and `x` [b] in [0, 1) are the centres. The sides are sqrt(1 - weight) times the image's, clipped at its border
    (Yun et al. 2019, equation 2).
    """

    def span(centre: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.floor(tf.sqrt(1 - weights) * size)
        middle = tf.floor(centre * size)
        first = tf.maximum(middle - tf.floor(length / 2), 0)
        last = tf.minimum(middle - tf.floor(length / 2) + length, float(size))
        positions = tf.range(size, dtype=tf.float32)
        return (positions >= first[:, None]) & (positions < last[:, None]), (last - first) / size

    rows, row_share = span(y, height)
    columns, column_share = span(x, width)
    return rows[:, :, None] & columns[:, None, :], row_share * column_share


def sample_beta(count: tf.Tensor, concentration: float, key: tf.Tensor) -> tf.Tensor:
    """Draws `count` samples of Beta(concentration, concentration), float32 [count], as ratios of Gamma samples."""
    gammas = tf.random.stateless_gamma([count, 2], key, alpha=concentration)
    total = tf.reduce_sum(gammas, axis=1)
    # At a small concentration both samples may underflow to 0 in float32. The limit of the ratio is 0 or 1.
    return tf.where(
        total > 0, gammas[:, 0] / tf.maximum(total, 1e-30), tf.cast(gammas[:, 0] >= gammas[:, 1], tf.float32)
    )
