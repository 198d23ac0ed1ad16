"""What each mutation changes in a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.benchmarks.stability import faulty_networks, networks
from evenkeel.benchmarks.stability.faults import BATCH_NORM_NETWORKS
from evenkeel.models.config import ModelConfig
from evenkeel.models.networks import factory
from evenkeel.models.networks.layers import Dropout
from evenkeel.models.training.stable_model import StableModel

SHAPE = (16, 16, 3)


def build_mutated(mutation: str, network: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return factory.create_network(ModelConfig(name=faulty_networks.model_name(mutation, network)), SHAPE, 10)


def build_clean(network: str) -> keras.Model:
    return faulty_networks.BUILDERS[network](SHAPE, 10)


def outputs(model: keras.Model) -> np.ndarray:
    return model(np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)).numpy()


def layers_of_type(model: keras.Model, kind: Any) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, kind)]


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in model.weights if "kernel" in v.name]


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_mutations_replace_every_relu(network: str) -> None:
    replacements = {"sigmoid": keras.activations.sigmoid}
    if network in BATCH_NORM_NETWORKS:
        replacements["steep_tanh"] = keras.activations.tanh
    for mutation, replacement in replacements.items():
        model = build_mutated(mutation, network)
        activations = [getattr(layer, "activation", None) for layer in model.layers]
        assert activations.count(replacement) >= 4
        assert keras.activations.relu not in activations
        assert layers_of_type(model, keras.layers.ReLU) == []


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_nearly_all_units_of_a_dying_network_are_inactive(network: str) -> None:
    for model, low, high in ((build_mutated("dying", network), 0.99, 1.0), (build_clean(network), 0.2, 0.8)):
        relus = [layer for layer in model.layers if getattr(layer, "activation", None) is keras.activations.relu]
        relus += layers_of_type(model, keras.layers.ReLU)
        relu_outputs = keras.Model(model.input, [layer.output for layer in relus])
        images = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
        zero_shares = [np.mean(values.numpy() == 0) for values in relu_outputs(images, training=True)]
        assert low <= np.mean(zero_shares) <= high


@pytest.mark.slow
@pytest.mark.parametrize("network", networks.NETWORKS)
def test_initial_weights_are_zero_tiny_or_huge(network: str) -> None:
    clean, huge = kernels(build_clean(network)), kernels(build_mutated("huge", network))
    assert all((kernel == 0).all() for kernel in kernels(build_mutated("zeros", network)))
    assert all(kernel.std() < 2e-4 for kernel in kernels(build_mutated("tiny", network)))
    assert all(large.std() > 15 * usual.std() for large, usual in zip(huge, clean, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("network", networks.NETWORKS)
def test_only_the_logits_of_a_frozen_network_train(network: str) -> None:
    model = build_mutated("frozen", network)
    assert {variable.name.split("/")[0] for variable in model.trainable_variables} == {"logits"}
    wrapped = StableModel.wrap(model)
    assert len(wrapped.trainable_variables) == len(model.trainable_variables) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("network", BATCH_NORM_NETWORKS)
def test_batch_norm_is_removed_or_slowed_down(network: str) -> None:
    assert layers_of_type(build_mutated("unnormalized", network), keras.layers.BatchNormalization) == []
    assert layers_of_type(build_clean(network), keras.layers.BatchNormalization)
    slow = layers_of_type(build_mutated("slow_norm_4", network), keras.layers.BatchNormalization)
    assert {layer.momentum for layer in slow} == {0.9999}


@pytest.mark.parametrize(
    ("mutation", "low", "high"), [("softmax", 0, 1), ("tanh_output", -1, 1), ("relu_output", 0, np.inf)]
)
def test_an_activation_after_the_logits_bounds_the_output(mutation: str, low: float, high: float) -> None:
    bounded = outputs(build_mutated(mutation, "plain"))
    assert bounded.min() >= low
    assert bounded.max() <= high
    assert outputs(build_clean("plain")).min() < -0.01


@pytest.mark.parametrize(("mutation", "exact_logit"), [("large_logits", 0.7), ("small_logits", 30.0)])
def test_scaled_logits_are_exact_in_float32_and_lost_in_float16(mutation: str, exact_logit: float) -> None:
    model = build_mutated(mutation, "plain")
    unscaled = keras.Model(model.input, model.get_layer("logits").output)
    np.testing.assert_allclose(outputs(model), outputs(unscaled), rtol=1e-4)
    lost_logit = 1.0 if mutation == "large_logits" else 2.0
    for logit, is_exact in ((exact_logit, True), (lost_logit, False)):
        x = tf.constant(logit, tf.float16)
        for layer in model.layers[-4:]:
            x = x * tf.cast(layer.scale, tf.float16)
        assert bool(np.isfinite(x.numpy()) and abs(x.numpy() / logit - 1) < 0.15) == is_exact


def test_mutations_add_dropout_penalties_and_convolutions() -> None:
    rates = [layer.rate for layer in layers_of_type(build_mutated("dropout_90", "plain"), keras.layers.Dropout)]
    assert rates == [0.9] * 4
    model = StableModel.wrap(build_mutated("dropout_90", "plain"))
    dropouts = [layer for layer in model._flatten_layers() if "dropout" in layer.name]
    assert len(dropouts) == 4
    assert all(isinstance(layer, Dropout) for layer in dropouts)
    assert len(build_mutated("l2", "plain").losses) == 5
    assert len(layers_of_type(build_mutated("deep", "plain"), keras.layers.Conv2D)) >= 15


def test_mutations_of_the_architecture_change_what_they_say() -> None:
    exponential = build_mutated("exponential", "plain")
    activations = [getattr(layer, "activation", None) for layer in exponential.layers]
    assert activations.count(keras.activations.exponential) == 4
    linear, rng = build_mutated("linear", "plain"), np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(linear(x + y) + linear(0 * x), linear(x) + linear(y), atol=1e-4)
    sizes = [layer.input.shape[1] for layer in layers_of_type(build_mutated("one_pixel", "plain"), keras.layers.Conv2D)]
    assert sizes == [16, 1, 1]
    filters = [layer.filters for layer in layers_of_type(build_mutated("narrow", "plain"), keras.layers.Conv2D)]
    assert filters == [2, 4, 8]
    assert isinstance(build_mutated("output_dropout", "plain").layers[-1], keras.layers.Dropout)


def test_unknown_mutations_and_networks_are_no_attributes() -> None:
    for name in ("sigmoid__vgg", "mud__cnn", "zeros"):
        assert not hasattr(faulty_networks, name)
