"""Layer statistics against numpy, and of layers that are made dead or saturated."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.telemetry.layer_stats import (
    ACTIVATION_STATS,
    GROUP_STATS,
    LAYER_STATS_IMAGES,
    NORM_STATS,
    STEP_STATS,
    LayerStats,
    gradient_noise_scale,
)
from tests.factories import BATCH, CLASSES, LABELS, SIZE, batches, by_hand, compiled, normed, one, plain, two, weights
from tests.factories import IMAGES as PICTURES

layers = keras.layers
STEPS = 6


def train_and_unpack(devices, network=plain, steps: int = STEPS, every: int = 2, **options):
    """A model trained for one call of `steps` steps, and {name: statistics of these steps}."""
    model = compiled(devices, network, per_call=steps, layer_stats_every=every, **options)
    model.fit(batches(devices, PICTURES, LABELS), steps_per_epoch=steps, epochs=1, verbose=0)
    return model, model.layer_stats.unpack(model.layer_rows)


def test_layers_come_in_the_order_of_the_network() -> None:
    network = normed((SIZE, SIZE, 3), CLASSES)
    stats = LayerStats(network, network.trainable_variables)
    kernels = [layer.name for layer in network.layers if isinstance(layer, layers.Conv2D | layers.Dense)]
    assert stats.groups == kernels
    assert len(kernels) > 2
    assert stats.activations
    assert stats.norms
    sizes = {**dict.fromkeys(GROUP_STATS, len(stats.groups)), **dict.fromkeys(ACTIVATION_STATS, len(stats.activations))}
    values = stats.unpack(np.arange(3.0 * stats.size).reshape(3, -1))
    for name, size in {**sizes, **dict.fromkeys(NORM_STATS, len(stats.norms))}.items():
        assert values[name].shape == (3, size), name
    assert all(values[name].shape == (3,) for name in STEP_STATS)
    assert len(np.unique(np.concatenate([np.ravel(each) for each in values.values()]))) == 3 * stats.size


def test_only_due_steps_have_statistics() -> None:
    _, values = train_and_unpack(one(), every=3)
    due = np.arange(STEPS) % 3 == 0
    for name in ("gradient_norm", "weight_norm", "update_norm", "deviation", "training_loss"):
        present = np.isfinite(values[name].reshape(STEPS, -1))
        assert (present == due[:, None]).all(), name


def test_norms_match_numpy() -> None:
    model = compiled(one(), layer_stats_every=1, per_call=1)
    old, expected = weights(model), by_hand(model, PICTURES[:BATCH], LABELS[:BATCH])
    model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
    values = {name: value[0] for name, value in model.layer_stats.unpack(model.layer_rows).items()}
    new = weights(model)
    kernels = [index for index, v in enumerate(model.trainable_variables) if "kernel" in v.name]
    norm = lambda x: np.linalg.norm(np.asarray(x, np.float64))  # noqa: E731
    np.testing.assert_allclose(values["gradient_norm"], [norm(expected[index]) for index in kernels], rtol=1e-4)
    np.testing.assert_allclose(values["weight_norm"], [norm(new[index]) for index in kernels], rtol=1e-5)
    updates = [norm(new[index].astype(np.float64) - old[index]) for index in kernels]
    np.testing.assert_allclose(values["update_norm"], updates, rtol=1e-3)
    assert np.isnan(values["moment_ratio"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_the_moment_ratio_starts_at_one(name: str) -> None:
    """After one step the corrected second moment is the squared gradient itself; rmsprop's is (1 - rho) of that."""
    config = OptimizerConfig(name=name, learning_rate=1e-3, schedule="constant", beta_2=0.99)
    _, values = train_and_unpack(one(), steps=1, every=1, config=config)
    expected = 10.0 if name == "rmsprop" else 1.0
    # Where the gradient is exactly zero, so is the ratio: units that no image reaches.
    assert (values["moment_ratio"] <= expected * 1.001).all()
    assert values["moment_ratio"].max() > 0.9 * expected


def biased(activation: str, bias: float):
    """A convolution with `bias` on the first half of its channels."""

    def network(shape: tuple[int, int, int], classes: int) -> keras.Model:
        x = inputs = layers.Input(shape)
        initializer = keras.initializers.Constant([bias] * 4 + [0.0] * 4)
        x = layers.Conv2D(8, 3, padding="same", activation=activation, bias_initializer=initializer)(x)
        return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))

    return network


def test_a_network_without_activations_or_norms_has_statistics_too() -> None:
    def linear(shape: tuple[int, int, int], classes: int) -> keras.Model:
        inputs = layers.Input(shape)
        return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(inputs)))

    _, values = train_and_unpack(one(), linear, steps=1)
    assert values["deviation"].shape == values["shift"].shape == values["log_variance"].shape == (1, 0)
    assert np.isfinite(values["gradient_norm"]).all()
    assert values["inference_loss"][0] == pytest.approx(values["training_loss"][0], rel=0.5)


def test_dead_channels_are_counted() -> None:
    _, values = train_and_unpack(one(), biased("relu", -1e3), steps=1)
    assert values["dead"][0] == pytest.approx([0.5])
    assert np.isnan(values["saturated"][0]).all()


def test_saturated_values_are_counted() -> None:
    _, healthy = train_and_unpack(one(), biased("tanh", 0.0), steps=1)
    _, values = train_and_unpack(one(), biased("tanh", 1e3), steps=1)
    assert healthy["saturated"][0] < 0.3
    assert values["saturated"][0] == pytest.approx(0.5 + healthy["saturated"][0] / 2, abs=0.1)
    assert np.isnan(values["dead"][0]).all()


def without_dropout(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A network with BatchNorm and without randomness."""
    x = inputs = layers.Input(shape)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Conv2D(6, 3, 2, use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))


def test_deviations_and_losses_are_of_the_first_images() -> None:
    model = compiled(
        one(), without_dropout, layer_stats_every=1, per_call=1, config=OptimizerConfig(learning_rate=1e-9)
    )
    model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
    values = {name: value[0] for name, value in model.layer_stats.unpack(model.layer_rows).items()}
    images, labels = PICTURES[:LAYER_STATS_IMAGES], LABELS[:LAYER_STATS_IMAGES]
    inner = model.get_layer(model.name)
    normal = model.get_layer("normalize")(images)
    taps = keras.Model(inner.inputs, {name: inner.get_layer(name).output for name in model.layer_stats.activations})
    outputs = taps(normal, training=False)
    assert outputs
    deviations = [np.std(np.asarray(outputs[name], np.float64)) for name in model.layer_stats.activations]
    np.testing.assert_allclose(values["deviation"], deviations, rtol=1e-4)
    loss = lambda logits: np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))  # noqa: E731
    assert values["inference_loss"] == pytest.approx(loss(model(images, training=False)), rel=1e-4)
    # BatchNorm uses the statistics of the whole batch, as in training.
    assert values["training_loss"] == pytest.approx(
        loss(model(PICTURES[:BATCH], training=True)[:LAYER_STATS_IMAGES]), rel=1e-3
    )
    assert values["training_loss"] != pytest.approx(values["inference_loss"], rel=1e-3)


def test_the_shift_is_in_moving_standard_deviations() -> None:
    """The moving mean starts at 0, so that the first step shifts by its batch's own mean."""
    model = compiled(one(), normed, layer_stats_every=1, per_call=1, config=OptimizerConfig(learning_rate=1e-9))
    inner = model.get_layer(model.name)
    first = model.layer_stats.norms[0]
    before = keras.Model(inner.inputs, inner.get_layer(first).input)
    x = before(model.get_layer("normalize")(PICTURES[:BATCH]), training=True).numpy().astype(np.float64)
    model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
    norm = inner.get_layer(first)
    mean, variance = x.mean((0, 1, 2)), norm.moving_variance.numpy()
    shift = model.layer_stats.unpack(model.layer_rows)["shift"][0, 0]
    assert shift == pytest.approx(np.mean(np.abs(mean) / np.sqrt(variance + norm.epsilon)), rel=1e-3)
    values = model.layer_stats.unpack(model.layer_rows)
    assert values["log_variance"][0, 0] == pytest.approx(np.mean(np.log(variance + norm.epsilon)), rel=1e-4)
    unbiased = x.var((0, 1, 2)) * x[..., 0].size / (x[..., 0].size - 1)
    expected = np.mean(np.log((unbiased + norm.epsilon) / (1 + norm.epsilon)))
    assert values["spread"][0, 0] == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_the_shift_of_a_batch_in_parts_is_the_mean_over_the_parts() -> None:
    """Only nearly, because later parts have slightly larger weights: each one decays the earlier ones."""
    shifts = []
    for parts in (1, 4):
        rate = OptimizerConfig(learning_rate=1e-9)
        model = compiled(one(), normed, layer_stats_every=1, per_call=1, config=rate, accumulate=parts)
        model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
        shifts.append(model.layer_stats.unpack(model.layer_rows)["shift"][0])
    np.testing.assert_allclose(shifts[1], shifts[0], rtol=0.3)


@pytest.mark.slow
def test_the_noise_scale_matches_the_gradients() -> None:
    model, values = train_and_unpack(two(), steps=1, every=1)
    fresh = compiled(one())
    halves = [slice(0, BATCH // 2), slice(BATCH // 2, BATCH)]
    parts = [np.concatenate([g.ravel() for g in by_hand(fresh, PICTURES[half], LABELS[half])]) for half in halves]
    whole = np.mean(parts, axis=0)
    small, large = np.sum(parts[0] ** 2), np.sum(whole**2)
    gradient = (BATCH * large - BATCH / 2 * small) / (BATCH / 2)
    noise = (small - large) / (2 / BATCH - 1 / BATCH)
    assert values["noise_scale"][0] == pytest.approx(noise / gradient, rel=1e-2)
    assert model.distribute_strategy.num_replicas_in_sync == 2


def test_the_noise_scale_recovers_the_parameters_of_random_gradients() -> None:
    rng = np.random.default_rng(0)
    gradient, deviation, batch, replicas = rng.normal(size=1000), 3.0, 16, 4
    squares = []
    for _ in range(400):
        parts = gradient + deviation / np.sqrt(batch) * rng.normal(size=(replicas, 1000))
        squares.append((np.sum(parts[0] ** 2), np.sum(parts.mean(0) ** 2)))
    noise_scale = gradient_noise_scale(*np.mean(squares, axis=0), batch, replicas)
    assert noise_scale == pytest.approx(1000 * deviation**2 / np.sum(gradient**2), rel=0.1)
    assert np.isnan(gradient_noise_scale(1.0, 1.0, batch, replicas=1))


@functools.cache
def plain_statistics() -> dict[str, np.ndarray]:
    return train_and_unpack(one(), normed)[1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"xla": True}, {"policy": "mixed_float16"}, {"accumulate": 2}])
def test_every_kind_of_step_has_statistics(options: dict) -> None:
    if "accumulate" in options:
        options = {"config": OptimizerConfig(learning_rate=0.05, schedule="constant", accumulate=2)}
    expected = plain_statistics()
    _, values = train_and_unpack(one(), normed, **options)
    for name in ("gradient_norm", "weight_norm", "deviation"):
        assert np.isfinite(values[name][0]).all(), name
    np.testing.assert_allclose(values["weight_norm"][0], expected["weight_norm"][0], rtol=1e-2)


@pytest.mark.slow
def test_the_statistics_do_not_change_training() -> None:
    model, _ = train_and_unpack(one(), normed, every=1)
    without = compiled(one(), normed, per_call=STEPS)
    without.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=STEPS, epochs=1, verbose=0)
    for value, expected in zip(model.get_weights(), without.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert without.layer_rows.shape == (STEPS, 0)
