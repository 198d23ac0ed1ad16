"""Losses against numpy in float64; class weights; the loss that a training step reports."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from sklearn.utils.class_weight import compute_class_weight

from evenkeel.models.optim import losses
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.telemetry import step_row
from tests.factories import BATCH, CLASSES, IMAGES, LABELS, compiled, crossentropy, fit, needs_addons, one, two

RNG = np.random.default_rng(0)
LOGITS, TRUE = RNG.normal(0, 3, (50, 7)), RNG.integers(0, 7, 50)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_crossentropy_matches_numpy_with_any_smoothing(smoothing: float) -> None:
    loss = Crossentropy(smoothing).call(tf.constant(TRUE), tf.constant(LOGITS, tf.float32)).numpy()
    np.testing.assert_allclose(loss, crossentropy(LOGITS, TRUE, smoothing), rtol=1e-5)


def test_labels_may_have_a_second_axis_of_size_1() -> None:
    flat, column = (Crossentropy()(labels, tf.constant(LOGITS, tf.float32)) for labels in (TRUE, TRUE[:, None]))
    assert float(flat) == float(column) == pytest.approx(crossentropy(LOGITS, TRUE).mean(), rel=1e-5)


def test_large_logits_stay_finite() -> None:
    loss = Crossentropy(0.1).call(tf.constant([0, 1]), tf.constant([[1e4, -1e4], [1e4, -1e4]]))
    np.testing.assert_allclose(loss, [0.05 * 2e4, 0.95 * 2e4], rtol=1e-6)


def test_the_config_holds_the_smoothing() -> None:
    assert Crossentropy.from_config(Crossentropy(0.3).get_config()).smoothing == 0.3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_crossentropy_accepts_targets_instead_of_labels(smoothing: float) -> None:
    target = RNG.dirichlet(np.ones(7), 50)
    shifted = LOGITS - LOGITS.max(axis=1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -((target * (1 - smoothing) + smoothing / 7) * log_shares).sum(axis=1)
    loss = Crossentropy(smoothing).call(tf.constant(target, tf.float32), tf.constant(LOGITS, tf.float32))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@needs_addons
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_matches_its_formula(gamma: float) -> None:
    """Lin et al. 2017, equation 5, for every class against the rest."""
    share, target = 1 / (1 + np.exp(-LOGITS)), np.eye(7)[TRUE]
    right, alpha = np.where(target == 1, share, 1 - share), np.where(target == 1, 0.25, 0.75)
    expected = (-alpha * (1 - right) ** gamma * np.log(right)).sum(axis=1)
    loss = losses.create_loss("focal", gamma=gamma)
    for labels in (tf.constant(TRUE), tf.constant(target, tf.float32)):
        np.testing.assert_allclose(loss.call(labels, tf.constant(LOGITS, tf.float32)), expected, rtol=1e-4)
    assert losses.Focal.from_config(loss.get_config()).gamma == gamma


def test_balanced_class_weights_match_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.unique(TRUE), y=TRUE)
    np.testing.assert_allclose(losses.balanced_class_weights(np.bincount(TRUE)), expected)
    weights = losses.balanced_class_weights(np.array([30, 0, 10]))
    np.testing.assert_allclose(weights, [2 / 3, 0, 2])


def penalized(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L1(1e-2))(inputs)
    dense = keras.layers.Dense(classes, kernel_regularizer=keras.regularizers.L2(3e-2))
    return keras.Model(inputs, dense(keras.layers.Flatten()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_reported_loss_includes_the_penalties_once(replicas: int) -> None:
    devices = two() if replicas == 2 else one()
    _, rows = fit(devices, penalized, steps=1, per_call=1)
    start = compiled(one(), penalized)
    convolution, _, dense, _ = (variable.numpy().astype(np.float64) for variable in start.trainable_variables)
    penalty = 1e-2 * np.abs(convolution).sum() + 3e-2 * (dense**2).sum()
    assert penalty > 0.1
    logits = start(IMAGES[:BATCH]).numpy().astype(np.float64)
    assert logits.shape == (BATCH, CLASSES)
    expected = crossentropy(logits, LABELS[:BATCH]).mean()
    assert step_row.column(rows, "loss")[0] == pytest.approx(expected, rel=1e-5)
    assert step_row.column(rows, "penalty")[0] == pytest.approx(penalty, rel=1e-5)
