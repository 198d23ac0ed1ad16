"""Transient faults are active in their steps and only there."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.benchmarks.stability import transient_faults
from evenkeel.benchmarks.stability.faults import FAULTS
from evenkeel.models.stability.guard import StabilityGuard
from evenkeel.models.telemetry import step_row
from evenkeel.models.training.stable_model import StableModel
from tests.factories import BATCH, IMAGES, LABELS, batches, compiled, one

TRANSIENT = [name for name, fault in FAULTS.items() if fault.kind == "transient"]
FIRST_STEP = 33


def create_injection(name: str) -> transient_faults.Injection:
    fault = FAULTS[name]
    assert fault.inject is not None
    return fault.inject(first_step=FIRST_STEP, seed=0)


class RecordRun(keras.callbacks.Callback):
    """Records the rows of every step, and the weights before each compiled call."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.rows: list[np.ndarray] = []
        self.weights: dict[int, list[np.ndarray]] = {}

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.weights[self.model.step] = [v.numpy() for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rows.append(self.model.rows)


@functools.cache
def train(name: str = "", guarded: bool = False, steps: int = 60) -> tuple[np.ndarray, RecordRun, StableModel, list]:
    """(rows, record, model, incidents) of a run with the fault `name`, or without a fault."""
    model = compiled(one(), layer_stats_every=5 if guarded else 0, guarded=guarded)
    injection = create_injection(name) if name else transient_faults.Injection(0, 0)
    record, guard = RecordRun(), StabilityGuard(act=True)
    incidents: list[tuple] = []
    guard.incidents.listeners.append(lambda *incident: incidents.append(incident))
    training = injection.transform_dataset(batches(one(), IMAGES, LABELS), model.step, 10)
    callbacks = [*injection.callbacks, record, *([guard] if guarded else [])]
    model.fit(training, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=callbacks)
    return np.concatenate(record.rows), record, model, incidents


@pytest.mark.parametrize("name", TRANSIENT)
def test_an_injection_names_its_steps(name: str) -> None:
    injection = create_injection(name)
    assert (injection.first_step, injection.steps) == (FIRST_STEP, FAULTS[name].steps)


# Batches.


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 40])
@pytest.mark.parametrize("classes", [10, 4])
@pytest.mark.parametrize("name", ["burst_outliers", "burst_labels"])
def test_batches_are_corrupted_in_their_steps_only(name: str, classes: int, start: int) -> None:
    assert BATCH == 20  # the steps below are counted in batches of 20
    injection, clean = create_injection(name), batches(one(), IMAGES, LABELS % classes)
    pairs = zip(clean.take(70), injection.transform_dataset(clean, start, classes).take(70), strict=True)
    changed_steps = {"images": [], "labels": []}
    for step, ((images, labels), (new_images, new_labels)) in enumerate(pairs, start):
        assert (new_images.shape, new_images.dtype, new_labels.dtype) == (images.shape, tf.uint8, labels.dtype)
        if (images != new_images).numpy().any(axis=(1, 2, 3)).all():
            changed_steps["images"].append(step)
        if (labels != new_labels).numpy().all():
            changed_steps["labels"].append(step)
        assert (images == new_images).numpy().all() or step in changed_steps["images"]
        assert (labels == new_labels).numpy().all() or step in changed_steps["labels"]
        assert (new_labels.numpy() >= 0).all()
        assert (new_labels.numpy() < classes).all()
    corrupted, intact = ("images", "labels") if name == "burst_outliers" else ("labels", "images")
    assert changed_steps[corrupted] == list(range(max(start, FIRST_STEP), FIRST_STEP + injection.steps))
    assert changed_steps[intact] == []


def test_outliers_are_noise_black_and_white() -> None:
    images, labels = transient_faults.replace_by_outliers(
        tf.constant(IMAGES[:6]), tf.constant(LABELS[:6]), tf.constant([0, 5]), 10
    )
    assert (labels.numpy() == LABELS[:6]).all()
    assert (images[1::3].numpy() == 0).all()
    assert (images[2::3].numpy() == 255).all()
    assert images[0].numpy().std() > 60
    next_images, _ = transient_faults.replace_by_outliers(
        tf.constant(IMAGES[:6]), tf.constant(LABELS[:6]), tf.constant([0, 6]), 10
    )
    assert (next_images[0] != images[0]).numpy().any()


# Pixels.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan_image", "nan_images", "overflow"])
def test_updates_are_not_finite_in_the_faulty_steps_only(name: str) -> None:
    rows, _, model, _ = train(name)
    nonfinite_steps = np.flatnonzero(step_row.column(rows, "nonfinite") > 0)
    assert nonfinite_steps.tolist() == list(range(FIRST_STEP, FIRST_STEP + FAULTS[name].steps))
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)
    # The last column is the time spent waiting for input.
    np.testing.assert_array_equal(rows[:FIRST_STEP, :-1], train()[0][:FIRST_STEP, :-1])


def test_validation_images_are_not_corrupted() -> None:
    _, _, model, _ = train("nan_images")
    model.data_step.assign(FIRST_STEP + 1)
    assert np.isfinite(model(IMAGES[:8], training=False).numpy()).all()
    loss = model.evaluate(batches(one(), IMAGES, LABELS), steps=2, verbose=0)
    assert np.isfinite(loss).all()


def test_bright_images_raise_the_loss_but_not_before_the_first_step() -> None:
    rows, clean_rows = train("bright_images")[0], train()[0]
    faulty_steps = slice(FIRST_STEP, FIRST_STEP + 6)
    assert (rows[faulty_steps, 0] > 2 * clean_rows[faulty_steps, 0]).any()
    np.testing.assert_array_equal(rows[:FIRST_STEP, 0], clean_rows[:FIRST_STEP, 0])


# The learning rate.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "factor"), [("surge_x30", 30), ("surge_x100", 100)])
def test_the_learning_rate_is_multiplied_in_its_steps_only(name: str, factor: float) -> None:
    rates, clean_rates = (step_row.column(train(each)[0], "learning_rate") for each in (name, ""))
    expected = clean_rates.copy()
    expected[FIRST_STEP : FIRST_STEP + FAULTS[name].steps] *= factor
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_a_guards_scaling_and_the_faults_factor_multiply() -> None:
    model = compiled(one(), guarded=True)
    injection, record = create_injection("surge_x30"), RecordRun()
    model.scale_learning_rate(0.25)
    training = batches(one(), IMAGES, LABELS)
    model.fit(training, steps_per_epoch=60, epochs=1, verbose=0, callbacks=[*injection.callbacks, record])
    rates, clean_rates = (step_row.column(rows, "learning_rate") for rows in (np.concatenate(record.rows), train()[0]))
    faulty_steps = slice(FIRST_STEP, FIRST_STEP + 20)
    np.testing.assert_allclose(rates[:FIRST_STEP], 0.25 * clean_rates[:FIRST_STEP], rtol=1e-6)
    np.testing.assert_allclose(rates[faulty_steps], 30 * 0.25 * clean_rates[faulty_steps], rtol=1e-6)


# Weights.


@pytest.mark.parametrize("name", ["larger_logits", "flipped_bits"])
def test_weights_are_corrupted_once_before_a_call(name: str) -> None:
    injection = create_injection(name)
    _, faulty, _, _ = train(name)
    _, clean, _, _ = train()
    corrupted_step = 35  # the first call of 5 steps that begins at 33 or later
    assert injection.callbacks[0].corrupted_step == -1
    for step in range(0, corrupted_step, 5):
        assert all((a == b).all() for a, b in zip(faulty.weights[step], clean.weights[step], strict=True))
    # RecordRun comes after the injection's callback, and before the call.
    differences = [(a != b) for a, b in zip(faulty.weights[corrupted_step], clean.weights[corrupted_step], strict=True)]
    if name == "larger_logits":
        assert [difference.any() for difference in differences].count(True) == 1
        kernel = next(number for number, difference in enumerate(differences) if difference.any())
        np.testing.assert_array_equal(
            faulty.weights[corrupted_step][kernel], -100 * clean.weights[corrupted_step][kernel]
        )
    else:
        assert all(
            difference.sum() == max(1, difference.size // 1000) for difference in differences if difference.ndim > 1
        )
        assert not any(difference.any() for difference in differences if difference.ndim == 1)


# The guard.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan_images", "larger_logits"])
def test_a_guard_rolls_back_once_and_the_fault_does_not_return(name: str) -> None:
    rows, _, model, incidents = train(name, guarded=True, steps=200)
    rollbacks = [(step, kind) for step, kind, _, action in incidents if action.startswith("rolled back")]
    assert len(rollbacks) == 1
    assert FIRST_STEP <= rollbacks[0][0] < FIRST_STEP + 20
    assert np.isfinite(rows[-50:, 0]).all()
    assert np.median(rows[-20:, 0]) < np.median(rows[:10, 0])
    assert model.trained_steps == 200 < model.step
