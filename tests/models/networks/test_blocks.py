"""Blocks: group normalization and spectral normalization against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import ModelConfig
from evenkeel.models.networks import factory, resnet
from evenkeel.models.networks.blocks import ConvNormAct

SHAPE = (16, 16, 3)


def create(name: str, shape: tuple[int, int, int] = SHAPE, classes: int = 10, width: int = 4, **options) -> keras.Model:
    return factory.create_network(ModelConfig(name, width=width, **options), shape, classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet9", "resnet18", "resnet50"])
def test_group_norm_does_not_depend_on_other_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, an image's logits are the same in any batch; with BatchNorm they are not."""
    monkeypatch.setattr(resnet, "BLOCKS_PER_STAGE", dict.fromkeys(resnet.BLOCKS_PER_STAGE, (1, 1, 1, 1)))
    images = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)
    for norm, independent in (("group", True), ("batch", False)):
        model = create(name, norm=norm, width=16)
        whole, part = model(images, training=True), model(images[:2], training=True)
        assert np.allclose(whole[:2], part, atol=1e-4) == independent
    groups = [layer for layer in create(name, norm="group", width=24).layers if "group_norm" in layer.name]
    assert all(layer.gamma.shape[0] % layer.groups == 0 for layer in groups)
    assert {layer.gamma.shape[0] // layer.groups for layer in groups} <= {8, 16}


def test_group_norm_is_its_formula() -> None:
    layer = ConvNormAct(norm="group").normalization(32)
    x = np.random.default_rng(0).normal(2, 3, (2, 5, 5, 32))
    grouped = x.reshape(2, 25, 2, 16)
    mean, deviation = grouped.mean((1, 3), keepdims=True), np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
    expected = ((grouped - mean) / deviation).reshape(x.shape)
    np.testing.assert_allclose(layer(x.astype(np.float32)), expected, atol=1e-4)


def largest_singular_values(model: keras.Model) -> list[float]:
    kernels = [layer.kernel.numpy() for layer in model.layers if hasattr(layer, "vector_u")]
    return [float(np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0]) for kernel in kernels]


def test_spectral_normalization_brings_the_largest_singular_value_to_one() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = create("cnn", spectral_norm=True, width=8)
    images = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    before = largest_singular_values(model)
    assert len(before) == 6
    step = tf.function(lambda: model(images, training=True))
    for _ in range(120):  # one power iteration each
        step()
    np.testing.assert_allclose(largest_singular_values(model), 1, rtol=1e-2)
    assert max(abs(value - 1) for value in before) > 0.1
