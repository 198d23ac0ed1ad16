"""Dropout: rates, and masks that are a function of (seed, layer, step, replica)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.networks.layers import Dropout
from evenkeel.models.telemetry import step_row
from evenkeel.models.training.stable_model import StableModel
from tests.factories import BATCH, IMAGES, LABELS, fit, network_of, one, two

COUNT = 40_000


def masked(
    rate: float = 0.3, seed: int = 0, layer: int = 0, step: int = 0, dtype: str = "float32", xla: bool = False
) -> np.ndarray:
    """The layer's output for COUNT ones."""
    dropout = Dropout(rate, dtype=dtype)
    dropout.seed, dropout.step = (seed, layer), lambda: tf.constant(step, tf.int64)
    drop = tf.function(lambda x: dropout(x, training=True), jit_compile=xla)
    return drop(tf.ones([COUNT // 8, 8], dtype)).numpy().astype(np.float64)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_met_and_the_kept_values_are_scaled(rate: float, dtype: str) -> None:
    values = masked(rate, dtype=dtype)
    dropped = (values == 0).mean()
    assert dropped == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / COUNT))
    kept = values[values != 0]
    assert len(np.unique(kept)) == 1
    assert kept[0] == pytest.approx(1 / (1 - rate), rel=1e-6 if dtype == "float32" else 1e-2)


@pytest.mark.slow
def test_the_same_key_gives_the_same_mask_and_other_keys_give_others() -> None:
    keys: list[dict[str, Any]] = [{"seed": 1}, {"layer": 1}, {"step": 1}, {"seed": 1, "layer": 1}, {"step": 2}, {}]
    masks = [masked(**key) for key in keys]
    for number, key in enumerate(keys):
        np.testing.assert_array_equal(masks[number], masked(**key))
        for other in masks[:number]:
            # Independent masks agree with probability 0.3^2 + 0.7^2.
            assert (masks[number] == other).mean() == pytest.approx(0.58, abs=0.02)


def test_xla_draws_the_same_masks() -> None:
    np.testing.assert_array_equal(masked(step=7, xla=True), masked(step=7))


def test_inference_and_rate_zero_change_nothing() -> None:
    x = tf.random.normal([4, 3])
    np.testing.assert_array_equal(Dropout(0.5)(x, training=False), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)


def test_a_noise_shape_drops_whole_feature_maps() -> None:
    dropout = Dropout(0.5, noise_shape=(None, 1, 1, None))
    dropout.seed, dropout.step = (0, 0), lambda: tf.constant(0, tf.int64)
    maps = dropout(tf.ones([16, 4, 4, 8]), training=True).numpy().reshape(16, 16, 8)
    np.testing.assert_array_equal(maps, maps[:, :1].repeat(16, axis=1))
    assert set(maps.ravel()) == {0.0, 2.0}


def test_dropout_outside_a_stable_model_raises_an_error() -> None:
    with pytest.raises(ValueError, match="has no step, which its masks need: train it inside a StableModel"):
        Dropout(0.5)(tf.ones([2, 2]), training=True)


def test_the_config_holds_rate_and_noise_shape() -> None:
    config = Dropout(0.25, noise_shape=(None, 1), name="mine").get_config()
    layer = Dropout.from_config(config)
    assert (layer.rate, layer.noise_shape, layer.name) == (0.25, (None, 1), "mine")


def test_wrap_replaces_keras_dropout_and_gives_each_layer_its_own_key() -> None:
    inputs = keras.Input([4, 4, 3])
    x = keras.layers.Dropout(0.1, name="first")(inputs)
    x = keras.layers.Dropout(0.2, noise_shape=(None, 1, 1, 3), name="second")(x)
    network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    model = StableModel.wrap(network, seed=9)
    dropouts = [layer for layer in network_of(model).layers if "rate" in layer.get_config()]
    assert [(type(layer), layer.name, layer.rate, layer.seed) for layer in dropouts] == [
        (Dropout, "first", 0.1, (9, 0)),
        (Dropout, "second", 0.2, (9, 1)),
    ]
    assert dropouts[1].noise_shape == (None, 1, 1, 3)


def dropping(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Dropout and a linear layer: replicas with equal images differ by their masks only."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer="zeros")(x), name="dropping")


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
def test_two_replicas_draw_different_masks_at_every_step(xla: bool) -> None:
    # All replicas get the same images in every step and the weights hardly move: gradients differ by masks only.
    half = BATCH // 2
    options: dict[str, Any] = {"config": OptimizerConfig(learning_rate=1e-9, schedule="constant"), "steps": 3}
    for_one: dict[str, Any] = {"images": IMAGES[:half], "labels": LABELS[:half], "batch": half}
    for_two: dict[str, Any] = {
        "images": np.tile(IMAGES[:half], (2, 1, 1, 1)),
        "labels": np.tile(LABELS[:half], 2),
        "xla": xla,
    }
    rows = [fit(one(), dropping, **options, **for_one)[1], fit(two(), dropping, **options, **for_two)[1]]
    norms = np.sort(np.concatenate([step_row.column(block, "gradient_norm") for block in rows]))
    assert (np.diff(norms) > 1e-4 * norms[0]).all(), norms
