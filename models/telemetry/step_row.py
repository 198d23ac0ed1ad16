"""The row of numbers that each training step reports, computed on the device and read by the host once per call."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# loss is the loss of the labels, and penalty the sum of the regularization losses of the layers, both in nats;
# input_wait is in seconds. gradient_norm is the norm of the gradient of both without loss scaling. nonfinite is 1 if a
# non-finite gradient made every replica skip the update.
COLUMNS = ("loss", "accuracy", "penalty", "gradient_norm", "learning_rate", "loss_scale", "nonfinite", "input_wait")


def pack_row(**values: tf.Tensor) -> tf.Tensor:
    """Stacks all columns, float32 [len(COLUMNS) - 1], except input_wait, which is measured outside the replicas."""
    return tf.stack([tf.cast(values[name], tf.float32) for name in COLUMNS[:-1]])


def column(rows: np.ndarray, name: str) -> np.ndarray:
    """Returns the column `name`, [steps], of `rows`, [steps, len(COLUMNS)]."""
    return rows[:, COLUMNS.index(name)]
