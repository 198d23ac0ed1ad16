"""The activation function of a layer and its asymptotes.

low, high = asymptotes(layer) or (None, None)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.layers import is_users_own

OPERATIONS = {"nn.softmax": "softmax", "math.sigmoid": "sigmoid", "nn.sigmoid": "sigmoid", "sigmoid": "sigmoid"}
ASYMPTOTE_INPUT = 50.0  # every activation in use has reached its asymptote at this distance from zero


def asymptotes(layer: keras.layers.Layer) -> tuple[float | None, float | None] | None:
    """The limits of the layer's activation at minus and plus infinity; None for a side without a limit.

    Returns None for a layer without an activation; linear and softmax count as none.
    """
    function = activation_function(layer)
    if function is None or function in (keras.activations.linear, keras.activations.softmax):
        return None
    inputs = tf.constant([-2 * ASYMPTOTE_INPUT, -ASYMPTOTE_INPUT, ASYMPTOTE_INPUT, 2 * ASYMPTOTE_INPUT])
    lowest, low, high, highest = np.asarray(function(inputs), np.float64)
    return _limit(low, lowest), _limit(high, highest)


def grows_faster_than_linearly(layer: keras.layers.Layer) -> bool:
    """Whether the layer's activation more than triples if its input doubles, as an exponential or a square does."""
    function = activation_function(layer)
    if function is None or function in (keras.activations.linear, keras.activations.softmax):
        return False
    near, far = np.abs(np.asarray(function(tf.constant([[-20.0, 20.0], [-40.0, 40.0]])), np.float64))
    return bool((far > 3 * near + 1).any())


def activation_function(layer: keras.layers.Layer) -> Callable | None:
    """The elementwise function that the layer applies last; None if it has none."""
    is_activation_layer = isinstance(layer, (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU))
    return layer.call if is_activation_layer else getattr(layer, "activation", None)


def named_activation(layer: keras.layers.Layer) -> str:
    """ "softmax" or "sigmoid" if the layer ends in one of them; "" for any other layer, and for the user's own."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if hasattr(layer, "symbol"):  # an operation of TensorFlow that is called in a functional model
        return OPERATIONS.get(layer.symbol, "")
    function = None if is_users_own(layer) else getattr(layer, "activation", None)
    if function in (keras.activations.softmax, tf.nn.softmax):
        return "softmax"
    return "sigmoid" if function in (keras.activations.sigmoid, tf.nn.sigmoid) else ""


def _limit(near: float, far: float) -> float | None:
    # Rounded because swish and GELU come within 1e-20 of zero, but do not reach it.
    return round(float(near), 6) + 0.0 if abs(near - far) < 1e-6 else None
