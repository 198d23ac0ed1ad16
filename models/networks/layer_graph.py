"""Faults that the order of a network's layers shows: missing activations, and images shrunk to a single pixel.

if layers_without_activation(network): ...
if shrinking_layers(network): ...
"""

from __future__ import annotations

import tf_keras as keras

from evenkeel.models.networks.layers import DROPOUT_LAYERS, NORM_LAYERS, kernel

layers = keras.layers
LINEAR = keras.activations.linear
MIN_MAP_PIXELS = 4  # height and width of the smallest map that a convolution of 3x3 pixels needs
POOLING_LAYERS = (layers.MaxPooling2D, layers.AveragePooling2D)
LINEAR_LAYERS = (*NORM_LAYERS, *DROPOUT_LAYERS, layers.ZeroPadding2D, layers.AveragePooling2D, layers.Flatten)


def layers_without_activation(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers that lack an activation, if two convolutions or two dense layers of `network` are one linear map.

    That is the case if only linear layers lie between them. Convolutions with a side of one pixel do not count: they
    are often linear on purpose, as in MobileNetV2's bottlenecks and in separable convolutions. Then every layer without
    an activation before the next kernel is returned, also if pooling follows; otherwise none.
    """
    lacking = {layer: _next_kernel(network, layer) for layer in network.layers if _is_linear(layer)}
    pairs = [layer for layer, (following, pooled) in lacking.items() if not pooled and _is_same_kind(layer, following)]
    return [layer for layer, (following, _) in lacking.items() if following is not None] if pairs else []


def shrinking_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers that shrink maps below `MIN_MAP_PIXELS`, if a convolution then sees maps of a single pixel; else none.

    Of such a convolution only the weight in the center has an effect.
    """
    starved = [
        number
        for number, layer in enumerate(network.layers)
        if _is_spatial(layer) and tuple(layer.get_input_at(0).shape[1:3]) == (1, 1)
    ]
    return [
        layer
        for layer in network.layers[: max(starved, default=0)]
        if max(_strides(layer)) > 1
        and min(size or MIN_MAP_PIXELS for size in layer.get_output_at(0).shape[1:3]) < MIN_MAP_PIXELS
    ]


def _next_kernel(network: keras.Model, layer: keras.layers.Layer) -> tuple[keras.layers.Layer | None, bool]:
    """(The next layer with a kernel, whether pooling lies before it); (None, False) if it is not the sole successor."""
    pooled = False
    while True:
        consumers = [node.layer for node in layer.outbound_nodes if any(node.layer is each for each in network.layers)]
        if len(consumers) != 1:
            return None, False
        layer = consumers[0]
        if kernel(layer) is not None and not isinstance(layer, keras.Model):
            return layer, pooled
        pooled |= isinstance(layer, layers.MaxPooling2D)
        if not isinstance(layer, (*LINEAR_LAYERS, layers.MaxPooling2D)):
            return None, False


def _is_linear(layer: keras.layers.Layer) -> bool:
    return (_is_spatial(layer) or isinstance(layer, layers.Dense)) and layer.activation is LINEAR


def _is_same_kind(layer: keras.layers.Layer, other: keras.layers.Layer | None) -> bool:
    return _is_spatial(other) if _is_spatial(layer) else isinstance(other, layers.Dense)


def _is_spatial(layer: keras.layers.Layer | None) -> bool:
    """Whether `layer` is a convolution over several channels and more than one pixel in each direction."""
    return layer is not None and type(layer) is layers.Conv2D and min(layer.kernel_size) > 1


def _strides(layer: keras.layers.Layer) -> tuple[int, ...]:
    return layer.strides if isinstance(layer, (*POOLING_LAYERS, layers.Conv2D)) else (1,)
