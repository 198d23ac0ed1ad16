"""The telemetry window: its capacity, rollbacks, alarms that are reported once, and its state."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evenkeel.models.stability import telemetry_window as module
from evenkeel.models.stability.telemetry_window import TelemetryWindow
from evenkeel.models.telemetry import step_row


def telemetry_rows(losses: np.ndarray, **columns: float) -> np.ndarray:
    defaults = {
        "accuracy": 0.5,
        "penalty": 0.0,
        "gradient_norm": 1.0,
        "learning_rate": 0.1,
        "loss_scale": 1.0,
        "nonfinite": 0.0,
    }
    values = {**defaults, "input_wait": 0.0, **columns}
    return np.stack(
        [losses if name == "loss" else np.full(len(losses), values[name]) for name in step_row.COLUMNS], axis=1
    )


def falling_losses(steps: int = 200) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=steps)
    return np.log(10) * (0.1 + 0.9 * np.exp(-np.arange(steps) / 50)) * np.exp(0.05 * noise)


def fill_window(losses: np.ndarray, per_call: int = 20) -> TelemetryWindow:
    window = TelemetryWindow(None)
    for first in range(0, len(losses), per_call):
        block = losses[first : first + per_call]
        window.append(first, telemetry_rows(block), np.zeros((len(block), 0)))
    return window


def test_calls_add_up_to_one_trace() -> None:
    losses = falling_losses()
    trace = fill_window(losses).trace()
    np.testing.assert_array_equal(trace.steps, np.arange(200))
    np.testing.assert_allclose(trace.loss, losses)
    assert set(trace.learning_rate) == {0.1}
    assert len(trace.due) == 0


def test_only_the_newest_steps_are_kept() -> None:
    trace = fill_window(falling_losses(module.CAPACITY_STEPS + 100)).trace()
    np.testing.assert_array_equal(trace.steps, np.arange(100, module.CAPACITY_STEPS + 100))


def test_an_alarm_is_reported_once() -> None:
    losses = falling_losses()
    losses[150:160] *= 10
    window, reported = TelemetryWindow(None), []
    for first in range(0, 200, 20):
        window.append(first, telemetry_rows(losses[first : first + 20]), np.zeros((20, 0)))
        reported.append([(alarm.kind, alarm.step) for alarm in window.new_alarms()])
    assert [alarms for alarms in reported if alarms] == [[("loss_spike", 152)]]
    assert reported[7] == [("loss_spike", 152)], "in the call of the spike"


def test_steps_that_a_rollback_undid_are_discarded() -> None:
    losses = falling_losses()
    losses[150:] *= 10
    window = fill_window(losses)
    assert window.new_alarms()
    window.discard_from(step=140)
    assert window.trace().steps[-1] == 139
    window.reset_reported()
    window.append(200, telemetry_rows(falling_losses(220)[200:]), np.zeros((20, 0)))
    assert window.new_alarms() == [], "sound steps after the rollback are compared with sound steps before it"
    window.append(220, telemetry_rows(np.full(20, 10.0)), np.zeros((20, 0)))
    assert {alarm.kind for alarm in window.new_alarms()} == {"loss_spike", "collapse", "divergence"}


def test_column_medians_are_known_after_64_steps() -> None:
    assert TelemetryWindow(None).column_median("gradient_norm") == float("inf")
    assert fill_window(falling_losses(60)).column_median("gradient_norm") == float("inf")
    window = fill_window(falling_losses(80))
    assert window.column_median("gradient_norm") == 1.0
    window.append(80, telemetry_rows(np.ones(20), gradient_norm=np.nan), np.zeros((20, 0)))
    assert window.column_median("gradient_norm") == 1.0
    assert window.column_median("loss") == pytest.approx(np.median(np.concatenate([falling_losses(80), np.ones(20)])))


def test_each_validation_is_compared_with_the_training_loss_before_it() -> None:
    """Even if those steps have left the window."""
    losses = np.concatenate([np.linspace(2, 0.5, 600), np.linspace(0.5, 0.2, 400)])
    window, reported = TelemetryWindow(None), []
    for epoch, loss in enumerate((1.5, 1.0, 0.9, 1.1, 1.2)):
        first = 200 * epoch
        window.append(first, telemetry_rows(losses[first : first + 200]), np.zeros((200, 0)))
        window.append_validation(first + 200, loss)
        reported += [(alarm.kind, alarm.step) for alarm in window.new_alarms()]
    assert reported == [("overfitting", 1000)]


def test_a_window_of_a_version_without_the_penalty_is_restored() -> None:
    losses = falling_losses()
    state = json.loads(json.dumps(fill_window(losses).state()))
    column = step_row.COLUMNS.index("penalty")
    resumed = TelemetryWindow(None)
    resumed.restore({**state, "rows": [row[:column] + row[column + 1 :] for row in state["rows"]]})
    assert resumed.state() == state


def test_a_window_continues_from_its_state() -> None:
    """As one that was not interrupted; so does an empty window, as after a rollback to the first step."""
    losses = falling_losses()
    losses[150:160] *= 10
    uninterrupted, interrupted = TelemetryWindow(None), fill_window(losses[:120])
    interrupted.append_validation(120, 1.0)
    resumed = TelemetryWindow(None)
    resumed.restore(json.loads(json.dumps(interrupted.state())))
    for window in (uninterrupted, resumed):
        for first in range(0 if window is uninterrupted else 120, 200, 20):
            window.append(first, telemetry_rows(losses[first : first + 20]), np.zeros((20, 0)))
            if first == 100:
                window.append_validation(120, 1.0)
    assert resumed.state() == uninterrupted.state()
    assert [alarm.kind for alarm in resumed.new_alarms()] == ["loss_spike"]
    assert resumed.new_alarms() == []
    again = TelemetryWindow(None)
    again.restore(json.loads(json.dumps(resumed.state())))
    assert again.new_alarms() == [], "reported before"
    interrupted.discard_from(0)
    empty = TelemetryWindow(None)
    empty.restore(json.loads(json.dumps(interrupted.state())))
    empty.append(0, telemetry_rows(losses[:20]), np.zeros((20, 0)))
    np.testing.assert_allclose(empty.trace().loss, losses[:20])
