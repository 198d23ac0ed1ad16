"""Builds faulty networks: a network of the suite with a mutation, as `faulty_networks.py:MUTATION__NETWORK`.

    config = ModelConfig(name=model_name("sigmoid", "resnet9"))
    model = factory.create_network(config, (32, 32, 3), classes=10)

A mutation changes the layers of a clean network, or builds the network again with additional layers. All layers are
layers of Keras or evenkeel, so that a repair can find and change them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import tf_keras as keras

from evenkeel.benchmarks.stability import networks, published_networks, recipes
from evenkeel.models.networks.resnet import resnet9

layers = keras.layers
Shape = tuple[int, int, int]
BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "cnn": networks.cnn,
    "resnet9": functools.partial(resnet9, width=networks.WIDTH),
    "plain": networks.plain,
    **{recipe.network: getattr(published_networks, recipe.network) for recipe in recipes.RECIPES.values()},
}


def model_name(mutation: str, network: str) -> str:
    """Returns the value of the option `model.name` for a network with a mutation."""
    return f"{os.path.abspath(__file__)}:{mutation}__{network}"


# Mutations of single layers: each function takes a layer and returns its replacement.


def replace_relu(layer: keras.layers.Layer, activation: str) -> keras.layers.Layer:
    if isinstance(layer, layers.ReLU):
        return layers.Activation(activation, name=layer.name)
    if getattr(layer, "activation", None) is keras.activations.relu:
        return copy_layer(layer, activation=activation)
    return copy_layer(layer)


def replace_relu_by_steep_tanh(layer: keras.layers.Layer, gamma: float = 30.0) -> keras.layers.Layer:
    """Replaces each ReLU by tanh and initializes BatchNorm's scale to `gamma`, so that nearly all outputs saturate."""
    if isinstance(layer, layers.ReLU):
        return layers.Activation("tanh", name=layer.name)
    if isinstance(layer, layers.BatchNormalization):
        return copy_layer(layer, gamma_initializer=keras.initializers.Constant(gamma))
    return copy_layer(layer)


def remove_relu(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Removes every ReLU, and pools by the mean, so that the whole network is linear but for BatchNorm."""
    if isinstance(layer, layers.MaxPooling2D):
        return layers.AveragePooling2D(layer.pool_size, layer.strides, layer.padding, name=layer.name)
    if isinstance(layer, layers.ReLU):
        return layers.Dropout(0.0, name=layer.name)
    if getattr(layer, "activation", None) is keras.activations.relu:
        return copy_layer(layer, activation="linear")
    return copy_layer(layer)


def shift_relu_inputs(layer: keras.layers.Layer, offset: float) -> keras.layers.Layer:
    """Initializes the bias before each ReLU to `offset`. If this is far below zero, almost no unit is ever active."""
    if isinstance(layer, layers.BatchNormalization):
        return copy_layer(layer, beta_initializer=keras.initializers.Constant(offset))
    if getattr(layer, "activation", None) is keras.activations.relu:
        return copy_layer(layer, bias_initializer=keras.initializers.Constant(offset))
    return copy_layer(layer)


def set_kernel_initializer(layer: keras.layers.Layer, initializer: Any) -> keras.layers.Layer:
    return copy_layer(layer, kernel_initializer=initializer) if has_kernel(layer) else copy_layer(layer)


def freeze_all_but_logits(layer: keras.layers.Layer) -> keras.layers.Layer:
    return copy_layer(layer, trainable=layer.name == "logits")


def penalize_kernels(layer: keras.layers.Layer, factor: float) -> keras.layers.Layer:
    """Sets the L2 penalty of a kernel."""
    if not has_kernel(layer):
        return copy_layer(layer)
    return copy_layer(layer, kernel_regularizer=keras.regularizers.serialize(keras.regularizers.L2(factor)))


def take_filters_away(layer: keras.layers.Layer, divisor: int) -> keras.layers.Layer:
    """Divides the filters of a convolution and the units of a hidden layer by `divisor`."""
    for size in ("filters", "units"):
        if getattr(layer, size, None) and layer.name != "logits":
            return copy_layer(layer, **{size: max(1, getattr(layer, size) // divisor)})
    return copy_layer(layer)


def remove_batch_norm(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Removes BatchNorm. Layers with a kernel get a bias, which replaces the offset of BatchNorm."""
    if isinstance(layer, layers.BatchNormalization):
        return layers.Activation("linear", name=layer.name)
    return copy_layer(layer, use_bias=True) if has_kernel(layer) else copy_layer(layer)


def set_batch_norm_momentum(layer: keras.layers.Layer, momentum: float) -> keras.layers.Layer:
    """Sets the momentum of BatchNorm, the fraction of its moving statistics that each step keeps."""
    return copy_layer(layer, momentum=momentum) if isinstance(layer, layers.BatchNormalization) else copy_layer(layer)


def copy_layer(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """Returns a new layer with the configuration of `layer` and some changes."""
    return layer.__class__.from_config({**layer.get_config(), **changes})


def has_kernel(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (layers.Conv2D, layers.Dense))


def scaled_he_normal(factor: float) -> dict[str, Any]:
    """Returns the initializer of He et al. 2015 with weights that are `factor` times as large."""
    return serialize_initializer(
        keras.initializers.VarianceScaling(2.0 * factor**2, mode="fan_in", distribution="untruncated_normal")
    )


def serialize_initializer(initializer: keras.initializers.Initializer) -> dict[str, Any]:
    """Returns the configuration. Each layer builds its own initializer, because one repeats the same numbers."""
    return keras.initializers.serialize(initializer)


# Mutations of whole networks.


def clone_with(change: Callable[[keras.layers.Layer], keras.layers.Layer], build: Callable, shape: Shape, classes: int):
    """Builds the network and applies `change` to every layer."""
    return keras.models.clone_model(build(shape, classes), clone_function=change)


def append_layers(
    new_layers: list[Callable[[], keras.layers.Layer]], build: Callable, shape: Shape, classes: int
) -> keras.Model:
    """Builds the network with additional layers after the logits."""
    model = build(shape, classes)
    x = model.output
    for new_layer in new_layers:
        x = new_layer()(x)
    return keras.Model(model.input, x, name=model.name)


def build_with_options(options: dict[str, Any], build: Callable, shape: Shape, classes: int) -> keras.Model:
    return build(shape, classes, **options)


def change_layers(change: Callable, **options: Any) -> Callable:
    return functools.partial(clone_with, functools.partial(change, **options))


def append_activation(*activations: str) -> Callable:
    return functools.partial(append_layers, [functools.partial(layers.Activation, each) for each in activations])


def shrink_images_first(build: Callable, shape: Shape, classes: int) -> keras.Model:
    """Builds `plain` with five poolings before the second convolution, which leave a single pixel of 32 x 32."""
    inputs = layers.Input(shape)
    common = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    x = layers.Conv2D(16, 3, **common)(inputs)
    for _ in range(5):
        x = layers.MaxPool2D(padding="same")(x)
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, **common)(x)
    x = layers.Dense(64, activation="relu", kernel_initializer="he_normal")(layers.Flatten()(x))
    logits = layers.Dense(classes, name="logits", kernel_initializer=keras.initializers.RandomNormal(stddev=0.01))
    return keras.Model(inputs, logits(x), name="plain")


def scale_logits_and_back(factor: float) -> Callable:
    """Multiplies the logits by `factor` squared and divides them again, which has an effect only in half precision.

    Multiplication and division take two layers each, because float16 holds only numbers from 6e-8 to 65504.
    """
    factors = [factor, factor, 1 / factor, 1 / factor]
    return functools.partial(append_layers, [functools.partial(layers.Rescaling, each) for each in factors])


MUTATIONS: dict[str, Callable[..., keras.Model]] = {
    "sigmoid": change_layers(replace_relu, activation="sigmoid"),
    "steep_tanh": change_layers(replace_relu_by_steep_tanh),
    "dying": change_layers(shift_relu_inputs, offset=-4.0),
    "zeros": change_layers(set_kernel_initializer, initializer="zeros"),
    "tiny": change_layers(
        set_kernel_initializer, initializer=serialize_initializer(keras.initializers.RandomNormal(stddev=1e-4))
    ),
    "huge": change_layers(set_kernel_initializer, initializer=scaled_he_normal(30.0)),
    "exponential": change_layers(replace_relu, activation="exponential"),
    "linear": change_layers(remove_relu),
    "one_pixel": shrink_images_first,
    "l2": change_layers(penalize_kernels, factor=0.1),
    "narrow": change_layers(take_filters_away, divisor=8),
    "frozen": change_layers(freeze_all_but_logits),
    "unnormalized": change_layers(remove_batch_norm),
    "slow_norm_4": change_layers(set_batch_norm_momentum, momentum=0.9999),
    "slow_norm_3": change_layers(set_batch_norm_momentum, momentum=0.999),
    "softmax": append_activation("softmax", "softmax"),  # one is common, and the factory takes it off
    "relu_output": append_activation("relu"),
    "tanh_output": append_activation("tanh"),
    "output_dropout": functools.partial(append_layers, [lambda: layers.Dropout(0.5, name="output_dropout")]),
    "large_logits": scale_logits_and_back(300.0),
    "small_logits": scale_logits_and_back(1e-4),
    # These mutations are for user networks, which ignore evenkeel's model options.
    "dropout_80": functools.partial(build_with_options, {"dropout": 0.8}),
    "dropout_90": functools.partial(build_with_options, {"dropout": 0.9}),
    "deep": functools.partial(build_with_options, {"depth": 5}),
}


def __getattr__(name: str) -> Callable[[Shape, int], keras.Model]:
    """Returns the attribute `MUTATION__NETWORK`: a function of (input_shape, classes) that builds the network."""
    mutation, _, network = name.partition("__")
    if mutation not in MUTATIONS or network not in BUILDERS:
        raise AttributeError(name)
    return functools.partial(MUTATIONS[mutation], BUILDERS[network])
