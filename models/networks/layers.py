"""Dropout whose masks are a function of (seed, layer, step, replica), and what a layer is: norm, dropout, kernel."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("evenkeel")
class Dropout(keras.layers.Layer):
    """Zeroes a share `rate` of its inputs in training and scales the rest by 1 / (1 - rate) (Srivastava et al. 2014).

    Keras's own draws from a stateful generator that checkpoints do not hold. `StableModel` sets `seed`, two numbers for
    the run and the layer, and `step`, which returns the step being trained (int64 []).
    """

    def __init__(self, rate: float, noise_shape: tuple[int | None, ...] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rate, self.noise_shape = rate, noise_shape
        self.seed: tuple[int, int] | None = None
        self.step: Callable[[], tf.Tensor] | None = None

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or self.rate == 0:
            return inputs
        if self.step is None or self.seed is None:
            raise ValueError(f"layer {self.name} has no step to key its masks by: train it inside a StableModel.")
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        # The algorithm by name, and bits: XLA would choose another one and makes other floats of the same bits.
        key = tf.random.experimental.stateless_fold_in(tf.constant(self.seed), self.step(), alg="philox")
        key = tf.random.experimental.stateless_fold_in(key, replica, alg="philox")
        shape = tf.shape(inputs)
        if self.noise_shape is not None:
            shape = [shape[i] if size is None else size for i, size in enumerate(self.noise_shape)]
        bits = tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
        kept = bits >= tf.constant(int(self.rate * 2**32), tf.uint32)
        return inputs * tf.cast(kept, inputs.dtype) / (1 - self.rate)

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}


NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization)
DROPOUTS = (
    Dropout,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)


def kernel(layer: keras.layers.Layer) -> tf.Variable | None:
    """The layer's kernel, trained or frozen; None if it has none."""
    return next((v for v in layer.weights if "kernel" in v.name), None)


def trainable_kernel(layer: keras.layers.Layer) -> tf.Variable | None:
    """The layer's kernel if it is trained; None if it has none or it is frozen."""
    return next((v for v in layer.trainable_weights if "kernel" in v.name), None)
