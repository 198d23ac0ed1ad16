"""Classification losses of logits [b, classes] against labels int [b] or targets float [b, classes] that sum to 1."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.optim.addons import require_addons


def create_loss(name: str, smoothing: float = 0.0, gamma: float = 2.0) -> keras.losses.Loss:
    """Creates the loss called `name`: `crossentropy` with label smoothing, or `focal` with `gamma`.

    Raises:
      UsageError: `focal` without tensorflow-addons.
    """
    return Focal(gamma) if name == "focal" else Crossentropy(smoothing)


def balanced_class_weights(counts: np.ndarray) -> list[float]:
    """Returns a weight per class: all classes have the same total weight, and the mean weight over examples is 1.

    `counts` is the number of examples of each class [classes]; a class without examples gets weight 0.
    """
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0).tolist()


def one_hot_targets(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Returns targets, float32 [b, classes]: labels as one-hot rows; targets of this shape keep their values."""
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_floating and len(labels.shape) == 2:
        return tf.cast(labels, tf.float32)
    return tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), classes)


def chance_loss(loss: keras.losses.Loss, classes: int) -> float | None:
    """The loss of equal logits for all classes: ln(classes) for a cross-entropy of logits, None for other losses.

    Label smoothing does not change this value: with equal logits the loss is ln(classes) for every target.
    """
    keras_losses = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)
    is_crossentropy = isinstance(loss, Crossentropy) or (
        isinstance(loss, keras_losses) and loss.get_config()["from_logits"]
    )
    return math.log(classes) if is_crossentropy else None


@keras.utils.register_keras_serializable("evenkeel")
class Crossentropy(keras.losses.Loss):
    """Softmax cross-entropy, computed in float32.

    `smoothing` is the share of the target that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, smoothing: float = 0.0, name: str = "crossentropy", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        y_true = tf.convert_to_tensor(y_true)
        if self.smoothing == 0 and not y_true.dtype.is_floating:
            labels = tf.cast(tf.reshape(y_true, [-1]), tf.int64)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)
        classes = y_pred.shape[-1]
        target = one_hot_targets(y_true, classes) * (1 - self.smoothing) + self.smoothing / classes
        return tf.nn.softmax_cross_entropy_with_logits(target, y_pred)

    def get_config(self) -> dict:
        return {**super().get_config(), "smoothing": self.smoothing}


@keras.utils.register_keras_serializable("evenkeel")
class Focal(keras.losses.Loss):
    """Sigmoid focal loss of tensorflow-addons, summed over classes (Lin et al. 2017, equation 5; alpha 0.25).

    The larger `gamma`, the less well-classified examples count; 0 gives alpha-balanced cross-entropy.
    """

    def __init__(self, gamma: float = 2.0, name: str = "focal", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.gamma = gamma
        self._focal = require_addons("loss=focal").losses.sigmoid_focal_crossentropy

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        target = one_hot_targets(y_true, y_pred.shape[-1])
        return self._focal(target, y_pred, alpha=0.25, gamma=self.gamma, from_logits=True)

    def get_config(self) -> dict:
        return {**super().get_config(), "gamma": self.gamma}
