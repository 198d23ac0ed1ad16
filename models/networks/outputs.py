"""Turns the outputs of any classifier into logits: probabilities, and one unit for two classes, are common elsewhere.

    network, change = convert_to_logits(network, classes=2)
    print(change)      # "dense_1 ends in sigmoid: the network is trained on the logit before it", or ""

The loss is computed from logits, because the logarithm of a probability loses precision. A softmax or a sigmoid that
Keras can name is taken off. Behind a `call` of the user's own it cannot be, and logarithms are appended: the softmax of
log(p) is p.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.activations import named_activation
from evenkeel.models.networks.layers import is_functional, is_users_own
from evenkeel.pipeline.errors import UsageError

layers = keras.layers
MIN_PROBABILITY = 1e-7  # Keras's own losses clip probabilities here
PROBE_IMAGES, LARGE_IMAGES = 4, 1e3  # images of normal noise; times LARGE_IMAGES, a linear unit leaves [0, 1]
SUM_TOLERANCE = 0.02  # bfloat16 has 3 significant digits


@keras.utils.register_keras_serializable("evenkeel")
class PairOfLogits(keras.layers.Layer):
    """The logit of one unit [b, 1] as logits of two classes [b, 2]: softmax((0, z)) = (1 - sigmoid(z), sigmoid(z))."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.zeros_like(inputs), inputs], axis=1)


@keras.utils.register_keras_serializable("evenkeel")
class LogProbabilities(keras.layers.Layer):
    """Logarithms of probabilities [b, classes]; of one probability p [b, 1], those of 1 - p and p [b, 2]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = tf.cast(inputs, tf.float32)
        if x.shape[-1] == 1:
            x = tf.concat([1 - x, x], axis=1)
        return tf.math.log(tf.maximum(x, MIN_PROBABILITY))


def convert_to_logits(network: keras.Model, classes: int) -> tuple[keras.Model, str]:
    """Returns a functional model with logits [b, classes] and the weights of `network`, and what differs in words.

    `network` is functional, with outputs [b, classes] or, for two classes, [b, 1]: the score of the second class. The
    words are empty if its outputs are logits already.

    Raises:
      UsageError: the network ends in a softmax of one unit, which is always 1.
    """
    units = network.output_shape[-1]
    output = network.outputs[0]
    layer = _last_layer(network)
    name = named_activation(layer)
    if units == 1 and name == "softmax":
        raise UsageError(
            f"the network ends in {layer.name}, a softmax of one unit, which is always 1: use {classes} units, or"
            " activation='sigmoid'."
        )
    change = ""
    if name == ("sigmoid" if units == 1 else "softmax"):
        output = _without_last_activation(network)
        change = f"{layer.name} ends in {name}: the network is trained on the logits before it"
    elif _hides_its_end(layer) and _gives_probabilities(network):
        output = LogProbabilities(name="log_probabilities", dtype="float32")(output)
        change = f"{layer.name} gives probabilities: the network is trained on their logarithms"
    if units == 1 and output.shape[-1] == 1:
        change = change or f"{layer.name} is one unit for two classes: it is taken as the logit of the second class"
        output = PairOfLogits(name="pair_of_logits")(output)
    return (keras.Model(network.inputs, output, name=network.name) if change else network), change


def _last_layer(network: keras.Model) -> keras.layers.Layer:
    """The layer that computes the output, inside nested functional models as well."""
    layer = network.outputs[0]._keras_history.layer
    return _last_layer(layer) if is_functional(layer) else layer


def _without_last_activation(network: keras.Model) -> tf.Tensor:
    """The output of `network` before its last activation."""
    history = network.outputs[0]._keras_history
    layer, inputs = history.layer, history.layer.get_input_at(history.node_index)
    if is_functional(layer):
        return keras.Model(layer.inputs, _without_last_activation(layer), name=layer.name)(inputs)
    if not layer.weights:  # an activation layer, or an operation
        return inputs
    linear = layer.__class__.from_config({**layer.get_config(), "activation": "linear"})
    output = linear(inputs)
    linear.set_weights(layer.get_weights())
    return output


def _hides_its_end(layer: keras.layers.Layer) -> bool:
    return is_users_own(layer) or isinstance(layer, layers.Lambda) or hasattr(layer, "symbol")


def _gives_probabilities(network: keras.Model) -> bool:
    """Whether the outputs of noise are probabilities that sum to 1 or, of one unit, stay in [0, 1] for huge inputs."""
    images = np.random.default_rng(0).normal(size=(PROBE_IMAGES, *network.input_shape[1:])).astype(np.float32)
    usual, large = (np.asarray(network(x, training=False), np.float64) for x in (images, LARGE_IMAGES * images))
    if usual.shape[1] > 1:
        return bool((usual >= 0).all() and (np.abs(usual.sum(axis=1) - 1) < SUM_TOLERANCE).all())
    bounded = ((usual >= 0) & (usual <= 1)).all() and ((large >= 0) & (large <= 1)).all()
    return bool(bounded and ((usual > 0) & (usual < 1)).any())
