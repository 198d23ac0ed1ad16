"""Dropout with reproducible masks, tables of layers, and functions of a layer: its kernel, copy, place in a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("evenkeel")
class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) with masks that are a function of (seed, layer, step, replica).

    In training the layer sets a share `rate` of its inputs to zero and multiplies the rest by 1 / (1 - rate). Keras's
    own Dropout draws from a stateful generator that checkpoints do not save.

    Attributes:
      rate: probability that a value is dropped.
      noise_shape: shape of the mask, which is broadcast; None entries take the input's size.
      seed: (seed of the run, number of the layer); set by `StableModel`.
      step: returns the step being trained, int64 []; set by `StableModel`.
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
            raise ValueError(f"layer {self.name} has no step, which its masks need: train it inside a StableModel.")
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        # The algorithm is given, because XLA's default differs. Bits are drawn instead of floats, because XLA converts
        # the same bits to different floats.
        key = tf.random.experimental.stateless_fold_in(tf.constant(self.seed), self.step(), alg="philox")
        key = tf.random.experimental.stateless_fold_in(key, replica, alg="philox")
        shape = tf.shape(inputs)
        if self.noise_shape is not None:
            shape = [shape[i] if size is None else size for i, size in enumerate(self.noise_shape)]
        bits = tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
        mask = bits >= tf.constant(int(self.rate * 2**32), tf.uint32)
        return inputs * tf.cast(mask, inputs.dtype) / (1 - self.rate)

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}


NORM_LAYERS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization)
DROPOUT_LAYERS = (
    Dropout,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)


def kernel(layer: keras.layers.Layer) -> tf.Variable | None:
    """The layer's kernel, trainable or frozen; None if it has none."""
    return next((v for v in layer.weights if "kernel" in v.name), None)


def trainable_kernel(layer: keras.layers.Layer) -> tf.Variable | None:
    """The layer's kernel if it is trainable; None if it is frozen or the layer has none."""
    return next((v for v in layer.trainable_weights if "kernel" in v.name), None)


def is_users_own(layer: keras.layers.Layer) -> bool:
    """Whether the layer is of a class of the user: what its `call` does cannot be seen from outside."""
    return type(layer).__module__.partition(".")[0] not in ("tf_keras", "evenkeel")


def is_functional(layer: keras.layers.Layer) -> bool:
    """Whether the layer is a model with a graph of layers, such as a nested functional model."""
    return isinstance(layer, keras.Model) and layer._is_graph_network


def leaf_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers of `network` that have no layers inside, in order; also those inside of nested models and layers."""
    return [
        layer
        for layer in network._flatten_layers(include_self=False)
        if not any(True for _ in layer._flatten_layers(recursive=False, include_self=False))
    ]


def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer with the same configuration and new weights; the same layer if its class is the user's own.

    Few classes of users have a configuration that restores them.
    """
    if is_users_own(layer):
        return layer
    config = layer.get_config()
    if isinstance(layer, keras.layers.BatchNormalization):
        config["synchronized"] = layer.synchronized  # missing in Keras's own config
    return layer.__class__.from_config(config)


def first_call(network: keras.Model, layer: keras.layers.Layer) -> tuple[Any, Any]:
    """(inputs, outputs) of the layer's first call in the functional model `network`, as Keras tensors.

    A layer that networks share has calls in each of them.
    """
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            if node.layer is layer:
                return node.input_tensors, node.outputs
    raise ValueError(f"{network.name} does not call {layer.name}")
