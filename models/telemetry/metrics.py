"""What evaluation counts on the device, as Keras metrics; `scores.py` makes figures of it."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

BINS = 15  # of confidence, as Guo et al. 2017


class ConfusionMatrix(keras.metrics.Metric):
    """Weights of examples by true class (row) and predicted class (column), float32 [classes, classes]."""

    def __init__(self, classes: int, name: str = "confusion", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.matrix = self.add_weight("matrix", shape=[classes, classes], initializer="zeros", dtype=tf.float32)

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> tf.Operation:
        predicted = tf.argmax(y_pred, axis=-1)
        weights = tf.ones_like(predicted, tf.float32) if sample_weight is None else sample_weight
        places = tf.stack([tf.cast(y_true, tf.int64), predicted], axis=1)
        return self.matrix.assign_add(tf.scatter_nd(places, weights, self.matrix.shape))

    def result(self) -> tf.Tensor:
        return tf.identity(self.matrix)

    def reset_state(self) -> None:
        self.matrix.assign(tf.zeros_like(self.matrix))


class Calibration(keras.metrics.Metric):
    """float32 [3, BINS]: sums of weights, of confidence (the largest probability) and of being right, by confidence."""

    def __init__(self, name: str = "calibration", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.sums = self.add_weight("sums", shape=[3, BINS], initializer="zeros", dtype=tf.float32)

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor) -> tf.Operation:
        confidence = tf.reduce_max(tf.nn.softmax(y_pred), axis=-1)
        right = tf.cast(tf.argmax(y_pred, axis=-1) == tf.cast(y_true, tf.int64), tf.float32)
        places = tf.minimum(tf.cast(confidence * BINS, tf.int32), BINS - 1)
        values = tf.stack([tf.ones_like(confidence), confidence, right]) * sample_weight
        return self.sums.assign_add(tf.matmul(values, tf.one_hot(places, BINS)))

    def result(self) -> tf.Tensor:
        return tf.identity(self.sums)

    def reset_state(self) -> None:
        self.sums.assign(tf.zeros_like(self.sums))
