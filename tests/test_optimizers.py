"""Schedules, weight decay and the update rules against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from models import optimizers
from models.config import OPTIMIZERS, SCHEDULES, OptimizerConfig
from pipeline.config import UsageError
from tests.test_network import normed

STEPS = np.concatenate([np.arange(0, 1200, 7), [99, 100, 101, 999, 1000, 5000]])


def expected(shape: str, step: np.ndarray, peak: float = 0.3, warmup: int = 100, total: int = 1000) -> np.ndarray:
    done = np.clip((step - warmup) / (total - warmup), 0, 1)
    after = {"constant": np.ones_like(done), "cosine": (1 + np.cos(np.pi * done)) / 2, "one_cycle": 1 - done}[shape]
    return peak * np.where(step < warmup, (step + 1) / max(1, warmup), after)


@pytest.mark.parametrize("shape", SCHEDULES)
def test_a_schedule_is_its_formula_at_every_step(shape: str) -> None:
    config = OptimizerConfig(learning_rate=0.3, schedule=shape, warmup_epochs=2.5)
    schedule = optimizers.schedule(config, steps_per_epoch=40, epochs=25)
    found = [float(schedule(tf.constant(step, tf.int64))) for step in STEPS]
    np.testing.assert_allclose(found, expected(shape, STEPS), rtol=1e-5, atol=1e-7)
    again = optimizers.Schedule.from_config(schedule.get_config())
    np.testing.assert_allclose([float(again(step)) for step in STEPS[:20]], found[:20])


@pytest.mark.parametrize("shape", SCHEDULES)
def test_without_warmup_the_first_step_is_at_the_peak(shape: str) -> None:
    schedule = optimizers.schedule(OptimizerConfig(learning_rate=0.3, schedule=shape), 40, 25)
    np.testing.assert_allclose(schedule(0), 0.3, rtol=1e-6)
    np.testing.assert_allclose(schedule(500), expected(shape, np.array([500]), warmup=0)[0], rtol=1e-5)


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match=r"optimizer.warmup_epochs \(3.0\) must be shorter than the run \(3 epochs\)"):
        optimizers.schedule(OptimizerConfig(warmup_epochs=3.0), steps_per_epoch=10, epochs=3)


@pytest.mark.parametrize("shape", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_with_each_schedule_lowers_the_loss(name: str, shape: str) -> None:
    """Logistic regression, step by step."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 64)
    images = tf.constant((np.eye(4)[labels] @ rng.normal(size=(4, 12)) + rng.normal(size=(64, 12))).astype(np.float32))
    kernel, bias = tf.Variable(tf.zeros([12, 4])), tf.Variable(tf.zeros([4]))
    config = OptimizerConfig(
        name=name,
        learning_rate=0.2 if name == "sgd" else 0.05,
        schedule=shape,
        warmup_epochs=0.1,
        weight_decay=0.01,
        beta_2=0.9,
    )
    optimizer = optimizers.create(config, steps_per_epoch=40, epochs=1, exempt=[bias])

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = images @ kernel + bias
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, [kernel, bias])
        optimizer.apply_gradients(zip(gradients, [kernel, bias], strict=True))
        return loss

    losses = [float(step()) for _ in range(40)]
    assert losses[0] == pytest.approx(np.log(4), rel=1e-5)
    assert losses[-1] < 0.6 * losses[0]
    assert int(optimizer.iterations) == 40


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_kernels_by_rate_times_decay_and_nothing_else(name: str) -> None:
    model = normed((8, 8, 3), 10)
    for variable in model.trainable_variables:
        variable.assign(tf.random.normal(variable.shape))
    config = OptimizerConfig(name=name, learning_rate=0.5, schedule="constant", weight_decay=0.02)
    optimizer = optimizers.create(config, 10, 1, exempt=optimizers.biases_and_norms(model))
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


def updates(config: OptimizerConfig, gradients: np.ndarray) -> np.ndarray:
    """The weight after each of the gradients, from 1."""
    weight, seen = tf.Variable([1.0]), []
    optimizer = optimizers.create(config, steps_per_epoch=len(gradients), epochs=1)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant([gradient], tf.float32), weight)])
        seen.append(float(weight[0]))
    return np.array(seen)


GRADIENTS = np.random.default_rng(3).normal(size=6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_its_formula(nesterov: bool) -> None:
    config = OptimizerConfig(learning_rate=0.1, momentum=0.8, nesterov=nesterov, schedule="constant")
    weight, velocity, seen = 1.0, 0.0, []
    for gradient in GRADIENTS:
        velocity = 0.8 * velocity - 0.1 * gradient
        weight += 0.8 * velocity - 0.1 * gradient if nesterov else velocity
        seen.append(weight)
    np.testing.assert_allclose(updates(config, GRADIENTS), seen, rtol=1e-5)


def test_adam_is_its_formula() -> None:
    config = OptimizerConfig(name="adam", learning_rate=0.1, beta_1=0.8, beta_2=0.95, epsilon=1e-3, schedule="constant")
    weight, first, second, seen = 1.0, 0.0, 0.0, []
    for step, gradient in enumerate(GRADIENTS, 1):
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        # Keras's form: epsilon stands beside the uncorrected root (Kingma and Ba 2015, end of section 2).
        rate = 0.1 * np.sqrt(1 - 0.95**step) / (1 - 0.8**step)
        weight -= rate * first / (np.sqrt(second) + 1e-3)
        seen.append(weight)
    np.testing.assert_allclose(updates(config, GRADIENTS), seen, rtol=1e-5)


def test_rmsprop_is_its_formula() -> None:
    config = OptimizerConfig(
        name="rmsprop", learning_rate=0.1, momentum=0.7, beta_2=0.9, epsilon=1e-3, schedule="constant"
    )
    weight, second, velocity, seen = 1.0, 0.0, 0.0, []
    for gradient in GRADIENTS:
        second = 0.9 * second + 0.1 * gradient**2
        velocity = 0.7 * velocity + 0.1 * gradient / np.sqrt(second + 1e-3)
        weight -= velocity
        seen.append(weight)
    np.testing.assert_allclose(updates(config, GRADIENTS), seen, rtol=1e-5)


def test_biases_and_norms_are_the_trainable_vectors() -> None:
    model = normed((8, 8, 3), 10)
    assert {variable.name.split(":")[0] for variable in optimizers.biases_and_norms(model)} == {
        "norm/gamma",
        "norm/beta",
        "second/bias",
        "logits/bias",
    }
    assert isinstance(optimizers.create(OptimizerConfig(), 1, 2), keras.optimizers.SGD)
