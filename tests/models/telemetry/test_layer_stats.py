"""What a due step says of each layer, against numpy and layers made to be dead or saturated."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.telemetry import layer_stats as module
from evenkeel.models.telemetry.layer_stats import (
    ACTIVATION,
    GROUP,
    IMAGES,
    NORM,
    STEP,
    Probe,
    noise_scale,
)
from tests.models.networks.test_factory import normed, plain
from tests.models.training.test_stable_model import (
    BATCH,
    CLASSES,
    LABELS,
    SIZE,
    batches,
    by_hand,
    compiled,
    one,
    two,
    weights,
)
from tests.models.training.test_stable_model import IMAGES as PICTURES

layers = keras.layers
STEPS = 6


def watched(devices, network=plain, steps: int = STEPS, every: int = 2, **options):
    """A model trained for one call of `steps` steps, and {name: figures of these steps}."""
    model = compiled(devices, network, per_call=steps, watch_every=every, **options)
    model.fit(batches(devices, PICTURES, LABELS), steps_per_epoch=steps, epochs=1, verbose=0)
    return model, model.probe.read(model.layers_rows)


def test_places_come_in_the_order_of_the_network() -> None:
    network = normed((SIZE, SIZE, 3), CLASSES)
    probe = Probe(network, network.trainable_variables)
    kernels = [layer.name for layer in network.layers if isinstance(layer, layers.Conv2D | layers.Dense)]
    assert probe.groups == kernels
    assert len(kernels) > 2
    assert probe.activations
    assert probe.norms
    sizes = {**dict.fromkeys(GROUP, len(probe.groups)), **dict.fromkeys(ACTIVATION, len(probe.activations))}
    figures = probe.read(np.arange(3.0 * probe.size).reshape(3, -1))
    for name, size in {**sizes, **dict.fromkeys(NORM, len(probe.norms))}.items():
        assert figures[name].shape == (3, size), name
    assert all(figures[name].shape == (3,) for name in STEP)
    assert len(np.unique(np.concatenate([np.ravel(each) for each in figures.values()]))) == 3 * probe.size


def test_only_due_steps_are_looked_at() -> None:
    _, figures = watched(one(), every=3)
    due = np.arange(STEPS) % 3 == 0
    for name in ("gradient_norm", "weight_norm", "update_norm", "deviation", "training_loss"):
        seen = np.isfinite(figures[name].reshape(STEPS, -1))
        assert (seen == due[:, None]).all(), name


def test_norms_are_those_of_numpy() -> None:
    model = compiled(one(), watch_every=1, per_call=1)
    old, expected = weights(model), by_hand(model, PICTURES[:BATCH], LABELS[:BATCH])
    model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
    figures = {name: value[0] for name, value in model.probe.read(model.layers_rows).items()}
    new = weights(model)
    kernels = [at for at, v in enumerate(model.trainable_variables) if "kernel" in v.name]
    norm = lambda x: np.linalg.norm(np.asarray(x, np.float64))  # noqa: E731
    np.testing.assert_allclose(figures["gradient_norm"], [norm(expected[at]) for at in kernels], rtol=1e-4)
    np.testing.assert_allclose(figures["weight_norm"], [norm(new[at]) for at in kernels], rtol=1e-5)
    updates = [norm(new[at].astype(np.float64) - old[at]) for at in kernels]
    np.testing.assert_allclose(figures["update_norm"], updates, rtol=1e-3)
    assert np.isnan(figures["moment_ratio"]).all()


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_the_moment_ratio_starts_at_one(name: str) -> None:
    """After one step the corrected second moment is the squared gradient itself; rmsprop's is (1 - rho) of that."""
    config = OptimizerConfig(name=name, learning_rate=1e-3, schedule="constant", beta_2=0.99)
    _, figures = watched(one(), steps=1, every=1, config=config)
    expected = 10.0 if name == "rmsprop" else 1.0
    # Where the gradient is exactly zero, so is the ratio: units that no image reaches.
    assert (figures["moment_ratio"] <= expected * 1.001).all()
    assert figures["moment_ratio"].max() > 0.9 * expected


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", (0, None)),
        ("sigmoid", (0, 1)),
        ("tanh", (-1, 1)),
        ("swish", (0, None)),
        ("gelu", (0, None)),
        ("elu", (-1, None)),
        ("softsign", (None, None)),
        ("linear", None),
        ("softmax", None),
    ],
)
def test_asymptotes_are_found(activation: str, expected: tuple | None) -> None:
    assert module.asymptotes(layers.Dense(3, activation=activation)) == expected
    assert module.asymptotes(layers.Activation(activation)) == expected


def test_layers_without_weights_have_asymptotes_too() -> None:
    assert module.asymptotes(layers.ReLU()) == (0, None)
    assert module.asymptotes(layers.ReLU(max_value=6)) == (0, 6)
    assert module.asymptotes(layers.LeakyReLU()) == (None, None)
    assert module.asymptotes(layers.MaxPool2D()) is None


def biased(activation: str, bias: float):
    """A convolution whose first half of the channels is pushed by `bias`."""

    def network(shape: tuple[int, int, int], classes: int) -> keras.Model:
        x = inputs = layers.Input(shape)
        bias_of = keras.initializers.Constant([bias] * 4 + [0.0] * 4)
        x = layers.Conv2D(8, 3, padding="same", activation=activation, bias_initializer=bias_of)(x)
        return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))

    return network


def test_a_network_without_activations_or_norms_is_watched_too() -> None:
    def linear(shape: tuple[int, int, int], classes: int) -> keras.Model:
        inputs = layers.Input(shape)
        return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(inputs)))

    _, figures = watched(one(), linear, steps=1)
    assert figures["deviation"].shape == figures["shift"].shape == figures["log_variance"].shape == (1, 0)
    assert np.isfinite(figures["gradient_norm"]).all()
    assert figures["inference_loss"][0] == pytest.approx(figures["training_loss"][0], rel=0.5)


def test_dead_channels_are_counted() -> None:
    _, figures = watched(one(), biased("relu", -1e3), steps=1)
    assert figures["dead"][0] == pytest.approx([0.5])
    assert np.isnan(figures["saturated"][0]).all()


def test_saturated_values_are_counted() -> None:
    _, healthy = watched(one(), biased("tanh", 0.0), steps=1)
    _, figures = watched(one(), biased("tanh", 1e3), steps=1)
    assert healthy["saturated"][0] < 0.3
    assert figures["saturated"][0] == pytest.approx(0.5 + healthy["saturated"][0] / 2, abs=0.1)
    assert np.isnan(figures["dead"][0]).all()


def undropped(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """BatchNorm, and nothing drawn at random."""
    x = inputs = layers.Input(shape)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Conv2D(6, 3, 2, use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))


def test_deviations_and_losses_are_those_of_the_first_images() -> None:
    model = compiled(one(), undropped, watch_every=1, per_call=1, config=OptimizerConfig(learning_rate=1e-9))
    model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
    figures = {name: value[0] for name, value in model.probe.read(model.layers_rows).items()}
    some, labels = PICTURES[:IMAGES], LABELS[:IMAGES]
    inner = model.get_layer(model.name)
    normal = model.get_layer("normalize")(some)
    taps = keras.Model(inner.inputs, {name: inner.get_layer(name).output for name in model.probe.activations})
    seen = taps(normal, training=False)
    assert seen
    deviations = [np.std(np.asarray(seen[name], np.float64)) for name in model.probe.activations]
    np.testing.assert_allclose(figures["deviation"], deviations, rtol=1e-4)
    loss = lambda logits: np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))  # noqa: E731
    assert figures["inference_loss"] == pytest.approx(loss(model(some, training=False)), rel=1e-4)
    # Normalized with the whole batch, as in training.
    assert figures["training_loss"] == pytest.approx(loss(model(PICTURES[:BATCH], training=True)[:IMAGES]), rel=1e-3)
    assert figures["training_loss"] != pytest.approx(figures["inference_loss"], rel=1e-3)


def test_the_shift_is_in_moving_deviations() -> None:
    """From a mean of 0 and a variance of 1, the first step's own mean is what it differs by."""
    model = compiled(one(), normed, watch_every=1, per_call=1, config=OptimizerConfig(learning_rate=1e-9))
    inner = model.get_layer(model.name)
    first = model.probe.norms[0]
    before = keras.Model(inner.inputs, inner.get_layer(first).input)
    x = before(model.get_layer("normalize")(PICTURES[:BATCH]), training=True).numpy().astype(np.float64)
    model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
    norm = inner.get_layer(first)
    mean, variance = x.mean((0, 1, 2)), norm.moving_variance.numpy()
    found = model.probe.read(model.layers_rows)["shift"][0, 0]
    assert found == pytest.approx(np.mean(np.abs(mean) / np.sqrt(variance + norm.epsilon)), rel=1e-3)
    figures = model.probe.read(model.layers_rows)
    assert figures["log_variance"][0, 0] == pytest.approx(np.mean(np.log(variance + norm.epsilon)), rel=1e-4)
    unbiased = x.var((0, 1, 2)) * x[..., 0].size / (x[..., 0].size - 1)
    expected = np.mean(np.log((unbiased + norm.epsilon) / (1 + norm.epsilon)))
    assert figures["spread"][0, 0] == pytest.approx(expected, abs=0.02)


def test_the_shift_of_a_batch_in_parts_is_the_mean_over_them() -> None:
    """Whose weights are nearly equal: each part has moved what the ones before it left."""
    found = []
    for parts in (1, 4):
        rate = OptimizerConfig(learning_rate=1e-9)
        model = compiled(one(), normed, watch_every=1, per_call=1, config=rate, accumulate=parts)
        model.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=1, epochs=1, verbose=0)
        found.append(model.probe.read(model.layers_rows)["shift"][0])
    np.testing.assert_allclose(found[1], found[0], rtol=0.3)


def test_the_noise_scale_is_that_of_the_gradients() -> None:
    model, figures = watched(two(), steps=1, every=1)
    fresh = compiled(one())
    halves = [slice(0, BATCH // 2), slice(BATCH // 2, BATCH)]
    parts = [np.concatenate([g.ravel() for g in by_hand(fresh, PICTURES[of], LABELS[of])]) for of in halves]
    whole = np.mean(parts, axis=0)
    small, large = np.sum(parts[0] ** 2), np.sum(whole**2)
    gradient = (BATCH * large - BATCH / 2 * small) / (BATCH / 2)
    noise = (small - large) / (2 / BATCH - 1 / BATCH)
    assert figures["noise_scale"][0] == pytest.approx(noise / gradient, rel=1e-2)
    assert model.distribute_strategy.num_replicas_in_sync == 2


def test_the_noise_scale_recovers_what_made_the_gradients() -> None:
    rng = np.random.default_rng(0)
    gradient, deviation, batch, replicas = rng.normal(size=1000), 3.0, 16, 4
    squares = []
    for _ in range(400):
        parts = gradient + deviation / np.sqrt(batch) * rng.normal(size=(replicas, 1000))
        squares.append((np.sum(parts[0] ** 2), np.sum(parts.mean(0) ** 2)))
    found = noise_scale(*np.mean(squares, axis=0), batch, replicas)
    assert found == pytest.approx(1000 * deviation**2 / np.sum(gradient**2), rel=0.1)
    assert np.isnan(noise_scale(1.0, 1.0, batch, replicas=1))


@pytest.mark.parametrize("options", [{"xla": True}, {"policy": "mixed_float16"}, {"accumulate": 2}])
def test_it_watches_every_kind_of_step(options: dict) -> None:
    if "accumulate" in options:
        options = {"config": OptimizerConfig(learning_rate=0.05, schedule="constant", accumulate=2)}
    _, plainly = watched(one(), normed)
    _, figures = watched(one(), normed, **options)
    for name in ("gradient_norm", "weight_norm", "deviation"):
        assert np.isfinite(figures[name][0]).all(), name
    np.testing.assert_allclose(figures["weight_norm"][0], plainly["weight_norm"][0], rtol=1e-2)


def test_watching_changes_nothing() -> None:
    model, _ = watched(one(), normed, every=1)
    blind = compiled(one(), normed, per_call=STEPS)
    blind.fit(batches(one(), PICTURES, LABELS), steps_per_epoch=STEPS, epochs=1, verbose=0)
    for seen, unseen in zip(model.get_weights(), blind.get_weights(), strict=True):
        np.testing.assert_array_equal(seen, unseen)
    assert blind.layers_rows.shape == (STEPS, 0)
