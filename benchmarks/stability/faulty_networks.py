"""The suite's networks with one thing wrong in each, as user networks: `faulty_networks.py:MUTATION__NETWORK`.

    config = ModelConfig(name=mutant("sigmoid", "resnet9"))
    model = network.create(config, (32, 32, 3), classes=10)

A mutation changes the layers of a sound network, or builds it anew where layers are added. All layers stay Keras's or
evenkeel's own, so that a repair can find and change them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import tf_keras as keras

from evenkeel.benchmarks.stability import networks
from evenkeel.models.networks.resnet import resnet9

layers = keras.layers
Shape = tuple[int, int, int]
BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "cnn": networks.cnn,
    "resnet9": functools.partial(resnet9, width=networks.WIDTH),
    "plain": networks.plain,
}


def mutant(mutation: str, network: str) -> str:
    """What `model.name` says for it."""
    return f"{os.path.abspath(__file__)}:{mutation}__{network}"


# Of layers: a layer -> what takes its place.


def sigmoid(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Every ReLU is a sigmoid."""
    if isinstance(layer, layers.ReLU):
        return layers.Activation("sigmoid", name=layer.name)
    if getattr(layer, "activation", None) is keras.activations.relu:
        return changed(layer, activation="sigmoid")
    return same(layer)


def steep_tanh(layer: keras.layers.Layer, times: float = 30.0) -> keras.layers.Layer:
    """Every ReLU behind a BatchNorm is a tanh, and the scale so many times too large: nearly all is at an asymptote."""
    if isinstance(layer, layers.ReLU):
        return layers.Activation("tanh", name=layer.name)
    if isinstance(layer, layers.BatchNormalization):
        return changed(layer, gamma_initializer=keras.initializers.Constant(times))
    return same(layer)


def dying(layer: keras.layers.Layer, offset: float) -> keras.layers.Layer:
    """What comes into a ReLU starts so far below zero that hardly any unit is ever on."""
    if isinstance(layer, layers.BatchNormalization):
        return changed(layer, beta_initializer=keras.initializers.Constant(offset))
    if getattr(layer, "activation", None) is keras.activations.relu:
        return changed(layer, bias_initializer=keras.initializers.Constant(offset))
    return same(layer)


def initialized(layer: keras.layers.Layer, initializer: Any) -> keras.layers.Layer:
    """Kernels start as `initializer` says."""
    return changed(layer, kernel_initializer=initializer) if has_kernel(layer) else same(layer)


def frozen(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Only the layer of the logits trains."""
    return changed(layer, trainable=layer.name == "logits")


def unnormalized(layer: keras.layers.Layer) -> keras.layers.Layer:
    """No BatchNorm; kernels get the offset that it had."""
    if isinstance(layer, layers.BatchNormalization):
        return layers.Activation("linear", name=layer.name)
    return changed(layer, use_bias=True) if has_kernel(layer) else same(layer)


def slow_norm(layer: keras.layers.Layer, momentum: float) -> keras.layers.Layer:
    """BatchNorm's moving statistics keep this much at each step."""
    return changed(layer, momentum=momentum) if isinstance(layer, layers.BatchNormalization) else same(layer)


def same(layer: keras.layers.Layer) -> keras.layers.Layer:
    return changed(layer)


def changed(layer: keras.layers.Layer, **options: Any) -> keras.layers.Layer:
    return layer.__class__.from_config({**layer.get_config(), **options})


def has_kernel(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (layers.Conv2D, layers.Dense))


def he_normal(times: float) -> dict[str, Any]:
    """He et al. 2015, the weights so many times as large."""
    return each(keras.initializers.VarianceScaling(2.0 * times**2, mode="fan_in", distribution="untruncated_normal"))


def each(initializer: keras.initializers.Initializer) -> dict[str, Any]:
    """One of its own for each layer: Keras's draw the same numbers when they are called again."""
    return keras.initializers.serialize(initializer)


# Of networks.


def of_layers(change: Callable[[keras.layers.Layer], keras.layers.Layer], build: Callable, shape: Shape, classes: int):
    return keras.models.clone_model(build(shape, classes), clone_function=change)


def ending(last: list[Callable[[], keras.layers.Layer]], build: Callable, shape: Shape, classes: int) -> keras.Model:
    """Layers behind the logits, which do not belong there."""
    model = build(shape, classes)
    x = model.output
    for layer in last:
        x = layer()(x)
    return keras.Model(model.input, x, name=model.name)


def built(options: dict[str, Any], build: Callable, shape: Shape, classes: int) -> keras.Model:
    return build(shape, classes, **options)


def layerwise(change: Callable, **options: Any) -> Callable:
    return functools.partial(of_layers, functools.partial(change, **options))


def output(activation: str) -> Callable:
    return functools.partial(ending, [lambda: layers.Activation(activation, name="output")])


def there_and_back(times: float) -> Callable:
    """Logits are scaled by `times` squared and back again, which changes nothing but in half precision.

    In two steps each: float16 ends at 65504, and its least number is 6e-8.
    """
    scales = [times, times, 1 / times, 1 / times]
    return functools.partial(ending, [functools.partial(layers.Rescaling, scale) for scale in scales])


MUTATIONS: dict[str, Callable[..., keras.Model]] = {
    "sigmoid": layerwise(sigmoid),
    "steep_tanh": layerwise(steep_tanh),
    "dying": layerwise(dying, offset=-4.0),
    "zeros": layerwise(initialized, initializer="zeros"),
    "tiny": layerwise(initialized, initializer=each(keras.initializers.RandomNormal(stddev=1e-4))),
    "huge": layerwise(initialized, initializer=he_normal(30.0)),
    "frozen": layerwise(frozen),
    "unnormalized": layerwise(unnormalized),
    "slow_norm_4": layerwise(slow_norm, momentum=0.9999),
    "slow_norm_3": layerwise(slow_norm, momentum=0.999),
    "softmax": output("softmax"),
    "relu_output": output("relu"),
    "tanh_output": output("tanh"),
    "large_logits": there_and_back(300.0),
    "small_logits": there_and_back(1e-4),
    # For networks that no option of evenkeel's reaches.
    "dropout_80": functools.partial(built, {"dropout": 0.8}),
    "dropout_90": functools.partial(built, {"dropout": 0.9}),
    "l2": functools.partial(built, {"l2": 0.1}),
    "deep": functools.partial(built, {"depth": 5}),
}


def __getattr__(name: str) -> Callable[[Shape, int], keras.Model]:
    """`MUTATION__NETWORK`, a function of (input_shape, classes)."""
    mutation, _, network = name.partition("__")
    if mutation not in MUTATIONS or network not in BUILDERS:
        raise AttributeError(name)
    return functools.partial(MUTATIONS[mutation], BUILDERS[network])
