"""The newest steps of a run's telemetry, as detectors read them during training.

window = TelemetryWindow(layer_stats, warmup=100)
window.append(first_step, rows, layers)
for alarm in window.new_alarms(): ...
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenkeel.models.stability import detectors
from evenkeel.models.stability.rolling import BASELINE_STEPS
from evenkeel.models.stability.trace import FIRST_LOSS_STEPS, Alarm, Trace, first_loss
from evenkeel.models.telemetry import step_row
from evenkeel.models.telemetry.layer_stats import LayerStats

CAPACITY_STEPS = 256  # the detectors take 5 ms for so many steps, once in each call of 20 steps


class TelemetryWindow:
    """Telemetry of the newest `CAPACITY_STEPS` steps of a run.

    Args:
      layer_stats: the names and the number of the layer statistics; None if there are none.
      warmup: steps in which the learning rate rises at the start of the run.
      chance_loss: the loss of random guessing; None if unknown.
      batch: examples in a batch; None if unknown.
      steps_per_epoch: steps in an epoch; None if unknown.
    """

    def __init__(
        self,
        layer_stats: LayerStats | None,
        warmup: int = 0,
        chance_loss: float | None = None,
        batch: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        self._layer_stats, self._warmup, self._chance_loss = layer_stats, warmup, chance_loss
        self._batch, self._steps_per_epoch = batch, steps_per_epoch
        self._steps = np.zeros(0, np.int64)
        self._rows = np.zeros((0, len(step_row.COLUMNS)))
        self._layers = np.zeros((0, layer_stats.size if layer_stats else 0))
        self._validations: list[tuple[int, float, float]] = []  # step, validation loss, training loss
        self._reported: dict[str, int] = {}  # step of the newest alarm of each kind
        self._first_loss: float | None = None

    def state(self) -> dict[str, Any]:
        """The window as JSON values, for `restore`."""
        arrays = {"steps": self._steps, "rows": self._rows, "layers": self._layers}
        lists = {name: array.tolist() for name, array in arrays.items()}
        return {**lists, "validated": self._validations, "told": self._reported, "began": self._first_loss}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the `state` of an earlier window; drops layer statistics if their number has changed."""
        self._steps = np.array(state["steps"], np.int64)
        rows = np.array(state["rows"])
        if len(rows) and rows.shape[1] < len(step_row.COLUMNS):  # of version 0.2.0, which did not store the penalty
            rows = np.insert(rows, step_row.COLUMNS.index("penalty"), 0.0, axis=1)
        self._rows = rows.reshape(len(self._steps), len(step_row.COLUMNS))
        saved_size, size = len(state["layers"][0]) if state["layers"] else -1, self._layers.shape[1]
        self._layers = np.array(state["layers"]) if saved_size == size else np.full((len(self._steps), size), np.nan)
        self._validations = [(int(step), loss, training) for step, loss, training in state["validated"]]
        self._reported, self._first_loss = dict(state["told"]), state["began"]

    def append(self, first_step: int, rows: np.ndarray, layers: np.ndarray) -> None:
        """Adds the steps from `first_step` on: `rows` [n, len(step_row.COLUMNS)], `layers` [n, layer_stats.size]."""
        steps = np.arange(first_step, first_step + len(rows))
        self._steps = np.concatenate([self._steps, steps])[-CAPACITY_STEPS:]
        self._rows = np.concatenate([self._rows, rows])[-CAPACITY_STEPS:]
        self._layers = np.concatenate([self._layers, layers])[-CAPACITY_STEPS:]
        if self._first_loss is None and self._steps[0] == 0 and len(self._steps) >= FIRST_LOSS_STEPS:
            self._first_loss = first_loss(step_row.column(self._rows, "loss"))

    def append_validation(self, step: int, loss: float) -> None:
        """Adds the validation `loss` after `step`, beside the median training loss of the newest 64 steps."""
        training = step_row.column(self._rows, "loss")[-BASELINE_STEPS:]
        self._validations.append((step, loss, float(np.median(training))))

    def discard_from(self, step: int) -> None:
        """Drops the steps from `step` on, which a rollback has undone: later steps must not be compared with them."""
        kept = self._steps < step
        self._steps, self._rows, self._layers = self._steps[kept], self._rows[kept], self._layers[kept]
        self._validations = [validation for validation in self._validations if validation[0] <= step]

    def column_median(self, name: str) -> float:
        """Median of the finite values of a telemetry column; infinite while there are fewer than 64."""
        values = step_row.column(self._rows, name)
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) >= BASELINE_STEPS else float("inf")

    def trace(self) -> Trace:
        column = lambda name: step_row.column(self._rows, name)  # noqa: E731
        due = np.isfinite(self._layers).any(axis=1)
        validations = np.array(self._validations).reshape(-1, 3)
        return Trace(
            steps=self._steps,
            loss=column("loss"),
            gradient_norm=column("gradient_norm"),
            learning_rate=column("learning_rate"),
            loss_scale=column("loss_scale"),
            nonfinite=column("nonfinite"),
            warmup=self._warmup,
            due=self._steps[due],
            layers=self._layer_stats.unpack(self._layers[due]) if self._layer_stats and due.any() else {},
            validated=validations[:, 0].astype(np.int64),
            validation_loss=validations[:, 1],
            training_loss=validations[:, 2],
            began=self._first_loss,
            guess=self._chance_loss,
            batch=self._batch,
            steps_per_epoch=self._steps_per_epoch,
            accuracy=column("accuracy"),
        )

    def new_alarms(self) -> list[Alarm]:
        """Returns new alarms, in the order of steps; each kind at most once in `CAPACITY_STEPS` steps."""
        new = []
        for alarm in detectors.alarms(self.trace()):
            reported_step = self._reported.get(alarm.kind)
            if reported_step is None or alarm.step >= reported_step + CAPACITY_STEPS:
                self._reported[alarm.kind] = alarm.step
                new.append(alarm)
        return new

    def reset_reported(self) -> None:
        """Makes `new_alarms` return every kind of alarm again, for use after a rollback."""
        self._reported = {}
