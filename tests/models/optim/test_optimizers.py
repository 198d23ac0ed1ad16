"""Weight decay and the update rules against numpy in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OPTIMIZERS, SCHEDULES, OptimizerConfig
from evenkeel.models.optim import optimizers
from evenkeel.models.optim.schedules import Schedule
from evenkeel.models.presets import keras_defaults
from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.factories import needs_addons, normed, skip_without_addons


def schedule(config: OptimizerConfig, steps: int) -> Schedule:
    return Schedule(config, global_batch_size=64, steps_per_epoch=steps, epochs=1)


@pytest.fixture(scope="module")
def shapes(data: Dataset, small: DataConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """100 images of the embedded data set, normalized, and their labels."""
    config = dataclasses.replace(small, batch_size=100)
    images, labels = next(iter(build.training_batches(data, config, seed=0, replica_shard=ReplicaShard(100))))
    return (tf.cast(images, tf.float32) - data.mean) / data.std, labels


def linear(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A network of one layer, which is traced in little time."""
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(classes)])


RATES = {
    "adagrad": 0.05,
    "adadelta": 3.0,
    "sgd": 0.1,
    "sgdw": 0.1,
    "lamb": 0.04,
    "radam": 0.02,
    "lookahead": 0.04,
    "novograd": 0.02,
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SCHEDULES)
@pytest.mark.parametrize("name", skip_without_addons(OPTIMIZERS))
def test_each_optimizer_with_each_schedule_lowers_the_loss(name: str, shape: str, shapes) -> None:
    images, labels = shapes
    model = linear(images.shape[1:], 10)
    config = OptimizerConfig(
        name=name,
        learning_rate=RATES.get(name, 0.005),
        schedule=shape,
        milestones="0.5,0.8",
        restart_epochs=0.3,
        warmup_epochs=0.1,
        weight_decay=0.01,
        beta_2=0.9,
    )
    optimizer = optimizers.create_optimizer(config, schedule(config, 40), model.trainable_variables)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    losses = [float(step()) for _ in range(40)]
    assert losses[0] > 2
    assert np.mean(losses[-3:]) < 0.75 * losses[0]
    assert int(optimizer.iterations) == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", skip_without_addons(name for name in OPTIMIZERS if name != "lamb"))
def test_weight_decay_shrinks_kernels_by_rate_times_decay_and_nothing_else(name: str) -> None:
    model = normed((8, 8, 3), 10)
    for variable in model.trainable_variables:
        variable.assign(tf.random.normal(variable.shape))
    config = OptimizerConfig(name=name, learning_rate=0.5, schedule="constant", weight_decay=0.02)
    optimizer = optimizers.create_optimizer(config, schedule(config, 10), model.trainable_variables)
    before = [variable.numpy().astype(np.float64) for variable in model.trainable_variables]
    zeros = [tf.zeros_like(variable) for variable in model.trainable_variables]
    for _ in range(3):
        optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    decayed = set()
    for variable, old in zip(model.trainable_variables, before, strict=True):
        factor = (1 - 0.5 * 0.02) ** 3 if "kernel" in variable.name else 1.0
        np.testing.assert_allclose(variable.numpy(), old * factor, rtol=1e-6, err_msg=variable.name)
        decayed.add((variable.name.split(":")[0], factor < 1))
    assert decayed == {
        ("first/kernel", True),
        ("norm/gamma", False),
        ("norm/beta", False),
        ("second/kernel", True),
        ("second/bias", False),
        ("logits/kernel", True),
        ("logits/bias", False),
    }


def weights_after(config: OptimizerConfig, gradients: np.ndarray) -> np.ndarray:
    """The weight [3, 2] after each of the gradients, beginning with START."""
    weight, expected_weights = tf.Variable(START, dtype=tf.float32), []
    optimizer = optimizers.create_optimizer(config, schedule(config, len(gradients)), [weight])
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), weight)])
        expected_weights.append(weight.numpy())
    return np.array(expected_weights)


RNG = np.random.default_rng(3)
START, GRADIENTS = RNG.normal(size=(3, 2)), RNG.normal(size=(14, 3, 2))


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_matches_its_formula(nesterov: bool) -> None:
    config = OptimizerConfig(learning_rate=0.1, momentum=0.8, nesterov=nesterov, schedule="constant")
    weight, velocity, expected_weights = START, 0.0, []
    for gradient in GRADIENTS:
        velocity = 0.8 * velocity - 0.1 * gradient
        weight = weight + (0.8 * velocity - 0.1 * gradient if nesterov else velocity)
        expected_weights.append(weight)
    np.testing.assert_allclose(weights_after(config, GRADIENTS), expected_weights, rtol=1e-5)


def test_adam_matches_its_formula() -> None:
    config = OptimizerConfig(name="adam", learning_rate=0.1, beta_1=0.8, beta_2=0.95, epsilon=1e-3, schedule="constant")
    weight, first, second, expected_weights = START, 0.0, 0.0, []
    for step, gradient in enumerate(GRADIENTS, 1):
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        # Keras's form: epsilon is added to the uncorrected root (Kingma and Ba 2015, end of section 2).
        rate = 0.1 * np.sqrt(1 - 0.95**step) / (1 - 0.8**step)
        weight = weight - rate * first / (np.sqrt(second) + 1e-3)
        expected_weights.append(weight)
    np.testing.assert_allclose(weights_after(config, GRADIENTS), expected_weights, rtol=1e-5)


def test_rmsprop_matches_its_formula() -> None:
    config = OptimizerConfig(
        name="rmsprop", learning_rate=0.1, momentum=0.7, beta_2=0.9, epsilon=1e-3, schedule="constant"
    )
    weight, second, velocity, expected_weights = START, 0.0, 0.0, []
    for gradient in GRADIENTS:
        second = 0.9 * second + 0.1 * gradient**2
        velocity = 0.7 * velocity + 0.1 * gradient / np.sqrt(second + 1e-3)
        weight = weight - velocity
        expected_weights.append(weight)
    np.testing.assert_allclose(weights_after(config, GRADIENTS), expected_weights, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "constructor"),
    [
        ("adam", keras.optimizers.Adam),
        ("nadam", keras.optimizers.Nadam),
        ("rmsprop", keras.optimizers.RMSprop),
        ("adagrad", keras.optimizers.Adagrad),
        ("adadelta", keras.optimizers.Adadelta),
        ("sgd", keras.optimizers.SGD),
        ("adamw", keras.optimizers.AdamW),
    ],
)
def test_with_keras_defaults_an_optimizer_is_keras_own(name: str, constructor: type) -> None:
    values = keras_defaults(name)["optimizer"]
    config = OptimizerConfig(name=name, **values)
    variables = [tf.Variable(np.ones((3, 2), np.float32)), tf.Variable(np.ones((3, 2), np.float32))]
    ours = optimizers.create_optimizer(config, schedule(config, 40), variables[:1])
    theirs = constructor()
    for optimizer, variable in zip((ours, theirs), variables, strict=True):
        for gradient in GRADIENTS:
            optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    np.testing.assert_allclose(variables[0].numpy(), variables[1].numpy(), rtol=1e-6)
    assert not np.allclose(variables[0].numpy(), 1, atol=1e-8)


def test_sgdw_and_adamw_decay_the_weights_separately() -> None:
    for name in ("sgdw", "adamw"):
        plain = weights_after(
            OptimizerConfig(name=name.removesuffix("w"), learning_rate=0.1, schedule="constant"), GRADIENTS
        )
        config = OptimizerConfig(name=name, learning_rate=0.1, schedule="constant", weight_decay=0.3)
        weights, expected, before, change = (
            weights_after(config, GRADIENTS),
            [],
            START,
            np.diff(plain, axis=0, prepend=[START]),
        )
        for step in change:  # neither rule depends on the weight, so the plain steps stay the same
            before = before * (1 - 0.1 * 0.3) + step
            expected.append(before)
        np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


MOMENTS = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "schedule": "constant"}


@needs_addons
def test_lamb_matches_its_formula() -> None:
    """You et al. 2020, algorithm 2; the decay is part of the trust ratio."""
    weight, first, second, expected_weights = START, 0.0, 0.0, []
    for step, gradient in enumerate(GRADIENTS, 1):
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        direction = first / (1 - 0.8**step) / (np.sqrt(second / (1 - 0.95**step)) + 1e-3) + 0.3 * weight
        weight = weight - 0.1 * np.linalg.norm(weight) / np.linalg.norm(direction) * direction
        expected_weights.append(weight)
    np.testing.assert_allclose(
        weights_after(OptimizerConfig(name="lamb", weight_decay=0.3, **MOMENTS), GRADIENTS), expected_weights, rtol=1e-4
    )


def rectified_adam(weight: np.ndarray, gradients: np.ndarray, decay: float) -> Iterator[np.ndarray]:
    """Liu et al. 2020, algorithm 2, with decoupled decay. Weights that are sent to it replace its own."""
    first, second, max_length = 0.0, 0.0, 2 / (1 - 0.95) - 1
    for step, gradient in enumerate(gradients, 1):
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        mean = first / (1 - 0.8**step)
        length = max_length - 2 * step * 0.95**step / (1 - 0.95**step)
        weight = weight * (1 - 0.1 * decay)
        if length >= 5:
            r = np.sqrt((length - 4) * (length - 2) * max_length / ((max_length - 4) * (max_length - 2) * length))
            weight = weight - 0.1 * r * mean / (np.sqrt(second / (1 - 0.95**step)) + 1e-3)
        else:
            weight = weight - 0.1 * mean
        sent = yield weight
        weight = weight if sent is None else sent


@needs_addons
def test_radam_matches_its_formula() -> None:
    weights = weights_after(OptimizerConfig(name="radam", weight_decay=0.3, **MOMENTS), GRADIENTS)
    np.testing.assert_allclose(weights, list(rectified_adam(START, GRADIENTS, 0.3)), rtol=1e-4, atol=1e-6)


@needs_addons
def test_lookahead_goes_halfway_back_every_sixth_step() -> None:
    """Zhang et al. 2019, algorithm 1, around radam."""
    inner, slow, expected_weights = rectified_adam(START, GRADIENTS, 0.3), START, []
    weight = next(inner)
    for step in range(1, len(GRADIENTS) + 1):
        if step % 6 == 0:
            slow = weight = slow + 0.5 * (weight - slow)
        expected_weights.append(weight)
        if step < len(GRADIENTS):
            weight = inner.send(weight)
    weights = weights_after(OptimizerConfig(name="lookahead", weight_decay=0.3, **MOMENTS), GRADIENTS)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-4, atol=1e-6)


@needs_addons
def test_novograd_matches_its_formula() -> None:
    """Ginsburg et al. 2019, algorithm 1 without its averaging of gradients, with decoupled decay."""
    weight, velocity, second, expected_weights = START, 0.0, 0.0, []
    for step, gradient in enumerate(GRADIENTS):
        square = (gradient**2).sum()
        second = square if step == 0 else 0.95 * second + 0.05 * square
        weight = weight * (1 - 0.1 * 0.3)
        velocity = 0.8 * velocity - 0.1 * gradient / (np.sqrt(second) + 1e-3)
        weight = weight + velocity
        expected_weights.append(weight)
    weights = weights_after(OptimizerConfig(name="novograd", weight_decay=0.3, **MOMENTS), GRADIENTS)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-4, atol=1e-6)


def test_weight_decay_is_for_kernels_only() -> None:
    model = normed((8, 8, 3), 10)
    assert {
        variable.name.split(":")[0]
        for variable in model.trainable_variables
        if not optimizers.uses_weight_decay(variable)
    } == {
        "norm/gamma",
        "norm/beta",
        "second/bias",
        "logits/bias",
    }


@needs_addons
def test_lamb_excludes_vectors_from_decay_and_trust_ratio() -> None:
    config = OptimizerConfig(name="lamb", weight_decay=0.3, **MOMENTS)
    bias = tf.Variable([3.0, 4.0], name="dense/bias")
    namesake = tf.Variable([[3.0], [4.0]], name="dense/bias_2")
    optimizer = optimizers.create_optimizer(config, schedule(config, 10), [bias, namesake])
    optimizer.apply_gradients([(tf.constant([1.0, -1.0]), bias), (tf.constant([[1.0], [-1.0]]), namesake)])
    sign = np.array([1.0, -1.0]) / (1 + 1e-3)
    np.testing.assert_allclose(bias.numpy(), [3, 4] - 0.1 * sign, rtol=1e-5)
    direction = sign + 0.3 * np.array([3.0, 4.0])
    np.testing.assert_allclose(
        namesake.numpy()[:, 0], [3, 4] - 0.1 * 5 / np.linalg.norm(direction) * direction, rtol=1e-5
    )
