"""Keras metrics that are updated on the device during evaluation.

The module `scores` computes macro F1, kappa and similar scores from the confusion matrix.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

CONFIDENCE_BINS = 15  # as in Guo et al. 2017


class ConfusionMatrix(keras.metrics.Metric):
    """Sums of example weights, float32 [classes, classes]; rows are true classes, columns are predicted classes."""

    def __init__(self, classes: int, name: str = "confusion", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.matrix = self.add_weight("matrix", shape=[classes, classes], initializer="zeros", dtype=tf.float32)

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> tf.Operation:
        predicted = tf.argmax(y_pred, axis=-1)
        weights = tf.ones_like(predicted, tf.float32) if sample_weight is None else sample_weight
        indices = tf.stack([tf.cast(y_true, tf.int64), predicted], axis=1)
        return self.matrix.assign_add(tf.scatter_nd(indices, weights, self.matrix.shape))

    def result(self) -> tf.Tensor:
        return tf.identity(self.matrix)

    def reset_state(self) -> None:
        self.matrix.assign(tf.zeros_like(self.matrix))


class Calibration(keras.metrics.Metric):
    """Sums from which the calibration error is computed, for each bin of confidence, float32 [3, CONFIDENCE_BINS].

    The first row is the sum of example weights. The other rows are the weighted sums of confidence (the largest
    probability) and of correct predictions.
    """

    def __init__(self, name: str = "calibration", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.sums = self.add_weight("sums", shape=[3, CONFIDENCE_BINS], initializer="zeros", dtype=tf.float32)

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor) -> tf.Operation:
        confidence = tf.reduce_max(tf.nn.softmax(y_pred), axis=-1)
        correct = tf.cast(tf.argmax(y_pred, axis=-1) == tf.cast(y_true, tf.int64), tf.float32)
        bins = tf.minimum(tf.cast(confidence * CONFIDENCE_BINS, tf.int32), CONFIDENCE_BINS - 1)
        values = tf.stack([tf.ones_like(confidence), confidence, correct]) * sample_weight
        return self.sums.assign_add(tf.matmul(values, tf.one_hot(bins, CONFIDENCE_BINS)))

    def result(self) -> tf.Tensor:
        return tf.identity(self.sums)

    def reset_state(self) -> None:
        self.sums.assign(tf.zeros_like(self.sums))
