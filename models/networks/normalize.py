"""The model's first layer: normalizes uint8 pixels by the data set's statistics or by each image's own.

Because it is part of the model, every program that serves the model normalizes as training did, and the host sends one
byte per channel to the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("evenkeel")
class Normalize(keras.layers.Layer):
    """Computes (x - mean) / std per channel in float32, and returns it in the layer's compute dtype.

    Attributes:
      mean: one number per channel, in units of 0 to 255; 0 and a std of 1 leave the pixels unchanged.
      std: standard deviation of each channel, in the same units.
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
    """Computes (x - mean) / std of each image over all its pixels and channels; dtypes as in `Normalize`.

    As in `tf.image.per_image_standardization`, the standard deviation is at least 1 / sqrt(pixels * channels), so that
    an image of one colour becomes zeros. The brightness and contrast of an image are lost: use this layer if they carry
    no information.
    """

    def call(self, images: tf.Tensor) -> tf.Tensor:
        x = tf.cast(images, tf.float32)
        mean, variance = tf.nn.moments(x, axes=(1, 2, 3), keepdims=True)
        min_variance = 1 / tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32)
        return tf.cast((x - mean) * tf.math.rsqrt(tf.maximum(variance, min_variance)), self.compute_dtype)
