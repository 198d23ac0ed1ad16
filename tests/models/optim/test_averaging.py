"""Weight averages against numpy, on one device and two replicas; BatchNorm's statistics of the averaged weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.optim import averaging
from evenkeel.models.training.stable_model import StableModel
from evenkeel.models.training.training_step import moving_statistics
from tests.factories import BATCH, IMAGES, LABELS, batches, compiled, fit, normed, one, two

EVERY_STEPS = 4  # between weights that enter the mean


class Recorder(keras.callbacks.Callback):
    """Records the values of all averaged variables after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.values.append([variable.numpy() for variable in self.model.averages.sources])


EMA, SWA = averaging.ema(0.6), averaging.swa(first_step=5, every_steps=EVERY_STEPS)


@functools.cache
def train_with(
    replicas: int, rule: averaging.AveragingRule, steps: int = 13
) -> tuple[StableModel, list[list[np.ndarray]]]:
    """The trained model, and the averaged variables' values after every step; shared, to be left as they are."""
    recorder = Recorder()
    devices = two() if replicas == 2 else one()
    model, _ = fit(devices, normed, steps=steps, per_call=1, averaging=rule, callbacks=[recorder])
    return model, recorder.values


def values(variables: list[tf.Variable], model: StableModel) -> list[np.ndarray]:
    return [model.distribute_strategy.experimental_local_results(variable)[0].numpy() for variable in variables]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_ema_matches_its_formula(replicas: int) -> None:
    model, recorded = train_with(replicas, EMA)
    expected = [value.astype(np.float64) for value in initial_values(EMA)]
    for step, after in enumerate(recorded):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, after, strict=True)]
    assert len(expected) == len(model.trainable_variables) + 2, "BatchNorm's statistics are averaged too"
    for average, value, last in zip(values(model.averages.variables, model), expected, recorded[-1], strict=True):
        np.testing.assert_allclose(average, value, rtol=1e-5, atol=1e-6)
        assert np.abs(value - last).max() > 1e-5


def initial_values(rule: averaging.AveragingRule) -> list[np.ndarray]:
    return [variable.numpy() for variable in compiled(one(), normed, averaging=rule).averages.sources]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_swa_is_the_mean_of_the_weights_at_its_steps(replicas: int) -> None:
    model, recorded = train_with(replicas, SWA)
    expected = [
        np.mean(weights, axis=0, dtype=np.float64)
        for weights in zip(recorded[4], recorded[8], recorded[12], strict=True)
    ]
    for average, value in zip(values(model.averages.variables, model), expected, strict=True):
        np.testing.assert_allclose(average, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("first_step", "ready"), [(5, True), (13, True), (14, False)])
def test_averages_are_ready_after_their_first_step(first_step: int, ready: bool) -> None:
    trained, _ = train_with(1, SWA)
    averages = compiled(one(), normed, averaging=averaging.swa(first_step, EVERY_STEPS)).averages
    assert averages.is_ready(trained.step) == ready


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_uses_the_averages_and_leaves_the_weights_unchanged(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = train_with(replicas, EMA)
    before = values(model.averages.sources, model)
    averaged = values(model.averages.variables, model)
    fed = batches(model.distribute_strategy, IMAGES, LABELS)
    results = model.evaluate(fed, steps=5, verbose=0, return_dict=True)
    for value, old in zip(values(model.averages.sources, model), before, strict=True):
        np.testing.assert_array_equal(value, old)
    reference = compiled(one(), normed)
    for variable, value in zip([*reference.trainable_variables, *moving_statistics(reference)], averaged, strict=True):
        variable.assign(value)
    expected = reference.evaluate(batches(one(), IMAGES, LABELS), steps=5, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    monkeypatch.setattr(model, "averages", None)
    assert abs(model.evaluate(fed, steps=5, verbose=0, return_dict=True)["loss"] - results["loss"]) > 1e-3


def test_the_weights_are_restored_if_evaluation_fails() -> None:
    model, _ = train_with(1, EMA)
    before = values(model.averages.sources, model)
    with pytest.raises(ZeroDivisionError), model.averages.swap_in():
        raise ZeroDivisionError
    for value, old in zip(values(model.averages.sources, model), before, strict=True):
        np.testing.assert_array_equal(value, old)


def moments(model: StableModel, batches: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Means over batches of the mean and of the unbiased variance (as in Keras) of BatchNorm's inputs, in float64."""
    inner = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    first = keras.Model(inner.input, inner.get_layer("first").output)
    inputs = [first(model.get_layer("normalize")(images)).numpy().astype(np.float64) for images in batches]
    axes = (0, 1, 2)
    return np.mean([x.mean(axes) for x in inputs], axis=0), np.mean([x.var(axes, ddof=1) for x in inputs], axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_batch_norm_statistics_are_recomputed_for_the_averaged_weights(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = train_with(replicas, SWA)
    monkeypatch.setattr(model, "statistics_batches", (batches(model.distribute_strategy, IMAGES, LABELS), 6))
    norm = next(layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization))
    recorded: list[np.ndarray] = []

    class StatisticsRecorder(keras.callbacks.Callback):
        def on_test_begin(self, logs: Any = None) -> None:
            recorded.extend([norm.moving_mean.numpy(), norm.moving_variance.numpy()])

    before = [norm.moving_mean.numpy(), norm.moving_variance.numpy()]
    for _ in range(2):  # a second evaluation starts from the same batches
        recorded.clear()
        model.evaluate(
            batches(model.distribute_strategy, IMAGES, LABELS), steps=2, verbose=0, callbacks=[StatisticsRecorder()]
        )
    with model.averages.swap_in():
        size = BATCH // replicas
        # Both replicas get the same order of examples here, so each step is one batch of theirs.
        mean, variance = moments(model, (IMAGES[i * size : (i + 1) * size] for i in range(6 * replicas)))
    np.testing.assert_allclose(recorded[0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(recorded[1], variance, rtol=1e-3)
    assert np.abs(recorded[0] - before[0]).max() > 1e-3
    np.testing.assert_array_equal(norm.moving_mean.numpy(), before[0])
