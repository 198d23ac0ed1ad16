"""The newest part of a run: what is kept, what is forgotten, what is told once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evenkeel.models.stability import telemetry_window as module
from evenkeel.models.stability.telemetry_window import TelemetryWindow
from evenkeel.models.telemetry import step_row


def rows(losses: np.ndarray, **others: float) -> np.ndarray:
    usual = {"accuracy": 0.5, "gradient_norm": 1.0, "learning_rate": 0.1, "loss_scale": 1.0, "nonfinite": 0.0}
    of = {**usual, "input_wait": 0.0, **others}
    return np.stack([losses if name == "loss" else np.full(len(losses), of[name]) for name in step_row.COLUMNS], axis=1)


def falling(steps: int = 200) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=steps)
    return np.log(10) * (0.1 + 0.9 * np.exp(-np.arange(steps) / 50)) * np.exp(0.05 * noise)


def filled(losses: np.ndarray, per_call: int = 20) -> TelemetryWindow:
    history = TelemetryWindow(None)
    for first in range(0, len(losses), per_call):
        block = losses[first : first + per_call]
        history.append(first, rows(block), np.zeros((len(block), 0)))
    return history


def test_calls_make_up_one_trace() -> None:
    losses = falling()
    trace = filled(losses).trace()
    np.testing.assert_array_equal(trace.steps, np.arange(200))
    np.testing.assert_allclose(trace.loss, losses)
    assert set(trace.learning_rate) == {0.1}
    assert len(trace.due) == 0


def test_only_the_newest_steps_are_kept() -> None:
    trace = filled(falling(module.CAPACITY_STEPS + 100)).trace()
    np.testing.assert_array_equal(trace.steps, np.arange(100, module.CAPACITY_STEPS + 100))


def test_an_alarm_is_told_once() -> None:
    losses = falling()
    losses[150:160] *= 10
    history, told = TelemetryWindow(None), []
    for first in range(0, 200, 20):
        history.append(first, rows(losses[first : first + 20]), np.zeros((20, 0)))
        told.append([(alarm.kind, alarm.step) for alarm in history.new_alarms()])
    assert [each for each in told if each] == [[("loss_spike", 152)]]
    assert told[7] == [("loss_spike", 152)], "in the call in which it happens"


def test_what_a_rollback_undid_is_forgotten() -> None:
    losses = falling()
    losses[150:] *= 10
    history = filled(losses)
    assert history.new_alarms()
    history.discard_from(step=140)
    assert history.trace().steps[-1] == 139
    history.reset_reported()
    history.append(200, rows(falling(220)[200:]), np.zeros((20, 0)))
    assert history.new_alarms() == [], "the sound steps after it are compared with the sound ones before"
    history.append(220, rows(np.full(20, 10.0)), np.zeros((20, 0)))
    assert {alarm.kind for alarm in history.new_alarms()} == {"loss_spike", "collapse", "divergence"}


def test_what_is_usual_is_known_after_a_window() -> None:
    assert TelemetryWindow(None).column_median("gradient_norm") == float("inf")
    assert filled(falling(60)).column_median("gradient_norm") == float("inf")
    history = filled(falling(80))
    assert history.column_median("gradient_norm") == 1.0
    history.append(80, rows(np.ones(20), gradient_norm=np.nan), np.zeros((20, 0)))
    assert history.column_median("gradient_norm") == 1.0
    assert history.column_median("loss") == pytest.approx(np.median(np.concatenate([falling(80), np.ones(20)])))


def test_validations_are_compared_with_the_training_before_them() -> None:
    """However long ago that was."""
    losses = np.concatenate([np.linspace(2, 0.5, 600), np.linspace(0.5, 0.2, 400)])
    history, told = TelemetryWindow(None), []
    for epoch, loss in enumerate((1.5, 1.0, 0.9, 1.1, 1.2)):
        first = 200 * epoch
        history.append(first, rows(losses[first : first + 200]), np.zeros((200, 0)))
        history.append_validation(first + 200, loss)
        told += [(alarm.kind, alarm.step) for alarm in history.new_alarms()]
    assert told == [("overfitting", 1000)]


def test_a_history_goes_on_from_its_state() -> None:
    """As one that was not interrupted; an empty one too, as a rollback to the first step leaves it."""
    losses = falling()
    losses[150:160] *= 10
    straight, begun = TelemetryWindow(None), filled(losses[:120])
    begun.append_validation(120, 1.0)
    resumed = TelemetryWindow(None)
    resumed.restore(json.loads(json.dumps(begun.state())))
    for history in (straight, resumed):
        for first in range(0 if history is straight else 120, 200, 20):
            history.append(first, rows(losses[first : first + 20]), np.zeros((20, 0)))
            if first == 100:
                history.append_validation(120, 1.0)
    assert resumed.state() == straight.state()
    assert [alarm.kind for alarm in resumed.new_alarms()] == ["loss_spike"]
    assert resumed.new_alarms() == []
    again = TelemetryWindow(None)
    again.restore(json.loads(json.dumps(resumed.state())))
    assert again.new_alarms() == [], "told before"
    begun.discard_from(0)
    empty = TelemetryWindow(None)
    empty.restore(json.loads(json.dumps(begun.state())))
    empty.append(0, rows(losses[:20]), np.zeros((20, 0)))
    np.testing.assert_allclose(empty.trace().loss, losses[:20])
