"""The activation of a layer, and the values it tends to far from zero.

low, high = asymptotes(layer) or (None, None)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

FAR = 50.0  # every activation in use has reached its asymptote there


def asymptotes(layer: keras.layers.Layer) -> tuple[float | None, float | None] | None:
    """What the layer's activation tends to far below and far above zero, None for no limit; None if it has none."""
    function = activation(layer)
    if function is None or function in (keras.activations.linear, keras.activations.softmax):
        return None
    far = tf.constant([-2 * FAR, -FAR, FAR, 2 * FAR])
    lowest, low, high, highest = np.asarray(function(far), np.float64)
    return _limit(low, lowest), _limit(high, highest)


def activation(layer: keras.layers.Layer) -> Callable | None:
    """The function of each value that ends the layer; None where it has none."""
    own = isinstance(layer, (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU))
    return layer.call if own else getattr(layer, "activation", None)


def _limit(near: float, farther: float) -> float | None:
    # Swish and GELU come to within 1e-20 of zero.
    return round(float(near), 6) + 0.0 if abs(near - farther) < 1e-6 else None
