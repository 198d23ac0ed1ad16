"""The size of initial weights, and activations that no weights keep in bounds.

unusual_kernels(batch_pass.kernel_layers)       # {"conv2d_1": 8.5}: weights 8.5 times as large as He's
superlinear_activations(batch_pass.layers)      # {"conv2d": "exponential"}
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.activations import activation_function
from evenkeel.models.networks.layers import trainable_kernel

# Glorot's and LeCun's initializers have 0.5 to 1.4 times the deviation of He's; `doctor.interventions` has the same 3.
MAX_SIZE_RATIO = 3.0
SUPERLINEAR_INPUT = 20.0  # a linear function grows by 2 from here to twice as far, exp by 5e8


def unusual_kernels(kernel_layers: list[keras.layers.Layer]) -> dict[str, float]:
    """Returns {layer: root mean square of its kernel, divided by that of He's initializer} where it is unusual.

    He's deviation is sqrt(2 / fan_in) (He et al. 2015). Kernels of zeros do not count: the first step changes them.
    """
    ratios = {}
    for layer in kernel_layers:
        kernel = np.asarray(trainable_kernel(layer))
        fan_in = math.prod(kernel.shape[:-1])
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            fan_in = math.prod(kernel.shape[:2])
        size = float(np.sqrt(np.mean(np.square(kernel, dtype=np.float64))))
        ratio = size / math.sqrt(2 / max(1, fan_in))
        if size and not 1 / MAX_SIZE_RATIO / 2 < ratio < MAX_SIZE_RATIO:
            ratios[layer.name] = ratio
    return ratios


def superlinear_activations(network_layers: list[keras.layers.Layer]) -> dict[str, str]:
    """Returns {layer: name of its activation} for activations that grow faster than linearly, such as exp."""
    found = {}
    for layer in network_layers:
        function = activation_function(layer)
        if function in (None, keras.activations.linear, keras.activations.softmax):
            continue
        near, far = np.asarray(function(tf.constant([SUPERLINEAR_INPUT, 2 * SUPERLINEAR_INPUT])), np.float64)
        if far > 2.5 * near > 0:
            found[layer.name] = getattr(function, "__name__", type(layer).__name__)
    return found


def describe_kernels(ratios: dict[str, float]) -> str:
    """Describes unusual kernels, such as "conv2d_1 (weights 8.5 times as large as He's)"; the worst comes first."""
    worst = sorted(ratios, key=lambda name: -abs(math.log(ratios[name])))
    listed = ", ".join(f"{name} (weights {ratios[name]:.2g} times as large as He's)" for name in worst[:3])
    return listed + (f" and {len(worst) - 3} more" if worst[3:] else "")
