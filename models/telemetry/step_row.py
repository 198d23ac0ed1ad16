"""What one step reports: a row of numbers, computed in the compiled step and read by the host once a call."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Units: loss in nats, learning_rate and gradient_norm after unscaling, input_wait in seconds; `nonfinite` is 1 where a
# non-finite gradient made every replica skip the update.
ROW = ("loss", "accuracy", "gradient_norm", "learning_rate", "loss_scale", "nonfinite", "input_wait")


def row(**values: tf.Tensor) -> tf.Tensor:
    """float32 [len(ROW) - 1]: all but the input wait, which is known outside the replicas."""
    return tf.stack([tf.cast(values[name], tf.float32) for name in ROW[:-1]])


def column(rows: np.ndarray, name: str) -> np.ndarray:
    """One number a step out of rows [steps, len(ROW)]."""
    return rows[:, ROW.index(name)]
