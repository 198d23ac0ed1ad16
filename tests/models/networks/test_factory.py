"""Networks by name and from a user's file. Other tests use `plain`, `normed` and `shallow` as a user's network too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import ModelConfig, StrategyConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.networks import factory, resnet
from evenkeel.models.networks.resnet import LARGE_STEM_MIN_PIXELS
from evenkeel.pipeline.errors import UsageError
from tests.factories import FILE

layers = keras.layers
SHAPE = (16, 16, 3)


def create(name: str, shape: tuple[int, int, int] = SHAPE, classes: int = 10, width: int = 4, **options) -> keras.Model:
    return factory.create_network(ModelConfig(name, width=width, **options), shape, classes)


@pytest.fixture
def short_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block in each stage of a residual network."""
    monkeypatch.setattr(resnet, "BLOCKS_PER_STAGE", dict.fromkeys(resnet.BLOCKS_PER_STAGE, (1, 1, 1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 8, 1), SHAPE, (LARGE_STEM_MIN_PIXELS, LARGE_STEM_MIN_PIXELS, 3)], ids=str)
@pytest.mark.parametrize(
    "name", ["cnn", "resnet9", "resnet18", "resnet50", f"{FILE}:normed"], ids=["cnn", "resnet9", "18", "50", "file"]
)
@pytest.mark.usefixtures("short_stages")
def test_a_network_returns_logits_for_images_of_any_shape(name: str, shape: tuple[int, int, int]) -> None:
    model = create(name, shape, classes=7)
    logits = model(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)).numpy()
    assert logits.shape == (2, 7)
    assert (logits < 0).any(), "logits, not probabilities"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet9", "resnet18", "resnet34", "resnet50"])
def test_every_weight_has_a_gradient_and_the_first_loss_is_the_chance_loss(name: str) -> None:
    model = create(name, width=8, zero_init=False)  # a scale of 0 would stop the gradient
    images = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32)
    labels = np.arange(64) % 10
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True)))
    assert float(loss) == pytest.approx(math.log(10), abs=1.0)
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        assert gradient is not None, variable.name
        assert np.abs(gradient.numpy()).max() > 0, variable.name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "convolutions", "dropouts"), [("cnn", 6, 4), ("resnet9", 8, 1)])
def test_width_dropout_and_regularizers_are_applied(name: str, convolutions: int, dropouts: int) -> None:
    model = create(name, width=6, dropout=0.3, l1=1e-3, l2=1e-2)
    convs = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert len(convs) == convolutions
    assert convs[0].filters == 6
    rates = [layer.rate for layer in model.layers if layer.__class__.__name__ == "Dropout"]
    assert rates == [0.3] * dropouts
    kernels = [v.numpy().astype(np.float64) for v in model.trainable_variables if "kernel" in v.name]
    assert len(kernels) == convolutions + len([x for x in model.layers if isinstance(x, layers.Dense)])
    expected = sum(1e-3 * np.abs(kernel).sum() + 1e-2 * (kernel**2).sum() for kernel in kernels)
    assert float(tf.add_n(model.losses)) == pytest.approx(expected, rel=1e-5)
    for layer in model.layers:  # every kernel is regularized, and no other weight
        assert (getattr(layer, "kernel_regularizer", None) is not None) == hasattr(layer, "kernel"), layer.name
    assert not create(name).losses
    assert not any(layer.__class__.__name__ == "Dropout" for layer in create(name).layers)


def test_spectral_normalization_is_refused_on_two_replicas() -> None:
    devices = strategy.create_strategy(StrategyConfig(name="mirrored", logical_cpus=2))
    with devices.scope(), pytest.raises(UsageError, match=r"model\.spectral_norm .* --strategy\.name=one"):
        create("cnn", spectral_norm=True)
