"""The model's first layer: uint8 pixels in, zero mean and unit deviation out, of the data set or of each image.

It lives in the model, so whatever serves the model normalizes as training did, and the host ships one byte a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("evenkeel")
class Normalize(keras.layers.Layer):
    """(x - mean) / std per channel, computed in float32, returned in the layer's compute dtype.

    `mean` and `std` are in units of 0..255, one number per channel; mean 0 and std 1 leave raw pixels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs) -> None:
        super().__init__(**kwargs)
        self.mean, self.std = [float(m) for m in mean], [float(s) for s in std]

    def call(self, images: tf.Tensor) -> tf.Tensor:
        scale = tf.constant([1 / s for s in self.std], tf.float32)
        return tf.cast((tf.cast(images, tf.float32) - tf.constant(self.mean)) * scale, self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "mean": self.mean, "std": self.std}


@keras.utils.register_keras_serializable("evenkeel")
class Standardize(keras.layers.Layer):
    """(x - mean) / std of each image, over all its pixels and channels; otherwise as `Normalize`.

    As `tf.image.per_image_standardization`, the deviation is taken to be at least 1 / sqrt(pixels and channels), so
    that an even image becomes zeros. Brightness and contrast of an image are gone: use it where they tell nothing.
    """

    def call(self, images: tf.Tensor) -> tf.Tensor:
        x = tf.cast(images, tf.float32)
        mean, variance = tf.nn.moments(x, axes=(1, 2, 3), keepdims=True)
        least = 1 / tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32)
        return tf.cast((x - mean) * tf.math.rsqrt(tf.maximum(variance, least)), self.compute_dtype)
