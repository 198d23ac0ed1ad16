"""A Keras callback that watches the training of a StableModel, and rolls it back when it goes wrong.

    model.compile(optimizer, loss, StepOptions(layer_stats_every=20, guarded=True))
    model.fit(batches, callbacks=[StabilityGuard(act=True)], ...)

Every alarm of the detectors becomes an incident. With `act`, the guard also responds if the loss spikes, diverges or is
not finite, each time more strongly:
1. The training step itself skips an update that is not finite, and clips a gradient of 10 times the median norm.
2. Rollback; training continues with batches that it has not seen.
3. Rollback, a quarter of the learning rate, and a new warm-up.
4. Training stops with advice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras as keras

from evenkeel.models.errors import TrainingFailed
from evenkeel.models.stability.telemetry_window import TelemetryWindow
from evenkeel.models.stability.trace import Alarm
from evenkeel.models.telemetry import step_row
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.models.training.snapshots import Snapshots
from evenkeel.models.training.step_options import OUTLIER_NORM_FACTOR

ROLLBACK_ALARMS = ("nonfinite", "loss_spike", "divergence", "collapse", "statistics_jump")  # a rollback undoes these
SNAPSHOT_EVERY_STEPS = 20  # steps between snapshots; a copy of 26 MB takes 4 ms
ALARM_LAG_STEPS = 10  # steps before an alarm in which its cause may already have been active
ROLLBACKS_BEFORE_CUT = 2  # rollbacks within `BUDGET_WINDOW_STEPS` before the learning rate is cut
MAX_ROLLBACKS = 5  # rollbacks within `BUDGET_WINDOW_STEPS`; then training stops
BUDGET_WINDOW_STEPS = 1000  # steps after which a rollback no longer counts
RELAPSE_STEPS = 40  # an alarm this soon after a rollback means that the snapshot was already damaged
MAX_RELAPSE_ROLLBACK_STEPS = 200  # steps that a rollback after a relapse may lose
LEARNING_RATE_CUT = 0.25
REWARMUP_STEPS = 50  # steps in which a cut learning rate rises again


class StabilityGuard(keras.callbacks.Callback):
    """Records an incident for every alarm; with `act`, also rolls back after those in `ROLLBACK_ALARMS`.

        model.compile(optimizer, loss, evenkeel.StepOptions(guarded=True, layer_stats_every=20))
        model.fit(batches, callbacks=[evenkeel.StabilityGuard(act=True)])

    Without incidents, a run is bit for bit equal to the same run without the guard.

    Args:
      act: roll back and cut the learning rate; the model must be compiled with `guarded=True`.
      incidents: where incidents are recorded.
      warmup: steps in which the learning rate rises at the start of the run.
      state: `state()` of an earlier guard, from a checkpoint. It has no snapshots, so no rollback can go back to a step
        before the checkpoint.
      batch: examples in a batch; by default, batches count as large enough for detectors that wait for examples.

    Raises (from `fit`):
      TrainingFailed: more than `MAX_ROLLBACKS` rollbacks would be needed.
    """

    def __init__(
        self,
        act: bool,
        incidents: Incidents | None = None,
        warmup: int = 0,
        state: dict[str, Any] | None = None,
        batch: int | None = None,
    ) -> None:
        super().__init__()
        self._act, self.incidents, self._warmup, self._restored_state = act, incidents or Incidents(), warmup, state
        self._batch = batch
        self._rollback_steps: list[int] = []  # steps at which a rollback was made
        self._last_rollback: tuple[int, int] | None = None  # (step of the rollback, restored step)
        self._rewarmup_start: int | None = None
        self._median_norm = float("inf")

    def on_train_begin(self, logs: Any = None) -> None:
        self._window = TelemetryWindow(
            self.model.layer_stats, self._warmup, self.model.chance_loss, self._batch, self.params.get("steps")
        )
        self._snapshots = Snapshots(self.model)
        if state := self._restored_state:
            self._window.restore(state["history"])
            self._rollback_steps, self._median_norm = state["answers"], state["usual"]
            self._rewarmup_start = state["rewarming_since"]
        if self._act:
            self.model.gradient_norm_median.assign(self._median_norm)
            if state:
                self._scale_learning_rate(self.model.step)
            elif float(self.model.lr_scale_target.numpy()) < 1:
                self._begin_rewarmup(self.model.step)
            self._snapshots.take()

    def state(self) -> dict[str, Any]:
        return {
            "history": self._window.state(),
            "answers": self._rollback_steps,
            "rewarming_since": self._rewarmup_start,
            "usual": self._median_norm,
        }

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        rows, step = self.model.rows, self.model.step
        self._record_clipped_gradients(rows, step - len(rows))
        self._window.append(step - len(rows), rows, self.model.layer_rows)
        alarms = self._window.new_alarms()
        acute = next((alarm for alarm in alarms if alarm.kind in ROLLBACK_ALARMS), None) if self._act else None
        for alarm in alarms:
            if alarm is not acute:
                self._record(alarm, "none")
        if acute:
            self._roll_back(acute)
        elif self._act:
            self._continue_from(step)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs and "val_loss" in logs:
            self._window.append_validation(self.model.step, logs["val_loss"])

    def _continue_from(self, step: int) -> None:
        """After a call without an acute alarm, raises a cut learning rate, updates the median norm, takes snapshots."""
        if self._rewarmup_start is not None and self._scale_learning_rate(step) == 1:
            self._rewarmup_start = None
        self._median_norm = self._window.column_median("gradient_norm")
        # A numpy number, because TensorFlow keeps a tensor for every Python number.
        self.model.gradient_norm_median.assign(np.float32(self._median_norm))
        if step >= self._snapshots.steps[-1] + SNAPSHOT_EVERY_STEPS:
            self._snapshots.take()

    def _begin_rewarmup(self, step: int) -> None:
        self._rewarmup_start = step
        self._scale_learning_rate(step)

    def _scale_learning_rate(self, step: int) -> float:
        """Sets the learning-rate scale for `step`; returns it divided by the scale after the cut, at most 1."""
        share = 1.0
        if self._rewarmup_start is not None:
            share = min(1.0, max(1, step - self._rewarmup_start) / REWARMUP_STEPS)
        self.model.scale_learning_rate(share * float(self.model.lr_scale_target.numpy()))
        return share

    def _record_clipped_gradients(self, rows: np.ndarray, first_step: int) -> None:
        norms = step_row.column(rows, "gradient_norm")
        for index in np.flatnonzero(np.isfinite(norms) & (norms > OUTLIER_NORM_FACTOR * self._median_norm)):
            evidence = {"gradient_norm": float(norms[index]), "usual": self._median_norm}
            self._record(Alarm("outlying_gradient", first_step + int(index), evidence), "clipped to the median norm")

    def _roll_back(self, alarm: Alarm) -> None:
        step = self.model.step
        self._rollback_steps = [earlier for earlier in self._rollback_steps if step - earlier < BUDGET_WINDOW_STEPS] + [
            step
        ]
        if len(self._rollback_steps) > MAX_ROLLBACKS:
            self._record(alarm, "stopped")
            raise TrainingFailed(
                f"training stopped: {alarm.kind} at step {alarm.step}, after {MAX_ROLLBACKS} rollbacks within"
                f" {BUDGET_WINDOW_STEPS} steps: lower --optimizer.learning_rate, lengthen --optimizer.warmup_epochs, or"
                " check the data (evenkeel prepare lists outliers)."
            )
        restored_step = self._snapshots.restore(max_step=self._last_sound_step(alarm))
        self._last_rollback = step, restored_step
        action = f"rolled back to step {restored_step}"
        if len(self._rollback_steps) > ROLLBACKS_BEFORE_CUT:
            self.model.lr_scale_target.assign(LEARNING_RATE_CUT * self.model.lr_scale_target)
            self._begin_rewarmup(step)
            scale = self.model.lr_scale_target.numpy()
            action += f", learning rate times {scale:g} after {REWARMUP_STEPS} steps of warm-up"
        self._window.discard_from(restored_step)
        self._window.reset_reported()
        self._record(alarm, action)

    def _last_sound_step(self, alarm: Alarm) -> int:
        """The newest step that may be restored; after a relapse, a step before the last restored snapshot."""
        sound = int(alarm.evidence.get("since", alarm.step)) - ALARM_LAG_STEPS
        if self._last_rollback and alarm.step < self._last_rollback[0] + RELAPSE_STEPS:
            oldest, damaged = self.model.step - MAX_RELAPSE_ROLLBACK_STEPS, self._last_rollback[1]
            older = [step for step in self._snapshots.steps if oldest <= step < damaged]
            sound = min(sound, older[-1] if older else damaged)
        return max(self._snapshots.steps[0], sound)

    def _record(self, alarm: Alarm, action: str) -> None:
        self.incidents.record(alarm.step, alarm.kind, alarm.evidence, action)
