"""The loss of a classifier."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("evenkeel")
class Crossentropy(keras.losses.Loss):
    """Softmax cross-entropy of integer labels [b] and logits [b, classes], in float32.

    `smoothing` is the share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, smoothing: float = 0.0, name: str = "crossentropy", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(tf.reshape(y_true, [-1]), tf.int64)
        if self.smoothing == 0:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)
        classes = y_pred.shape[-1]
        target = tf.one_hot(labels, classes, 1 - self.smoothing + self.smoothing / classes, self.smoothing / classes)
        return tf.nn.softmax_cross_entropy_with_logits(target, y_pred)

    def get_config(self) -> dict:
        return {**super().get_config(), "smoothing": self.smoothing}
