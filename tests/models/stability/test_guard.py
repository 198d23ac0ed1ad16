"""A guarded run: unchanged while it is sound, rolled back after a fault, stopped if rollbacks do not help."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.errors import TrainingFailed
from evenkeel.models.stability import guard as module
from evenkeel.models.stability.guard import ALARM_LAG_STEPS, RELAPSE_STEPS, StabilityGuard
from evenkeel.models.stability.trace import Alarm
from evenkeel.models.telemetry import step_row
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.models.training.snapshots import state_variables
from tests.factories import IMAGES, LABELS, batches, compiled, normed, one, two, weights

SOUND = OptimizerConfig(learning_rate=0.02, schedule="constant")
STEPS = 200


class FaultInjector(keras.callbacks.Callback):
    """Calls `inject(model)` once, before step `at`."""

    def __init__(self, at: int, inject: Any) -> None:
        super().__init__()
        self._at, self._inject, self.injected = at, inject, False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self.injected and self.model.step >= self._at:
            self._inject(self.model)
            self.injected = True


class LossRecorder(keras.callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.extend(self.model.rows[:, 0])


@functools.cache
def compiled_once(act: bool) -> tuple[Any, list[tf.Variable], list[np.ndarray]]:
    """A model for one device, all variables that training changes, and their first values."""
    model = compiled(one(), normed, SOUND, layer_stats_every=5, guarded=act)
    own = (model.data_step, model.lost_steps, model.steps_to_make_up, model.lr_scale, model.lr_scale_target)
    variables = [*model.variables, *state_variables(model), *own, model.gradient_norm_median]
    return model, variables, [np.array(variable.numpy()) for variable in variables]


def guarded_model(act: bool = True) -> Any:
    """A model as if it had just been compiled; shared by the tests, so that it is compiled once."""
    model, variables, values = compiled_once(act)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return model


def train_guarded(
    devices: Any = None,
    act: bool = True,
    fault: FaultInjector | None = None,
    config: OptimizerConfig = SOUND,
    steps: int = STEPS,
    **options: Any,
) -> tuple[Any, StabilityGuard, list[tuple[int, str, dict, str]], np.ndarray]:
    """(model trained under a guard, the guard, its incidents, losses)."""
    if devices is None and config is SOUND and not options:
        devices, model = one(), guarded_model(act)
    else:
        devices = devices or one()
        model = compiled(devices, normed, config, layer_stats_every=5, guarded=act, **options)
    incident_log: list[tuple[int, str, dict, str]] = []
    incidents = Incidents()
    incidents.listeners.append(lambda *incident: incident_log.append(incident))
    guard, losses = StabilityGuard(act, incidents), LossRecorder()
    callbacks = [each for each in (fault, losses, guard) if each]
    model.fit(batches(devices, IMAGES, LABELS), steps_per_epoch=steps, epochs=1, verbose=0, callbacks=callbacks)
    return model, guard, incident_log, np.array(losses.losses)


def corrupt_weights(model: Any) -> None:
    kernel = next(v for v in model.trainable_variables if "kernel" in v.name)
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape) * 20)
    last = model.trainable_variables[-1]
    last.assign(np.full(last.shape, 1.0) * np.linspace(-20, 20, last.shape[-1]))


@pytest.mark.slow
def test_a_sound_run_is_unchanged() -> None:
    unguarded = compiled(one(), normed, SOUND)
    unguarded.fit(batches(one(), IMAGES, LABELS), steps_per_epoch=STEPS, epochs=1, verbose=0)
    for act in (False, True, True):  # the last one on a model that was trained before
        model, _, incident_log, _ = train_guarded(act=act)
        assert incident_log == []
        for watched, unwatched in zip(weights(model), weights(unguarded), strict=True):
            np.testing.assert_array_equal(watched, unwatched)


@pytest.mark.slow
def test_corrupted_weights_are_rolled_back() -> None:
    _, _, incident_log, losses = train_guarded(fault=FaultInjector(120, corrupt_weights))
    rollbacks = [each for each in incident_log if each[3].startswith("rolled back")]
    assert len(rollbacks) == 1
    step, kind, evidence, action = rollbacks[0]
    assert kind in ("loss_spike", "statistics_jump"), "the kernel of a normalized layer shows in both"
    assert 120 <= step < 130
    assert evidence["times"] > 1.5
    assert int(action.split()[-1]) in range(100, 120)
    _, _, _, alone = train_guarded(fault=FaultInjector(120, corrupt_weights), act=False)
    assert losses[-20:].mean() < 1.2 * losses[90:110].mean()
    assert losses[-20:].mean() < 0.5 * alone[-20:].mean()


def corrupt_statistics(model: Any) -> None:
    """As after a batch of absurdly bright images."""
    for variable in model.non_trainable_variables:
        if "moving_variance" in variable.name:
            variable.assign(1e4 * variable)


def moving_variances(model: Any) -> list[np.ndarray]:
    return [np.array(v.numpy()) for v in model.non_trainable_variables if "moving_variance" in v.name]


@pytest.mark.slow
def test_corrupted_statistics_are_rolled_back() -> None:
    """The training loss does not show them: training normalizes with its own batch."""
    model, _, incident_log, losses = train_guarded(fault=FaultInjector(120, corrupt_statistics))
    rollbacks = [(kind, action) for _, kind, _, action in incident_log if action.startswith("rolled back")]
    assert len(rollbacks) == 1
    assert rollbacks[0][0] == "statistics_jump"
    assert int(rollbacks[0][1].split()[-1]) in range(80, 120)
    assert losses[120:130].mean() < 1.5 * losses[100:120].mean(), "no other alarm can have found it"
    mine = moving_variances(model)
    sound, _, _, _ = train_guarded()
    assert mine
    for variance, expected in zip(mine, moving_variances(sound), strict=True):
        np.testing.assert_allclose(variance, expected, rtol=1)


def test_a_damaged_snapshot_is_restored_only_once() -> None:
    """An alarm soon after a rollback means a damaged snapshot: the next rollback goes farther back."""
    model = guarded_model()
    guard = StabilityGuard(True)
    dataset = batches(one(), IMAGES, LABELS)
    model.fit(dataset, steps_per_epoch=160, epochs=1, verbose=0, callbacks=[guard])
    incident_log: list[str] = []
    guard.incidents.listeners.append(lambda step, kind, evidence, action: incident_log.append(action))
    snapshot_steps = guard._snapshots.steps
    guard._roll_back(Alarm("loss_spike", 155, {"times": 3.0}))
    guard._roll_back(Alarm("loss_spike", 165, {"times": 3.0}))
    guard._roll_back(Alarm("loss_spike", 165 + RELAPSE_STEPS, {"times": 3.0}))
    restored = [int(action.split(",")[0].split()[-1]) for action in incident_log]
    assert restored[0] == max(step for step in snapshot_steps if step <= 155 - ALARM_LAG_STEPS)
    assert restored[1] == max(step for step in snapshot_steps if step < restored[0])
    assert restored[2] == restored[1], "a new fault, and no snapshot was taken since"


def test_a_watching_guard_only_records() -> None:
    _, _, incident_log, _ = train_guarded(fault=FaultInjector(120, corrupt_weights), act=False)
    assert "loss_spike" in {kind for _, kind, _, _ in incident_log}
    assert {action for _, _, _, action in incident_log} == {"none"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"policy": "mixed_float16"}, {"xla": True}])
def test_replicas_are_equal_after_a_rollback(options: dict[str, Any]) -> None:
    devices = two()
    model, _, incident_log, _ = train_guarded(devices, fault=FaultInjector(120, corrupt_weights), steps=140, **options)
    assert any(action.startswith("rolled back") for *_, action in incident_log)
    for variable in model.trainable_variables:
        first, second = (copy.numpy() for copy in devices.experimental_local_results(variable))
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_a_single_outlier_gradient_is_clipped() -> None:
    """A batch of labels that contradict everything learnt has a gradient far longer than the median."""
    images, labels = IMAGES.copy(), LABELS.copy()
    config = OptimizerConfig(learning_rate=0.05, schedule="constant")
    model = compiled(one(), normed, config, layer_stats_every=5, guarded=True)
    incident_log: list[tuple] = []
    incidents = Incidents()
    incidents.listeners.append(lambda *incident: incident_log.append(incident))
    model.fit(
        batches(one(), images, labels),
        steps_per_epoch=STEPS,
        epochs=1,
        verbose=0,
        callbacks=[StabilityGuard(True, incidents)],
    )
    usual = float(model.gradient_norm_median.numpy())
    assert np.isfinite(usual)
    before = weights(model)
    model.fit(batches(one(), images, (labels + 5) % 10), steps_per_epoch=1, epochs=1, verbose=0)
    norm = step_row.column(model.rows, "gradient_norm")[0]
    assert norm > 10 * usual, "the batch must be an outlier"
    moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(before, weights(model), strict=True)))
    assert moved < 0.5 * 0.05 * norm


def test_a_hopeless_run_is_stopped_with_advice() -> None:
    hopeless = OptimizerConfig(learning_rate=1e6, schedule="constant", momentum=0.9)
    with pytest.raises(TrainingFailed, match=r"after 5 rollbacks within 1000 steps: lower --optimizer.learning_rate"):
        train_guarded(config=hopeless)


def test_the_learning_rate_is_cut_after_two_rollbacks_and_warms_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REWARMUP_STEPS", 20)
    fault_steps = [75, 120, 180, 10**6]

    class RepeatedFault(FaultInjector):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.model.step >= fault_steps[0]:
                fault_steps.pop(0)
                self._inject(self.model)

    model, _, incident_log, _ = train_guarded(fault=RepeatedFault(0, corrupt_weights))
    actions = [action for *_, action in incident_log if action.startswith("rolled back")]
    assert len(actions) == 3
    assert "learning rate" not in actions[1]
    assert actions[2].endswith("learning rate times 0.25 after 20 steps of warm-up")
    assert model.lr_scale.numpy() == 0.25
    assert step_row.column(model.rows, "learning_rate")[-1] == pytest.approx(0.25 * SOUND.learning_rate)


def test_a_run_resumed_during_the_rewarmup_reaches_the_cut_rate() -> None:
    model = guarded_model()
    model.lr_scale_target.assign(0.25)
    dataset = batches(one(), IMAGES, LABELS)
    model.fit(dataset, steps_per_epoch=100, epochs=1, verbose=0, callbacks=[StabilityGuard(True)])
    assert step_row.column(model.rows, "learning_rate")[-1] == pytest.approx(0.25 * SOUND.learning_rate)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)])
@pytest.mark.parametrize("family", [keras.optimizers, keras.optimizers.legacy])
def test_the_rate_of_any_optimizer_can_be_scaled(family: Any, rate: Any) -> None:
    model = compiled(one(), wrapped=lambda _: family.SGD(rate), guarded=True, per_call=1)
    dataset = batches(one(), IMAGES, LABELS)
    model.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0)
    whole = step_row.column(model.rows, "learning_rate")[-1]
    model.scale_learning_rate(0.25)
    model.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0)
    decayed = 1.0 if isinstance(rate, float) else 0.5**0.1
    assert step_row.column(model.rows, "learning_rate")[-1] == pytest.approx(0.25 * decayed * whole, rel=1e-5)
    model.scale_learning_rate(1.0)
    model.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0)
    assert step_row.column(model.rows, "learning_rate")[-1] == pytest.approx(decayed**2 * whole, rel=1e-5)


@pytest.mark.slow
def test_a_rollback_sets_the_schedule_back_and_the_run_completes_it() -> None:
    class Rates(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.rates: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.rates.extend(step_row.column(self.model.rows, "learning_rate"))

    config = OptimizerConfig(learning_rate=0.02, schedule="cosine")
    model = compiled(one(), normed, config, layer_stats_every=5, guarded=True)
    rates, fault = Rates(), FaultInjector(80, corrupt_weights)
    incident_log: list[str] = []
    incidents = Incidents()
    incidents.listeners.append(lambda step, kind, evidence, action: incident_log.append(action))
    guard = StabilityGuard(True, incidents)
    data = batches(one(), IMAGES, LABELS)
    model.fit(data, steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=[fault, rates, guard])
    restored = [int(action.split()[-1]) for action in incident_log if action.startswith("rolled back")]
    assert len(restored) == 1
    lost = model.step - STEPS
    assert lost == len(rates.rates) - STEPS > 0, "the lost steps are made up for"
    assert model.trained_steps == STEPS
    whole = model.optimizer.inner_optimizer._learning_rate.schedule
    expected = [*range(restored[0] + lost), *range(restored[0], STEPS)]
    np.testing.assert_allclose(rates.rates, [float(whole(step)) for step in expected], rtol=1e-5)
