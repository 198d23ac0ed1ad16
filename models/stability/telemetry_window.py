"""The newest part of a run's telemetry, as `detectors` want it.

history = History(probe, warmup=100)
history.add(first_step, rows, layers)
for alarm in history.new_alarms(): ...
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenkeel.models.stability import detectors
from evenkeel.models.stability.detectors import Alarm, Trace
from evenkeel.models.telemetry import step_row
from evenkeel.models.telemetry.layer_stats import Probe

KEPT = 256  # steps: reading them takes 5 ms once a call, which 20 steps share


class History:
    """What the steps of a run left behind, the newest `KEPT` of them; `warmup` is in steps, `guess` as in `Trace`."""

    def __init__(self, probe: Probe | None, warmup: int = 0, guess: float | None = None) -> None:
        self._probe, self._warmup, self._guess = probe, warmup, guess
        self._steps = np.zeros(0, np.int64)
        self._rows = np.zeros((0, len(step_row.ROW)))
        self._layers = np.zeros((0, probe.size if probe else 0))
        self._validated: list[tuple[int, float, float]] = []  # step, loss, training loss
        self._told: dict[str, int] = {}
        self._began: float | None = None

    def state(self) -> dict[str, Any]:
        """All that `resume` needs to go on from here."""
        arrays = {"steps": self._steps, "rows": self._rows, "layers": self._layers}
        lists = {name: array.tolist() for name, array in arrays.items()}
        return {**lists, "validated": self._validated, "told": self._told, "began": self._began}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from another one's `state`; what that saw of other layers is left."""
        self._steps = np.array(state["steps"], np.int64)
        self._rows = np.array(state["rows"]).reshape(len(self._steps), len(step_row.ROW))
        of_each = len(state["layers"][0]) if state["layers"] else -1
        same = of_each == self._layers.shape[1]
        self._layers = np.array(state["layers"]) if same else np.full((len(self._steps), self._layers.shape[1]), np.nan)
        self._validated = [(int(step), loss, training) for step, loss, training in state["validated"]]
        self._told, self._began = dict(state["told"]), state["began"]

    def add(self, first_step: int, rows: np.ndarray, layers: np.ndarray) -> None:
        """`rows` [n, len(telemetry.ROW)] and `layers` [n, probe.size] of the steps from `first_step` on."""
        steps = np.arange(first_step, first_step + len(rows))
        self._steps = np.concatenate([self._steps, steps])[-KEPT:]
        self._rows = np.concatenate([self._rows, rows])[-KEPT:]
        self._layers = np.concatenate([self._layers, layers])[-KEPT:]
        if self._began is None and self._steps[0] == 0 and len(self._steps) >= detectors.FIRST:
            self._began = detectors.first_loss(step_row.column(self._rows, "loss"))

    def add_validation(self, step: int, loss: float) -> None:
        training = step_row.column(self._rows, "loss")[-detectors.WINDOW :]
        self._validated.append((step, loss, float(np.median(training))))

    def forget(self, since: int) -> None:
        """Steps from `since` on, which a rollback has undone, are nothing to compare later ones with."""
        kept = self._steps < since
        self._steps, self._rows, self._layers = self._steps[kept], self._rows[kept], self._layers[kept]
        self._validated = [each for each in self._validated if each[0] <= since]

    def usual(self, name: str) -> float:
        """The median of a column of `telemetry.ROW`, where it is finite; infinite before there are `WINDOW` steps."""
        values = step_row.column(self._rows, name)
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) >= detectors.WINDOW else float("inf")

    def trace(self) -> Trace:
        column = lambda name: step_row.column(self._rows, name)  # noqa: E731
        due = np.isfinite(self._layers).any(axis=1)
        validated = np.array(self._validated).reshape(-1, 3)
        return Trace(
            steps=self._steps,
            loss=column("loss"),
            gradient_norm=column("gradient_norm"),
            learning_rate=column("learning_rate"),
            loss_scale=column("loss_scale"),
            nonfinite=column("nonfinite"),
            warmup=self._warmup,
            due=self._steps[due],
            layers=self._probe.read(self._layers[due]) if self._probe and due.any() else {},
            validated=validated[:, 0].astype(np.int64),
            validation_loss=validated[:, 1],
            training_loss=validated[:, 2],
            began=self._began,
            guess=self._guess,
        )

    def new_alarms(self) -> list[Alarm]:
        """Alarms that were not given before, in the order of steps: of one kind, once in `KEPT` steps."""
        found = []
        for alarm in detectors.alarms(self.trace()):
            told = self._told.get(alarm.kind)
            if told is None or alarm.step >= told + KEPT:
                self._told[alarm.kind] = alarm.step
                found.append(alarm)
        return found

    def tell_again(self) -> None:
        """After a rollback, every kind of alarm is news."""
        self._told = {}
