"""Residual networks: sizes and costs of the published ones, stems, blocks that start as the identity."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import RESNETS, ModelConfig
from evenkeel.models.networks import factory
from evenkeel.models.networks.resnet import BLOCKS_PER_STAGE, LARGE_STEM_MIN_PIXELS

SHAPE = (16, 16, 3)


def create(name: str, shape: tuple[int, int, int] = SHAPE, classes: int = 10, width: int = 4, **options) -> keras.Model:
    return factory.create_network(ModelConfig(name, width=width, **options), shape, classes)


def test_resnet9_has_a_stem_for_large_images() -> None:
    first, second = (
        create("resnet9", (size, size, 3)).layers[1].strides
        for size in (LARGE_STEM_MIN_PIXELS, LARGE_STEM_MIN_PIXELS - 1)
    )
    assert (first, second) == ((2, 2), (1, 1))


# The counts of torchvision and Keras for 1,000 classes, without BatchNorm's moving statistics.
PUBLISHED = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}


@functools.cache
def create_published(name: str) -> keras.Model:
    """The network of the publication; shared, to be read only."""
    return create(name, (224, 224, 3), classes=1000, width=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNETS)
def test_the_published_networks_have_the_published_number_of_weights(name: str) -> None:
    model = create_published(name)
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == PUBLISHED[name]
    assert model.layers[1].strides == (2, 2)


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of convolutions and dense layers for one image, from the layers' output shapes."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            total += math.prod(layer.kernel.shape) * math.prod(layer.output_shape[1:-1])
    return total


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 1.81e9), ("resnet34", 3.66e9), ("resnet50", 4.09e9)])
def test_the_published_networks_cost_the_published_number_of_multiply_adds(name: str, expected: float) -> None:
    assert multiply_adds(create_published(name)) == pytest.approx(expected, rel=0.01)


def test_tensorflow_counts_as_many_multiply_adds() -> None:
    graph = tf.function(create_published("resnet50")).get_concrete_function(tf.TensorSpec([1, 224, 224, 3])).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    counted = tf.compat.v1.profiler.profile(graph, options={**options, "output": "none"}).total_float_ops
    assert counted / 2 == pytest.approx(4.1e9, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNETS)
def test_a_block_starts_as_the_identity(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With zero_init only the stem, the projections and the pooling act; in stages of one and of two blocks."""
    monkeypatch.setitem(BLOCKS_PER_STAGE, name, (1, 1, 2, 1))
    zero_norms = [
        layer for layer in create(name).layers if "batch_norm" in layer.name and not layer.gamma.numpy().any()
    ]
    assert len(zero_norms) == sum(BLOCKS_PER_STAGE[name])
    assert not any(
        not layer.gamma.numpy().any() for layer in create(name, zero_init=False).layers if "batch_norm" in layer.name
    )


def test_the_small_stem_does_not_shrink_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS_PER_STAGE, "resnet18", (1, 1, 1, 1))
    small, large = create("resnet18", (32, 32, 3)), create("resnet18", (32, 32, 3), stem="imagenet")
    assert small.get_layer(index=-2).input_shape[1:3] == (4, 4)
    assert large.get_layer(index=-2).input_shape[1:3] == (1, 1)
    assert create("resnet18", (LARGE_STEM_MIN_PIXELS, LARGE_STEM_MIN_PIXELS, 3)).layers[1].kernel_size == (7, 7)
    assert create("resnet18", (LARGE_STEM_MIN_PIXELS - 1, LARGE_STEM_MIN_PIXELS - 1, 3)).layers[1].kernel_size == (3, 3)


def test_stochastic_depth_drops_later_blocks_more_often() -> None:
    model = create("resnet34", stochastic_depth=0.4)
    dropped = [layer for layer in model.layers if layer.__class__.__name__ == "Dropout"]
    np.testing.assert_allclose([layer.rate for layer in dropped], 0.4 * np.arange(1, 17) / 16)
    assert {layer.noise_shape for layer in dropped} == {(None, 1, 1, 1)}
