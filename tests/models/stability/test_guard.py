"""A guarded run: untouched while it is sound, brought back after a shock, stopped where nothing helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.errors import TrainingFailed
from evenkeel.models.stability import guard as module
from evenkeel.models.stability.guard import ALARM_LAG_STEPS, RELAPSE_STEPS, StabilityGuard
from evenkeel.models.stability.trace import Alarm
from evenkeel.models.telemetry import step_row
from evenkeel.models.telemetry.incidents import Incidents
from tests.models.networks.test_factory import normed
from tests.models.training.test_stable_model import (
    IMAGES,
    LABELS,
    batches,
    compiled,
    one,
    two,
    weights,
)

SOUND = OptimizerConfig(learning_rate=0.02, schedule="constant")
STEPS = 200


class Shock(keras.callbacks.Callback):
    """Does something to the model once, before step `at`."""

    def __init__(self, at: int, strike: Any) -> None:
        super().__init__()
        self._at, self._strike, self.struck = at, strike, False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self.struck and self.model.step >= self._at:
            self._strike(self.model)
            self.struck = True


class Losses(keras.callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.extend(self.model.rows[:, 0])


def guarded(
    devices: Any = None, act: bool = True, shock: Shock | None = None, config: OptimizerConfig = SOUND, **options: Any
) -> tuple[Any, StabilityGuard, list[tuple[int, str, dict, str]], np.ndarray]:
    """A model trained under guard: (model, guard, its incidents, losses)."""
    devices = devices or one()
    model = compiled(devices, options.pop("network", normed), config, layer_stats_every=5, guarded=act, **options)
    told: list[tuple[int, str, dict, str]] = []
    incidents = Incidents()
    incidents.listeners.append(lambda *incident: told.append(incident))
    guard, losses = StabilityGuard(act, incidents), Losses()
    callbacks = [each for each in (shock, losses, guard) if each]
    model.fit(batches(devices, IMAGES, LABELS), steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=callbacks)
    return model, guard, told, np.array(losses.losses)


def corrupt(model: Any) -> None:
    kernel = next(v for v in model.trainable_variables if "kernel" in v.name)
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape) * 20)
    last = model.trainable_variables[-1]
    last.assign(np.full(last.shape, 1.0) * np.linspace(-20, 20, last.shape[-1]))


@pytest.mark.parametrize("act", [False, True])
def test_a_sound_run_is_left_alone(act: bool) -> None:
    model, _, told, _ = guarded(act=act)
    assert told == []
    blind = compiled(one(), normed, SOUND)
    blind.fit(batches(one(), IMAGES, LABELS), steps_per_epoch=STEPS, epochs=1, verbose=0)
    for seen, unseen in zip(weights(model), weights(blind), strict=True):
        np.testing.assert_array_equal(seen, unseen)


def test_corrupted_weights_are_rolled_back() -> None:
    _, _, told, losses = guarded(shock=Shock(120, corrupt))
    acted = [each for each in told if each[3].startswith("rolled back")]
    assert len(acted) == 1
    step, kind, evidence, action = acted[0]
    assert kind in ("loss_spike", "statistics_jump"), "of a normalized layer, the kernel shows in both"
    assert 120 <= step < 130
    assert evidence["times"] > 1.5
    assert int(action.split()[-1]) in range(100, 120)
    _, _, _, alone = guarded(shock=Shock(120, corrupt), act=False)
    assert losses[-20:].mean() < 1.2 * losses[90:110].mean()
    assert losses[-20:].mean() < 0.5 * alone[-20:].mean()


def spoil_statistics(model: Any) -> None:
    """As a batch of absurdly bright images leaves them."""
    for variable in model.non_trainable_variables:
        if "moving_variance" in variable.name:
            variable.assign(1e4 * variable)


def test_spoilt_statistics_are_rolled_back() -> None:
    """Training does not show them: it normalizes with its own batch."""
    model, _, told, losses = guarded(shock=Shock(120, spoil_statistics))
    acted = [(kind, action) for _, kind, _, action in told if action.startswith("rolled back")]
    assert len(acted) == 1
    assert acted[0][0] == "statistics_jump"
    assert int(acted[0][1].split()[-1]) in range(80, 120)
    assert losses[120:130].mean() < 1.5 * losses[100:120].mean(), "else another alarm would have seen it"
    sound, _, _, _ = guarded()
    for mine, theirs in zip(model.non_trainable_variables, sound.non_trainable_variables, strict=True):
        if "moving_variance" in mine.name:
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1)


def test_a_copy_that_was_spoilt_already_is_not_gone_back_to_twice() -> None:
    """Trouble soon after a rollback is the old trouble: the next one goes farther back."""
    model = compiled(one(), normed, SOUND, layer_stats_every=5, guarded=True)
    guard = StabilityGuard(True)
    fed = batches(one(), IMAGES, LABELS)
    model.fit(fed, steps_per_epoch=160, epochs=1, verbose=0, callbacks=[guard])
    told: list[str] = []
    guard.incidents.listeners.append(lambda step, kind, evidence, action: told.append(action))
    held = guard._snapshots.steps
    guard._roll_back(Alarm("loss_spike", 155, {"times": 3.0}))
    guard._roll_back(Alarm("loss_spike", 165, {"times": 3.0}))
    guard._roll_back(Alarm("loss_spike", 165 + RELAPSE_STEPS, {"times": 3.0}))
    back = [int(action.split(",")[0].split()[-1]) for action in told]
    assert back[0] == max(step for step in held if step <= 155 - ALARM_LAG_STEPS)
    assert back[1] == max(step for step in held if step < back[0])
    assert back[2] == back[1], "that is trouble of its own, and no copy has been taken since"


def test_watching_only_tells() -> None:
    _, _, told, _ = guarded(shock=Shock(120, corrupt), act=False)
    assert "loss_spike" in {kind for _, kind, _, _ in told}
    assert {action for _, _, _, action in told} == {"none"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"policy": "mixed_float16"}, {"xla": True}])
def test_replicas_are_equal_after_a_rollback(options: dict[str, Any]) -> None:
    devices = two()
    model, _, told, _ = guarded(devices, shock=Shock(120, corrupt), **options)
    assert any(action.startswith("rolled back") for *_, action in told)
    for variable in model.trainable_variables:
        first, second = (copy.numpy() for copy in devices.experimental_local_results(variable))
        np.testing.assert_array_equal(first, second)


def test_a_single_outlying_gradient_is_cut_down() -> None:
    """A batch of labels that contradict all that was learned has a gradient many times as long as usual."""
    images, labels = IMAGES.copy(), LABELS.copy()
    config = OptimizerConfig(learning_rate=0.05, schedule="constant")
    model = compiled(one(), normed, config, layer_stats_every=5, guarded=True)
    told: list[tuple] = []
    incidents = Incidents()
    incidents.listeners.append(lambda *incident: told.append(incident))
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
    norm = model.rows[0, 2]
    assert norm > 10 * usual, "else this shows nothing"
    moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(before, weights(model), strict=True)))
    assert moved < 0.5 * 0.05 * norm


def test_what_cannot_be_helped_is_stopped_with_advice() -> None:
    hopeless = OptimizerConfig(learning_rate=1e6, schedule="constant", momentum=0.9)
    with pytest.raises(TrainingFailed, match=r"after 5 rollbacks within 1000 steps: lower --optimizer.learning_rate"):
        guarded(config=hopeless)


def test_the_learning_rate_is_cut_after_two_rollbacks_and_warms_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REWARMUP_STEPS", 20)
    strikes = [75, 120, 180, 10**6]

    class Again(Shock):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.model.step >= strikes[0]:
                strikes.pop(0)
                self._strike(self.model)

    model, _, told, _ = guarded(shock=Again(0, corrupt))
    actions = [action for *_, action in told if action.startswith("rolled back")]
    assert len(actions) == 3
    assert "learning rate" not in actions[1]
    assert actions[2].endswith("learning rate times 0.25 after 20 steps of warm-up")
    assert model.lr_scale.numpy() == 0.25
    assert model.rows[-1, 3] == pytest.approx(0.25 * SOUND.learning_rate)


def test_a_run_resumed_while_it_warms_up_comes_to_the_cut_rate() -> None:
    model = compiled(one(), normed, SOUND, layer_stats_every=5, guarded=True)
    model.lr_scale_target.assign(0.25)
    fed = batches(one(), IMAGES, LABELS)
    model.fit(fed, steps_per_epoch=100, epochs=1, verbose=0, callbacks=[StabilityGuard(True)])
    assert model.rows[-1, 3] == pytest.approx(0.25 * SOUND.learning_rate)


@pytest.mark.parametrize("rate", [0.1, keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)])
@pytest.mark.parametrize("family", [keras.optimizers, keras.optimizers.legacy])
def test_any_optimizers_rate_can_be_scaled(family: Any, rate: Any) -> None:
    model = compiled(one(), wrapped=lambda _: family.SGD(rate), guarded=True, per_call=1)
    fed = batches(one(), IMAGES, LABELS)
    model.fit(fed, steps_per_epoch=1, epochs=1, verbose=0)
    whole = model.rows[-1, 3]
    model.scale_learning_rate(0.25)
    model.fit(fed, steps_per_epoch=1, epochs=1, verbose=0)
    decayed = 1.0 if isinstance(rate, float) else 0.5**0.1
    assert model.rows[-1, 3] == pytest.approx(0.25 * decayed * whole, rel=1e-5)
    model.scale_learning_rate(1.0)
    model.fit(fed, steps_per_epoch=1, epochs=1, verbose=0)
    assert model.rows[-1, 3] == pytest.approx(decayed**2 * whole, rel=1e-5)


def test_after_a_rollback_the_schedule_goes_back_as_well_and_comes_to_its_end() -> None:
    class Rates(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.rates: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.rates.extend(step_row.column(self.model.rows, "learning_rate"))

    config = OptimizerConfig(learning_rate=0.02, schedule="cosine")
    model = compiled(one(), normed, config, layer_stats_every=5, guarded=True)
    rates, shock = Rates(), Shock(80, corrupt)
    told: list[str] = []
    incidents = Incidents()
    incidents.listeners.append(lambda step, kind, evidence, action: told.append(action))
    guard = StabilityGuard(True, incidents)
    data = batches(one(), IMAGES, LABELS)
    model.fit(data, steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=[shock, rates, guard])
    back = [int(action.split()[-1]) for action in told if action.startswith("rolled back")]
    assert len(back) == 1
    lost = model.step - STEPS
    assert lost == len(rates.rates) - STEPS > 0, "it made up for what was lost"
    assert model.trained_steps == STEPS
    whole = model.optimizer.inner_optimizer._learning_rate.schedule
    expected = [*range(back[0] + lost), *range(back[0], STEPS)]
    np.testing.assert_allclose(rates.rates, [float(whole(step)) for step in expected], rtol=1e-5)
