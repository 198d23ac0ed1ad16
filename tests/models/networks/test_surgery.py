"""Patches: the layers, weights and outputs of the changed network, and the edits in words."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import PATCHES, ModelConfig
from evenkeel.models.networks import factory, surgery
from evenkeel.pipeline.errors import UsageError

layers = keras.layers


def plain(activation: str = "sigmoid", end: str | None = None, **options) -> keras.Model:
    """An activation inside a layer, an activation layer, a branch with an addition, and dropout."""
    inputs = x = layers.Input((8, 8, 3), name="pixels")
    x = layers.Conv2D(4, 3, padding="same", activation=activation, name="first", **options)(x)
    shortcut = x
    x = layers.Conv2D(4, 3, padding="same", name="second", kernel_regularizer="l2")(x)
    x = layers.Activation(activation, name="act")(x)
    x = layers.Dropout(0.9, name="drop")(x + shortcut)
    x = layers.GlobalAveragePooling2D()(x * 2.0)
    return keras.Model(inputs, layers.Dense(5, activation=end, name="out")(x), name="plain")


def images() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=(6, 8, 8, 3)), tf.float32)


def test_patches_without_effect_keep_the_output() -> None:
    model = plain()
    for name in ("trainable", "norm_momentum", "logits"):
        assert not surgery.has_effect(model, name)
    same = surgery.apply_patches(model, ("trainable", "norm_momentum", "logits"))
    np.testing.assert_array_equal(same(images()), model(images()))
    assert same.name == "plain"


def test_relu_replaces_saturating_activations_and_keeps_the_weights() -> None:
    model = plain("sigmoid")
    new = surgery.apply_patches(model, ("relu",))
    assert new.get_layer("first").activation is keras.activations.relu
    assert isinstance(new.get_layer("act"), layers.ReLU)
    for old, now in zip(model.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    np.testing.assert_allclose(new(images()), outputs_with(model, "relu"), rtol=1e-5)
    assert not surgery.has_effect(plain("relu"), "relu")


def outputs_with(model: keras.Model, activation: str) -> np.ndarray:
    other = plain(activation)
    other.set_weights(model.get_weights())
    return other(images()).numpy()


def test_leaky_relu_replaces_relu() -> None:
    new = surgery.apply_patches(plain("relu"), ("leaky_relu",))
    x = new.get_layer("first")(images())
    np.testing.assert_allclose(new.get_layer("first_leaky_relu")(x), np.where(x > 0, x, 0.1 * x), rtol=1e-6)
    assert isinstance(new.get_layer("act"), layers.LeakyReLU)
    assert not surgery.has_effect(plain("sigmoid"), "leaky_relu")


def test_he_normal_initializes_kernels_anew() -> None:
    model = plain(kernel_initializer=keras.initializers.RandomNormal(stddev=50.0), bias_initializer="ones")
    first = surgery.apply_patches(model, ("he_normal",)).get_layer("first")
    kernel, bias = first.get_weights()
    assert 0.5 < kernel.std() / np.sqrt(2 / 27) < 1.5
    assert not bias.any()


def test_he_normal_gives_small_logits_and_resets_extreme_scales_only() -> None:
    inputs = x = layers.Input((8, 8, 3))
    for name, gamma in (("extreme", 30.0), ("usual", 1.5), ("zero", 0.0)):
        x = layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(gamma), name=name)(x)
    x = layers.Dense(64, name="hidden")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(5, kernel_initializer="ones", name="out")(x))
    new = surgery.apply_patches(model, ("he_normal",))
    assert new.get_layer("out").kernel.numpy().std() == pytest.approx(0.01, rel=0.2)
    assert [float(new.get_layer(name).gamma[0]) for name in ("extreme", "usual", "zero")] == [1, 1.5, 0]


def test_batch_norm_is_put_between_a_kernel_and_its_activation() -> None:
    model = plain("tanh")
    new = surgery.apply_patches(model, ("batch_norm",))
    names = [layer.name for layer in new.layers]
    assert names[1:4] == ["first", "first_norm", "first_activation"]
    assert names.count("out_norm") == 0
    assert new.get_layer("first").activation is keras.activations.linear
    np.testing.assert_array_equal(new.get_layer("first").get_weights()[0], model.get_layer("first").get_weights()[0])
    assert not surgery.has_effect(new, "batch_norm")


@pytest.mark.parametrize("end", ["softmax", "sigmoid", "tanh", "relu"])
def test_logits_removes_the_activation_of_the_last_kernel(end: str) -> None:
    model = plain(end=end)
    new = surgery.apply_patches(model, ("logits",))
    np.testing.assert_allclose(keras.activations.get(end)(new(images())), model(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("end", [layers.Softmax(), layers.Activation("sigmoid"), layers.ReLU()])
def test_logits_removes_an_activation_layer_at_the_end(end: keras.layers.Layer) -> None:
    inner = plain()
    model = keras.Model(inner.inputs, end(inner.outputs[0]))
    new = surgery.apply_patches(model, ("logits",))
    np.testing.assert_allclose(new(images()), inner(images()), rtol=1e-6)
    assert surgery.describe_edits(model, ("logits",)) == [f"{type(end).__name__} {end.name!r}: remove it"]


def test_trainable_unfreezes_layers() -> None:
    model = plain()
    model.get_layer("second").trainable = False
    new = surgery.apply_patches(model, ("trainable",))
    assert len(new.trainable_weights) == len(model.weights) == len(model.trainable_weights) + 2
    np.testing.assert_array_equal(new(images()), model(images()))
    assert surgery.describe_edits(model, ("trainable",)) == ["Conv2D 'second': trainable=False -> True"]


def test_no_dropout_no_penalty_and_norm_momentum_change_the_layers_concerned() -> None:
    model = surgery.apply_patches(plain(), ("batch_norm",))
    model.get_layer("first_norm").momentum = 0.9999
    assert surgery.describe_edits(model, ("no_dropout", "no_penalty", "norm_momentum")) == [
        "Dropout 'drop': remove it",
        "Conv2D 'second': kernel_regularizer='L2' -> None",
        "BatchNormalization 'first_norm': momentum=0.9999 -> 0.9",
    ]
    new = surgery.apply_patches(model, ("no_dropout", "no_penalty", "norm_momentum"))
    assert "drop" not in [layer.name for layer in new.layers]
    assert new.losses == []
    assert new.get_layer("first_norm").momentum == 0.9
    np.testing.assert_array_equal(new(images(), training=True), new(images(), training=True))


@pytest.mark.parametrize("name", ["cnn", "resnet9", "resnet18"])
def test_the_own_networks_can_be_rebuilt(name: str) -> None:
    config = ModelConfig(name=name, width=4)
    model = factory.create_network(config, (16, 16, 3), 10)
    pixels = tf.constant(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), tf.float32)
    same = surgery.apply_patches(model, ("norm_momentum",))
    np.testing.assert_allclose(same(pixels), model(pixels), rtol=1e-4, atol=1e-5)


def test_the_configuration_applies_several_patches() -> None:
    config = ModelConfig(name="cnn", width=4, dropout=0.5, patch="leaky_relu,no_dropout")
    model = factory.create_network(config, (16, 16, 3), 10)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert "LeakyReLU" in kinds
    assert not {"ReLU", "Dropout"} & set(kinds)


def test_an_unknown_patch_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"^model\.patch \('rleu'\) must be one of .* Did you mean 'relu'\?"):
        ModelConfig(patch="rleu")


@pytest.mark.parametrize("name", PATCHES)
def test_every_patch_of_the_configuration_exists(name: str) -> None:
    assert isinstance(surgery.describe_edits(plain("relu"), (name,)), list)


def test_a_nested_model_is_patched_too() -> None:
    inner = keras.Model((x := layers.Input((8, 8, 4))), layers.Conv2D(4, 3, activation="tanh", name="deep")(x))
    inputs = layers.Input((8, 8, 3))
    x = inner(layers.Conv2D(4, 3, padding="same")(inputs))
    model = keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))
    new = surgery.apply_patches(model, ("relu",))
    assert next(each for each in new._flatten_layers() if each.name == "deep").activation is keras.activations.relu
    for old, now in zip(model.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert surgery.describe_edits(model, ("relu",)) == ["Conv2D 'deep': activation='tanh' -> 'relu'"]
    np.testing.assert_array_equal(surgery.apply_patches(model, ("no_dropout",))(images()), model(images()))


def test_relu_replaces_activations_that_explode_and_leaky_relu_does_not() -> None:
    for activation in ("exponential", tf.square):
        model = plain(activation)
        assert isinstance(surgery.apply_patches(model, ("relu",)).get_layer("act"), layers.ReLU)
        assert not surgery.has_effect(model, "leaky_relu")
    for activation in ("swish", "gelu", "softplus", "elu", "selu", "linear"):
        assert not surgery.has_effect(plain(activation), "relu"), activation


def chain(*middle: keras.layers.Layer) -> keras.Model:
    inputs = x = layers.Input((32, 32, 3))
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(5, name="out")(layers.Flatten()(x)))


def test_activations_are_added_where_convolutions_or_dense_layers_follow_each_other() -> None:
    model = chain(layers.Conv2D(4, 3, name="a"), layers.BatchNormalization(), layers.Conv2D(4, 3, name="b"))
    assert surgery.describe_edits(model, ("activations",)) == [
        "Conv2D 'a': activation='linear' -> 'relu'",
        "Conv2D 'b': activation='linear' -> 'relu'",
    ]
    assert not surgery.has_effect(surgery.apply_patches(model, ("activations",)), "activations")
    dense = chain(layers.Flatten(), layers.Dense(6, name="hidden"))
    assert surgery.describe_edits(dense, ("activations",)) == ["Dense 'hidden': activation='linear' -> 'relu'"]


@pytest.mark.parametrize(
    "middle",
    [
        (layers.Conv2D(4, 3), layers.ReLU(), layers.Conv2D(4, 3, activation="relu")),
        (layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(4, 3, activation="tanh")),
        (layers.Conv2D(4, 1), layers.Conv2D(4, 3, activation="relu")),
        (layers.DepthwiseConv2D(3), layers.Conv2D(4, 1, activation="relu")),
        (layers.Conv2D(4, (1, 3)), layers.Conv2D(4, (3, 1), activation="relu")),
        (layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.Conv2D(4, 3, activation="relu")),
    ],
)
def test_layers_that_may_be_linear_keep_their_form(middle: tuple) -> None:
    assert not surgery.has_effect(chain(*middle), "activations")


def test_less_pooling_keeps_maps_for_the_convolutions_behind() -> None:
    pools = [layers.MaxPooling2D(name=f"pool{n}") for n in range(5)]
    model = chain(
        *pools, layers.Conv2D(4, 3, padding="same", name="last"), layers.GlobalAveragePooling2D(keepdims=True)
    )
    new = surgery.apply_patches(model, ("less_pooling",))
    assert new.get_layer("last").input.shape[1:3] == (4, 4)
    assert [new.get_layer(f"pool{n}").strides[0] for n in range(5)] == [2, 2, 2, 1, 1]
    assert new(tf.zeros((1, 32, 32, 3))).shape == (1, 5)
    assert not surgery.has_effect(new, "less_pooling")
    strided = [layers.Conv2D(4, 3, strides=2, padding="same", name=f"conv{n}") for n in range(6)]
    assert [line.split("'")[1] for line in surgery.describe_edits(chain(*strided), ("less_pooling",))] == [
        "conv3",
        "conv4",
    ]
    fine = chain(*(layers.MaxPooling2D() for _ in range(4)), layers.Conv2D(4, 3, padding="same"), layers.MaxPooling2D())
    assert not surgery.has_effect(fine, "less_pooling"), "pooling after the last convolution is usual"


def test_wider_multiplies_filters_and_units_but_those_of_the_outputs() -> None:
    new = surgery.apply_patches(plain("relu"), ("wider",))
    assert [new.get_layer(name).output.shape[-1] for name in ("first", "second", "out")] == [16, 16, 5]
    assert 0.5 < new.get_layer("second").get_weights()[0].std() / np.sqrt(2 / (18 * 16)) < 1.5


def test_logits_removes_dropout_at_the_end() -> None:
    inner = plain()
    model = keras.Model(inner.inputs, layers.Dropout(0.5, name="last")(inner.outputs[0]))
    assert surgery.describe_edits(model, ("logits",)) == ["Dropout 'last': remove it"]
