"""Configurations, networks and data sets for tests of preflight."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import ModelConfig, TrainConfig
from evenkeel.models.preflight import image_checks, network_checks
from evenkeel.models.preflight.first_batch import FirstBatchPass
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset

FILE = str(pathlib.Path(__file__))
layers = keras.layers


def train_config(network: str = "cnn", width: int = 4, epochs: int = 50, **changes: Any) -> TrainConfig:
    """A sound run of 750 steps on 300 images; `network` is built in or one of this file."""
    data_options = {name: changes.pop(name) for name in list(changes) if name in _fields(DataConfig)}
    data = DataConfig(image_size=16, batch_size=20, shapes=ShapesConfig(size=16, count=300))
    model = ModelConfig(network if network in ("cnn", "resnet9", "resnet18") else f"{FILE}:{network}", width=width)
    values: dict[str, Any] = {"model": model, "precision": "float32", "epochs": epochs}
    return TrainConfig(**{**values, "data": dataclasses.replace(data, **data_options), **changes})


def _fields(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)} - {"balance"}


def load_shapes(**corruptions: Any) -> tuple[TrainConfig, Dataset]:
    """300 rendered images of 16 pixels with `corruptions` of `ShapesConfig`."""
    config = train_config(shapes=ShapesConfig(size=16, count=300, **corruptions))
    return config, load_dataset(config.data)


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def failed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if not finding.ok}


def run_network(data: Dataset, network: str = "cnn", **options: Any) -> FirstBatchPass:
    return run_first_batch(train_config(network, **options), data)


def run_first_batch(config: TrainConfig, data: Dataset) -> FirstBatchPass:
    return FirstBatchPass(config, data, *image_checks.read_first_batch(config, data))


def network_findings(data: Dataset, network: str = "cnn", steps: int = 600, **options: Any) -> dict[str, Finding]:
    config = train_config(network, **options)
    return by_check(list(network_checks.check_network(config, run_first_batch(config, data), steps, replicas=1)))


# Networks as a user would write them.


def stack(
    shape: tuple[int, int, int],
    classes: int,
    depth: int = 4,
    activation: str = "relu",
    initializer: Any = "he_normal",
    norm: Any = None,
    before: Any = None,
    last: str | None = None,
    dropout: float = 0.0,
    bias: float = 0.0,
    penalty: float = 0.0,
) -> keras.Model:
    x = inputs = layers.Input(shape)
    x = before(x) if before else x
    for index in range(depth):
        options: dict[str, Any] = {"bias_initializer": keras.initializers.Constant(bias)}
        options["kernel_regularizer"] = keras.regularizers.L2(penalty) if penalty else None
        x = layers.Conv2D(8, 3, padding="same", kernel_initializer=initializer, name=f"conv{index}", **options)(x)
        x = norm()(x) if norm else x
        x = layers.LeakyReLU()(x) if activation == "leaky" else layers.Activation(activation)(x)
    x = layers.Flatten()(layers.MaxPool2D(4)(x))
    x = layers.Dropout(dropout, name="drop")(x) if dropout else x
    return keras.Model(inputs, layers.Dense(classes, activation=last, name="logits")(x))


variant = functools.partial
slow_norm = variant(layers.BatchNormalization, momentum=0.99999)
shallow = variant(stack, depth=1)
he, glorot = stack, variant(stack, initializer="glorot_uniform", depth=6)
deep, self_normalizing = variant(stack, depth=7), variant(stack, depth=7, activation="selu", initializer="lecun_normal")
very_deep = variant(stack, depth=15)
shrinking = variant(stack, depth=12, initializer="glorot_uniform")
exponential = variant(stack, depth=6, activation="exponential")
leaky, tanh = variant(stack, activation="leaky"), variant(stack, initializer="glorot_uniform", activation="tanh")
grouped = variant(stack, norm=lambda: layers.GroupNormalization(4))
normed = variant(stack, norm=variant(layers.BatchNormalization, momentum=0.9), depth=6)
halved, shallow_and_halved = variant(stack, dropout=0.5), variant(stack, depth=1, dropout=0.5)
rescaled = variant(stack, before=lambda x: layers.Rescaling(1 / 255)(x))
own_norm = variant(stack, before=lambda x: layers.BatchNormalization(momentum=0.9)(x))
arithmetic = variant(stack, before=lambda x: x / 127.5 - 1)
squashed = variant(stack, last="sigmoid")
cut_off, bounded = variant(stack, last="relu"), variant(stack, last="tanh")
small = variant(stack, initializer=keras.initializers.RandomNormal(stddev=1e-4, seed=0))
large = variant(stack, initializer=keras.initializers.RandomNormal(stddev=3.0, seed=0))
sigmoids = variant(stack, activation="sigmoid", initializer="glorot_uniform", depth=9)
he_sigmoids = variant(stack, activation="sigmoid", depth=9)
few_sigmoids = variant(stack, activation="sigmoid", initializer="glorot_uniform", depth=2)
normed_sigmoids = variant(stack, activation="sigmoid", norm=variant(layers.BatchNormalization, momentum=0.9), depth=3)
hidden_softmax = variant(stack, activation="softmax", depth=3)
dead = variant(stack, bias=-1e3)
saturated = variant(stack, activation="tanh", initializer=keras.initializers.RandomNormal(stddev=5.0, seed=0))
slow = variant(stack, norm=slow_norm)
jumpy = variant(stack, norm=variant(layers.BatchNormalization, momentum=0.1))
dropped, penalised = variant(stack, dropout=0.9), variant(stack, penalty=10.0)
lightly_penalised = variant(stack, penalty=5e-4)


def probabilities(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A softmax of a softmax: the factory takes one of them off."""
    network = stack(shape, classes, last="softmax")
    return keras.Model(network.inputs, layers.Softmax()(network.outputs[0]))


class Own(keras.Model):
    """A subclassed model, with a call of its own."""

    def __init__(self, classes: int, last: str | None = None) -> None:
        super().__init__()
        self.blocks = [layers.Conv2D(8, 3, 2, activation="relu", name=f"conv{index}") for index in range(2)]
        self.norm, self.drop = layers.BatchNormalization(momentum=0.9), layers.Dropout(0.2)
        self.flatten, self.head = layers.Flatten(), layers.Dense(classes, activation=last, name="logits")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        for block in self.blocks:
            x = block(x)
        if training:
            x = self.drop(x, training=True)
        return self.head(self.flatten(self.norm(x, training=training)))


def subclassed(shape: tuple[int, int, int], classes: int, last: str | None = None) -> keras.Model:
    return Own(classes, last)


subclassed_softmax, subclassed_relu = variant(subclassed, last="softmax"), variant(subclassed, last="relu")


def nested_subclassed(shape: tuple[int, int, int], classes: int) -> keras.Model:
    inputs = keras.Input(shape)
    return keras.Model(inputs, Own(classes)(inputs))


def ones(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A network that rescales its input; the second of three convolutions starts with ones."""
    x = inputs = layers.Input(shape)
    x = layers.Rescaling(1 / 255)(x)
    for index, initializer in enumerate(("he_normal", "ones", "he_normal")):
        x = layers.Conv2D(16, 3, activation="relu", kernel_initializer=initializer, name=f"conv2d_{index}")(x)
    x = layers.Dense(64, activation="relu", name="dense")(layers.Flatten()(layers.MaxPool2D(2)(x)))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def frozen(shape: tuple[int, int, int], classes: int) -> keras.Model:
    network = stack(shape, classes)
    network.get_layer("conv1").trainable = False
    return network


def gated(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Squeeze and excitation (Hu et al. 2018), its gates as Keras users write them."""
    x = inputs = layers.Input(shape)
    for index in range(3):
        x = layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        squeezed = layers.GlobalAveragePooling2D()(x)
        gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid")(squeezed))
        x = x * gate if index % 2 else layers.Multiply()([x, gate])
    x = layers.Flatten()(layers.MaxPool2D(4)(x))
    return keras.Model(inputs, layers.Dense(classes)(x))


@keras.utils.register_keras_serializable("tests")
class Stop(layers.Layer):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(inputs)


def stopped(shape: tuple[int, int, int], classes: int) -> keras.Model:
    return stack(shape, classes, before=lambda x: Stop()(layers.Conv2D(4, 3, name="behind")(x)))


def zero_head(shape: tuple[int, int, int], classes: int) -> keras.Model:
    body = stack(shape, classes)
    x = body.get_layer("logits").input
    return keras.Model(body.inputs, layers.Dense(classes, kernel_initializer="zeros")(x))


def nested(shape: tuple[int, int, int], classes: int) -> keras.Model:
    inputs = x = layers.Input(shape)
    inner = keras.Model(inputs, layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 255)(x)), name="inner")
    x = outer = layers.Input(shape)
    return keras.Model(outer, layers.Dense(classes)(layers.Flatten()(inner(x))))
